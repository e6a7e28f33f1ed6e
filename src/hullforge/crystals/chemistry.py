"""Chemical sense before any model: charge neutrality and the electronegativity test, for many formulas at once.

Comes in: atomic numbers of decorations and the numbers of sites of their species. Goes out: which of them have
oxidation states that add up to zero, and where asked with every cation less electronegative than every anion
(Pauling). The meaning is that of smact's `smact_validity` (Davies et al., Chem 1, 617 (2016)): all atoms of an
element share one oxidation state, elements alone always pass, elements without a known state or
electronegativity never do. Never looks at a structure.

For given numbers of sites the neutral assignments of charges are few, some hundred for three species. They are
numbered, and what an element can be, on a species, is a set of these numbers, kept as bits. A formula passes
when the sets of its elements, and one set per pair of elements for how their electronegativities compare, have
a number in common: a handful of bit operations a formula.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hullforge.config import Chemistry
from hullforge.errors import ConfigError
from hullforge.store.structures import SYMBOLS

Bits = NDArray[np.uint64]

#: Formulas of more elements have too many assignments of charges to list.
MAX_SPECIES = 6
#: Bytes of bits that are combined together, at most.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Elements:
    """What the tests know of elements, by atomic number; 119 of each, the first stands for nothing."""

    states: tuple[tuple[int, ...], ...]
    electronegativities: tuple[float, ...]  # Pauling's, NaN where there is none
    metals: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        states: Mapping[str, Sequence[int]],
        electronegativities: Mapping[str, float],
        metals: Sequence[str],
    ) -> "Elements":
        """Make the data of symbols; elements that a mapping lacks have no state, or no electronegativity."""
        return cls(
            tuple(tuple(sorted(set(states.get(symbol, ())))) for symbol in SYMBOLS[:119]),
            tuple(electronegativities.get(symbol, math.nan) for symbol in SYMBOLS[:119]),
            tuple(symbol in metals for symbol in SYMBOLS[:119]),
        )


@functools.cache
def pymatgen_elements() -> Elements:
    """Give pymatgen's data: oxidation states that are common or found in the ICSD, zero left out."""
    import warnings

    from pymatgen.core import Element

    known = [Element.from_Z(number) for number in range(1, 119)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an element without electronegativity is no surprise here
        return Elements.of(
            {
                e.symbol: [int(q) for q in {*e.icsd_oxidation_states, *e.common_oxidation_states} if q]
                for e in known
            },
            {e.symbol: float(e.X) for e in known},
            [e.symbol for e in known if e.is_metal],
        )


class Filter:
    """The tests of a configuration; keeps what it worked out for each ratio of sites."""

    def __init__(self, chemistry: Chemistry, elements: Elements | None = None) -> None:
        self.chemistry = chemistry
        self._elements = elements
        self._tables: dict[tuple[int, ...], tuple[list[Bits], dict[tuple[int, int], Bits]]] = {}

    @property
    def is_on(self) -> bool:
        """Whether anything is tested."""
        return self.chemistry.test != "none"

    def passes(
        self, numbers: NDArray[np.integer], counts: Sequence[int] | NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Say (R,) which formulas pass: different atomic `numbers` (R, k), with `counts` (k,) atoms of each.

        Raises `ConfigError` for more than `MAX_SPECIES` elements.
        """
        numbers = np.asarray(numbers)
        k = numbers.shape[1]
        if not self.is_on or k == 1:
            return np.ones(len(numbers), dtype=bool)
        if k > MAX_SPECIES:
            raise ConfigError(
                f"key 'screening.chemistry.test': {self.chemistry.test} can't be applied to {k} elements, at most to"
                f" {MAX_SPECIES}; take {k} out of prototypes.nspecies, or set it to none"
            )
        divisor = math.gcd(*(int(count) for count in counts))
        ratio = tuple(int(count) // divisor for count in counts)
        if ratio not in self._tables:
            self._tables[ratio] = self._table(ratio)
        species, pairs = self._tables[ratio]
        step = max(1, CHUNK // (8 * species[0].shape[1]))
        parts = [
            self._compatible(numbers[at : at + step], species, pairs) for at in range(0, len(numbers), step)
        ]
        found = np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
        if self.chemistry.alloys:
            found |= np.array(self._data.metals)[numbers].all(axis=1)
        return found

    @property
    def _data(self) -> Elements:
        return self._elements or pymatgen_elements()

    def _compatible(
        self, numbers: NDArray[np.integer], species: list[Bits], pairs: dict[tuple[int, int], Bits]
    ) -> NDArray[np.bool_]:
        """Say (R,) whether the elements have an assignment in common."""
        common = species[0][numbers[:, 0]]
        for place in range(1, len(species)):
            common &= species[place][numbers[:, place]]
        chi = np.array(self._data.electronegativities)
        for (i, j), bits in pairs.items():
            first, second = chi[numbers[:, i]], chi[numbers[:, j]]
            # 0, 1, 2: less, equal, more electronegative; 3: not known of one of them.
            order = np.where(np.isnan(first + second), 3, np.sign(first - second) + 1).astype(np.int8)
            common &= bits[order]
        return np.asarray(common.any(axis=1))

    def _table(self, ratio: tuple[int, ...]) -> tuple[list[Bits], dict[tuple[int, int], Bits]]:
        """List the neutral assignments of charges (V, k), and give the bits of elements and of pairs.

        For each species (119, W) by atomic number; for each pair (4, W) by the comparison of electronegativities.
        """
        charges = np.array(sorted({q for states in self._data.states for q in states}), dtype=np.int64)
        assignments = np.zeros((1, 0), dtype=np.int64)
        for place in range(len(ratio)):
            assignments = np.hstack(
                [np.repeat(assignments, len(charges), axis=0), np.tile(charges, len(assignments))[:, None]]
            )
            # What the species to come can't make up for is dropped at once.
            sums = assignments @ np.array(ratio[: place + 1])
            low, high = (int(extreme) * sum(ratio[place + 1 :]) for extreme in (charges.min(), charges.max()))
            assignments = assignments[(sums + low <= 0) & (sums + high >= 0)]
        species = [
            _packed(np.array([np.isin(column, states) for states in self._data.states]))
            for column in assignments.T
        ]
        pairs = {}
        if self.chemistry.test == "pauling":
            signs = np.sign(assignments)
            for i, j in itertools.combinations(range(len(ratio)), 2):
                first_gives = (signs[:, i] > 0) & (signs[:, j] < 0)
                second_gives = (signs[:, i] < 0) & (signs[:, j] > 0)
                neither = ~first_gives & ~second_gives
                never = np.zeros_like(neither)
                pairs[i, j] = _packed(np.array([~second_gives, neither, ~first_gives, never]))
        return species, pairs


def _packed(rows: NDArray[np.bool_]) -> Bits:
    """Pack rows (N, V) of booleans into words (N, W) of 64 bits."""
    width = max(1, -(-rows.shape[1] // 64))
    padded = np.zeros((len(rows), width * 64), dtype=bool)
    padded[:, : rows.shape[1]] = rows
    return np.packbits(padded, axis=1).view(np.uint64)
