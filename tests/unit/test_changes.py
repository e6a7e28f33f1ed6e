"""What a round changed on a hull: who entered, who left and was displaced by whom, which references changed."""

import itertools

import pyarrow as pa
import pytest

from hullforge.store import tables
from hullforge.store.structures import composition_columns
from hullforge.thermo import changes, known, place
from hullforge.thermo.corrections import Scheme
from hullforge.thermo.known import Phase

COUNTER = itertools.count()


def calculation(name: str, formula: str, energy: float, round_: int = 0) -> dict:
    numbers = known._numbers(formula, "test")
    return {
        "calculation_id": name, "structure_id": f"s-{name}", "candidate_id": f"c-{name}", "prototype_id": "p",
        "round": round_, "functional": "PBE", "theory_id": "t", "nsites": len(numbers), "volume": 10.0,
        **composition_columns(numbers), "energy_per_atom": energy, "hubbards": [],
    }  # fmt: skip


def hull(folder, round_: int, rows: list[dict], phases: list[Phase] = ()) -> object:
    schema = tables.empty("calculations").select(place.columns_of(Scheme.NONE)).schema
    placed = place.placed(pa.Table.from_pylist(rows, schema), round_, phases, "PBE")
    path = folder / f"{round_}-{next(COUNTER)}" / "PBE.parquet"
    tables.write(path, "hull", placed.hull)
    tables.write(path.with_name("PBE-references.parquet"), "elemental_references", placed.references)
    if phases:
        tables.write(place.known_beside(path), "known_phases", placed.known)
    return path


def change(after, before=None, round_: int = 1) -> dict[str, dict]:
    changes.run(after, before, round_, changes.beside(after))
    rows = tables.read_rows(changes.beside(after), "hull_changes")
    return {row["calculation_id"]: row for row in rows}


FIRST = [
    calculation("na", "Na", -1.0),
    calculation("cl", "Cl", -2.0),
    calculation("nacl", "NaCl", -2.5),  # formation energy -1.0
    calculation("na3cl", "Na3Cl", -1.80),  # -0.55: on the hull
]


def test_in_round_0_everything_on_the_hull_has_entered_it(tmp_path):
    rows = change(hull(tmp_path, 0, [*FIRST, calculation("high", "NaCl", -2.0)]), round_=0)
    assert set(rows) == {"na", "cl", "nacl", "na3cl"}
    assert {row["change"] for row in rows.values()} == {"entered"}
    assert {row["e_above_hull_before"] for row in rows.values()} == {None}
    assert {name for name, row in rows.items() if row["is_reference"]} == {"na", "cl"}


def test_a_new_compound_displaces_what_now_decomposes_into_it(tmp_path):
    new = calculation("nacl2", "Na2Cl", -2.2, 1)  # -0.867, far below the line from Na3Cl to NaCl
    rows = change(hull(tmp_path, 1, [*FIRST, new]), hull(tmp_path, 0, FIRST))
    assert set(rows) == {"nacl2", "na3cl"}
    entered, left = rows["nacl2"], rows["na3cl"]
    # Before: the line from Na3Cl (x 0.25, -0.55) to NaCl (x 0.5, -1.0) at x = 1/3 is -0.70.
    assert entered["change"] == "entered"
    assert entered["round"] == 1
    assert entered["e_above_hull_before"] == pytest.approx(-2.2 + 4 / 3 + 0.70)
    assert entered["displaced_by"] == []
    # After: at x = 0.25 the line from Na (0) to Na2Cl (1/3, -0.8667) is -0.65.
    assert left["change"] == "left"
    assert left["e_above_hull_before"] == 0.0
    assert left["e_above_hull"] == pytest.approx(0.10)
    assert left["displaced_by"] == ["nacl2"]
    assert {d["calculation_id"]: d["fraction"] for d in left["decomposition"]} == {
        "nacl2": pytest.approx(0.75),
        "na": pytest.approx(0.25),
    }


