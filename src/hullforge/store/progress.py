"""How far each batch is: one small file a batch below `work/`, written while it runs, read by `hullforge status`.

Comes in: what a batch has done and what failed; goes out: a line of counts, the core time spent, the last failures. So
nobody has to open the tables of thousands of batches, or the folders of the calculations, to know where a campaign
stands. Nothing that is published depends on these files; a missing or broken one is as good as none. They hold times of
the clock, and are removed when their round is sealed.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hullforge.store import atomic

#: Seconds between two notes of a batch that runs.
INTERVAL_S = 10.0
#: A batch without a note for so long is not running any more, whatever its last one says.
STALE_S = 300.0
#: Failures that a batch names; the newest.
NAMED = 3
#: Number of the batch of a round's retries.
RETRY = -1


def name_of(batch: int) -> str:
    """Give a batch's name in paths: its number, or the word for retries."""
    return "retry" if batch == RETRY else str(batch)


class BatchState(StrEnum):
    """What a batch is doing: at work; ended with its tables written; ended before, or without a sign of life."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass
class Progress:
    """Where one batch stands. Times are Unix times; `core_s` is time on the clock times cores, of what has ended."""

    functional: str
    theory_id: str
    batch: int
    total: int
    state: BatchState = BatchState.RUNNING
    converged: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    running: int = 0
    core_s: float = 0.0
    began: float = 0.0
    done_before: int = 0
    updated: float = 0.0
    #: Calculation, reason, step and message of the last failures.
    errors: list[dict[str, str]] = field(default_factory=list)
    #: Why the batch itself ended, where it was not the end of its work.
    message: str = ""

    @property
    def done(self) -> int:
        """Calculations with an outcome."""
        return self.converged + sum(self.failures.values())

    def state_at(self, now: float) -> BatchState:
        """Give the state, `stopped` for a batch that has given no sign of life for `STALE_S`."""
        if self.state == BatchState.RUNNING and now - self.updated > STALE_S:
            return BatchState.STOPPED
        return self.state

    def rate(self) -> float:
        """Give how many calculations ended per hour since the batch was started this time; 0 before the first."""
        return 3600 * (self.done - self.done_before) / max(self.updated - self.began, 1.0)


class Notes:
    """The file of one batch, as the batch writes it: now and then, and at its end."""

    def __init__(self, work: Path, round_: int, progress: Progress) -> None:
        self.progress = progress
        self.path = (
            folder_of(work, round_) / f"{progress.functional}-{progress.theory_id}-{progress.batch}.json"
        )
        self.progress.began = time.time()
        self.write()

    def write(self) -> None:
        """Write the file now; a full disk is the batch's own affair, not that of its notes."""
        self.progress.updated = time.time()
        try:
            atomic.write_json(self.path, asdict(self.progress))
        except OSError:
            return

    def tick(self) -> None:
        """Write the file when the last time is a while ago."""
        if time.time() - self.progress.updated >= INTERVAL_S:
            self.write()

    def add(self, reason: str, core_s: float, error: dict[str, str] | None) -> None:
        """Count a calculation that has ended; `reason` is empty for one that converged."""
        if reason:
            self.progress.failures[reason] = self.progress.failures.get(reason, 0) + 1
        else:
            self.progress.converged += 1
        self.progress.core_s += core_s
        if error is not None:
            self.progress.errors = [*self.progress.errors, error][-NAMED:]

    def end(self, state: BatchState, message: str = "") -> None:
        """Write the file for the last time."""
        self.progress.state, self.progress.message, self.progress.running = state, message, 0
        self.write()


def folder_of(work: Path, round_: int) -> Path:
    """Give the folder of the notes of a round's batches."""
    return work / f"round-{round_:03d}" / "batches"


def read(work: Path, round_: int) -> dict[tuple[str, str, int], Progress]:
    """Read the notes of a round's batches, by functional, theory and batch; leaves out what can't be read."""
    found = {}
    try:
        names = os.listdir(folder_of(work, round_))  # noqa: PTH208 - as below
    except OSError:
        return {}
    folder = f"{folder_of(work, round_)}/"
    for name in names:
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            with open(folder + name, "rb") as stream:  # noqa: PTH123 - thousands of them, in a fraction of a second
                progress = _of(json.loads(stream.read()))
        except (OSError, ValueError, TypeError):
            continue
        found[progress.functional, progress.theory_id, progress.batch] = progress
    return found


def _of(data: dict[str, Any]) -> Progress:
    progress = Progress(**data)
    progress.state = BatchState(progress.state)
    return progress


def clear(work: Path, round_: int) -> None:
    """Remove the notes of a round."""
    shutil.rmtree(folder_of(work, round_), ignore_errors=True)
    for folder in (folder_of(work, round_).parent, work):
        try:
            folder.rmdir()
        except OSError:
            return
