"""Which frames are fit to be published or trained on, why the others are not, and on which side of a split they are.

Comes in: frames as an Arrow table with the columns of `frames`, and the rules (`hullforge.config.Curation`). Goes out:
a reason and a sentence for each frame that breaks a rule, the steps of a relaxation worth keeping, the group and side of
a composition. Each function sees the frames it is given and keeps nothing; who streams calls it piece by piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hullforge.config import Curation, Split
from hullforge.crystals.geometry import closeness
from hullforge.store import ids
from hullforge.store.structures import composition_columns
from hullforge.store.vocabulary import RejectionReason as Reason
from hullforge.store.vocabulary import Side


@dataclass(frozen=True)
class Rejection:
    """Why a frame is left out."""

    reason: Reason
    message: str


def rejections(frames: pa.Table, rules: Curation) -> list[Rejection | None]:
    """Judge each frame by itself: is it finite, converged, within limits? None: it is fit.

    `frames` has the columns numbers, cell (9), positions, pbc, energy (eV), forces (eV/angstrom), stress
    (eV/angstrom^3) and electronic_converged of the table `frames`; the first rule that is broken gives the reason.
    """
    found: list[Rejection | None] = [None] * frames.num_rows
    if not frames.num_rows:
        return found
    columns = _Columns(frames)

    def reject(bad: np.ndarray, reason: Reason, message: Any) -> None:
        for row in np.flatnonzero(bad):
            if found[row] is None:
                found[row] = Rejection(reason, message(row))

    reject(~columns.finite, Reason.NOT_FINITE, lambda _: "an energy, force, stress, position or the cell")
    if rules.electronic_convergence:
        reject(
            columns.unconverged,
            Reason.ELECTRONIC_NOT_CONVERGED,
            lambda _: "the engine says that the electronic steps did not converge",
        )
    if rules.energy_per_atom is not None:
        low, high = rules.energy_per_atom
        energies = columns.energy_per_atom
        reject(
            ~((energies >= low) & (energies <= high)),
            Reason.ENERGY_OUT_OF_BOUNDS,
            lambda row: f"{energies[row]:.6g} eV/atom; {low:g} to {high:g} are allowed",
        )
    for limit, values, reason, unit in (
        (rules.max_force, columns.max_force, Reason.FORCE_OUT_OF_BOUNDS, "eV/angstrom"),
        (rules.max_stress, columns.max_stress, Reason.STRESS_OUT_OF_BOUNDS, "eV/angstrom^3"),
    ):
        if limit is not None:
            reject(
                values > limit,
                reason,
                lambda row, v=values, u=unit, m=limit: f"{v[row]:.6g} {u}; at most {m:g} is allowed",
            )
    if rules.min_distance_ratio is not None or rules.isolated_cutoff is not None:
        ratios, lonely = columns.closeness()
        if rules.min_distance_ratio is not None:
            reject(
                ~(ratios >= rules.min_distance_ratio),
                Reason.ATOMS_TOO_CLOSE,
                lambda row: (
                    f"{ratios[row]:.4g} of the sum of the covalent radii; {rules.min_distance_ratio:g} is allowed"
                ),
            )
        if rules.isolated_cutoff is not None:
            reject(
                ~(lonely <= rules.isolated_cutoff),
                Reason.ISOLATED_ATOM,
                lambda row: (
                    f"nearest neighbour at {lonely[row]:.4g} angstrom; {rules.isolated_cutoff:g} is allowed"
                ),
            )
    return found


class _Columns:
    """The columns of frames as arrays."""

    def __init__(self, frames: pa.Table) -> None:
        frames = frames.combine_chunks()
        self.natoms = _lengths(frames["numbers"])
        self.starts = np.concatenate([[0], np.cumsum(self.natoms)])
        self.numbers = _flat(frames["numbers"]).astype(int)
        self.positions = _flat(frames["positions"]).reshape(-1, 3)
        self.cells = _flat(frames["cell"]).reshape(-1, 3, 3)
        self.pbc = _flat(frames["pbc"]).reshape(-1, 3).astype(bool)
        energies = frames["energy"].to_numpy()
        self.energy_per_atom = energies / np.maximum(self.natoms, 1)
        forces, self.max_force = _largest(frames["forces"], vectors=True)
        stress, self.max_stress = _largest(frames["stress"], vectors=False)
        atoms = _per_row(np.isfinite(self.positions).all(axis=1), self.starts)
        self.finite = (
            np.isfinite(energies) & np.isfinite(self.cells).all(axis=(1, 2)) & atoms & forces & stress
        )
        self.unconverged = np.array([value is False for value in frames["electronic_converged"].to_pylist()])

    def closeness(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest ratio and loneliest atom of each frame, those with as many atoms together."""
        ratios, lonely = np.full(len(self.natoms), np.nan), np.full(len(self.natoms), np.nan)
        for n in np.unique(self.natoms[self.natoms > 0]):
            rows = np.flatnonzero(self.natoms == n)
            atoms = self.starts[rows][:, None] + np.arange(n)
            ratios[rows], lonely[rows] = closeness(
                self.numbers[atoms], self.cells[rows], self.positions[atoms], self.pbc[rows]
            )
        return ratios, lonely


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(int)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers below a list column, nulls left out."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _per_row(flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether all flags of each row are set; `starts` (rows + 1,) are the offsets of the rows."""
    wrong = np.concatenate([[0], np.cumsum(~flags)])
    return np.asarray(wrong[starts[1:]] == wrong[starts[:-1]])


