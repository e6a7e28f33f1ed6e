"""The benchmark of a release's memory: it releases the frames that it says, and a size that isn't long isn't judged."""

from benchmarks import release_memory, runner


def test_a_small_one_publishes_its_frames_and_is_not_judged(monkeypatch):
    assert "release_memory" in runner.BENCHMARKS
    monkeypatch.setattr(release_memory, "SIZES", (100, 400))
    outcome = release_memory.run(long=False)
    assert outcome.holds is None
    assert 0.02 < outcome.figures["peak_GiB_at_400_frames"] < 1


def test_a_million_frames_above_the_bound_do_not_hold(monkeypatch):
    taken = {100_000: 0.5, 1_000_000: 2.1}
    monkeypatch.setattr(
        release_memory, "measure", lambda number: release_memory.Taken(number, taken[number], 1.0)
    )
    assert release_memory.run(long=True).holds is False
    taken[1_000_000] = 1.9
    assert release_memory.run(long=True).holds is True
