"""Run steps of a protocol as a campaign's child processes do, without runner and recovery."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hullforge.dft.engines import base
from hullforge.dft.protocol import Protocol, Step
from hullforge.dft.step import Geometry, StepInput, StepResult, read_result, write_input


def geometry_of(atoms: Atoms) -> Geometry:
    """Give `atoms` as a `Geometry`."""
    return Geometry(
        numbers=[int(n) for n in atoms.numbers],
        cell=[float(x) for x in atoms.cell.array.ravel()],
        positions=[[float(x) for x in xyz] for xyz in atoms.positions],
        pbc=[bool(p) for p in atoms.pbc],
    )


def step_input(
    protocol: Protocol,
    functional: str,
    step: Step,
    geometry: Geometry,
    *,
    engine: str = "gpaw",
    **changes: Any,
) -> StepInput:
    """Give the input of one step; `changes` replace fields, and `numerics` among them adds to the engine's own."""
    the_engine = base.get(engine)
    numerics = the_engine.numerics(functional, step, geometry, protocol) | changes.pop("numerics", {})
    fields = {
        "calculation_id": "test",
        "engine": engine,
        "functional": functional,
        "name": step.name,
        "kind": step.kind,
        "geometry": geometry,
        "start_volume": volume_of(geometry),
        "physics": the_engine.physics(functional, step, geometry, protocol),
        "numerics": numerics,
        "fmax": step.fmax,
        "smax": step.smax,
        "max_ionic_steps": step.max_ionic_steps,
        "forces": step.forces,
    }
    return StepInput(**(fields | changes))


def volume_of(geometry: Geometry) -> float:
    """Volume of the cell, angstrom^3."""
    return abs(float(np.linalg.det(np.reshape(geometry.cell, (3, 3)))))


def run_step(inputs: StepInput, folder: Path) -> StepResult:
    """Carry out one step in a child process in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_input(folder, inputs)
    command = base.get(inputs.engine).command()
    process = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    result = read_result(folder)
    assert result is not None, process.stderr
    return result


def run_functional(
    protocol: Protocol, functional: str, atoms: Atoms, folder: Path, *, engine: str = "gpaw"
) -> list[StepResult]:
    """Carry out all steps of one functional, each from the last geometry; all must end well."""
    geometry, results = geometry_of(atoms), []
    for step in protocol.functional(functional).steps:
        inputs = step_input(protocol, functional, step, geometry, engine=engine)
        result = run_step(inputs, folder / step.name)
        assert result.status == "ok", f"{step.name}: {result.code}: {result.message}"
        assert result.final is not None
        geometry = result.final.geometry
        results.append(result)
    return results
