"""From one folder in which VASP ran to what it is for the tables: a calculation, a failure, or a refusal.

Comes in: a folder and its name. Goes out: rows with a key in the place of their ids, since a theory is known only when
all folders were seen, and what is needed to tell it: a `Told`. A run counts as a calculation when it is whole, its
last ionic step converged electronically, and it is static or a relaxation that converged; nothing is guessed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hullforge.dft.engines import vasp_parse as vasp
from hullforge.dft.engines.vasp_parse import Run, VaspOutputError
from hullforge.store import ids
from hullforge.store.structures import SYMBOLS, structure_columns
from hullforge.store.vocabulary import FailureReason, RunRefusal

Row = dict[str, Any]

#: Files that make a folder one in which VASP ran; between name and compression may stand a suffix (.relax1).
_FILE = re.compile(r"(vasprun\.xml|OUTCAR)((?:\.(?!gz$|bz2$|xz$|gz\.|bz2\.|xz\.)\w+)?)(\.gz|\.bz2|\.xz)?")
#: Files that say that VASP was to run there, or did.
_LEFTOVER = re.compile(r"(INCAR|KPOINTS|OSZICAR|vaspout\.h5)(\.gz|\.bz2|\.xz)?")
#: Two steps of one calculation: the second starts where the first ended, angstrom.
_SAME_PLACE = 1e-4
#: A part of the energy that comes from no electronic step, eV; larger than rounding, smaller than any correction.
_ROUNDING = 1e-4
#: No crystal lies this far above its atoms, eV/atom, which VASP counts energies from; custodian asks the same.
_POSITIVE = 1.0
#: Algorithms that give no ground state of a density functional.
_NO_GROUND_STATE = ("chi", "gw0", "gw", "scgw0", "scgw", "evgw", "evgw0", "qpgw", "qpgw0", "bse", "timeev", "acfdt", "none", "eigenval")  # fmt: skip
#: Values of METAGGA that are a potential alone.
_NO_ENERGY = ("MBJ", "LMBJ", "MBJL")
#: Tags beside functional, POTCARs and cutoff whose change shifts energies, with the values that VASP takes unasked.
#: The k-point grid follows the cell, and smearing is extrapolated away: neither can be the same for all structures.
_TAGS: Mapping[str, Any] = {
    "PREC": "normal", "LREAL": False, "LASPH": False, "ADDGRID": False, "LSORBIT": False, "LNONCOLLINEAR": False,
    "PSTRESS": 0.0, "LDAUTYPE": 2, "LMIXTAU": False, "EPSILON": 1.0, "IDIPOL": 0, "LDIPOL": False, "NUPDOWN": -1.0,
    "LSOL": False, "ENAUG": None, "LMAXTAU": None, "LMAXPAW": -100,
}  # fmt: skip


@dataclass(frozen=True)
class Theory:
    """What fixes the energies of a run: `base` for all elements alike, POTCAR titles and U by element."""

    base: str
    titles: tuple[tuple[str, str], ...]
    hubbards: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Told:
    """What one folder is: rows under `key`, or why it is refused. `start` and `final` are ids of geometries."""

    key: str
    theory: Theory | None = None
    label: str = ""
    start: str = ""
    energy: float | None = None
    calculation: Row | None = None
    failure: Row | None = None
    frames: list[Row] = field(default_factory=list)
    cost: Row | None = None
    refusal: Row | None = None

    def light(self) -> "Told":
        """Give what all folders together must know: no rows but the refusal."""
        kind = {"ok": True} if self.calculation else None
        return replace(self, calculation=kind, failure={} if self.failure else None, frames=[], cost=None)


def suffixes_of(names: Sequence[str]) -> list[str]:
    """Give the suffixes of the runs among file names, in the order in which custodian makes them."""
    found = {match[2] for name in names if (match := _FILE.fullmatch(name))}
    return sorted(found, key=lambda suffix: (suffix == "", suffix))


def leftover(name: str, files: Sequence[str]) -> Told | None:
    """Give the refusal of a folder without a run that VASP was meant for, by its files; None for any other folder."""
    left = sorted(file for file in files if _LEFTOVER.fullmatch(file))
    if not left or suffixes_of(files):
        return None
    return _refused(name, "", RunRefusal.NO_OUTPUT, f"{', '.join(left)}, but neither vasprun.xml nor OUTCAR")


def read_folder(folder: Path, name: str) -> list[Told]:
    """Read all runs of `folder`, called `name`; whatever can't be read is a refusal and stops nothing."""
    try:
        return _read_folder(folder, name)
    except OSError as error:
        return [unreadable(name, error)]
    # Foreign files hold anything; what nobody thought of must not cost the other hundred thousand runs.
    except Exception as error:  # noqa: BLE001
        return [_refused(name, "", RunRefusal.FOREIGN, f"can't be read: {type(error).__name__}: {error}")]


