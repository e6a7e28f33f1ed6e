"""Running VASP in a step's folder: its input before an attempt, its output after, and how its input was mended meanwhile.

Comes in: a `StepRun` with `step.json`; goes out: INCAR, KPOINTS, POSCAR and POTCAR, and after each attempt
`result.json` and `frames.jsonl`, which are all that the rest of hullforge reads. The input as the protocol has it stays
beside the one that handlers mend (`INCAR.asked`, `KPOINTS.asked`), so that what left the protocol can be told. What an
error means is decided in `vasp_handlers` and `recovery`, never here.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.config import Execution
from hullforge.dft.engines import vasp_inputs
from hullforge.dft.engines.ase_driver import MIN_DISTANCE_RATIO, VOLUME_BOUNDS
from hullforge.dft.engines.own_files import OwnFiles, Restart
from hullforge.dft.step import (
    FRAMES_FILE,
    Frame,
    Geometry,
    StepInput,
    StepResult,
    read_input,
    read_result,
    write_result,
)
from hullforge.errors import EngineError
from hullforge.store import atomic
from hullforge.store.vocabulary import FailureReason

if TYPE_CHECKING:
    from custodian.custodian import ErrorHandler

    from hullforge.dft.engines.vasp_parse import Run
    from hullforge.dft.job import StepRun

ASKED = ".asked"
#: The run with the INCAR's `first` changes, before the step's own.
FIRST = "first"
#: Tags that recovery may change without leaving the protocol: how an energy is reached, not which. EDIFF may only
#: become smaller. Everything else that differs is drift.
FREE_TAGS = vasp_inputs.NUMERIC_TAGS | {"IBRION", "ISEARCH", "MIXPRE", "LSCALU", "LDIAG"}
#: Moments below this are none, and the smallest that can be said to have flipped or been lost, Bohr magneton.
NO_MOMENT, MOMENT = 0.1, 0.5


class VaspFiles(OwnFiles):
    """What `OwnFiles` asks of an engine, for VASP."""

    outputs: tuple[str, ...] = (
        "vasprun.xml", "OUTCAR", "OSZICAR", "CONTCAR", "STOPCAR", "XDATCAR", "EIGENVAL", "DOSCAR", "PROCAR", "IBZKPT",
        "PCDAT", "REPORT", "CHG", "vaspout.h5",
    )  # fmt: skip
    # POTCAR is not among them: it must not be passed on. WAVECAR and CHGCAR are large, and made again in minutes.
    raw_files: tuple[str, ...] = (
        "INCAR", "INCAR.asked", "KPOINTS", "KPOINTS.asked", "POSCAR", "POTCAR.spec", "potcars.json", "CONTCAR", "OSZICAR", "OUTCAR",
        "vasprun.xml",
    )  # fmt: skip
    private_files: tuple[str, ...] = ("POTCAR",)
    resumes = True
    # One more than atomate2: the last of custodian's answers to BRMIX is the sixth attempt.
    max_corrections = 6
    # Custodian's monitors read whole OUTCARs.
    look_every_s = 60.0

    def command(self, execution: Execution | None = None) -> list[str]:
        """Give the program behind its launcher."""
        execution = execution or Execution()
        program, *arguments = execution.command
        # The program runs in the step's folder, where a path that was right here would be wrong.
        program = str(Path(program).absolute()) if os.sep in program else program
        cores = str(execution.cores_per_calculation)
        return [*(word.replace("{cores}", cores) for word in execution.launcher), program, *arguments]

    def ladder(self, code: str) -> list[dict[str, Any]]:
        """Give changes of the INCAR for errors that custodian's handlers have no answer to."""
        rungs: dict[str, list[dict[str, Any]]] = {
            FailureReason.VOLUME_OUT_OF_BOUNDS.value: [{"POTIM": 0.1}],
            FailureReason.ATOMS_TOO_CLOSE.value: [{"POTIM": 0.1}],
            # Each group of k-points holds its own copy of nearly everything.
            FailureReason.OUT_OF_MEMORY.value: [{"KPAR": 1}],
            FailureReason.HUNG.value: [{"ALGO": "Normal"}],
        }
        return rungs.get(code, [])

    def phases(self, step: StepInput) -> tuple[str, ...]:
        """Give the run that makes orbitals for a meta-GGA, where the protocol asks for one, and the step's own."""
        return (FIRST, "") if step.numerics.get("first") else ("",)

    def prepare(self, run: "StepRun", step: StepInput, phase: str) -> None:
        """Write the four input files, bring the files that the step starts from, remember what was asked for."""
        from pymatgen.io.vasp.inputs import Incar

        vasp_inputs.write_inputs(
            run.folder,
            step,
            self._parallel(run, step),
            first=phase == FIRST,
            potcars=run.execution.potcars,
        )
        for name in ("INCAR", "KPOINTS"):
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, run.folder / f"{name}{ASKED}")
        if run.previous is None:
            return
        if not (run.folder / "WAVECAR").exists():
            for name in step.numerics.get("passes", ()):
                if (run.previous / name).is_file():
                    shutil.copyfile(run.previous / name, run.folder / name)
        before = run.previous / "INCAR"
        if step.numerics.get("inherits") and before.is_file() and (run.previous / f"INCAR{ASKED}").is_file():
            mended, asked = Incar.from_file(before), Incar.from_file(run.previous / f"INCAR{ASKED}")
            changes = {
                tag: mended.get(tag) for tag in step.numerics["inherits"] if mended.get(tag) != asked.get(tag)
            }
            _edit(run.folder, changes)

    def _parallel(self, run: "StepRun", step: StepInput) -> dict[str, int]:
        cores = run.execution.cores_per_calculation
        if run.execution.parallel == "none" or cores == 1:
            return {}
        points = vasp_inputs.irreducible_kpoints(step)
        return vasp_inputs.parallel_tags(cores, points, step.numerics.get("NBANDS"))

    def amend(self, folder: Path, step: StepInput, changes: dict[str, Any], restart: Restart) -> None:
        """Carry tags over to the INCAR, and the geometry to go on from to the POSCAR."""
        from pymatgen.io.vasp.inputs import Poscar

        _edit(folder, changes)
        if restart == "same":
            return
        poscar = Poscar(
            vasp_inputs.structure_of(step.geometry), comment=step.calculation_id, sort_structure=False
        )
        poscar.write_file(str(folder / "POSCAR"), significant_figures=16)
        if restart == "start":
            for name in ("WAVECAR", "CHGCAR"):
                (folder / name).unlink(missing_ok=True)

    def collect(self, folder: Path) -> None:
        """Parse what VASP left. Without a whole output there are frames, but no result.

        Raises `EngineError` when another VASP ran than the one that the results are labelled with.
        """
        from hullforge.dft.engines import vasp_parse

        try:
            found = vasp_parse.read_run(folder)
        except vasp_parse.VaspOutputError as error:
            if any((folder / name).exists() for name in ("vasprun.xml", "OUTCAR")):
                message = str(error).replace(str(folder), ".")
                write_result(
                    folder, StepResult(status="error", code=FailureReason.BAD_OUTPUT.value, message=message)
                )
            return
        step = read_input(folder)
        _check_version(found.version, step.physics.get("version", ""))
        order = vasp_inputs.site_order(step.geometry.numbers)
        if tuple(step.geometry.numbers[i] for i in order) != tuple(found.numbers):
            message = "the atoms of VASP's output are not those of the step"
            write_result(
                folder, StepResult(status="error", code=FailureReason.BAD_OUTPUT.value, message=message)
            )
            return
        frames = frames_of(found, step, order)
        atomic.write_text(folder / FRAMES_FILE, "".join(f"{frame.model_dump_json()}\n" for frame in frames))
        if found.complete and frames:
            write_result(folder, result_of(found, step, frames))

    def handlers(self, run: "StepRun") -> "list[ErrorHandler]":
        """Give custodian's handlers for this kind of step, and ours."""
        from hullforge.dft.engines import vasp_handlers

        return vasp_handlers.handlers(run)

    def drift(self, folder: Path) -> list[str]:
        """Compare the INCAR and KPOINTS of the last attempt with those of the protocol, tag by tag."""
        from pymatgen.io.vasp.inputs import Incar

        asked, used = Incar.from_file(folder / f"INCAR{ASKED}"), Incar.from_file(folder / "INCAR")
        found = [
            f"{tag}={used.get(tag)}"
            for tag in sorted({*asked, *used} - FREE_TAGS)
            if asked.get(tag) != used.get(tag) and not _is_tighter(tag, asked, used)
        ]
        before, after = _kpoints(folder / f"KPOINTS{ASKED}"), _kpoints(folder / "KPOINTS")
        return found + [
            f"KPOINTS.{key}={after[key]}" for key in sorted(after) if after[key] != before.get(key)
        ]

    def flags(self, folder: Path) -> list[str]:
        """Say where moments flipped or got lost, and how many ionic steps have electrons that did not converge."""
        step, result = read_input(folder), read_result(folder)
        frames = (folder / FRAMES_FILE).read_text().splitlines()
        loose = sum(Frame.model_validate_json(line).electronic_converged is False for line in frames)
        found = [f"unconverged_ionic_steps={loose}"] if loose else []
        moments = result.final.geometry.magmoms if result is not None and result.final is not None else None
        if moments is None:
            return found
        asked = step.physics.get("MAGMOM")
        if asked is not None:
            order = vasp_inputs.site_order(step.geometry.numbers)
            pairs = [(asked[place], moments[ours]) for place, ours in enumerate(order)]
            if any(m * start < 0 and abs(m) > MOMENT for start, m in pairs):
                found.append("moments_flipped")
        before = step.geometry.magmoms
        if before and max(map(abs, before)) > MOMENT and max(map(abs, moments)) < NO_MOMENT:
            found.append("moments_lost")
        return found

    def wind_down(self, folder: Path) -> bool:
        """Write STOPCAR, which VASP reads after each ionic step."""
        (folder / "STOPCAR").write_text("LSTOP = .TRUE.\n")
        return True


