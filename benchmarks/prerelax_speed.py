"""Structures pre-relaxed per second by two worker processes, against chgnet's own relaxer in a plain loop.

Both have the same model, weights and starts: ideal prototypes of 2 to 12 atoms at their estimated volume. The peer is what a
user types: a new process, `StructOptimizer().relax(atoms)` for one after the other, at its defaults (FIRE, fmax 0.1
eV/angstrom, at most 500 steps) and with the threads that torch and the BLAS take by themselves. Ours is the stage as a campaign
runs it (`relax_many`, two workers, fmax 0.05). Each side pays for its processes and for loading the model. Threads that wait
for each other count as CPU time, so wall-clock time is the measure, taken on both sides of the peer's run and averaged; CPU time
is printed beside it, since on a machine with other work the wall clock of either side is partly theirs.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import prerelax_cells, runner
from hullforge.config import Prerelax
from hullforge.potentials.relax import Relaxation
from hullforge.potentials.workers import THREADS, relax_many

T = TypeVar("T")
CELLS, FEWER, WORKERS = 64, 16, 2
#: Bounds: times the throughput; eV/atom where both converge.
FASTER, EQUAL = 8.0, 2e-3
#: What a user would type, and a line of results for each structure.
PEER = """
import json, sys
from ase.io import read
from chgnet.model import StructOptimizer
relaxer = StructOptimizer()
for atoms in read(sys.argv[1], ":"):
    found = relaxer.relax(atoms, verbose=False)
    path = found["trajectory"]
    steps, energy = len(path.energies) - 1, float(path.energies[-1]) / len(atoms)
    print(json.dumps([steps, energy]), file=sys.stderr, flush=True)
"""


def run(*, long: bool) -> runner.Outcome:
    """Run the benchmark: 64 cells with `long`, 16 of them without."""
    runner.package("chgnet", "chgnet")
    starts = prerelax_cells.cells(CELLS if long else FEWER)
    elements = sorted({symbol for atoms in starts for symbol in atoms.get_chemical_symbols()})

    def ours() -> list[Relaxation]:
        return relax_many(Prerelax(device="cpu"), elements, starts, WORKERS)[1]

    first, before = timed(ours)
    theirs, peer = timed(lambda: plain_loop(starts))
    _, after = timed(ours)
    wall, cpu = (before + after) / 2
    sizes = [len(atoms) for atoms in starts]
    both = [
        (index, abs(one.energy_per_atom - other[1]))
        for index, (one, other) in enumerate(zip(first, theirs, strict=True))
        if one.energy_per_atom is not None and one.status == "converged" and other[0] < 500
    ]
    print(
        f"{len(starts)} cells of {min(sizes)} to {max(sizes)} atoms, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}"
    )
    print(
        runner.table(
            ["", "wall s", "CPU s", "structures per wall s", "mean steps"],
            [
                [
                    "hullforge, first",
                    *before,
                    len(starts) / before[0],
                    float(np.mean([r.n_steps for r in first])),
                ],
                ["hullforge, second", *after, len(starts) / after[0], None],
                [
                    "chgnet, plain loop",
                    *peer,
                    len(starts) / peer[0],
                    float(np.mean([steps for steps, _ in theirs])),
                ],
            ],
        )
    )
    for status in sorted({one.status.value for one in first}):
        print(f"hullforge, {status}: {sum(one.status == status for one in first)}")
    apart = [(index, difference) for index, difference in both if difference > EQUAL]
    print(f"both converge: {len(both)}; energies apart by more than {1000 * EQUAL:g} meV/atom: {len(apart)}")
    for index, difference in apart:
        lower = "hullforge" if first[index].energy_per_atom < theirs[index][1] else "chgnet's"
        print(f"  {starts[index].get_chemical_formula()}: {1000 * difference:.1f} meV/atom, {lower} is lower")
    largest = max((difference for _, difference in both), default=None)
    return runner.Outcome(
        {
            "structures_per_wall_s": len(starts) / wall,
            "peer_structures_per_wall_s": len(starts) / peer[0],
            "ratio_of_CPU_time": float(peer[1] / cpu),
            "both_converge": len(both),
            "apart_by_more_than_2meV": len(apart),
            "largest_difference_meV_per_atom": None if largest is None else 1000 * largest,
        },
        holds=(bool(peer[0] / wall >= FASTER and not apart) if long else None),
        ratio=float(peer[0] / wall),
        peer="chgnet StructOptimizer, plain loop, its defaults",
    )


def plain_loop(starts: Any) -> list[tuple[int, float]]:
    """Relax with chgnet's own relaxer in a process of its own; gives steps and energy per atom (eV)."""
    from ase.io import write

    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "starts.traj"
        write(path, starts)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PEER, str(path)], env=environment, capture_output=True, text=True, check=True
        )  # fmt: skip
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    return [(int(steps), float(energy)) for steps, energy in found]


def timed(work: Callable[[], T]) -> tuple[T, np.ndarray]:
    """Do work in child processes; gives its result, and wall-clock and CPU seconds of the children."""

    def spent() -> np.ndarray:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])

    start = spent()
    result = work()
    return result, spent() - start
