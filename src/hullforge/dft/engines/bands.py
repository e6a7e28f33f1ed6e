"""Band gap and density of states at the Fermi level, from eigenvalues on a grid of k-points.

Comes in: eigenvalues as an engine gives them, of the irreducible k-points with their weights; goes out: one
number each. No interpolation: a grid that misses the band edge gives too wide a gap, and the protocol's dense
static grid is there for that reason.
"""

import numpy as np
from numpy.typing import ArrayLike


def band_gap(eigenvalues: ArrayLike, fermi_level: float) -> float:
    """Give the smallest difference between empty and filled states over all k-points and spins, eV; 0 for metals.

    Args:
        eigenvalues: (spins, k-points, bands), eV.
        fermi_level: eV. A band with states on both sides of it makes a metal.

    Raises:
        ValueError: all bands are filled, so that there is no state above the gap.

    """
    bands = np.asarray(eigenvalues, dtype=float)
    lowest, highest = bands.min(axis=1), bands.max(axis=1)
    if ((lowest <= fermi_level) & (highest > fermi_level)).any():
        return 0.0
    filled = highest <= fermi_level
    if filled.all() or not filled.any():
        raise ValueError(
            "no band is empty or none is filled; a gap needs bands on both sides of the Fermi level"
        )
    return max(0.0, float(lowest[~filled].min() - highest[filled].max()))


def dos_at_fermi(eigenvalues: ArrayLike, weights: ArrayLike, fermi_level: float, width: float) -> float:
    """Give the density of states at the Fermi level, both spins together, states/eV per cell.

    Each state counts with -df/de of the Fermi-Dirac distribution of the calculation's own smearing, that is
    1 / (4 width cosh^2(x/2)) with x = (e - fermi_level) / width: the density of states averaged over a few
    `width` around the Fermi level. In an insulator it is near zero, not exactly zero.

    Args:
        eigenvalues: (spins, k-points, bands), eV; one spin stands for two.
        weights: (k-points), adding up to 1.
        fermi_level: eV.
        width: smearing width, eV.

    """
    bands = np.asarray(eigenvalues, dtype=float)
    # Beyond 700 cosh overflows; such states count nothing.
    x = np.clip((bands - fermi_level) / (2 * width), -300, 300)
    per_state = 1 / (4 * width * np.cosh(x) ** 2)
    degeneracy = 2 / bands.shape[0]
    return float(degeneracy * np.einsum("skn,k->", per_state, np.asarray(weights, dtype=float)))