def _read_folder(folder: Path, name: str) -> list[Told]:
    """Read a folder; runs that go on where the one before ended are one calculation."""
    chains: list[list[tuple[str, Run]]] = []
    told: list[Told] = []
    image = _is_image(folder)
    for suffix in suffixes_of(sorted(path.name for path in folder.iterdir())):
        step = suffix.lstrip(".") or "run"
        try:
            run = vasp.read_run(folder, suffix)
        except VaspOutputError as error:
            reason = (
                RunRefusal.TRUNCATED
                if isinstance(error, vasp.TruncatedError)
                else RunRefusal.CONTRADICTORY
                if isinstance(error, vasp.OtherRunError)
                else RunRefusal.FOREIGN
            )
            told.append(
                _refused(name, step, reason, str(error).replace(f"{folder}/", "").replace(str(folder), name))
            )
            continue
        refusal = (RunRefusal.NOT_A_MINIMUM, image) if image else why_refused(run)
        if refusal:
            told.append(_refused(name, step, *refusal))
        elif chains and _goes_on(chains[-1][-1][1], run):
            chains[-1].append((step, run))
        else:
            chains.append([(step, run)])
    corrections = _custodian(folder)
    for number, chain in enumerate(chains):
        key = name if number == len(chains) - 1 else f"{name}#{chain[-1][0]}"
        told.append(_rows(key, chain, corrections if number == len(chains) - 1 else []))
    return told


def _refused(name: str, step: str, reason: RunRefusal, message: str) -> Told:
    row = {"file": name, "row": step, "id": "", "reason": reason.value, "message": message}
    return Told(key=f"{name}#{step}", refusal=row)


def unreadable(name: str, error: OSError) -> Told:
    """Give the refusal of a folder that can't be opened."""
    return _refused(name, "", RunRefusal.UNREADABLE, error.strerror or type(error).__name__)


def why_refused(run: Run) -> tuple[RunRefusal, str] | None:
    """Tell why a run can be neither a calculation nor a failure; None when it can."""
    incar, parameters = run.incar, run.parameters
    if not run.complete:
        reason = RunRefusal.TRUNCATED if run.problem.startswith("truncated") else RunRefusal.FOREIGN
        return reason, f"{run.source}: {run.problem}; {len(run.steps)} whole ionic steps before"
    kind = _other_kind(incar, parameters)
    if kind:
        return RunRefusal.NOT_A_MINIMUM, kind
    if parameters.get("ICHARG", 0) >= 10:
        return (
            RunRefusal.NOT_SELF_CONSISTENT,
            f"ICHARG is {parameters['ICHARG']}: the density was not iterated",
        )
    if incar.get("ML_LMLFF") or str(incar.get("ALGO", "")).lower() in _NO_GROUND_STATE:
        return (
            RunRefusal.NOT_SELF_CONSISTENT,
            f"ALGO {incar.get('ALGO', '')}, ML_LMLFF {incar.get('ML_LMLFF', False)}",
        )
    if not run.steps:
        return RunRefusal.NO_ENERGY, f"{run.source}: no ionic step with a geometry and an energy"
    if run.charge is not None and abs(run.charge) > 1e-4:
        return RunRefusal.CHARGED, f"NELECT makes the cell's charge {run.charge:g}; 0 is needed"
    return _unknown_theory(run)


