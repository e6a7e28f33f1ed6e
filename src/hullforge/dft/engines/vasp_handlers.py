# ruff: noqa: ARG002 -- custodian passes the directory, which the run knows
"""Custodian's own handlers for VASP in hullforge's record, and what a campaign needs besides.

Comes in: a `StepRun`; goes out: its handlers, in the order in which they are asked. Custodian's decide first, on the
files in the step's folder; where they have no answer, the common rule for that kind of error (`recovery.POLICIES`) is
tried. Each error gets a word of `FailureReason`, with custodian's own name as its detail. No handler here changes a
calculation on its own account.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

from custodian.custodian import ErrorHandler
from custodian.vasp import handlers as custodians

from hullforge.dft.engines import vasp_inputs
from hullforge.dft.engines.vasp_run import strayed
from hullforge.dft.job import STDERR_FILE, STDOUT_FILE, StepRun
from hullforge.dft.recovery import REASONS, Recovery, is_finite, tidy
from hullforge.dft.step import Geometry, read_frames, read_input, read_result, write_input
from hullforge.store.vocabulary import FailureReason

R = FailureReason
#: Ionic steps with NELM electronic ones, one after the other, after which a relaxation is not worth going on with.
STUCK_STEPS = 4
#: Tags that depend on the machine: in custodian.json, not in a table.
MACHINE_TAGS = frozenset({"NCORE", "NPAR", "KPAR", "NSIM", "LPLANE"})

#: Custodian's names of errors in our words; those that are missing are `numerics`.
SYMMETRY = frozenset(
    [
        "tet",
        "dentet",
        "tetirr",
        "incorrect_shift",
        "ksymm",
        "inv_rot_mat",
        "rot_matrix",
        "pricel",
        "posmap",
        "pricelv",
        "symprec_noise",
        "bravais",
        "ibzkpt",
        "hnform",
        "point_group",
        "rhosyg",
        "triple_product",
        "mesh_symmetry",
        "kpoints_trans",
    ]
)
REFUSED = frozenset(
    ["read_error", "set_core_wf", "spin_polarized_harris", "elf_kpar", "elf_ncl", "dfpt_ncore", "coef"]
)
#: Errors in whose answer custodian's handler fails (here: no NELECT in an OUTCAR that ends in its first electronic
#: step), with the part of that answer that does not need what is missing.
STUMBLES: dict[str, dict[str, Any]] = {"edddav": {"ALGO": "All", "ISEARCH": 1}}
OTHERS = {"out_of_memory": R.OUT_OF_MEMORY, "Frozen job": R.HUNG, "Non-converging job": R.SCF_NOT_CONVERGED}


def reason_of(errors: list[str]) -> FailureReason:
    """Give the word for what custodian calls an error; several are named by the first that has a word of its own."""
    for error in errors:
        if error in OTHERS:
            return OTHERS[error]
    if any(error in REFUSED for error in errors):
        return R.REFUSED
    return R.SYMMETRY if any(error in SYMMETRY for error in errors) else R.NUMERICS


def handlers(run: StepRun) -> list[ErrorHandler]:
    """Give the handlers of a step: those that the Materials Project and atomate2 use, by kind of step, and ours.

    A static step has no ionic steps to go wrong; a meta-GGA has the same handlers, which themselves go straight to
    ALGO = All. Those that replace a smearing that was asked for are the protocol's choice (`mend_smearing`): with them
    every metal that the protocol relaxes with the tetrahedron method would leave it. Custodian's FrozenJob looks at one file's age alone; it keeps its
    answers, and `recovery` looks at all files.
    """
    step = read_input(run.folder)
    relaxing = step.kind == "relax"
    out = {"output_filename": STDOUT_FILE}
    chosen: list[ErrorHandler] = [
        custodians.VaspErrorHandler(**out),
        custodians.MeshSymmetryErrorHandler(**out),
        custodians.UnconvergedErrorHandler(),
        custodians.NonConvergingErrorHandler(nionic_steps=STUCK_STEPS),
        *([custodians.PotimErrorHandler()] if relaxing else []),
        custodians.PositiveEnergyErrorHandler(),
        custodians.FrozenJobErrorHandler(**out, timeout=run.limits.silence_s),
        custodians.StdErrHandler(output_filename=STDERR_FILE),
    ]
    if step.numerics.get("mend_smearing"):
        chosen += [custodians.LargeSigmaHandler(), custodians.KspacingMetalHandler()]
        chosen += [custodians.IncorrectSmearingHandler()] if relaxing else []
    own = {code: Recovery(run, code) for code in FailureReason}
    found: list[ErrorHandler] = [Custodians(run, handler, own) for handler in chosen]
    return [Runaway(run, own), *found] if relaxing else found


class Custodians(ErrorHandler):
    """One of custodian's handlers, whose errors and corrections are written down."""

    def __init__(self, run: StepRun, handler: ErrorHandler, own: dict[FailureReason, Recovery]) -> None:
        self.run, self.handler, self.own = run, handler, own
        self.is_monitor = handler.is_monitor
        self.is_terminating = handler.is_terminating
        self.stumbled = False
        self.errors: list[str] = []
        # What they say goes into custodian.json and the record; the terminal is the batch's.
        logging.getLogger(type(handler).__name__).disabled = True

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this handler."""
        kind = type(self.handler)
        return {"@module": kind.__module__, "@class": kind.__name__}

    def check(self, directory: str = "./") -> bool:
        """Whether custodian's handler sees its error and nobody has taken the attempt's error yet."""
        run = self.run
        run.check_not_stopped()
        if run.attempt.code:
            return False
        if run.is_running():
            if not self.is_monitor:
                return False
        elif run.running.closing.is_set() or (run.returncode != 0 and run.machine_fault()):
            # Ended early on demand, or by the machine: what is missing says nothing.
            return False
        else:
            run.collect()
        # A handler that stumbles over half a file has seen nothing yet.
        with contextlib.suppress(Exception):
            return bool(self.handler.check(str(run.folder)))
        return False

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Let custodian's handler mend the input, else the common rule; `actions` is None when nothing is left to try."""
        run = self.run
        run.collect()
        drift, before = run.engine.drift(run.folder), inputs_of(run.folder)
        try:
            answer = self.handler.correct(str(run.folder))
        except Exception as error:  # noqa: BLE001 -- a broken handler must not end the batch
            answer = self._without_custodian()
            run.attempt.message = tidy(f"custodian's handler failed: {error}", run.folder)
        errors = sorted(str(error) for error in answer["errors"])
        code = self._code(errors)
        run.attempt.code, run.attempt.detail = (
            code.value,
            "+".join(error.replace(" ", "_") for error in errors),
        )
        run.attempt.message = (
            run.attempt.message or f"custodian's {type(self.handler).__name__} found {', '.join(errors)}"
        )
        actions = answer["actions"]
        # The order matters: what was seen must be remembered in any case.
        if self._has_seen(errors) and inputs_of(run.folder) == before:
            actions = None  # the same again would fail the same way
        if not actions:
            return {"errors": errors, "actions": self.own[code].next_attempt()}
        run.attempt.corrections = described(actions)
        self._keep_frames(actions, changed=run.engine.drift(run.folder) != drift)
        run.save(run, is_open=False)
        return {"errors": errors, "actions": actions}

    def _has_seen(self, errors: list[str]) -> bool:
        """Whether the attempt before this one ended with the same errors."""
        seen = self.errors == errors
        self.errors = errors
        return seen

    def _without_custodian(self) -> dict[str, Any]:
        """Answer where custodian's handler fell over its own feet, with the part of its answer that is known."""
        errors = sorted(getattr(self.handler, "errors", ())) or [type(self.handler).__name__]
        changes = next((STUMBLES[error] for error in errors if error in STUMBLES), None)
        if changes is None or self.stumbled:
            return {"errors": errors, "actions": None}
        self.stumbled = True
        self.run.engine.amend(self.run.folder, read_input(self.run.folder), changes, "same")
        return {"errors": errors, "actions": [{"dict": "INCAR", "action": {"_set": changes}}]}

    def _code(self, errors: list[str]) -> FailureReason:
        if isinstance(self.handler, custodians.UnconvergedErrorHandler):
            result = read_result(self.run.folder)
            ions = result is not None and result.final is not None and result.final.electronic_converged
            return R.IONIC_NOT_CONVERGED if ions else R.SCF_NOT_CONVERGED
        if isinstance(self.handler, custodians.NonConvergingErrorHandler):
            return R.SCF_NOT_CONVERGED
        return reason_of(errors)

    def _keep_frames(self, actions: list[dict[str, Any]], *, changed: bool) -> None:
        """Keep the ionic steps so far where the next attempt goes on from them in the same theory, else forget them."""
        run = self.run
        if changed:
            run.kept_frames.clear()
            return
        if not any(action.get("file") == "CONTCAR" for action in actions):
            return
        frames = [frame for frame in read_frames(run.folder) if is_finite(frame)]
        if frames:
            run.kept_frames.extend(frames)
            step = read_input(run.folder)
            step.geometry = frames[-1].geometry
            write_input(run.folder, step)


