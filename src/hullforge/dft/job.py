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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from custodian.custodian import Job
from pydantic import BaseModel, ConfigDict, Field

from hullforge.config import Limits
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
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


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
    message: str = ""
    corrections: list[str] = Field(default_factory=list, description="'setting=value' for the next attempt")
    returncode: int | None = None
    walltime_s: float = 0.0
    cpu_time_s: float = 0.0
    max_memory_mib: float = 0.0


class Running:
    """The engine processes that are alive in this batch, so that all can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

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

    def stop(self) -> None:
        """End all processes and let no attempt count from now on."""
        self.stopped.set()
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            kill(process, 0.0)


@dataclass
class StepRun:
    """The state that the job, the handlers and the validator of one step share."""

    folder: Path
    engine: Engine
    limits: Limits
    lock: Lock
    running: Running
    faults: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    kept_frames: list[Frame] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    looked: bool = False
    diagnosis: Diagnosis | None = None
    watched: Diagnosis | None = None
    physics: dict[str, Any] = field(default_factory=dict)
    _changed: float = 0.0
    _fingerprint: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Remember what the step started from."""
        step = read_input(self.folder)
        self.start: Geometry = step.geometry
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

    def begin(self) -> "subprocess.Popen[bytes]":
        """Put old outputs aside and start the engine on `step.json`.

        Raises `EngineError` when its command can't be executed.
        """
        self.check_not_stopped()
        self._close()
        number = len(self.attempts) + 1
        for name in OUTPUTS:
            path = self.folder / name
            if path.exists():
                path.replace(self.folder / f"attempt-{number - 1}.{name}")
        step = read_input(self.folder)
        step.attempt, step.faults = number, self.faults[number - 1 :]
        write_input(self.folder, step)
        self.attempts.append(Attempt())
        self.looked, self.diagnosis, self.watched = False, None, None
        self.began = self._changed = time.monotonic()
        self._fingerprint = ()
        command = self.engine.command()
        try:
            with (self.folder / STDOUT_FILE).open("wb") as out, (self.folder / STDERR_FILE).open("wb") as err:
                self.process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={**os.environ, **THREADS, PARENT_VARIABLE: str(os.getpid())},
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
        process, self.process = self.process, None
        self.running.forget(process)
        attempt = self.attempt
        attempt.returncode = process.wait()
        attempt.walltime_s = time.monotonic() - self.began
        result = read_result(self.folder)
        # An engine that left no result is booked as busy all the time.
        attempt.cpu_time_s = result.cpu_time_s if result is not None else attempt.walltime_s
        attempt.max_memory_mib = max(
            attempt.max_memory_mib, result.max_memory_mib if result is not None else 0.0
        )

    def watch(self, code: FailureReason) -> Diagnosis | None:
        """Say whether the running process shows the monitored error `code`."""
        limits, now = self.limits, time.monotonic()
        found = None
        if code == FailureReason.WALLTIME and now - self.began > limits.step_time_s:
            found = Diagnosis(code, f"more than {limits.step_time_s:g} s in one attempt")
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

    def __init__(self, run: StepRun) -> None:
        self.step_run = run

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this job."""
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "step": self.step_run.folder.name,
        }

    @property
    def name(self) -> str:
        """Name of the step's folder."""
        return self.step_run.folder.name

    def setup(self, directory: str = "./") -> None:
        """Nothing: custodian calls this once per job, not per attempt; `run` removes old outputs."""

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
    """Largest resident memory of a process so far, MiB; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    return 0.0
