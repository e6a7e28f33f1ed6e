"""Decorations: every way to put different elements of a pool on the species of a prototype, counted exactly.

Comes in: a compiled prototype and the size of a pool of elements sorted by atomic number. Goes out: how many
distinct decorations there are, and the bijection between them and the ranks 0..count-1, vectorised, so that a
shard of a hundred billion candidates is two integers. Decorations that an automorphism of the prototype turns
into each other are one. Never materialises more than the ranks it is given, never judges chemistry.

A rank is (rank of the set of elements) * (k! / automorphisms) + (number of the arrangement). Sets are ranked by
the combinatorial number system, sum of C(c_i, i + 1) over the ascending pool indices c_i, which does not depend
on the size of the pool; arrangements are the smallest of each coset of the automorphisms, in order.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hullforge.crystals import volume
from hullforge.crystals.prototypes import Prototype
from hullforge.errors import PrototypeError
from hullforge.store.structures import NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

Indices = NDArray[np.uint8]
Ranks = NDArray[np.int64]

#: Empty space across layers and around chains, angstrom.
VACUUM = 15.0


def count(prototype: Prototype, n_elements: int) -> int:
    """Give the number of distinct decorations with a pool of `n_elements`: C(n, k) k! / automorphisms."""
    k = prototype.nspecies
    return math.comb(n_elements, k) * (math.factorial(k) // len(prototype.automorphisms))


def unrank(prototype: Prototype, ranks: Ranks, n_elements: int) -> Indices:
    """Give the decorations of `ranks` (R,) as pool indices (R, k), one per species, in canonical arrangement.

    Raises `PrototypeError` when a rank is outside 0..count-1.
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    total = count(prototype, n_elements)
    if len(ranks) and (ranks.min() < 0 or int(ranks.max()) >= total):
        raise PrototypeError(
            f"{prototype.prototype_id}: ranks {ranks.min()}..{ranks.max()} are not all among the {total} "
            f"decorations with {n_elements} elements; the pool of elements is another than that of the ranks"
        )
    arrangements = _arrangements(prototype)
    rest, arrangement = np.divmod(ranks, len(arrangements))
    k = prototype.nspecies
    chosen = np.empty((len(ranks), k), dtype=np.uint8)
    for place in range(k, 0, -1):
        table = _binomials(n_elements, place)
        index = np.searchsorted(table, rest, side="right") - 1
        chosen[:, place - 1] = index
        rest = rest - table[index]
    return np.asarray(np.take_along_axis(chosen, arrangements[arrangement], axis=1))


def rank(prototype: Prototype, indices: NDArray[np.integer]) -> Ranks:
    """Give the ranks (R,) of decorations (R, k), pool indices in any of their equivalent arrangements.

    Raises `PrototypeError` when a row has the wrong length or holds an element twice.
    """
    indices = np.asarray(indices, dtype=np.int64)
    k = prototype.nspecies
    if indices.ndim != 2 or indices.shape[1] != k:
        raise PrototypeError(f"{prototype.prototype_id} has {k} species; the decorations are {indices.shape}")
    order = np.argsort(indices, axis=1, kind="stable")
    chosen = np.take_along_axis(indices, order, axis=1)
    if (np.diff(chosen, axis=1) == 0).any():
        raise PrototypeError(f"{prototype.prototype_id}: a decoration holds an element twice")
    highest = int(chosen.max(initial=0)) + 1
    subset = sum(
        (_binomials(highest, i + 1)[chosen[:, i]] for i in range(k)), np.zeros(len(indices), dtype=np.int64)
    )
    arrangement = np.argsort(order, axis=1)
    permutations, number = _cosets(prototype)
    codes = _codes(permutations)
    found = number[np.searchsorted(codes, _codes(arrangement))]
    return np.asarray(subset * (int(number.max()) + 1) + found)


