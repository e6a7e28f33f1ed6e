"""Placing calculations: references, formation energies, what stays out, and the hull read back."""

import numpy as np
import pytest
import synthetic_campaign

from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.thermo import place


def row(elements, energy, prototype="p1-cscl", theory="t1-00000000", functional="PBE", **changes):
    candidate = (prototype, elements, 0, energy, energy)
    return synthetic_campaign.calculation_row(candidate, functional, theory) | changes


ROWS = [
    row(("Al",), -3.7, "p1-fcc"),
    row(("Cu",), -4.1, "p1-fcc"),
    row(("Al", "Cu"), -8.3),
    row(("Cu", "Ag"), -6.5),
]


def run(tmp_path, rows, functional="PBE", round_=0):
    tables.write(tmp_path / "calculations.parquet", "calculations", rows)
    place.run(
        functional,
        round_,
        [tmp_path / "calculations.parquet"],
        tmp_path / "hull.parquet",
        tmp_path / "r.parquet",
    )
    hull = tables.read_rows(tmp_path / "hull.parquet", "hull")
    return {r["chemical_formula_reduced"]: r for r in hull}, tables.read_rows(
        tmp_path / "r.parquet", "elemental_references"
    )


def test_formation_energies_are_against_the_lowest_elemental_calculations(tmp_path):
    hull, references = run(tmp_path, ROWS, round_=3)
    assert hull["AlCu"]["formation_energy_per_atom"] == pytest.approx((-8.3 + 3.7 + 4.1) / 2)
    assert hull["AlCu"]["e_above_hull"] == 0
    assert hull["AlCu"]["is_on_hull"]
    assert hull["AlCu"]["hull_version"] == 3
    assert hull["AlCu"]["correction_scheme"] == "none"
    assert hull["AlCu"]["decomposition"] == [{"calculation_id": ROWS[2]["calculation_id"], "fraction": 1.0}]
    assert len(hull["AlCu"]["chemical_potentials"]) == 2
    assert [(r["element"], r["energy_per_atom"]) for r in references] == [("Al", -3.7), ("Cu", -4.1)]


def test_a_missing_reference_leaves_null_and_a_status(tmp_path):
    hull, _ = run(tmp_path, ROWS)
    lonely = hull["AgCu"]
    assert lonely["hull_status"] == "missing_reference"
    assert (
        lonely["e_above_hull"] is lonely["formation_energy_per_atom"] is lonely["chemical_potentials"] is None
    )
    assert not lonely["is_on_hull"]


def test_drifted_calculations_stay_out_even_as_references(tmp_path):
    drifted = row(("Al",), -9.0, "p1-other", protocol_drift=["relax1:smearing=0.2"])
    hull, references = run(tmp_path, [*ROWS, drifted])
    assert references[0]["energy_per_atom"] == -3.7
    assert len(hull) == 4


def test_other_functionals_stay_out(tmp_path):
    scan = row(("Al",), -99.0, "p1-fcc", theory="t1-11111111", functional="SCAN")
    hull, _ = run(tmp_path, [*ROWS, scan])
    assert hull["Al"]["energy_per_atom"] == -3.7


def test_theories_never_mix(tmp_path):
    with pytest.raises(TableError, match="t1-00000000, t1-11111111"):
        run(tmp_path, [*ROWS, row(("Ni",), -5.0, "p1-fcc", theory="t1-11111111")])


def test_a_repeated_calculation_is_named(tmp_path):
    with pytest.raises(TableError, match=f"{ROWS[0]['calculation_id']}: the id is in more than one row"):
        run(tmp_path, [*ROWS, ROWS[0]])


def test_an_energy_that_is_not_a_number_is_named(tmp_path):
    with pytest.raises(TableError, match="its energy is nan"):
        run(tmp_path, [*ROWS[1:], row(("Al",), float("nan"), "p1-fcc")])


