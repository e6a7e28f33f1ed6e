"""Compositions as numbers: atomic fractions checked, sorted by number of elements, equal ones found.

Comes in: atomic fractions (N, E), mostly zeros. Goes out: per number of elements k the distinct compositions in k
columns, sorted, so that the order of the rows is forgotten. Knows of energies only that the lowest counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hullforge.errors import TableError
from hullforge.thermo.simplex import Floats, Ints

#: Compositions that agree to this are one composition.
RESOLUTION = 1e-10
#: So many element numbers fit, one byte each, in a 64-bit key.
PACKED = 8


@dataclass(frozen=True)
class Compositions:
    """Distinct compositions of k elements, sorted by system and fractions; and the rows that have them."""

    rows: Ints  # (n,) rows of the caller
    inverse: Ints  # (n,) composition of each of these rows
    lowest: Ints  # (u,) row with the lowest energy of each composition
    systems: Ints  # (S, k) element numbers, ascending
    system_of: Ints  # (u,)
    fractions: Floats  # (u, k)


def checked(fractions: ArrayLike, nelements: int, ids: Sequence[str] | None) -> Floats:
    """Give atomic fractions (N, E) that add up to 1 exactly as far as doubles can."""
    x = np.asarray(fractions, dtype=float)
    if not x.size:
        return np.zeros((0, nelements))
    if x.ndim != 2 or x.shape[1] != nelements:
        raise TableError(f"fractions of shape {x.shape} were given; (entries, {nelements}) is expected")
    total = x.sum(axis=1)
    bad = ~((x >= 0).all(axis=1) & (np.abs(total - 1) < 1e-6))
    if bad.any():
        row = int(bad.argmax())
        name = f"row {row}" if ids is None or row >= len(ids) else f"entry {ids[row]}"
        raise TableError(
            f"{name}: atomic fractions {x[row].tolist()} are negative, not finite, or don't add up to 1"
        )
    x = np.where(x < RESOLUTION, 0.0, x)
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def pack(systems: Ints) -> NDArray[np.uint64]:
    """Pack element numbers (S, k), ascending, into keys (S,) that sort like the rows."""
    keys = np.zeros(len(systems), dtype=np.uint64)
    for column in systems.T:
        keys = (keys << np.uint64(8)) | (column.astype(np.uint64) + np.uint64(1))
    return keys


def lowest_of(inverse: Ints, energies: Floats | None, number: int) -> Ints:
    """Give of each of `number` compositions the row (u,) with the lowest energy, of equally low ones the first.

    `inverse` (n,) composition of each row, `energies` (n,) in eV/atom.
    """
    rows = np.arange(len(inverse))
    if energies is not None:
        lowest = np.full(number, np.inf)
        np.minimum.at(lowest, inverse, energies)
        rows = rows[energies == lowest[inverse]]
    out = np.zeros(number, dtype=np.int64)
    out[inverse[rows[::-1]]] = rows[::-1]  # of what is written to one place, the last stays
    return out


def by_size(
    x: Floats, usable: NDArray[np.bool_], energies: Floats | None
) -> Iterator[tuple[int, Compositions]]:
    """Sort rows (N, E) of usable elements by number of elements k, ascending; equal compositions become one.

    Of equally composed rows the one with the lowest energy counts, of equally low ones the first.
    """
    present = x > 0
    sizes = present.sum(axis=1)
    sizes[(present & ~usable).any(axis=1)] = 0
    for k in np.unique(sizes[sizes > 0]).tolist():
        rows = np.flatnonzero(sizes == k)
        elements = np.nonzero(present[rows])[1].reshape(-1, k)
        fractions = x[rows[:, None], elements]
        yield k, _distinct(rows, elements, fractions, None if energies is None else energies[rows])


def _distinct(rows: Ints, elements: Ints, fractions: Floats, energies: Floats | None) -> Compositions:
    """Find the distinct compositions among n rows, and the entry with the lowest energy of each."""
    n, k = elements.shape
    grid = np.rint(fractions / RESOLUTION).astype(np.int64)
    columns = [pack(elements)] if k <= PACKED else list(elements.T)
    order = np.lexsort([*grid.T[::-1], *columns[::-1]])
    new_system = np.ones(n, dtype=bool)
    new_system[1:] = (elements[order][1:] != elements[order][:-1]).any(axis=1)
    new = new_system.copy()
    new[1:] |= (grid[order][1:] != grid[order][:-1]).any(axis=1)
    inverse = np.empty(n, dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    lowest = lowest_of(inverse, energies, int(new.sum()))
    return Compositions(
        rows=rows,
        inverse=inverse,
        lowest=rows[lowest],
        systems=elements[order][new_system],
        system_of=(np.cumsum(new_system) - 1)[new],
        fractions=fractions[lowest],
    )
