"""Checks published hulls by the proofs that they carry, with no code of the hull.

Comes in: the entries that were placed and the columns that were written for them. Goes out: how far any entry lies
below the plane of any composition in or above its system (dual feasibility, over all entries, not only vertices), how
much energies by decomposition and by plane differ (primal and dual value), and how far the phases miss the composition.
Formulas are read by a regular expression, systems are joined by a dictionary; nothing of `hullforge.thermo` is used.
"""

import re
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_ROWS_AT_ONCE = 100_000
_PAIRS_AT_ONCE = 4_000_000
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")


@dataclass(frozen=True)
class Proof:
    """What the check found: eV/atom for `below` and `gap`, atomic fractions for `composition`; `compared` pairs."""

    below: float
    gap: float
    composition: float
    compared: int

    @property
    def worst(self) -> float:
        """The largest of the three."""
        return max(self.below, self.gap, self.composition)


def check(entries: pa.Table, placed: pa.Table) -> Proof:
    """Check all placed entries; `entries` has id and formula, `placed` the columns of `Built.entries`, all placed."""
    assert not placed["e_above_hull"].null_count
    at = pc.index_in(placed["id"], entries["id"]).combine_chunks()
    encoded = entries["formula"].combine_chunks().take(at).dictionary_encode()
    texts, code = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    symbols: dict[str, int] = {}
    parts = []
    for text in texts:
        count: dict[int, int] = {}
        for symbol, number in _PART.findall(text):
            element = symbols.setdefault(symbol, len(symbols))
            count[element] = count.get(element, 0) + int(number or 1)
        parts.append(count)
    # Potentials are listed by symbol, alphabetical.
    alphabetical = {symbols[symbol]: rank for rank, symbol in enumerate(sorted(symbols))}
    formulas = [sorted((alphabetical[e], n) for e, n in count.items()) for count in parts]
    formation = placed["formation_energy_per_atom"].to_numpy()
    hull = formation - placed["e_above_hull"].to_numpy()
    # e_above_hull below 1e-12 is written as 0, which this check would see as a gap of that size at most.
    potentials = placed["chemical_potentials"].combine_chunks()
    mu, begin = potentials.values.to_numpy(), potentials.offsets.to_numpy()[:-1]
    gap, miss = _primal(placed, formulas, code, formation, hull, len(symbols))

    systems: dict[tuple[int, ...], int] = {}
    system_of_formula = np.array([systems.setdefault(tuple(e for e, _ in f), len(systems)) for f in formulas])
    system = system_of_formula[code]
    order = np.argsort(system, kind="stable")
    start = np.searchsorted(system[order], np.arange(len(systems) + 1))
    sizes = np.array([len(f) for f in formulas])
    keys = list(systems)
    below, compared = 0.0, 0
    fractions_of = {}
    for k in np.unique(sizes).tolist():
        which = np.flatnonzero(sizes == k)
        counts = np.array([[n for _, n in formulas[i]] for i in which], dtype=float)
        fractions = np.zeros((len(formulas), k))
        fractions[which] = counts / counts.sum(axis=1, keepdims=True)
        fractions_of[k] = fractions
        rows = np.flatnonzero(sizes[code] == k)
        planes = mu[begin[rows][:, None] + np.arange(k)]
        dual = (planes * fractions[code[rows]]).sum(axis=1)
        gap = max(gap, float(np.abs(dual - hull[rows]).max()))
    for k in fractions_of:
        # Polymorphs share a composition and must share its plane; one row of each formula speaks, all are compared.
        rows = np.flatnonzero(sizes[code] == k)
        _, first, inverse = np.unique(code[rows], return_index=True, return_inverse=True)
        planes = mu[begin[rows][:, None] + np.arange(k)]
        below = max(below, float(np.abs(planes - planes[first][inverse]).max()))
        planes, rows = planes[first], rows[first]
        named = np.unique(system[rows])
        for j in range(1, k + 1):
            for places in combinations(range(k), j):
                to = np.full(len(systems), -1)
                for s in named.tolist():
                    to[s] = systems.get(tuple(keys[s][p] for p in places), -1)
                if (to < 0).all():
                    continue
                target = to[system[rows]]
                number = np.where(target >= 0, start[target + 1] - start[target], 0)
                stops = np.cumsum(number)
                compared += int(stops[-1])
                cut = 0
                while cut < len(rows):
                    done = stops[cut - 1] if cut else 0
                    stop = max(cut + 1, int(np.searchsorted(stops, done + _PAIRS_AT_ONCE, side="right")))
                    here = slice(cut, stop)
                    plane = np.repeat(np.arange(cut, stop), number[here])
                    offset = np.arange(len(plane)) - np.repeat(
                        stops[here] - number[here] - done, number[here]
                    )
                    entry = order[start[target[plane]] + offset]
                    height = (planes[plane][:, places] * fractions_of[j][code[entry]]).sum(axis=1)
                    below = max(below, float((height - formation[entry]).max(initial=0.0)))
                    cut = stop
    return Proof(below, gap, miss, compared)


def _primal(
    placed: pa.Table,
    formulas: list[list[tuple[int, int]]],
    code: NDArray[np.int64],
    formation: NDArray[np.float64],
    hull: NDArray[np.float64],
    n_elements: int,
) -> tuple[float, float]:
    """Give the largest gap between decompositions' energies and the hull, and the largest miss in composition."""
    lists = placed["decomposition"].combine_chunks()
    offsets = lists.offsets.to_numpy()
    ids, shares = lists.values.field("id"), lists.values.field("fraction").to_numpy()
    phases = pc.index_in(ids, placed["id"].combine_chunks()).to_numpy()
    lengths = np.array([len(f) for f in formulas])
    at = np.concatenate([[0], np.cumsum(lengths)])
    elements = np.array([e for f in formulas for e, _ in f])
    counts = np.array([n for f in formulas for _, n in f], dtype=float)
    fractions = counts / np.repeat(np.add.reduceat(counts, at[:-1]), lengths)

    def dense(
        row: NDArray[np.int64], formula: NDArray[np.int64], weight: NDArray[np.float64], n: int
    ) -> NDArray[np.float64]:
        repeat = lengths[formula]
        inside = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
        place = np.repeat(at[formula], repeat) + inside
        key = np.repeat(row, repeat) * n_elements + elements[place]
        return np.bincount(key, np.repeat(weight, repeat) * fractions[place], n * n_elements)

    gap = miss = 0.0
    for first in range(0, len(code), _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, len(code))
        span = slice(offsets[first], offsets[last])
        row = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        energy = np.bincount(row, shares[span] * formation[phases[span]], last - first)
        gap = max(gap, float(np.abs(energy - hull[first:last]).max()))
        mixed = dense(row, code[phases[span]], shares[span], last - first)
        given = dense(np.arange(last - first), code[first:last], np.ones(last - first), last - first)
        miss = max(miss, float(np.abs(mixed - given).max()))
    return gap, miss
