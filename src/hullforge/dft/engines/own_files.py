"""What is particular to an engine that is a program of its own, with its own input and output files, such as VASP.

`OwnFiles` is the part of the engine interface that the runner calls around each attempt; its defaults are those of an
engine that reads `step.json` and writes `result.json` itself, and do nothing. An engine with other files overrides
them: it writes its input, lets handlers of its own mend it, and translates its output into the common files, which
are all that the rest of hullforge ever reads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from custodian.custodian import ErrorHandler

    from hullforge.dft.job import StepRun
    from hullforge.dft.protocol import Protocol
    from hullforge.dft.step import StepInput

Restart = Literal["same", "last", "start"]


class OwnFiles:
    """Defaults for engines without files of their own."""

    #: Files that the program writes, put aside before each attempt.
    outputs: tuple[str, ...] = ()
    #: Files that are archived whole, besides the common ones.
    raw_files: tuple[str, ...] = ()
    #: Files that must not stay when a step has ended, since they can't be passed on.
    private_files: tuple[str, ...] = ()
    #: Whether an interrupted step goes on from its last ionic step; else it begins anew, and leaves no trace.
    resumes = False
    #: Corrections of one step before it is given up, whatever their kinds.
    max_corrections = 12
    #: Seconds between two looks at a running process, at most.
    look_every_s = 5.0

    def phases(self, step: "StepInput") -> tuple[str, ...]:  # noqa: ARG002
        """Give the runs that make up a step, in order; almost always one."""
        return ("",)

    def spent_files(self, functional: str, protocol: "Protocol") -> tuple[str, ...]:  # noqa: ARG002
        """Name the large files that no later step of a functional takes over; they go when a step has ended."""
        return ()

    def prepare(self, run: "StepRun", step: "StepInput", phase: str) -> None:
        """Write the program's input into the step's folder, before the first attempt of a phase.

        Raises `EngineError` when the machine lacks what is needed.
        """

    def amend(self, folder: Path, step: "StepInput", changes: dict[str, Any], restart: Restart) -> None:
        """Carry a correction that `step.json` has already got over to the program's input."""

    def collect(self, folder: Path) -> None:
        """Translate what an ended attempt left into `result.json` and `frames.jsonl`; what is wrong goes into the result."""

    def handlers(self, run: "StepRun") -> "list[ErrorHandler]":  # noqa: ARG002
        """Give the engine's own handlers, asked before the common ones."""
        return []

    def drift(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Give 'setting=value' for what the last attempt's input has otherwise than the protocol, numerics left out."""
        return []

    def flags(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Give what a reader of an accepted step should know, one word each, such as moments that flipped."""
        return []

    def wind_down(self, folder: Path) -> bool:  # noqa: ARG002
        """Ask a running program to end after its present ionic step; whether it understands that."""
        return False
