"""Batches become a round's tables: nothing is lost, nothing is there twice, and their order does not matter."""

import pytest
from fake_engine import FakeEngine, settings, start_rows, write_starts

from hullforge.config import Limits
from hullforge.dft import batch, calculation, collect
from hullforge.errors import TableError
from hullforge.store import tables


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Two PBE batches (one with a failure), a SCAN batch, and an empty one."""
    monkeypatch.setattr(calculation.base, "get", lambda _: FakeEngine())
    rows = [*start_rows(4), *start_rows(5, scale=0.2)[4:]]
    parts = {"a": ("PBE", rows[:2]), "b": ("PBE", rows[2:]), "c": ("SCAN", rows[:1]), "empty": ("PBE", [])}
    for name, (functional, part) in parts.items():
        starts = write_starts(tmp_path / f"{name}.parquet", part)
        batch.run(settings(functional=functional), starts, 0, tmp_path / "work", tmp_path / name, 1, Limits())
    return [tmp_path / name for name in parts]


def collected(batches, out, functionals=("PBE", "SCAN")):
    frames = {functional: out / "frames" / f"{functional}.parquet" for functional in functionals}
    names = ("calculations", "failures", "costs")
    collect.run(batches, frames=frames, **{name: out / f"{name}.parquet" for name in names})
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.parquet")}


def test_every_row_of_every_batch_arrives(batches, tmp_path):
    out = tmp_path / "round"
    collected(batches, out)
    assert tables.read(out / "calculations.parquet", "calculations").num_rows == 5
    assert tables.read(out / "failures.parquet", "failures").num_rows == 1
    assert tables.read(out / "costs.parquet", "costs").num_rows == 6
    assert tables.read(out / "frames" / "PBE.parquet", "frames").num_rows == 8
    assert set(tables.read(out / "frames" / "SCAN.parquet", "frames").column("functional").to_pylist()) == {
        "SCAN"
    }


def test_the_order_of_batches_does_not_matter(batches, tmp_path):
    assert collected(batches, tmp_path / "one") == collected(batches[::-1], tmp_path / "other")


def test_a_round_without_calculations_has_empty_tables(batches, tmp_path):
    collected(batches[-1:], tmp_path / "round")
    assert tables.read(tmp_path / "round" / "frames" / "SCAN.parquet", "frames").num_rows == 0


def test_a_calculation_in_two_batches_is_refused(batches, tmp_path):
    with pytest.raises(TableError, match="in two batches"):
        collected([*batches, batches[0]], tmp_path / "round")


def test_a_functional_that_the_campaign_lacks_is_refused(batches, tmp_path):
    with pytest.raises(TableError, match="SCAN"):
        collected(batches, tmp_path / "round", functionals=("PBE",))


def test_a_missing_batch_is_refused(batches, tmp_path):
    with pytest.raises(TableError, match="no such file"):
        collected([*batches, tmp_path / "nowhere"], tmp_path / "round")
