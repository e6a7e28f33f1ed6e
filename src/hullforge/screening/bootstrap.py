"""Round 0: what is computed before any model exists.

Comes in: prototypes, the pool of elements, the budget. Goes out: choices of three strata. What the user named
comes first; then elemental structures, without which there is no formation energy; the rest is spread over
numbers of species, prototypes, chemical systems and compositions as evenly as it goes. Never imports torch.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from hullforge.config import Include, SelectSettings
from hullforge.crystals import decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.errors import ConfigError
from hullforge.screening import draws
from hullforge.screening.choices import Choice, cost
from hullforge.store import ids
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import Stratum

#: Decorations of one prototype that the coverage chooses among; more are drawn only when these run out.
POOL = 64

#: Where ASE's names of ground states are exact: space group and sites of the primitive cell.
EXACT = {
    "fcc": (225, 1),
    "bcc": (229, 1),
    "hcp": (194, 2),
    "diamond": (227, 2),
    "sc": (221, 1),
    "dhcp": (194, 4),
}
#: Where they only name a lattice: first and last space group.
LATTICES = {
    "monoclinic": (3, 15), "orthorhombic": (16, 74), "tetragonal": (75, 142), "bct": (75, 142),
    "rhombohedral": (143, 167), "cubic": (195, 230),
}  # fmt: skip


def choose(settings: SelectSettings, prototypes: Sequence[Prototype], earlier: set[str]) -> list[Choice]:
    """Choose round 0. Raises `ConfigError` for inclusions that don't fit and a budget too small for the elements."""
    elements = sorted(settings.elements, key=NUMBERS.__getitem__)
    chosen = _Chosen(set(earlier))
    for number, include in enumerate(settings.bootstrap.include):
        chosen.add(included(include, f"bootstrap.include.{number}", prototypes, elements))
    if len(chosen.choices) > settings.budget:
        raise ConfigError(
            f"the budget of {settings.budget} is smaller than the {len(chosen.choices)} inclusions"
        )
    covered = {choice.species[0] for choice in chosen.choices if choice.prototype.nspecies == 1}
    missing = [symbol for symbol in elements if symbol not in covered]
    left = settings.budget - len(chosen.choices)
    unary = [prototype for prototype in prototypes if prototype.nspecies == 1]
    if missing and not unary:
        raise ConfigError(
            "no prototype has one species, so the elements would have no reference: add 1 to prototypes.nspecies"
        )
    if len(missing) > left:
        raise ConfigError(
            f"the budget of {settings.budget} is too small: {len(elements)} elements need a reference each"
            f" ({', '.join(missing)} have none yet) and {len(chosen.choices)} inclusions are asked for;"
            f" at least {len(chosen.choices) + len(missing)} is needed"
        )
    references = elemental(unary, elements, covered)
    wanted = min(left, max(round(settings.bootstrap.elements_share * settings.budget), len(missing)))
    chosen.fill(references, wanted)
    chosen.fill(coverage(prototypes, elements, settings.seed), settings.budget - len(chosen.choices))
    chosen.fill(references, settings.budget - len(chosen.choices))
    return chosen.choices


@dataclass
class _Chosen:
    """What is chosen so far; a candidate enters once."""

    taken: set[str]
    choices: list[Choice] = field(default_factory=list)

    def add(self, choice: Choice) -> bool:
        """Add a choice unless it is taken."""
        if choice.candidate_id in self.taken:
            return False
        self.taken.add(choice.candidate_id)
        self.choices.append(choice)
        return True

    def fill(self, source: Iterator[Choice], number: int) -> None:
        """Add the next `number` of `source` that are not taken, as far as it goes."""
        while number > 0 and (choice := next(source, None)) is not None:
            number -= self.add(choice)


def make(prototype: Prototype, chosen: ArrayLike, elements: Sequence[str], stratum: Stratum) -> Choice:
    """Make the choice of pool indices `chosen` (nspecies,), brought to the form that its rank stands for."""
    rank = int(np.asarray(decorations.rank(prototype, np.asarray(chosen)[None]))[0])
    canonical = np.asarray(decorations.unrank(prototype, np.array([rank], dtype=np.int64), len(elements)))[0]
    return Choice(prototype, rank, tuple(elements[at] for at in canonical), stratum)


