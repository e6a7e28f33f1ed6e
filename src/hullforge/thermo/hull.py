"""The exact convex hull of formation energies over compositions, for millions of entries.

Comes in: compositions and formation energies per atom. Goes out: each entry's distance to the hull, its
decomposition and chemical potentials, and distances of any further compositions (`ConvexHull.query`).
Never fitted, never approximate: each value carries its proof, a plane through the decomposition's phases that
lies below all entries (`hullforge.thermo.simplex`), so an error above 1e-12 eV/atom can't go unnoticed.

The hull of a chemical system's subsystem is a face of the system's hull. Systems are therefore done by number of
elements, and of a subsystem only the vertices go on; those of all subsystems of all systems of one size are
found by binary search on packed keys, without a loop over systems.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from hullforge.errors import TableError
from hullforge.thermo.compositions import PACKED, Compositions, by_size, checked, pack
from hullforge.thermo.formulas import Formulas
from hullforge.thermo.simplex import Floats, Ints, lowest_mixtures

#: Entries this close to the hull count as on it, eV/atom.
ON_HULL = 1e-8
#: Distances smaller than this are rounding errors and become 0, eV/atom.
ROUND_OFF = 1e-12
#: Decompositions leave out phases with a smaller share.
SMALLEST_SHARE = 1e-9

_JOINED = 10  # of larger systems the subsets are too many to be tried one by one, and the systems few
_SYSTEMS_AT_ONCE = 20_000
_NUMBERS_AT_ONCE = 300_000  # numbers in the candidates of one batch of programs: about a core's cache


@dataclass(frozen=True)
class _Level:
    """The phases with k elements that others may decompose into, sorted by system."""

    systems: Ints  # (S, k)
    keys: NDArray[np.uint64]  # (S,) packed systems, ascending; empty where k is too large to pack
    start: Ints  # (S + 1,) where each system's phases begin
    fractions: Floats  # (n, k)
    energies: Floats  # (n,) eV/atom
    rows: Ints  # (n,) entry that each phase is


@dataclass(frozen=True)
class Solved:
    """The lowest mixtures at distinct compositions of k elements."""

    compositions: Compositions
    energy: Floats  # (u,) eV/atom
    potentials: Floats  # (u, k) eV/atom
    phases: Ints  # (u, k) entries that mix
    weights: Floats  # (u, k)


@dataclass(frozen=True)
class Placement:
    """All N entries relative to the hull.

    `e_above_hull` (N,): distances in eV/atom, NaN where an element of the entry has no elemental entry;
    `is_on_hull` (N,): `e_above_hull <= 1e-8`; `levels` what was solved, by number of elements.
    """

    e_above_hull: Floats
    is_on_hull: NDArray[np.bool_]
    _ids: Sequence[str] | pa.Array | pa.ChunkedArray
    _nelements: int
    levels: tuple[Solved, ...]

    @cached_property
    def decomposition(self) -> list[list[tuple[str, float]]]:
        """For each entry the stable phases at its composition, `(id, fraction of atoms)`, largest share first."""
        ids = self._ids.to_pylist() if isinstance(self._ids, pa.Array | pa.ChunkedArray) else self._ids
        out: list[list[tuple[str, float]]] = [[] for _ in self.e_above_hull]
        for solved in self.levels:
            texts = [
                sorted(
                    ((ids[p], w) for p, w in zip(phases, weights, strict=True) if w > SMALLEST_SHARE),
                    key=lambda pair: (-pair[1], pair[0]),
                )
                for phases, weights in zip(solved.phases.tolist(), solved.weights.tolist(), strict=True)
            ]
            for row, which in zip(
                solved.compositions.rows.tolist(), solved.compositions.inverse.tolist(), strict=True
            ):
                out[row] = texts[which]
        return out

    @cached_property
    def chemical_potentials(self) -> Floats:
        """Chemical potentials (N, E), eV/atom relative to the elements; NaN for elements that an entry lacks.

        They are the proof: their mean over an entry's composition is the hull's energy there, and over any other
        entry's composition is nowhere above that entry's energy.
        """
        out = np.full((len(self.e_above_hull), self._nelements), np.nan)
        for solved in self.levels:
            c = solved.compositions
            out[c.rows[:, None], c.systems[c.system_of][c.inverse]] = solved.potentials[c.inverse]
        return out


class ConvexHull:
    """A convex hull: made once from entries, then asked about them (`place`) or about others (`query`)."""

    def __init__(self, elements: Sequence[str]) -> None:
        if len(set(elements)) != len(elements) or len(elements) > 255:
            raise TableError("a hull needs at most 255 elements, each named once")
        self.elements = tuple(elements)
        #: (E,) whether each element has an elemental entry; without it, its compounds can't be placed.
        self.has_reference = np.zeros(len(elements), dtype=bool)
        self._reference_rows = np.full(len(elements), -1)
        self._levels: dict[int, _Level] = {}
        self._placement = Placement(np.zeros(0), np.zeros(0, dtype=bool), (), len(elements), ())

    @classmethod
    def from_formation_energies(
        cls,
        elements: Sequence[str],
        fractions: ArrayLike,
        formation_energy_per_atom: ArrayLike,
        ids: Sequence[str],
    ) -> "ConvexHull":
        """Make the hull of N entries over E elements.

        `fractions` (N, E): atomic fractions; `formation_energy_per_atom` (N,): eV/atom against the lowest entry of
        each element, which therefore has 0; `ids` (N,). Of entries with one composition the lowest counts, of
        equally low ones the smallest id. The order of the rows changes nothing.

        Raises `TableError` for fractions that don't add up, energies that aren't finite, ids that repeat, and
        elements whose lowest entry isn't at 0.
        """
        hull = cls(elements)
        energies = np.asarray(formation_energy_per_atom, dtype=float).ravel()
        x = checked(fractions, len(hull.elements), ids)
        if len(energies) != len(x) or len(ids) != len(x):
            raise TableError(
                f"{len(x)} compositions, {len(energies)} energies and {len(ids)} ids: one of each per entry"
            )
        if not np.isfinite(energies).all():
            raise TableError(
                f"entry {ids[int(np.argmin(np.isfinite(energies)))]}: the formation energy is not finite"
            )
        if len(set(ids)) != len(ids):
            raise TableError("ids repeat: each entry needs its own")
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        x, energies = x[order], energies[order]
        pure = (x > 0).sum(axis=1) == 1
        hull.has_reference[:] = (x[pure] > 0).any(axis=0)
        levels = by_size(x, hull.has_reference, energies)
        back = [
            (k, replace(level, rows=order[level.rows], lowest=order[level.lowest])) for k, level in levels
        ]
        energies[order] = energies.copy()
        hull._build(back, energies, ids)
        return hull

    @classmethod
    def from_formulas(
        cls,
        elements: Sequence[str],
        formulas: Formulas,
        formation_energy_per_atom: Floats,
        ids: pa.Array | pa.ChunkedArray,
    ) -> "ConvexHull":
        """Make the hull of N entries that are sorted by id, as `from_formation_energies` does, without a loop.

        `formulas` of N rows whose elements are numbered as in `elements`; entries with an element that has no entry
        of its own are not placed.
        """
        hull = cls(elements)
        pure = np.flatnonzero(formulas.sizes == 1)
        given = np.zeros(len(formulas.text), dtype=bool)
        given[formulas.code] = True
        have = formulas.elements[formulas.start[pure[given[pure]]]]
        allowed = np.zeros(len(formulas.order), dtype=bool)
        allowed[have[have < len(elements)]] = True
        hull.has_reference[:] = allowed[: len(elements)]
        hull._build(formulas.by_size(allowed, formation_energy_per_atom), formation_energy_per_atom, ids)
        return hull

    @property
    def vertices(self) -> list[int]:
        """Rows of the entries that others may decompose into, ascending."""
        rows = [self._reference_rows[self.has_reference], *(level.rows for level in self._levels.values())]
        return np.sort(np.concatenate(rows)).tolist()

    def place(self) -> Placement:
        """Give the entries' distances to the hull, decompositions and chemical potentials, in their order."""
        return self._placement

    def query(self, fractions: ArrayLike, formation_energy_per_atom: ArrayLike) -> Floats:
        """Distances (M,) in eV/atom of further entries to this hull, which they don't change.

        `fractions` (M, E) in the order of `elements`, `formation_energy_per_atom` (M,) in eV/atom. Negative: the
        entry lies below the hull and would lower it. NaN: an element has no elemental entry, or the energy is NaN.
        """
        energies = np.asarray(formation_energy_per_atom, dtype=float).ravel()
        x = checked(fractions, len(self.elements), None)
        if len(energies) != len(x):
            raise TableError(
                f"{len(x)} compositions and {len(energies)} energies: one energy per composition"
            )
        return self._distances(by_size(x, self.has_reference, None), energies)

    def query_formulas(self, formulas: Formulas, formation_energy_per_atom: Floats) -> Floats:
        """Distances (M,) as by `query`, of formulas that were read with `parse(..., order=hull.elements)`."""
        allowed = np.zeros(len(formulas.order), dtype=bool)
        allowed[: len(self.elements)] = self.has_reference
        return self._distances(formulas.by_size(allowed, None), formation_energy_per_atom)

    def _distances(self, levels: Iterable[tuple[int, Compositions]], energies: Floats) -> Floats:
        out = np.full(len(energies), np.nan)
        for _, compositions in levels:
            solved = self._solve(compositions)
            out[compositions.rows] = energies[compositions.rows] - solved.energy[compositions.inverse]
        return _without_noise(out)

    def _build(
        self,
        levels: Iterable[tuple[int, Compositions]],
        energies: Floats,
        ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    ) -> None:
        above = np.full(len(energies), np.nan)
        all_solved = []
        for k, compositions in levels:
            lowest = energies[compositions.lowest]
            if k == 1:
                element_of = compositions.systems[compositions.system_of, 0]
                self._reference_rows[element_of] = compositions.lowest
                for element, energy in zip(element_of, lowest, strict=True):
                    if abs(energy) > ON_HULL:
                        raise TableError(
                            f"element {self.elements[element]}: its lowest entry has a formation energy of"
                            f" {energy:g} eV/atom; it is the reference and must have 0"
                        )
            else:
                self._levels[k] = _level(compositions, lowest, lowest < 0)
            solved = self._solve(compositions)
            if k > 1:
                self._levels[k] = _level(
                    compositions, lowest, (lowest < 0) & (lowest - solved.energy <= ON_HULL)
                )
            above[compositions.rows] = energies[compositions.rows] - solved.energy[compositions.inverse]
            all_solved.append(solved)
        above = _without_noise(above)
        self._placement = Placement(above, above <= ON_HULL, ids, len(self.elements), tuple(all_solved))

    def _solve(self, compositions: Compositions) -> Solved:
        """Find the lowest mixture at each composition among the phases known so far."""
        u, k = compositions.fractions.shape
        out = Solved(
            compositions, np.zeros(u), np.zeros((u, k)), np.zeros((u, k), dtype=np.int64), np.ones((u, k))
        )
        if k == 1:
            out.phases[:] = self._reference_rows[compositions.systems[compositions.system_of]]
            return out
        for first in range(0, len(compositions.systems), _SYSTEMS_AT_ONCE):
            systems = compositions.systems[first : first + _SYSTEMS_AT_ONCE]
            begin, end = np.searchsorted(compositions.system_of, [first, first + len(systems)])
            start, phases, costs, rows = self._candidates(systems)
            columns = np.ascontiguousarray(phases.T)
            system_of = compositions.system_of[begin:end] - first
            for batch in _batches(np.diff(start)[system_of], k):
                numbers = np.diff(start)[system_of[batch]]
                index = start[system_of[batch]][:, None] + np.arange(numbers.max())
                padding = index >= start[system_of[batch] + 1][:, None]
                index[padding] = 0
                cost = costs[index]
                cost[padding] = np.inf
                where = begin + batch
                taken = np.moveaxis(columns[:, index], 0, 2)
                found = lowest_mixtures(taken, cost, compositions.fractions[where])
                out.energy[where], out.potentials[where] = found.energy, found.potentials
                out.phases[where] = rows[np.take_along_axis(index, found.basis, axis=1)]
                out.weights[where] = found.weights
        return out

    def _candidates(self, systems: Ints) -> tuple[Ints, Floats, Floats, Ints]:
        """Collect the phases in each of S systems of k elements and in all their subsystems.

        Gives `start` (S + 1,), and of the n phases `fractions` (n, k), `energies` (n,) and `rows` (n,); each
        system's list begins with its elements in order.
        """
        size, k = systems.shape
        joins = list(self._joins(systems))
        count = k + sum((number for _, _, _, number in joins), np.zeros(size, dtype=np.int64))
        start = np.concatenate([[0], np.cumsum(count)])
        fractions, energies = np.zeros((start[-1], k)), np.zeros(start[-1])
        rows = np.zeros(start[-1], dtype=np.int64)
        elemental = start[:-1, None] + np.arange(k)
        fractions[elemental, np.arange(k)] = 1.0
        rows[elemental] = self._reference_rows[systems]
        position = start[:-1] + k
        for level, places, first, number in joins:
            offset = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
            source, target = np.repeat(first, number) + offset, np.repeat(position, number) + offset
            which = (
                np.asarray(places)
                if isinstance(places, tuple)
                else places[np.repeat(np.arange(size), number)]
            )
            fractions[target[:, None], which] = level.fractions[source]
            energies[target], rows[target] = level.energies[source], level.rows[source]
            position = position + number
        return start, fractions, energies, rows

    def _joins(self, systems: Ints) -> Iterator[tuple[_Level, Any, Ints, Ints]]:
        """For each kind of subsystem: its level, its places among the k elements, first phase and number (S,)."""
        size, k = systems.shape
        for j, level in sorted(self._levels.items()):
            if j > k or not len(level.systems):
                continue
            if j <= PACKED and k <= _JOINED:
                for places in combinations(range(k), j):
                    keys = pack(systems[:, places])
                    at = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
                    number = np.where(level.keys[at] == keys, level.start[at + 1] - level.start[at], 0)
                    if number.any():
                        yield level, places, level.start[at], number
                continue
            for s, system in enumerate(systems):
                for found in np.flatnonzero(np.isin(level.systems, system).all(axis=1)).tolist():
                    number = np.zeros(size, dtype=np.int64)
                    number[s] = level.start[found + 1] - level.start[found]
                    inside = np.tile(np.searchsorted(system, level.systems[found]), (size, 1))
                    yield level, inside, np.full(size, level.start[found]), number


