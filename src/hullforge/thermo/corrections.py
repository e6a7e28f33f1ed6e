"""What is added to energies before they are placed on a hull, and which energies can't be placed at all.

Comes in: rows of `calculations` (composition, geometry, run type, Hubbard U, titles of the PAW data sets). Goes
out: for each row the correction in eV/atom and a note, or no correction and the reason. Without a scheme nothing is
added, and what was computed with another U than its elements can't be placed: such energies don't compare.
The scheme MP2020 of the Materials Project makes them compare. Which of its corrections apply is decided by pymatgen's `MaterialsProject2020Compatibility` alone, once for each distinct combination of cell content,
kind of oxide or sulfide, U and data sets; the result is the same number as that of its `process_entry` for each row.
The raw energies are never touched: correction and energy are columns side by side.

The scheme: A. Wang et al., Sci. Rep. 11, 15496 (2021); A. Jain et al., Phys. Rev. B 84, 045115 (2011).
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.structures import NUMBERS, SYMBOLS
from hullforge.thermo.simplex import Floats

if TYPE_CHECKING:
    import pyarrow as pa


class Scheme(StrEnum):
    """Correction schemes that a hull may be made with."""

    NONE = "none"
    MP2020 = "MP2020"


def hulls(functionals: Sequence[str], schemes: Sequence[str]) -> dict[str, tuple[str, Scheme]]:
    """Name the hulls of a campaign: functional and scheme of each, by the stem of its files.

    Each functional has a hull for each scheme that fits it, in the order given; MP2020 fits PBE alone, and a
    functional that none of the schemes fits has a hull without corrections. A functional's first decides.
    """
    out = {}
    for functional in functionals:
        fitting = [Scheme(name) for name in schemes if name != Scheme.MP2020 or functional == FUNCTIONAL]
        for scheme in fitting or [Scheme.NONE]:
            stem = functional if scheme is Scheme.NONE else f"{functional}-{scheme.value}"
            out[stem] = (functional, scheme)
    return out


def deciding(functional: str, schemes: Sequence[str]) -> str:
    """Give the stem of the files of the hull that decides with this functional."""
    return next(iter(hulls([functional], schemes)))


#: Where MP2020 was fitted: the engine and the functional. Other energies can't be corrected with it.
ENGINE, FUNCTIONAL = "vasp", "PBE"
#: Columns of `calculations` that corrections depend on.
COLUMNS = (
    "elements", "functional", "software", "run_type", "hubbards", "pseudopotentials", "numbers", "cell", "positions",
    "pbc",
)  # fmt: skip
#: Whether an anion is corrected depends on oxidation states, which are guessed from the composition.
_GUESSED = frozenset(NUMBERS[symbol] for symbol in ("Br", "I", "Se", "Si", "Sb", "Te", "H", "N", "F", "Cl"))
_H, _O, _S = NUMBERS["H"], NUMBERS["O"], NUMBERS["S"]
#: pymatgen's own limit: larger reduced formulas get no guess.
_MOST_ATOMS = 20
#: Distances between O atoms are judged with this factor, as `MaterialsProject2020Compatibility` does.
_CUTOFF = 1.05


@dataclass(frozen=True)
class Corrected:
    """Corrections of N rows in eV/atom, NaN where the scheme doesn't fit; and what was corrected, or why not."""

    per_atom: Floats
    notes: list[str]


def correct(calculations: "pa.Table", scheme: Scheme) -> Corrected:
    """Give the corrections of a table with the columns `COLUMNS`, in its order.

    With the scheme 'none' they are 0, or NaN where an element's U differs from that of the element itself, and the
    columns `elements` and `hubbards` are enough. Raises `TableError` when rows come from an engine that the scheme
    was not made for.
    """
    if scheme is Scheme.NONE:
        return _uncorrected(calculations)
    foreign = sorted(set(calculations["software"].unique().to_pylist()) - {ENGINE})
    if foreign:
        raise TableError(
            f"{scheme.value} corrects energies of {ENGINE} with the Materials Project's data sets; the table holds"
            f" calculations of {', '.join(foreign)}"
        )
    per_atom, notes = [], []
    for batch in calculations.select(list(COLUMNS)).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            value, note = mp2020(row | {"hubbards": tables.as_dict(row["hubbards"])})
            per_atom.append(np.nan if value is None else value)
            notes.append(note)
    return Corrected(np.array(per_atom, dtype=float), notes)


