"""What a potential promises, tried by finite differences: forces and stress that belong to the energy, in our units.

Comes in: a `Potential` and a crystal of low symmetry. Goes out: a sentence per broken promise. Wrong units of stress, the
commonest mistake, show as a factor of 160.2 (GPa) and are named. Nothing is changed, and no threshold decides on how
good a potential is.
"""

from typing import TYPE_CHECKING

import numpy as np

from hullforge.potentials.base import Potential

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

#: Pairs of axes in ASE's order of the stress: xx, yy, zz, yz, xz, xy.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Strain and displacement (angstrom) of the central differences; single precision leaves 1e-6 of an energy.
STRAIN, STEP = 2e-3, 5e-3
#: GPa in one eV/angstrom^3.
GPA = 160.21766


def distorted(atoms: "Atoms", seed: int = 3) -> "Atoms":
    """Give a strained and rattled copy, so that no component of force and stress vanishes by symmetry."""
    random = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.set_cell(atoms.cell @ (np.eye(3) + random.normal(0, 0.03, (3, 3))), scale_atoms=True)
    moved.positions += random.normal(0, 0.08, moved.positions.shape)
    return moved


def violations(potential: Potential, atoms: "Atoms") -> list[str]:
    """Say what is wrong with forces and stress in the geometry `atoms`; an empty list where they fit the energy."""
    found = potential.evaluate([atoms])[0]
    if not found.is_finite:
        return ["it gives NaN or infinity"]
    wrong = []
    forces, stress = numeric_forces(potential, atoms), numeric_stress(potential, atoms)
    if not np.allclose(found.forces, forces, rtol=0, atol=5e-3 + 0.01 * np.abs(forces).max()):
        wrong.append(f"forces are not minus the derivative of the energy{_factor(found.forces, forces)}")
    if not np.allclose(found.stress, stress, rtol=0, atol=2e-4 + 0.02 * np.abs(stress).max()):
        wrong.append(
            "the stress is not the derivative of the energy with respect to strain over volume,"
            f" eV/angstrom^3, positive under tension{_factor(found.stress, stress)}"
        )
    return wrong


def numeric_forces(potential: Potential, atoms: "Atoms") -> "NDArray[np.float64]":
    """Give minus the derivative of the energy with respect to positions, (N, 3), eV/angstrom."""
    forces = np.zeros((len(atoms), 3))
    for index in np.ndindex(*forces.shape):
        pair = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * STEP
            pair.append(potential.energy(moved))
        forces[index] = -(pair[0] - pair[1]) / (2 * STEP)
    return forces


def numeric_stress(potential: Potential, atoms: "Atoms") -> "NDArray[np.float64]":
    """Give the derivative of the energy with respect to strain over volume, (6,), eV/angstrom^3."""
    stress = []
    for i, j in VOIGT:
        pair = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * STRAIN / 2
            strain[j, i] += sign * STRAIN / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
            pair.append(potential.energy(moved))
        stress.append((pair[0] - pair[1]) / (2 * STRAIN) / atoms.get_volume())
    return np.array(stress)


def _factor(given: "NDArray[np.float64]", numeric: "NDArray[np.float64]") -> str:
    """Name the factor between the two, where there is one, and the unit or sign that it betrays."""
    if not numeric.any():
        return ""
    factor = float((given * numeric).sum() / (numeric * numeric).sum())
    if not np.allclose(given, factor * numeric, rtol=0, atol=0.05 * abs(factor) * np.abs(numeric).max()):
        return ""
    known = {GPA: " (GPa)", -GPA: " (GPa, other sign)", -1.0: " (other sign)", 10 * GPA: " (kbar)"}
    name = next((text for value, text in known.items() if abs(factor / value - 1) < 0.05), "")
    return f"; it is {factor:.4g} times that{name}"
