"""The k-point grids of ALEXANDRIA: how many points along each reciprocal vector a density asks for.

Comes in: a cell and a density, in k-points per reciprocal atom (crystals) or per length of reciprocal space (sheets
and chains); goes out: three integers, to be used as a Gamma-centred grid. The rule is the one of the database's own driver (hyllios/utils, ht_pd_scan/converge.py),
on lengths of reciprocal vectors and with rounding; pymatgen's `Kpoints.automatic_density` takes direct lengths
and rounds down, and gives other grids. Nothing here knows an engine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

#: Decimals kept before rounding, so that axes equal by symmetry get equal numbers whatever their last bits are.
_DECIMALS = 6


def grid(cell: ArrayLike, pbc: Sequence[bool], natoms: int, kpoint_density: float) -> tuple[int, int, int]:
    """Give the numbers of k-points along the three reciprocal vectors.

    With b_i the reciprocal vectors without the factor 2 pi and m = (density / natoms / prod |b_i|)^(1/3), the
    numbers are max(1, round(m |b_i|)); 1 along axes that aren't periodic. The vacuum of a slab or chain enters
    the product like any length: thicker vacuum gives a denser grid along the periodic axes.

    Args:
        cell: lattice vectors as rows, (3, 3) or (9,), angstrom.
        pbc: which of the three axes are periodic.
        natoms: number of atoms in the cell.
        kpoint_density: k-points per reciprocal atom: number of points in the full grid times `natoms`.

    Raises:
        ValueError: the cell has no volume, or `natoms` or the density is not positive.

    """
    if natoms < 1 or kpoint_density <= 0:
        raise ValueError(
            f"a grid needs atoms and a density above zero, found {natoms} and {kpoint_density:g}"
        )
    lengths = _reciprocal_lengths(cell)
    scale = (kpoint_density / natoms / np.prod(lengths)) ** (1 / 3)
    numbers = [
        max(1, int(np.floor(round(scale * length, _DECIMALS) + 0.5))) if periodic else 1
        for length, periodic in zip(lengths, pbc, strict=True)
    ]
    return (numbers[0], numbers[1], numbers[2])


def grid_by_length(
    cell: ArrayLike, pbc: Sequence[bool], points_per_inverse_angstrom: float
) -> tuple[int, int, int]:
    """Give the numbers of k-points of a density along single axes, as sheets and chains have it.

    The numbers are ceil(density * 2 pi |b_i|), b_i being the reciprocal vectors without the factor 2 pi, and 1 along
    axes that aren't periodic: at a density of 6 the (6 x 2 pi)^2 k-points per angstrom^-2 of a sheet and 6 x 2 pi per
    angstrom^-1 of a chain in the ALEXANDRIA paper, section 4.1, where angstrom^-1 is without the factor 2 pi. The paper
    doesn't say how it rounds; up is what ASE and GPAW do.

    Args:
        cell: lattice vectors as rows, (3, 3) or (9,), angstrom.
        pbc: which of the three axes are periodic.
        points_per_inverse_angstrom: density along an axis, with the factor 2 pi in the reciprocal length.

    Raises:
        ValueError: the cell has no volume, or the density is not positive.

    """
    if points_per_inverse_angstrom <= 0:
        raise ValueError(f"a grid needs a density above zero, found {points_per_inverse_angstrom:g}")
    scale = 2 * np.pi * points_per_inverse_angstrom
    numbers = [
        max(1, int(np.ceil(round(scale * length, _DECIMALS)))) if periodic else 1
        for length, periodic in zip(_reciprocal_lengths(cell), pbc, strict=True)
    ]
    return (numbers[0], numbers[1], numbers[2])


def _reciprocal_lengths(cell: ArrayLike) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Lengths of the three reciprocal vectors without the factor 2 pi, 1/angstrom; raises `ValueError` without a volume."""
    vectors = np.asarray(cell, dtype=float).reshape(3, 3)
    if abs(np.linalg.det(vectors)) < 1e-9:
        raise ValueError("the cell has no volume; a k-point grid needs three independent lattice vectors")
    lengths: np.ndarray[tuple[int], np.dtype[np.float64]] = np.linalg.norm(np.linalg.inv(vectors).T, axis=1)
    return lengths
