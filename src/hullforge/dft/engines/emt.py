# ruff: noqa: ARG001, ARG002 -- the interface offers more than a classical potential needs
"""The engine `emt`: ASE's effective medium theory, a classical potential for tests and dry runs. It is NOT DFT.

It goes the whole way that a DFT engine goes (inputs, child process, custodian, typed results) in a fraction of a
second per step, so that a campaign can be tried out and recovery can be tested: it fails in planned ways when
told to. A functional's name only scales its energies by a fixed factor, so that tables of several differ.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullforge.dft.engines.own_files import OwnFiles
from hullforge.dft.step import (
    RESULT_FILE,
    Geometry,
    StepInput,
    StepResult,
    read_input,
    read_result,
    write_input,
    write_result,
)
from hullforge.errors import EngineError
from hullforge.store import ids
from hullforge.store.vocabulary import FailureReason

if TYPE_CHECKING:
    from ase import Atoms

    # Not at run time: the child process starts faster without them.
    from hullforge.config import Engine as EngineConfig
    from hullforge.config import Execution, Faults
    from hullforge.dft.protocol import Protocol, Step

ELEMENTS = ("Ag", "Al", "Au", "C", "Cu", "H", "N", "Ni", "O", "Pd", "Pt")

#: Planned failures, and the reason that a calculation fails with when one of them does not go away.
FAULTS: dict[str, FailureReason] = {
    "scf": FailureReason.SCF_NOT_CONVERGED,
    "ionic": FailureReason.IONIC_NOT_CONVERGED,
    "unconverged": FailureReason.IONIC_NOT_CONVERGED,  # says ok, but its forces are above the limits
    "crash": FailureReason.CRASHED,
    "oom": FailureReason.OUT_OF_MEMORY,
    "hang": FailureReason.HUNG,
    "close": FailureReason.ATOMS_TOO_CLOSE,
    "explode": FailureReason.VOLUME_OUT_OF_BOUNDS,
    "nan": FailureReason.NOT_A_NUMBER,
    "dataset": FailureReason.MISSING_DATASET,  # fatal at once
    "truncated": FailureReason.BAD_OUTPUT,  # half a result.json
    "nothing": FailureReason.BAD_OUTPUT,  # exit code 0, no result
    "garbage": FailureReason.BAD_OUTPUT,  # an energy that is not that of the last frame
    "unknown": FailureReason.ENGINE_ERROR,
}
#: Of the calculations that fail, the share whose failure no retry overcomes.
PERMANENT_SHARE = 0.5
#: More than any number of attempts.
FOREVER = 50


class EmtEngine(OwnFiles):
    """The interface of `hullforge.dft.engines.base.Engine`."""

    name = "emt"
    warning = (
        "CLASSICAL POTENTIAL, NOT DFT: these numbers come from ASE's EMT and are for tests and dry runs only"
    )

    def check(
        self,
        elements: Sequence[str],
        protocol: "Protocol",
        functionals: Sequence[str],
        config: "EngineConfig",
        execution: "Execution | None" = None,
    ) -> None:
        """Raise `EngineError` for elements without parameters, another version of ASE, unknown planned failures."""
        from importlib.metadata import version

        missing = [symbol for symbol in elements if symbol not in ELEMENTS]
        if missing:
            raise EngineError(
                f"engine emt: no parameters for {', '.join(missing)}; it has {', '.join(ELEMENTS)}"
            )
        found = version("ase")
        if config.version != found:
            raise EngineError(
                f"engine emt: version {config.version} is asked for, but ASE {found} is installed"
            )
        unknown = [kind for kind in config.faults.kinds if kind not in FAULTS]
        if unknown:
            raise EngineError(
                f"engine emt: unknown planned failures {', '.join(unknown)}; known are {', '.join(FAULTS)}"
            )
        for functional in functionals:
            protocol.theory(functional, config)

    def run_type(self, functional: str, elements: Sequence[str], protocol: "Protocol") -> str:
        """Classical, whatever the functional is called."""
        return "classical"

    def hubbards(self, functional: str, elements: Sequence[str], protocol: "Protocol") -> dict[str, float]:
        """None."""
        return {}

    def pseudopotentials(
        self, functional: str, elements: Sequence[str], protocol: "Protocol", config: "EngineConfig"
    ) -> list[str]:
        """Name the parameters of each element, alphabetical."""
        return [f"EMT:{symbol}" for symbol in sorted(elements)]

    def physics(
        self, functional: str, step: "Step", geometry: Geometry, protocol: "Protocol"
    ) -> dict[str, Any]:
        """Give the functional's name, and the factor it stands for."""
        return {"xc": functional, "scale": scale(functional)}

    def numerics(
        self, functional: str, step: "Step", geometry: Geometry, protocol: "Protocol"
    ) -> dict[str, Any]:
        """Give settings that mean nothing to EMT but let ladders be climbed."""
        return {"mixer": "default", "damping": 1.0}

    def known(self, candidate_id: str, config: "EngineConfig") -> dict[str, Any]:
        """Nothing: this engine computes."""
        return {}

    def ladder(self, code: str) -> list[dict[str, Any]]:
        """Stand-ins for what a DFT engine would try."""
        rungs: dict[str, list[dict[str, Any]]] = {
            FailureReason.SCF_NOT_CONVERGED.value: [{"mixer": "slow"}, {"mixer": "slower"}],
            FailureReason.ATOMS_TOO_CLOSE.value: [{"damping": 0.5}],
            FailureReason.VOLUME_OUT_OF_BOUNDS.value: [{"damping": 0.5}],
        }
        return rungs.get(code, [])

    def command(self, execution: "Execution | None" = None) -> list[str]:
        """Run this module, in the interpreter that runs hullforge."""
        return [sys.executable, "-m", "hullforge.dft.engines.emt"]


