"""With the stand-in for VASP told to fail in every way it knows, custodian's own handlers mend what can be mended.

The stand-in is not VASP: it prints VASP's words for errors, so that what is tested is how they are answered, recorded and
published, not whether VASP would then converge.
"""

import signal
import tarfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from emt_batch import kill_tree
from vasp_batch import execution, launch, plan, run, settings, start_rows

from hullforge.dft import batch
from hullforge.errors import EngineError, PausedError
from hullforge.store import structures

#: Each fault that passes: the error it leaves, one of its corrections, what drifts from the protocol.
PASSING = {
    "zbrent": ("numerics:zbrent", "CONTCAR=copied to POSCAR", []),
    "brmix": ("numerics:brmix", "ISTART=1", []),
    # Custodian's own handler falls over an OUTCAR that ends so early; the rest of its answer is given for it.
    "edddav": ("numerics:edddav", "ALGO=All", []),
    "eddrmm": ("numerics:eddrmm", "ALGO=Normal", []),
    "pricel": ("symmetry:pricel", "SYMPREC=1e-08", ["ISYM=0", "SYMPREC=1e-08"]),
    "posmap": ("symmetry:posmap", "SYMPREC=1e-06", ["SYMPREC=1e-06"]),
    "rot_matrix": ("symmetry:rot_matrix", "ISYM=0", ["ISYM=0"]),
    "tetirr": ("symmetry:tet+tetirr", "ISMEAR=0", ["ISMEAR=0", "SIGMA=0.05"]),
    "rspher": ("numerics:rspher", "LREAL=False", ["LREAL=False"]),
    "zpotrf": ("numerics:zpotrf", "POTIM=0.25", ["ISYM=0"]),
    "brions": ("numerics:brions", "POTIM=0.6", []),
    "too_few_bands": ("numerics:too_few_bands", "NBANDS=", []),
    "bravais": ("symmetry:bravais", "SYMPREC=1e-06", ["SYMPREC=1e-06"]),
    # Seen by custodian's NonConverging while it runs, or by its Unconverged at the end; both answer the same.
    "nelm": ("scf_not_converged:", "ALGO=Normal", []),
    "nsw": ("ionic_not_converged:Unconverged", "IBRION=1", []),
    # A jump to a positive energy is a jump first.
    "positive": ("numerics:POTIM", "POTIM=0.25", []),
    "nan": ("not_a_number", "restart=start", []),
    "hang": ("hung:Frozen_job", "ALGO=Normal", []),
    "killed": ("crashed", "restart=same", []),
    "unknown": ("crashed", "restart=same", []),
    "truncated": ("bad_output", "restart=same", []),
    "nothing": ("bad_output", "restart=same", []),
    "memory": ("out_of_memory:out_of_memory", "KPAR=1", []),
    "explode": ("volume_out_of_bounds", "POTIM=0.1", []),
    # Not the structure's fault: no trace of them.
    "node": None,
    "disk": None,
}
#: Faults that stay, and the reason of the row they end in.
LASTING = {
    "tetirr": "symmetry",
    "nan": "not_a_number",
    "nothing": "bad_output",
    "unknown": "crashed",
    "node": "node_failure",
}


def formula(row):
    counts = Counter(structures.SYMBOLS[number] for number in row["numbers"])
    return "".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))


def different_rows():
    return {formula(row): row for row in reversed(start_rows(49))}


