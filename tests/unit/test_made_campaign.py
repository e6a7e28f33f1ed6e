"""The made-up campaign of the benchmarks: whole tables of the schema, one row a structure, the same bytes again."""

import numpy as np
import pytest

from benchmarks import made_campaign as made
from hullforge.store import ids, seal, tables

SHAPE = made.Shape(budget=130, batches=3, rounds=2, steps=4)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    settings = made.campaign(tmp_path_factory.mktemp("made"), SHAPE)
    rounds = [made.write_round(settings, number, SHAPE) for number in range(2)]
    made.seal_round(settings, rounds[0])
    return settings, rounds


def test_the_same_arguments_give_the_same_bytes(sealed, tmp_path):
    _settings, rounds = sealed
    again = made.write_round(made.campaign(tmp_path, SHAPE), 0, SHAPE)
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 2 + 3 + 3 * 3 * 5
    assert all((again / file).read_bytes() == (rounds[0] / file).read_bytes() for file in files)


def test_every_structure_is_one_row_and_none_comes_twice(sealed):
    _settings, rounds = sealed
    chosen = [row for here in rounds for row in tables.read_rows(here / "selection.parquet", "selection")]
    names = [row["candidate_id"] for row in chosen]
    assert len(set(names)) == len(names) == 2 * SHAPE.budget
    ended = [
        row["candidate_id"]
        for name in ("calculations", "failures")
        for row in tables.read_rows(rounds[0] / f"{name}.parquet", name)
        if row["functional"] == "PBE"
    ]
    assert sorted(ended) == sorted(names[: SHAPE.budget])


def test_a_calculation_ends_with_its_last_frame(sealed):
    _, rounds = sealed
    frames = tables.read_rows(rounds[0] / "frames" / "PBE.parquet", "frames")
    last = {row["calculation_id"]: row for row in frames}
    rows = [
        row
        for row in tables.read_rows(rounds[0] / "calculations.parquet", "calculations")
        if row["functional"] == "PBE"
    ]
    assert len(rows) == len(last)
    for row in rows:
        frame = last[row["calculation_id"]]
        assert (row["positions"], row["forces"], row["stress"]) == (
            frame["positions"],
            frame["forces"],
            frame["stress"],
        )
        assert row["energy"] == pytest.approx(frame["energy"], abs=1e-7)
        assert row["structure_id"] == ids.structure_id(row["numbers"], row["cell"], row["positions"])
        assert row["n_ionic_steps"] == frame["step"] + 1


def test_atoms_keep_apart(sealed):
    _, rounds = sealed
    for row in tables.read_rows(rounds[0] / "calculations.parquet", "calculations"):
        positions = np.array(row["positions"])
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(len(positions))
        assert distances.min() > 1.2


def test_the_hull_is_placed_and_the_round_is_whole(sealed):
    settings, rounds = sealed
    assert seal.sealed_rounds(settings.folder) == [0]
    hull = tables.read_rows(rounds[0] / "hull" / "PBE.parquet", "hull")
    assert {row["hull_status"] for row in hull} == {"ok"}
    stable = sum(row["is_on_hull"] for row in hull)
    assert len(made.SYMBOLS) < stable < len(hull)
