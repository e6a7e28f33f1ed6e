"""The seven properties of a release: their values, their definitions, and a reason for each one that is absent."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import synthetic_campaign

from hullforge.release import build, properties, verify
from hullforge.store import atomic, definitions, tables
from hullforge.store.schema import TABLES
from hullforge.store.vocabulary import HullStatus, NullReason


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("properties")
    settings = synthetic_campaign.campaign(folder)
    rounds = synthetic_campaign.make(settings, total_magnetization=-1.5, band_gap=0.0)
    build.run(settings, rounds, folder / "release")
    return folder / "release"


def rows(release, functional="PBE"):
    return tables.read_rows(release / f"data/properties/{functional}.parquet", "properties")


def test_each_calculation_has_its_seven_properties(release):
    for functional in ("PBE", "SCAN"):
        calculations = {
            row["calculation_id"]: row
            for row in tables.read_rows(release / f"data/calculations/{functional}.parquet", "calculations")
        }
        hull = {
            row["calculation_id"]: row
            for row in tables.read_rows(release / f"data/hull/{functional}.parquet", "hull")
        }
        found = rows(release, functional)
        assert {row["calculation_id"] for row in found} == set(calculations)
        for row in found:
            calculation, placed = calculations[row["calculation_id"]], hull[row["calculation_id"]]
            assert row["energy"] == calculation["energy"]
            assert row["formation_energy_per_atom"] == placed["formation_energy_per_atom"]
            assert row["e_above_hull"] == placed["e_above_hull"]
            assert row["volume_per_atom"] == calculation["volume"] / calculation["nsites"]
            assert row["magnetization_per_volume"] == 1.5 / calculation["volume"]
            assert row["band_gap"] == 0
            assert row["dos_at_fermi"] is None


def test_every_absent_value_has_a_reason(release):
    known = {*(r.value for r in NullReason), *(r.value for r in HullStatus)}
    seen = set()
    for row in rows(release):
        absent = {name for name in definitions.SEVEN if row[name] is None}
        assert set(row["null_reasons"]) == absent
        assert set(row["null_reasons"].values()) <= known
        seen |= set(row["null_reasons"].items())
    assert ("dos_at_fermi", "not_computed") in seen
    assert ("e_above_hull", "missing_reference") in seen  # Ag has no elemental calculation


def test_other_reasons():
    settings_of = {"candidate_id": None, "pbc": [True, True, False], "total_magnetization": 2.0}
    calculation = {
        **synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t"), **settings_of
    }  # fmt: skip
    (row,) = properties.table(
        tables.from_rows("calculations", [calculation]), tables.empty("hull")
    ).to_pylist()
    assert tables.as_dict(row["null_reasons"]) == {
        "formation_energy_per_atom": "not_in_hull", "e_above_hull": "not_in_hull", "volume_per_atom": "not_periodic",
        "magnetization_per_volume": "not_periodic", "band_gap": "not_told", "dos_at_fermi": "not_told",
    }  # fmt: skip


def test_columns_point_to_definitions(release):
    document = json.loads((release / "property_definitions.json").read_text())
    ids = {definition["property-id"]: definition for definition in document["definitions"]}
    schema = pq.read_schema(release / "data/properties/PBE.parquet")
    for name in definitions.SEVEN:
        metadata = schema.field(name).metadata
        assert metadata[b"property"].decode() in ids
        assert metadata[b"unit"]
    for definition in ids.values():
        assert {"property-title", "property-description"} < set(definition)
        for key in set(definition) - {"property-id", "property-title", "property-description"}:
            assert set(definition[key]) == {"type", "has-unit", "extent", "required", "description"}
    for entry in document["properties"].values():
        for place in entry["columns"]:
            table, column = place.split(".")
            assert column in [c.name for c in TABLES[table].columns]


def test_verify_computes_them_again(release, tmp_path):
    folder = tmp_path / "release"
    shutil.copytree(release, folder)
    assert not [p for p in verify.verify(folder) if "propert" in p]
    path = folder / "data/properties/PBE.parquet"
    changed = rows(release)
    changed[0]["volume_per_atom"] *= 1.001
    tables.write(path, "properties", changed)
    (problem,) = [p for p in verify.verify(folder) if "volume_per_atom" in p]
    assert changed[0]["calculation_id"] in problem
    tables.write(path, "properties", rows(release)[1:])
    assert any("data/properties/PBE.parquet: 6 rows, there are 7" in p for p in verify.verify(folder))
    tables.write(path, "properties", rows(release))
    document = atomic.read_json(folder / "property_definitions.json")
    document["properties"]["band-gap"]["unit"] = "Hartree"
    atomic.write_json(folder / "property_definitions.json", document)
    assert any("band_gap has the unit eV" in p for p in verify.verify(folder))
