"""Building hulls from tables: definitions, bad rows, order of rows, and the parser of formulas."""

import numpy as np
import pyarrow as pa
import pytest

from hullforge.errors import TableError
from hullforge.thermo.build import Refusal, build, query
from hullforge.thermo.formulas import parse

GOOD = {
    "Li": -1.9, "O2": -4.9, "Li2O": -4.7, "Li4O4": -4.6, "OLi2": -4.5, "XeO3": -3.0, "Mg(OH)2": -5.0, "Fe": -8.0,
}  # fmt: skip


def table(energies, **changes):
    columns = {
        "id": [f"e{i}" for i in range(len(energies))],
        "formula": list(energies),
        "energy_per_atom": list(energies.values()),
    }
    return pa.table(columns | changes)


def refused(entries):
    """Each refused row's id and reason; the same rows are an error where nothing is refused."""
    with pytest.raises(TableError):
        build(entries)
    return [(row["id"], row["reason"]) for row in build(entries, on_bad="refuse").refused.to_pylist()]


def test_entries_are_placed_against_the_lowest_elements():
    built = build(table(GOOD))
    rows = {row["id"]: row for row in built.entries.to_pylist()}
    assert built.references.to_pylist() == [
        {"element": "Fe", "id": "e7", "energy_per_atom": -8.0},
        {"element": "Li", "id": "e0", "energy_per_atom": -1.9},
        {"element": "O", "id": "e1", "energy_per_atom": -4.9},
    ]
    formation = -4.7 + (2 * 1.9 + 4.9) / 3
    assert rows["e2"]["formation_energy_per_atom"] == pytest.approx(formation)
    assert rows["e2"]["is_on_hull"]
    assert rows["e4"]["e_above_hull"] == pytest.approx(0.2)
    assert rows["e4"]["decomposition"] == [{"id": "e2", "fraction": 1.0}]
    # Li4O4 is LiO: three quarters of its atoms go to Li2O, the rest to O2.
    assert [p["id"] for p in rows["e3"]["decomposition"]] == ["e2", "e1"]
    assert rows["e3"]["e_above_hull"] == pytest.approx(-4.6 + (1.9 + 4.9) / 2 - 0.75 * formation)
    assert rows["e3"]["chemical_potentials"] == pytest.approx([1.5 * formation, 0.0])


def test_entries_without_a_reference_stay_null_and_the_elements_are_named():
    built = build(table(GOOD))
    rows = {row["id"]: row for row in built.entries.to_pylist()}
    assert built.missing == {"H": 1, "Mg": 1, "Xe": 1}
    for name in ("e5", "e6"):
        assert rows[name]["hull_status"] == "missing_reference"
        assert rows[name]["e_above_hull"] is rows[name]["formation_energy_per_atom"] is None
        assert rows[name]["chemical_potentials"] is None
        assert rows[name]["decomposition"] == []
        assert not rows[name]["is_on_hull"]


def test_rows_are_sorted_by_id_and_lead_back_to_the_input():
    entries = table(GOOD, id=list("hgfedcba"))
    built = build(entries)
    assert built.entries["id"].to_pylist() == list("abcdefgh")
    assert entries["id"].take(pa.array(built.rows)).to_pylist() == list("abcdefgh")


def test_queries_go_below_the_hull_and_past_its_elements():
    built = build(table(GOOD))
    found = query(built, ["Li2O", "Li4O2", "LiO", "XeO", "NaCl", "Fe"], [-4.8, -4.7, -4.6, 0.0, 0.0, -7.9])
    above = built.entries["e_above_hull"][3].as_py()
    np.testing.assert_allclose(found, [-0.1, 0, above, np.nan, np.nan, 0.1], atol=1e-12)
    np.testing.assert_allclose(query(built.hull, ["Li2O"], [0.0]), [1.8], atol=1e-12)
    with pytest.raises(TableError, match=r"row 1: formula 'Li\?' is not a formula"):
        query(built, ["Li", "Li?"], [0, 0])
    with pytest.raises(TableError, match="one energy per formula"):
        query(built, ["Li"], [0, 0])


def test_energies_that_are_not_numbers_are_refused():
    assert refused(table(GOOD | {"Li4O4": float("nan"), "OLi2": None, "XeO3": float("-inf")})) == [
        ("e3", Refusal.ENERGY_NOT_FINITE),
        ("e4", Refusal.ENERGY_NOT_FINITE),
        ("e5", Refusal.ENERGY_NOT_FINITE),
    ]


@pytest.mark.parametrize(
    ("formula", "what"),
    [("Fe0.5O", "not whole"), ("", "is empty"), (None, "is empty"), ("Qq2O", "no element"), ("Fe2O0", "none of"),
     ("fe", "not a formula"), ("Mg(OH", "not a formula"), ("Li+", "not a formula"), ("()2", "not a formula"),
     ("Li1234567890", "999 999 999")],
)  # fmt: skip
def test_formulas_that_can_not_be_read_are_refused(formula, what):
    entries = table(GOOD, formula=[*list(GOOD)[:-1], formula])
    assert refused(entries) == [("e7", Refusal.BAD_FORMULA)]
    with pytest.raises(TableError, match=what):
        build(entries)


def test_a_second_theory_is_refused():
    assert refused(table(GOOD, theory_id=["t"] * 7 + ["u"])) == [("e7", Refusal.OTHER_THEORY)]


