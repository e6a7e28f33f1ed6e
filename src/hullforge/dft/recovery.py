# ruff: noqa: ARG002 -- custodian passes the directory, which the run knows
"""What may be done about a failed attempt at a step: custodian's handlers and validator, and the rules they follow.

Comes in: a `StepRun` (the folder of a step and its attempts so far); goes out: corrections in `step.json` and a
record of each error. `diagnose` looks at the outputs themselves, never at a log or an exit code alone. A
correction may change numerics, the geometry to go on from, or nothing (a plain retry); never the physics.
"""

import errno
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from custodian.custodian import CustodianError, ErrorHandler, ValidationError, Validator

from hullforge.dft.engines.own_files import Restart
from hullforge.dft.job import MONITORED, Diagnosis, StepRun, StoppedError
from hullforge.dft.step import Frame, StepInput, StepResult, read_frames, read_input, read_result, write_input
from hullforge.store.vocabulary import FailureReason

#: Slack of comparisons between an engine's limits and ours, relative.
SLACK = 1e-6
#: Largest difference between a result's energy and that of its last frame, eV.
ENERGY_SLACK = 1e-6
#: A crash with less free disk than this is the machine's fault, bytes.
FREE_DISK = 2**20
#: Exit codes of processes that were told to end from outside.
OUTSIDE_SIGNALS = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
#: Seconds to wait after such an end for being told the same.
PATIENCE_S = 1.0


@dataclass(frozen=True)
class Policy:
    """How often an error may be answered, and where the next attempt starts.

    `retries` counts answers without a rung of the engine's ladder; rungs come first. `restart` is `same` (the
    geometry of the failed attempt), `last` (its last whole frame, else `same`) or `start` (the step's first).
    """

    retries: int
    restart: Restart


REASONS = {reason.value: reason for reason in FailureReason}

POLICIES: dict[FailureReason, Policy] = {
    # Without another mixer or eigensolver the same electronic steps fail again, so only rungs count.
    FailureReason.SCF_NOT_CONVERGED: Policy(0, "last"),
    FailureReason.IONIC_NOT_CONVERGED: Policy(3, "last"),
    # What an engine's own handlers have no answer to, nobody has.
    FailureReason.NUMERICS: Policy(0, "last"),
    FailureReason.SYMMETRY: Policy(0, "same"),
    FailureReason.REFUSED: Policy(0, "same"),
    # Not the structure's fault: these attempts are not in its record.
    FailureReason.NODE_FAILURE: Policy(2, "same"),
    # Crashes are often the node's fault and gone the next time.
    FailureReason.CRASHED: Policy(2, "same"),
    FailureReason.OUT_OF_MEMORY: Policy(1, "same"),
    FailureReason.WALLTIME: Policy(1, "last"),
    FailureReason.HUNG: Policy(1, "last"),
    # The path led astray: back to the start, with the engine's damped steps; without those it would go the same way.
    FailureReason.ATOMS_TOO_CLOSE: Policy(0, "start"),
    FailureReason.VOLUME_OUT_OF_BOUNDS: Policy(0, "start"),
    FailureReason.NOT_A_NUMBER: Policy(1, "start"),
    FailureReason.BAD_OUTPUT: Policy(1, "same"),
    FailureReason.ENGINE_ERROR: Policy(0, "same"),
    FailureReason.MISSING_DATASET: Policy(0, "same"),
    FailureReason.NOT_IN_TABLE: Policy(0, "same"),
}


def max_force(forces: Sequence[Sequence[float]]) -> float:
    """Largest norm of a force (N, 3), eV/angstrom."""
    return float(np.linalg.norm(np.asarray(forces, dtype=float), axis=1).max())


def max_stress(stress: Sequence[float], pbc: Sequence[bool] = (True, True, True)) -> float:
    """Largest absolute component of a stress (6: xx, yy, zz, yz, xz, xy), eV/angstrom^3.

    Components along directions that are not periodic mean nothing and are left out.
    """
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    return max(
        (abs(value) for value, (i, j) in zip(stress, pairs, strict=True) if pbc[i] and pbc[j]), default=0.0
    )


def exceeds(frame: Frame, fmax: float, smax: float) -> bool:
    """Whether forces or stress of a frame are above the limits; what the frame lacks can't be."""
    if frame.forces is not None and max_force(frame.forces) > fmax * (1 + SLACK):
        return True
    return frame.stress is not None and max_stress(frame.stress, frame.geometry.pbc) > smax * (1 + SLACK)