def canonical(prototype: Prototype, elements: Sequence[str]) -> tuple[str, ...]:
    """Give the arrangement of `elements` (symbols, one per species) that ranks stand for.

    It is the one of all equivalent arrangements with the smallest atomic numbers, read from species 0 on.

    Raises `PrototypeError` for an unknown element, an element twice, or a wrong number of them.
    """
    elements = tuple(elements)
    if len(elements) != prototype.nspecies or len(set(elements)) != len(elements):
        raise PrototypeError(
            f"{prototype.protostructure} ({prototype.name}) takes {prototype.nspecies} different elements; "
            f"{len(elements)} were given: {', '.join(elements)}"
        )
    unknown = [element for element in elements if NUMBERS.get(element, 0) == 0]
    if unknown:
        raise PrototypeError(f"unknown element {', '.join(unknown)}")
    numbers = [NUMBERS[element] for element in elements]
    smallest = min(tuple(numbers[s] for s in permutation) for permutation in prototype.automorphisms)
    return tuple(SYMBOLS[number] for number in smallest)


def shard_ranges(
    prototypes: Sequence[Prototype], n_elements: int, shard: int, shards: int
) -> list[tuple[int, int, int]]:
    """Give what shard number `shard` of `shards` holds: (index of the prototype, first rank, last rank + 1).

    Over all shards every rank of every prototype comes once; shards differ by at most one decoration.
    """
    if not 0 <= shard < shards:
        raise PrototypeError(f"shard {shard} of {shards} does not exist; shards are counted from 0")
    counts = [count(prototype, n_elements) for prototype in prototypes]
    total = sum(counts)
    first, last = total * shard // shards, total * (shard + 1) // shards
    ranges = []
    before = 0
    for index, number in enumerate(counts):
        start, stop = max(first - before, 0), min(last - before, number)
        if start < stop:
            ranges.append((index, start, stop))
        before += number
    return ranges


def decorate(prototype: Prototype, elements: Sequence[str], volume_per_atom: float | None = None) -> "Atoms":
    """Put `elements` (symbols, one per species) on the prototype, scaled to `volume_per_atom` (angstrom^3).

    Without a volume the estimate of `hullforge.crystals.volume` is used. Where an axis is not periodic there
    is no volume: layers and chains are scaled so that the closest atoms touch (sum of covalent radii), and
    `VACUUM` is left around them. The elements are used in the order given, not in the canonical one.

    Raises `PrototypeError` as `canonical` does.
    """
    from ase import Atoms

    from hullforge.crystals import geometry

    canonical(prototype, elements)
    numbers = np.array([NUMBERS[element] for element in elements])[prototype.site_species]
    atoms = Atoms(numbers=numbers, cell=prototype.cell, positions=prototype.positions, pbc=prototype.pbc)
    if prototype.pbc.all():
        target = volume.estimated_volume_per_atom(numbers) if volume_per_atom is None else volume_per_atom
        factor = (target * prototype.nsites / atoms.get_volume()) ** (1 / 3)
    else:
        factor = 1 / geometry.shortest_distance_ratio(
            numbers, prototype.cell, prototype.positions, prototype.pbc
        )
    atoms.set_cell(prototype.cell * factor, scale_atoms=True)
    for axis in np.flatnonzero(~prototype.pbc):
        atoms.center(vacuum=VACUUM / 2, axis=int(axis))
    return atoms


def _binomials(n: int, k: int) -> Ranks:
    """Give C(0, k) .. C(n - 1, k)."""
    return np.array([math.comb(c, k) for c in range(n)], dtype=np.int64)


def _codes(permutations: NDArray[np.integer]) -> Ranks:
    """Read the rows (R, k) of permutations as numbers of base k, in their lexicographic order."""
    k = permutations.shape[1]
    return np.asarray(permutations.astype(np.int64) @ (k ** np.arange(k - 1, -1, -1, dtype=np.int64)))


def _cosets(prototype: Prototype) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give all k! arrangements (k!, k), sorted, and for each the number of its class under automorphisms."""
    k = prototype.nspecies
    permutations = np.array(list(itertools.permutations(range(k))), dtype=np.int64)
    codes = _codes(permutations)
    smallest = np.min([_codes(permutations[:, list(p)]) for p in prototype.automorphisms], axis=0)
    _, number = np.unique(smallest, return_inverse=True)
    assert len(codes) == (number.max() + 1) * len(prototype.automorphisms)
    return permutations, number


def _arrangements(prototype: Prototype) -> NDArray[np.int64]:
    """Give the smallest arrangement of each class, in order: (k! / automorphisms, k)."""
    permutations, number = _cosets(prototype)
    _, first = np.unique(number, return_index=True)
    return np.asarray(permutations[first])
