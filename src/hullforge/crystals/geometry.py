"""How close atoms are: the guard against overlapping atoms, which potentials and DFT codes lack.

Comes in: atomic numbers, a cell, positions (angstrom) and periodicity as plain arrays. Goes out: one ratio, or for
many frames at once also how lonely their atoms are. Never decides what is too close or too far.
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


#: Numbers held at once by `closeness`; bounds memory to some 100 MB.
_AT_ONCE = 2_000_000


def closeness(
    numbers: np.ndarray, cells: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give for each of F frames with N atoms what `shortest_distance_ratio` gives, and its loneliest atom's distance.

    `numbers` (F, N), `cells` (F, 3, 3), `positions` (F, N, 3), `pbc` (F, 3); lengths in angstrom. The second array is
    the largest, over atoms, of the distance to the nearest other atom or image, itself included; infinite where an
    atom has none. NaN where a position or the cell is not a number; 0 where the cell has no volume.
    """
    nframes, natoms = numbers.shape
    ratios, lonely = np.full(nframes, np.nan), np.full(nframes, np.nan)
    size = max(1, _AT_ONCE // max(1, 14 * 3 * natoms**2))
    for first in range(0, nframes, size):
        part = slice(first, first + size)
        ratios[part], lonely[part] = _closeness(numbers[part], cells[part], positions[part], pbc[part])
    return ratios, lonely


def _closeness(
    numbers: np.ndarray, cells: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    from ase.data import covalent_radii

    nframes = len(numbers)
    ratios, lonely = np.full(nframes, np.nan), np.full(nframes, np.nan)
    finite = np.isfinite(cells).all(axis=(1, 2)) & np.isfinite(positions).all(axis=(1, 2))
    volumes = np.abs(np.linalg.det(np.where(finite[:, None, None], cells, np.eye(3))))
    # Frames that are periodic in three directions with the 26 images around suffice nearly always.
    usual = finite & pbc.all(axis=1) & (volumes > 1e-9)
    rows = np.flatnonzero(usual)
    if len(rows):
        vectors, radii = cells[rows], covalent_radii[numbers[rows]]
        inverse = np.linalg.inv(vectors)
        fractional = positions[rows] @ inverse
        places = (fractional - np.floor(fractional)) @ vectors
        spacing = 1 / np.linalg.norm(inverse, axis=1)
        near, nearest = _nearest(radii, vectors, places, (1, 1, 1))
        reach = np.maximum(near * 2 * radii.max(axis=1), nearest)
        good = reach <= spacing.min(axis=1)
        ratios[rows[good]], lonely[rows[good]] = near[good], nearest[good]
        usual[rows[~good]] = False
    for row in np.flatnonzero(finite & ~usual):
        ratios[row], lonely[row] = _one(numbers[row], cells[row], positions[row], pbc[row])
    return ratios, lonely


def _one(
    numbers: np.ndarray, cell: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[float, float]:
    """Give the same of one frame of any cell, with as many images as it takes."""
    from ase.data import covalent_radii
    from ase.geometry import complete_cell, minkowski_reduce

    radii = covalent_radii[numbers][None]
    if not pbc.any():
        near, nearest = _nearest(radii, np.eye(3)[None], positions[None], (0, 0, 0))
        return float(near[0]), float(nearest[0])
    vectors = complete_cell(cell)
    if abs(np.linalg.det(vectors)) < 1e-9:
        return 0.0, 0.0
    vectors = complete_cell(minkowski_reduce(vectors, pbc)[0])
    inverse = np.linalg.inv(vectors)
    spacing = 1 / np.linalg.norm(inverse, axis=0)
    places = positions - np.where(pbc, np.floor(positions @ inverse), 0.0) @ vectors
    reach = np.where(pbc, 1, 0)
    while True:
        near, nearest = _nearest(radii, vectors[None], places[None], tuple(reach))
        farthest = max(float(near[0] * 2 * radii.max()), float(nearest[0]))
        needed = np.where(pbc, np.ceil(farthest / spacing), 0).astype(int)
        if (needed <= reach).all():
            return float(near[0]), float(nearest[0])
        reach = np.maximum(needed, reach)


def _nearest(
    radii: np.ndarray, cells: np.ndarray, positions: np.ndarray, reach: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Give smallest ratio and loneliest atom of frames (F), among images up to `reach` (3,)."""
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    shifts = images[: len(images) // 2 + 1] @ cells
    difference = positions[:, None, :, :] - positions[:, :, None, :]
    squared = ((difference[:, None] + shifts[:, :, None, None, :]) ** 2).sum(axis=-1)
    diagonal = np.arange(radii.shape[1])
    squared[:, -1, diagonal, diagonal] = np.inf
    closest = squared.min(axis=1)
    ratios = np.sqrt((closest / (radii[:, None, :] + radii[:, :, None]) ** 2).min(axis=(1, 2)))
    # From an atom to its neighbours' images and from theirs to it.
    alone = np.minimum(closest.min(axis=1), closest.min(axis=2)).max(axis=1)
    return ratios, np.sqrt(alone)