def included(include: Include, key: str, prototypes: Sequence[Prototype], elements: Sequence[str]) -> Choice:
    """Find what the user named, by id, protostructure label or name; of several prototypes the smallest id.

    Raises `ConfigError` naming the key, what was found and what is allowed.
    """
    wanted = include.prototype
    fitting = [p for p in prototypes if wanted in (p.prototype_id, p.protostructure, p.name)]
    if not fitting:
        names = sorted({p.protostructure for p in prototypes} | {p.name for p in prototypes})
        close = difflib.get_close_matches(wanted, names, n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ConfigError(
            f"key '{key}.prototype': none of the {len(prototypes)} prototypes has the protostructure label,"
            f" name or id '{wanted}'{hint}"
        )
    prototype = min(fitting, key=lambda p: p.prototype_id)
    symbols = include.elements
    if len(symbols) != prototype.nspecies:
        raise ConfigError(
            f"key '{key}.elements': found {len(symbols)} ({', '.join(symbols)}), but {wanted} has"
            f" {prototype.nspecies} species, with {', '.join(map(str, prototype.species_counts))} sites in the cell"
        )
    outside = [symbol for symbol in symbols if symbol not in elements]
    if outside:
        raise ConfigError(
            f"key '{key}.elements': {', '.join(outside)} not in the pool of elements ({', '.join(elements)})"
        )
    if len(set(symbols)) != len(symbols):
        raise ConfigError(
            f"key '{key}.elements': found {', '.join(symbols)}; each species needs its own element"
        )
    return make(
        prototype, np.array([elements.index(symbol) for symbol in symbols]), elements, Stratum.INCLUDE
    )


def is_ground_state(prototype: Prototype, symbol: str) -> bool:
    """Say whether the unary prototype has the symmetry of the element's ground state, as ASE lists it."""
    from ase.data import reference_states

    state = reference_states[NUMBERS[symbol]] or {}
    name, group = str(state.get("symmetry", "")), prototype.space_group_it_number
    if name in EXACT:
        return (group, prototype.nsites) == EXACT[name]
    first, last = LATTICES.get(name, (1, 0))
    return first <= group <= last


def preferred(unary: Sequence[Prototype], symbol: str) -> list[Prototype]:
    """Sort unary prototypes: the element's ground-state symmetry first, then few sites, then high symmetry."""
    return sorted(
        unary,
        key=lambda p: (not is_ground_state(p, symbol), p.nsites, -p.space_group_it_number, p.prototype_id),
    )


def elemental(unary: Sequence[Prototype], elements: Sequence[str], covered: set[str]) -> Iterator[Choice]:
    """Give elemental structures in turns, one per element; elements without any in `covered` come first."""
    queues = {symbol: preferred(unary, symbol) for symbol in elements}
    # An element that has a structure already is one turn behind.
    turns = sorted(
        (turn + (symbol in covered), at, turn)
        for at, symbol in enumerate(elements)
        for turn in range(len(unary))
    )
    for _, at, turn in turns:
        yield make(queues[elements[at]][turn], np.array([at]), elements, Stratum.ELEMENT)


def coverage(prototypes: Sequence[Prototype], elements: Sequence[str], seed: int) -> Iterator[Choice]:
    """Give decorations of several species, as different from those before as possible.

    Numbers of species take turns, within each the prototypes take turns, in an order drawn by a hash that
    favours cheap ones, and a
    prototype gives the decoration whose chemical system, composition and elements were used least so far.
    """
    groups: dict[int, list[_Source]] = {}
    for prototype in prototypes:
        if 1 < prototype.nspecies <= len(elements):
            groups.setdefault(prototype.nspecies, []).append(_Source(prototype, len(elements), seed))
    for group in groups.values():
        # Coverage should not be dear: a prototype that costs twice as much comes later twice as often.
        group.sort(
            key=lambda source: (
                ids.unit_interval(seed, "coverage", source.prototype.prototype_id) * cost(source.prototype)
            )
        )
    used: Counter[tuple[str, object]] = Counter()
    while groups:
        for nspecies in sorted(groups):
            source = groups[nspecies].pop(0)
            chosen = source.next(used)
            if chosen is not None:
                groups[nspecies].append(source)
                yield make(source.prototype, chosen, elements, Stratum.COVERAGE)
            if not groups[nspecies]:
                del groups[nspecies]


class _Source:
    """The decorations of one prototype in the order in which the coverage wants them."""

    def __init__(self, prototype: Prototype, n_elements: int, seed: int) -> None:
        self.prototype, self.n_elements, self.seed = prototype, n_elements, seed
        self.count = int(decorations.count(prototype, n_elements))
        self.drawn = 0
        self.seen: set[int] = set()
        self.pool: list[tuple[int, ...]] = []

    def _draw(self) -> None:
        """Draw up to `POOL` further ranks, each once."""
        label = f"coverage/{self.prototype.prototype_id}"
        if self.count <= POOL:
            values = draws.uniform(self.seed, label, np.arange(self.count)[:, None])
            fresh = [int(rank) for rank in np.argsort(values, kind="stable") if int(rank) not in self.seen]
        else:
            fresh = []
            while not fresh and len(self.seen) < self.count:
                counters = np.arange(self.drawn, self.drawn + POOL)
                self.drawn += POOL
                ranks = (draws.uniform(self.seed, label, counters[:, None]) * self.count).astype(np.int64)
                fresh = [rank for rank in dict.fromkeys(ranks.tolist()) if rank not in self.seen]
        self.seen.update(fresh)
        if fresh:
            chosen = decorations.unrank(self.prototype, np.array(fresh, dtype=np.int64), self.n_elements)
            self.pool = [tuple(row) for row in np.asarray(chosen).tolist()]

    def next(self, used: Counter[tuple[str, object]]) -> tuple[int, ...] | None:
        """Take the decoration that resembles what is `used` least, and count it there; None when all are taken."""
        if not self.pool:
            self._draw()
        if not self.pool:
            return None

        def resemblance(row: tuple[int, ...]) -> tuple[int, int, int]:
            system, composition = self._keys(row)
            return used[system], used[composition], sum(used["element", element] for element in row)

        best = min(self.pool, key=resemblance)  # the first of equals, in the order drawn
        self.pool.remove(best)
        used.update([*self._keys(best), *(("element", element) for element in best)])
        return best

    def _keys(self, row: tuple[int, ...]) -> tuple[tuple[str, object], tuple[str, object]]:
        """Chemical system and composition of a decoration."""
        counts = self.prototype.species_counts // np.gcd.reduce(self.prototype.species_counts)
        return ("system", tuple(sorted(row))), (
            "composition",
            tuple(sorted(zip(row, counts.tolist(), strict=True))),
        )
