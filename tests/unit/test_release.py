"""The release: the same bytes from the same rounds, whole or not at all, and loadable as its card says."""

import json
import re
import shutil
import socket

import numpy as np
import pandas as pd
import pytest
import synthetic_campaign

from hullforge.errors import SealError, TableError
from hullforge.release import build, layout
from hullforge.release.verify import verify
from hullforge.store import tables


@pytest.fixture
def settings(tmp_path):
    return synthetic_campaign.campaign(tmp_path)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    settings = synthetic_campaign.campaign(tmp_path_factory.mktemp("campaign"))
    build.run(settings, synthetic_campaign.make(settings), settings.folder / "release" / "2026.1")
    return settings.folder


@pytest.fixture
def release(pristine, settings):
    shutil.copytree(pristine, settings.folder)
    return settings.folder / "release" / "2026.1"


def test_the_release_of_a_campaign_verifies(release):
    assert verify(release) == []


def test_shuffled_rows_in_another_folder_give_the_same_bytes(release, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    settings = synthetic_campaign.campaign(elsewhere)
    rounds = synthetic_campaign.make(settings, seed=5)
    build.run(settings, rounds[::-1], elsewhere / "out")
    assert (elsewhere / "out" / layout.SUMS).read_text() == (release / layout.SUMS).read_text()


def test_nothing_of_the_machine_is_in_it(release, pristine):
    for name in layout.files(release):
        assert str(pristine.parent).encode() not in (release / name).read_bytes(), name
        assert socket.gethostname().encode() not in (release / name).read_bytes(), name
    assert not {"output", "limits", "execution"} & set(json.loads((release / layout.CONFIG).read_text()))


def test_building_again_changes_nothing_and_leaves_no_temporary_folder(release, settings):
    before = (release / layout.SUMS).stat().st_mtime_ns
    build.run(settings, sorted(settings.folder.glob("round-*")), release)
    assert (release / layout.SUMS).stat().st_mtime_ns == before
    assert [path.name for path in release.parent.iterdir()] == ["2026.1"]


def test_a_release_is_not_replaced_by_another_of_its_version(release, settings):
    with pytest.raises(SealError, match=r"release\.version"):
        build.run(settings, [settings.folder / "round-000"], release)
    assert verify(release) == []


def test_leftovers_of_a_killed_run_are_replaced(release, settings):
    (release / layout.SUMS).unlink()
    (release / "data" / "stray.parquet").write_text("?")
    killed = release.parent / ".2026.1.abc.tmp"
    killed.mkdir()
    build.run(settings, sorted(settings.folder.glob("round-*")), release)
    assert verify(release) == []
    assert not killed.exists()


def test_a_broken_round_leaves_nothing_at_the_final_name(settings):
    rounds = synthetic_campaign.make(settings)
    (rounds[1] / "frames" / "SCAN.parquet").unlink()
    with pytest.raises(TableError, match=r"SCAN\.parquet"):
        build.run(settings, rounds, settings.folder / "release" / "2026.1")
    assert list((settings.folder / "release").iterdir()) == []


def test_rounds_of_another_theory_are_refused(settings, tmp_path):
    rounds = synthetic_campaign.make(settings)
    other = synthetic_campaign.campaign(tmp_path, engine={"name": "emt", "version": "2"})
    with pytest.raises(TableError, match="theory t1-"):
        build.run(other, rounds, tmp_path / "out")


def test_functionals_the_configuration_forgot_are_refused(settings, tmp_path):
    rounds = synthetic_campaign.make(settings)
    with pytest.raises(TableError, match="SCAN"):
        build.run(synthetic_campaign.campaign(tmp_path, functionals=["PBE"]), rounds, tmp_path / "out")


def test_rounds_without_a_single_result_can_be_released(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_campaign, "CANDIDATES", ())
    settings = synthetic_campaign.campaign(tmp_path)
    build.run(settings, synthetic_campaign.make(settings), tmp_path / "out")
    assert verify(tmp_path / "out") == []


def test_the_counts_of_the_data_set_row_are_those_of_the_tables(release):
    data = json.loads((release / layout.DATASET).read_text())
    assert data["counts"]["failures"] == 1
    assert data["counts"]["structures"] == 7
    assert data["by_functional"]["PBE"]["calculations"] == 7
    assert data["by_functional"]["SCAN"]["frames"] == 8
    energies = tables.read(release / layout.table("calculations", "PBE"), "calculations")[
        "energy_per_atom"
    ].to_numpy()
    assert data["by_functional"]["PBE"]["energy_per_atom_mean"] == pytest.approx(energies.mean())
    assert data["by_functional"]["PBE"]["energy_per_atom_variance"] == pytest.approx(energies.var())
    theories = tables.read(release / layout.table("calculations", "SCAN"), "calculations")[
        "theory_id"
    ].to_pylist()
    assert data["theories"][theories[0]]["functional"] == "SCAN"


def test_structures_know_their_space_group(release):
    rows = tables.read_rows(release / layout.table("structures"), "structures")
    groups = {row["chemical_formula_reduced"]: row["space_group_it_number"] for row in rows}
    assert groups["Al"] == 225
    assert groups["AlNi"] == 221


def test_the_card_warns_when_the_engine_is_no_dft(release):
    card = (release / layout.CARD).read_text()
    assert "WARNING" in card
    assert "NOT DFT" in card


def test_the_front_matter_names_files_that_exist(release):
    import yaml

    front = yaml.safe_load((release / layout.CARD).read_text().split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"]
    for entry in front["configs"]:
        assert (release / entry["data_files"]).is_file()


def test_single_files_keep_their_functional_for_pandas(release):
    assert set(pd.read_parquet(release / layout.table("hull", "SCAN")).functional) == {"SCAN"}


def test_phases_without_elemental_reference_stay_in_the_hull_table_unplaced(release):
    rows = tables.read_rows(release / layout.table("hull", "PBE"), "hull")
    (row,) = [r for r in rows if r["chemical_formula_reduced"] == "AgCu"]
    assert row["hull_status"] == "missing_reference"
    assert row["e_above_hull"] is None
    assert row["decomposition"] == []


def test_sha256sum_agrees(release):
    import subprocess

    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    assert subprocess.run(["sha256sum", "-c", "--quiet", layout.SUMS], cwd=release).returncode == 0


def test_distances_of_calculations_outside_the_hull_are_null(release):
    calculations = tables.read(release / layout.table("calculations", "PBE"), "calculations")
    hull = tables.read(release / layout.table("hull", "PBE"), "hull")
    joined = build.with_distances(calculations, hull.slice(0, 0))
    assert joined["e_above_hull"].null_count == 7
    joined = build.with_distances(calculations, hull)
    by_id = dict(zip(hull["calculation_id"].to_pylist(), hull["e_above_hull"].to_pylist(), strict=True))
    assert joined["e_above_hull"].to_pylist() == [
        by_id[i] for i in calculations["calculation_id"].to_pylist()
    ]
    assert np.isclose(min(e for e in by_id.values() if e is not None), 0)


@pytest.fixture
def corrected(tmp_path):
    """A release with a corrected hull of PBE; its calculations all have the data set of Al, which fits Al alone."""
    settings = synthetic_campaign.campaign(tmp_path, hull={"corrections": ["MP2020", "none"]})
    rounds = synthetic_campaign.make(settings, software="vasp", run_type="GGA", pseudopotentials=["Al"])
    build.run(settings, rounds, settings.folder / "release" / "2026.1")
    return settings.folder / "release" / "2026.1"


def test_a_release_has_a_hull_for_each_correction_scheme_and_verifies(corrected):
    assert verify(corrected) == []
    card = (corrected / layout.CARD).read_text()
    assert "on the PBE hull with MP2020" in card
    assert 'read_parquet("data/hull/PBE-MP2020.parquet")' in card
    for path in re.findall(r"data_files: (\S+)", card):
        assert (corrected / path).is_file(), path
    hulls = {name: tables.read_rows(corrected / layout.table("hull", name), "hull") for name in ("PBE", "PBE-MP2020", "SCAN")}  # fmt: skip
    assert {row["correction_scheme"] for row in hulls["PBE-MP2020"]} == {"MP2020"}
    placed = [row["chemical_formula_reduced"] for row in hulls["PBE-MP2020"] if row["hull_status"] == "ok"]
    assert placed == ["Al"]
    assert all(row["correction_scheme"] == "none" for name in ("PBE", "SCAN") for row in hulls[name])
    references = tables.read_rows(corrected / layout.table("elemental_references"), "elemental_references")
    assert {(r["functional"], r["correction_scheme"], r["element"]) for r in references} >= {
        ("PBE", "MP2020", "Al"),
        ("PBE", "none", "Al"),
        ("PBE", "none", "Cu"),
        ("SCAN", "none", "Al"),
    }


def test_a_wrong_correction_is_found(corrected):
    path = corrected / layout.table("hull", "PBE-MP2020")
    rows = tables.read_rows(path, "hull")
    row = next(row for row in rows if row["hull_status"] == "ok")
    row["energy_correction_per_atom"] = -0.1
    tables.write(path, "hull", rows)
    (corrected / layout.SUMS).write_text(layout.sums(corrected))
    assert any("energy_correction_per_atom is -0.1 eV/atom" in problem for problem in verify(corrected))
