# ruff: noqa: ARG002 -- custodian passes the directory, which the run knows
"""One step of one calculation as a custodian job: the engine's process, its attempts, and the eyes on it.

Comes in: a folder with `step.json`, an engine, limits; goes out: the engine's files of the last attempt, those
of earlier ones under `attempt-<n>.<name>`, and a record of every attempt. What an error means and what is done
about it is decided in `hullforge.dft.recovery`.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from custodian.custodian import Job
from pydantic import BaseModel, ConfigDict, Field

from hullforge.config import Execution, Limits
from hullforge.dft.engines.ase_driver import PARENT_VARIABLE
from hullforge.dft.engines.base import Engine
from hullforge.dft.step import (
    FRAMES_FILE,
    RESULT_FILE,
    STEP_FILE,
    Frame,
    Geometry,
    read_input,
    read_result,
    write_input,
)
from hullforge.errors import EngineError
from hullforge.store.journal import Lock
from hullforge.store.vocabulary import FailureReason

STDOUT_FILE, STDERR_FILE = "stdout.txt", "stderr.txt"
OUTPUTS = (RESULT_FILE, FRAMES_FILE, STDOUT_FILE, STDERR_FILE)
#: Errors that are seen while the engine runs, not in its outputs.
MONITORED = (FailureReason.WALLTIME, FailureReason.HUNG, FailureReason.OUT_OF_MEMORY)
#: Seconds an engine has between the polite and the final signal.
GRACE_S = 2.0
#: What programs say last on a full disk, and how much of the end of their output is looked at, bytes.
FULL_DISK = (b"No space left on device", b"Disk quota exceeded")
WORDS_TAIL = 2000
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def no_save(run: "StepRun", *, is_open: bool) -> None:
    """Save nothing: the step begins anew after an interruption."""


class StoppedError(Exception):
    """The batch is being ended: nothing of this attempt counts."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with an attempt."""

    code: FailureReason
    message: str


class Attempt(BaseModel):
    """One run of the engine: how it ended, what was changed for the next, what it cost."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(default="", description="a FailureReason; empty when it ended well")
    detail: str = Field(default="", description="the error's name in the words of an engine's own handlers")
    message: str = ""
    corrections: list[str] = Field(default_factory=list, description="'setting=value' for the next attempt")
    returncode: int | None = None
    walltime_s: float = 0.0
    cpu_time_s: float = 0.0
    max_memory_mib: float = 0.0


class Running:
    """The engine processes that are alive in this batch, so that all can be ended at once, or asked to end soon."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._steps: set[StepRun] = set()
        self.stopped = threading.Event()
        #: Set when the allocation is about to end: nothing new is started.
        self.closing = threading.Event()

    def add(self, process: "subprocess.Popen[bytes]") -> None:
        """Remember a process; one that comes after the end is ended at once."""
        with self._lock:
            self._processes.add(process)
        if self.stopped.is_set():
            kill(process, 0.0)

    def forget(self, process: "subprocess.Popen[bytes]") -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._processes.discard(process)

    def enter(self, step: "StepRun") -> None:
        """Remember a step that is being run."""
        with self._lock:
            self._steps.add(step)

    def leave(self, step: "StepRun") -> None:
        """Forget it."""
        with self._lock:
            self._steps.discard(step)

    def close(self) -> None:
        """Start nothing from now on, and ask all programs to end after their present ionic step."""
        self.closing.set()
        with self._lock:
            steps = list(self._steps)
        for step in steps:
            step.wind_down()

    def stop(self) -> None:
        """End all processes and let no attempt count from now on."""
        self.stopped.set()
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            kill(process, 0.0)