def test_a_lower_polymorph_displaces_the_one_before(tmp_path):
    rows = change(
        hull(tmp_path, 1, [*FIRST, calculation("lower", "Na2Cl2", -2.6, 1)]), hull(tmp_path, 0, FIRST)
    )
    assert rows["lower"]["e_above_hull_before"] == pytest.approx(-0.1)
    assert rows["nacl"]["e_above_hull"] == pytest.approx(0.1)
    assert rows["nacl"]["displaced_by"] == ["lower"]


def test_a_lower_element_becomes_the_reference(tmp_path):
    """Na falls by 0.05: Na3Cl has to compete with a better Na, and still lies 0.0125 below NaCl and that."""
    new = calculation("na-new", "Na", -1.05, 1)
    rows = change(hull(tmp_path, 1, [*FIRST, new]), hull(tmp_path, 0, FIRST))
    assert set(rows) == {"na", "na-new"}
    assert rows["na-new"]["is_reference"]
    assert rows["na-new"]["change"] == "entered"
    assert rows["na-new"]["e_above_hull_before"] == pytest.approx(-0.05)
    assert rows["na"]["is_reference"]
    assert rows["na"]["change"] == "left"
    assert rows["na"]["e_above_hull"] == pytest.approx(0.05)
    assert rows["na"]["displaced_by"] == ["na-new"]


def test_distances_to_the_hull_before_use_its_own_references(tmp_path):
    new = [calculation("na-new", "Na", -1.1, 1), calculation("new", "NaCl", -2.7, 1)]
    rows = change(hull(tmp_path, 1, [*FIRST, *new]), hull(tmp_path, 0, FIRST))
    assert rows["new"]["e_above_hull_before"] == pytest.approx(-0.2)
    assert rows["new"]["formation_energy_per_atom"] == pytest.approx(-2.7 + (1.1 + 2.0) / 2)


def test_an_element_without_reference_before_gives_no_distance(tmp_path):
    before = hull(tmp_path, 0, [row for row in FIRST if row["calculation_id"] != "cl"])
    rows = change(hull(tmp_path, 1, FIRST), before)
    assert {name: row["e_above_hull_before"] for name, row in rows.items()} == {
        "cl": None,
        "nacl": None,
        "na3cl": None,
    }


def test_nothing_changed_is_an_empty_table(tmp_path):
    above = [*FIRST, calculation("high", "NaCl", -2.0, 1)]
    assert change(hull(tmp_path, 1, above), hull(tmp_path, 0, FIRST)) == {}


def test_a_hull_without_rows_before_and_after(tmp_path):
    assert change(hull(tmp_path, 1, []), hull(tmp_path, 0, [])) == {}
    assert set(change(hull(tmp_path, 1, FIRST), hull(tmp_path, 0, []))) == {"na", "cl", "nacl", "na3cl"}


def test_known_phases_leave_the_hull_too(tmp_path):
    phases = [Phase("known:old", ("Cl", "Na"), "ClNa", -2.55)]
    before = hull(tmp_path, 0, FIRST[:2], phases)
    rows = change(hull(tmp_path, 1, [*FIRST[:2], calculation("new", "NaCl", -2.6, 1)], phases), before)
    assert set(rows) == {"known:old", "new"}
    assert rows["known:old"]["change"] == "left"
    assert rows["known:old"]["prototype_id"] is None
    assert rows["known:old"]["e_above_hull"] == pytest.approx(0.05)
    assert rows["known:old"]["displaced_by"] == ["new"]
    assert rows["new"]["e_above_hull_before"] == pytest.approx(-0.05)


def test_an_entry_that_is_gone_has_left_without_a_distance(tmp_path):
    rows = change(hull(tmp_path, 1, FIRST[:3]), hull(tmp_path, 0, FIRST))
    assert set(rows) == {"na3cl"}
    assert rows["na3cl"]["e_above_hull"] is None


def test_the_same_hulls_give_the_same_bytes(tmp_path):
    new = calculation("nacl2", "Na2Cl", -2.2, 1)
    files = []
    for rows in ([*FIRST, new], [new, *reversed(FIRST)]):
        after, before = hull(tmp_path, 1, rows), hull(tmp_path, 0, FIRST)
        change(after, before)
        files.append(changes.beside(after).read_bytes())
    assert files[0] == files[1]
