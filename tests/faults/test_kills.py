"""Fifty kills of a campaign's whole process tree cost nothing but what was running; and the counting sees what is lost."""

from collections import Counter

import pytest

from benchmarks import kills, runner


@pytest.mark.slow
@pytest.mark.campaign
def test_fifty_kills_lose_nothing_duplicate_nothing_and_repeat_only_what_ran(capsys):
    outcome = kills.run(long=False)
    assert outcome.holds, capsys.readouterr().out
    assert outcome.figures["kills"] >= 50
    assert outcome.figures["stages_hit"] >= 10
    assert outcome.figures["engine_runs"] > outcome.figures["engine_runs_undisturbed"], (
        "nothing ran at any kill"
    )
    assert outcome.figures["left_under_work"] == 0


def test_the_benchmark_is_known():
    assert "kills" in runner.BENCHMARKS


def test_a_repeat_of_what_did_not_run_at_a_kill_is_seen():
    planned = Counter({("k1", "01-relax"): 2, ("k2", "01-relax"): 1})
    found = Counter({("k1", "01-relax"): 4, ("k2", "01-relax"): 2})
    again = kills.repeats(planned, found)
    assert again == {"k1": 1, "k2": 1}
    one = [kills.Kill(frozenset({"dft"}), frozenset({"k1"}))]
    assert kills.unexplained(again, one) == 1
    assert kills.unexplained(again, [*one, kills.Kill(frozenset(), frozenset({"k2"}))]) == 0


def test_a_byte_that_changed_is_seen_and_a_clock_is_not(tmp_path):
    for name in ("round-000/calculations.parquet", "round-000/costs.parquet", "logs/x.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    before = kills.database(tmp_path)
    (tmp_path / "round-000" / "costs.parquet").write_text("b")
    assert kills.database(tmp_path) == before
    (tmp_path / "round-000" / "calculations.parquet").write_text("b")
    assert kills.database(tmp_path) != before