@dataclass(eq=False)
class StepRun:
    """The state that the job, the handlers and the validator of one step share.

    `folder` is where the engine runs; `previous` the folder of the step before, where there is one; `spent_s` the wall
    time of the structure's earlier steps; `save` is called where an interrupted step could go on from.
    """

    folder: Path
    engine: Engine
    limits: Limits
    lock: Lock
    running: Running
    execution: Execution = field(default_factory=Execution)
    previous: Path | None = None
    spent_s: float = 0.0
    save: Callable[..., None] = no_save
    faults: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    kept_frames: list[Frame] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    looked: bool = False
    diagnosis: Diagnosis | None = None
    watched: Diagnosis | None = None
    physics: dict[str, Any] = field(default_factory=dict)
    phase: str = ""
    tries: int = 0
    _prepared: str | None = None
    _collected: bool = True
    _changed: float = 0.0
    _fingerprint: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Remember what the step started from."""
        step = read_input(self.folder)
        self.start: Geometry = step.geometry
        self.phase = self.engine.phases(step)[0]
        self.physics = step.physics

    @property
    def attempt(self) -> Attempt:
        """The present attempt."""
        return self.attempts[-1]

    @property
    def returncode(self) -> int:
        """Exit code of the present attempt's process, negative for a signal."""
        assert self.process is not None
        return self.process.wait()

    def is_running(self) -> bool:
        """Whether the engine's process is alive."""
        return self.process is not None and self.process.poll() is None

    def check_not_stopped(self) -> None:
        """Raise `StoppedError` when the batch is being ended."""
        if self.running.stopped.is_set():
            raise StoppedError

    def prepared_for(self, phase: str) -> None:
        """Take the program's input for this phase as it is; it was written and mended before."""
        self._prepared = phase

    def wind_down(self) -> None:
        """Ask the program to end after its present ionic step; one that can't is ended, and begins anew."""
        if self.is_running() and not self.engine.wind_down(self.folder):
            self.end()

    def begin(self) -> "subprocess.Popen[bytes]":
        """Put old outputs aside and start the engine on `step.json`.

        Raises `EngineError` when its command can't be executed.
        """
        self.check_not_stopped()
        if self.running.closing.is_set():
            raise StoppedError
        self._close()
        self.put_aside()
        self._forget_node_failure()
        number = len(self.attempts) + 1
        step = read_input(self.folder)
        step.attempt, step.faults = number, self.faults[number - 1 :]
        write_input(self.folder, step)
        if self._prepared != self.phase:
            self.engine.prepare(self, step, self.phase)
            self._prepared = self.phase
        self.save(self, is_open=True)
        self.attempts.append(Attempt())
        self.tries += 1
        self._collected = False
        self.looked, self.diagnosis, self.watched = False, None, None
        self.began = self._changed = time.monotonic()
        self._fingerprint = ()
        command = self.engine.command(self.execution)
        try:
            with (self.folder / STDOUT_FILE).open("wb") as out, (self.folder / STDERR_FILE).open("wb") as err:
                self.process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={
                        **os.environ,
                        **THREADS,
                        **self.execution.environment,
                        PARENT_VARIABLE: str(os.getpid()),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    process_group=0,
                    pass_fds=(self.lock.fd,),
                )
        except (FileNotFoundError, PermissionError) as error:
            raise EngineError(
                f"engine {self.engine.name}: '{command[0]}' can't be started: {error.strerror}"
            ) from error
        self.lock.note_child(self.process.pid)
        self.running.add(self.process)
        return self.process

    def put_aside(self) -> None:
        """Rename what the last attempt left, so that nothing stale can pass for the next one's."""
        for name in (*OUTPUTS, *self.engine.outputs):
            path = self.folder / name
            if path.exists():
                path.replace(self.folder / f"attempt-{self.tries}.{name}")

    def _forget_node_failure(self) -> None:
        """Leave no trace of an attempt that the machine, not the structure, is to blame for."""
        if self.attempts and self.attempts[-1].code == FailureReason.NODE_FAILURE:
            self.attempts.pop()

    def collect(self) -> None:
        """Let the engine translate what an ended attempt left; once per attempt."""
        if not self._collected and not self.is_running():
            self._collected = True
            self.engine.collect(self.folder)

    def machine_fault(self) -> str:
        """Say why an attempt failed for no fault of the structure; empty: it did not.

        That there is no output at all means so only for an engine with files of its own.
        """
        said = [path for name in (STDOUT_FILE, STDERR_FILE) if (path := self.folder / name).exists()]
        ends = [path.read_bytes()[-WORDS_TAIL:] for path in said]
        if any(words in end for end in ends for words in FULL_DISK):
            return "on a full disk"
        if not self.engine.outputs:
            return ""
        if any(ends) or any((self.folder / name).exists() for name in self.engine.outputs):
            return ""
        return "without any output"

    def end(self) -> None:
        """End the engine's process and all it started."""
        if self.process is not None:
            kill(self.process, GRACE_S)

    def close(self) -> None:
        """Make sure that nothing is left running, and book the last attempt's cost."""
        self.end()
        self._close()

    def _close(self) -> None:
        if self.process is None:
            return
        process = self.process
        process.wait()
        self.collect()
        self.process = None
        self.running.forget(process)
        attempt = self.attempt
        attempt.returncode = process.wait()
        attempt.walltime_s = time.monotonic() - self.began
        result = read_result(self.folder)
        # An engine that does not say is booked as busy all the time, on all of its cores.
        told = result.cpu_time_s if result is not None else 0.0
        attempt.cpu_time_s = told or attempt.walltime_s * self.execution.cores_per_calculation
        attempt.max_memory_mib = max(
            attempt.max_memory_mib, result.max_memory_mib if result is not None else 0.0
        )

    def watch(self, code: FailureReason) -> Diagnosis | None:
        """Say whether the running process shows the monitored error `code`."""
        limits, now = self.limits, time.monotonic()
        found = None
        if code == FailureReason.WALLTIME and now - self.began > limits.step_time_s:
            found = Diagnosis(code, f"more than {limits.step_time_s:g} s in one attempt")
        elif code == FailureReason.WALLTIME and self.time_is_up():
            found = Diagnosis(code, f"more than {limits.structure_time_s:g} s in all steps of the structure")
        elif code == FailureReason.HUNG:
            fingerprint = self._files()
            if fingerprint != self._fingerprint:
                self._fingerprint, self._changed = fingerprint, now
            if now - self._changed > limits.silence_s:
                found = Diagnosis(code, f"no file changed for {limits.silence_s:g} s")
        elif code == FailureReason.OUT_OF_MEMORY and self.process is not None:
            used = memory_mib(self.process.pid)
            self.attempt.max_memory_mib = max(self.attempt.max_memory_mib, used)
            if used > limits.memory_mib:
                found = Diagnosis(code, f"more than {limits.memory_mib:g} MiB")
        self.watched = found or self.watched
        return found

    def time_is_up(self) -> bool:
        """Whether the structure has used up its time in all of its steps together."""
        now = time.monotonic() - self.began if self.process is not None else 0.0
        spent = self.spent_s + sum(attempt.walltime_s for attempt in self.attempts) + now
        return spent > self.limits.structure_time_s

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of what the engine writes; custodian's own log and the input are no sign of life."""
        found = []
        for entry in os.scandir(self.folder):
            if entry.name.startswith((".", "custodian")) or entry.name == STEP_FILE:
                continue
            try:
                status = entry.stat()
            except OSError:
                continue
            found.append((entry.name, status.st_size, status.st_mtime_ns))
        return tuple(sorted(found))


