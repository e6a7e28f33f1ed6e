"""What is wrong with an attempt is read from its outputs, and each error is answered by its own rule."""

import math

import pytest
from fake_engine import FakeEngine, settings, start_rows, step

from hullforge.config import Limits
from hullforge.dft import calculation, job, recovery
from hullforge.dft.step import Frame, Geometry, StepInput, StepResult
from hullforge.errors import EngineError
from hullforge.store.journal import Lock
from hullforge.store.vocabulary import FailureReason as Reason

GEOMETRY = Geometry(
    numbers=[29, 29],
    cell=[3.6, 0, 0, 0, 3.6, 0, 0, 0, 3.6],
    positions=[[0, 0, 0], [1.8, 1.8, 0]],
    pbc=[True] * 3,
)


def an_input(**changes):
    entry = {
        "calculation_id": "k1-x", "engine": "emt", "functional": "PBE", "name": "relax", "kind": "relax",
        "geometry": GEOMETRY, "start_volume": 46.656, "physics": {}, "numerics": {},
        "fmax": 0.01, "smax": 0.001, "max_ionic_steps": 10,
    }  # fmt: skip
    return StepInput(**{**entry, **changes})


def a_frame(force=0.0, stress=0.0, energy=-1.0, geometry=GEOMETRY):
    forces = [[force, 0, 0], [0, 0, 0]]
    return Frame(geometry=geometry, energy=energy, forces=forces, stress=[0, 0, stress, 0, 0, 0])


def diagnosis(entry=None, frame=None, frames=None, returncode=0, **changes):
    frame = frame or a_frame()
    result = StepResult(**{"status": "ok", "final": frame, **changes})
    found = recovery.diagnose(entry or an_input(), result, [frame] if frames is None else frames, returncode)
    return found.code if found else None


def test_a_good_attempt_has_nothing_wrong():
    assert diagnosis() is None


def test_the_exit_code_of_a_good_result_does_not_matter():
    assert diagnosis(returncode=-11) is None


@pytest.mark.parametrize(
    ("returncode", "reason"), [(0, Reason.BAD_OUTPUT), (1, Reason.CRASHED), (-9, Reason.CRASHED)]
)
def test_no_result_is_a_crash_unless_the_process_claims_success(returncode, reason):
    assert recovery.diagnose(an_input(), None, [a_frame()], returncode).code == reason


@pytest.mark.parametrize("reason", list(Reason))
def test_an_error_of_the_engine_is_taken_at_its_word(reason):
    assert diagnosis(status="error", code=reason.value, final=None) == reason


def test_an_unknown_code_is_an_engine_error():
    assert diagnosis(status="error", code="gremlins") == Reason.ENGINE_ERROR


@pytest.mark.parametrize(("force", "stress"), [(0.0101, 0.0), (0.0, -0.00101)])
def test_a_relaxation_above_its_limits_is_not_converged_whatever_it_says(force, stress):
    assert diagnosis(frame=a_frame(force, stress)) == Reason.IONIC_NOT_CONVERGED


def test_a_relaxation_exactly_at_its_limits_is_converged():
    assert diagnosis(frame=a_frame(0.01, 0.001)) is None


def test_the_forces_of_a_static_step_are_left_to_the_protocol():
    assert diagnosis(an_input(kind="static"), a_frame(1.0, 1.0)) is None