def test_of_a_repeated_id_equal_rows_count_once_and_others_not_at_all():
    twice = pa.concat_tables([table(GOOD), table(GOOD).slice(2, 1)])
    assert refused(twice) == [("e2", Refusal.REPEATED_ID)]
    assert build(twice, on_bad="refuse").entries.equals(build(table(GOOD)).entries)
    other = table(GOOD, id=["e0", "e1", "e2", "e2", *"abcd"])
    assert refused(other) == [("e2", Refusal.REPEATED_ID)] * 2


def test_an_empty_id_is_refused():
    assert refused(table(GOOD, id=["e0", "e1", "e2", "", None, *"abc"])) == [
        ("", Refusal.NO_ID),
        (None, Refusal.NO_ID),
    ]


def test_a_compounds_total_energy_is_refused():
    assert refused(table(GOOD | {"Li2O": -4.7 * 12})) == [("e2", Refusal.IMPOSSIBLE_ENERGY)]


def test_an_elements_total_energy_is_refused_before_it_becomes_a_reference():
    entries = table(GOOD | {"O2": -4.9 * 8, "O": -4.8})
    assert refused(entries) == [("e1", Refusal.IMPOSSIBLE_ENERGY)]
    assert build(entries, on_bad="refuse").references["id"].to_pylist() == ["e7", "e0", "e8"]


def test_several_total_energies_of_an_element_do_not_vouch_for_each_other():
    entries = table(GOOD | {"O2": -4.9 * 8, "O8": -4.88 * 8, "O": -4.8})
    assert refused(entries) == [("e1", Refusal.IMPOSSIBLE_ENERGY), ("e8", Refusal.IMPOSSIBLE_ENERGY)]


def test_many_compounds_find_an_element_that_is_too_low_sooner():
    oxides = {
        f"Li{i}O{j}": (-1.9 * i - 4.9 * j - 1.5 * i * j / (i + j)) / (i + j)
        for i in range(1, 5)
        for j in range(1, 5)
    }
    assert refused(table({"Li": -1.9, "O": -4.9 * 3, "O2": -4.9} | oxides)) == [
        ("e1", Refusal.IMPOSSIBLE_ENERGY)
    ]


def test_a_poor_reference_is_no_mistake():
    """Close-packed nitrogen is 5 eV/atom too high, noble gases form nothing: both happen."""
    built = build(table({"Al": -3.7, "N": -3.3, "AlN": -7.4, "Xe": 0.0, "AlXe": 0.2, "Al3Xe": -2.0}))
    assert len(built.refused) == 0
    assert built.missing == {}


@pytest.mark.parametrize("on_bad", ["stop", "refuse"])
def test_a_column_of_total_energies_is_an_error_in_any_case(on_bad):
    atoms = {"Li": 1, "O2": 2, "Li2O": 12, "Li4O4": 8, "OLi2": 24, "XeO3": 4, "Mg(OH)2": 5, "Fe": 2}
    with pytest.raises(TableError, match="total energy given where an energy per atom is meant"):
        build(table({f: GOOD[f] * n for f, n in atoms.items()}), on_bad=on_bad)


@pytest.mark.parametrize("on_bad", ["stop", "refuse"])
def test_energies_that_grow_with_the_formula_are_an_error_in_any_case(on_bad):
    small = {"Li": -1.9, "Li2": -3.8, "NaLi": -3.3, "Na2Li2": -6.6, "Na": -1.3, "Na3": -3.9}
    with pytest.raises(TableError, match=r"Li2 has -3\.8, and so on in 3 pairs"):
        build(table(small), on_bad=on_bad)


def test_columns_are_asked_for():
    with pytest.raises(TableError, match="lack the columns energy_per_atom"):
        build(table(GOOD).drop_columns("energy_per_atom"))
    with pytest.raises(TableError, match="column energy_per_atom"):
        build(table(GOOD, energy_per_atom=["much"] * len(GOOD)))
    with pytest.raises(ValueError, match="on_bad"):
        build(table(GOOD), on_bad="guess")


def test_an_empty_table_has_an_empty_hull():
    built = build(table({}, id=pa.array([], pa.string()), formula=pa.array([], pa.string())).cast(
        pa.schema([("id", pa.string()), ("formula", pa.string()), ("energy_per_atom", pa.float64())])))  # fmt: skip
    assert built.entries.num_rows == built.references.num_rows == built.refused.num_rows == 0
    assert np.isnan(query(built, ["Li"], [0.0])).all()


def test_formulas_are_read_in_any_writing():
    formulas = parse(["Mg(OH)2", "H2 Mg O2", "K4[Fe(CN)6]", "CH3CH3", "C2H6", "Li4O2", "Mg(OH)2"])
    assert formulas.problem.tolist() == [0] * 6
    read = [
        {formulas.order[e]: int(c) for e, c in zip(formulas.elements[a:b], formulas.counts[a:b], strict=True)}
        for a, b in zip(formulas.start[:-1], formulas.start[1:], strict=True)
    ]
    assert read == [
        {"H": 2, "Mg": 1, "O": 2}, {"H": 2, "Mg": 1, "O": 2}, {"C": 6, "Fe": 1, "K": 4, "N": 6},
        {"C": 1, "H": 3}, {"C": 1, "H": 3}, {"Li": 2, "O": 1},
    ]  # fmt: skip
    assert formulas.atoms.tolist() == [5, 5, 17, 8, 8, 6]
    assert formulas.code.tolist() == [0, 1, 2, 3, 4, 5, 0]