class StepJob(Job):
    """Custodian's view of a `StepRun`."""

    def __init__(self, run: StepRun, phase: str = "") -> None:
        self.step_run = run
        self.phase = phase

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this job."""
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "step": self.step_run.folder.name,
            **({"phase": self.phase} if self.phase else {}),
        }

    @property
    def name(self) -> str:
        """Name of the step's folder."""
        return self.step_run.folder.name

    def setup(self, directory: str = "./") -> None:
        """Enter the job's phase; custodian calls this once per job, not per attempt, so `run` removes old outputs."""
        if self.step_run.phase != self.phase:
            self.step_run.kept_frames.clear()
        self.step_run.phase = self.phase

    def run(self, directory: str = "./") -> "subprocess.Popen[bytes]":
        """Start the next attempt."""
        return self.step_run.begin()

    def postprocess(self, directory: str = "./") -> None:
        """Nothing: results are read where they are committed."""

    def terminate(self, directory: str = "./") -> None:
        """End the attempt, with everything it started."""
        self.step_run.end()


def kill(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End a process that leads its own group, and the group: politely first, then for good."""
    if grace_s and process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def memory_mib(pid: int) -> float:
    """Largest resident memory of a process and its descendants so far, MiB; 0 where the system does not tell.

    What a launcher starts on other machines is not seen.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (
        next((float(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")), 0.0) / 1024
    )
    return own + sum(memory_mib(int(child)) for child in children)
