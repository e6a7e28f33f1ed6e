"""A batch turns every start into one row, computes nothing twice, and depends on neither order nor interruption."""

import os
import signal
import tarfile
import threading
import time

import pytest
from fake_engine import FakeEngine, settings, start_rows, step, write_starts

from hullforge.config import Limits
from hullforge.dft import batch, calculation
from hullforge.errors import EngineError, TableError
from hullforge.store import tables
from hullforge.store.journal import Lock, LockedError, folder_of

RESULTS = ("calculations", "frames", "failures")


@pytest.fixture
def engine(monkeypatch):
    """An engine that counts how often a process was started."""
    fake = FakeEngine()
    fake.started = 0
    command = fake.command()

    def count(*_):
        fake.started += 1
        return command

    fake.command = count
    monkeypatch.setattr(calculation.base, "get", lambda _: fake)
    return fake


def run(folder, rows, out="out", workers=1, entry=None, number=0, limits=None):
    starts = write_starts(folder / "starts.parquet", rows)
    batch.run(entry or settings(), starts, number, folder / "work", folder / out, workers, limits or Limits())
    return {name: tables.read_rows(folder / out / f"{name}.parquet", name) for name in (*RESULTS, "costs")}


def results(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in RESULTS}


def test_a_calculation_is_described_by_its_row(tmp_path, engine):
    [start] = start_rows(1)
    [row] = run(tmp_path, [start])["calculations"]
    assert row["steps"] == ["relax", "static"]
    assert row["parent_structure_id"] == start["structure_id"] != row["structure_id"]
    assert row["cell"][0] == pytest.approx(start["cell"][0] * 1.001)
    assert row["energy_per_atom"] == row["energy"] / 2
    assert row["software"] == "emt"
    assert row["pseudopotentials"] == ["fake:Cu"]
    assert (row["n_attempts"], row["errors"], row["corrections"], row["protocol_drift"]) == (2, [], [], [])
    assert row["n_ionic_steps"] == 2
    assert row["round"] == 1
    assert row["source"] == "test"
    assert row["max_force"] == row["max_stress"] == 0.0
    assert row["input_hash"].startswith("i1-")


def test_frames_are_numbered_through_the_steps(tmp_path, engine):
    frames = run(tmp_path, start_rows(1))["frames"]
    assert [(frame["step"], frame["protocol_step"]) for frame in frames] == [(0, "relax"), (1, "static")]


def test_an_empty_batch_writes_empty_tables(tmp_path, engine):
    found = run(tmp_path, [])
    assert all(rows == [] for rows in found.values())
    with tarfile.open(tmp_path / "out" / "raw.tar.gz") as archive:
        assert archive.getnames() == []
    assert engine.checked == engine.started == 0


def test_only_rows_of_the_batch_are_computed(tmp_path, engine):
    rows = start_rows(3)
    rows[1]["batch"] = 7
    assert len(run(tmp_path, rows, number=7)["calculations"]) == 1


def test_calculations_are_starts_for_the_next_functional(tmp_path, engine):
    [first] = run(tmp_path, start_rows(1))["calculations"]
    batch.run(
        settings(functional="SCAN"),
        tmp_path / "out" / "calculations.parquet",
        5,
        tmp_path / "work",
        tmp_path / "scan",
        1,
        Limits(),
    )
    [second] = tables.read_rows(tmp_path / "scan" / "calculations.parquet", "calculations")
    assert second["parent_structure_id"] == first["structure_id"] == second["structure_id"]
    assert second["functional"] == "SCAN"
    assert second["theory_id"] != first["theory_id"]


def test_another_table_is_no_table_of_starts(tmp_path, engine):
    run(tmp_path, [])
    with pytest.raises(TableError, match="'frames'"):
        batch.run(
            settings(), tmp_path / "out" / "frames.parquet", 0, tmp_path / "work", tmp_path / "o", 1, Limits()
        )
    with pytest.raises(TableError, match="no such file"):
        batch.run(settings(), tmp_path / "nothing.parquet", 0, tmp_path / "work", tmp_path / "o", 1, Limits())


def test_a_start_named_twice_is_refused(tmp_path, engine):
    with pytest.raises(TableError, match="twice"):
        run(tmp_path, start_rows(1) * 2)


def test_a_failure_stops_nobody_else(tmp_path, engine):
    rows = [*start_rows(2), *start_rows(3, scale=0.2)[2:]]
    found = run(tmp_path, rows)
    assert len(found["calculations"]) == 2
    [failure] = found["failures"]
    assert (failure["reason"], failure["n_attempts"], failure["protocol_step"]) == (
        "atoms_too_close",
        0,
        "relax",
    )
    assert len(found["costs"]) == 3
    assert engine.started == 4


def test_a_failed_step_ends_its_calculation(tmp_path, engine):
    engine.plans = {"relax": ["missing_dataset"] * 9}
    [failure] = run(tmp_path, start_rows(1))["failures"]
    assert (failure["reason"], failure["protocol_step"], failure["errors"]) == (
        "missing_dataset",
        "relax",
        ["relax:missing_dataset"],
    )
    assert engine.started == 1


def test_settings_that_cannot_be_made_are_the_structures_failure(tmp_path, engine, monkeypatch):
    def refuse(*_):
        raise ValueError("no grid for such a cell")

    monkeypatch.setattr(engine, "physics", refuse)
    [failure] = run(tmp_path, start_rows(1))["failures"]
    assert (failure["reason"], failure["n_attempts"]) == ("engine_error", 0)
    assert "no grid" in failure["message"]


def test_a_missing_engine_raises(tmp_path, engine, monkeypatch):
    def absent(*_):
        raise EngineError("not installed")

    monkeypatch.setattr(engine, "check", absent)
    with pytest.raises(EngineError, match="not installed"):
        run(tmp_path, start_rows(1))
    assert not (tmp_path / "out").exists()


