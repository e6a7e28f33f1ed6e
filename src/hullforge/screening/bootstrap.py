"""Round 0: what is computed before any model exists.

Comes in: prototypes, the pool of elements, the budget. Goes out: choices of three strata. What the user named
comes first; then elemental structures, without which there is no formation energy; the rest is spread over
numbers of species, prototypes, chemical systems and compositions as evenly as it goes. Never imports torch.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hullforge.config import Include, SelectSettings
from hullforge.crystals import decorations
from hullforge.crystals.chemistry import Filter
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype, find
from hullforge.errors import ConfigError
from hullforge.screening import draws
from hullforge.screening.candidates import Candidates
from hullforge.screening.candidates import load as load_candidates
from hullforge.screening.choices import Choice, cost
from hullforge.store import ids
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import Stratum

#: Decorations of one prototype that the coverage chooses among; more are drawn only when these run out.
POOL = 64

#: Draws of so many before a prototype is given up of which the chemistry filter lets nothing pass.
TRIES = 100
#: So many candidates are listed and shuffled; of more, ranks are drawn.
LISTED = 1_000_000

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


def choose(
    settings: SelectSettings,
    prototypes: Sequence[Prototype],
    earlier: set[str],
    candidates: Path | None = None,
    references: AbstractSet[str] = frozenset(),
) -> list[Choice]:
    """Choose round 0.

    `candidates` is the table of those that may be chosen, if not all may; elements of `references` have a known
    phase and need no structure. Raises `ConfigError` for inclusions that don't fit, a budget too small for the
    elements, and a table of candidates that can't be used.
    """
    elements = sorted(settings.elements, key=NUMBERS.__getitem__)
    chosen = _Chosen(set(earlier))
    spaces = decorations.spaces(prototypes, elements, settings.site_groups)
    only = load_candidates(candidates, spaces)
    of = {space.prototype.prototype_id: space for space in spaces}

    def may(choice: Choice) -> bool:
        return only.holds(of[choice.prototype.prototype_id], choice.rank)

    for number, include in enumerate(settings.bootstrap.include):
        choice = included(include, f"bootstrap.include.{number}", spaces, elements)
        if not may(choice):
            raise ConfigError(
                f"key 'bootstrap.include.{number}': {', '.join(choice.species)} on {include.prototype} is not among"
                " the candidates (key 'candidates')"
            )
        chosen.add(choice)
    if len(chosen.choices) > settings.budget:
        raise ConfigError(
            f"the budget of {settings.budget} is smaller than the {len(chosen.choices)} inclusions"
        )
    covered = {choice.species[0] for choice in chosen.choices if choice.prototype.nspecies == 1}
    covered |= references
    missing = [symbol for symbol in elements if symbol not in covered]
    left = settings.budget - len(chosen.choices)
    unary = [space for space in spaces if space.prototype.nspecies == 1]
    if missing and not unary:
        raise ConfigError(
            "no prototype has one species, so the elements would have no reference: add 1 to prototypes.nspecies"
        )
    without = [
        symbol
        for symbol in missing
        if not any(_allows_element(space, elements.index(symbol), only) for space in unary)
    ]
    if without:
        raise ConfigError(
            f"prototypes.site_groups or candidates leave no elemental structure for {', '.join(without)}, so these"
            " elements would have no reference; allow one, or give a known phase of each (hull.known_phases)"
        )
    if len(missing) > left:
        raise ConfigError(
            f"the budget of {settings.budget} is too small: {len(missing)} elements need a reference each"
            f" ({', '.join(missing)} have none yet) and {len(chosen.choices)} inclusions are asked for;"
            f" at least {len(chosen.choices) + len(missing)} is needed"
        )
    elementals = (choice for choice in elemental(unary, elements, covered) if may(choice))
    chemistry = Filter(settings.chemistry)
    if settings.bootstrap.strategy == "random":
        chosen.fill(elementals, len(missing))
        rest = sample(spaces, settings.seed, chemistry, only)
    else:
        share = round(settings.bootstrap.elements_share * settings.budget)
        chosen.fill(elementals, min(left, max(share, len(missing))))
        rest = coverage(spaces, settings.seed, chemistry, only)
    chosen.fill(rest, settings.budget - len(chosen.choices))
    chosen.fill(elementals, settings.budget - len(chosen.choices))
    return chosen.choices


def _allows_element(space: Decorations, at: int, only: Candidates) -> bool:
    """Say whether element number `at` of the pool may be put on a unary prototype."""
    indices = np.array([[at]])
    return bool(space.allows(indices)[0]) and only.holds(space, int(space.rank(indices)[0]))


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


def make(space: Decorations, chosen: ArrayLike, stratum: Stratum) -> Choice:
    """Make the choice of pool indices `chosen` (nspecies,), brought to the form that its rank stands for."""
    rank = space.rank(np.asarray(chosen)[None])
    canonical = space.unrank(rank)[0]
    return Choice(space.prototype, int(rank[0]), tuple(space.elements[at] for at in canonical), stratum)


def included(include: Include, key: str, spaces: Sequence[Decorations], elements: Sequence[str]) -> Choice:
    """Find what the user named, by id, protostructure label or name; of several prototypes the smallest id.

    Raises `ConfigError` naming the key, what was found and what is allowed.
    """
    wanted = include.prototype
    prototype = find([space.prototype for space in spaces], wanted, f"{key}.prototype")[0]
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
    (space,) = (space for space in spaces if space.prototype is prototype)
    chosen = np.array([elements.index(symbol) for symbol in symbols])
    if not space.allows(chosen[None])[0]:
        raise ConfigError(
            f"key '{key}.elements': found {', '.join(symbols)}, which prototypes.site_groups forbids for {wanted}"
        )
    return make(space, chosen, Stratum.INCLUDE)


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


def elemental(unary: Sequence[Decorations], elements: Sequence[str], covered: set[str]) -> Iterator[Choice]:
    """Give elemental structures in turns, one per element; elements without any in `covered` come first."""
    of = {space.prototype.prototype_id: space for space in unary}
    queues = {
        symbol: preferred([s.prototype for s in unary if s.allows(np.array([[at]]))[0]], symbol)
        for at, symbol in enumerate(elements)
    }
    # An element that has a structure already is one turn behind.
    turns = sorted(
        (turn + (symbol in covered), at, turn)
        for at, symbol in enumerate(elements)
        for turn in range(len(queues[symbol]))
    )
    for _, at, turn in turns:
        yield make(of[queues[elements[at]][turn].prototype_id], np.array([at]), Stratum.ELEMENT)


def sample(spaces: Sequence[Decorations], seed: int, chemistry: Filter, only: Candidates) -> Iterator[Choice]:
    """Give a plain random sample of all candidates, in an order drawn by a hash of what they are."""
    counts = [only.count(space) for space in spaces]
    if sum(counts) <= LISTED:
        yield from _shuffled(spaces, seed, chemistry, only)
        return
    ends = np.cumsum(counts)
    seen: set[int] = set()
    misses = drawn = 0
    while misses < TRIES:
        draw = draws.uniform(seed, "random", np.arange(drawn, drawn + POOL)[:, None])
        drawn, misses = drawn + POOL, misses + 1
        for place in (draw * int(ends[-1])).astype(np.int64).tolist():
            number = int(np.searchsorted(ends, place, side="right"))
            if place in seen:
                continue
            seen.add(place)
            space = spaces[number]
            rank = only.ranks(space, np.array([place - int(ends[number]) + counts[number]]))
            chosen = space.unrank(rank)
            if _sensible(space, chosen, chemistry)[0]:
                misses = 0
                yield make(space, chosen[0], Stratum.CONTROL)


def _shuffled(
    spaces: Sequence[Decorations], seed: int, chemistry: Filter, only: Candidates
) -> Iterator[Choice]:
    """Give all candidates, few enough to be listed, sorted by a hash."""
    found: list[tuple[float, str, int, int]] = []
    for number, space in enumerate(spaces):
        ranks = only.ranks(space, np.arange(only.count(space), dtype=np.int64))
        chosen = space.unrank(ranks)
        name = space.prototype.prototype_id
        draw = draws.uniform(seed, f"random/{name}", _numbers(space)[chosen])
        sensible = _sensible(space, chosen, chemistry)
        found += [(float(draw[at]), name, number, int(ranks[at])) for at in np.flatnonzero(sensible)]
    for *_, number, rank in sorted(found):
        space = spaces[number]
        yield make(space, space.unrank(np.array([rank], dtype=np.int64))[0], Stratum.CONTROL)


def _numbers(space: Decorations) -> np.ndarray:
    """Atomic numbers (E,) of the pool."""
    return np.array([NUMBERS[symbol] for symbol in space.elements])


def _sensible(space: Decorations, chosen: np.ndarray, chemistry: Filter) -> np.ndarray:
    """Say (R,) which decorations (R, k), pool indices, the chemistry filter lets pass."""
    return np.asarray(chemistry.passes(_numbers(space)[chosen], space.prototype.species_counts))


def coverage(
    spaces: Sequence[Decorations], seed: int, chemistry: Filter, only: Candidates
) -> Iterator[Choice]:
    """Give decorations of several species, as different from those before as possible.

    Numbers of species take turns, within each the prototypes take turns, in an order drawn by a hash that
    favours cheap ones, and a
    prototype gives the decoration whose chemical system, composition and elements were used least so far.
    """
    groups: dict[int, list[_Source]] = {}
    for space in spaces:
        if space.prototype.nspecies > 1 and only.count(space):
            groups.setdefault(space.prototype.nspecies, []).append(_Source(space, seed, chemistry, only))
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
                yield make(source.space, chosen, Stratum.COVERAGE)
            if not groups[nspecies]:
                del groups[nspecies]


class _Source:
    """The decorations of one prototype in the order in which the coverage wants them."""

    def __init__(self, space: Decorations, seed: int, chemistry: Filter, only: Candidates) -> None:
        self.chemistry, self.only = chemistry, only
        self.space, self.prototype, self.seed = space, space.prototype, seed
        self.count = only.count(space)
        self.drawn = 0
        self.seen: set[int] = set()
        self.pool: list[tuple[int, ...]] = []

    def _draw(self) -> None:
        """Draw up to `POOL` further ranks, each once; those that the chemistry filter drops are not in the pool."""
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
            chosen = self.space.unrank(self.only.ranks(self.space, np.array(fresh, dtype=np.int64)))
            sensible = _sensible(self.space, chosen, self.chemistry)
            self.pool = [tuple(row) for row in chosen[sensible].tolist()]

    def next(self, used: Counter[tuple[str, object]]) -> tuple[int, ...] | None:
        """Take the decoration that resembles what is `used` least, and count it there; None when all are taken."""
        for _ in range(TRIES):
            if self.pool or len(self.seen) == self.count:
                break
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
