"""A batch of calculations: every start goes through the functional's steps, several at once, and becomes one row.

Comes in: a table of starts; goes out: the batch's four tables and its raw outputs. State lives under `work`,
outside everything that Snakemake may delete, so a batch that is run again computes only what is missing. A
structure that can't be saved is a row of `failures`; only the machine's own faults raise.
"""

import contextlib
import gzip
import io
import logging
import signal
import sys
import tarfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
from tqdm import tqdm

from hullforge.config import DftSettings, Execution, Limits
from hullforge.dft import rows, workplace
from hullforge.dft.allocation import Clock
from hullforge.dft.calculation import (
    Context,
    Outcome,
    Start,
    calculate,
    elements_of,
    finished,
    warm_up,
)
from hullforge.dft.job import STDERR_FILE, STDOUT_FILE, StoppedError
from hullforge.dft.step import FRAMES_FILE, RESULT_FILE, STEP_FILE
from hullforge.errors import EngineError, PausedError, TableError
from hullforge.store import progress, tables
from hullforge.store.atomic import atomic_path
from hullforge.store.journal import Lock
from hullforge.store.progress import BatchState
from hullforge.store.vocabulary import FailureReason

STARTS = ("prerelax", "promotion", "calculations", "retries")
START_COLUMNS = ("candidate_id", "prototype_id", "structure_id", "numbers", "cell", "positions", "pbc")
#: Columns by which the folder of the calculation before is found, in tables that have them.
PARENT_COLUMNS = ("theory_id", "calculation_id")
#: Columns that say what a retry tries again, and how.
RETRY_COLUMNS = ("functional", "theory_id", "supersedes", "settings")
RAW_FILES = (STEP_FILE, RESULT_FILE, FRAMES_FILE, "custodian.json")
#: Bytes kept of the end of an engine's own output.
LOG_TAIL = 20_000
#: Seconds between two lines of progress where there is no terminal.
LOG_INTERVAL_S = 60.0
#: Letters of a failure's message in the batch's notes.
LONGEST_MESSAGE = 300


def run(
    settings: DftSettings,
    starts: Path | Sequence[Path],
    batch: int,
    work: Path,
    out: Path,
    workers: int,
    limits: Limits,
    execution: Execution | None = None,
    stop_after_s: float | None = None,
) -> None:
    """Compute the starts of one batch and write its tables into the folder `out`.

    `starts` is a table prerelax, promotion (rows of `batch`), calculations (all rows, from their final geometry) or
    retries (rows of the functional), or several. `workers` calculations run at once; `execution` says how a program of its own is started. Writes
    calculations, frames, failures and costs .parquet and raw.tar.gz; an empty batch writes empty ones.

    After `stop_after_s`, on SIGUSR1, and some time before SLURM's end of the job nothing new is started and
    programs that can are asked to end after their present ionic step.

    Raises:
        EngineError: the engine is missing, of another version, or can't do what is asked.
        TableError: `starts` is not such a table, or names a calculation twice.
        PausedError: the allocation ends; the same command goes on from here.
        LockedError: another runner holds a calculation for too long.
        OSError: the disk is full, or the like.

    """
    context = Context.of(settings, work, limits, execution)
    workplace.scratch(context.execution)
    clock = Clock.of(stop_after_s, limits.closing_s)
    todo = read_starts(context, [starts] if isinstance(starts, Path) else starts, batch)
    label = f"{settings.functional} round {settings.round} batch {progress.name_of(batch)}"
    told = progress.Notes(
        work,
        settings.round,
        progress.Progress(settings.functional, context.theory_id, batch, len(todo)),
    )
    try:
        outcomes = compute(context, todo, max(1, workers), label, clock, told) if todo else {}
        write(context, todo, outcomes, out)
    except BaseException as error:
        told.end(BatchState.STOPPED, str(error) or type(error).__name__)
        raise
    told.end(BatchState.FINISHED)