def test_finished_work_is_not_done_again(tmp_path, engine):
    run(tmp_path, start_rows(2))
    assert engine.started == 4
    run(tmp_path, start_rows(3), out="more")
    assert engine.started == 6
    run(tmp_path, start_rows(2), out="again")
    assert engine.started == 6
    assert results(tmp_path / "out") == results(tmp_path / "again")


def test_an_accepted_step_is_not_run_again(tmp_path, engine):
    run(tmp_path, start_rows(1))
    next(tmp_path.glob("work/*/*/*/done.json")).unlink()
    next(tmp_path.glob("work/*/*/*/02-static/accepted.json")).unlink()
    run(tmp_path, start_rows(1), out="again")
    assert engine.started == 3
    assert results(tmp_path / "out") == results(tmp_path / "again")


def test_a_truncated_result_is_not_believed(tmp_path, engine):
    run(tmp_path, start_rows(1))
    done = next(tmp_path.glob("work/*/*/*/done.json"))
    for path in (done, *done.parent.glob("*/accepted.json")):
        path.write_bytes(path.read_bytes()[:-20])
    run(tmp_path, start_rows(1), out="again")
    assert engine.started == 4
    assert results(tmp_path / "out") == results(tmp_path / "again")


def test_another_limit_of_a_step_is_another_input(tmp_path, engine):
    run(tmp_path, start_rows(1), entry=settings(step("relax", "relax", max_ionic_steps=50)))
    run(tmp_path, start_rows(1), entry=settings(step("relax", "relax", max_ionic_steps=70)), out="again")
    assert engine.started == 2


def test_neither_workers_nor_order_change_the_tables(tmp_path, engine):
    engine.plans = {"static": ["scf_not_converged"]}
    run(tmp_path / "one", start_rows(6), workers=1)
    run(tmp_path / "three", start_rows(6)[::-1], workers=3)
    assert results(tmp_path / "one" / "out") == results(tmp_path / "three" / "out")


STATIC = step("static", "static", fmax=0.05, stricter=0.1)


def test_large_forces_of_a_static_step_are_relaxed_away_more_strictly(tmp_path, engine):
    engine.forces = {"static": 1.0}
    [row] = run(tmp_path, start_rows(1), entry=settings(step("relax", "relax", kpoint_density=7), STATIC))[
        "calculations"
    ]
    assert row["steps"] == ["relax", "static", "static_relax", "static_again"]
    entry = calculation.read_input(next(tmp_path.glob("work/*/*/*/03-static_relax")))
    assert (entry.kind, entry.fmax, entry.smax) == ("relax", pytest.approx(0.001), pytest.approx(0.0001))
    assert row["max_force"] == 0.0


def test_forces_that_stay_large_after_that_are_a_failure(tmp_path, engine):
    engine.forces = {"static": 1.0, "static_again": 0.06}
    [row] = run(tmp_path, start_rows(1), entry=settings(step("relax", "relax"), STATIC))["failures"]
    assert (row["reason"], row["protocol_step"], row["n_attempts"]) == (
        "ionic_not_converged",
        "static_again",
        4,
    )


def test_without_a_stricter_relaxation_large_forces_are_a_failure(tmp_path, engine):
    engine.forces = {"static": 1.0}
    [row] = run(tmp_path, start_rows(1))["failures"]
    assert (row["reason"], row["protocol_step"], row["n_attempts"]) == ("ionic_not_converged", "static", 2)


def test_raw_outputs_are_archived_with_neutral_headers(tmp_path, engine):
    engine.plans = {"relax": ["scf_not_converged"]}
    run(tmp_path, start_rows(1))
    with tarfile.open(tmp_path / "out" / "raw.tar.gz") as archive:
        members = archive.getmembers()
    names = {member.name.split("/", 1)[1] for member in members}
    assert {
        "01-relax/step.json",
        "01-relax/result.json",
        "01-relax/attempt-1.result.json",
        "02-static/custodian.json",
    } <= names
    assert all(member.mtime == 0 and member.uid == 0 and member.uname == "" for member in members)


def test_what_another_runner_computes_is_waited_for(tmp_path, engine):
    engine.plans = {"static": ["slow"]}
    threads = [
        threading.Thread(target=run, args=(tmp_path, start_rows(3)), kwargs={"out": f"out{n}", "workers": 2})
        for n in range(2)
    ]
    write_starts(tmp_path / "starts.parquet", start_rows(3))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.started == 6
    assert results(tmp_path / "out0") == results(tmp_path / "out1")


def test_waiting_for_another_runner_has_an_end(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(batch, "lock_timeout", lambda _: 0.3)
    context = calculation.Context.of(settings(), tmp_path / "work", Limits())
    start = context.start(start_rows(1)[0])
    folder = folder_of(tmp_path / "work", context.theory_id, start.calculation_id)
    with Lock.acquire(folder, 1), pytest.raises(LockedError, match="still being computed"):
        run(tmp_path, start_rows(1))


def test_being_terminated_ends_the_engines_and_loses_nothing(tmp_path, engine):
    engine.plans = {"static": ["slow"]}
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.9, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(SystemExit):
        run(tmp_path, start_rows(12))
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGTERM) == before
    run(tmp_path, start_rows(4))
    run(tmp_path / "undisturbed", start_rows(4))
    assert results(tmp_path / "out") == results(tmp_path / "undisturbed" / "out")


def test_progress_is_a_line_where_there_is_no_terminal(tmp_path, engine, capsys):
    run(tmp_path, start_rows(1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "PBE round 1 batch 0: 1 of 1 done, 0 failed\n"