def diagnose(
    step: StepInput, result: StepResult | None, frames: Sequence[Frame], returncode: int
) -> Diagnosis | None:
    """Say what is wrong with an attempt that has ended, from its outputs; None when it is a good one.

    A relaxation is good when forces and stress of its final frame are below the step's limits. A static step is
    good whatever its forces are: what follows from them is the protocol's business.
    """
    if result is None:
        if returncode == 0:
            return Diagnosis(FailureReason.BAD_OUTPUT, "the process ended well but left no whole result")
        return Diagnosis(
            FailureReason.CRASHED, f"the process ended with code {returncode} and left no result"
        )
    if result.status == "error":
        code = REASONS.get(result.code, FailureReason.ENGINE_ERROR)
        return Diagnosis(code, result.message or result.code)
    bad = _incomplete(step, result, frames)
    if bad:
        return Diagnosis(FailureReason.BAD_OUTPUT, bad)
    if not _finite(result, frames):
        return Diagnosis(FailureReason.NOT_A_NUMBER, "a number in the result is NaN or infinite")
    assert result.final is not None
    if abs(result.final.energy - frames[-1].energy) > ENERGY_SLACK:
        return Diagnosis(FailureReason.BAD_OUTPUT, "the energy is not that of the last ionic step")
    if step.kind == "relax" and exceeds(result.final, step.fmax, step.smax):
        return Diagnosis(
            FailureReason.IONIC_NOT_CONVERGED, "forces or stress are above the limits of the step"
        )
    return None


def _incomplete(step: StepInput, result: StepResult, frames: Sequence[Frame]) -> str:
    """Say what an allegedly good result lacks; empty when nothing."""
    final = result.final
    if final is None:
        return "the result has no final geometry"
    if not frames:
        return "no ionic step was written"
    if final.geometry.numbers != step.geometry.numbers or len(final.geometry.positions) != len(
        step.geometry.numbers
    ):
        return "the final geometry has other atoms than the start"
    if len(final.geometry.cell) != 9:
        return "the final geometry has no cell"
    if step.kind == "relax" or step.forces:
        if final.forces is None or final.stress is None:
            return "forces or stress are missing"
        if np.shape(final.forces) != (len(step.geometry.numbers), 3) or len(final.stress) != 6:
            return "forces or stress have the wrong shape"
    return ""


def _finite(result: StepResult, frames: Sequence[Frame]) -> bool:
    scalars = (result.total_magnetization, result.band_gap, result.dos_at_fermi, result.encut)
    if not all(value is None or np.isfinite(value) for value in scalars):
        return False
    last = [result.final] if result.final else []
    return all(is_finite(frame) for frame in (*frames, *last))


def is_finite(frame: Frame) -> bool:
    """Whether all numbers of a frame are numbers."""
    arrays = (
        frame.energy,
        frame.forces,
        frame.stress,
        frame.geometry.cell,
        frame.geometry.positions,
        frame.geometry.magmoms,
    )
    return all(array is None or np.isfinite(np.asarray(array, dtype=float)).all() for array in arrays)


def look(run: StepRun) -> Diagnosis | None:
    """Diagnose the present attempt of `run` once it has ended; remembered until the next attempt begins.

    Raises `OSError` (no space) when a process that left no result met a full disk.
    """
    if not run.looked:
        if run.returncode in OUTSIDE_SIGNALS:
            # Whoever ends the engine may be ending the whole batch; the runner's own signal is then on its way.
            run.running.stopped.wait(PATIENCE_S)
        run.check_not_stopped()
        run.collect()
        step = read_input(run.folder)
        result = read_result(run.folder)
        run.diagnosis = diagnose(step, result, read_frames(run.folder), run.returncode)
        if result is None and run.returncode != 0 and (fault := run.machine_fault()):
            run.diagnosis = Diagnosis(
                FailureReason.NODE_FAILURE, f"the process ended with code {run.returncode} {fault}"
            )
        if run.diagnosis is not None and run.running.closing.is_set():
            # Told to end early: what is missing says nothing, the next runner goes on from here.
            raise StoppedError
        run.looked = True
        if result is None and shutil.disk_usage(run.folder).free < FREE_DISK:
            raise OSError(errno.ENOSPC, "no space left for the results of calculations", str(run.folder))
    return run.diagnosis


