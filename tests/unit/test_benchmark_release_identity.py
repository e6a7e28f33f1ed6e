"""The benchmark of identical releases: it runs, disturbs what it says, and can fail."""

import pyarrow.parquet as pq
import pytest

from benchmarks import release_identity, runner
from hullforge.release import build, layout, logical


def test_it_runs_and_does_not_judge_one_pyarrow_against_itself(tmp_path):
    outcome = release_identity.run(long=False, n_elements=5, packages=[tmp_path])
    figures = outcome.figures
    assert figures["sha256sums_identical"] == 1
    assert figures["logical_hashes_equal"] == figures["tables"]
    assert figures["other_pyarrows"] == 0
    assert outcome.holds is None
    assert "release_identity" in runner.BENCHMARKS


def test_the_input_is_disturbed_and_a_lost_row_is_noticed(tmp_path):
    settings, rounds = release_identity.campaign(tmp_path / "here", 5)
    build.run(settings, rounds, tmp_path / "one")
    before = [pq.read_table(path / "calculations.parquet") for path in rounds]
    assert release_identity.disturb(settings.folder, rounds) > 0
    after = [pq.read_table(path / "calculations.parquet") for path in rounds]
    assert before[0].num_rows != after[0].num_rows
    assert sum(t.num_rows for t in before) == sum(t.num_rows for t in after)
    assert after[1]["calculation_id"].to_pylist() != sorted(after[1]["calculation_id"].to_pylist())
    frames = rounds[1] / "frames" / "PBE.parquet"
    pq.write_table(pq.read_table(frames).slice(1), frames)
    build.run(settings, rounds, tmp_path / "other")
    assert (tmp_path / "one" / layout.SUMS).read_text() != (tmp_path / "other" / layout.SUMS).read_text()


def test_a_hash_that_sees_nothing_is_refused(tmp_path, monkeypatch):
    settings, rounds = release_identity.campaign(tmp_path / "here", 3)
    build.run(settings, rounds, tmp_path / "one")
    monkeypatch.setattr(logical, "of_file", lambda _: "0" * 64)
    with pytest.raises(AssertionError, match="last bit"):
        release_identity.check_sensitivity(
            tmp_path / "one" / layout.table("frames", "PBE"), tmp_path / "t.parquet"
        )
