"""Decorations: every way to put different elements of a pool on the species of a prototype, counted exactly.

Comes in: a compiled prototype, a pool of elements, and the elements that some species are confined to. Goes out:
how many distinct decorations there are, and the bijection between them and the ranks 0..count-1, vectorised, so
that a shard of a hundred billion candidates is two integers. Decorations that an automorphism of the prototype
turns into each other are one. Never materialises more than the ranks it is given, never judges chemistry.

A rank is (rank of the set of elements) * (k! / automorphisms) + (number of the arrangement). Sets are ranked by
the combinatorial number system, sum of C(c_i, i + 1) over the ascending pool indices c_i, which does not depend
on the size of the pool; arrangements are the smallest of each coset of the automorphisms, in order. Where species
are confined, the pool is split into classes of elements that the same species may hold. The assignments of
classes to species fall into orbits under the automorphisms, and ranks run through the orbits in order; within
one, there is a set per class, and the automorphisms that count are those that keep the assignment. Elements
differ, so no automorphism but the identity leaves a decoration as it is, and every orbit's count is exact.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hullforge.config import SiteGroups
from hullforge.crystals import volume
from hullforge.crystals.prototypes import Prototype, find
from hullforge.errors import ConfigError, PrototypeError
from hullforge.store.structures import NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

Indices = NDArray[np.uint8]
Ranks = NDArray[np.int64]

#: Empty space across layers and around chains, angstrom.
VACUUM = 15.0
#: Letters of the species in a protostructure label.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Ways to give each species a class of elements that are listed, at most.
MAX_ASSIGNMENTS = 1_000_000


class Decorations:
    """The distinct decorations of one prototype with a pool of elements, numbered from 0.

    `elements` is the pool, sorted by atomic number, and `count` the number of decorations. `site_groups` gives
    letters of the protostructure label the elements that they may hold; other letters take the whole pool. A
    decoration is allowed when any of its equivalent arrangements is, since they are one crystal.

    Raises `PrototypeError` for a letter that the prototype lacks, a letter without elements, an element outside
    the pool, and site groups with more than `MAX_ASSIGNMENTS` ways to share out their elements.
    """

    def __init__(
        self,
        prototype: Prototype,
        elements: Sequence[str],
        site_groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.prototype = prototype
        self.elements = tuple(sorted(elements, key=NUMBERS.__getitem__))
        allowed = self._allowed(site_groups or {})
        # Elements that the same species may hold are one class; classes are in the order of their first element.
        membership = [tuple(index in species for species in allowed) for index in range(len(self.elements))]
        classes = list(dict.fromkeys(membership))
        self._class_of = np.array([classes.index(m) for m in membership], dtype=np.int64)
        members = [np.flatnonzero(self._class_of == c).astype(np.uint8) for c in range(len(classes))]
        self._orbits: list[_Orbit] = []
        # Every assignment of classes to species that is allowed or equivalent to one that is: the number of its
        # orbit, and the exchange of species that turns it into the orbit's first assignment.
        self._place: dict[tuple[int, ...], tuple[int, list[int]]] = {}
        takes = [[c for c, m in enumerate(classes) if m[s]] for s in range(prototype.nspecies)]
        if math.prod(map(len, takes)) > MAX_ASSIGNMENTS:
            raise PrototypeError(
                f"the site groups leave {math.prod(map(len, takes))} ways to share their elements out among the "
                f"{prototype.nspecies} species; at most {MAX_ASSIGNMENTS} are allowed: let fewer of them overlap"
            )
        for assignment in itertools.product(*takes):
            if assignment in self._place or any(assignment.count(c) > len(members[c]) for c in assignment):
                continue
            stabiliser = []
            for permutation in prototype.automorphisms:
                image = tuple(assignment[s] for s in permutation)
                if image == assignment:
                    stabiliser.append(permutation)
                self._place.setdefault(image, (len(self._orbits), np.argsort(permutation).tolist()))
            self._orbits.append(_Orbit(assignment, members, stabiliser))
        ends = list(itertools.accumulate(orbit.count for orbit in self._orbits))
        self.count: int = ends[-1] if ends else 0
        self._ends = np.array(ends, dtype=np.int64)

    def _allowed(self, site_groups: Mapping[str, Sequence[str]]) -> list[set[int]]:
        """Give the pool indices that each species may hold."""
        k = self.prototype.nspecies
        allowed = [set(range(len(self.elements))) for _ in range(k)]
        for letter, symbols in site_groups.items():
            if letter not in LETTERS[:k]:
                raise PrototypeError(
                    f"{self.prototype.protostructure} has no species {letter}; "
                    f"its letters are {', '.join(LETTERS[:k])}"
                )
            outside = [symbol for symbol in symbols if symbol not in self.elements]
            if outside:
                raise PrototypeError(
                    f"species {letter}: {', '.join(outside)} not in the pool of elements "
                    f"({', '.join(self.elements)})"
                )
            if not symbols:
                raise PrototypeError(f"species {letter}: no element is allowed; name one, or leave it out")
            allowed[LETTERS.index(letter)] = {self.elements.index(symbol) for symbol in symbols}
        return allowed

    def unrank(self, ranks: Ranks) -> Indices:
        """Give the decorations of `ranks` (R,) as pool indices (R, k), one per species, in canonical arrangement.

        Raises `PrototypeError` when a rank is outside 0..count-1.
        """
        ranks = np.asarray(ranks, dtype=np.int64)
        if not len(ranks):
            return np.zeros((0, self.prototype.nspecies), dtype=np.uint8)
        if ranks.min() < 0 or int(ranks.max()) >= self.count:
            raise PrototypeError(
                f"{self.prototype.prototype_id}: ranks {ranks.min()}..{ranks.max()} are not all among the "
                f"{self.count} decorations with {len(self.elements)} elements; the pool of elements or the site "
                "groups are others than those of the ranks"
            )
        if len(self._orbits) == 1:
            return self._canonical(self._orbits[0], self._orbits[0].unrank(ranks))
        number = np.searchsorted(self._ends, ranks, side="right")
        rows = np.empty((len(ranks), self.prototype.nspecies), dtype=np.uint8)
        for at in np.unique(number).tolist():
            mine, orbit = number == at, self._orbits[at]
            rows[mine] = self._canonical(orbit, orbit.unrank(ranks[mine] - (self._ends[at] - orbit.count)))
        return rows

    def rank(self, indices: NDArray[np.integer]) -> Ranks:
        """Give the ranks (R,) of decorations (R, k), pool indices in any of their equivalent arrangements.

        Raises `PrototypeError` when a row has the wrong length, holds an element twice, an index outside the
        pool, or what the site groups forbid.
        """
        indices, place = self._places(indices)
        if (place < 0).any():
            row = [self.elements[index] for index in indices[np.argmin(place)]]
            raise PrototypeError(f"{self.prototype.prototype_id}: the site groups forbid {', '.join(row)}")
        ranks = np.zeros(len(indices), dtype=np.int64)
        turns = list(self._place.values())
        for at in np.unique(place).tolist():
            number, turn = turns[at]
            mine, orbit = place == at, self._orbits[number]
            ranks[mine] = orbit.rank(indices[mine][:, turn]) + (self._ends[number] - orbit.count)
        return ranks

    def allows(self, indices: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say (R,) which decorations (R, k), in any arrangement, the site groups allow; errors as in `rank`."""
        return np.asarray(self._places(indices)[1] >= 0)

    def _places(self, indices: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Check decorations; give them, and the position of each one's classes among `_place`, -1 if forbidden."""
        given: NDArray[np.int64] = np.asarray(indices, dtype=np.int64)
        name, k = self.prototype.prototype_id, self.prototype.nspecies
        if given.ndim != 2 or given.shape[1] != k:
            raise PrototypeError(f"{name} has {k} species; the decorations are {given.shape}")
        if (np.diff(np.sort(given, axis=1), axis=1) == 0).any():
            raise PrototypeError(f"{name}: a decoration holds an element twice")
        if given.size and not 0 <= given.min() <= given.max() < len(self.elements):
            raise PrototypeError(f"{name}: an index is outside the pool of {len(self.elements)} elements")
        classes = self._class_of[given]
        _, first, back = np.unique(
            _codes(classes, len(self.elements)), return_index=True, return_inverse=True
        )
        position = {assignment: at for at, assignment in enumerate(self._place)}
        found = np.array([position.get(tuple(row), -1) for row in classes[first].tolist()], dtype=np.int64)
        return given, found[back]

    def _canonical(self, orbit: "_Orbit", rows: Indices) -> Indices:
        """Bring decorations (R, k) of an orbit to the arrangement with the smallest atomic numbers."""
        if len(orbit.members) == 1 or len(self.prototype.automorphisms) == 1:
            return rows  # the smallest slots are the smallest elements
        turns = np.array(self.prototype.automorphisms)
        codes = np.array([_codes(rows[:, turn], len(self.elements)) for turn in turns])
        return np.asarray(np.take_along_axis(rows, turns[codes.argmin(axis=0)], axis=1))


class _Orbit:
    """The decorations whose species hold elements of given classes, up to the automorphisms that keep these.

    The elements in use fill slots: those of the first class in ascending order, then those of the next. An
    arrangement says which slot a species takes. A local rank is mixed-radix: the set of each class, then the
    arrangement.
    """

    def __init__(
        self, assignment: tuple[int, ...], members: list[Indices], stabiliser: Sequence[tuple[int, ...]]
    ) -> None:
        species = [[s for s, c in enumerate(assignment) if c == used] for used in sorted(set(assignment))]
        self.species = species
        self.members = [members[used] for used in sorted(set(assignment))]
        self.ends = list(itertools.accumulate(map(len, species)))
        self.sets = [math.comb(len(m), len(s)) for m, s in zip(self.members, species, strict=True)]
        #: Of class c, C(0, i) .. C(n_c - 1, i) for i = 1 to the number of its slots.
        self.binomials = [
            [_binomials(len(m), i + 1) for i in range(len(s))]
            for m, s in zip(self.members, species, strict=True)
        ]
        k = len(assignment)
        orders = [
            itertools.permutations(range(e - len(s), e)) for s, e in zip(species, self.ends, strict=True)
        ]
        arrangements = np.empty((math.prod(math.factorial(len(s)) for s in species), k), dtype=np.int64)
        columns = list(itertools.chain.from_iterable(species))
        for row, parts in enumerate(itertools.product(*orders)):
            arrangements[row, columns] = list(itertools.chain.from_iterable(parts))
        arrangements = arrangements[np.argsort(_codes(arrangements, k))]
        self.codes = _codes(arrangements, k)
        smallest = np.min([_codes(arrangements[:, list(p)], k) for p in stabiliser], axis=0)
        _, first, self.number = np.unique(smallest, return_index=True, return_inverse=True)
        assert len(self.codes) == len(first) * len(stabiliser)
        self.arrangements = np.asarray(arrangements[first])
        self.count = math.prod(self.sets) * len(first)

    def unrank(self, ranks: Ranks) -> Indices:
        """Give the decorations (R, k), pool indices, of local ranks (R,)."""
        rest, arrangement = np.divmod(ranks, len(self.arrangements))
        slots = np.empty((len(ranks), self.arrangements.shape[1]), dtype=np.uint8)
        for at in range(len(self.sets) - 1, -1, -1):
            left, rest = np.divmod(rest, self.sets[at]) if at else (rest, rest)
            end = self.ends[at]
            for i, table in reversed(list(enumerate(self.binomials[at]))):
                index = np.searchsorted(table, rest, side="right") - 1
                slots[:, end - len(self.binomials[at]) + i] = self.members[at][index]
                rest = rest - table[index]
            rest = left
        return np.asarray(np.take_along_axis(slots, self.arrangements[arrangement], axis=1))

    def rank(self, indices: NDArray[np.int64]) -> Ranks:
        """Give the local ranks (R,) of decorations (R, k), pool indices with the orbit's first assignment."""
        kept = np.zeros(len(indices), dtype=np.int64)
        arrangement = np.empty_like(indices)
        for species, members, tables, count, end in zip(
            self.species, self.members, self.binomials, self.sets, self.ends, strict=True
        ):
            local = np.searchsorted(members, indices[:, species])
            order = np.argsort(local, axis=1, kind="stable")
            local = np.take_along_axis(local, order, axis=1)
            kept *= count
            for i, table in enumerate(tables):
                kept += table[local[:, i]]
            arrangement[:, species] = end - len(species) + np.argsort(order, axis=1)
        found = self.number[np.searchsorted(self.codes, _codes(arrangement, indices.shape[1]))]
        return np.asarray(kept * len(self.arrangements) + found)


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


def spaces(
    prototypes: Sequence[Prototype], elements: Sequence[str], site_groups: Sequence[SiteGroups] = ()
) -> list[Decorations]:
    """Give the decorations of each prototype, in order, under the site groups of the configuration.

    Raises `ConfigError`, naming the key, for a prototype that is not there or is named twice, for letters and
    elements that don't fit, and for site groups that leave a prototype no decoration.
    """
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    keys: dict[str, str] = {}
    for number, group in enumerate(site_groups):
        key, wanted = f"prototypes.site_groups.{number}", group.prototype
        for prototype in find(prototypes, wanted, f"{key}.prototype"):
            name = prototype.prototype_id
            if name in keys:
                raise ConfigError(
                    f"key '{key}.prototype': {wanted} is {name}, which '{keys[name]}' names already; name it once"
                )
            keys[name], groups[name] = key, group.elements
    found = []
    for prototype in prototypes:
        name = prototype.prototype_id
        try:
            space = Decorations(prototype, elements, groups.get(name))
        except PrototypeError as error:
            raise ConfigError(
                f"key '{keys.get(name, 'prototypes.site_groups')}.elements': {error}"
            ) from error
        if name in groups and not space.count:
            raise ConfigError(
                f"key '{keys[name]}.elements': no decoration of {prototype.protostructure} ({prototype.name}) is "
                f"left; its {prototype.nspecies} species need an element each, all different"
            )
        found.append(space)
    return found


def shard_ranges(counts: Sequence[int], shard: int, shards: int) -> list[tuple[int, int, int]]:
    """Give what shard number `shard` of `shards` holds: (index of the prototype, first rank, last rank + 1).

    `counts` are the numbers of decorations of the prototypes. Over all shards every rank of every prototype
    comes once; shards differ by at most one decoration.
    """
    if not 0 <= shard < shards:
        raise PrototypeError(f"shard {shard} of {shards} does not exist; shards are counted from 0")
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


def _codes(rows: NDArray[np.integer], base: int) -> Ranks:
    """Read rows (R, k) of digits below `base` as numbers (R,), in their lexicographic order."""
    k = rows.shape[1]
    return np.asarray(rows.astype(np.int64) @ (base ** np.arange(k - 1, -1, -1, dtype=np.int64)))