class Recovery(ErrorHandler):
    """Answer one kind of error: record it, climb the engine's ladder, choose where the next attempt starts.

    Every attempt has at most one error: the first handler that fires takes it.
    """

    def __init__(self, run: StepRun, code: FailureReason) -> None:
        self.run = run
        self.code = code
        self.is_monitor = code in MONITORED
        self.policy = POLICIES[code]
        self.answered = 0

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this handler."""
        return {"@module": type(self).__module__, "@class": type(self).__name__, "code": self.code.value}

    def check(self, directory: str = "./") -> bool:
        """Whether this error has happened and nobody has taken it yet."""
        run = self.run
        if run.attempt.code:
            return False
        if run.is_running():
            run.check_not_stopped()
            return self.is_monitor and run.watch(self.code) is not None
        found = look(run)
        return found is not None and found.code == self.code

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Write the next attempt's input; `actions` is None when nothing is left to try."""
        run = self.run
        watched = run.watched if self.is_monitor else None
        found = watched if watched is not None and watched.code == self.code else look(run)
        assert found is not None
        run.attempt.code = self.code.value
        run.attempt.message = tidy(found.message, run.folder)
        actions = self.next_attempt()
        return {"errors": [f"{self.code.value}: {run.attempt.message}"], "actions": actions}

    def next_attempt(self) -> list[dict[str, Any]] | None:
        """Write the next attempt's input; None when nothing is left to try."""
        run = self.run
        if self.code == FailureReason.WALLTIME and run.time_is_up():
            return None
        rungs = run.engine.ladder(self.code.value)
        if self.answered >= max(len(rungs), self.policy.retries):
            return None
        changes = rungs[self.answered] if self.answered < len(rungs) else {}
        self.answered += 1
        step = read_input(run.folder)
        restart, geometry = self._restart(step)
        step.geometry = geometry
        step.numerics = {**step.numerics, **changes}
        write_input(run.folder, step)
        run.engine.amend(run.folder, step, changes, restart)
        run.attempt.corrections = [
            f"restart={restart}",
            *(f"{key}={_plain(value)}" for key, value in changes.items()),
        ]
        run.save(run, is_open=False)
        return [{"restart": restart, **changes}]

    def _restart(self, step: StepInput) -> tuple[Restart, Any]:
        run = self.run
        run.collect()
        if self.policy.restart == "start":
            run.kept_frames.clear()
            return "start", run.start
        if self.policy.restart == "last" and step.kind == "relax":
            frames = [frame for frame in read_frames(run.folder) if is_finite(frame)]
            if frames:
                run.kept_frames.extend(frames)
                return "last", frames[-1].geometry
        return "same", step.geometry


class ConvergedValidator(Validator):
    """Last word on an attempt that no handler objected to: its outputs are those of a converged step."""

    def __init__(self, run: StepRun) -> None:
        self.run = run

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this validator."""
        return {"@module": type(self).__module__, "@class": type(self).__name__}

    def check(self, directory: str = "./") -> bool:
        """Whether the outputs are bad (custodian's sense of the word)."""
        step, result = read_input(self.run.folder), read_result(self.run.folder)
        return diagnose(step, result, read_frames(self.run.folder), self.run.returncode) is not None


def handlers(run: StepRun) -> list[ErrorHandler]:
    """Give the engine's own handlers, then one per kind of error; the first that fires takes the attempt's error."""
    return [*run.engine.handlers(run), *(Recovery(run, code) for code in POLICIES)]


def failure_of(error: CustodianError, run: StepRun) -> Diagnosis:
    """Give the reason behind what custodian raised: the last attempt's error, in our vocabulary."""
    if run.attempt.code:
        return Diagnosis(REASONS[run.attempt.code], run.attempt.message)
    if isinstance(error, ValidationError):
        found = look(run) or Diagnosis(
            FailureReason.BAD_OUTPUT, "the outputs are not those of a converged step"
        )
    else:
        found = Diagnosis(FailureReason.ENGINE_ERROR, str(error))
    run.attempt.code, run.attempt.message = found.code.value, tidy(found.message, run.folder)
    return Diagnosis(found.code, run.attempt.message)


def tidy(message: str, folder: Path) -> str:
    """Make an engine's words fit for a table: one line, no addresses or paths of this machine, 200 characters."""
    text = message.replace(str(folder), ".")
    text = re.sub(r"0x[0-9a-fA-F]{4,}", "0x?", text)
    return " ".join(text.split())[:200]


def _plain(value: Any) -> str:
    return str(value) if not isinstance(value, dict) else ",".join(f"{k}:{value[k]}" for k in sorted(value))
