"""Which prototype a relaxed structure still belongs to: its protostructure label and space group.

Comes in: `ase.Atoms` and a tolerance. Goes out: the label that `hullforge.crystals.prototypes` would give it,
or nothing where symmetry can't be found. Never compares geometries: equal labels are a necessary condition for
being the same crystal, not a sufficient one.
"""

from typing import TYPE_CHECKING

import numpy as np

from hullforge.crystals import symmetry
from hullforge.errors import PrototypeError

if TYPE_CHECKING:
    from ase import Atoms


def protostructure_label(atoms: "Atoms", symprec: float = 0.01) -> str | None:
    """Give the protostructure label without elements, such as 'AB2_cF12_225_a_c', or `None`.

    `symprec` in angstrom; relaxed structures need more than ideal ones, 0.05 to 0.1 is usual.
    """
    if not _is_crystal(atoms):
        return None
    try:
        return symmetry.labelled_orders(atoms, symprec)[0]
    except PrototypeError:
        return None


def space_group_number(atoms: "Atoms", symprec: float = 0.01) -> int | None:
    """Give the international number of the space group (1 to 230), or `None` where it can't be found."""
    import spglib

    if not _is_crystal(atoms):
        return None
    cell = (atoms.cell.array, atoms.get_scaled_positions(wrap=True), atoms.numbers)
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
    except spglib.SpglibError:
        return None
    return int(dataset.number) if dataset is not None else None


def _is_crystal(atoms: "Atoms") -> bool:
    """Whether there are atoms with finite positions in a cell with a volume; relaxations may leave neither."""
    finite = np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()
    return bool(len(atoms) and finite and abs(np.linalg.det(atoms.cell.array)) > 1e-6)
