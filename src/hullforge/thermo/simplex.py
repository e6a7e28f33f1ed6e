"""Many small linear programs at once: the lowest mixture of phases at each of many compositions.

Comes in: for each of B compositions a list of candidate phases (compositions and energies) that starts with the
pure elements. Goes out: the lowest energy that a mixture reaches, which phases mix in what shares, and the
chemical potentials that prove that no other mixture is lower. Knows nothing of tables, ids or chemistry.

Each program is  min w.c  with  w A = x, w >= 0  in at most a dozen dimensions: a revised simplex (Dantzig's rule,
Bland's after `BLAND_AFTER` pivots against cycling) that runs on all programs in step. The elemental basis is
always feasible, and since all rows of A and x add up to one, no program is unbounded.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Reduced costs above minus this end a program, eV/atom (for energies of the order of 1 eV/atom).
TOLERANCE = 1e-12
#: Smaller pivots are not taken: the phases of a basis would become linearly dependent.
PIVOT = 1e-11
BLAND_AFTER = 60
#: Pivots after which rounding errors, not phases, are taken for the cause of a program that does not end.
LOOSEN_AFTER, GIVE_UP_AFTER = 300, 5000


@dataclass(frozen=True)
class Mixtures:
    """Solutions of B programs in k dimensions.

    `energy` (B,) eV/atom; `potentials` (B, k) eV/atom; `basis` (B, k) numbers of the phases that mix, in the
    program's own list of candidates; `weights` (B, k) their shares, some of which may be zero.
    """

    energy: Floats
    potentials: Floats
    basis: Ints
    weights: Floats


def lowest_mixtures(phases: Floats, costs: Floats, targets: Floats) -> Mixtures:
    """Solve B programs.

    `phases` (B, C, k): compositions of the candidates, the first k of each the pure elements in order; `costs`
    (B, C): their formation energies in eV/atom, 0 for the elements, +inf for padding; `targets` (B, k): the
    compositions asked for. Raises `ArithmeticError` when a program doesn't end.
    """
    size, _, k = phases.shape
    out = Mixtures(np.zeros(size), np.zeros((size, k)), np.tile(np.arange(k), (size, 1)), targets.copy())
    finite = costs[np.isfinite(costs)]
    tolerance = TOLERANCE * max(1.0, float(np.abs(finite).max(initial=0.0)))

    where = np.arange(size)
    basis = np.tile(np.arange(k), (size, 1))
    matrix = np.tile(np.eye(k), (size, 1, 1))
    weights, potentials = targets.copy(), costs[:, :k].copy()
    inverse = matrix.copy()
    for pivots in range(GIVE_UP_AFTER):
        if pivots == LOOSEN_AFTER:
            tolerance *= 100
        reduced = costs - np.einsum("bck,bk->bc", phases, potentials)
        np.put_along_axis(reduced, basis, 0.0, axis=1)
        by_dantzig = pivots < BLAND_AFTER
        entering = reduced.argmin(axis=1) if by_dantzig else (reduced < -tolerance).argmax(axis=1)
        rows = np.arange(len(where))
        improves = reduced[rows, entering] < -tolerance
        if not improves.all():
            done = ~improves
            out.energy[where[done]] = np.einsum("bk,bk->b", targets[done], potentials[done])
            out.potentials[where[done]] = potentials[done]
            out.basis[where[done]] = basis[done]
            out.weights[where[done]] = weights[done]
            if not improves.any():
                return out
            where, basis, matrix, inverse = (
                where[improves],
                basis[improves],
                matrix[improves],
                inverse[improves],
            )
            phases, costs, targets = phases[improves], costs[improves], targets[improves]
            weights, entering, rows = weights[improves], entering[improves], np.arange(len(where))
        phase = phases[rows, entering]
        direction = np.einsum("bk,bkj->bj", phase, inverse)
        usable = direction > PIVOT
        steps = np.where(usable, weights / np.where(usable, direction, 1.0), np.inf)
        if by_dantzig:
            leaving = steps.argmin(axis=1)
        else:
            tied = steps <= steps.min(axis=1, keepdims=True) + 1e-14
            leaving = np.where(tied, basis, np.iinfo(np.int64).max).argmin(axis=1)
        basis[rows, leaving] = entering
        matrix[rows, leaving] = phase
        inverse = np.linalg.inv(matrix).astype(np.float64, copy=False)
        weights = np.maximum(np.einsum("bk,bkj->bj", targets, inverse), 0.0)
        potentials = np.einsum("bkj,bj->bk", inverse, np.take_along_axis(costs, basis, axis=1))
    raise ArithmeticError(f"{len(where)} of {size} programs did not end after {GIVE_UP_AFTER} pivots")