@pytest.mark.slow
def test_every_fault_that_passes_is_answered_by_its_handler_and_recorded(tmp_path, monkeypatch):
    rows = different_rows()
    kinds = dict(zip(rows, PASSING, strict=False))
    assert set(kinds.values()) == set(PASSING)
    plan(tmp_path, monkeypatch, [{"formula": name, "faults": [kind]} for name, kind in kinds.items()])
    found = run(tmp_path, settings(steps=1), [rows[name] for name in kinds], workers=3, silence_s=4)
    assert not found["failures"]
    seen = {kinds[formula(row)]: row for row in found["calculations"]}
    for kind, expected in PASSING.items():
        row = seen[kind]
        assert row["n_attempts"] == (2 if expected else 1), kind
        if expected is None:
            assert row["errors"] == row["corrections"] == row["protocol_drift"] == [], kind
            continue
        error, correction, drift = expected
        [met] = row["errors"]
        assert met == f"relax:{error}" or (error.endswith(":") and met.startswith(f"relax:{error}")), kind
        assert any(entry.startswith(f"relax:{correction}") for entry in row["corrections"]), kind
        assert row["protocol_drift"] == [f"relax:{change}" for change in drift], kind
        assert row["max_force"] < 0.01
    # Ionic steps before the error are kept where the next attempt goes on from them.
    frames = Counter(frame["calculation_id"] for frame in found["frames"])
    assert frames[seen["nsw"]["calculation_id"]] == seen["nsw"]["n_ionic_steps"] > 60


def test_faults_that_stay_become_rows_and_others_go_on(tmp_path, monkeypatch):
    rows = different_rows()
    kinds = dict(zip(rows, [*LASTING, "", "nelm_inside"], strict=False))
    orders = [{"formula": name, "faults": [kind], "times": 50} for name, kind in kinds.items()]
    plan(tmp_path, monkeypatch, orders)
    found = run(tmp_path, settings(steps=1), [rows[name] for name in kinds], silence_s=20)
    reasons = {kinds[formula(row)]: row["reason"] for row in found["failures"]}
    assert reasons == LASTING
    assert all(row["message"] and row["errors"] for row in found["failures"])
    good = {kinds[formula(row)]: row for row in found["calculations"]}
    assert set(good) == {"", "nelm_inside"}
    assert good["nelm_inside"]["flags"] == ["relax:unconverged_ionic_steps=1"]
    assert good[""]["flags"] is None
    loose = good["nelm_inside"]["calculation_id"]
    flags = [f["electronic_converged"] for f in found["frames"] if f["calculation_id"] == loose]
    assert flags[1] is False
    assert all(flags[:1] + flags[2:])
    with tarfile.open(tmp_path / "out" / "raw.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"INCAR", "vasprun.xml", "OUTCAR", "custodian.json", "POTCAR.spec"} <= names
    assert not {"POTCAR", "WAVECAR", "CHGCAR"} & names


def test_what_left_the_protocol_is_told_and_the_machine_is_not(tmp_path, monkeypatch):
    rows = different_rows()
    orders = [
        {"match": "relax", "formula": "Al1Cu1", "faults": ["brmix"] * 3},
        {"match": "relax", "formula": "Al1Ni1", "faults": ["moment"]},
        {"match": "relax", "formula": "Ag1Al1", "faults": ["memory"]},
    ]
    plan(tmp_path, monkeypatch, orders)
    # Four cores, and a launcher that only starts the program.
    how = execution(cores_per_calculation=4, launcher=("env", "CORES={cores}"))
    chosen = [rows[order["formula"]] for order in orders]
    found = {formula(row): row for row in run(tmp_path, settings(), chosen, how=how)["calculations"]}
    mixing = found["Al1Cu1"]
    assert mixing["protocol_drift"] == ["relax:KPOINTS.style=Monkhorst"]
    assert "relax:IMIX=1" in mixing["corrections"]
    # Ionic steps of the Gamma grid are no frames of a calculation on another one, and the static step is the protocol's.
    assert mixing["steps"] == ["relax", "static"]
    assert found["Al1Ni1"]["flags"] == ["relax:moments_flipped"]
    assert found["Ag1Al1"]["corrections"] == []
    for incar in (tmp_path / "work").rglob("INCAR"):
        assert {"KPAR", "NCORE"} <= {line.split("=")[0].strip() for line in incar.read_text().splitlines()}


def test_a_machine_that_never_answers_is_an_error_and_no_row(tmp_path, monkeypatch):
    plan(tmp_path, monkeypatch, [{"faults": ["node"], "times": 50}])
    with pytest.raises(EngineError, match="no calculation of the batch left any output"):
        run(tmp_path, settings(steps=1), start_rows(2))
    assert not (tmp_path / "out" / "failures.parquet").exists()
    plan(tmp_path, monkeypatch, [])
    assert len(run(tmp_path, settings(steps=1), start_rows(2))["calculations"]) == 2


def has_ionic_step(folder):
    found = False
    for path in (folder / "work").rglob("OSZICAR"):
        with suppress(FileNotFoundError):  # a step's folder may be tidied up meanwhile
            found |= "F= " in path.read_text()
    return found


def test_at_the_end_of_the_allocation_vasp_stops_after_its_step_and_the_next_goes_on(tmp_path, monkeypatch):
    class Closing(batch.Clock):
        """The allocation ends as soon as a relaxation has got somewhere."""

        def is_closing(self):
            return has_ionic_step(tmp_path)

    monkeypatch.setenv("VASP_STAND_IN_DELAY", "1")
    rows = start_rows(3)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "Clock", Closing)
        with pytest.raises(PausedError, match="run the same command again"):
            run(tmp_path, settings(steps=1), rows, workers=2)
    begun = list((tmp_path / "work").rglob("saved.json"))
    assert 1 <= len(begun) <= 2, "no new structure was started"
    monkeypatch.setenv("VASP_STAND_IN_DELAY", "0")
    found = run(tmp_path, settings(steps=1), rows)
    assert len(found["calculations"]) == 3
    assert all(row["errors"] == [] and row["n_attempts"] == 1 for row in found["calculations"])
    # They went on from where they had stopped, with the ionic steps so far: the start is computed once.
    (tmp_path / "undisturbed").mkdir()
    whole = run(tmp_path / "undisturbed", settings(steps=1), rows)
    for row, undisturbed in zip(found["calculations"], whole["calculations"], strict=True):
        assert row["energy"] == pytest.approx(undisturbed["energy"], abs=1e-3)
    first = Counter(round(f["energy"], 6) for f in whole["frames"] if f["step"] == 0)
    seen = Counter(round(f["energy"], 6) for f in found["frames"])
    assert all(seen[energy] == count for energy, count in first.items())


