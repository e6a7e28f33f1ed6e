"""Extended XYZ: ASE reads back exactly what the tables hold."""

import ase.io
import numpy as np
import pyarrow as pa
import pytest
import synthetic_campaign

from hullforge.release import build, extxyz
from hullforge.store import tables

AWKWARD = [1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e22, -123456789.12345679, 1e-7]


@pytest.fixture
def frames():
    rows = []
    for i, candidate in enumerate(c for c in synthetic_campaign.CANDIDATES if c[3] is not None):
        row = synthetic_campaign.calculation_row(candidate, "PBE", "t1-00000000")
        row["calculation_id"] = f"k1-{i}"
        rows += synthetic_campaign.frame_rows(row)
    return tables.from_rows("frames", rows)


def test_ase_reads_back_every_number(frames, tmp_path):
    extxyz.write(tmp_path / "a.extxyz", frames, extxyz.FRAME_INFO)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    assert len(read) == frames.num_rows
    for atoms, row in zip(read, frames.to_pylist(), strict=True):
        assert atoms.numbers.tolist() == row["numbers"]
        assert atoms.cell.array.ravel().tolist() == row["cell"]
        assert atoms.positions.tolist() == row["positions"]
        assert atoms.pbc.tolist() == row["pbc"]
        assert atoms.calc.results["energy"] == row["energy"]
        assert atoms.info["frame_id"] == row["frame_id"]
        assert atoms.info["calculation_id"] == row["calculation_id"]
        assert atoms.info["step"] == row["step"]
        assert atoms.calc.results.get("free_energy") == row["free_energy"]
        assert atoms.info.get("electronic_converged") == row["electronic_converged"]
        if row["forces"] is None:
            assert "forces" not in atoms.calc.results
            assert "stress" not in atoms.calc.results
            assert atoms.calc.results["magmoms"].tolist() == row["magmoms"]
        else:
            assert atoms.get_forces().tolist() == row["forces"]
            assert atoms.get_stress().tolist() == row["stress"]


def test_awkward_floats_and_partial_periodicity_survive(tmp_path):
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t1-00000000")
    frame = synthetic_campaign.frame_rows(row)[1] | {
        "numbers": [1] * len(AWKWARD),
        "positions": [[x, -x, 0.0] for x in AWKWARD],
        "forces": [[x, 1.0, x] for x in AWKWARD],
        "pbc": [True, False, True],
        "energy": -1e-17,
    }
    extxyz.write(tmp_path / "a.extxyz", tables.from_rows("frames", [frame]), extxyz.FRAME_INFO)
    atoms = ase.io.read(tmp_path / "a.extxyz")
    assert [repr(x) for x in atoms.positions[:, 0].tolist()] == [repr(x) for x in AWKWARD]
    assert atoms.get_forces()[:, 0].tolist() == AWKWARD
    assert atoms.get_potential_energy() == -1e-17
    assert atoms.pbc.tolist() == [True, False, True]


def test_stress_keeps_its_sign_and_order(tmp_path):
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t1-00000000")
    frame = synthetic_campaign.frame_rows(row)[1] | {"stress": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    extxyz.write(tmp_path / "a.extxyz", tables.from_rows("frames", [frame]), extxyz.FRAME_INFO)
    tensor = ase.io.read(tmp_path / "a.extxyz").get_stress(voigt=False)
    np.testing.assert_array_equal(tensor, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_final_structures_carry_their_distance_to_the_hull(tmp_path):
    settings = synthetic_campaign.campaign(tmp_path)
    rounds = synthetic_campaign.make(settings)
    calculations = tables.concat([r / "calculations.parquet" for r in rounds], "calculations")
    hull = tables.read(rounds[-1] / "hull" / "PBE.parquet", "hull")
    table = build.with_distances(calculations, hull)
    extxyz.write(tmp_path / "a.extxyz", table, extxyz.STRUCTURE_INFO)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    expected = {row["calculation_id"]: row["e_above_hull"] for row in hull.to_pylist()}
    for atoms in read:
        assert atoms.info.get("e_above_hull") == expected.get(atoms.info["calculation_id"])


def test_an_empty_table_gives_an_empty_file(tmp_path):
    extxyz.write(tmp_path / "a.extxyz", tables.empty("frames"), extxyz.FRAME_INFO)
    assert (tmp_path / "a.extxyz").read_text() == ""


def test_pieces_and_the_whole_give_the_same_bytes_in_the_order_of_the_rows(frames, tmp_path):
    """Frames with and without forces take turns here, which are made apart."""
    extxyz.write(tmp_path / "a.extxyz", frames, extxyz.FRAME_INFO)
    pieces = (frames.slice(first, 3) for first in range(0, frames.num_rows, 3))
    extxyz.write(tmp_path / "b.extxyz", pieces, extxyz.FRAME_INFO)
    assert (tmp_path / "a.extxyz").read_bytes() == (tmp_path / "b.extxyz").read_bytes()
    given = [atoms.info["frame_id"] for atoms in ase.io.read(tmp_path / "a.extxyz", index=":")]
    assert given == frames["frame_id"].to_pylist()
    assert {flag is None for flag in frames["forces"].to_pylist()} == {True, False}


def test_texts_stay_texts_and_floats_stay_floats(tmp_path):
    """The formula F is no boolean; an id of digits, or with a blank or a quote, is no number and no two words."""
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t1-00000000")
    awkward = [
        "F",
        "T",
        "0012",
        "1e5",
        "nan",
        "true",
        "two words",
        'a "quote" \\',
        "a=b",
        "Fe2O3",
        "über",
        "",
    ]
    rows = [row | {"chemical_formula_reduced": text, "energy": -5.0} for text in awkward]
    table = tables.from_rows("calculations", rows)
    table = table.append_column("e_above_hull", pa.array([0.0] * len(rows)))
    extxyz.write(tmp_path / "a.extxyz", table, extxyz.STRUCTURE_INFO)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    assert [atoms.info["chemical_formula_reduced"] for atoms in read] == table[
        "chemical_formula_reduced"
    ].to_pylist()
    assert all(type(atoms.info["chemical_formula_reduced"]) is str for atoms in read)
    assert all(isinstance(atoms.info["e_above_hull"], float) for atoms in read)
    assert all(isinstance(atoms.calc.results["energy"], float) for atoms in read)


def test_other_readers_keys_replace_those_of_ase(frames, tmp_path):
    keys = extxyz.Keys("REF_energy", None, "REF_forces", "REF_stress", None)
    extxyz.write(tmp_path / "a.extxyz", frames, extxyz.FRAME_INFO, keys)
    for atoms, row in zip(ase.io.read(tmp_path / "a.extxyz", index=":"), frames.to_pylist(), strict=True):
        assert atoms.calc is None
        assert atoms.info["REF_energy"] == row["energy"]
        assert "free_energy" not in atoms.info
        assert ("REF_forces" in atoms.arrays) == ("REF_stress" in atoms.info) == (row["forces"] is not None)
