"""Whether hulls are exact: against pymatgen's PhaseDiagram, and by their own proofs on a million entries.

Comes in: sets of entries of 1 to 6 elements, each hard in its own way (`sets`), and entries like ALEXANDRIA's
(`hull_entries`). Goes out: the largest difference from pymatgen's PhaseDiagram, one diagram per chemical system of all
entries in it and below it; and, for 1e6 entries, what `hull_certificates` finds
when it checks the published columns with code of its own. The bounds: 1e-9 eV/atom in everything.
"""

import itertools
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import hull_certificates, hull_entries, runner
from hullforge.thermo.build import build

BOUND = 1e-9
ENTRIES = 1_000_000
_NAMES = ("Li", "Mg", "Al", "Si", "Cu", "O")


def table_of(counts: NDArray[np.int64], formation: NDArray[np.float64], elemental: bool = True) -> pa.Table:  # noqa: FBT001, FBT002
    """Make entries of counts (n, E) and formation energies (n,) in eV/atom, elements with their own entries added."""
    size = counts.shape[1]
    counts = np.vstack([np.eye(size, dtype=np.int64), counts])
    formation = np.concatenate([np.zeros(size), formation])
    pure = (counts > 0).sum(axis=1) == 1
    formation[pure] = np.abs(formation[pure])
    levels = np.array([-1.9, -1.6, -3.7, -5.4, -4.1, -4.9])[:size] if elemental else np.zeros(size)
    energies = formation + counts @ levels / counts.sum(axis=1)
    texts = ["".join(f"{_NAMES[i]}{row[i]}" for i in np.flatnonzero(row)) for row in counts]
    return pa.table(
        {"id": [f"x{i:06d}" for i in range(len(texts))], "formula": texts, "energy_per_atom": energies}
    )


def _counts(rng: np.random.Generator, n: int, size: int, most: int, largest: int) -> NDArray[np.int64]:
    out = np.zeros((n, size), dtype=np.int64)
    for row in out:
        k = int(rng.integers(1, most + 1))
        row[rng.choice(size, k, replace=False)] = rng.integers(1, largest + 1, k)
    return out


def sets() -> Iterator[tuple[str, pa.Table]]:
    """Give the sets that are compared with pymatgen, by name."""
    rng = np.random.default_rng(5)
    yield "like ALEXANDRIA, 13 elements", hull_entries.entries(6000, hull_entries.elements(13), seed=3)
    yield "like ALEXANDRIA, 83 elements", hull_entries.entries(1500, hull_entries.elements(83), seed=4)
    for size, n in ((1, 60), (2, 1500), (3, 3000), (4, 3000), (5, 700), (6, 220)):
        counts = _counts(rng, n, size, size, 6)
        yield f"random, {size} elements", table_of(counts, rng.normal(0, 0.3, n))
    for quantum in (0.05, 0.001):
        counts = _counts(rng, 1500, 4, 4, 6)
        formation = np.round(rng.normal(0, 0.3, len(counts)) / quantum) * quantum
        yield f"multiples of {quantum} eV/atom", table_of(counts, formation, elemental=False)
    counts = _counts(rng, 1000, 4, 4, 4)
    x = counts / counts.sum(axis=1, keepdims=True)
    yield "all zero", table_of(counts, np.zeros(len(x)), elemental=False)
    yield "on planes", table_of(counts, -np.minimum(x[:, 0], x[:, 1]))
    yield (
        "on planes, but 1e-9 eV/atom",
        table_of(counts, -np.minimum(x[:, 0], x[:, 1]) + rng.random(len(x)) * 1e-9),
    )
    yield "all stable", table_of(counts, 0.5 * (x**2).sum(axis=1) - 0.5)
    yield "nearly flat, 1e-7 eV/atom", table_of(counts, 1e-7 * rng.normal(0, 1, len(x)))
    few = _counts(rng, 60, 4, 4, 3)
    copies = np.repeat(few, 25, axis=0) * rng.integers(1, 5, (1500, 1))
    energies = np.repeat(np.round(rng.normal(-0.1, 0.2, 60), 2), 25) + rng.choice(
        [0.0, 0.0, 0.01, 1e-10], 1500
    )
    yield "duplicates in other cells", table_of(copies, energies)
    slender = _counts(rng, 1200, 4, 4, 3) * rng.choice([1, 1, 97, 199], (1200, 4))
    yield "slender compositions, 1:199", table_of(slender, rng.normal(-0.1, 0.2, 1200))
    close = 500 + rng.integers(-3, 4, (500, 3))
    yield "compositions that almost agree", table_of(close, rng.normal(-0.2, 1e-3, 500))


