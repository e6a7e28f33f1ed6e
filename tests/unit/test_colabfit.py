"""ColabFit's data standard: its readers find their columns, ids hold together, and summaries are those of the parts."""

import json
import math

import pyarrow.parquet as pq
import pytest
import synthetic_campaign

from hullforge.release import build, export
from hullforge.release.export import Format, Kind, Wish
from hullforge.store import tables


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colabfit")
    settings = synthetic_campaign.campaign(folder)
    build.run(settings, synthetic_campaign.make(settings, band_gap=0.5), folder / "release")
    export.run(folder / "release", folder, Wish(Format.COLABFIT))
    return folder / "release", folder / "frames-colabfit"


def read(folder, name):
    return pq.read_table(folder / name).to_pylist()


def test_rows_hold_the_numbers_of_the_frames(made):
    release, folder = made
    for functional in ("PBE", "SCAN"):
        frames = {
            row["frame_id"]: row
            for row in tables.read_rows(release / f"data/frames/{functional}.parquet", "frames")
        }
        rows = read(folder, f"co/{functional}.parquet")
        assert sum(row["multiplicity"] for row in rows) == len(frames)
        for row in rows:
            frame = frames[row["names"][0]]
            assert row["energy"] == frame["energy"]
            assert row["atomic_forces"] == frame["forces"]
            assert row["positions"] == frame["positions"]
            assert row["atomic_numbers"] == frame["numbers"]
            if frame["stress"] is not None:
                xx, yy, zz, yz, xz, xy = frame["stress"]
                assert row["cauchy_stress"] == [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
            assert json.loads(row["metadata"])["theory_id"] == frame["theory_id"]
            assert row["last_modified"] is None


def test_distances_and_gaps_stand_at_final_structures_alone(made):
    release, folder = made
    placed = tables.read_rows(release / "data/properties/PBE.parquet", "properties")
    rows = [row for row in read(folder, "co/PBE.parquet") if row["electronic_band_gap"] is not None]
    assert len(rows) == len(placed)
    known = {row["structure_id"]: row for row in placed}
    for row in rows:
        own = known[row["configuration_hash"]]
        assert row["energy_above_hull"] == own["e_above_hull"]
        assert row["formation_energy"] == own["formation_energy_per_atom"]
        assert row["energy"] == own["energy"]


def test_ids_hold_together(made):
    _, folder = made
    rows = read(folder, "co/PBE.parquet") + read(folder, "co/SCAN.parquet")
    objects = read(folder, "do/PBE.parquet") + read(folder, "do/SCAN.parquet")
    (dataset,) = read(folder, "ds.parquet")
    sets, members = read(folder, "cs/cs.parquet"), read(folder, "co_cs_map/co_cs_map.parquet")
    configurations = {row["configuration_id"] for row in rows}
    assert len({row["property_id"] for row in rows}) == len(rows)
    assert [o["property_id"] for o in objects] == [row["property_id"] for row in rows]
    assert {row["dataset_id"] for row in (*rows, *sets)} == {dataset["id"]}
    assert {m["configuration_id"] for m in members} == configurations
    assert {m["configuration_set_id"] for m in members} == {s["id"] for s in sets}
    assert {o["metadata_id"] for o in objects} <= {m["id"] for m in read(folder, "md/md.parquet")}
    assert {json.loads(row["metadata"])["id"] for row in rows} == {o["metadata_id"] for o in objects}
    assert {s["name"].split(":")[0] for s in sets} == {"functional", "round", "prototype", "source"}


def test_summaries_are_those_of_the_parts(made):
    _, folder = made
    rows = read(folder, "co/PBE.parquet") + read(folder, "co/SCAN.parquet")
    (dataset,) = read(folder, "ds.parquet")
    distinct = {row["configuration_id"]: row for row in rows}
    energies = [row["energy"] for row in rows]
    assert dataset["nproperty_objects"] == dataset["energy_count"] == len(rows)
    assert dataset["nconfigurations"] == len(distinct)
    assert dataset["nsites"] == sum(row["nsites"] for row in distinct.values())
    assert dataset["energy_mean"] == pytest.approx(math.fsum(energies) / len(energies))
    assert dataset["atomic_forces_count"] == sum(row["has_forces"] for row in rows)
    assert dataset["energy_above_hull_count"] == sum(row["energy_above_hull"] is not None for row in rows)
    assert sum(dataset["total_elements_ratios"]) == pytest.approx(1)
    members = read(folder, "co_cs_map/co_cs_map.parquet")
    for each in read(folder, "cs/cs.parquet"):
        own = [distinct[m["configuration_id"]] for m in members if m["configuration_set_id"] == each["id"]]
        assert each["nconfigurations"] == len(own)
        assert each["nsites"] == sum(row["nsites"] for row in own)
        assert each["elements"] == sorted({e for row in own for e in row["elements"]})


def test_final_structures_alone_and_the_other_energy(made, tmp_path):
    release, folder = made
    export.run(release, tmp_path, Wish(Format.COLABFIT, Kind.STRUCTURES))
    rows = read(tmp_path, "structures-colabfit/co/PBE.parquet")
    assert len(rows) == 7
    export.run(release, tmp_path, Wish(Format.COLABFIT, energy=export.Energy.FREE))
    free = read(tmp_path, "frames-colabfit/co/PBE.parquet")
    calculations = tables.read_rows(release / "data/calculations/PBE.parquet", "calculations")
    assert sorted(row["energy"] for row in free) == sorted(row["free_energy"] for row in calculations)
    assert read(tmp_path, "frames-colabfit/ds.parquet")[0]["id"] != read(folder, "ds.parquet")[0]["id"]
