"""`hullforge status` and the summary: what is done, started and failed, from files alone and at once."""

import json
import shutil
import subprocess
import sys

import pytest
import synthetic

from benchmarks import made_campaign
from hullforge import cli, config
from hullforge.dft import protocol
from hullforge.reports import queue, report, status, status_text, summary
from hullforge.store import progress, tables

FUNCTIONALS = ["PBE", "PBEsol", "SCAN"]
NOW = 1.8e9


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
    text = status_text.render(state)
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
    text = status_text.render(state)
    assert "round 0: open" in text
    assert "dft PBE 0/2" in text  # of round 1


def dft_folder(settings, round_folder, batch, functional="PBE"):
    return round_folder / "dft" / f"{functional}-{theory(settings, functional)}" / f"batch-{batch}"


def note(settings, batch, *, updated, functional="PBE", **values):
    """Write the notes of a batch of round 0, as a batch would have at the time `updated`."""
    told = progress.Progress(functional, theory(settings, functional), batch, 16, **values)
    notes = progress.Notes(settings.folder / "work", 0, told)
    data = json.loads(notes.path.read_text()) | {"updated": updated, "began": updated - 1800}
    notes.path.write_text(json.dumps(data))


def test_a_running_batch_is_counted_from_its_notes(tmp_path):
    settings = campaign(tmp_path, execution={"cores_per_calculation": 4})
    rounds = synthetic.make(settings.folder, rounds=1)
    split_into_batches(rounds[0], settings)
    (dft_folder(settings, rounds[0], 1) / "calculations.parquet").unlink()
    before = entry(status.status(settings.folder, settings, NOW), 0)
    note(
        settings,
        1,
        updated=NOW - 5,
        converged=7,
        failures={"crashed": 2},
        running=3,
        core_s=7200.0,
        done_before=1,
        errors=[
            {"calculation_id": "k1-aa", "reason": "crashed", "protocol_step": "relax1", "message": "a\n b"}
        ],
    )
    state = status.status(settings.folder, settings, NOW)
    after = entry(state, 0)
    assert after["converged"] == before["converged"] + 7
    assert after["failed"] == before["failed"] + 2
    assert after["failures"]["crashed"] == before["failures"].get("crashed", 0) + 2
    assert after["running"] == 3
    assert after["batches"] == {"running": 1, "finished": 1, "stopped": 0}
    assert after["core_hours"] == pytest.approx(before["core_hours"] + 2)
    assert after["rate_per_hour"] == pytest.approx(16)  # eight in half an hour
    assert state["structures_to_go"] == 16 - 9 + 32  # of the batch, and the budget of round 1
    (error,) = state["errors"]
    assert (error["batch"], error["reason"]) == (1, "crashed")
    text = status_text.render(state)
    assert "3 running" in text
    assert "batches: 1 running, 1 finished" in text
    assert "round 0 PBE batch 1: crashed in relax1: a b" in text
    assert "rate: 16.0 structures an hour" in text


def test_a_batch_without_a_sign_of_life_has_stopped(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder, rounds=1)
    note(settings, 0, updated=NOW - 2 * progress.STALE_S, converged=4, running=2)
    note(settings, 1, updated=NOW - 5, state="stopped", converged=1, message="the disk is full")
    state = status.status(settings.folder, settings, NOW)
    pbe = entry(state, 0)
    assert pbe["batches"] == {"running": 0, "finished": 0, "stopped": 2}
    assert (pbe["converged"], pbe["running"], pbe["rate_per_hour"]) == (5, 0, 0)
    assert [error["message"] for error in state["errors"]] == ["the disk is full"]
    assert state["errors"][0]["path"].endswith(f"round-000/dft-PBE-{theory(settings, 'PBE')}-1.log")
    assert rounds


def test_notes_never_count_what_tables_count(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder, rounds=1)
    split_into_batches(rounds[0], settings)
    before = entry(status.status(settings.folder, settings, NOW), 0)
    # A run that was killed between its tables and its last note.
    note(settings, 0, updated=NOW - 9000, converged=15, running=1)
    assert entry(status.status(settings.folder, settings, NOW), 0) == before
    (progress.folder_of(settings.folder / "work", 0) / "PBE-cut-short.json").write_text('{"functional": ')
    assert entry(status.status(settings.folder, settings, NOW), 0) == before


