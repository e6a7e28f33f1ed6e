"""The worked example of docs/hulls.md: its numbers are what the code gives."""

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_changes import calculation, change, hull

from hullforge.thermo.build import build

PAGE = (Path(__file__).parents[2] / "docs" / "hulls.md").read_text()
ENTRIES = list(csv.DictReader(re.search(r"```csv\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()))
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.partition("| id | formation energy |")[2].splitlines()[2:]
    if (cells := [cell.strip() for cell in line.strip("|").split("|")]) and len(cells) == 7
}


def number(text: str) -> float | None:
    return None if text == "–" else float(text)


@pytest.fixture(scope="module")
def placed():
    table = {name: [row[name] for row in ENTRIES] for name in ("id", "formula")}
    table["energy_per_atom"] = [float(row["energy_per_atom"]) for row in ENTRIES]
    return {row["id"]: row for row in build(pa.table(table)).entries.to_pylist()}


def test_the_example_has_all_its_entries(placed):
    assert list(ROWS) == [row["id"] for row in ENTRIES] == sorted(placed)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_table_is_what_the_code_gives(name, placed):
    formation, above, on_hull, decomposition, potentials, status = ROWS[name]
    row = placed[name]
    assert row["formation_energy_per_atom"] == pytest.approx(number(formation))
    assert row["e_above_hull"] == (None if above == "–" else pytest.approx(number(above), abs=1e-9))
    assert row["is_on_hull"] == (on_hull == "yes")
    assert row["hull_status"] == status
    if status == "ok":
        shares = {phase["id"]: phase["fraction"] for phase in row["decomposition"]}
        assert shares == {
            phase: pytest.approx(float(share)) for share, phase in re.findall(r"([\d.]+) (\w)", decomposition)
        }
        hull_energy = row["formation_energy_per_atom"] - row["e_above_hull"]
        counts = re.findall(r"[A-Z][a-z]?(\d*)", next(e["formula"] for e in ENTRIES if e["id"] == name))
        fractions = np.array([int(count or 1) for count in counts], dtype=float)
        given = [float(value) for value in potentials.split(",")]
        assert fractions @ given / fractions.sum() == pytest.approx(hull_energy), "a valid plane"
        if not row["is_on_hull"]:
            assert row["chemical_potentials"] == pytest.approx(given, abs=1e-9)


def test_the_example_of_changes_is_what_the_code_gives(tmp_path):
    rows = [calculation(e["id"], e["formula"], float(e["energy_per_atom"])) for e in ENTRIES]
    name, formula, energy = re.search(r"Add `(\w),(\w+),(-[\d.]+)`", PAGE).groups()
    found = change(
        hull(tmp_path, 1, [*rows, calculation(name, formula, float(energy), 1)]), hull(tmp_path, 0, rows)
    )
    assert set(found) == {"d", "g"}
    assert found["g"]["change"] == "entered"
    assert found["g"]["e_above_hull_before"] == pytest.approx(-0.2)
    assert found["d"]["e_above_hull"] == pytest.approx(0.0333, abs=5e-5)
    assert found["d"]["displaced_by"] == ["g"]
    assert {p["calculation_id"]: p["fraction"] for p in found["d"]["decomposition"]} == {
        "g": pytest.approx(2 / 3),
        "a": pytest.approx(1 / 3),
    }


def test_the_page_names_only_statuses_and_columns_that_exist():
    from hullforge.store.schema import TABLES
    from hullforge.store.vocabulary import HullStatus

    columns = {column.name for table in TABLES.values() for column in table.columns}
    assert {s.value for s in HullStatus} - {"ok"} <= set(re.findall(r"`(\w+)`", PAGE))
    for word in ("correction_scheme", "formation_energy_per_atom", "e_above_hull", "is_on_hull", "correction_note",
                 "energy_correction_per_atom", "e_above_hull_before", "displaced_by", "is_reference"):  # fmt: skip
        assert word in columns
        assert f"`{word}`" in PAGE
