"""What a campaign with VASP will cost: calculations, electrons, k-points, and core-hours from those already done.

Comes in: a campaign, and whatever tables its folder has; goes out: a line per functional. The work of a calculation is
taken as k-points times electrons squared: what VASP does for a cell of tens of atoms lies between the square (FFTs,
bands times plane waves) and the cube (orthogonalisation) of its size, for each k-point. One factor per functional, core
seconds per unit of work, comes from the calculations done so far; while there are none, no core-hours are given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hullforge.config import Campaign
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import vasp_inputs, vasp_potcars
from hullforge.dft.engines.vasp_settings import functional_of
from hullforge.dft.protocol import Protocol
from hullforge.dft.step import Geometry
from hullforge.errors import EngineError, TableError
from hullforge.store import tables
from hullforge.store.structures import SYMBOLS

STRUCTURE = ("calculation_id", "functional", "numbers", "cell", "positions", "pbc")


@dataclass(frozen=True)
class Line:
    """One functional: calculations at most and those done; means over known structures; core-hours of those to come."""

    functional: str
    calculations: int
    done: int
    steps: int
    structures: int
    electrons: float | None
    kpoints: float | None
    core_hours: float | None


def estimate(campaign: Campaign) -> list[Line]:
    """Give a line per functional of a campaign with the engine vasp.

    Structures are known from tables of starts and of results. Raises `ProtocolError` or `ConfigError` for a broken
    protocol; a table that can't be read counts as absent.
    """
    protocol = protocols.load(campaign.protocol)
    return [_line(campaign, protocol, functional) for functional in campaign.functionals]


def _line(campaign: Campaign, protocol: Protocol, functional: str) -> Line:
    folder, first = campaign.folder, functional == campaign.functionals[0]
    budgets = [entry.budget for entry in campaign.rounds]
    most = sum(budgets if first else [min(budget, campaign.promotion.max_structures) for budget in budgets])
    done = list(_done(folder, functional, protocol.theory_id(functional, campaign.engine)))
    starts = list(_starts(folder)) if first else []
    known = [row for row, _ in done] + starts
    sizes = [size for row in known if (size := _size(protocol, functional, row)) is not None]
    done_work = [
        (seconds, size[0] ** 2 * size[1])
        for row, seconds in done
        if seconds > 0 and (size := _size(protocol, functional, row)) is not None
    ]
    core_hours = None
    if done_work and sizes:
        factor = sum(seconds for seconds, _ in done_work) / sum(work for _, work in done_work)
        typical = fmean(electrons**2 * points for electrons, points in sizes)
        core_hours = max(0, most - len(done)) * typical * factor / 3600
    return Line(
        functional=functional,
        calculations=most,
        done=len(done),
        steps=len(protocol.steps(functional, "vasp")),
        structures=len(sizes),
        electrons=fmean(electrons for electrons, _ in sizes) if sizes else None,
        kpoints=fmean(points for _, points in sizes) if sizes else None,
        core_hours=core_hours,
    )


def _size(protocol: Protocol, functional: str, row: dict[str, Any]) -> tuple[float, float] | None:
    """Electrons, and k-points of the last step's whole grid, of a structure; None where they can't be told."""
    ours = functional_of(protocol, functional)
    geometry = Geometry(**{key: row[key] for key in ("numbers", "cell", "positions", "pbc")})
    try:
        electrons = sum(
            vasp_potcars.known(
                ours.potcars.family, vasp_inputs.potcar_label(ours, ours.base, SYMBOLS[number])
            ).electrons
            for number in geometry.numbers
        )
        grid = vasp_inputs.grid_of(protocol, functional, geometry)
    except (EngineError, ValueError):
        return None
    return (electrons, float(grid[0] * grid[1] * grid[2])) if grid is not None else None


def _done(folder: Path, functional: str, theory: str) -> Iterator[tuple[dict[str, Any], float]]:
    """Give the calculations of a theory that are done, from finished batches and closed rounds, with their core seconds."""
    seen: set[str] = set()
    places = [
        *folder.glob(f"round-*/dft/{functional}-{theory}/batch-*/calculations.parquet"),
        *folder.glob("round-*/calculations.parquet"),
    ]
    for path in sorted(places):
        seconds = {
            row["calculation_id"]: row["cpu_time_s"]
            for row in _rows(path.with_name("costs.parquet"), "costs", ("calculation_id", "cpu_time_s"))
        }
        for row in _rows(path, "calculations", (*STRUCTURE, "theory_id")):
            if row["theory_id"] == theory and row["calculation_id"] not in seen:
                seen.add(row["calculation_id"])
                yield row, seconds.get(row["calculation_id"], 0.0)


def _starts(folder: Path) -> Iterator[dict[str, Any]]:
    """Give the starting geometries of all rounds so far."""
    for path in sorted(folder.glob("round-*/prerelax/batch-*.parquet")):
        yield from _rows(path, "prerelax", STRUCTURE[2:])


def _rows(path: Path, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return tables.read_rows(path, name, columns) if path.is_file() else []
    except TableError:
        return []


def render(lines: Sequence[Line]) -> str:
    """Give the lines as a table of text."""
    head = ("functional", "calculations", "done", "steps each", "electrons", "k-points", "core-hours to come")
    body = [
        (
            line.functional,
            f"<= {line.calculations}",
            str(line.done),
            str(line.steps),
            "-" if line.electrons is None else f"{line.electrons:.0f}",
            "-" if line.kpoints is None else f"{line.kpoints:.0f}",
            "-" if line.core_hours is None else f"{line.core_hours:.3g}",
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *body)
    ]
    known = max((line.structures for line in lines), default=0)
    foot = f"electrons and k-points (of the whole grid): means of {known} known structures; core-hours: k-points x electrons^2,"
    return "\n".join(
        [*rows, f"{foot} scaled by the calculations done" if known else "no structure is known yet"]
    )
