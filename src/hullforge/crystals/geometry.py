"""How close atoms are: the guard against overlapping atoms, which potentials and DFT codes lack.

Comes in: atomic numbers, a cell, positions (angstrom) and periodicity as plain arrays. Goes out: one ratio.
Never decides what is too close.
"""

import numpy as np
from numpy.typing import ArrayLike


def shortest_distance_ratio(
    numbers: ArrayLike, cell: ArrayLike, positions: ArrayLike, pbc: ArrayLike
) -> float:
    """Give the smallest distance over sum of covalent radii, of all pairs of atoms and their images.

    `numbers` (N,), `cell` (3, 3), `positions` (N, 3) and `pbc` (3,); lengths in angstrom. Radii are ASE's
    (Cordero et al., 2008). Infinite where there is no pair: one atom without periodicity; 0 where the cell
    has no volume; NaN where a position or the cell is not a number.
    """
    from ase.data import covalent_radii

    vectors = np.asarray(cell, dtype=float).reshape(3, 3)
    places = np.asarray(positions, dtype=float).reshape(-1, 3)
    periodic = np.asarray(pbc, dtype=bool)
    radii = covalent_radii[np.asarray(numbers, dtype=int)]
    if not (np.isfinite(vectors).all() and np.isfinite(places).all()):
        return float("nan")
    spacing = np.ones(3)
    if periodic.any():
        from ase.geometry import complete_cell, minkowski_reduce

        # Axes without periodicity may be null vectors; they only need to be independent.
        vectors = complete_cell(vectors)
        if abs(np.linalg.det(vectors)) < 1e-9:
            return 0.0
        # In a reduced cell few images can be closest.
        vectors = complete_cell(minkowski_reduce(vectors, periodic)[0])
        inverse = np.linalg.inv(vectors)
        spacing = 1 / np.linalg.norm(inverse, axis=0)
        places = places - np.where(periodic, np.floor(places @ inverse), 0.0) @ vectors
    reach = np.where(periodic, 1, 0)
    while True:
        ratio, farthest = _smallest_ratio(radii, vectors, places, reach)
        if not periodic.any():
            return ratio
        # Pairs closer than `ratio` reach at most that far; beyond n images are at least n spacings.
        needed = np.where(periodic, np.ceil(ratio * farthest / spacing), 0).astype(int)
        if (needed <= reach).all():
            return ratio
        reach = np.maximum(needed, reach)


def _smallest_ratio(
    radii: np.ndarray, cell: np.ndarray, positions: np.ndarray, reach: np.ndarray
) -> tuple[float, float]:
    """Give the smallest ratio among images up to `reach` (3,), and the largest sum of radii."""
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    # An image and its opposite give the same distances: half of them suffice.
    shifts = images[: len(images) // 2 + 1] @ cell
    difference = positions[None, :, :] - positions[:, None, :]
    squared = ((difference[None] + shifts[:, None, None, :]) ** 2).sum(axis=-1)
    sums = radii[None, :] + radii[:, None]
    ratios = squared / sums**2
    # The last shift is none: there an atom meets itself.
    np.fill_diagonal(ratios[-1], np.inf)
    return float(np.sqrt(ratios.min())), float(2 * radii.max())