def _check_version(found: str, wanted: str) -> None:
    """Raise `EngineError` when VASP's output names another version than the campaign's `engine.version`."""
    name = (found.split() or [""])[0]
    if name and wanted and name != wanted and not name.startswith(f"{wanted}."):
        raise EngineError(
            f"engine vasp: VASP {name} has run, but engine.version says '{wanted}'; energies of two versions don't mix: set"
            f" engine.version to {name}, or execution.command to VASP {wanted}"
        )


def frames_of(found: "Run", step: StepInput, order: list[int]) -> list[Frame]:
    """Give every whole ionic step, atoms in the order of `step.json`."""
    back = np.argsort(order)
    frames = []
    for one in found.steps:
        geometry = Geometry(
            numbers=step.geometry.numbers,
            cell=[float(x) for x in np.ravel(one.cell)],
            positions=np.asarray(one.positions)[back].tolist(),
            pbc=step.geometry.pbc,
            magmoms=None if one.magmoms is None else np.asarray(one.magmoms)[back].tolist(),
        )
        frames.append(
            Frame(
                geometry=geometry,
                energy=one.energy,
                free_energy=one.free_energy,
                electronic_converged=one.electronic_converged,
                forces=None if one.forces is None else np.asarray(one.forces)[back].tolist(),
                stress=None if one.stress is None else np.asarray(one.stress).tolist(),
            )
        )
    return frames