def _uncorrected(calculations: "pa.Table") -> Corrected:
    """Leave out rows whose elements have another U than in their own elemental calculations."""
    n = calculations.num_rows
    corrected = Corrected(np.zeros(n), [""] * n)
    us = [tables.as_dict(pairs) for pairs in calculations["hubbards"].to_pylist()]
    if not any(any(u.values()) for u in us):
        return corrected
    elements = calculations["elements"].to_pylist()
    alone: dict[str, float] = {}
    for own, u in zip(elements, us, strict=True):
        if len(own) == 1:
            value = u.get(own[0], 0.0)
            alone[own[0]] = min(value, alone.get(own[0], value))
    for row, (own, u) in enumerate(zip(elements, us, strict=True)):
        wrong = [
            f"U of {symbol} is {u.get(symbol, 0):g} eV, that of the element {alone.get(symbol, 0):g}"
            for symbol in own
            if u.get(symbol, 0.0) != alone.get(symbol, 0.0)
        ]
        if wrong:
            corrected.per_atom[row] = np.nan
            corrected.notes[row] = f"incompatible: {', '.join(wrong)}"
    return corrected


def mp2020(row: Mapping[str, Any]) -> tuple[float | None, str]:
    """Give the MP2020 correction of one calculation in eV/atom, None where the scheme doesn't fit, and a note.

    `row` has the columns `COLUMNS` but `elements`, with `hubbards` as a dict. The note names what was corrected (empty: nothing to correct, as for elements
    and alloys), or after 'incompatible' the reason. Data sets are given by VASP's titles (`PAW_PBE Fe_pv
    06Sep2000`), by family and name (`PBE Fe_pv (...)`), or by name (`Fe_pv`).
    """
    if row["functional"] != FUNCTIONAL:
        return None, f"incompatible: functional {row['functional']}; MP2020 is for {FUNCTIONAL}"
    counts = Counter(row["numbers"])
    hubbards = tuple(sorted((symbol, float(u)) for symbol, u in dict(row["hubbards"]).items() if u))
    names = tuple(sorted({_data_set(title) for title in row["pseudopotentials"]}))
    strange = sorted({_family(title) for title in row["pseudopotentials"]} - _FAMILIES)
    if strange:
        return None, f"incompatible: data sets of {', '.join(strange)}; MP2020 was fitted with PBE"
    kinds = (_oxide_type(row, counts), _sulfide_type(row, counts))
    return _corrected(tuple(sorted(counts.items())), *kinds, row["run_type"], hubbards, names)


#: Families of data sets that the scheme was fitted with; a title alone doesn't tell the newer ones apart.
_FAMILIES = {"PBE", "PAW_PBE"}


def _data_set(title: str) -> str:
    """Name of a data set: the second word of VASP's title, else the title itself."""
    words = title.split()
    return words[1] if len(words) > 1 else title


def _family(title: str) -> str:
    """Family of a data set: the first of several words; a name alone counts as the scheme's own family."""
    words = title.split()
    return words[0] if len(words) > 1 else "PBE"


