"""One calculation from its start to its outcome: the steps of its functional, one after the other, under custodian.

Comes in: a starting geometry and a `Context`; goes out: an `Outcome`, committed to the calculation's folder, so
that what is finished is never computed again. A step killed from outside begins anew and leaves no trace in the
record, which is why interrupted and undisturbed runs give the same rows.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from custodian import Custodian
from custodian.custodian import CustodianError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hullforge.config import DftSettings, Execution, Limits
from hullforge.dft import workplace
from hullforge.dft.engines import base
from hullforge.dft.job import Attempt, Running, StepJob, StepRun, StoppedError, no_save
from hullforge.dft.protocol import Protocol, Step
from hullforge.dft.recovery import (
    ConvergedValidator,
    exceeds,
    failure_of,
    handlers,
    look,
    tidy,
)
from hullforge.dft.step import (
    Frame,
    Geometry,
    StepInput,
    StepResult,
    read_frames,
    read_input,
    read_result,
    write_input,
)
from hullforge.errors import EngineError
from hullforge.store import ids, journal
from hullforge.store.structures import composition_columns
from hullforge.store.vocabulary import FailureReason

#: Seconds between two looks at a running process; half of it is lost per attempt on average.
POLL_S = 0.05
#: Shortest distance over the sum of the two radii below which nothing is spent on a start.
MIN_DISTANCE_RATIO = 0.5


class StepRecord(BaseModel):
    """How one step went: its result and all its ionic steps, or the reason why there are none."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    input_hash: str
    result: StepResult | None = None
    frames: list[Frame] = Field(default_factory=list)
    attempts: list[Attempt] = Field(default_factory=list)
    drift: list[str] = Field(
        default_factory=list, description="'setting=value' of the physics that recovery changed"
    )
    flags: list[str] = Field(
        default_factory=list, description="what a reader of an accepted step should know"
    )
    reason: str = Field(default="", description="a FailureReason; empty when the step was accepted")
    message: str = ""


class Outcome(BaseModel):
    """How a calculation went: its steps in order, and the reason when it failed."""

    model_config = ConfigDict(extra="forbid")

    calculation_id: str
    steps: list[StepRecord] = Field(default_factory=list)
    reason: str = Field(default="", description="a FailureReason; empty when the calculation converged")
    protocol_step: str = Field(default="", description="step that failed")
    message: str = ""