class Runaway(ErrorHandler):
    """End a relaxation whose volume drifts out of bounds, or whose atoms come too close, while it runs."""

    is_monitor = True

    def __init__(self, run: StepRun, own: dict[FailureReason, Recovery]) -> None:
        self.run, self.own = run, own
        self.found: tuple[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give what custodian.json says about this handler."""
        return {"@module": type(self).__module__, "@class": type(self).__name__}

    def check(self, directory: str = "./") -> bool:
        """Whether the running relaxation has strayed; one that has ended is looked at by `collect`."""
        run = self.run
        if run.attempt.code or not run.is_running():
            return False
        self.found = None
        with contextlib.suppress(Exception):
            self.found = strayed(read_input(run.folder), contcar(run.folder, read_input(run.folder).geometry))
        return self.found is not None

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Begin again from the start, with smaller steps."""
        assert self.found is not None
        code, message = self.found
        self.run.attempt.code, self.run.attempt.message = code, message
        return {"errors": [message], "actions": self.own[REASONS[code]].next_attempt()}


def contcar(folder: Path, like: Geometry) -> Geometry:
    """Read CONTCAR into the order of `like`; raises `ValueError` or `OSError` for half a file."""
    import numpy as np
    from pymatgen.io.vasp.inputs import Poscar

    structure = Poscar.from_file(folder / "CONTCAR", check_for_potcar=False).structure
    back = np.argsort(vasp_inputs.site_order(like.numbers))
    return Geometry(
        numbers=like.numbers,
        cell=[float(x) for x in structure.lattice.matrix.ravel()],
        positions=structure.cart_coords[back].tolist(),
        pbc=like.pbc,
    )


def inputs_of(folder: Path) -> tuple[bytes | bool, ...]:
    """Give all that an attempt starts from, to tell whether a correction changed anything."""
    texts = [
        path.read_bytes() if path.is_file() else b""
        for path in map(folder.joinpath, ("INCAR", "KPOINTS", "POSCAR"))
    ]
    return (*texts, *((folder / name).exists() for name in ("WAVECAR", "CHGCAR")))


def described(actions: list[dict[str, Any]]) -> list[str]:
    """Give custodian's actions as 'setting=value', without those that depend on the machine."""
    found = []
    for action in actions:
        if "file" in action:
            (verb, how), name = next(iter(action["action"].items())), action["file"]
            found.append(
                f"{name}={'deleted' if verb == '_file_delete' else 'copied to ' + how.get('dest', '?')}"
            )
            continue
        place = "" if action["dict"] == "INCAR" else f"{action['dict']}."
        for verb, changes in action["action"].items():
            for key, value in changes.items():
                if key not in MACHINE_TAGS:
                    told = None if verb == "_unset" else "changed" if isinstance(value, dict) else value
                    found.append(f"{place}{key}={told}")
    return found
