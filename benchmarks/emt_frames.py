"""Relaxation paths of small alloys by ASE's EMT, as tables `frames` and `calculations`: labels in a millisecond each."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import composition_columns

ELEMENTS = ("Al", "Cu", "Ni")
THEORY = "emt-1"
#: eV per atom that EMT lacks against a DFT code's zero, to be found by the reference energies.
OFFSETS = {13: -3.7, 28: -5.5, 29: -4.0}


def compositions(maximum: int = 3) -> list[list[int]]:
    """Atomic numbers of up to `maximum` atoms of one or two of the elements."""
    pairs = [(13, 28), (13, 29), (28, 29)]
    return [[13], [28], [29]] + [
        [a] * i + [b] * j for a, b in pairs for i in range(1, maximum) for j in range(1, maximum + 1 - i)
    ]


def atoms_of(numbers: list[int], rng: np.random.Generator) -> Atoms:
    """Make a strained and rattled cell of close-packed layers along one axis."""
    n = len(numbers)
    cell = np.diag([2.6, 2.6, 2.1 * max(n, 2)]) * rng.uniform(0.95, 1.08) + rng.normal(0, 0.06, (3, 3))
    scaled = np.array([[0.5 * (i % 2), 0.5 * (i % 2), i / max(n, 2)] for i in range(n)])
    atoms = Atoms(numbers, scaled_positions=scaled, cell=cell, pbc=True)
    atoms.positions += rng.normal(0, 0.06, (n, 3))
    return atoms


def make(
    folder: Path, *, number: int, steps: int = 3, round_: int = 0, seed: int = 0, labelled: int | None = None
) -> tuple[Path, Path]:
    """Write `number` paths of `steps` frames each below `folder`; gives the files of frames and calculations.

    After `labelled` paths labels are made up: where only their number matters, EMT's would take hours.
    """
    rng = np.random.default_rng([seed, round_])
    known = compositions()
    frames, calculations = [], []
    for place in range(number):
        numbers = known[int(rng.integers(len(known)))]
        name = f"k{round_}-{place:06d}"
        chemistry = {
            key: composition_columns(numbers)[key]
            for key in ("nelements", "chemsys", "chemical_formula_reduced")
        }
        for step in range(steps):
            atoms = atoms_of(numbers, rng)
            energy, forces, stress = (
                _labels(atoms) if labelled is None or place < labelled else _made_up(atoms)
            )
            frames.append(
                {
                    "frame_id": f"{name}-{step}", "calculation_id": name, "functional": "PBE", "theory_id": THEORY,
                    "step": step, "protocol_step": "relax1", "numbers": numbers,
                    "cell": atoms.cell.array.ravel().tolist(), "positions": atoms.positions.tolist(),
                    "pbc": [True] * 3, "energy": energy, "free_energy": energy, "electronic_converged": True,
                    "forces": forces, "stress": stress, "magmoms": None,
                }
                | chemistry
            )  # fmt: skip
        last = frames[-1]
        calculations.append((name, last, chemistry))
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(folder / "frames.parquet", "frames", frames)
    rows = [_calculation(name, last, chemistry, round_) for name, last, chemistry in calculations]
    tables.write(folder / "calculations.parquet", "calculations", rows)
    return folder / "frames.parquet", folder / "calculations.parquet"


def _labels(atoms: Atoms) -> tuple[float, list[list[float]], list[float]]:
    """Give EMT's energy above the offsets (eV), forces and stress."""
    atoms.calc = EMT()
    energy = float(atoms.get_potential_energy()) + sum(OFFSETS[n] for n in atoms.numbers.tolist())
    return energy, atoms.get_forces().tolist(), atoms.get_stress().tolist()


def _made_up(atoms: Atoms) -> tuple[float, list[list[float]], list[float]]:
    return -4.0 * len(atoms), [[0.0, 0.0, 0.1]] * len(atoms), [0.01] * 6


def _empty(name: str) -> dict[str, Any]:
    """Give a row of nulls where they are allowed, of empty values elsewhere."""
    empty = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": False}
    return {c.name: None if c.null else empty.get(str(c.type), []) for c in TABLES[name].columns}


def _calculation(name: str, last: dict[str, Any], chemistry: dict[str, Any], round_: int) -> dict[str, Any]:
    same = ("functional", "theory_id", "numbers", "cell", "positions", "pbc", "energy", "forces", "stress")
    return (
        _empty("calculations")
        | {key: last[key] for key in same}
        | chemistry
        | {"calculation_id": name, "round": round_, "protocol_drift": []}
    )