@pytest.mark.parametrize("end", ["kill", signal.SIGTERM, signal.SIGUSR1])
def test_however_a_batch_ends_the_next_goes_on_from_its_ionic_steps(tmp_path, end):
    rows = start_rows(1)
    process = launch(tmp_path, settings(steps=1), rows, VASP_STAND_IN_DELAY="1.5")
    deadline = time.monotonic() + 120
    while not has_ionic_step(tmp_path):
        assert process.poll() is None, (tmp_path / "launched.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if end == "kill":
        kill_tree(process)
    else:
        process.send_signal(end)
        assert process.wait(60) != 0
    assert not (tmp_path / "out" / "calculations.parquet").exists()
    found = run(tmp_path, settings(steps=1), rows)
    [row] = found["calculations"]
    assert (row["errors"], row["n_attempts"]) == ([], 1)
    [place] = (tmp_path / "work").rglob("01-relax")
    assert (place / "attempt-1.OSZICAR").exists(), "the interrupted attempt is kept, not repeated"
    first = [frame["energy"] for frame in found["frames"]]
    assert len(set(first[1:])) == len(first[1:])
    assert row["n_ionic_steps"] == len(first)


def test_a_scratch_disk_holds_nothing_afterwards_and_changes_no_result(tmp_path):
    entry, rows = settings(steps=1), start_rows(2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    here = run(tmp_path / "a", entry, rows)
    there = run(tmp_path / "b", entry, rows, how=execution(scratch=tmp_path / "scratch"))
    assert there["calculations"] == here["calculations"]
    assert not list((tmp_path / "scratch").rglob("OUTCAR"))
    assert len(list((tmp_path / "b" / "work").rglob("OUTCAR"))) == 2


def test_the_time_of_a_structure_is_limited_over_all_its_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("VASP_STAND_IN_DELAY", "0.4")
    found = run(tmp_path, settings(steps=1), start_rows(1), structure_time_s=0.5)
    [row] = found["failures"]
    assert row["reason"] == "walltime"
    assert "in all steps of the structure" in row["message"]
    assert row["n_attempts"] == 1
