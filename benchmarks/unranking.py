"""How fast decorations are unranked, against `itertools`.

Comes in: AFLOW's ternary prototypes of at most 32 sites and a pool of 83 elements. Goes out: decorations per CPU
second of one core through `Decorations.unrank`, over all these prototypes. The peer makes the same decorations by
listing permutations and, where the prototype has automorphisms, dropping those that one turns into what was met; it
can't begin at a rank. Both are checked to give the same set for small pools before anything is timed. The bound: 5e6
decorations a second.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import runner
from hullforge.config import Prototypes, PrototypesSettings
from hullforge.crystals import prototypes
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.store.structures import SYMBOLS

#: H to Pu without noble gases, At, Po, Fr, Ra and Ac: what databases of calculations cover, 83 elements.
POOL = tuple(symbol for symbol in SYMBOLS[1:95] if symbol not in
             {"He", "Ne", "Ar", "Kr", "Xe", "Rn", "At", "Po", "Fr", "Ra", "Ac"})  # fmt: skip
BOUND = 5e6
SPAN = 65_536
CHECKED_POOL = 12


def ternaries() -> list[Prototype]:
    """Compile AFLOW's ternary prototypes of at most 32 sites."""
    wanted = Prototypes(library="aflow", nspecies=(3,), max_sites=32)
    return prototypes.collect(PrototypesSettings(prototypes=wanted))


def listed(prototype: Prototype, n_elements: int) -> Iterator[tuple[int, ...]]:
    """List the decorations, pool indices, as one would without a formula: the peer."""
    decorations = itertools.permutations(range(n_elements), prototype.nspecies)
    if len(prototype.automorphisms) == 1:
        yield from decorations
        return
    met: set[tuple[int, ...]] = set()
    for decoration in decorations:
        smallest = min(tuple(decoration[s] for s in order) for order in prototype.automorphisms)
        if smallest not in met:
            met.add(smallest)
            yield smallest


def check(known: Sequence[Prototype], n_elements: int = CHECKED_POOL) -> int:
    """Compare all decorations of a small pool with the peer's; gives their number. Raises `AssertionError`."""
    compared = 0
    for prototype in known:
        ours = Decorations(prototype, POOL[:n_elements])
        rows = [tuple(row) for row in ours.unrank(np.arange(ours.count)).tolist()]
        assert len(set(rows)) == ours.count, f"{prototype.prototype_id}: a decoration comes twice"
        assert set(rows) == set(listed(prototype, n_elements)), f"{prototype.prototype_id}: other decorations"
        compared += ours.count
    return compared


def run(
    *, long: bool, known: Sequence[Prototype] | None = None, pool: Sequence[str] = POOL
) -> runner.Outcome:
    """Check, then time both sides in turn; a round unranks every prototype's decorations, 1e6 of each if `long`."""
    known = ternaries() if known is None else known
    compared = check(known)
    spaces = [Decorations(prototype, pool) for prototype in known]
    each = 1_000_000 if long else 4 * SPAN

    def ours() -> int:
        for space in spaces:
            for first in range(0, min(each, space.count), SPAN):
                space.unrank(np.arange(first, min(first + SPAN, each, space.count), dtype=np.int64))
        return sum(min(each, space.count) for space in spaces)

    def peer() -> int:
        return sum(len(list(itertools.islice(listed(p, len(pool)), SPAN))) for p in known)

    sides = {"hullforge": lambda: runner.rate(ours), "itertools": lambda: runner.rate(peer)}
    rates = runner.interleaved(sides, rounds=5)
    ratio = rates.ratio("hullforge", "itertools")
    total = sum(space.count for space in spaces)
    print(
        f"{len(known)} ternary prototypes, {len(pool)} elements, {total} decorations; {compared} compared, all equal"
    )
    print(runner.table(["", "decorations per CPU s"], [[side, rates.median(side)] for side in rates.rounds]))
    figures = {
        "decorations_per_cpu_second": rates.median("hullforge"),
        "itertools_decorations_per_cpu_second": rates.median("itertools"),
        "decorations": float(total),
        "compared_decorations": float(compared),
    }
    return runner.Outcome(
        figures,
        rates.median("hullforge") >= BOUND,
        ratio,
        "itertools.permutations, duplicates under automorphisms dropped by a set",
    )
