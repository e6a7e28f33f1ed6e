"""Many relaxations at once: worker processes with one thread each, and a parent that trusts none of them.

Comes in: start geometries; goes out: one `Relaxation` per start, in their order, whatever number of workers
there was. A worker that dies or hangs costs the structure it was working on, which is then `failed`, and is
replaced. Workers are started afresh (`spawn`), with one BLAS thread: ASE's cell filter calls 3x3 matrix
exponentials that otherwise spin on every core and cost a factor of 15.
"""

import contextlib
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials.base import load
from hullforge.potentials.relax import Relaxation, relax
from hullforge.store.vocabulary import PrerelaxStatus

if TYPE_CHECKING:
    from ase import Atoms

#: A relaxation looks at its clock after each step; a worker silent for this much longer, in seconds, hangs.
GRACE_S = 60.0
#: Importing torch and loading a model may take long on a busy machine, in seconds.
START_S = 600.0
THREADS = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ),
    "1",
)


@dataclass
class _Worker:
    """A process, the parent's end of its pipe, and what it is doing (None: loading its model)."""

    process: BaseProcess
    connection: Connection
    index: int | None
    deadline: float


def relax_many(
    settings: Prerelax,
    elements: Sequence[str],
    starts: "Sequence[Atoms]",
    workers: int,
    on_done: Callable[[Relaxation], None] = lambda _: None,
    target: Callable[..., None] | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[str, list[Relaxation]]:
    """Relax `starts` with the configured potential; gives the potential's label and the results in order.

    `on_done` is called once per structure, in the order in which they end. `target` replaces the body of the
    worker, for tests; `seeds` are those of the rattling, one per start. Raises `ModelError` when the potential can't be loaded.
    """
    if not starts:
        return "", []
    results: dict[int, Relaxation] = {}
    label = ""
    todo = deque(range(len(starts)))
    tasks = list(zip(starts, seeds or [0] * len(starts), strict=True))
    pool: list[_Worker] = []

    def finish(index: int, result: Relaxation) -> None:
        results[index] = result
        on_done(result)

    def lost(worker: _Worker, why: str) -> None:
        """Give up on a worker; its structure fails, the others go on with a new one."""
        _stop(worker)
        pool.remove(worker)
        if worker.index is None:
            raise ModelError(f"prerelax: a worker could not load the potential {settings.backend}: {why}")
        finish(worker.index, Relaxation(starts[worker.index].copy(), PrerelaxStatus.FAILED, why))
        if todo:
            pool.append(_start(settings, elements, target or _work))

    try:
        pool.extend(
            _start(settings, elements, target or _work) for _ in range(max(1, min(workers, len(starts))))
        )
        while len(results) < len(starts):
            nearest = min(worker.deadline for worker in pool)
            ready = wait([worker.connection for worker in pool], timeout=max(0.0, nearest - time.monotonic()))
            for worker in pool.copy():
                if worker.connection in ready:
                    try:
                        message = worker.connection.recv()
                    except (EOFError, OSError):
                        worker.process.join(5)
                        lost(worker, f"the worker process ended with exit code {worker.process.exitcode}")
                        continue
                    if isinstance(message, Exception):
                        raise message
                    if worker.index is None:
                        label = str(message)
                    else:
                        finish(worker.index, message)
                    _hand_out(worker, todo, tasks, settings, pool)
                elif time.monotonic() > worker.deadline:
                    lost(worker, "the worker process gave no sign of life and was stopped")
    finally:
        for worker in pool:
            _stop(worker)
    return label, [results[index] for index in range(len(starts))]


def _hand_out(
    worker: _Worker,
    todo: deque[int],
    tasks: "Sequence[tuple[Atoms, int]]",
    settings: Prerelax,
    pool: list[_Worker],
) -> None:
    """Give an idle worker its next structure, or send it home."""
    if not todo:
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        pool.remove(worker)
        worker.process.join(10)
        _stop(worker)
        return
    worker.index = todo.popleft()
    worker.deadline = time.monotonic() + settings.time_limit_s + GRACE_S
    with contextlib.suppress(OSError):  # a worker that has just died is noticed when its pipe is read
        worker.connection.send(tasks[worker.index])


def _start(settings: Prerelax, elements: Sequence[str], target: Callable[..., None]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=target,
        args=(theirs, settings.model_copy(update={"device": "cpu"}).to_json(), tuple(elements)),
        daemon=True,
    )
    with _environment(THREADS):
        process.start()
    theirs.close()
    return _Worker(process, ours, None, time.monotonic() + START_S)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join(10)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the children that are started inside; numpy reads them when imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(connection: Connection, settings_json: str, elements: tuple[str, ...]) -> None:
    """Body of a worker: load the potential, say its label, relax what comes until None comes."""
    settings = Prerelax.model_validate_json(settings_json)
    try:
        potential = load(settings, elements)
        if potential is None:
            raise ModelError("prerelax.backend: none relaxes nothing")
    except ModelError as error:
        connection.send(error)
        return
    connection.send(potential.describe().label)
    with contextlib.suppress(EOFError):  # the parent is gone
        while (task := connection.recv()) is not None:
            start, seed = task
            connection.send(relax(potential, start, settings, seed=seed))