def _without_noise(distances: Floats) -> Floats:
    return np.where(np.abs(distances) < ROUND_OFF, 0.0, distances)


def _level(compositions: Compositions, energies: Floats, keep: NDArray[np.bool_]) -> _Level:
    """Make a level of the compositions (u,) with `keep`, whose lowest energies (u,) are given."""
    used, system_of = np.unique(compositions.system_of[keep], return_inverse=True)
    systems = compositions.systems[used]
    k = systems.shape[1]
    return _Level(
        systems=systems,
        keys=pack(systems) if k <= PACKED else np.zeros(0, dtype=np.uint64),
        start=np.searchsorted(system_of, np.arange(len(used) + 1)),
        fractions=compositions.fractions[keep],
        energies=energies[keep],
        rows=compositions.lowest[keep],
    )


def _batches(numbers: Ints, k: int) -> Iterator[Ints]:
    """Split programs into batches with similar numbers (n,) of candidates, so that little is padded."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    first = 0
    while first < len(order):
        similar = int(np.searchsorted(ordered, ordered[first] * 5 // 4 + 2, side="right"))
        while first < similar:
            # The batch's largest program is its last; the guess from the first is at most a quarter too small.
            last = min(similar, first + max(1, _NUMBERS_AT_ONCE // int(ordered[first] * k)))
            yield order[first:last]
            first = last
