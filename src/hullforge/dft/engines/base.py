"""What every engine must be able to say and do; nothing above it knows which engine runs.

An engine turns one step of a protocol into the settings of `StepInput`, names the command that carries the
step out in a folder, and lists the corrections that recovery may try. VASP, GPAW or a classical potential
differ only behind this interface.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hullforge.config import Engine as EngineConfig
from hullforge.config import Execution
from hullforge.dft.engines.own_files import Restart
from hullforge.dft.protocol import Protocol as DftProtocol
from hullforge.dft.protocol import Step
from hullforge.dft.step import Geometry, StepInput
from hullforge.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from custodian.custodian import ErrorHandler

    from hullforge.dft.job import StepRun


class Engine(Protocol):
    """The interface. All methods are cheap: none imports the code that computes, except `check`.

    What is done around each attempt is in `own_files.OwnFiles`, which every engine inherits.
    """

    name: str
    #: Printed in front of every report whose numbers are not DFT; empty for DFT.
    warning: str

    def check(
        self,
        elements: Sequence[str],
        protocol: DftProtocol,
        functionals: Sequence[str],
        config: EngineConfig,
        execution: Execution | None = None,
    ) -> None:
        """Raise `EngineError`: not installed, other version, no data set, functional it can't do.

        `execution` is for an engine that is a program of its own: None where only data sets are to be checked.
        """

    def run_type(self, functional: str, elements: Sequence[str], protocol: DftProtocol) -> str:
        """GGA, GGA+U, metaGGA or classical."""

    def hubbards(self, functional: str, elements: Sequence[str], protocol: DftProtocol) -> dict[str, float]:
        """U by element (eV), for those of `elements` that get one."""

    def pseudopotentials(
        self, functional: str, elements: Sequence[str], protocol: DftProtocol, config: EngineConfig
    ) -> list[str]:
        """Name of the data set of each element, alphabetical."""

    def physics(
        self, functional: str, step: Step, geometry: Geometry, protocol: DftProtocol
    ) -> dict[str, Any]:
        """Give the settings that fix the energy, for `StepInput.physics`."""

    def numerics(
        self, functional: str, step: Step, geometry: Geometry, protocol: DftProtocol
    ) -> dict[str, Any]:
        """First settings that don't, for `StepInput.numerics`."""

    def known(self, candidate_id: str, config: EngineConfig) -> dict[str, Any]:
        """Give what is known of a candidate before anything runs, for `StepInput.physics`; nothing for most engines."""

    def ladder(self, code: str) -> list[dict[str, Any]]:
        """Give the changes of `numerics` to try one after the other when an attempt ends with `code`."""

    def command(self, execution: Execution) -> list[str]:
        """Argument list of the child process; it is started in the step's folder with OMP_NUM_THREADS=1."""

    outputs: tuple[str, ...]
    raw_files: tuple[str, ...]
    private_files: tuple[str, ...]
    resumes: bool
    look_every_s: float
    max_corrections: int

    def phases(self, step: StepInput) -> tuple[str, ...]:
        """See `OwnFiles`, as for all that follows."""

    def spent_files(self, functional: str, protocol: DftProtocol) -> tuple[str, ...]:
        """Name large files that nothing starts from."""

    def prepare(self, run: "StepRun", step: StepInput, phase: str) -> None:
        """Write the program's input."""

    def amend(self, folder: Path, step: StepInput, changes: dict[str, Any], restart: Restart) -> None:
        """Carry a correction over to the program's input."""

    def collect(self, folder: Path) -> None:
        """Translate the program's output."""

    def handlers(self, run: "StepRun") -> "list[ErrorHandler]":
        """Give the engine's own handlers."""

    def drift(self, folder: Path) -> list[str]:
        """Give what left the protocol."""

    def flags(self, folder: Path) -> list[str]:
        """Give what a reader should know."""

    def wind_down(self, folder: Path) -> bool:
        """Ask the program to end soon."""


def get(name: str) -> Engine:
    """Give the engine called `name`; raises `EngineError` when there is none."""
    factories: Mapping[str, Callable[[], Engine]] = {
        "gpaw": _gpaw,
        "vasp": _vasp,
        "emt": _emt,
        "replay": _replay,
    }
    if name not in factories:
        raise EngineError(f"engine '{name}' is unknown; known are {', '.join(factories)}")
    return factories[name]()


def _gpaw() -> Engine:
    from hullforge.dft.engines.gpaw import GpawEngine

    return GpawEngine()


def _vasp() -> Engine:
    from hullforge.dft.engines.vasp import VaspEngine

    return VaspEngine()


def _replay() -> Engine:
    from hullforge.dft.engines.replay import ReplayEngine

    return ReplayEngine()


def _emt() -> Engine:
    from hullforge.dft.engines.emt import EmtEngine

    return EmtEngine()
