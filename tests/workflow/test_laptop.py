"""The laptop campaign with real DFT: what must come out of it.

Uses the campaign in results/laptop where `make demo` has finished it; runs it where not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlcroissant
import pytest

import served
from benchmarks import release_identity
from conftest import ROOT
from hullforge.config import load
from hullforge.release import build, layout, verify
from hullforge.store import tables

pytestmark = [pytest.mark.campaign, pytest.mark.slow, pytest.mark.gpaw]

CONVERGED = json.loads((ROOT / "tests/data/converged.json").read_text())
# Prototype and decoration of each reference, as tables name them.
SYSTEMS = {
    "Mg2Si": ("AB2_cF12_225_a_c", ["Si", "Mg"]),
    "LiAl": ("AB_cF16_227_a_b", ["Li", "Al"]),
    "Al": ("A_cF4_225_a", ["Al"]),
    "Si": ("A_cF8_227_a", ["Si"]),
    "Li": ("A_cI2_229_a", ["Li"]),
    "Mg": ("A_hP2_194_c", ["Mg"]),
}


@pytest.fixture(scope="module")
def campaign():
    """Give the laptop campaign, run to its end."""
    campaign = load(ROOT / "config/config.yaml")
    if not (ROOT / campaign.folder / "release" / campaign.release.version / "SHA256SUMS").is_file():
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        cores = str(os.cpu_count() or 1)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", cores],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
    return campaign


@pytest.fixture(scope="module")
def results(campaign):
    return ROOT / campaign.folder


@pytest.fixture(scope="module")
def calculations(results):
    paths = sorted(results.glob("round-*/calculations.parquet"))
    return [row for path in paths for row in tables.read_rows(path, "calculations")]


def find(rows, system, functional="PBE"):
    label, elements = SYSTEMS[system]
    found = [
        row
        for row in rows
        if row["functional"] == functional
        and row["prototype_id"].startswith(f"{label}-")
        and row["elements"] == sorted(elements)
        and row["chemical_formula_reduced"] == CONVERGED["systems"][system]["chemical_formula_reduced"]
    ]
    return min(found, key=lambda row: row["energy_per_atom"]) if found else None


def hull_rows(results, functional="PBE"):
    return tables.read_rows(sorted(results.glob(f"round-*/hull/{functional}.parquet"))[-1], "hull")


def test_each_round_did_its_thirty_relaxations(results, calculations):
    for number in (0, 1):
        done = [row for row in calculations if row["round"] == number and row["functional"] == "PBE"]
        failed = tables.read_rows(results / f"round-{number:03d}" / "failures.parquet", "failures")
        assert len(done) + len([row for row in failed if row["functional"] == "PBE"]) >= 30
        assert len(done) >= 24, [row["reason"] for row in failed]


@pytest.mark.parametrize("system", ["Mg2Si", "LiAl"])
def test_known_compounds_are_on_the_hull(system, results):
    row = find(hull_rows(results), system)
    assert row is not None, f"{system} was not computed"
    assert row["e_above_hull"] <= 0.015


@pytest.mark.parametrize("system", ["Mg2Si", "LiAl"])
def test_formation_energies_are_those_of_converged_calculations(system, results):
    row = find(hull_rows(results), system)
    expected = CONVERGED["systems"][system]["formation_energy_per_atom"]
    assert row["formation_energy_per_atom"] == pytest.approx(expected, abs=0.030)


@pytest.mark.parametrize("system", SYSTEMS)
def test_lattice_constants_are_those_of_converged_calculations(system, calculations):
    row = find(calculations, system)
    assert row is not None, f"{system} was not computed"
    length = (row["volume"] / row["nsites"]) ** (1 / 3)
    expected = CONVERGED["systems"][system]["volume_per_atom"] ** (1 / 3)
    assert length == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("system", ["Al", "Si", "Mg2Si"])
def test_pbesol_lattices_are_shorter_than_pbe_ones(system, calculations):
    pbe, pbesol = find(calculations, system), find(calculations, system, "PBEsol")
    assert pbesol is not None, f"{system} did not go on to PBEsol"
    assert pbesol["volume"] < pbe["volume"]


def test_structures_near_the_hull_went_on_to_pbesol_and_scan(results, calculations):
    for number in (0, 1):
        folder = results / f"round-{number:03d}"
        promoted = tables.read_rows(folder / "promotion.parquet", "promotion")
        failed = tables.read_rows(folder / "failures.parquet", "failures")
        assert number == 1 or promoted
        for functional in ("PBEsol", "SCAN"):
            done = [row for row in calculations if row["round"] == number and row["functional"] == functional]
            lost = [row for row in failed if row["functional"] in {"PBEsol", functional}]
            assert len(done) + len(lost) >= len(promoted)
            assert len(done) >= 0.8 * len(promoted), [(row["functional"], row["reason"]) for row in lost]


def test_static_steps_give_gaps_and_densities_of_states(calculations):
    silicon = find(calculations, "Si", "SCAN")
    aluminium = find(calculations, "Al", "SCAN")
    assert silicon["band_gap"] > 0.3
    assert aluminium["band_gap"] == 0
    assert aluminium["dos_at_fermi"] > 0.1
    assert find(calculations, "Si")["band_gap"] is None, "PBE has no static step in this protocol"


def test_the_release_verifies(campaign, results):
    assert verify.verify(results / "release" / campaign.release.version) == []
    assert verify.verify(results) == []


def test_the_card_of_the_release_is_enough_to_load_it(campaign, results):
    """Each snippet runs in the folder of the release, in a program that has nothing of hullforge at hand."""
    release = results / "release" / campaign.release.version
    snippets = re.findall(r"```python\n(.*?)```", (release / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    rows = tables.read_rows(release / "data/calculations/PBE.parquet", "calculations")
    for snippet in snippets:
        program = (
            f"import sys\nsys.modules['hullforge'] = None\n{snippet}\n"
            "print(len(energies), len(forces), sum(d is not None and d >= 0 for d in list(distances)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=release, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        n_energies, n_forces, n_placed = map(int, done.stdout.split()[-3:])
        assert n_energies == n_forces > 0
        assert n_placed > 0
        if "load_matgl" not in snippet:
            assert n_energies == len(rows)


def test_the_release_is_what_its_metadata_say(campaign, results):
    """Croissant's own reader, and the consortium's validator for OPTIMADE, on what was computed."""
    release = results / "release" / campaign.release.version
    croissant = mlcroissant.Dataset(jsonld=release / "croissant.json")
    assert not croissant.metadata.ctx.issues.errors
    with served.served(release) as address:
        counts = served.validated(address)
    assert (counts["failure_count"], counts["internal_failure_count"]) == (0, 0)
    assert counts["success_count"] > 45


def test_tables_in_other_files_and_orders_give_the_same_release(campaign, results, tmp_path):
    left_out = shutil.ignore_patterns("dft", "prerelax", "screen", "screener", "report", "promotion.parquet")
    sums = []
    for name in ("straight", "disturbed"):
        folder = tmp_path / name
        rounds = [folder / "round-000", folder / "round-001"]
        for round_ in rounds:
            shutil.copytree(results / round_.name, round_, ignore=left_out)
        shutil.copy(results / "prototypes.parquet", folder)
        if name == "disturbed":
            assert release_identity.disturb(folder, rounds) > 0
        build.run(campaign, rounds, folder / "release")
        sums.append((folder / "release" / layout.SUMS).read_text())
    assert sums[0] == sums[1]
