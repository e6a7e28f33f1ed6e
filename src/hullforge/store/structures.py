"""Between rows of tables and `ase.Atoms`: the only place that knows how a structure lies in columns.

A structure is four columns: `numbers` (N), `cell` (9, row-major, angstrom), `positions` (N lists of 3,
Cartesian, angstrom), `pbc` (3).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.store import ids

if TYPE_CHECKING:
    from ase import Atoms

#: Chemical symbols by atomic number, index 0 unused; here so that ids and formulas need no ASE import.
SYMBOLS = [
    "X",
    "H",
    "He",
    "Li",
    "Be",
    "B",
    "C",
    "N",
    "O",
    "F",
    "Ne",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "Ar",
    "K",
    "Ca",
    "Sc",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Ga",
    "Ge",
    "As",
    "Se",
    "Br",
    "Kr",
    "Rb",
    "Sr",
    "Y",
    "Zr",
    "Nb",
    "Mo",
    "Tc",
    "Ru",
    "Rh",
    "Pd",
    "Ag",
    "Cd",
    "In",
    "Sn",
    "Sb",
    "Te",
    "I",
    "Xe",
    "Cs",
    "Ba",
    "La",
    "Ce",
    "Pr",
    "Nd",
    "Pm",
    "Sm",
    "Eu",
    "Gd",
    "Tb",
    "Dy",
    "Ho",
    "Er",
    "Tm",
    "Yb",
    "Lu",
    "Hf",
    "Ta",
    "W",
    "Re",
    "Os",
    "Ir",
    "Pt",
    "Au",
    "Hg",
    "Tl",
    "Pb",
    "Bi",
    "Po",
    "At",
    "Rn",
    "Fr",
    "Ra",
    "Ac",
    "Th",
    "Pa",
    "U",
    "Np",
    "Pu",
    "Am",
    "Cm",
    "Bk",
    "Cf",
    "Es",
    "Fm",
    "Md",
    "No",
    "Lr",
    "Rf",
    "Db",
    "Sg",
    "Bh",
    "Hs",
    "Mt",
    "Ds",
    "Rg",
    "Cn",
    "Nh",
    "Fl",
    "Mc",
    "Lv",
    "Ts",
    "Og",
]
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def atoms_from_row(row: Mapping[str, Any]) -> "Atoms":
    """Build `ase.Atoms` from the four structure columns of a row."""
    from ase import Atoms

    return Atoms(
        numbers=np.asarray(row["numbers"], dtype=int),
        cell=np.asarray(row["cell"], dtype=float).reshape(3, 3),
        positions=np.asarray(row["positions"], dtype=float).reshape(-1, 3),
        pbc=np.asarray(row["pbc"], dtype=bool),
    )


def row_from_atoms(atoms: "Atoms") -> dict[str, Any]:
    """Give the structure columns of `atoms`, and the columns that follow from them alone.

    Besides the four: `structure_id`, `nsites`, `volume` (angstrom^3), `elements` (sorted alphabetically),
    `nelements`, `chemsys`, `chemical_formula_reduced` (OPTIMADE order: alphabetical).
    """
    return structure_columns(atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc)


def structure_columns(
    numbers: Any, cell: Any, positions: Any, pbc: Any = (True, True, True)
) -> dict[str, Any]:
    """Give what `row_from_atoms` gives, from numbers (N,), cell (3, 3) and Cartesian positions (N, 3) in angstrom."""
    numbers = [int(n) for n in numbers]
    cell = np.asarray(cell, dtype=float).reshape(3, 3)
    positions = np.asarray(positions, dtype=float).reshape(-1, 3)
    pbc = [bool(p) for p in pbc]
    return {
        "structure_id": ids.structure_id(numbers, cell, positions, pbc),
        "numbers": numbers,
        "cell": cell.ravel().tolist(),
        "positions": positions.tolist(),
        "pbc": pbc,
        "volume": abs(float(np.linalg.det(cell))),
        **composition_columns(numbers),
    }


def composition_columns(numbers: Any) -> dict[str, Any]:
    """Give `nsites`, `elements`, `nelements`, `chemsys` and `chemical_formula_reduced` of atomic numbers (N,)."""
    values, counts = np.unique(np.asarray(numbers, dtype=int), return_counts=True)
    pairs = sorted((SYMBOLS[value], int(count)) for value, count in zip(values, counts, strict=True))
    divisor = int(np.gcd.reduce(counts))
    elements = [symbol for symbol, _ in pairs]
    return {
        "nsites": int(counts.sum()),
        "elements": elements,
        "nelements": len(elements),
        "chemsys": "-".join(elements),
        "chemical_formula_reduced": "".join(
            symbol + (str(count // divisor) if count // divisor > 1 else "") for symbol, count in pairs
        ),
    }
