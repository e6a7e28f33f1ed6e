"""The relaxation of structures by a potential: cell and positions, symmetry kept or broken, with gates.

Comes in: start geometries; goes out: a `Relaxation` per start, whose geometry is the relaxed one where it can be trusted
and the start where it cannot, with a status that says which. It never raises because of a structure.

BFGS needs a third of FIRE's evaluations on these cells. Symmetry is kept by ASE's `FixSymmetry`: potentials in
single precision otherwise move atoms by 1e-7 angstrom, and DFT codes then lose the symmetry and its saving in
k-points. An ideal prototype may be a saddle: where symmetry may be broken, the relaxed prototype is rattled and relaxed
once more without it, and the result is taken only where it is lower.

A relaxation is a `Run`, which is told energies, forces and stress and moves on. So many can share one pass of the model
(`together`, for GPUs), and the steps of each are those that it would take alone.

The limit of wall time is a safety net only: a structure that reaches it depends on the machine, which is why
the default allows several hundred times what a relaxation takes.
"""

import gc
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.config import Prerelax
from hullforge.crystals.geometry import closeness
from hullforge.potentials.base import Evaluation, Potential
from hullforge.store.vocabulary import PrerelaxStatus

if TYPE_CHECKING:
    from ase import Atoms

#: Interatomic distance over the sum of radii; below this the atoms overlap.
MIN_DISTANCE_RATIO = 0.5
#: Tolerance within which the start's symmetry is found and then kept, angstrom.
SYMPREC = 1e-3
#: A geometry of lower symmetry is taken where it is lower by more than this, eV/atom.
GAIN = 1e-3
#: Strain of the rattled cell, per angstrom of the rattled positions.
STRAIN_PER_ANGSTROM = 0.1


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
    seed: int = 0,
) -> Relaxation:
    """Relax cell and positions of `start` until the largest generalised force is below `settings.fmax`.

    The generalised forces are those of ASE's `FrechetCellFilter`: on atoms (eV/angstrom), and on the cell the
    virial over the number of atoms (eV), one limit for both. `start` itself is not changed. `seed` is that of the
    rattling, where `settings.symmetry` says that symmetry may be broken.
    """
    return together(potential, [start], settings, [seed], size=1, clock=clock)[0]


