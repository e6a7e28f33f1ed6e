"""How much of the space of crystals a set covers: features, log det of their covariance, nearest-neighbour overlaps.

Comes in: rows with `numbers`, `cell`, `positions`, `pbc`. Goes out: features, and measures of one set or of two.
`FEATURES` names the recipe; its scales are fixed, so that values of two sets compare. No learning, no randomness.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hullforge.crystals.shells import pair_distances

Floats = NDArray[np.float64]
#: Version of the recipe: period, group and covalent radius of the atom, radial densities around it, twice.
FEATURES = "radial-19-v1"
#: Added to the diagonal of the covariance, in the features' own units.
RIDGE = 1e-4
CUTOFF = 6.0
_CENTRES = np.linspace(1.5, CUTOFF - 0.5, 8)
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)


def place(number: int) -> tuple[int, int]:
    """Give period and group (1 to 18) of an element; lanthanides and actinides have group 3, and period 6 or 7."""
    period = next(p for p in range(1, 8) if number <= _NOBLE[p])
    rest, length = number - _NOBLE[period - 1], _NOBLE[period] - _NOBLE[period - 1]
    if length == 32:
        return period, rest if rest <= 2 else 3 if rest <= 17 else rest - 14
    return period, rest if rest <= (1 if length == 2 else 2) else rest + 18 - length


def atoms(row: Mapping[str, Any]) -> Floats:
    """Give the features of the atoms of a structure, shape (N, 19), of order 1 each."""
    from ase.data import covalent_radii

    numbers = np.asarray(row["numbers"], dtype=int)
    cell = np.asarray(row["cell"], dtype=float).reshape(3, 3)
    source, target, distance = pair_distances(
        cell, np.asarray(row["positions"], dtype=float).reshape(-1, 3), np.asarray(row["pbc"], bool), CUTOFF
    )
    radii = np.asarray(covalent_radii, dtype=float)[numbers]
    weights = (
        np.exp(-2 * (distance[:, None] - _CENTRES) ** 2)
        * (0.5 + 0.5 * np.cos(np.pi * distance / CUTOFF))[:, None]
    )
    weights /= _CENTRES**2
    radial = np.zeros((2, len(numbers), len(_CENTRES)))
    np.add.at(radial[0], source, weights)
    np.add.at(radial[1], source, weights * radii[target][:, None])
    own = np.array([[p / 7, g / 18] for p, g in map(place, numbers.tolist())])
    return np.hstack([own, radii[:, None], radial[0], radial[1]])


def features(rows: Iterable[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """Give the features of structures, (M, 38): mean and standard deviation over atoms; and of all atoms, (N, 19)."""
    every = [atoms(row) for row in rows]
    if not every:
        return np.zeros((0, 38)), np.zeros((0, 19))
    return np.array([np.concatenate([a.mean(0), a.std(0)]) for a in every]), np.vstack(every)


def log_det(values: Floats) -> float | None:
    """Give the log det of the covariance with `RIDGE` on its diagonal; None below two rows.

    The measure of diversity of Subramanyam and Perez, equation 3: larger for a set that spans more.
    """
    if len(values) < 2:
        return None
    covariance = np.cov(values, rowvar=False, bias=True) + RIDGE * np.eye(values.shape[1])
    return float(np.linalg.slogdet(covariance)[1])


def overlap(reference: Floats, other: Floats, k: int = 5) -> dict[str, float] | None:
    """Compare two sets by the balls that reach to each point's k-th neighbour in its own set; None if one is too small.

    `precision`: share of `other` within balls of `reference`; `recall`: the reverse (Kynkaanniemi et al., NeurIPS
    2019); `density`: mean number of balls of `reference` around a point of `other`, over k; `coverage`: share of balls
    of `reference` with a point of `other` in them (Naeem et al., ICML 2020).
    """
    from scipy.spatial.distance import cdist

    if min(len(reference), len(other)) <= k:
        return None

    def reach(points: Floats) -> Floats:
        return np.array(np.partition(cdist(points, points), k, axis=1)[:, k])

    between = cdist(reference, other)
    inside = between <= reach(reference)[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((between <= reach(other)[None, :]).any(1).mean()),
        "density": float(inside.sum(0).mean() / k),
        "coverage": float(inside.any(1).mean()),
    }
