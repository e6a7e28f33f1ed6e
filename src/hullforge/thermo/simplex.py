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
COMPACT_BELOW = 0.7


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

    # Programs that end stay in the arrays, untouched, until enough of them have gone to make a copy worth it.
    where, open_ = np.arange(size), np.ones(size, dtype=bool)
    columns = [np.ascontiguousarray(phases[:, :, j]) for j in range(k)]
    basis, inverse = np.tile(np.arange(k), (size, 1)), np.tile(np.eye(k), (size, 1, 1))
    weights, potentials = targets.copy(), costs[:, :k].copy()
    reduced, product = np.empty_like(costs), np.empty_like(costs)
    for pivots in range(GIVE_UP_AFTER):
        if pivots == LOOSEN_AFTER:
            tolerance *= 100
        np.copyto(reduced, costs)
        for j in range(k):
            reduced -= np.multiply(columns[j], potentials[:, j : j + 1], out=product)
        np.put_along_axis(reduced, basis, 0.0, axis=1)
        by_dantzig = pivots < BLAND_AFTER
        entering = reduced.argmin(axis=1) if by_dantzig else (reduced < -tolerance).argmax(axis=1)
        improves = reduced[np.arange(len(where)), entering] < -tolerance
        ending = np.flatnonzero(open_ & ~improves)
        if len(ending):
            exact = _from_basis(columns, costs, targets, basis, ending)
            # The inverse was updated at each pivot; what it has drifted by decides whether the end is one.
            drifted = np.abs(exact[1] - potentials[ending]).max(axis=1) > tolerance / 4
            inverse[ending], potentials[ending], weights[ending] = exact
            ended = ending[~drifted]
            out.energy[where[ended]] = np.einsum("bk,bk->b", targets[ended], potentials[ended])
            out.potentials[where[ended]] = potentials[ended]
            out.basis[where[ended]] = basis[ended]
            out.weights[where[ended]] = weights[ended]
            open_[ended] = False
            if not open_.any():
                return out
        rows = np.flatnonzero(open_ & improves)
        at = entering[rows]
        phase = np.stack([column[rows, at] for column in columns], axis=1)
        old = inverse[rows]
        direction = np.einsum("bk,bkj->bj", phase, old)
        usable = direction > PIVOT
        steps = np.where(usable, weights[rows] / np.where(usable, direction, 1.0), np.inf)
        if by_dantzig:
            leaving = steps.argmin(axis=1)
        else:
            tied = steps <= steps.min(axis=1, keepdims=True) + 1e-14
            leaving = np.where(tied, basis[rows], np.iinfo(np.int64).max).argmin(axis=1)
        one = np.arange(len(rows))
        step = steps[one, leaving]
        pivot = old[one, :, leaving] / direction[one, leaving][:, None]
        old -= pivot[:, :, None] * direction[:, None, :]
        old[one, :, leaving] = pivot
        mixed = np.maximum(weights[rows] - step[:, None] * direction, 0.0)
        mixed[one, leaving] = step
        basis[rows, leaving] = at
        inverse[rows], weights[rows] = old, mixed
        potentials[rows] = np.einsum("bkj,bj->bk", old, costs[rows[:, None], basis[rows]])
        if open_.sum() < COMPACT_BELOW * len(open_):
            where, costs, targets, basis = where[open_], costs[open_], targets[open_], basis[open_]
            columns = [column[open_] for column in columns]
            inverse, weights, potentials = inverse[open_], weights[open_], potentials[open_]
            open_ = np.ones(len(where), dtype=bool)
            reduced, product = reduced[: len(where)], product[: len(where)]
    raise ArithmeticError(f"{int(open_.sum())} of {size} programs did not end after {GIVE_UP_AFTER} pivots")


def _from_basis(
    columns: list[Floats], costs: Floats, targets: Floats, basis: Ints, rows: Ints
) -> tuple[Floats, Floats, Floats]:
    """Give inverse, potentials and weights of some programs anew, from their bases alone."""
    chosen = basis[rows]
    matrix = np.stack([column[rows[:, None], chosen] for column in columns], axis=2)
    inverse = np.linalg.inv(matrix).astype(np.float64, copy=False)
    potentials = np.einsum("bkj,bj->bk", inverse, costs[rows[:, None], chosen])
    return inverse, potentials, np.maximum(np.einsum("bk,bkj->bj", targets[rows], inverse), 0.0)
