"""The benchmark of writing and reading frames: it runs, its frames are what it says, and its check can fail."""

import ase.io
import numpy as np
import pyarrow.compute as pc
import pytest

from benchmarks import frames, parquet_against_extxyz, runner
from hullforge.release import extxyz
from hullforge.store import tables


def test_frames_are_sorted_alike_each_time_and_of_the_size_that_is_told():
    table = frames.made(2000)
    assert tables.conform("frames", table).equals(table)
    assert table.equals(frames.made(2000))
    assert frames.made(10, start=10)["frame_id"][0].as_py() == frames.made(20)["frame_id"][10].as_py()
    assert abs(np.mean(pc.list_value_length(table["numbers"]).to_numpy()) - 11.5) < 1
    table.validate(full=True)


def test_it_runs_and_its_figures_are_rates(capsys):
    outcome = parquet_against_extxyz.run(long=False, n=500, n_ase=50)
    assert all(value > 0 for value in outcome.figures.values())
    assert "50 read back by ASE, all numbers equal" in capsys.readouterr().out
    assert "parquet_against_extxyz" in runner.BENCHMARKS


def test_its_check_notices_a_last_bit(tmp_path):
    table = frames.made(10)
    extxyz.write(tmp_path / "a.extxyz", table, extxyz.FRAME_INFO)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    parquet_against_extxyz.check(table, read)
    read[3].positions[0, 0] = np.nextafter(read[3].positions[0, 0], 9)
    with pytest.raises(AssertionError, match="other numbers"):
        parquet_against_extxyz.check(table, read)