def read_starts(context: Context, paths: Sequence[Path], batch: int) -> list[Start]:
    """Read the batch's starts, sorted by calculation id; raises `TableError` when one appears twice."""
    found = [context.start(row) for path in paths for row in _start_rows(context, path, batch)]
    found.sort(key=lambda start: start.calculation_id)
    for one, other in pairwise(found):
        if one.calculation_id == other.calculation_id:
            raise TableError(
                f"{paths[0]}: candidate {one.row['candidate_id']} starts twice from the same geometry"
            )
    return found


def _start_rows(context: Context, path: Path, batch: int) -> list[dict[str, Any]]:
    """Give the rows of a table of starts that this batch computes."""
    name = _table_name(path)
    if name == "calculations":
        return tables.read_rows(path, name, (*START_COLUMNS, *PARENT_COLUMNS))
    if name == "retries":
        mine = (context.settings.functional, context.theory_id)
        rows_ = tables.read_rows(path, name, (*START_COLUMNS, *RETRY_COLUMNS))
        return [row for row in rows_ if (row["functional"], row["theory_id"]) == mine]
    rows_ = tables.read_rows(path, name, (*START_COLUMNS, "batch"))
    return [row for row in rows_ if row["batch"] == batch]


def _table_name(path: Path) -> str:
    """Say which of the tables of starts a file is."""
    if not path.is_file():
        raise TableError(f"{path}: no such file; a table of {', '.join(STARTS)} was expected here")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (ValueError, OSError) as error:
        raise TableError(f"{path}: not a whole Parquet file ({error}); delete it and run again") from error
    name = metadata.get(b"hullforge.table", b"?").decode()
    if name not in STARTS:
        raise TableError(
            f"{path}: this is the table '{name}'; calculations start from one of {', '.join(STARTS)}"
        )
    return name


def compute(
    context: Context,
    starts: Sequence[Start],
    workers: int,
    label: str,
    clock: Clock | None = None,
    notes: progress.Notes | None = None,
) -> dict[str, Outcome]:
    """Bring every start to an outcome, by calculation id, `workers` at a time; keeps `notes` of how far it is.

    What is finished is taken as it is; what another runner holds, and what the machine failed, is left for the end.
    Raises `PausedError` when `clock` ran out before.
    """
    clock = clock or Clock()
    outcomes = {s.calculation_id: found for s in starts if (found := finished(context, s)) is not None}
    missing = [start for start in starts if start.calculation_id not in outcomes]
    teller = _Teller(context, notes, workers, outcomes)
    if not missing:
        return outcomes
    # The large ones first: no core should wait at the end for one that started late.
    missing.sort(key=lambda start: (-len(start.geometry.numbers), start.calculation_id))
    settings = context.settings
    warm_up(context, missing[0])
    context.engine.check(
        elements_of(missing), context.protocol, [settings.functional], settings.engine, context.execution
    )
    with (
        _Progress(label, len(starts), outcomes, teller) as bar,
        _quiet_custodian(context.work / context.theory_id / "custodian.log"),
        _quiet_warnings(),
        _stop_on_signal(clock),
        ThreadPoolExecutor(workers, thread_name_prefix="calculation") as pool,
    ):
        try:
            run_all = _Runs(context, pool, bar, clock)
            held = run_all(_try, missing)
            run_all(_wait, held)
        except BaseException:
            context.running.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return outcomes