@dataclass(frozen=True)
class Start:
    """Where a calculation starts: its id, the row of the table it comes from, and the geometry."""

    calculation_id: str
    row: dict[str, Any]
    geometry: Geometry
    #: What a retry changes: numerics, limits, max_ionic_steps.
    retry: dict[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> list[str]:
        """What a retry changes, 'setting=value'; limits decide no result and are left out."""
        changed = dict(self.retry.get("numerics", {}))
        if self.retry.get("max_ionic_steps"):
            changed["max_ionic_steps"] = self.retry["max_ionic_steps"]
        return [f"{key}={json.dumps(value)}" for key, value in sorted(changed.items())]


@dataclass(frozen=True)
class Site:
    """Where and with what a step runs: its folder, that of the step before, lock, planned failures, time spent so far."""

    folder: Path
    previous: Path | None
    lock: journal.Lock
    faults: list[str]
    spent_s: float = 0.0


@dataclass(frozen=True)
class Context:
    """What the calculations of a batch share."""

    settings: DftSettings
    protocol: Protocol
    engine: base.Engine
    theory_id: str
    work: Path
    limits: Limits
    running: Running
    execution: Execution = field(default_factory=Execution)

    @classmethod
    def of(
        cls, settings: DftSettings, work: Path, limits: Limits, execution: Execution | None = None
    ) -> "Context":
        """Make the context of a batch; raises `EngineError` or `ProtocolError` for what can't be."""
        protocol = Protocol.model_validate(settings.protocol)
        return cls(
            settings=settings,
            protocol=protocol,
            engine=base.get(settings.engine.name),
            theory_id=protocol.theory_id(settings.functional, settings.engine),
            work=work.resolve(),
            limits=limits,
            running=Running(),
            execution=execution or Execution(),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the functional, as the engine takes them."""
        return self.protocol.steps(self.settings.functional, self.engine.name)

    def start(self, row: dict[str, Any]) -> Start:
        """Make a start from a row with the structure columns, `structure_id` and `candidate_id`."""
        geometry = Geometry(
            numbers=list(row["numbers"]),
            cell=list(row["cell"]),
            positions=[list(xyz) for xyz in row["positions"]],
            pbc=list(row["pbc"]),
        )
        name = ids.calculation_id(
            self.theory_id, row["candidate_id"], row["structure_id"], row.get("supersedes")
        )
        return Start(name, row, geometry, json.loads(row.get("settings") or "{}"))

    def folder(self, start: Start) -> Path:
        """Folder of a calculation."""
        return journal.folder_of(self.work, self.theory_id, start.calculation_id)

    def parent(self, start: Start) -> Path | None:
        """Folder of the last step of the calculation that `start` comes from, where it is still there."""
        theory, name = start.row.get("theory_id"), start.row.get("calculation_id")
        if not theory or not name:
            return None
        return max(journal.folder_of(self.work, theory, name).glob("[0-9]*-*"), default=None)

    def faults(self, start: Start) -> dict[str, list[str]]:
        """Planned failures of a calculation, by step; only the engine emt has any."""
        if not self.settings.engine.faults.share:
            return {}
        from hullforge.dft.engines.emt import planned_faults

        return planned_faults(
            self.settings.engine.faults, start.calculation_id, [step.name for step in self.steps]
        )

    def input_hash(self, start: Start) -> str:
        """Hash of everything that the outcome depends on: theory, all step limits, geometry, planned failures."""
        return ids.content_id(
            "i1",
            {
                "theory": self.protocol.theory(self.settings.functional, self.settings.engine),
                "max_ionic_steps": [step.max_ionic_steps for step in self.steps],
                "start": start.geometry.model_dump(mode="json"),
                "faults": self.faults(start),
                **({"retry": start.changes} if start.changes else {}),
            },
        )


def finished(context: Context, start: Start) -> Outcome | None:
    """Give the committed outcome of a calculation, or None when there is none for this very input."""
    record = journal.recall(context.folder(start), journal.DONE_FILE, context.input_hash(start))
    try:
        return Outcome.model_validate(record) if record is not None else None
    except ValidationError:
        return None


def calculate(context: Context, start: Start, lock: journal.Lock) -> Outcome:
    """Carry out a calculation whose folder is locked, and commit its outcome.

    Steps that were accepted earlier are not run again. Raises `EngineError` or `OSError` for the machine's
    faults, `StoppedError` when the batch is being ended; whatever befalls the structure is in the outcome.
    An outcome of node failures is given, but not committed.
    """
    outcome = finished(context, start)
    if outcome is not None:
        return outcome
    folder = context.folder(start)
    outcome = _too_close(context, start) or _run_steps(context, start, folder, lock)
    if outcome.reason == FailureReason.NODE_FAILURE:
        return outcome
    journal.commit(folder, journal.DONE_FILE, context.input_hash(start), outcome.model_dump(mode="json"))
    return outcome


def warm_up(context: Context, start: Start) -> None:
    """Do once, in the main thread, what calculations do first in theirs, and forget it.

    ASE's modules import each other in circles: two threads that load them at the same time both fail.
    """
    with contextlib.suppress(EngineError, ValueError, ArithmeticError, LookupError):
        _too_close(context, start)
        _input(context, start, context.steps[0], start.geometry)


def _too_close(context: Context, start: Start) -> Outcome | None:
    """Refuse a start that no engine can make sense of, before anything is spent."""
    from hullforge.crystals.geometry import shortest_distance_ratio

    geometry = start.geometry
    cell, positions = np.reshape(geometry.cell, (3, 3)), np.reshape(geometry.positions, (-1, 3))
    if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        reason, message = (
            FailureReason.NOT_A_NUMBER,
            "a coordinate or a lattice vector of the start is NaN or infinite",
        )
    else:
        ratio = shortest_distance_ratio(geometry.numbers, cell, positions, geometry.pbc)
        if ratio >= MIN_DISTANCE_RATIO:
            return None
        reason = FailureReason.ATOMS_TOO_CLOSE
        message = f"two atoms of the start are at {ratio:.3g} times the sum of their radii"
    return Outcome(
        calculation_id=start.calculation_id,
        reason=reason.value,
        protocol_step=context.steps[0].name,
        message=message,
    )


def _run_steps(context: Context, start: Start, folder: Path, lock: journal.Lock) -> Outcome:
    outcome = Outcome(calculation_id=start.calculation_id)
    for record in _steps(context, start, folder, lock):
        outcome.steps.append(record)
        if record.reason:
            outcome.reason, outcome.protocol_step, outcome.message = (
                record.reason,
                record.name,
                record.message,
            )
            break
    return outcome


def _steps(context: Context, start: Start, folder: Path, lock: journal.Lock) -> Iterator[StepRecord]:
    """Run the functional's steps, each from the last one's final geometry; ends after a step that failed."""
    geometry, number = start.geometry, 0
    faults = context.faults(start)
    last_relax: Step | None = None
    previous, spent = context.parent(start), 0.0

    def run(step: Step) -> StepRecord:
        nonlocal number, previous, spent
        if context.running.closing.is_set():
            raise StoppedError
        number += 1
        place = folder / f"{number:02d}-{step.name}"
        site = Site(place, previous, lock, faults.get(step.name, []), spent)
        record = run_step(context, start, step, geometry, site)
        previous, spent = place, spent + sum(attempt.walltime_s for attempt in record.attempts)
        return record

    for step in context.steps:
        record = run(step)
        if record.result is not None and record.result.final is not None:
            geometry = record.result.final.geometry
            if step.kind == "static" and step.forces and exceeds(record.result.final, step.fmax, step.smax):
                if step.stricter:
                    yield record
                    relax, again = _stricter(step, last_relax)
                    record = run(relax)
                    if record.result is not None and record.result.final is not None:
                        yield record
                        geometry = record.result.final.geometry
                        record = run(again)
                final = record.result.final if record.result is not None else None
                if final is not None and exceeds(final, step.fmax, step.smax):
                    record = record.model_copy(
                        update={
                            "reason": FailureReason.IONIC_NOT_CONVERGED.value,
                            "message": "forces or stress of the static step are above its limits",
                        }
                    )
        else:
            record = (
                record
                if record.reason
                else record.model_copy(update={"reason": FailureReason.BAD_OUTPUT.value})
            )
        last_relax = step if step.kind == "relax" else last_relax
        yield record


def _stricter(static: Step, last_relax: Step | None) -> tuple[Step, Step]:
    """Make the second relaxation and the second static step after a static one found too large forces.

    The relaxation repeats the last one before it (the static's own grid where there was none), with the smaller
    of both steps' limits times `stricter`.
    """
    like = last_relax or static
    relax = like.model_copy(
        update={
            "name": f"{static.name}_relax",
            "kind": "relax",
            "fmax": min(like.fmax, static.fmax) * static.stricter,
            "smax": min(like.smax, static.smax) * static.stricter,
        }
    )
    return relax, static.model_copy(update={"name": f"{static.name}_again"})


def run_step(
    context: Context,
    start: Start,
    step: Step,
    geometry: Geometry,
    site: Site,
) -> StepRecord:
    """Run one step under custodian, or take its record from its folder when it was accepted before."""
    folder = site.folder
    try:
        entry = _input(context, start, step, geometry)
    # Settings that can't be made for this structure are its own failure, not the batch's.
    except (EngineError, ValueError, ArithmeticError, LookupError) as error:
        return StepRecord(
            name=step.name,
            kind=step.kind,
            input_hash="",
            reason=FailureReason.ENGINE_ERROR.value,
            message=tidy(f"no input can be made: {error}", folder),
        )
    digest = ids.content_id("i1", entry.model_dump(mode="json"))
    if (accepted := _accepted(folder, digest)) is not None:
        return accepted
    record = StepRecord(name=step.name, kind=step.kind, input_hash=digest)
    with workplace.of(context, start, folder) as place:
        saved = workplace.saved(place, digest) if context.engine.resumes else None
        if saved is None:
            journal.clear(place)
            write_input(place, entry)
        run = StepRun(
            place,
            context.engine,
            context.limits.model_copy(update=start.retry.get("limits", {})),
            site.lock,
            context.running,
            execution=context.execution,
            previous=site.previous,
            spent_s=site.spent_s,
            save=workplace.saver(digest) if context.engine.resumes else no_save,
            faults=site.faults,
        )
        if saved is not None:
            workplace.resume(run, saved, entry.geometry)
        context.running.enter(run)
        try:
            failure = _under_custodian(run)
        finally:
            context.running.leave(run)
            run.close()
        spent = context.engine.spent_files(context.settings.functional, context.protocol)
        for name in (*context.engine.private_files, *spent):
            (place / name).unlink(missing_ok=True)
        record.attempts = run.attempts
        if failure is None:
            record.result = read_result(place)
            record.frames = [*run.kept_frames, *read_frames(place)]
            physics = read_input(place).physics
            record.drift = [
                f"{key}={physics.get(key)}"
                for key in sorted({*physics, *run.physics})
                if physics.get(key) != run.physics.get(key)
            ] + context.engine.drift(place)
            record.flags = context.engine.flags(place)
    if failure is None:
        journal.commit(folder, journal.ACCEPTED_FILE, digest, record.model_dump(mode="json"))
    else:
        record.reason, record.message = failure.code.value, failure.message
    return record


def _input(context: Context, start: Start, step: Step, geometry: Geometry) -> StepInput:
    engine, protocol, functional = context.engine, context.protocol, context.settings.functional
    return StepInput(
        calculation_id=start.calculation_id,
        engine=engine.name,
        functional=functional,
        name=step.name,
        kind=step.kind,
        geometry=geometry,
        start_volume=abs(float(np.linalg.det(np.reshape(start.geometry.cell, (3, 3))))),
        physics={
            **engine.physics(functional, step, geometry, protocol),
            **engine.known(start.row["candidate_id"], context.settings.engine),
        },
        numerics={
            **engine.numerics(functional, step, geometry, protocol),
            **start.retry.get("numerics", {}),
        },
        fmax=step.fmax,
        smax=step.smax,
        max_ionic_steps=start.retry.get("max_ionic_steps") or step.max_ionic_steps,
        forces=step.forces,
    )


def _accepted(folder: Path, digest: str) -> StepRecord | None:
    data = journal.recall(folder, journal.ACCEPTED_FILE, digest)
    try:
        return StepRecord.model_validate(data) if data is not None else None
    except ValidationError:
        return None


def _under_custodian(run: StepRun) -> Any:
    """Let custodian run a step; give a `Diagnosis` when it could not be saved, else None."""
    limits = run.limits
    shortest = min(limits.step_time_s, limits.silence_s, limits.structure_time_s)
    interval = min(run.engine.look_every_s, max(0.2, shortest / 10))
    phases = run.engine.phases(read_input(run.folder))
    custodian = Custodian(
        handlers(run),
        [StepJob(run, phase) for phase in phases[phases.index(run.phase) :]],
        validators=[ConvergedValidator(run)],
        max_errors=run.engine.max_corrections,
        polling_time_step=POLL_S,
        monitor_freq=max(1, round(interval / POLL_S)),
        terminate_on_nonzero_returncode=False,
        directory=str(run.folder),
    )
    try:
        log = custodian.run()
    except CustodianError as error:
        return failure_of(error, run)
    # Custodian keeps some of its errors to itself; its log (custodian.json) has them all.
    if any(
        entry.get("handler") or entry.get("max_errors") or entry.get("max_errors_per_job") for entry in log
    ):
        return failure_of(CustodianError("custodian gave up"), run)
    return look(run)


def elements_of(starts: list[Start]) -> list[str]:
    """Elements of all starts, alphabetical."""
    return sorted(
        {symbol for start in starts for symbol in composition_columns(start.geometry.numbers)["elements"]}
    )