def _other_kind(incar: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    ibrion, nsw = parameters.get("IBRION", -1), parameters.get("NSW", 0)
    if ibrion == 0 and nsw > 1:
        return f"molecular dynamics (IBRION 0, NSW {nsw})"
    if ibrion in (5, 6, 7, 8) and nsw > 0:
        return f"phonons or elastic constants (IBRION {ibrion})"
    if ibrion in (40, 44):
        return f"a reaction coordinate (IBRION {ibrion})"
    if int(parameters.get("IMAGES", incar.get("IMAGES", 0)) or 0) > 0:
        return f"a path of images (IMAGES {parameters.get('IMAGES', incar.get('IMAGES'))})"
    named = [tag for tag in ("LEPSILON", "LCALCEPS", "LCHIMAG") if incar.get(tag) or parameters.get(tag)]
    return f"response to a field ({named[0]})" if named else ""


def _is_image(folder: Path) -> str:
    """Tell of a numbered folder whose parent's INCAR asks for images that it is one: its OUTCAR doesn't."""
    incar = vasp.find(folder.parent, "INCAR") if re.fullmatch(r"\d\d", folder.name) else None
    if incar is None:
        return ""
    with vasp.open_any(incar) as stream:
        found = re.search(rb"^\s*IMAGES\s*=\s*([1-9]\d*)", stream.read(1 << 20), re.MULTILINE)
    return f"one of a path of images (IMAGES {found[1].decode()})" if found else ""


def _unknown_theory(run: Run) -> tuple[RunRefusal, str] | None:
    elements = {SYMBOLS[number] for number in run.numbers}
    named = {_symbol(title) for title in run.titles}
    if not run.titles or named != elements:
        missing = ", ".join(sorted(elements - named)) or "POTCARs of other elements are named"
        return RunRefusal.THEORY_UNKNOWN, f"POTCARs: {missing}"
    if len(set(run.titles)) != len(elements):
        return RunRefusal.THEORY_UNKNOWN, f"an element has two POTCARs: {', '.join(run.titles)}"
    if run.functional in _NO_ENERGY:
        return RunRefusal.NO_ENERGY, f"{run.functional} is a potential that no energy belongs to"
    if not run.functional:
        return RunRefusal.THEORY_UNKNOWN, "the functional can't be told from GGA, METAGGA and the POTCARs"
    if "ENMAX" not in run.parameters and "ENCUT" not in run.parameters:
        return RunRefusal.THEORY_UNKNOWN, "no cutoff is given"
    hidden = max(abs(step.correction) for step in run.steps)
    dispersion = run.functional.partition("-")[2] != "" or run.parameters.get("LUSE_VDW")
    if hidden > _ROUNDING and not dispersion:
        return (
            RunRefusal.THEORY_UNKNOWN,
            f"the energies hold {hidden:g} eV that no electronic step has and no tag explains (a van der Waals term?)",
        )
    return None


def _symbol(title: str) -> str:
    return title.split()[1].split("_")[0] if len(title.split()) > 1 else ""


def theory_of(run: Run) -> Theory:
    """Give what fixes the energies: functional, version, cutoff and tags for all; POTCARs and U by element."""
    used = {**run.parameters, **{tag: run.incar[tag] for tag in ("ENAUG", "LMAXTAU") if tag in run.incar}}
    # VASP fills in ENAUG from the POTCARs, so that it counts where the user set it alone.
    used |= {tag: None for tag in ("ENAUG", "LMAXTAU") if tag not in run.incar}
    tags = {tag: used.get(tag, default) for tag, default in _TAGS.items()}
    version = re.match(r"\d+(?:\.\d+)*", run.version)
    base = {
        "software": "vasp",
        "version": ".".join(version[0].split(".")[:3]) if version else run.version,
        "functional": run.functional,
        "ldau": run.run_type.endswith("+U"),
        # OUTCAR prints one decimal.
        "encut": round(_encut(run), 1),
        "tags": {tag: value.lower()[:6] if isinstance(value, str) else value for tag, value in tags.items()},
    }
    pairs = sorted((_symbol(title), title) for title in set(run.titles))
    return Theory(ids.canonical_json(base), tuple(pairs), tuple(sorted(run.hubbards.items())))


def _encut(run: Run) -> float:
    return float(run.parameters.get("ENMAX", run.parameters.get("ENCUT", 0.0)))


def _goes_on(before: Run, after: Run) -> bool:
    """Tell whether `after` starts from the last geometry of `before`, in the same theory."""
    if before.numbers != after.numbers or after.start is None or theory_of(before) != theory_of(after):
        return False
    last, (cell, positions) = before.steps[-1], after.start
    if not np.allclose(last.cell, cell, rtol=0, atol=_SAME_PLACE):
        return False
    # VASP may have wrapped atoms back into the cell.
    shift = np.linalg.solve(np.asarray(cell).T, (last.positions - positions).T).T
    return bool(np.abs((shift - np.round(shift)) @ cell).max() < _SAME_PLACE)


def _rows(key: str, chain: Sequence[tuple[str, Run]], corrections: Sequence[tuple[str, str]]) -> Told:
    """Give the rows of one calculation, whose steps are `chain`."""
    name, run = chain[-1]
    first = chain[0][1]
    assert first.start is not None
    start = ids.structure_id(run.numbers, *first.start)
    theory = theory_of(run)
    common = {
        "calculation_id": key,
        "candidate_id": None,
        "prototype_id": None,
        "round": 0,
        "source": key,
        "functional": run.functional,
        "theory_id": "",
        "parent_structure_id": start,
        "n_attempts": len(chain) + len(corrections),
        "errors": [f"{name}:{error}" for error, _ in corrections],
        "corrections": [f"{name}:{handler}" for _, handler in corrections],
        "protocol_drift": [],
    }
    light: dict[str, Any] = {
        "key": key,
        "theory": theory,
        "label": f"{run.functional} ({run.run_type}), VASP {run.version}, {_encut(run):g} eV",
        "start": start,
        "energy": run.steps[-1].energy,
        "cost": _cost(key, chain),
    }
    failed = _failure(chain)
    if failed:
        reason, step, message = failed
        geometry = structure_columns(run.numbers, *first.start)
        del geometry["structure_id"]
        failure = {**common, **geometry, "reason": reason.value, "protocol_step": step, "message": message}
        return Told(**light, failure=failure)
    frames = list(_frames(key, chain))
    return Told(**light, calculation=_calculation(common, theory, chain, frames[-1]), frames=frames)


def _failure(chain: Sequence[tuple[str, Run]]) -> tuple[FailureReason, str, str] | None:
    """Tell why a calculation has no converged result: by its last step, and by numbers that are none."""
    for name, run in chain:
        for number, step in enumerate(run.steps):
            arrays = (step.cell, step.positions, step.forces, step.stress, (step.energy, step.free_energy))
            if not all(np.isfinite(array).all() for array in arrays if array is not None):
                message = f"ionic step {number}: an energy, a force, a stress component or a coordinate is no number"
                return FailureReason.NOT_A_NUMBER, name, message
    name, run = chain[-1]
    nelm = run.parameters.get("NELM", 60)
    if not run.converged_electronic:
        message = (
            f"the last ionic step has {run.steps[-1].n_electronic_steps} electronic steps, NELM is {nelm}"
        )
        return FailureReason.SCF_NOT_CONVERGED, name, message
    if not run.converged_ionic:
        nsw = run.parameters.get("NSW", 0)
        message = (
            f"{len(run.steps)} ionic steps, NSW is {nsw}; VASP does not say that the accuracy was reached"
        )
        return FailureReason.IONIC_NOT_CONVERGED, name, message
    if run.steps[-1].energy > _POSITIVE * len(run.numbers):
        message = (
            f"the energy is {run.steps[-1].energy:g} eV; that of a crystal is not above that of its atoms"
        )
        return FailureReason.BAD_OUTPUT, name, message
    return None


def _calculation(common: Row, theory: Theory, chain: Sequence[tuple[str, Run]], last: Row) -> Row:
    run = chain[-1][1]
    final = run.steps[-1]
    spin = run.parameters.get("ISPIN") == 2
    return {
        **common,
        **structure_columns(run.numbers, final.cell, final.positions),
        "run_type": run.run_type,
        "hubbards": {symbol: u for symbol, u in run.hubbards.items() if u},
        "software": "vasp",
        "software_version": run.version,
        "pseudopotentials": [title for _, title in theory.titles],
        "input_hash": _input_hash(chain[0][1]),
        "encut": _encut(run),
        "kpoints": list(run.kpoints.grid) if run.kpoints.grid and all(run.kpoints.grid) else None,
        "steps": [step for step, _ in chain],
        "energy": final.energy,
        "energy_per_atom": final.energy / len(run.numbers),
        "free_energy": final.free_energy,
        "forces": last["forces"],
        "stress": last["stress"],
        "max_force": float(np.linalg.norm(final.forces, axis=1).max()) if final.forces is not None else None,
        "max_stress": float(np.abs(final.stress).max()) if final.stress is not None else None,
        "magmoms": last["magmoms"],
        "total_magnetization": run.total_magnetization if spin else None,
        "band_gap": run.band_gap,
        "dos_at_fermi": run.dos_at_fermi,
        "flags": [
            f"{name}:unconverged_ionic_steps={loose}"
            for name, run in chain
            if (loose := sum(not step.electronic_converged for step in run.steps))
        ]
        or None,
        "n_ionic_steps": sum(len(run.steps) for _, run in chain),
    }


def _input_hash(run: Run) -> str:
    """Hash of INCAR, k-points, POTCARs and start: what VASP got."""
    assert run.start is not None
    grid = run.kpoints
    geometry = ids.structure_id(run.numbers, *run.start)
    incar = {tag: value for tag, value in run.incar.items() if tag != "SYSTEM"}
    return ids.content_id(
        "i1", [incar, [grid.style, grid.grid, grid.shift, grid.n_irreducible], list(run.titles), geometry]
    )


def _frames(key: str, chain: Sequence[tuple[str, Run]]) -> Iterator[Row]:
    number = 0
    for name, run in chain:
        numbers = list(run.numbers)
        for step in run.steps:
            yield {
                "frame_id": "",
                "calculation_id": key,
                "functional": run.functional,
                "theory_id": "",
                "step": number,
                "protocol_step": name,
                "numbers": numbers,
                "cell": step.cell.ravel().tolist(),
                "positions": step.positions.tolist(),
                "pbc": [True, True, True],
                "energy": step.energy,
                "free_energy": step.free_energy,
                "electronic_converged": step.electronic_converged,
                "forces": None if step.forces is None else step.forces.tolist(),
                "stress": None if step.stress is None else step.stress.tolist(),
                "magmoms": None if step.magmoms is None else step.magmoms.tolist(),
            }
            number += 1


def _cost(key: str, chain: Sequence[tuple[str, Run]]) -> Row | None:
    """Give what the steps say that they cost; None when one doesn't say."""
    runs = [run for _, run in chain]
    if any(run.wall_time_s is None or run.cpu_time_s is None for run in runs):
        return None
    return {
        "calculation_id": key,
        "functional": runs[-1].functional,
        "round": 0,
        "walltime_s": sum(run.wall_time_s or 0.0 for run in runs),
        "cpu_time_s": sum(run.cpu_time_s or 0.0 for run in runs),
        "max_memory_mib": max(run.max_memory_mib or 0.0 for run in runs),
    }


def _custodian(folder: Path) -> list[tuple[str, str]]:
    """Give error and handler of each correction that custodian made; nothing where it left no readable record."""
    path = vasp.find(folder, "custodian.json")
    if path is None:
        return []
    try:
        with vasp.open_any(path) as stream:
            jobs = json.loads(stream.read())
        made = [c for job in jobs for c in job.get("corrections", [])]
        return [(error, _handler(c)) for c in made for error in (c.get("errors") or ["unknown"])]
    except (OSError, ValueError, AttributeError, TypeError, EOFError):
        return []


def _handler(correction: Mapping[str, Any]) -> str:
    handler = correction.get("handler", "unknown")
    return str(handler.get("@class", "unknown")) if isinstance(handler, dict) else str(handler)
