"""From outcomes to rows: what a calculation left behind, in the words of the tables.

Comes in: a `Start` and its `Outcome`; goes out: rows of `calculations` or `failures`, `frames` and `costs`, as
`hullforge.store.schema` wants them. Nothing here reads or writes files, and no row but a cost depends on the
machine or the clock.
"""

from collections.abc import Iterator
from typing import Any

from hullforge.dft.calculation import Context, Outcome, Start
from hullforge.dft.recovery import max_force, max_stress
from hullforge.dft.step import Geometry
from hullforge.store.structures import structure_columns


def geometry_columns(geometry: Geometry) -> dict[str, Any]:
    """Give structure and derived columns of a geometry, `structure_id` included."""
    return structure_columns(geometry.numbers, geometry.cell, geometry.positions, geometry.pbc)


def _common(context: Context, start: Start, outcome: Outcome) -> dict[str, Any]:
    """Give the columns that calculations and failures share."""
    return {
        "calculation_id": outcome.calculation_id,
        "candidate_id": start.row["candidate_id"],
        "prototype_id": start.row["prototype_id"],
        "round": context.settings.round,
        "source": context.settings.source,
        "functional": context.settings.functional,
        "theory_id": context.theory_id,
        "parent_structure_id": start.row["structure_id"],
        "n_attempts": sum(len(step.attempts) for step in outcome.steps),
        "errors": [
            f"{s.name}:{a.code}" + (f":{a.detail}" if a.detail else "")
            for s in outcome.steps
            for a in s.attempts
            if a.code
        ],
        "supersedes": start.row.get("supersedes"),
        "corrections": [f"retry:{change}" for change in start.changes]
        + [f"{s.name}:{c}" for s in outcome.steps for a in s.attempts for c in a.corrections],
        "protocol_drift": [f"{s.name}:{change}" for s in outcome.steps for change in s.drift],
    }


def calculation_row(context: Context, start: Start, outcome: Outcome) -> dict[str, Any]:
    """Give the row of a calculation that converged."""
    settings = context.settings
    last = outcome.steps[-1]
    assert last.result is not None
    assert last.result.final is not None
    result, final = last.result, last.result.final
    geometry = geometry_columns(final.geometry)
    elements = geometry["elements"]
    statics = [step.result for step in outcome.steps if step.kind == "static" and step.result is not None]
    static = statics[-1] if statics else None
    return {
        **_common(context, start, outcome),
        **geometry,
        "run_type": context.engine.run_type(settings.functional, elements, context.protocol),
        "hubbards": context.engine.hubbards(settings.functional, elements, context.protocol),
        "software": settings.engine.name,
        "software_version": settings.engine.version,
        "pseudopotentials": context.engine.pseudopotentials(
            settings.functional, elements, context.protocol, settings.engine
        ),
        "input_hash": outcome.steps[0].input_hash,
        "encut": result.encut,
        "kpoints": result.kpoints,
        "steps": [step.name for step in outcome.steps],
        "energy": final.energy,
        "energy_per_atom": final.energy / len(final.geometry.numbers),
        "free_energy": final.free_energy,
        "forces": final.forces,
        "stress": final.stress,
        "max_force": max_force(final.forces) if final.forces is not None else None,
        "max_stress": max_stress(final.stress, final.geometry.pbc) if final.stress is not None else None,
        "magmoms": final.geometry.magmoms,
        "total_magnetization": static.total_magnetization if static else None,
        "band_gap": static.band_gap if static else None,
        "dos_at_fermi": static.dos_at_fermi if static else None,
        "flags": [f"{s.name}:{flag}" for s in outcome.steps for flag in s.flags] or None,
        "n_ionic_steps": sum(len(step.frames) for step in outcome.steps),
    }


def failure_row(context: Context, start: Start, outcome: Outcome) -> dict[str, Any]:
    """Give the row of a calculation that failed; its geometry is the start."""
    geometry = geometry_columns(start.geometry)
    del geometry["structure_id"]
    return {
        **_common(context, start, outcome),
        **geometry,
        "reason": outcome.reason,
        "protocol_step": outcome.protocol_step,
        "message": outcome.message,
    }


def frame_rows(context: Context, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Give a row per ionic step of a calculation that converged, numbered through all steps."""
    frames = [(step, frame) for step in outcome.steps for frame in step.frames]
    for number, (step, frame) in enumerate(frames):
        yield {
            "frame_id": f"{outcome.calculation_id}-{number}",
            "calculation_id": outcome.calculation_id,
            "functional": context.settings.functional,
            "theory_id": context.theory_id,
            "step": number,
            "protocol_step": step.name,
            "numbers": frame.geometry.numbers,
            "cell": frame.geometry.cell,
            "positions": frame.geometry.positions,
            "pbc": frame.geometry.pbc,
            "energy": frame.energy,
            "free_energy": frame.free_energy,
            "electronic_converged": frame.electronic_converged,
            "forces": frame.forces,
            "stress": frame.stress,
            "magmoms": frame.geometry.magmoms,
        }


def cost_row(context: Context, outcome: Outcome) -> dict[str, Any]:
    """Give what a calculation cost, all attempts of all steps."""
    attempts = [attempt for step in outcome.steps for attempt in step.attempts]
    return {
        "calculation_id": outcome.calculation_id,
        "functional": context.settings.functional,
        "round": context.settings.round,
        "walltime_s": sum(attempt.walltime_s for attempt in attempts),
        "cpu_time_s": sum(attempt.cpu_time_s for attempt in attempts),
        "max_memory_mib": max((attempt.max_memory_mib for attempt in attempts), default=0.0),
    }
