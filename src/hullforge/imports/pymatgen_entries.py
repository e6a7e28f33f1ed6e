"""ComputedEntry and ComputedStructureEntry of pymatgen as dictionaries, without building its objects.

Comes in: one dictionary as `as_dict` gives it, or as ALEXANDRIA and the Materials Project publish it. Goes out: a
`Found`, or a `Refused`. Total energy and correction are kept apart; what isn't in the dictionary is never guessed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hullforge.imports.base import (
    BadRowError,
    Found,
    Refused,
    Structure,
    energy,
    optional,
    space_group,
    whole_counts,
)
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import ImportRefusal

#: What pymatgen's classes that correct energies are called in `correction_scheme`.
SCHEMES = {
    "MaterialsProject2020Compatibility": "MP2020",
    "MaterialsProjectCompatibility": "MP-legacy",
    "MaterialsProjectDFTMixingScheme": "MP-mixing",
}
#: Atoms of a structure may differ from those of its entry by what a formula's rounding does, no more.
_SAME = 1e-6


def guarded(read: Callable[[], Found], row: str, id_: str) -> Found | Refused:
    """Call `read`; whatever is wrong with the row becomes a `Refused`."""
    try:
        return read()
    except BadRowError as error:
        return Refused(row, id_, error.reason, str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Refused(
            row, id_, ImportRefusal.UNREADABLE, f"not what its format says: {type(error).__name__} {error}"
        )


def id_of(entry: Any, id_keys: tuple[str, ...]) -> str:
    """Give the id of an entry: of the keys of its data the first that it has, else `entry_id`; '' without any."""
    if not isinstance(entry, Mapping):
        return ""
    data = entry.get("data") if isinstance(entry.get("data"), Mapping) else {}
    for value in (*((data or {}).get(key) for key in id_keys), entry.get("entry_id")):
        if value is not None and value != "":
            return str(value)
    return ""


def found(entry: Mapping[str, Any], row: str, id_: str) -> Found:
    """Give the entry's row; raises `BadRowError`, or what a malformed dictionary makes Python raise."""
    data = entry.get("data") or {}
    parameters = entry.get("parameters") or {}
    counts = whole_counts(entry["composition"])
    atoms = sum(counts.values())
    total = energy(data.get("energy_total"), "energy_total")
    corrected = energy(data.get("energy_corrected"), "energy_corrected")
    scheme = "published" if corrected is not None else ""
    if total is None:
        total = energy(entry.get("energy"), "energy")
    correction = None if corrected is None or total is None else corrected - total
    if corrected is None:
        correction, scheme = _correction(entry)
    structure = entry.get("structure")
    return Found(
        row=row,
        id=id_,
        counts=counts,
        energy=None if total is None else total / atoms,
        correction=None if correction is None else correction / atoms,
        correction_scheme=scheme,
        formation_energy=optional(data.get("e_form", data.get("formation_energy_per_atom"))),
        e_above_hull=optional(data.get("e_above_hull", data.get("energy_above_hull"))),
        run_type=str(parameters.get("run_type") or ""),
        hubbards=_hubbards(parameters),
        pseudopotentials=_family(parameters),
        software=str(parameters.get("software") or ""),
        band_gap=optional(data.get("band_gap_ind", data.get("band_gap"))),
        magnetization=optional(data.get("total_mag", data.get("total_magnetization"))),
        space_group=space_group(data.get("spg", _symmetry(data))),
        structure=None if structure is None else _structure(structure, counts),
        nsites=atoms,
    )


def _correction(entry: Mapping[str, Any]) -> tuple[float | None, str]:
    """Give an entry's correction in eV and its scheme; none where nothing was added and nobody says by what."""
    adjustments = entry.get("energy_adjustments") or []
    if adjustments:
        values = [_adjustment(adjustment) for adjustment in adjustments]
        classes = {str((a.get("cls") or {}).get("@class") or "manual") for a in adjustments}
        return sum(values), "+".join(sorted(SCHEMES.get(name, name) for name in classes))
    value = energy(entry.get("correction"), "correction")
    return (value, "published") if value else (None, "")