def _largest(column: pa.ChunkedArray, *, vectors: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether all numbers of each row are finite, and the largest norm or absolute value; 0 where it is null."""
    values = np.abs(_flat(column))
    lengths = _lengths(column)
    if vectors:
        values = np.linalg.norm(values.reshape(-1, 3), axis=1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    finite = _per_row(np.isfinite(values), starts)
    largest = np.zeros(len(column))
    filled = np.flatnonzero(lengths)
    if len(filled):
        largest[filled] = np.maximum.reduceat(values, starts[filled])
    return finite, largest


def thin(energies: Sequence[float] | np.ndarray, difference: float) -> np.ndarray:
    """Tell which steps of a path to keep, by their energies (any shape (n,), eV/atom).

    The first and the last, in between the next whose energy differs by `difference` from the last one kept; where
    that makes less than a third, further steps spread evenly. After Schmidt et al. (2024), section 4.5, "As a minimum,
    the first step, one third of the steps and the last step were included".
    """
    n = len(energies)
    keep = np.zeros(n, dtype=bool)
    if not n:
        return keep
    keep[[0, -1]] = True
    last = energies[0]
    for step in range(1, n - 1):
        if abs(energies[step] - last) >= difference:
            keep[step] = True
            last = energies[step]
    wanted = -(-n // 3) - int(keep.sum())
    if wanted > 0:
        rest = np.flatnonzero(~keep)
        keep[rest[((np.arange(wanted) + 0.5) * len(rest) / wanted).astype(int)]] = True
    return keep


def group(numbers: Sequence[int], split: Split) -> str:
    """Give the structure group of atoms: their reduced formula, or their chemical system.

    A function of the atoms alone: copies and polymorphs of a compound, and results of it with another functional or
    in another round, are in one group whatever a symmetry search or a matcher makes of them.
    """
    composition = composition_columns(numbers)
    return str(composition["chemical_formula_reduced" if split.by == "composition" else "chemsys"])


def side(group_name: str, split: Split) -> Side:
    """Give the side of a structure group: a hash of its name and the seed, so that it stays when others come."""
    place = ids.unit_interval(split.seed, "split", group_name)
    if place < split.test:
        return Side.TEST
    return Side.VALIDATION if place < split.test + split.validation else Side.TRAIN
