"""The relaxation of one structure by a potential: cell and positions, symmetry kept, with gates.

Comes in: a start geometry; goes out: a `Relaxation`, whose geometry is the relaxed one where it can be trusted
and the start where it cannot, with a status that says which. It never raises because of a structure.

BFGS needs a third of FIRE's evaluations on these cells. Symmetry is kept by ASE's `FixSymmetry`: potentials in
single precision otherwise move atoms by 1e-7 angstrom, and DFT codes then lose the symmetry and its saving in
k-points. What is relaxed is thus the ideal prototype; saddles are left to later stages.

The limit of wall time is a safety net only: a structure that reaches it depends on the machine, which is why
the default allows several hundred times what a relaxation takes.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.config import Prerelax
from hullforge.crystals.geometry import shortest_distance_ratio
from hullforge.potentials.base import Potential
from hullforge.store.vocabulary import PrerelaxStatus

if TYPE_CHECKING:
    from ase import Atoms

#: Interatomic distance over the sum of radii; below this the atoms overlap.
MIN_DISTANCE_RATIO = 0.5
#: Tolerance within which the start's symmetry is found and then kept, angstrom.
SYMPREC = 1e-3


@dataclass(frozen=True)
class Relaxation:
    """How a relaxation ended; `volume_ratio` and `energy_per_atom` (eV) are None where the start is used."""

    atoms: "Atoms"
    status: PrerelaxStatus
    message: str = ""
    n_steps: int = 0
    volume_ratio: float | None = None
    energy_per_atom: float | None = None


class _GateError(Exception):
    """A geometry left the allowed range; carries the status that this means."""

    def __init__(self, status: PrerelaxStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def relax(
    potential: Potential,
    start: "Atoms",
    settings: Prerelax,
    clock: Callable[[], float] = time.monotonic,
) -> Relaxation:
    """Relax cell and positions of `start` until the largest generalised force is below `settings.fmax`.

    The generalised forces are those of ASE's `FrechetCellFilter`: on atoms (eV/angstrom), and on the cell the
    virial over the number of atoms (eV), one limit for both. `start` itself is not changed.
    """
    from ase.optimize import BFGS

    from hullforge.potentials.cellfilter import CachedCellFilter

    atoms = start.copy()
    atoms.info.clear()
    n_steps = 0
    converged = False
    try:
        _keep_symmetry(atoms)
        atoms.calc = potential.calculator
        gates = _Gates(start, settings)
        deadline = clock() + settings.time_limit_s
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE on large cell steps; the gates judge those
            cell_and_atoms: Any = CachedCellFilter(
                atoms
            )  # ASE takes filters as atoms, its types do not say so
            optimizer = BFGS(cell_and_atoms, logfile=None)
            for state in optimizer.irun(fmax=settings.fmax, steps=settings.max_steps):
                n_steps, converged = int(optimizer.nsteps), bool(state)
                gates.check(atoms)
                if clock() > deadline:
                    break
            gates.check_final(atoms)
        energy = float(atoms.get_potential_energy()) / len(atoms)
    except _GateError as gate:
        return Relaxation(start.copy(), gate.status, str(gate), n_steps)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is this structure's failure, not the batch's
        return Relaxation(
            start.copy(), PrerelaxStatus.FAILED, f"{type(error).__name__}: {error}"[:300], n_steps
        )
    final = atoms.copy()
    final.set_constraint()
    message = (
        "" if converged else f"stopped after {n_steps} steps at the limit of {_limit(n_steps, settings)}"
    )
    return Relaxation(
        final,
        PrerelaxStatus.CONVERGED if converged else PrerelaxStatus.NOT_CONVERGED,
        message,
        n_steps,
        volume_ratio=float(final.get_volume() / start.get_volume()),
        energy_per_atom=energy,
    )


def _limit(n_steps: int, settings: Prerelax) -> str:
    return "steps" if n_steps >= settings.max_steps else f"{settings.time_limit_s:g} s"


def _keep_symmetry(atoms: "Atoms") -> None:
    """Constrain `atoms` to the symmetry they have; without periodicity in 3D there is nothing to keep."""
    from ase.constraints import FixSymmetry

    if not atoms.pbc.all():
        return
    geometry = atoms.cell.array.copy(), atoms.positions.copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms.set_constraint(FixSymmetry(atoms, symprec=SYMPREC))
    except Exception:  # noqa: BLE001 - spglib gives up on odd cells in many ways; relaxing without symmetry is right then
        atoms.set_constraint()
        atoms.set_cell(geometry[0])
        atoms.set_positions(geometry[1])


class _Gates:
    """The ranges that a relaxation must not leave, measured against its start."""

    def __init__(self, start: "Atoms", settings: Prerelax) -> None:
        self.settings = settings
        self.volume = start.get_volume()
        # A start at an estimated volume may be too dense; it may relax out of that, but not further in.
        self.distance_ratio = min(MIN_DISTANCE_RATIO, 0.9 * _distance_ratio(start))

    def check(self, atoms: "Atoms") -> None:
        """Raise `_GateError` when the geometry is out of range, ValueError when an energy or a force is NaN."""
        if not np.isfinite(atoms.get_potential_energy()) or not np.isfinite(atoms.get_forces()).all():
            raise ValueError("the potential gave NaN or infinity")
        if not np.isfinite(atoms.get_stress()).all():
            raise ValueError("the potential gave a stress of NaN or infinity")
        self._check_volume(atoms)
        self._check_distance(atoms, self.distance_ratio)

    def check_final(self, atoms: "Atoms") -> None:
        """Raise `_GateError` when the last geometry still has overlapping atoms."""
        self._check_distance(atoms, MIN_DISTANCE_RATIO)

    def _check_volume(self, atoms: "Atoms") -> None:
        ratio = atoms.get_volume() / self.volume
        if ratio > self.settings.max_volume_ratio:
            raise _GateError(
                PrerelaxStatus.EXPLODED, f"volume ratio {ratio:.2f} above {self.settings.max_volume_ratio:g}"
            )
        if ratio < self.settings.min_volume_ratio:
            raise _GateError(
                PrerelaxStatus.COLLAPSED, f"volume ratio {ratio:.2f} below {self.settings.min_volume_ratio:g}"
            )

    @staticmethod
    def _check_distance(atoms: "Atoms", limit: float) -> None:
        ratio = _distance_ratio(atoms)
        if ratio < limit:
            raise _GateError(
                PrerelaxStatus.COLLAPSED,
                f"shortest distance {ratio:.2f} of the sum of radii, below {limit:.2g}",
            )


def _distance_ratio(atoms: "Atoms") -> float:
    return shortest_distance_ratio(atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc)
