"""The child process that carries out one step with an ASE calculator: `python -m hullforge.dft.engines.ase_driver`.

Comes in: `step.json` in the current folder, and `make_calculator` and `static_properties` of the engine's own
module. Goes out: one line of `frames.jsonl` per ionic step, the file `heartbeat` (touched at each ionic step
and, where the engine can, at each electronic one) and at the end `result.json`, whole or not at all. Whatever
goes wrong becomes a code of `FailureReason` in that file and exit code 0; another exit code, or no result, means
that the process itself died. It never decides on corrections and never changes the settings it was given.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.dft.step import (
    FRAMES_FILE,
    HEARTBEAT_FILE,
    RESULT_FILE,
    Frame,
    Geometry,
    StepInput,
    StepResult,
    read_input,
    write_result,
)
from hullforge.store.vocabulary import FailureReason

if TYPE_CHECKING:
    from ase import Atoms

#: Environment variable in which a runner may give its process id, see `die_with_parent`.
PARENT_VARIABLE = "HULLFORGE_PARENT_PID"
#: Volume over that of the calculation's first geometry; outside, the relaxation ran away.
VOLUME_BOUNDS = (0.5, 2.0)
#: Shortest distance over the sum of the two radii; below, a DFT code fails in ways that say nothing.
MIN_DISTANCE_RATIO = 0.5
#: First guess of the curvature along an atom's displacement, eV/angstrom^2; ASE's own 70 is made for molecules.
ATOM_STIFFNESS = 30.0
#: First guess of the bulk modulus that the cell's curvature follows from, eV/angstrom^3 (80 GPa).
BULK_MODULUS = 0.5
#: Longest ionic step: angstrom for an atom, and for the cell this over the strain's scale, see `_optimizer`.
MAX_STEP = 0.1


class StepError(Exception):
    """A step ended for a reason that the vocabulary knows."""

    def __init__(self, code: FailureReason, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> int:
    """Carry out the step in the current folder."""
    die_with_parent()
    folder = Path.cwd()
    for name in (FRAMES_FILE, RESULT_FILE):
        (folder / name).unlink(missing_ok=True)
    write_result(folder, run(read_input(folder), folder))
    return 0


def run(step: StepInput, folder: Path) -> StepResult:
    """Carry out `step`, writing frames into `folder`; every exception becomes a result with status error."""
    frames: list[Frame] = []
    outcome: dict[str, Any]
    try:
        beat(folder)
        outcome = {"status": "ok", **_carry_out(step, folder, frames)}
    except StepError as error:
        outcome = {"status": "error", "code": error.code, "message": str(error)}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the machine's fault: no result, so that nobody takes it for the structure's
        outcome = {"status": "error", "code": classify(error), "message": explain(error)}
    # The boundary between foreign code and typed results: anything may come, and all of it is a result.
    except Exception as error:  # noqa: BLE001
        outcome = {"status": "error", "code": classify(error), "message": explain(error)}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return StepResult(
        final=frames[-1] if frames else None,
        n_ionic_steps=len(frames),
        kpoints=step.physics.get("kpts"),
        encut=step.physics.get("ecut"),
        cpu_time_s=round(usage.ru_utime + usage.ru_stime, 3),
        max_memory_mib=round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1),
        **outcome,
    )


def _carry_out(step: StepInput, folder: Path, frames: list[Frame]) -> dict[str, Any]:
    """Run the step and give the properties of a static one; `frames` grows as it goes."""
    atoms = atoms_of(step)
    check_geometry(atoms, step)
    module = importlib.import_module(f"hullforge.dft.engines.{step.engine}")
    calculator = module.make_calculator(step)
    atoms.calc = calculator
    with (folder / FRAMES_FILE).open("a") as stream:
        for frame in ionic_steps(atoms, step):
            frames.append(frame)
            stream.write(frame.model_dump_json() + "\n")
            stream.flush()
            beat(folder)
    if step.kind == "relax":
        return {}
    properties: dict[str, Any] = module.static_properties(calculator, atoms, step)
    return properties


def atoms_of(step: StepInput) -> "Atoms":
    """Give the step's geometry as `ase.Atoms`, with the moments it carries or the protocol's start."""
    from hullforge.store.structures import atoms_from_row

    atoms = atoms_from_row(step.geometry.model_dump())
    if step.physics.get("spinpol"):
        start = step.geometry.magmoms or [step.physics["initial_magmom"]] * len(atoms)
        atoms.set_initial_magnetic_moments(start)
    return atoms


def ionic_steps(atoms: "Atoms", step: StepInput) -> Iterator[Frame]:
    """Give a frame per ionic step: one for a static step, up to `max_ionic_steps` for a relaxation.

    A relaxation ends when no force is longer than `fmax` and no stress component larger than `smax`, both taken
    from the engine, not from the optimiser's mixed coordinates.

    Raises:
        StepError: not_a_number, atoms_too_close, volume_out_of_bounds, ionic_not_converged.

    """
    optimizer = _optimizer(atoms, step.numerics.get("damping", 1.0)) if step.kind == "relax" else None
    for _ in range(step.max_ionic_steps if optimizer else 1):
        frame = compute(atoms, step)
        yield frame
        if optimizer is None or is_converged(frame, step):
            return
        optimizer.step()
        check_geometry(atoms, step)
    raise StepError(
        FailureReason.IONIC_NOT_CONVERGED,
        f"not converged in {step.max_ionic_steps} ionic steps: "
        f"force {max_force(frame):.4g} eV/angstrom (limit {step.fmax:g}), "
        f"stress {max_stress(frame):.4g} eV/angstrom^3 (limit {step.smax:g})",
    )


def _optimizer(atoms: "Atoms", damping: float) -> Any:
    """Make BFGS on cell and positions, with a first Hessian made for crystals, steps shorter by `damping`.

    The cell's coordinates are c log(deformation) with c = sqrt(3 B V / k), so that a crystal of bulk modulus B
    and atoms bound with k has the same curvature along all of them: with ASE's defaults the cell of a small
    crystal is taken for five times too stiff, which costs a few ionic steps. Only components between periodic
    axes are free.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    scale = float(np.sqrt(3 * BULK_MODULUS * atoms.get_volume() / ATOM_STIFFNESS))
    periodic = atoms.pbc
    mask = [bool(periodic[i] and periodic[j]) for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    cell_and_positions: Any = FrechetCellFilter(atoms, mask=mask, exp_cell_factor=scale)
    return BFGS(cell_and_positions, logfile=None, alpha=ATOM_STIFFNESS / damping, maxstep=MAX_STEP * damping)


def compute(atoms: "Atoms", step: StepInput) -> Frame:
    """Compute energies, and forces and stress where they are asked for; raises `StepError` (not_a_number).

    An engine that returns has converged its electronic steps: GPAW raises when it can't.
    """
    energy = float(atoms.get_potential_energy())
    free_energy = float(atoms.get_potential_energy(force_consistent=True))
    forces = stress = None
    if step.kind == "relax" or step.forces:
        forces = [[float(x) for x in force] for force in atoms.get_forces()]
        stress = [float(x) for x in atoms.get_stress(voigt=True)]
    values = np.concatenate([[energy, free_energy], np.ravel(forces or []), np.ravel(stress or [])])
    if not np.isfinite(values).all():
        raise StepError(
            FailureReason.NOT_A_NUMBER, "the energy, a force or a stress component is NaN or infinite"
        )
    magmoms = [float(m) for m in atoms.get_magnetic_moments()] if step.physics.get("spinpol") else None
    return Frame(
        geometry=geometry_of(atoms, magmoms),
        energy=energy,
        free_energy=free_energy,
        electronic_converged=True,
        forces=forces,
        stress=stress,
    )


def geometry_of(atoms: "Atoms", magmoms: list[float] | None) -> Geometry:
    """Give `atoms` as a `Geometry`."""
    return Geometry(
        numbers=[int(n) for n in atoms.numbers],
        cell=[float(x) for x in atoms.cell.array.ravel()],
        positions=[[float(x) for x in xyz] for xyz in atoms.positions],
        pbc=[bool(p) for p in atoms.pbc],
        magmoms=magmoms,
    )


def max_force(frame: Frame) -> float:
    """Length of the longest force, eV/angstrom; 0 when there are none."""
    return float(np.linalg.norm(frame.forces, axis=1).max()) if frame.forces else 0.0


def max_stress(frame: Frame) -> float:
    """Size of the largest stress component between periodic axes, eV/angstrom^3; 0 when there is none."""
    if not frame.stress:
        return 0.0
    pbc = frame.geometry.pbc
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    return max(
        (abs(s) for s, (i, j) in zip(frame.stress, pairs, strict=True) if pbc[i] and pbc[j]), default=0.0
    )


def is_converged(frame: Frame, step: StepInput) -> bool:
    """Tell whether forces and stress are within the step's limits."""
    return max_force(frame) <= step.fmax and max_stress(frame) <= step.smax


def check_geometry(atoms: "Atoms", step: StepInput) -> None:
    """Look at a geometry before anything is computed; raises `StepError` when it can't be a crystal any more."""
    from hullforge.crystals.geometry import shortest_distance_ratio

    if not (np.isfinite(atoms.cell.array).all() and np.isfinite(atoms.positions).all()):
        raise StepError(FailureReason.NOT_A_NUMBER, "a coordinate or a lattice vector is NaN or infinite")
    ratio = atoms.get_volume() / step.start_volume
    low, high = VOLUME_BOUNDS
    if not low <= ratio <= high:
        raise StepError(
            FailureReason.VOLUME_OUT_OF_BOUNDS,
            f"the volume is {ratio:.3g} times that of the start; {low:g} to {high:g} is allowed",
        )
    shortest = shortest_distance_ratio(atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc)
    if shortest < MIN_DISTANCE_RATIO:
        raise StepError(
            FailureReason.ATOMS_TOO_CLOSE,
            f"two atoms are at {shortest:.3g} times the sum of their radii; at least {MIN_DISTANCE_RATIO:g} is asked",
        )


def classify(error: BaseException) -> FailureReason:
    """Give the code of an exception that ASE or the engine raised.

    The engine's exceptions are told by name and text, because this module must not import the engine. Sources:
    GPAW raises KohnShamConvergenceError and its subclass TooFewBandsError without a message, ValueError("Too few
    bands!"), and an AssertionError in `findroot` when a meta-GGA's eigenvalues blow up; numpy's LinAlgError comes
    from overlap matrices that are not positive definite.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if isinstance(error, StepError):
        return error.code
    if isinstance(error, MemoryError):
        return FailureReason.OUT_OF_MEMORY
    if "AtomsTooClose" in names:
        return FailureReason.ATOMS_TOO_CLOSE
    if isinstance(error, FloatingPointError) or "are NaN" in text:
        return FailureReason.NOT_A_NUMBER
    if isinstance(error, FileNotFoundError) and "PAW dataset" in text:
        return FailureReason.MISSING_DATASET
    if names & {"KohnShamConvergenceError", "LinAlgError"} or "Too few bands" in text:
        return FailureReason.SCF_NOT_CONVERGED
    if isinstance(error, AssertionError) and "findroot" in functions:
        return FailureReason.SCF_NOT_CONVERGED
    return FailureReason.ENGINE_ERROR


def explain(error: BaseException) -> str:
    """Say in one line what an exception was and where it was raised; many of GPAW's carry no message."""
    text = " ".join(str(error).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{': ' + text if text else ''}{where}"


def beat(folder: Path | None = None) -> None:
    """Touch the heartbeat file of `folder` (the current one by default): a sign of life for monitors."""
    ((folder or Path.cwd()) / HEARTBEAT_FILE).touch()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens).

    Without this, a killed runner leaves engines behind that go on computing and writing into their folders.
    """
    if not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    # A parent that died while Python started will send no signal; a runner that says who it is closes that gap.
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
