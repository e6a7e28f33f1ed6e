"""Final structures as JSON of pymatgen's `ComputedStructureEntry`, with the names that ALEXANDRIA's users know.

Comes in: tables of calculations with what the hull says of them. Goes out: one JSON object with the list `entries`,
one entry a line. Energies in eV: `energy_total`, `energy_corrected` per cell; `e_form`, `e_above_hull` per atom. Never
uses pymatgen's objects, so that positions stay what they are.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hullforge.store import tables
from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

#: pymatgen's class of each scheme of corrections.
_CLASSES = {"MP2020": ("pymatgen.entries.compatibility", "MaterialsProject2020Compatibility")}
_COLUMNS = (
    "calculation_id", "candidate_id", "prototype_id", "structure_id", "functional", "theory_id", "run_type", "hubbards",
    "software", "software_version", "pseudopotentials", "numbers", "cell", "positions", "pbc", "nsites", "volume",
    "elements", "chemical_formula_reduced", "energy", "free_energy", "forces", "stress", "magmoms",
    "total_magnetization", "band_gap", "dos_at_fermi", "round", "split", "formation_energy_per_atom", "e_above_hull",
    "correction_scheme", "energy_correction_per_atom",
)  # fmt: skip


def write(path: Path, pieces: Iterator[pa.Table], structures: pa.Table) -> None:
    """Write the entries of all pieces; `structures` gives the space groups."""
    groups = dict(
        zip(
            *(structures[name].to_pylist() for name in ("structure_id", "space_group_it_number")), strict=True
        )
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"entries": [')
        between = "\n"
        for table in pieces:
            for row in table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist():
                file.write(between + json.dumps(entry(row, groups.get(row["structure_id"])), allow_nan=False))
                between = ",\n"
        file.write("\n]}\n")


def entry(row: Mapping[str, Any], space_group: int | None) -> dict[str, Any]:
    """Give the dictionary of an entry; `row` is a calculation with what the hull says of it.

    An `energy_adjustment` stands in it where the hull's scheme corrects this calculation; `energy` is never corrected.
    """
    symbols = [SYMBOLS[number] for number in row["numbers"]]
    composition = {symbol: float(symbols.count(symbol)) for symbol in row["elements"]}
    scheme, correction = row["correction_scheme"], row["energy_correction_per_atom"]
    has_scheme = scheme not in (None, "none") and correction is not None
    total = correction * row["nsites"] if has_scheme else 0.0
    hubbards = tables.as_dict(row["hubbards"])
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "entry_id": row["calculation_id"],
        "energy": row["energy"],
        "composition": composition,
        "correction": total,
        "energy_adjustments": [_adjustment(scheme, total)] if has_scheme else [],
        "parameters": {
            "run_type": row["run_type"],
            "hubbards": hubbards,
            "is_hubbard": bool(hubbards),
            "software": row["software"],
            "software_version": row["software_version"],
            "pseudopotentials": row["pseudopotentials"],
            "potcar_symbols": [name for name in row["pseudopotentials"] if name.startswith("PAW")],
        },
        "data": {
            "mat_id": row["calculation_id"],
            "structure_id": row["structure_id"],
            "prototype_id": row["prototype_id"],
            "functional": row["functional"],
            "theory_id": row["theory_id"],
            "formula": row["chemical_formula_reduced"],
            "elements": row["elements"],
            "nsites": row["nsites"],
            "spg": space_group,
            "volume": row["volume"],
            "energy_total": row["energy"],
            "energy_corrected": row["energy"] + total if has_scheme else None,
            "correction_scheme": scheme,
            "e_form": row["formation_energy_per_atom"],
            "e_above_hull": row["e_above_hull"],
            "band_gap_ind": row["band_gap"],
            "dos_ef": row["dos_at_fermi"],
            "total_mag": row["total_magnetization"],
            "cauchy_stress": row["stress"],
            "round": row["round"],
            "split": row.get("split"),
        },
        "structure": _structure(row, symbols),
    }


def _adjustment(scheme: str, value: float) -> dict[str, Any]:
    module, name = _CLASSES.get(scheme, ("", scheme))
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ConstantEnergyAdjustment",
        "value": value,
        "name": f"{scheme} correction",
        "cls": {"@module": module, "@class": name} if module else {"@class": name},
        "description": "sum of all corrections of the scheme",
    }


def _structure(row: Mapping[str, Any], symbols: list[str]) -> dict[str, Any]:
    cell = np.array(row["cell"]).reshape(3, 3)
    fractions = np.linalg.solve(cell.T, np.array(row["positions"]).T).T.tolist()
    lengths = np.linalg.norm(cell, axis=1)
    cosines = [cell[j] @ cell[k] / (lengths[j] * lengths[k]) for j, k in ((1, 2), (0, 2), (0, 1))]
    alpha, beta, gamma = np.degrees(np.arccos(np.clip(cosines, -1, 1))).tolist()
    sites = []
    for place, symbol in enumerate(symbols):
        properties = {}
        if row["magmoms"] is not None:
            properties["magmom"] = row["magmoms"][place]
        if row["forces"] is not None:
            properties["forces"] = row["forces"][place]
        sites.append({
            "species": [{"element": symbol, "occu": 1}], "abc": fractions[place], "xyz": row["positions"][place],
            "properties": properties, "label": symbol,
        })  # fmt: skip
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {
            "matrix": cell.tolist(), "pbc": row["pbc"], "a": float(lengths[0]), "b": float(lengths[1]),
            "c": float(lengths[2]), "alpha": alpha, "beta": beta, "gamma": gamma, "volume": row["volume"],
        },
        "properties": {},
        "sites": sites,
    }  # fmt: skip