def test_an_impossible_energy_is_a_row_that_takes_no_part(tmp_path, caplog):
    """A run that ended in nonsense must neither stop the campaign nor pull down the hull."""
    nonsense = row(("Al", "Cu"), -80.0, "p1-nonsense")
    hull, _ = run(tmp_path, ROWS)
    tables.write(tmp_path / "calculations.parquet", "calculations", [*ROWS, nonsense])
    place.run(
        "PBE", 0, [tmp_path / "calculations.parquet"], tmp_path / "hull.parquet", tmp_path / "r.parquet"
    )
    rows = {r["calculation_id"]: r for r in tables.read_rows(tmp_path / "hull.parquet", "hull")}
    spoiled = rows.pop(nonsense["calculation_id"])
    assert spoiled["hull_status"] == "impossible_energy"
    assert spoiled["e_above_hull"] is spoiled["formation_energy_per_atom"] is None
    assert (spoiled["is_on_hull"], spoiled["decomposition"]) == (False, [])
    assert rows == {r["calculation_id"]: r for r in hull.values()}
    assert "-36.1 eV/atom, and no compound is below -10" in caplog.text
    assert place.load_hull(tmp_path / "hull.parquet").query([[0, 0.5, 0.5]], [0.0]) < 1


def test_of_equal_references_the_smallest_id_counts(tmp_path):
    twin = row(("Al",), -3.7, "p1-twin")
    _, references = run(tmp_path, [*ROWS, twin])
    assert references[0]["calculation_id"] == min(twin["calculation_id"], ROWS[0]["calculation_id"])


def test_nothing_computed_gives_empty_tables(tmp_path):
    assert run(tmp_path, []) == ({}, [])


def test_no_elemental_calculation_at_all_leaves_everything_unplaced(tmp_path):
    hull, references = run(tmp_path, ROWS[2:])
    assert {r["hull_status"] for r in hull.values()} == {"missing_reference"}
    assert references == []


def test_the_order_of_rows_changes_no_byte(tmp_path):
    run(tmp_path, ROWS)
    before = (tmp_path / "hull.parquet").read_bytes()
    run(tmp_path, ROWS[::-1])
    assert (tmp_path / "hull.parquet").read_bytes() == before


def test_a_hull_read_back_answers_as_the_table_says(tmp_path):
    settings = synthetic_campaign.campaign(tmp_path)
    path = synthetic_campaign.make(settings)[-1] / "hull" / "PBE.parquet"
    rows = [r for r in tables.read_rows(path, "hull") if r["hull_status"] == "ok"]
    pool = ("Cu", "Al", "Ni", "Au", "Xe")
    hull = place.load_hull(path, pool)
    assert hull.elements == pool
    found = hull.query(
        place.atomic_fractions([r["chemical_formula_reduced"] for r in rows], pool),
        [r["formation_energy_per_atom"] for r in rows],
    )
    np.testing.assert_allclose(found, [r["e_above_hull"] for r in rows], rtol=0, atol=1e-12)
    assert np.isnan(hull.query(place.atomic_fractions(["AuCu"], pool), [0.0])).all()
    assert place.load_hull(path).elements == ("Ag", "Al", "Cu", "Ni")


def test_an_empty_hull_can_be_loaded_and_asked(tmp_path):
    run(tmp_path, [])
    hull = place.load_hull(tmp_path / "hull.parquet", ("Al", "Cu"))
    assert np.isnan(hull.query([[0.5, 0.5]], [-1.0])).all()
    assert place.load_hull(tmp_path / "hull.parquet").elements == ()


def test_formulas_become_fractions():
    np.testing.assert_allclose(
        place.atomic_fractions(["Mg2Si", "Si"], ["Mg", "Si"]), [[2 / 3, 1 / 3], [0, 1]]
    )
    with pytest.raises(TableError, match="Ge is not among"):
        place.atomic_fractions(["Ge"], ["Mg", "Si"])
    for formula in ("", "mg", "Mg(OH2", "Mg2.5"):
        with pytest.raises(TableError, match=f"formula {formula!r}".replace("(", r"\(")):
            place.atomic_fractions([formula], ["Mg"])
