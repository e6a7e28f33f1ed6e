"""`hullforge status` and the summary: what is done, started and failed, from files alone and at once."""

import json
import subprocess
import sys

import pytest
import synthetic

from hullforge import config
from hullforge.dft import protocol
from hullforge.reports import report, status
from hullforge.store import journal, tables

FUNCTIONALS = ["PBE", "PBEsol", "SCAN"]


def campaign(tmp_path, **changes) -> config.Campaign:
    data = {
        "campaign": "trial",
        "output": str(tmp_path),
        "elements": ["Li", "Mg", "Al", "Si"],
        "engine": {"name": "gpaw", "version": "26.7.0"},
        "protocol": "laptop",
        "rounds": [{"budget": 32, "batches": 2}, {"budget": 32, "batches": 2}],
    }
    return config.load({**data, **changes})


def theory(settings: config.Campaign, functional: str) -> str:
    return protocol.load(settings.protocol).theory_id(functional, settings.engine)


def split_into_batches(folder, settings):
    """Write a synthetic round's tables as the tables of its batches."""
    batch_of = {
        row["candidate_id"]: row["batch"]
        for row in tables.read_rows(folder / "selection.parquet", "selection")
    }
    for name in ("calculations", "failures"):
        rows = tables.read_rows(folder / f"{name}.parquet", name)
        for functional in FUNCTIONALS:
            for batch in range(2):
                path = (
                    folder
                    / "dft"
                    / f"{functional}-{theory(settings, functional)}"
                    / f"batch-{batch}"
                    / f"{name}.parquet"
                )
                tables.write(
                    path,
                    name,
                    [
                        r
                        for r in rows
                        if r["functional"] == functional and batch_of[r["candidate_id"]] == batch
                    ],
                )


def entry(state, round_, functional="PBE"):
    return next(e for e in state["rounds"][round_]["functionals"] if e["functional"] == functional)


def test_an_untouched_campaign_has_nothing(tmp_path):
    settings = campaign(tmp_path)
    state = status.status(settings.folder, settings)
    assert not state["prototypes"]
    assert state["release"] is None
    text = status.render(state)
    assert "round 0: not started (budget 32)" in text
    assert "release: not yet" in text
    json.dumps(state)


def test_a_finished_round_counts_structures_and_failures(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder)
    split_into_batches(rounds[0], settings)
    state = status.status(settings.folder, settings)
    failures = [
        row
        for row in tables.read_rows(rounds[0] / "failures.parquet", "failures")
        if row["functional"] == "PBE"
    ]
    pbe = entry(state, 0)
    assert pbe["planned"] == 32
    assert pbe["converged"] + pbe["failed"] == 32
    assert sum(pbe["failures"].values()) == len(failures)
    stages = {stage["stage"]: (stage["done"], stage["planned"]) for stage in state["rounds"][0]["stages"]}
    assert stages["dft PBE"] == (2, 2)
    assert stages["prerelax"] == (2, 2)
    assert stages["collect"] == (3, 3)
    assert stages["train"] == (0, 1)
    text = status.render(state)
    assert "round 0: open" in text
    assert "dft PBE 0/2" in text  # of round 1


def test_calculations_at_work_are_counted_once(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder, rounds=1)
    split_into_batches(rounds[0], settings)
    (rounds[0] / "dft" / f"PBE-{theory(settings, 'PBE')}" / "batch-1" / "calculations.parquet").unlink()
    before = entry(status.status(settings.folder, settings), 0)
    known = tables.read_rows(
        rounds[0] / "dft" / f"PBE-{theory(settings, 'PBE')}" / "batch-0" / "calculations.parquet",
        "calculations",
    )[0]["calculation_id"]
    work = settings.folder / "work"
    for calculation, record in (
        ("k1-aa01", {"reason": ""}),
        ("k1-aa02", {"reason": "crashed"}),
        ("k1-bb03", None),
        (known, {"reason": ""}),
    ):
        folder = journal.folder_of(work, theory(settings, "PBE"), calculation)
        folder.mkdir(parents=True)
        if record is not None:
            journal.commit(folder, journal.DONE_FILE, "hash", record)
    after = entry(status.status(settings.folder, settings), 0)
    assert after["converged"] == before["converged"] + 1
    assert after["failed"] == before["failed"] + 1
    assert after["started"] == 1
    assert after["failures"].get("crashed", 0) == before["failures"].get("crashed", 0) + 1
    assert "1 started" in status.render(status.status(settings.folder, settings))


def test_a_broken_table_is_told_not_raised(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder, rounds=1)
    (rounds[0] / "selection.parquet").write_bytes(b"PAR1 cut short")
    state = status.status(settings.folder, settings)
    assert "selection.parquet" in state["rounds"][0]["broken"][0]
    assert "broken: " in status.render(state)


@pytest.fixture
def finished(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder)
    for number in range(2):
        report.run("trial", "", number, rounds[: number + 1], FUNCTIONALS, rounds[number] / "report")
    release = settings.folder / "release" / settings.release.version
    release.mkdir(parents=True)
    (release / "SHA256SUMS").write_text("")
    return settings


def test_the_summary_says_what_was_found_and_where_it_is(finished):
    text = status.summary(finished.folder, finished)
    hull = tables.read_rows(finished.folder / "round-001" / "hull" / "PBE.parquet", "hull")
    stable = [row for row in hull if row["is_on_hull"] and row["nelements"] > 1]
    assert stable
    for row in stable:
        assert f"{row['chemical_formula_reduced']} {row['formation_energy_per_atom']:.3f}" in text
    assert "hits of round 1 within 0.1 eV/atom of the hull: exploit" in text
    assert "control" in text
    assert "round-001/report/report.html" in text
    assert f"release: {finished.folder.as_posix()}/release/2026.1" in text
    assert "NOT DFT" not in text


def test_the_summary_of_a_dry_run_says_that_it_is_not_dft(tmp_path):
    settings = campaign(tmp_path, engine={"name": "emt", "version": "3.29.0"}, protocol="emt")
    text = status.summary(settings.folder, settings)
    assert "NOT DFT" in text
    assert "no hull yet" in text
    assert "failures: none" in text


def test_status_loads_neither_torch_nor_pymatgen():
    code = "import sys; from hullforge.reports import status; print([m for m in ('torch', 'pymatgen', 'ase', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