def _adjustment(adjustment: Mapping[str, Any]) -> float:
    """Give an adjustment in eV: its value, or so much an atom of so many."""
    for per, number in (("adj_per_atom", "n_atoms"), ("adj_per_deg", "temp")):
        if per in adjustment:
            return float(adjustment[per]) * float(adjustment[number])
    return float(adjustment["value"])


def _hubbards(parameters: Mapping[str, Any]) -> dict[str, float] | None:
    """Give U by element; None where the entry doesn't say, empty where it says that there is none."""
    given = parameters.get("hubbards")
    if given is None:
        return {} if parameters.get("is_hubbard") is False else None
    return {str(element): float(value) for element, value in sorted(given.items()) if float(value) != 0.0}


def _family(parameters: Mapping[str, Any]) -> str:
    """Give the family of the pseudopotentials, the same for all elements: PBE, PAW_PBE, ..."""
    symbols = parameters.get("potcar_symbols")
    if not symbols:
        symbols = [
            spec.get("titel") for spec in parameters.get("potcar_spec") or [] if isinstance(spec, Mapping)
        ]
    words = {str(symbol).split()[0].removeprefix("PAW_") for symbol in symbols if symbol}
    return "+".join(sorted(words))


def _symmetry(data: Mapping[str, Any]) -> Any:
    symmetry = data.get("symmetry")
    return symmetry.get("number") if isinstance(symmetry, Mapping) else data.get("spacegroup_number")


def _structure(given: Mapping[str, Any], counts: Mapping[str, int]) -> Structure:
    """Read a pymatgen Structure; raises `BadRowError` where it isn't the crystal that the entry is about."""
    try:
        lattice = given["lattice"]
        matrix = lattice["matrix"]
        cell = np.asarray(matrix["data"] if isinstance(matrix, Mapping) else matrix, dtype=float).reshape(
            3, 3
        )
        symbols = []
        positions = []
        for site in given["sites"]:
            (species,) = site["species"]
            if abs(float(species.get("occu", 1)) - 1) > _SAME:
                raise BadRowError(
                    ImportRefusal.BAD_STRUCTURE, f"a site is partly occupied, by {species['element']}"
                )
            symbols.append(species["element"])
            positions.append(site["xyz"] if "xyz" in site else (np.asarray(site["abc"]) @ cell).tolist())
        pbc = [bool(periodic) for periodic in lattice.get("pbc", (True, True, True))]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadRowError(
            ImportRefusal.BAD_STRUCTURE, f"no structure that can be read: {type(error).__name__} {error}"
        ) from error
    return structure(symbols, cell.ravel().tolist(), positions, pbc, counts)


def structure(
    symbols: list[str], cell: list[float], positions: Any, pbc: list[bool], counts: Mapping[str, int]
) -> Structure:
    """Make a structure of chemical symbols (N), cell (9) and positions (N x 3) in angstrom, checked against `counts`.

    Raises `BadRowError` when its composition is another, or a number is not finite.
    """
    own: dict[str, int] = {}
    for symbol in symbols:
        own[symbol] = own.get(symbol, 0) + 1
    total = sum(counts.values())
    if own.keys() != counts.keys() or any(own[s] * total != counts[s] * len(symbols) for s in own):
        raise BadRowError(
            ImportRefusal.BAD_STRUCTURE,
            f"its structure holds {_formula(own)}, the row is about {_formula(counts)}",
        )
    places = np.asarray(positions, dtype=float)
    if len(cell) != 9 or len(pbc) != 3:
        raise BadRowError(
            ImportRefusal.BAD_STRUCTURE, "its lattice is not three vectors with three periodicities"
        )
    if places.shape != (len(symbols), 3) or not np.isfinite(places).all() or not np.isfinite(cell).all():
        raise BadRowError(
            ImportRefusal.BAD_STRUCTURE, "its structure has positions or a cell that are no numbers"
        )
    return Structure([NUMBERS[symbol] for symbol in symbols], cell, places.tolist(), pbc)


def _formula(counts: Mapping[str, int]) -> str:
    return (
        "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in sorted(counts.items()))
        or "nothing"
    )