def result_of(found: "Run", step: StepInput, frames: list[Frame]) -> StepResult:
    """Give the result of a whole output; it is an error where electrons or geometry went wrong."""
    final = frames[-1]
    code, message = _wrong(step, final)
    grid = found.kpoints.grid
    return StepResult(
        status="error" if code else "ok",
        code=code,
        message=message,
        final=final,
        n_ionic_steps=len(frames),
        kpoints=list(grid) if grid else None,
        encut=float(found.parameters.get("ENMAX") or found.incar.get("ENCUT") or 0.0) or None,
        total_magnetization=found.total_magnetization,
        band_gap=found.band_gap,
        dos_at_fermi=found.dos_at_fermi,
        max_memory_mib=found.max_memory_mib or 0.0,
    )


def _wrong(step: StepInput, final: Frame) -> tuple[str, str]:
    astray = strayed(step, final.geometry)
    if astray is not None:
        return astray
    if final.electronic_converged is False:
        return (
            FailureReason.SCF_NOT_CONVERGED.value,
            "the electronic steps of the last ionic step reached NELM",
        )
    return "", ""


def strayed(step: StepInput, geometry: Geometry) -> tuple[str, str] | None:
    """Say that a relaxation ran away: code and message, or None."""
    from hullforge.crystals.geometry import shortest_distance_ratio

    cell, positions = np.reshape(geometry.cell, (3, 3)), np.reshape(geometry.positions, (-1, 3))
    if step.kind != "relax" or not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        return None
    ratio, (low, high) = abs(float(np.linalg.det(cell))) / step.start_volume, VOLUME_BOUNDS
    if not low <= ratio <= high:
        message = f"the volume is {ratio:.3g} times that of the start; {low:g} to {high:g} is allowed"
        return FailureReason.VOLUME_OUT_OF_BOUNDS.value, message
    closest = shortest_distance_ratio(geometry.numbers, cell, positions, geometry.pbc)
    if closest < MIN_DISTANCE_RATIO:
        message = f"two atoms are at {closest:.3g} times the sum of their radii"
        return FailureReason.ATOMS_TOO_CLOSE.value, message
    return None


def _edit(folder: Path, changes: dict[str, Any]) -> None:
    """Change tags of the INCAR; None removes one."""
    from pymatgen.io.vasp.inputs import Incar

    changes = {tag: value for tag, value in changes.items() if tag.isupper()}
    if not changes:
        return
    tags = {**Incar.from_file(folder / "INCAR"), **changes}
    Incar({tag: tags[tag] for tag in sorted(tags) if tags[tag] is not None}).write_file(str(folder / "INCAR"))


def _is_tighter(tag: str, asked: Any, used: Any) -> bool:
    return tag == "EDIFF" and used.get(tag) is not None and used[tag] < asked.get(tag, 1e-4)


def _kpoints(path: Path) -> dict[str, Any]:
    """Give style and grid of a KPOINTS file; empty where there is none."""
    from pymatgen.io.vasp.inputs import Kpoints

    if not path.is_file():
        return {}
    found = Kpoints.from_file(path)
    return {
        "style": found.style.name,
        "grid": "x".join(str(n) for n in found.kpts[0]),
        "shift": " ".join(f"{x:g}" for x in found.kpts_shift),
    }
