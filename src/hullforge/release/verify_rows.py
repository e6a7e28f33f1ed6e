"""Whether single rows of a release are what they say: geometry, ids, energies, places on a hull; a part of `verify`.

Comes in: a row, and of a hull what was computed again. Goes out: what is wrong with it, in words. Reads no files.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hullforge.store import ids
from hullforge.thermo import place

#: Largest difference of a recomputed energy, eV/atom.
TOLERANCE = 1e-9
#: The same where phases with a share below 1e-9 were left out.
SHARES = 1e-7

Row = Mapping[str, Any]


def geometry_problems(row: Row) -> Iterator[str]:
    """Check atoms, cell and id of a geometry."""
    n = len(row["numbers"])
    if len(row["positions"]) != n or row.get("nsites", n) != n:
        yield f"{n} atomic numbers, {len(row['positions'])} positions"
        return
    if "structure_id" in row:
        made = ids.structure_id(row["numbers"], row["cell"], row["positions"], row["pbc"])
        if made != row["structure_id"]:
            yield f"the geometry is not that of structure_id {row['structure_id']}"
    for column, length in (("forces", n), ("magmoms", n)):
        if row.get(column) is not None and len(row[column]) != length:
            yield f"{n} atoms, {len(row[column])} {column}"
    volume = abs(float(np.linalg.det(np.reshape(row["cell"], (3, 3)))))
    if "volume" in row and abs(volume - row["volume"]) > 1e-6 * volume:
        yield f"the cell's volume is {volume:g} angstrom^3, not {row['volume']:g}"


def frame_problems(row: Row) -> Iterator[str]:
    """Check geometry and id of a frame."""
    yield from geometry_problems(row)
    if row["frame_id"] != f"{row['calculation_id']}-{row['step']}":
        yield "frame_id is not made of calculation_id and step"


def calculation_problems(row: Row) -> Iterator[str]:
    """Check geometry, energies, largest force and stress, and id of a calculation."""
    yield from geometry_problems(row)
    if abs(row["energy"] / len(row["numbers"]) - row["energy_per_atom"]) > TOLERANCE:
        yield f"energy {row['energy']} eV is not {row['energy_per_atom']} eV/atom times {len(row['numbers'])} atoms"
    made = ids.calculation_id(
        row["theory_id"], row["candidate_id"], row["parent_structure_id"], row.get("supersedes")
    )
    if made != row["calculation_id"]:
        yield "the id is not that of its theory, candidate and starting geometry"
    if row["forces"] is not None and row["max_force"] is not None:
        largest = float(np.linalg.norm(row["forces"], axis=1).max())
        if abs(largest - row["max_force"]) > 1e-6:
            yield f"the largest force is {largest:g} eV/angstrom, not {row['max_force']:g}"
    if row["stress"] is not None and row["max_stress"] is not None:
        largest = float(np.abs(row["stress"]).max())
        if abs(largest - row["max_stress"]) > 1e-6:
            yield f"the largest stress is {largest:g} eV/angstrom^3, not {row['max_stress']:g}"


def hull_problems(published: Row, recomputed: Row, key: str = "calculation_id") -> Iterator[str]:
    """Compare a row of a hull with the one computed again."""
    name = f"{key} {published[key]}"
    for column in (
        "energy_per_atom",
        "energy_correction_per_atom",
        "formation_energy_per_atom",
        "e_above_hull",
    ):
        if column not in recomputed:
            continue
        a, b = published[column], recomputed[column]
        if (a is None) != (b is None) or (a is not None and not abs(a - b) <= TOLERANCE):
            yield f"{name}: {column} is {a} eV/atom, the published energies give {b}"
    for column in (
        "hull_status",
        "is_on_hull",
        "theory_id",
        "structure_id",
        "round",
        "chemical_formula_reduced",
    ):
        if column in recomputed and published[column] != recomputed[column]:
            yield f"{name}: {column} is {published[column]}, it should be {recomputed[column]}"


def proof_problems(row: Row, formation: Mapping[str, float | None]) -> Iterator[str]:
    """Check that decomposition and chemical potentials give the hull's energy at the row's composition."""
    if row["e_above_hull"] is None or row["formation_energy_per_atom"] is None:
        return
    hull = row["formation_energy_per_atom"] - row["e_above_hull"]
    phases = [(phase["fraction"], formation.get(phase["calculation_id"])) for phase in row["decomposition"]]
    mixture = sum(share * energy for share, energy in phases if energy is not None)
    if any(energy is None for _, energy in phases) or abs(sum(share for share, _ in phases) - 1) > SHARES:
        yield "its decomposition is not a mixture of placed phases with fractions that add up to 1"
    elif abs(mixture - hull) > SHARES:
        yield f"its decomposition has {mixture} eV/atom, the hull there {hull}"
    fractions = place.atomic_fractions([row["chemical_formula_reduced"]], row["elements"])[0]
    potentials = row["chemical_potentials"] or []
    if len(potentials) != len(fractions) or abs(float(fractions @ potentials) - hull) > SHARES:
        yield f"its chemical potentials do not give the hull's energy there, {hull} eV/atom"