@dataclass
class _Runs:
    """Runs calculations in a pool, and minds the clock meanwhile."""

    context: Context
    pool: ThreadPoolExecutor
    progress: "_Progress"
    clock: Clock

    def __call__(
        self, function: Callable[[Context, Start], Outcome | None], starts: Sequence[Start]
    ) -> list[Start]:
        """Run all, the first error ends all; give the starts that were put off.

        Raises `EngineError` when the machine failed all of them, `PausedError` when the clock ran out.
        """
        futures = {self.pool.submit(function, self.context, start): start for start in starts}
        put_off, paused, broken = [], 0, 0
        waiting: set[Future[Outcome | None]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except StoppedError:
                    paused += 1
                    continue
                if outcome is None:
                    put_off.append(futures[future])
                else:
                    broken += outcome.reason == FailureReason.NODE_FAILURE
                    self.progress.add(outcome)
            self._mind_the_clock()
            self.progress.tick()
        if paused:
            done_now = len(self.progress.outcomes)
            raise PausedError(
                f"{self.progress.label}: the allocation ends with {done_now} of {self.progress.total} calculations done;"
                " run the same command again, it goes on from here"
            )
        if broken and broken == self.progress.total:
            raise EngineError(
                f"engine {self.context.engine.name}: no calculation of the batch left any output, so the machine is to"
                " blame; see stdout.txt and stderr.txt below the work folder"
            )
        return sorted(put_off, key=lambda start: start.calculation_id)

    def _mind_the_clock(self) -> None:
        running = self.context.running
        if self.clock.is_closing() and not running.closing.is_set():
            running.close()
        if self.clock.is_over() and not running.stopped.is_set():
            running.stop()


def _try(context: Context, start: Start) -> Outcome | None:
    _check_not_stopped(context)
    lock = Lock.try_acquire(context.folder(start))
    if lock is None:
        return None
    with lock:
        outcome = calculate(context, start, lock)
    # The machine's fault: once more at the end, when others have run.
    return None if outcome.reason == FailureReason.NODE_FAILURE else outcome


def _wait(context: Context, start: Start) -> Outcome | None:
    timeout = lock_timeout(context.limits)
    with Lock.acquire(
        context.folder(start),
        timeout,
        say=lambda text: tqdm.write(text, file=sys.stderr),
        look_up=lambda: _check_not_stopped(context),
    ) as lock:
        _check_not_stopped(context)
        return calculate(context, start, lock)


def lock_timeout(limits: Limits) -> float:
    """Seconds to wait for another runner: what it may need for a step with many attempts, and some more."""
    return 10 * limits.step_time_s + 60


def _check_not_stopped(context: Context) -> None:
    """Raise `StoppedError` when the batch is being ended."""
    if context.running.stopped.is_set() or context.running.closing.is_set():
        raise StoppedError


def write(context: Context, starts: Sequence[Start], outcomes: dict[str, Outcome], out: Path) -> None:
    """Write the batch's tables and raw outputs; every start is one row of calculations or failures."""
    pairs = [(start, outcomes[start.calculation_id]) for start in starts]
    good = [(start, outcome) for start, outcome in pairs if not outcome.reason]
    bad = [(start, outcome) for start, outcome in pairs if outcome.reason]
    calculations = [rows.calculation_row(context, start, outcome) for start, outcome in good]
    failures = [rows.failure_row(context, start, outcome) for start, outcome in bad]
    written = sorted(row["calculation_id"] for row in (*calculations, *failures))
    assert written == sorted(start.calculation_id for start in starts), "every start is exactly one row"
    frames = (row for _, outcome in good for row in rows.frame_rows(context, outcome))
    tables.write(out / "frames.parquet", "frames", frames)
    tables.write(out / "failures.parquet", "failures", failures)
    tables.write(out / "costs.parquet", "costs", [rows.cost_row(context, outcome) for _, outcome in pairs])
    _write_raw(context, starts, out / "raw.tar.gz")
    tables.write(out / "calculations.parquet", "calculations", calculations)


def _write_raw(context: Context, starts: Sequence[Start], path: Path) -> None:
    """Pack what the engine read and wrote, per calculation and step, with neutral file headers."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for start in starts:
            folder = context.folder(start)
            for step in sorted(path for path in folder.glob("*-*") if path.is_dir()):
                for file in sorted(step.iterdir()):
                    data = _raw(file, context.engine.raw_files)
                    if data is None:
                        continue
                    info = tarfile.TarInfo(f"{start.calculation_id}/{step.name}/{file.name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def _raw(file: Path, own: Sequence[str]) -> bytes | None:
    """Give what is archived of a file: inputs and results whole, logs by their end, nothing else."""
    name = file.name
    if name.startswith("attempt-"):
        name = name.split(".", 1)[1]
    if name in RAW_FILES or name in own:
        return file.read_bytes()
    if name in (STDOUT_FILE, STDERR_FILE) or name.endswith((".log", ".txt")):
        return file.read_bytes()[-LOG_TAIL:]
    return None


class _Teller:
    """Keeps the batch's notes for `hullforge status`."""

    def __init__(
        self, context: Context, notes: progress.Notes | None, workers: int, outcomes: dict[str, Outcome]
    ) -> None:
        self.context, self.notes, self.workers = context, notes, workers
        for outcome in outcomes.values():
            self.add(outcome)
        if notes is not None:
            notes.progress.done_before = notes.progress.done
            self._count_running()
            notes.write()

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if self.notes is None:
            return
        spent = rows.cost_row(self.context, outcome)["walltime_s"]
        error = {
            "calculation_id": outcome.calculation_id,
            "reason": outcome.reason,
            "protocol_step": outcome.protocol_step,
            "message": outcome.message[:LONGEST_MESSAGE],
        }
        cores = self.context.execution.cores_per_calculation
        self.notes.add(outcome.reason, spent * cores, error if outcome.reason else None)
        self._count_running()

    def tick(self) -> None:
        """Write the notes from time to time."""
        if self.notes is not None:
            self.notes.tick()

    def _count_running(self) -> None:
        assert self.notes is not None
        told = self.notes.progress
        told.running = min(self.workers, told.total - told.done)


class _Progress:
    """A bar on a terminal, a line a minute elsewhere, both on stderr; and the batch's notes."""

    def __init__(self, label: str, total: int, outcomes: dict[str, Outcome], teller: _Teller) -> None:
        self.outcomes, self.teller = outcomes, teller
        self.label, self.total = label, total
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=len(outcomes), desc=label, unit="calc", disable=not self.terminal
        )
        self.said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if not self.terminal:
            self._say()

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.outcomes[outcome.calculation_id] = outcome
        self.teller.add(outcome)
        self.bar.update()
        self.bar.set_postfix(failed=self._failed(), refresh=False)

    def tick(self) -> None:
        """Say something from time to time."""
        self.teller.tick()
        if not self.terminal and time.monotonic() - self.said > LOG_INTERVAL_S:
            self._say()

    def _say(self) -> None:
        self.said = time.monotonic()
        print(
            f"{self.label}: {len(self.outcomes)} of {self.total} done, {self._failed()} failed",
            file=sys.stderr,
        )

    def _failed(self) -> int:
        return sum(1 for outcome in self.outcomes.values() if outcome.reason)


@contextlib.contextmanager
def _quiet_custodian(path: Path) -> Iterator[None]:
    """Send what custodian logs to a file instead of the terminal; custodian.json has the facts."""
    logger = logging.getLogger("custodian")
    before = logger.propagate, logger.level
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = before[0]
        logger.setLevel(before[1])


@contextlib.contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Drop custodian's warning on exit codes (outputs decide, see `hullforge.dft.recovery.diagnose`) and its parsers' own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="subprocess returned a non-zero return code")
        warnings.filterwarnings("ignore", module=r"(pymatgen|custodian)\.")
        yield


@contextlib.contextmanager
def _stop_on_signal(clock: Clock) -> Iterator[None]:
    """Turn SIGTERM into an orderly end, so that no engine outlives its runner, and SIGUSR1 into a slower one.

    Only possible in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    def close(*_: object) -> None:
        clock.asked.set()

    before = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGUSR1, close)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGUSR1, before[1])