def test_a_sealed_round_is_counted_from_its_tables(tmp_path):
    shape = made_campaign.Shape(budget=400, batches=2, rounds=2, steps=1)
    settings = made_campaign.campaign(tmp_path, shape)
    here = made_campaign.write_round(settings, 0, shape)
    from_notes = status.status(settings.folder, settings, NOW)
    shutil.rmtree(progress.folder_of(settings.folder / "work", 0))
    from_batches = status.status(settings.folder, settings, NOW)
    made_campaign.seal_round(settings, here)
    from_round = status.status(settings.folder, settings, NOW)
    for functional in made_campaign.FUNCTIONALS:
        one, two, three = (entry(state, 0, functional) for state in (from_notes, from_batches, from_round))
        assert one["core_hours"] == pytest.approx(two["core_hours"])
        assert three["core_hours"] == pytest.approx(two["core_hours"])
        same = {"core_hours": 0}
        assert one | same == two | same == three | same
        # Nothing is to come of a closed round, also where a functional lost what the next one would have got.
        assert three["planned"] == three["converged"] + three["failed"]
    assert entry(from_round, 0, made_campaign.FUNCTIONALS[1])["failed"] > 0
    assert from_round["rounds"][0]["sealed"]
    assert entry(from_round, 0)["planned"] == 400
    assert from_round["core_hours_to_go"] > 0


def test_notes_go_when_their_round_is_sealed(tmp_path):
    shape = made_campaign.Shape(budget=40, batches=1, rounds=1, steps=1)
    settings = made_campaign.campaign(tmp_path, shape)
    here = made_campaign.write_round(settings, 0, shape)
    assert progress.read(settings.folder / "work", 0)
    made_campaign.seal_round(settings, here)
    assert not progress.folder_of(settings.folder / "work", 0).exists()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'RUNNING|None'; echo 'PENDING|Priority'; echo 'PENDING|Priority'",
            "queue: 2 pending, 1 running (2 for Priority)",
        ),
        ("exit 1", "queue: squeue ended with status 1"),
        ("exec sleep 60", "queue: squeue did not answer within 0.2 s"),
        ("true", "queue: no jobs"),
    ],
)
def test_the_queue_is_told_where_there_is_one(tmp_path, monkeypatch, script, expected):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "PATIENCE_S", 0.2 if "sleep" in script else 30)
    settings = campaign(tmp_path / "results")
    assert expected in status_text.render(status.status(settings.folder, settings))


def test_without_a_queue_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = campaign(tmp_path)
    state = status.status(settings.folder, settings)
    assert state["queue"] is None
    assert "queue:" not in status_text.render(state)


def test_watching_looks_again_until_it_is_interrupted(tmp_path, monkeypatch, capsys):
    settings = campaign(tmp_path)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status_text.time, "sleep", sleep)
    monkeypatch.setenv("PATH", str(tmp_path))  # waiting for a squeue would sleep too
    with pytest.raises(KeyboardInterrupt):
        status_text.watch(lambda: status.status(settings.folder, settings), 7)
    text = capsys.readouterr().out
    assert text.count("campaign trial") == 2
    assert slept == [7, 7]
    assert "\033" not in text  # no terminal


@pytest.mark.parametrize("wrong", ["0", "nan", "-1", "soon"])
def test_a_watch_without_a_pause_is_refused(wrong):
    with pytest.raises(SystemExit):
        cli.main(["status", "--watch", wrong])


def test_a_broken_table_is_told_not_raised(tmp_path):
    settings = campaign(tmp_path)
    rounds = synthetic.make(settings.folder, rounds=1)
    (rounds[0] / "selection.parquet").write_bytes(b"PAR1 cut short")
    state = status.status(settings.folder, settings)
    assert "selection.parquet" in state["rounds"][0]["broken"][0]
    assert "broken: " in status_text.render(state)


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
    text = summary.summary(finished.folder, finished)
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
    text = summary.summary(settings.folder, settings)
    assert "NOT DFT" in text
    assert "no hull yet" in text
    assert "failures: none" in text


def test_status_loads_neither_torch_nor_pymatgen():
    code = "import sys; from hullforge.reports import status, status_text, summary; print([m for m in ('torch', 'pymatgen', 'ase', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