def together(
    potential: Potential,
    starts: "Sequence[Atoms]",
    settings: Prerelax,
    seeds: Sequence[int],
    size: int,
    on_done: Callable[[Relaxation], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Relaxation]:
    """Relax `starts`, up to `size` of them in each pass of the model; who is done makes place for the next.

    Gives the results in the order of `starts`. Where a pass runs out of memory its size is halved, for good.
    """
    todo = deque(range(len(starts)))
    running: dict[int, Run] = {}
    results: dict[int, Relaxation] = {}
    evaluator = Evaluator(potential, size)

    def end(index: int, result: Relaxation) -> None:
        results[index] = result
        on_done(result)

    while todo or running:
        while todo and len(running) < evaluator.size:
            index = todo.popleft()
            run = Run(starts[index], settings, seeds[index], clock)
            if run.result is None:
                running[index] = run
            else:
                end(index, run.result)
        for index, found in zip(
            list(running), evaluator([run.atoms for run in running.values()]), strict=True
        ):
            result = running[index].advance(found)
            if result is not None:
                del running[index]
                end(index, result)
    return [results[index] for index in range(len(starts))]


class Evaluator:
    """Evaluates batches, and gives an exception in place of each structure that the model can't do."""

    def __init__(self, potential: Potential, size: int) -> None:
        self.potential = potential
        #: Structures in one pass; falls when memory does not suffice.
        self.size = max(1, size)

    def __call__(self, structures: "Sequence[Atoms]") -> list[Evaluation | Exception]:
        """Evaluate structures in passes of at most `size`."""
        found: list[Evaluation | Exception] = []
        while len(found) < len(structures):
            batch = structures[len(found) : len(found) + self.size]
            try:
                found.extend(self.potential.evaluate_together(batch))
                continue
            except Exception as error:  # noqa: BLE001 - whatever a model raises
                out_of_memory, failure = _is_out_of_memory(error), error.with_traceback(None)
            if out_of_memory:
                _free_memory()
            if len(batch) == 1:
                found.append(failure)
            elif out_of_memory:
                self.size = len(batch) // 2
            else:
                # One of them spoils the pass; alone it spoils nothing.
                found.extend(self._alone(atoms) for atoms in batch)
        return found

    def _alone(self, atoms: "Atoms") -> Evaluation | Exception:
        try:
            return self.potential.evaluate([atoms])[0]
        except Exception as error:  # noqa: BLE001 - as above
            return error.with_traceback(None)


def _is_out_of_memory(error: Exception) -> bool:
    """Tell Python's own error, torch's (a RuntimeError of that name) and what kernels say in words."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower())
    )


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Run:
    """One relaxation on its way: `atoms` want to be evaluated, `advance` takes the answer and moves them."""

    def __init__(
        self,
        start: "Atoms",
        settings: Prerelax,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.start, self.settings, self.seed, self.clock = start, settings, seed, clock
        #: How it ended; None while it goes on.
        self.result: Relaxation | None = None
        self.n_steps = 0
        self._symmetric: Relaxation | None = None
        self._deadline = clock() + settings.time_limit_s
        self.atoms = start
        try:
            self._gates = _Gates(start, settings)
            self._begin(start, keep_symmetry=True)
        except _GateError as gate:
            self.result = Relaxation(start.copy(), gate.status, str(gate))
        except Exception as error:  # noqa: BLE001 - a geometry that is none
            self.result = self._failed(error)

    def advance(self, found: Evaluation | Exception) -> Relaxation | None:
        """Take energy, forces and stress of `atoms`, and move them; gives the result at the end."""
        try:
            ended = self._move(found)
        except _GateError as gate:
            ended = Relaxation(self.start.copy(), gate.status, str(gate), self.n_steps)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is this structure's failure, not the batch's
            ended = self._failed(error)
        if ended is None:
            return None
        if self._symmetric is not None:
            self.result = _lower(self._symmetric, ended)
        elif self.settings.symmetry == "break" and ended.energy_per_atom is not None:
            self._symmetric = ended
            self._begin(rattled(ended.atoms, self.settings.rattle, self.seed), keep_symmetry=False)
        else:
            self.result = ended
        return self.result

    def _begin(self, start: "Atoms", *, keep_symmetry: bool) -> None:
        from ase.optimize import BFGS

        from hullforge.potentials.cellfilter import CachedCellFilter

        self.atoms = start.copy()
        self.atoms.info.clear()
        if keep_symmetry:
            _keep_symmetry(self.atoms)
        self._answer = _Answer()
        self.atoms.calc = self._answer
        # ASE takes filters as atoms and sets `fmax` itself when it drives; its types say neither.
        optimizer: Any = BFGS
        self._optimizer = optimizer(CachedCellFilter(self.atoms), logfile=None)
        self._optimizer.fmax = self.settings.fmax
        self._steps_left = self.settings.max_steps

    def _move(self, found: Evaluation | Exception) -> Relaxation | None:
        if isinstance(found, Exception):
            raise found
        if not found.is_finite:
            raise ValueError("the potential gave NaN or infinity")
        self._answer.found = found
        energy = found.energy / len(self.atoms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE on large cell steps; the gates judge those
            self._gates.check(self.atoms, energy)
            converged = bool(self._optimizer.converged())
            late = self.clock() > self._deadline
            if not converged and not late and self._steps_left > 0:
                self._optimizer.step()
                self._steps_left -= 1
                self.n_steps += 1
                return None
        self._gates.check_final(self.atoms)
        final = self.atoms.copy()
        final.set_constraint()
        limit = "steps" if self._steps_left <= 0 else f"{self.settings.time_limit_s:g} s"
        return Relaxation(
            final,
            PrerelaxStatus.CONVERGED if converged else PrerelaxStatus.NOT_CONVERGED,
            "" if converged else f"stopped after {self.n_steps} steps at the limit of {limit}",
            self.n_steps,
            volume_ratio=float(final.get_volume() / self.start.get_volume()),
            energy_per_atom=energy,
        )

    def _failed(self, error: Exception) -> Relaxation:
        return Relaxation(
            self.start.copy(), PrerelaxStatus.FAILED, f"{type(error).__name__}: {error}"[:300], self.n_steps
        )


def _lower(symmetric: Relaxation, broken: Relaxation) -> Relaxation:
    """Take the one without symmetry where it is as sound and lower; the steps of both were paid."""
    taken = symmetric
    if symmetric.energy_per_atom is not None and broken.energy_per_atom is not None:
        sound = broken.status == symmetric.status or broken.status == PrerelaxStatus.CONVERGED
        if sound and broken.energy_per_atom < symmetric.energy_per_atom - GAIN:
            taken = broken
    return replace(taken, n_steps=broken.n_steps)


def rattled(atoms: "Atoms", amount: float, seed: int) -> "Atoms":
    """Give a copy with positions moved by normal steps of `amount` angstrom, and the cell strained at its volume."""
    random = np.random.default_rng([seed, 0x2A77])
    moved = atoms.copy()
    strain = random.normal(0, amount * STRAIN_PER_ANGSTROM, (3, 3))
    strain = (strain + strain.T) / 2
    # Axes without periodicity keep their length: there is nothing along them but vacuum.
    strain *= np.outer(atoms.pbc, atoms.pbc)
    deformation = np.eye(3) + strain
    deformation /= np.linalg.det(deformation) ** (1 / 3) if atoms.pbc.all() else 1.0
    moved.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    moved.positions += random.normal(0, amount, moved.positions.shape)
    return moved


class _Answer:
    """A calculator that has been told what it is asked."""

    found: Evaluation

    def get_potential_energy(self, *_: Any, **__: Any) -> float:
        return self.found.energy

    def get_forces(self, *_: Any, **__: Any) -> Any:
        return self.found.forces

    def get_stress(self, *_: Any, **__: Any) -> Any:
        return self.found.stress


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
        ratio, lonely = _closeness(start)
        if not ratio > 0:
            # Not a number, or no cell; spglib ends the process on such geometries.
            raise _GateError(
                PrerelaxStatus.FAILED, "the start is no geometry: not finite, or atoms on one place"
            )
        if lonely > settings.isolated_cutoff:
            raise _GateError(
                PrerelaxStatus.FAILED,
                f"an atom of the start has no neighbour within {settings.isolated_cutoff:g} angstrom",
            )
        # A start at an estimated volume may be too dense; it may relax out of that, but not further in.
        self.distance_ratio = min(MIN_DISTANCE_RATIO, 0.9 * ratio)

    def check(self, atoms: "Atoms", energy_per_atom: float) -> None:
        """Raise `_GateError` when the geometry, or the energy per atom (eV), is out of range."""
        if self.settings.energy_window is not None:
            low, high = self.settings.energy_window
            if not low <= energy_per_atom <= high:
                raise _GateError(
                    PrerelaxStatus.FAILED, f"{energy_per_atom:.4g} eV/atom; {low:g} to {high:g} are allowed"
                )
        ratio = atoms.get_volume() / self.volume
        if ratio > self.settings.max_volume_ratio:
            raise _GateError(
                PrerelaxStatus.EXPLODED, f"volume ratio {ratio:.2f} above {self.settings.max_volume_ratio:g}"
            )
        if ratio < self.settings.min_volume_ratio:
            raise _GateError(
                PrerelaxStatus.COLLAPSED, f"volume ratio {ratio:.2f} below {self.settings.min_volume_ratio:g}"
            )
        self._check_atoms(atoms, self.distance_ratio)

    def check_final(self, atoms: "Atoms") -> None:
        """Raise `_GateError` when the last geometry still has overlapping atoms."""
        self._check_atoms(atoms, MIN_DISTANCE_RATIO)

    def _check_atoms(self, atoms: "Atoms", limit: float) -> None:
        ratio, lonely = _closeness(atoms)
        # Not a number is out of range, too.
        if not ratio >= limit:
            raise _GateError(
                PrerelaxStatus.COLLAPSED,
                f"shortest distance {ratio:.2f} of the sum of radii, below {limit:.2g}",
            )
        if not lonely <= self.settings.isolated_cutoff:
            raise _GateError(
                PrerelaxStatus.EXPLODED,
                f"an atom's nearest neighbour is {lonely:.2f} angstrom away; {self.settings.isolated_cutoff:g} are allowed",
            )


def _closeness(atoms: "Atoms") -> tuple[float, float]:
    """Give the smallest distance over sum of radii, and the largest distance (angstrom) to a nearest neighbour."""
    ratios, lonely = closeness(
        atoms.numbers[None], atoms.cell.array[None], atoms.positions[None], np.asarray(atoms.pbc)[None]
    )
    return float(ratios[0]), float(lonely[0])