def scale(functional: str) -> float:
    """Factor on EMT's energies, forces and stress: 1 for PBE, within 2 % of it for other names. Not physics."""
    return 1.0 if functional == "PBE" else round(0.98 + 0.04 * ids.unit_interval(0, "emt", functional), 6)


def make_calculator(step: StepInput) -> Any:
    """Give ASE's EMT with all results times `physics.scale`."""
    from ase.calculators.emt import EMT

    factor = step.physics["scale"]

    class ScaledEMT(EMT):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            self.results = {key: value * factor for key, value in self.results.items()}

    return ScaledEMT()


def static_properties(calculator: Any, atoms: "Atoms", step: StepInput) -> dict[str, Any]:
    """Nothing: a classical potential has no electrons."""
    return {}


def planned_faults(faults: "Faults", calculation_id: str, steps: Sequence[str]) -> dict[str, list[str]]:
    """Draw the failures of a calculation by a hash of its id: by step, one entry per coming attempt.

    Half of them last for one attempt, the others for ever.
    """

    def draw(what: str) -> float:
        return ids.unit_interval(faults.seed, "fault", what, calculation_id)

    if draw("share") >= faults.share:
        return {}
    kinds = faults.kinds or tuple(FAULTS)
    kind = kinds[int(draw("kind") * len(kinds))]
    step = steps[int(draw("step") * len(steps))]
    return {step: [kind] * (FOREVER if draw("permanent") < PERMANENT_SHARE else 1)}


def main() -> int:
    """Carry out the step in the current folder, failing first where that is planned."""
    folder = Path.cwd()
    step = read_input(folder)
    fault = step.faults[0] if step.faults else ""
    if not fault:
        from hullforge.dft.engines import ase_driver

        return ase_driver.main()
    return _fail(fault, step, folder)


def _fail(fault: str, step: StepInput, folder: Path) -> int:
    """Fail in the planned way."""
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        time.sleep(86400)
    elif fault == "nothing":
        pass
    elif fault == "truncated":
        text = StepResult(status="ok", code="").model_dump_json(indent=1)
        (folder / RESULT_FILE).write_text(text[: len(text) // 2])
    elif fault in ("ionic", "nan", "garbage", "unconverged"):
        _spoil(fault, step, folder)
    else:
        message = f"planned failure: {fault}"
        write_result(folder, StepResult(status="error", code=FAULTS[fault].value, message=message))
    return 0


def _spoil(fault: str, step: StepInput, folder: Path) -> None:
    """Carry the step out and lie about its result."""
    from hullforge.dft.engines import ase_driver

    write_input(folder, step.model_copy(update={"faults": []}))
    ase_driver.main()
    write_input(folder, step)
    result = read_result(folder)
    if result is None or result.final is None:
        return
    if fault == "ionic" or (fault == "unconverged" and step.kind == "static"):
        result.status, result.code = "error", FAULTS[fault].value
        result.message = f"planned failure: {fault}"
    elif fault == "nan":
        result.final.energy = float("nan")
    elif fault == "unconverged" and result.final.forces:
        result.final.forces[0] = [10 * step.fmax, 0.0, 0.0]
    else:
        result.final.energy += 1.0
    write_result(folder, result)


if __name__ == "__main__":
    sys.exit(main())
