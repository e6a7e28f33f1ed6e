"""What goes into one step of one calculation, and what comes out: two files in the step's folder.

`step.json` (`StepInput`) is written by the runner and edited by error handlers between attempts; the engine's
child process reads it, appends one line per ionic step to `frames.jsonl` (`Frame`) and at its end writes
`result.json` (`StepResult`), whole or not at all. Handlers and validators read these, never a log.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hullforge.store import atomic

STEP_FILE = "step.json"
FRAMES_FILE = "frames.jsonl"
RESULT_FILE = "result.json"
#: Touched by the child process as long as it gets anywhere; its age tells a monitor how long nothing moved.
HEARTBEAT_FILE = "heartbeat"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class Geometry(_Strict):
    """A crystal: atomic numbers (N), cell (9, angstrom), positions (N, 3, angstrom), pbc (3), moments (N, Bohr magneton)."""

    numbers: list[int]
    cell: list[float]
    positions: list[list[float]]
    pbc: list[bool]
    magmoms: list[float] | None = None


class StepInput(_Strict):
    """All that the child process needs to know."""

    calculation_id: str
    engine: str
    functional: str
    name: str
    kind: Literal["relax", "static"]
    attempt: int = 1
    geometry: Geometry
    start_volume: float = Field(
        description="volume of the calculation's very first geometry, angstrom^3, for the runaway check"
    )
    physics: dict[str, Any] = Field(
        description="settings that fix the energy (xc, cutoff, kpts, smearing, setups, spin); recovery that touches them is protocol drift"
    )
    numerics: dict[str, Any] = Field(
        description="settings that decide only whether and how fast the energy is reached (mixer, steps, bands, eigensolver)"
    )
    fmax: float
    smax: float
    max_ionic_steps: int
    forces: bool = True
    faults: list[str] = Field(
        default_factory=list, description="planned failures of the coming attempts, first one next (emt only)"
    )


class Frame(_Strict):
    """One ionic step: geometry, energies (eV), forces (N, 3, eV/angstrom), stress (6, eV/angstrom^3).

    `energy` is extrapolated to zero smearing; `free_energy` is the one whose derivatives the forces and the stress are,
    None where the engine doesn't say, and `electronic_converged` likewise.
    """

    geometry: Geometry
    energy: float
    free_energy: float | None = None
    electronic_converged: bool | None = None
    forces: list[list[float]] | None = None
    stress: list[float] | None = None


class StepResult(_Strict):
    """How an attempt ended. With `status` ok, energy and geometry are given; the limits are for a validator to check."""

    status: Literal["ok", "error"]
    code: str = Field("", description="a FailureReason, when status is error")
    message: str = ""
    final: Frame | None = None
    n_ionic_steps: int = 0
    kpoints: list[int] | None = None
    encut: float | None = None
    total_magnetization: float | None = None
    band_gap: float | None = None
    dos_at_fermi: float | None = None
    cpu_time_s: float = 0.0
    max_memory_mib: float = 0.0


def read_input(folder: Path) -> StepInput:
    """Read `step.json`."""
    return StepInput.model_validate(atomic.read_json(folder / STEP_FILE))


def write_input(folder: Path, step: StepInput) -> None:
    """Write `step.json`."""
    atomic.write_text(folder / STEP_FILE, step.model_dump_json(indent=1))


def read_result(folder: Path) -> StepResult | None:
    """Read `result.json`; None when the child left none or a broken one."""
    path = folder / RESULT_FILE
    try:
        return StepResult.model_validate_json(path.read_text()) if path.is_file() else None
    except ValueError:
        return None


def write_result(folder: Path, result: StepResult) -> None:
    """Write `result.json`, whole or not at all."""
    atomic.write_text(folder / RESULT_FILE, result.model_dump_json(indent=1))


def read_frames(folder: Path) -> list[Frame]:
    """Read the whole lines of `frames.jsonl`; a last line cut by a kill is left out."""
    path = folder / FRAMES_FILE
    frames: list[Frame] = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                frames.append(Frame.model_validate_json(line))
            except ValueError:
                break
    return frames
