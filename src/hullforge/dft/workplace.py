"""Where a step runs, and how it goes on after an interruption: scratch folders, and the saved state of a step.

Comes in: the folder of a step, an engine that can resume; goes out: a folder on the scratch disk whose content is
brought back when the step ends, however it ends, and a `StepRun` that continues from the last ionic step that was
written. A step of an engine that can't resume begins anew; nothing here decides whether a result is good.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullforge.config import Execution
from hullforge.dft.job import Attempt, StepRun
from hullforge.dft.recovery import is_finite
from hullforge.dft.step import Frame, Geometry, read_frames, read_input, write_input
from hullforge.errors import EngineError
from hullforge.store import journal

if TYPE_CHECKING:
    from hullforge.dft.calculation import Context, Start

#: State of an interrupted step, beside its files.
SAVED_FILE = "saved.json"


def scratch(execution: Execution) -> Path | None:
    """Give the folder on the scratch disk, with the job's own variables in it; None: calculations run where they are kept.

    Raises `EngineError` for a variable that this job does not have, since its name would become a folder's.
    """
    if execution.scratch is None:
        return None
    text = os.path.expandvars(execution.scratch)
    if "$" in text:
        raise EngineError(
            f"key 'execution.scratch': {execution.scratch} names a variable that is not set on {socket.gethostname()};"
            " set it in the job, or name a folder"
        )
    return Path(text).expanduser()


@contextlib.contextmanager
def of(context: "Context", start: "Start", folder: Path) -> Iterator[Path]:
    """Give the folder to run in: `folder`, or one on the scratch disk that replaces it until the step ends."""
    disk = scratch(context.execution)
    if disk is None or not context.engine.outputs:
        yield folder
        return
    place = disk / context.theory_id / start.calculation_id / folder.name
    # What a killed runner left on this machine's scratch disk is newer than what was brought back.
    if not place.is_dir():
        place.mkdir(parents=True)
        if folder.is_dir():
            _move(folder, place)
    try:
        yield place
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        _move(place, folder)
        place.rmdir()
        for parent in (place.parent, place.parent.parent):
            with contextlib.suppress(OSError):
                parent.rmdir()


def _move(source: Path, target: Path) -> None:
    """Move all files, whatever was there before; POTCARs are not brought along, they are written anew."""
    for path in sorted(source.iterdir()):
        shutil.move(path, target / path.name)


def saver(digest: str) -> Callable[..., None]:
    """Give what a `StepRun` calls to save its state; `is_open` says that an attempt is about to begin."""

    def save(run: StepRun, *, is_open: bool) -> None:
        record = {
            "attempts": [attempt.model_dump(mode="json") for attempt in run.attempts],
            "kept_frames": [frame.model_dump(mode="json") for frame in run.kept_frames],
            "phase": run.phase,
            "tries": run.tries,
            "open": is_open,
        }
        journal.commit(run.folder, SAVED_FILE, digest, record)

    return save


def saved(folder: Path, digest: str) -> dict[str, Any] | None:
    """Give the saved state of a step with this very input, or None."""
    return journal.recall(folder, SAVED_FILE, digest)


def resume(run: StepRun, record: dict[str, Any], start: Geometry) -> None:
    """Let a step go on where its last runner was interrupted: from the last ionic step, with the record so far.

    An attempt that was interrupted is not counted; its whole ionic steps are kept.
    """
    run.start = start
    run.attempts = [Attempt.model_validate(entry) for entry in record["attempts"]]
    run.kept_frames = [Frame.model_validate(entry) for entry in record["kept_frames"]]
    run.phase, run.tries = record["phase"], record["tries"]
    run.prepared_for(record["phase"])
    if not record["open"]:
        return
    run.tries += 1
    step = read_input(run.folder)
    if step.kind != "relax":
        return
    run.engine.collect(run.folder)
    frames = [frame for frame in read_frames(run.folder) if is_finite(frame)]
    if frames:
        run.kept_frames.extend(frames)
        step.geometry = frames[-1].geometry
        write_input(run.folder, step)
        run.engine.amend(run.folder, step, {}, "last")
