"""How fast hulls are built, against pymatgen's PatchedPhaseDiagram, and how the time grows.

Comes in: entries like ALEXANDRIA's (`hull_entries`) over 25 elements. Goes out: CPU seconds of one core for the hull
of 1e4 entries, with `--long` of 1e5: ours from the table of formulas to distances, decompositions and chemical
potentials, pymatgen's from ready entries to the distances alone; both with the same entries, in turns in one process. Then
ours at 1e4, 1e5 and 1e6, and the exponent of its growth. The bounds: at least 50 times faster at 1e4, 150 times at
1e5; an exponent of at most 1.3 from 1e4 to 1e6.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import hull_entries, runner
from hullforge.thermo.build import Built, build

ELEMENTS = 25
SIZES = (10_000, 100_000, 1_000_000)
BOUNDS = {10_000: 50.0, 100_000: 150.0}
LARGEST_EXPONENT = 1.3
#: Where no patch covers a system, PatchedPhaseDiagram minimises numerically; it may be off by this much, eV/atom.
PEER_ERROR = 1e-3


def peer_entries(table: pa.Table) -> list[Any]:
    """Make pymatgen's entries of a table."""
    from pymatgen.analysis.phase_diagram import PDEntry
    from pymatgen.core import Composition

    formulas, energies = table["formula"].to_pylist(), table["energy_per_atom"].to_pylist()
    compositions = [Composition(formula) for formula in formulas]
    return [PDEntry(c, e * c.num_atoms) for c, e in zip(compositions, energies, strict=True)]


def by_patches(entries: list[Any]) -> np.ndarray:
    """Build pymatgen's PatchedPhaseDiagram and give all distances in eV/atom."""
    from pymatgen.analysis.phase_diagram import PatchedPhaseDiagram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagram = PatchedPhaseDiagram(entries, verbose=False)
        return np.array([diagram.get_e_above_hull(entry) for entry in entries])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Do a piece of work; gives its CPU seconds, of all threads, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(table: pa.Table) -> tuple[float, Built]:
    """Build our hull; gives CPU seconds, the median of several for small tables, and the hull."""
    repeats = max(1, min(7, 2_000_000 // (len(table) * 10)))
    rounds = [timed(lambda: build(table)) for _ in range(repeats)]
    return statistics.median(seconds for seconds, _ in rounds), rounds[-1][1]


def compare(size: int) -> tuple[float, float, float]:
    """Time both sides on the same entries, ours before and after; gives both CPU times and the largest difference."""
    table = hull_entries.entries(size, hull_entries.elements(ELEMENTS))
    entries = peer_entries(table)
    build(table.slice(0, 1000), on_bad="refuse")
    before, built = ours(table)
    peer, distances = timed(lambda: by_patches(entries))
    after, _ = ours(table)
    found = np.empty(len(table))
    found[built.rows] = built.entries["e_above_hull"].to_numpy()
    differences = np.abs(found - distances)
    assert differences.max() < PEER_ERROR, f"distances differ by {differences.max()} eV/atom"
    print(
        f"{len(table)} entries: differences above 1e-9 eV/atom {int((differences > 1e-9).sum())},"
        f" the largest {differences.max():.1e}"
    )
    return statistics.mean((before, after)), peer, float(differences.max())


def run(
    *, long: bool, sizes: tuple[int, ...] = SIZES, compared: tuple[int, ...] | None = None
) -> runner.Outcome:
    """Compare with pymatgen at 1e4, and at 1e5 if `long`; then see how our time grows."""
    compared = compared if compared is not None else tuple(BOUNDS)[: 1 + long]
    figures: dict[str, float | None] = {}
    holds, ratio, rows = True, math.nan, []
    for size in compared:
        own, peer, _ = compare(size)
        ratio = peer / own
        holds &= ratio >= BOUNDS.get(size, 0.0)
        rows.append([size, own, peer, ratio])
        figures |= {f"ours_{size}_cpu_s": own, f"pymatgen_{size}_cpu_s": peer, f"ratio_{size}": ratio}
    print(runner.table(["entries", "hullforge CPU s", "PatchedPhaseDiagram CPU s", "ratio"], rows))

    times = {}
    for size in sizes:
        times[size], built = ours(hull_entries.entries(size, hull_entries.elements(ELEMENTS)))
        figures[f"vertices_share_{size}"] = len(built.hull.vertices) / len(built.entries)
    exponent = math.log(times[sizes[-1]] / times[sizes[0]]) / math.log(sizes[-1] / sizes[0])
    last = math.log(times[sizes[-1]] / times[sizes[-2]]) / math.log(sizes[-1] / sizes[-2])
    growth = [
        [size, times[size], times[size] / size * 1e6, figures[f"vertices_share_{size}"]] for size in sizes
    ]
    print(runner.table(["entries", "hullforge CPU s", "CPU us/entry", "share of vertices"], growth))
    print(f"exponent {exponent:.2f} over all, {last:.2f} over the last step")
    figures |= {f"grown_{size}_cpu_s": seconds for size, seconds in times.items()}
    figures |= {"exponent": exponent, "exponent_last_step": last}
    holds &= exponent <= LARGEST_EXPONENT
    return runner.Outcome(
        figures,
        bool(holds),
        ratio,
        f"pymatgen PatchedPhaseDiagram, build and distances, {compared[-1]} entries",
    )
