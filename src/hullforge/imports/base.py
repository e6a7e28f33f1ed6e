"""What an importer is: it names a source, and gives the source's rows one by one, read or refused.

Comes in: one row as a source has it. Goes out: `Found`, its values in the units of hullforge, or `Refused`, with the
reason. An importer never holds more of its source than it must, and never raises for one bad row: an error means
that nothing of the source can be trusted (no such file, a file cut short, a column that isn't there).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import ImportRefusal

#: No cell has more atoms of an element.
_MOST = 1_000_000


class BadRowError(Exception):
    """A row can't become an entry; caught where rows are made, and never leaves an importer."""

    def __init__(self, reason: ImportRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Structure:
    """A crystal: atomic numbers (N), cell (9, row-major) and Cartesian positions (N x 3) in angstrom."""

    numbers: list[int]
    cell: list[float]
    positions: list[list[float]]
    pbc: list[bool]


@dataclass(frozen=True, slots=True)
class Found:
    """A row of a source. Energies in eV/atom; None, and an empty text, for what the source doesn't say.

    `row` says where in the source it stands; `counts` are atoms by chemical symbol, of the cell or of a formula.
    """

    row: str
    id: str
    counts: Mapping[str, int]
    energy: float | None
    correction: float | None = None
    correction_scheme: str = ""
    formation_energy: float | None = None
    e_above_hull: float | None = None
    functional: str = ""
    run_type: str = ""
    hubbards: Mapping[str, float] | None = None
    pseudopotentials: str = ""
    software: str = ""
    band_gap: float | None = None
    magnetization: float | None = None
    space_group: int | None = None
    structure: Structure | None = None
    nsites: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row of a source that can't be an entry, and why."""

    row: str
    id: str
    reason: ImportRefusal
    message: str


class Importer(Protocol):
    """What reads one kind of source; `name` is what the source is called where the user doesn't say."""

    @property
    def name(self) -> str:
        """What the source is called; empty: each by its own name."""

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read a source, row by row.

        Raises `TableError` when the source as a whole can't be read.
        """


def energy(value: Any, what: str) -> float | None:
    """Give a finite number, or None for an absent one; raises `BadRowError` for anything else."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRowError(ImportRefusal.ENERGY_NOT_FINITE, f"{what} is {value!r}; a number in eV is needed")
    return number


def optional(value: Any) -> float | None:
    """Give a finite number, or None for anything else: no row is lost for a value that only describes it."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def space_group(value: Any) -> int | None:
    """Give the number of a space group, or None for anything else."""
    number = optional(value)
    return int(number) if number is not None and number in range(1, 231) else None


def whole_counts(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Give atoms by chemical symbol; raises `BadRowError` for what is empty, not whole, or no element."""
    counts: dict[str, int] = {}
    for symbol, amount in amounts.items():
        number = optional(amount)
        if NUMBERS.get(symbol, 0) == 0:
            raise BadRowError(ImportRefusal.BAD_FORMULA, f"{symbol!r} is no element")
        if number is None or not 0 <= number <= _MOST or abs(number - round(number)) > 1e-6:
            raise BadRowError(
                ImportRefusal.BAD_FORMULA,
                f"there are {amount!r} atoms of {symbol}; a whole number up to {_MOST} is needed",
            )
        if round(number):
            counts[symbol] = round(number)
    if not counts:
        raise BadRowError(ImportRefusal.BAD_FORMULA, "the composition is empty")
    return counts


_PART = re.compile(r"([A-Z][a-z]?|[(\[])|(\d+(?:\.\d+)?)|([)\]])")


@lru_cache(maxsize=65536)
def counts_of(formula: str) -> Mapping[str, int]:
    """Read a formula such as Ca2Nb2O7 or Mg(OH)2; raises `BadRowError` as `whole_counts` does."""
    text = formula.replace(" ", "")
    if not text:
        raise BadRowError(ImportRefusal.BAD_FORMULA, "the formula is empty")
    if "".join(match.group() for match in _PART.finditer(text)) != text:
        raise BadRowError(ImportRefusal.BAD_FORMULA, f"{formula!r} is not a formula such as Ca2Nb2O7")
    # Read from the right: a number multiplies what stands before it, an element or a bracket.
    amounts: dict[str, float] = {}
    factors, pending = [1.0], 1.0
    for match in reversed(list(_PART.finditer(text))):
        symbol, number, closing = match.groups()
        if number:
            pending = float(number)
            continue
        if closing:
            factors.append(factors[-1] * pending)
        elif symbol in "([":
            factors.pop()
            if pending != 1.0 or not factors:
                factors = []
                break
        else:
            amounts[symbol] = amounts.get(symbol, 0.0) + factors[-1] * pending
        pending = 1.0
    if len(factors) != 1 or pending != 1.0:
        raise BadRowError(ImportRefusal.BAD_FORMULA, f"{formula!r} is not a formula such as Ca2Nb2O7")
    return whole_counts(dict(reversed(list(amounts.items()))))