def test_stress_along_vacuum_means_nothing():
    slab = GEOMETRY.model_copy(update={"pbc": [True, True, False]})
    assert diagnosis(frame=a_frame(stress=1.0, geometry=slab)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_found_wherever_they_are(value):
    assert diagnosis(frame=a_frame(energy=value)) == Reason.NOT_A_NUMBER
    assert diagnosis(frame=a_frame(force=value)) == Reason.NOT_A_NUMBER
    assert diagnosis(band_gap=value) == Reason.NOT_A_NUMBER
    assert diagnosis(frames=[a_frame(energy=value), a_frame()]) == Reason.NOT_A_NUMBER
    moved = GEOMETRY.model_copy(update={"cell": [value, *GEOMETRY.cell[1:]]})
    assert diagnosis(frame=a_frame(geometry=moved)) == Reason.NOT_A_NUMBER


def test_an_incomplete_or_inconsistent_result_is_bad_output():
    assert diagnosis(final=None) == Reason.BAD_OUTPUT
    assert diagnosis(frames=[]) == Reason.BAD_OUTPUT
    assert diagnosis(frames=[a_frame(energy=-1.1)]) == Reason.BAD_OUTPUT
    other = GEOMETRY.model_copy(update={"numbers": [29, 28]})
    assert diagnosis(frame=a_frame(geometry=other)) == Reason.BAD_OUTPUT
    assert diagnosis(frame=Frame(geometry=GEOMETRY, energy=-1.0)) == Reason.BAD_OUTPUT
    assert diagnosis(frame=a_frame().model_copy(update={"forces": [[0.0, 0.0, 0.0]]})) == Reason.BAD_OUTPUT


def test_a_static_step_without_forces_needs_none():
    entry = an_input(kind="static", forces=False)
    assert diagnosis(entry, Frame(geometry=GEOMETRY, energy=-1.0)) is None


def test_every_reason_has_a_policy():
    assert set(recovery.POLICIES) == set(Reason)


def test_messages_carry_no_addresses_paths_or_line_breaks(tmp_path):
    text = recovery.tidy(f"object at 0x7fdeadbeef\n in {tmp_path}/gpaw.txt " + "x" * 300, tmp_path)
    assert text.startswith("object at 0x? in ./gpaw.txt xxx")
    assert len(text) == 200


def run(tmp_path, monkeypatch, plan, limits=None, kind="relax", **changes):
    """Run one step with an engine that follows `plan`; give its record."""
    engine = FakeEngine({"only": plan})
    monkeypatch.setattr(calculation.base, "get", lambda _: engine)
    context = calculation.Context.of(settings(step("only", kind, **changes)), tmp_path, limits or Limits())
    start = context.start(start_rows(1)[0])
    with Lock.acquire(context.folder(start), 1) as lock:
        return calculation.calculate(context, start, lock).steps[0]


def codes(record):
    return [attempt.code for attempt in record.attempts]


@pytest.mark.parametrize(
    ("plan", "corrections"),
    [
        (["scf_not_converged"], [["restart=last", "mixer=1"], []]),
        (["scf_not_converged"] * 2, [["restart=last", "mixer=1"], ["restart=last", "mixer=2"], []]),
        (["ionic_not_converged"] * 3, [["restart=last"]] * 3 + [[]]),
        (["kill", "kill"], [["restart=same"]] * 2 + [[]]),
        (["out_of_memory"], [["restart=same"], []]),
        (["not_a_number"], [["restart=start"], []]),
        (
            ["kill", "scf_not_converged", "ionic_not_converged"],
            [["restart=same"], ["restart=last", "mixer=1"], ["restart=last"], []],
        ),
    ],
)
def test_errors_that_pass_are_overcome_and_recorded(tmp_path, monkeypatch, plan, corrections):
    record = run(tmp_path, monkeypatch, plan)
    assert record.reason == ""
    assert record.result.status == "ok"
    assert [attempt.corrections for attempt in record.attempts] == corrections
    assert codes(record)[-1] == ""
    assert record.drift == []


@pytest.mark.parametrize(
    ("code", "attempts"),
    [
        ("scf_not_converged", 3), ("ionic_not_converged", 4), ("out_of_memory", 2), ("not_a_number", 2),
        ("atoms_too_close", 1), ("volume_out_of_bounds", 1), ("missing_dataset", 1), ("engine_error", 1), ("bad_output", 2),
    ],
)  # fmt: skip
def test_errors_that_stay_become_the_reason(tmp_path, monkeypatch, code, attempts):
    record = run(tmp_path, monkeypatch, [code] * 20)
    assert record.reason == code
    assert codes(record) == [code] * attempts
    assert record.message == "as planned at 0x? in ."


def test_a_process_that_always_dies_has_crashed(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["kill"] * 20)
    assert record.reason == "crashed"
    assert len(record.attempts) == 3
    assert record.attempts[0].returncode == -9


def test_continuing_keeps_the_ionic_steps_so_far(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["ionic_not_converged"] * 2)
    volumes = [frame.geometry.cell[0] for frame in record.frames]
    assert len(volumes) == 3
    assert volumes == sorted(volumes)
    assert len(set(volumes)) == 3


def test_a_start_anew_forgets_the_ionic_steps_that_led_astray(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["ionic_not_converged", "not_a_number"])
    assert [attempt.code for attempt in record.attempts] == ["ionic_not_converged", "not_a_number", ""]
    assert len(record.frames) == 1
    assert record.frames[0].geometry.cell[0] == pytest.approx(3.6 * 1.001)


def test_a_silent_engine_is_ended_and_tried_once_more(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["sleep"], Limits(silence_s=1.0))
    assert codes(record) == ["hung", ""]


def test_an_engine_over_its_time_is_ended(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["sleep"] * 9, Limits(step_time_s=0.8))
    assert codes(record) == ["walltime", "walltime"]
    assert record.reason == "walltime"
    assert record.message == "more than 0.8 s in one attempt"


def test_an_engine_that_ignores_the_polite_signal_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "GRACE_S", 0.3)
    record = run(tmp_path, monkeypatch, ["stubborn"], Limits(step_time_s=1.0))
    assert codes(record) == ["walltime", ""]
    assert record.attempts[0].returncode == -9


def test_an_engine_over_its_memory_is_ended(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, ["greedy"], Limits(memory_mib=100, silence_s=10))
    assert codes(record) == ["out_of_memory", ""]
    assert record.attempts[0].max_memory_mib > 100


def test_a_change_of_physics_is_drift(tmp_path, monkeypatch):
    assert run(tmp_path, monkeypatch, ["tampered"]).drift == ["ecut=1"]


def test_outputs_of_earlier_attempts_are_kept_under_their_number(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch, ["scf_not_converged", "kill"])
    folder = next(tmp_path.glob("*/*/*/01-only"))
    names = {path.name for path in folder.iterdir()}
    assert {
        "attempt-1.result.json",
        "attempt-1.frames.jsonl",
        "result.json",
        "custodian.json",
        "accepted.json",
    } <= names
    assert "attempt-2.result.json" not in names


def test_a_command_that_is_not_there_is_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeEngine, "command", lambda *_: ["no-such-engine"])
    with pytest.raises(EngineError, match="no-such-engine"):
        run(tmp_path, monkeypatch, [])


def test_a_full_disk_is_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "FREE_DISK", 2**80)
    with pytest.raises(OSError, match="no space"):
        run(tmp_path, monkeypatch, ["kill"])