@lru_cache(maxsize=200_000)
def _corrected(
    counts: tuple[tuple[int, int], ...],
    oxide: str,
    sulfide: str,
    run_type: str,
    hubbards: tuple[tuple[str, float], ...],
    data_sets: tuple[str, ...],
) -> tuple[float | None, str]:
    from pymatgen.analysis.compatibility import CompatibilityError
    from pymatgen.entries.computed_entries import ComputedEntry

    scheme = _scheme()
    # In the order of pymatgen's own sorted structures, since it breaks ties by the order of the elements.
    by_attraction = sorted(counts, key=lambda item: (_electronegativity(item[0]), SYMBOLS[item[0]]))
    content = {SYMBOLS[number]: float(count) for number, count in by_attraction}
    reason = _obvious(content, run_type, data_sets)
    if reason:
        return None, f"incompatible: {reason}"
    if len(content) == 1:
        # pymatgen doesn't look at the U of elements, but they are what compounds are measured against.
        return (None, f"incompatible: {_wrong_u(content, dict(hubbards))}") if hubbards else (0.0, "")
    guess = _oxidation_states(tuple(content.items())) if _GUESSED & {n for n, _ in counts} else {}
    entry = ComputedEntry(
        content,
        0.0,
        parameters={
            "run_type": run_type,
            "hubbards": dict(hubbards),
            # The check of the data sets is done above, since pymatgen's can be switched off in a user's settings.
            "potcar_symbols": [f"PAW_PBE {name}" for name in data_sets],
        },
        data={"oxide_type": oxide, "sulfide_type": sulfide, "oxidation_states": dict(guess)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            entry.energy_adjustments = scheme.get_adjustments(entry)
        except CompatibilityError as error:
            return None, f"incompatible: {_wrong_u(content, dict(hubbards)) or str(error)[:200]}"
    applied = [adjustment.name.removeprefix(f"{scheme.name} ") for adjustment in entry.energy_adjustments]
    if not guess and _GUESSED & {n for n, _ in counts}:
        applied.append("oxidation states unknown")
    return float(entry.correction_per_atom), "; ".join(applied)


@lru_cache(maxsize=1)
def _scheme() -> Any:
    from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility()


def _obvious(content: Mapping[str, float], run_type: str, data_sets: tuple[str, ...]) -> str:
    """Say why a calculation is none of the Materials Project's, as far as that doesn't depend on U; '' if it may be."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    if run_type not in ("GGA", "GGA+U"):
        return f"run type {run_type}; MP2020 is for GGA and GGA+U"
    expected = {symbol: MPRelaxSet.CONFIG["POTCAR"].get(symbol) for symbol in content}
    lacking = sorted(symbol for symbol, name in expected.items() if name is None)
    if lacking:
        return f"the Materials Project has no data set for {', '.join(lacking)}"
    if set(data_sets) != set(expected.values()):
        used = ", ".join(data_sets) or "none"
        return f"data sets {used}; MP2020 expects {', '.join(sorted(expected.values()))}"
    return ""


def _wrong_u(content: Mapping[str, float], hubbards: Mapping[str, float]) -> str:
    """Say which element has another U than the scheme expects; '' if none has."""
    from pymatgen.core import Element

    anion = max((Element(symbol) for symbol in content), key=lambda element: element.X).symbol
    expected = _scheme().u_settings.get(anion, {})
    wrong = [
        f"U of {symbol} is {hubbards.get(symbol, 0):g} eV, MP2020 expects {expected.get(symbol, 0):g}"
        for symbol in sorted(content)
        if hubbards.get(symbol, 0) != expected.get(symbol, 0)
    ]
    return f"{', '.join(wrong)} in a compound whose most electronegative element is {anion}" if wrong else ""


def _oxidation_states(content: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    """Guess oxidation states as the scheme does; empty where there is no guess."""
    divisor = int(np.gcd.reduce([int(count) for _, count in content]))
    return _guess(tuple((symbol, int(count) // divisor) for symbol, count in content))


@lru_cache(maxsize=200_000)
def _guess(formula: tuple[tuple[str, int], ...]) -> Mapping[str, float]:
    from pymatgen.core import Composition

    if sum(count for _, count in formula) > _MOST_ATOMS:
        return {}
    found = Composition(dict(formula)).oxi_state_guesses(max_sites=-_MOST_ATOMS)
    return found[0] if found else {}


def _oxide_type(row: Mapping[str, Any], counts: Mapping[int, int]) -> str:
    """Tell oxide, hydroxide, peroxide, superoxide and ozonide apart, by distances between atoms; '' without O."""
    if _O not in counts or len(counts) == 1:
        return ""
    if counts[_O] == 1 and _H not in counts:
        return "oxide"  # nothing that it could be bonded to
    from pymatgen.core.structure_analyzer import oxide_type

    return str(oxide_type(_structure(row), _CUTOFF))


def _sulfide_type(row: Mapping[str, Any], counts: Mapping[int, int]) -> str:
    """Tell sulfides from sulfates, whose S isn't corrected; '' without S.

    S counts as a sulfate's where its neighbours are on average more electronegative than itself; without any such
    element there is nothing to look for.
    """
    if _S not in counts or len(counts) == 1:
        return ""
    if not any(_electronegativity(number) > _electronegativity(_S) for number in counts):
        return "sulfide"
    from pymatgen.core.structure_analyzer import sulfide_type

    return sulfide_type(_structure(row)) or "sulfate"


@lru_cache(maxsize=128)
def _electronegativity(number: int) -> float:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have none: NaN, which is larger than nothing
        return float(Element.from_Z(number).X)


def _structure(row: Mapping[str, Any]) -> Any:
    from pymatgen.core import Lattice, Structure

    a, b, c = (bool(periodic) for periodic in row["pbc"])
    lattice = Lattice(np.reshape(row["cell"], (3, 3)), pbc=(a, b, c))
    return Structure(
        lattice, [SYMBOLS[n] for n in row["numbers"]], row["positions"], coords_are_cartesian=True
    )
