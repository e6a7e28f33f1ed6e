"""Rows whose values have names: of CSV, Parquet and extended XYZ files, and of OPTIMADE providers.

Comes in: a row's values by the source's own names, and which of these means what. Goes out: a `Found`. Structures are
recognised by their OPTIMADE names (`species_at_sites`, `lattice_vectors`, `cartesian_site_positions`). Units are eV,
angstrom and Bohr magneton, and nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hullforge.errors import TableError
from hullforge.imports.base import (
    BadRowError,
    Found,
    Structure,
    counts_of,
    energy,
    optional,
    space_group,
    whole_counts,
)
from hullforge.imports.pymatgen_entries import structure
from hullforge.store.vocabulary import ImportRefusal

#: What a column can mean, and the names that it is found by where the user names none.
MEANINGS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "formula": ("formula", "chemical_formula_reduced"),
    "energy_per_atom": ("energy_per_atom",),
    "energy": ("energy",),
    "energy_corrected": ("energy_corrected",),
    "energy_correction_per_atom": ("energy_correction_per_atom",),
    "formation_energy_per_atom": ("formation_energy_per_atom",),
    "e_above_hull": ("e_above_hull", "energy_above_hull"),
    "nsites": ("nsites",),
    "functional": ("functional",),
    "run_type": ("run_type",),
    "band_gap": ("band_gap",),
    "total_magnetization": ("total_magnetization",),
    "space_group_it_number": ("space_group_it_number",),
}
#: No cell has more atoms.
_MOST = 1_000_000
#: What makes a structure, by OPTIMADE's names.
STRUCTURE = ("species_at_sites", "species", "lattice_vectors", "cartesian_site_positions", "dimension_types")


@dataclass(frozen=True)
class Columns:
    """What the columns that the user named mean: the source's name by meaning.

    A name may go into nested values: `_mp_stability/gga_gga+u/energy_above_hull`.
    """

    named: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parsed(cls, words: Iterable[str]) -> "Columns":
        """Read `meaning=name` words; raises `TableError` naming one that isn't."""
        named: dict[str, str] = {}
        for word in words:
            meaning, equals, name = word.partition("=")
            if not equals or not name or meaning not in MEANINGS:
                raise TableError(
                    f"--column {word}: needed is MEANING=COLUMN, where MEANING is one of {', '.join(MEANINGS)}"
                )
            named[meaning] = name
        return cls(named)

    def found_in(self, names: Iterable[str], where: str) -> dict[str, str]:
        """Give the source's name by meaning, for a source that has these columns.

        Raises `TableError` when a column that the user named is absent, or the columns make no energy or composition.
        """
        present = set(names)
        out = {}
        for meaning, usual in MEANINGS.items():
            name = self.named.get(meaning) or next((name for name in usual if name in present), "")
            if meaning in self.named and name.split("/")[0] not in present:
                raise TableError(f"{where}: no column {name}; it has {', '.join(sorted(present)) or 'none'}")
            if name:
                out[meaning] = name
        has_structure = "species_at_sites" in present
        if "formula" not in out and not has_structure:
            raise TableError(
                f"{where}: no column 'formula'; it has {', '.join(sorted(present))}; name it: --column formula=..."
            )
        if not {"energy_per_atom", "energy", "formation_energy_per_atom"} & set(out):
            raise TableError(
                f"{where}: no energy; it has {', '.join(sorted(present))}; name one: --column energy_per_atom=... (eV/atom),"
                " energy=... (eV per cell) or formation_energy_per_atom=..."
            )
        return out


def found(values: Mapping[str, Any], meant: Mapping[str, str], row: str, id_: str) -> Found:
    """Give the row whose `values` are named as `meant` says by meaning; raises `BadRowError`."""

    def value(meaning: str) -> Any:
        name = meant.get(meaning)
        return None if name is None else _at(values, name)

    crystal, sites = _structure(values)
    counts: Mapping[str, int] = sites or counts_of(str(value("formula") or ""))
    given = optional(value("nsites")) or 0.0
    nsites = len(crystal.numbers) if crystal else int(given) if 1 <= given <= _MOST else None
    total = energy(value("energy_per_atom"), meant.get("energy_per_atom", ""))
    cell = None
    if total is None:
        cell = energy(value("energy"), meant.get("energy", ""))
        total = None if cell is None else cell / _atoms(nsites, "energy")
    correction = energy(value("energy_correction_per_atom"), meant.get("energy_correction_per_atom", ""))
    corrected = energy(value("energy_corrected"), meant.get("energy_corrected", ""))
    if correction is None and corrected is not None and total is not None:
        correction = corrected / _atoms(nsites, "energy_corrected") - total
    return Found(
        row=row,
        id=id_,
        counts=counts,
        energy=total,
        correction=correction,
        correction_scheme="published" if correction is not None else "",
        formation_energy=energy(
            value("formation_energy_per_atom"), meant.get("formation_energy_per_atom", "")
        ),
        e_above_hull=optional(value("e_above_hull")),
        functional=str(value("functional") or ""),
        run_type=str(value("run_type") or ""),
        band_gap=optional(value("band_gap")),
        magnetization=optional(value("total_magnetization")),
        space_group=space_group(value("space_group_it_number")),
        structure=crystal,
        nsites=nsites,
    )


def id_of(values: Mapping[str, Any], meant: Mapping[str, str], otherwise: str) -> str:
    """Give the row's id; `otherwise` where the source has no ids at all."""
    if "id" not in meant:
        return otherwise
    value = _at(values, meant["id"])
    return "" if value is None else str(value)


def _atoms(nsites: int | None, meaning: str) -> int:
    if not nsites or nsites < 1:
        raise BadRowError(
            ImportRefusal.NO_ENERGY,
            f"{meaning} is per cell, and nothing says how many atoms the cell has: --column nsites=..., or give"
            " energy_per_atom",
        )
    return nsites


def _at(values: Mapping[str, Any], name: str) -> Any:
    if name in values:
        return values[name]
    at: Any = values
    for part in name.split("/"):
        if not isinstance(at, Mapping):
            return None
        at = at.get(part)
    return at


def _structure(values: Mapping[str, Any]) -> tuple[Structure | None, dict[str, int] | None]:
    """Give the structure in OPTIMADE's columns, and its composition; None for what isn't there."""
    names = values.get("species_at_sites")
    if not names:
        return None, None
    symbols = [str(name) for name in names]
    species = values.get("species")
    if isinstance(species, list | tuple):
        symbols_of = {kind["name"]: _symbol(kind) for kind in species}
        symbols = [symbols_of[name] for name in names]
    counts = whole_counts({symbol: symbols.count(symbol) for symbol in set(symbols)})
    cell, positions = values.get("lattice_vectors"), values.get("cartesian_site_positions")
    if cell is None or positions is None:
        return None, counts
    flat = np.asarray(cell, dtype=float).ravel().tolist()
    if len(flat) != 9:
        raise BadRowError(ImportRefusal.BAD_STRUCTURE, "lattice_vectors are not three vectors")
    pbc = [bool(kind) for kind in values.get("dimension_types") or (1, 1, 1)]
    return structure(symbols, flat, positions, pbc, counts), counts


def _symbol(species: Mapping[str, Any]) -> str:
    """Give the element of an OPTIMADE species; raises `BadRowError` where it is a mixture or has vacancies."""
    symbols, shares = species["chemical_symbols"], species.get("concentration") or [1.0]
    if len(symbols) != 1 or abs(float(shares[0]) - 1) > 1e-6:
        raise BadRowError(ImportRefusal.BAD_STRUCTURE, f"the sites {species['name']} are partly occupied")
    return str(symbols[0])