def by_pymatgen(table: pa.Table) -> NDArray[np.float64]:
    """Give distances (n,) in eV/atom by one PhaseDiagram for each chemical system."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    compositions = [Composition(formula) for formula in table["formula"].to_pylist()]
    energies = table["energy_per_atom"].to_numpy()
    entries = [PDEntry(c, e * c.num_atoms) for c, e in zip(compositions, energies, strict=True)]
    inside: dict[tuple[str, ...], list[int]] = {}
    for i, composition in enumerate(compositions):
        inside.setdefault(tuple(sorted(e.symbol for e in composition)), []).append(i)
    out = np.empty(len(entries))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for system, rows in inside.items():
            subsystems = (s for k in range(1, len(system) + 1) for s in itertools.combinations(system, k))
            diagram = PhaseDiagram([entries[i] for s in subsystems for i in inside.get(s, ())])
            heights: dict[str, float] = {}
            for i in rows:
                # Not get_e_above_hull: it takes entries within 1e-8 eV of a stable one for that one.
                formula = compositions[i].reduced_formula
                if formula not in heights:
                    heights[formula] = diagram.get_hull_energy_per_atom(compositions[i])
                out[i] = energies[i] - heights[formula]
    return out


def run(*, long: bool, entries: int = ENTRIES) -> runner.Outcome:  # noqa: ARG001
    """Compare all sets with pymatgen, then check the proofs of 1e6 entries; `long` changes nothing."""
    rows, worst, number = [], 0.0, 0
    for name, table in sets():
        start = time.process_time()
        expected = by_pymatgen(table)
        middle = time.process_time()
        built = build(table)
        difference = float(np.abs(built.entries["e_above_hull"].to_numpy() - expected[built.rows]).max())
        proof = hull_certificates.check(table, built.entries)
        rows.append([name, len(table), difference, proof.worst, middle - start, time.process_time() - middle])
        worst, number = max(worst, difference), number + len(table)
    print(
        runner.table(
            [
                "set",
                "entries",
                "difference, eV/atom",
                "proof off by",
                "pymatgen CPU s",
                "ours and proof CPU s",
            ],
            rows,
        )
    )
    print(
        f"{number} entries compared with pymatgen's PhaseDiagram; the largest difference {worst:.1e} eV/atom"
    )
    worst_of_sets = max(float(row[3]) for row in rows)  # type: ignore[arg-type]

    table = hull_entries.entries(entries, hull_entries.elements(83))
    built = build(table)
    start = time.process_time()
    proof = hull_certificates.check(table, built.entries)
    print(
        f"{len(table)} entries over 83 elements, {proof.compared} pairs of an entry and a plane checked in"
        f" {time.process_time() - start:.0f} CPU s:\n"
        f"  no entry lies below a plane by more than {proof.below:.1e} eV/atom\n"
        f"  decompositions and planes give energies that differ by at most {proof.gap:.1e} eV/atom\n"
        f"  decompositions give compositions that differ by at most {proof.composition:.1e}"
    )
    figures = {
        "compared_entries": float(number),
        "largest_difference_ev_per_atom": worst,
        "proofs_of_sets_off_by": worst_of_sets,
        "certified_entries": float(len(table)),
        "certified_pairs": float(proof.compared),
        "certificates_below_ev_per_atom": proof.below,
        "certificates_gap_ev_per_atom": proof.gap,
        "certificates_composition": proof.composition,
    }
    holds = number >= 20_000 and max(worst, worst_of_sets, proof.worst) <= BOUND
    return runner.Outcome(figures, holds)
