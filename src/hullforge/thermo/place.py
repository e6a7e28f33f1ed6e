"""From energies of one functional to its convex hull: the stage `hull` of a round.

Comes in: the `calculations` tables of rounds 0 to r. Goes out: the tables `hull` (formation energy, distance,
decomposition and chemical potentials of each calculation), `elemental_references` (the energies that formation
energies are taken against) and, where phases are known beforehand, `known_phases`. Known phases are on the hull like
calculations and may be references; they are rows of their own table, not of `hull`. Rows whose recovery touched the energy (`protocol_drift`) are left out; energies of
two theories are never placed together. Corrects no energies: `correction_scheme` is 'none'.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.vocabulary import HullStatus
from hullforge.thermo import known as known_phases
from hullforge.thermo.hull import ConvexHull
from hullforge.thermo.known import Phase
from hullforge.thermo.simplex import Floats

Row = dict[str, Any]

#: Columns of `calculations` that the hull is made from; most of them go on to the table `hull`.
COPIED = (
    "calculation_id", "structure_id", "candidate_id", "prototype_id", "round", "functional", "theory_id",
    "nsites", "volume", "elements", "nelements", "chemsys", "chemical_formula_reduced", "energy_per_atom",
)  # fmt: skip


def run(
    functional: str,
    round_: int,
    calculations: list[Path],
    out: Path,
    references: Path,
    known: Path | None = None,
    engine: str = "",
) -> None:
    """Place all calculations of `functional` and write the tables `hull` to `out` and its references.

    `known` is the user's table of known phases for a campaign with `engine`; they are placed too, and written
    beside `out` as `known_beside` says. Raises `TableError` when the calculations are of more than one theory, an
    id repeats, or an energy isn't finite, and `ConfigError` for a table of known phases that can't be used.
    """
    rows = [row for path in calculations for row in _undrifted(path, functional)]
    phases = known_phases.load(known, engine) if known is not None else []
    placement = placed(rows, round_, phases, functional)
    tables.write(references, "elemental_references", placement.references)
    if known is not None:
        tables.write(known_beside(out), "known_phases", placement.known)
    tables.write(out, "hull", placement.hull)


def known_beside(hull: Path) -> Path:
    """Where the table `known_phases` of a `hull` table lies, if there are known phases."""
    return hull.with_name(f"{hull.stem}-known.parquet")


@dataclass(frozen=True)
class Placed:
    """Rows of the tables `hull`, `elemental_references` and `known_phases`."""

    hull: list[Row]
    references: list[Row]
    known: list[Row]


def placed(
    rows: Sequence[Mapping[str, Any]], round_: int, known: Sequence[Phase] = (), functional: str = ""
) -> Placed:
    """Place calculations of one functional, and known phases, on their common hull.

    `rows` need the columns `COPIED`; energies are in eV/atom. `functional` labels references that are known phases.
    """
    rows = sorted(rows, key=lambda row: row["calculation_id"])
    _check(rows)
    theory = rows[0]["theory_id"] if rows else ""
    phases = [_as_row(phase, functional, theory) for phase in sorted(known, key=lambda phase: phase.phase_id)]
    references = elemental_references([*rows, *phases])
    elements = tuple(sorted(references))
    complete = [row for row in [*rows, *phases] if all(element in references for element in row["elements"])]
    fractions = atomic_fractions([row["chemical_formula_reduced"] for row in complete], elements)
    reference_energies = np.array([references[element]["energy_per_atom"] for element in elements])
    energies = np.array([row["energy_per_atom"] for row in complete], dtype=float)
    formation = energies - fractions @ reference_energies if complete else energies
    hull = ConvexHull.from_formation_energies(
        elements, fractions, formation, [row["calculation_id"] for row in complete]
    )
    placement = hull.place()
    number = {row["calculation_id"]: i for i, row in enumerate(complete)}
    hull_rows = []
    for row in rows:
        out = {column: row[column] for column in COPIED} | {
            "correction_scheme": "none",
            "hull_version": round_,
        }
        i = number.get(row["calculation_id"])
        if i is None:
            out |= {
                "formation_energy_per_atom": None,
                "e_above_hull": None,
                "is_on_hull": False,
                "hull_status": HullStatus.MISSING_REFERENCE.value,
                "decomposition": [],
                "chemical_potentials": None,
            }
        else:
            potentials = placement.chemical_potentials[i]
            out |= {
                "formation_energy_per_atom": float(formation[i]),
                "e_above_hull": float(placement.e_above_hull[i]),
                "is_on_hull": bool(placement.is_on_hull[i]),
                "hull_status": HullStatus.OK.value,
                "decomposition": [
                    {"calculation_id": phase, "fraction": share}
                    for phase, share in placement.decomposition[i]
                ],
                "chemical_potentials": [
                    float(potentials[elements.index(element)]) for element in row["elements"]
                ],
            }
        hull_rows.append(out)
    known_rows = []
    for row in phases:
        i = number.get(row["calculation_id"])
        known_rows.append(
            {column: row[column] for column in _KNOWN_COPIED}
            | {
                "phase_id": row["calculation_id"],
                "hull_version": round_,
                "formation_energy_per_atom": None if i is None else float(formation[i]),
                "e_above_hull": None if i is None else float(placement.e_above_hull[i]),
                "is_on_hull": i is not None and bool(placement.is_on_hull[i]),
            }
        )
    return Placed(hull_rows, [references[element] for element in elements], known_rows)


_KNOWN_COPIED = (
    "functional",
    "elements",
    "nelements",
    "chemsys",
    "chemical_formula_reduced",
    "energy_per_atom",
)


def _as_row(phase: Phase, functional: str, theory: str) -> Row:
    """Give a known phase the columns that placing and references need; it has no structure."""
    return {
        "calculation_id": phase.phase_id,
        "structure_id": "",
        "functional": functional,
        "theory_id": theory,
        "elements": list(phase.elements),
        "nelements": len(phase.elements),
        "chemsys": "-".join(phase.elements),
        "chemical_formula_reduced": phase.formula,
        "energy_per_atom": phase.energy_per_atom,
    }


def elemental_references(rows: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """Give the row of `elemental_references` of each element: its lowest calculation, of equals the smallest id."""
    lowest: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if len(row["elements"]) == 1:
            element = row["elements"][0]
            if element not in lowest or _rank(row) < _rank(lowest[element]):
                lowest[element] = row
    columns = ("functional", "theory_id", "calculation_id", "structure_id", "energy_per_atom")
    return {
        e: {"element": e, **{column: row[column] for column in columns}} for e, row in sorted(lowest.items())
    }


def load_hull(path: Path, elements: Sequence[str] | None = None, known: Path | None = None) -> ConvexHull:
    """Make the hull of a `hull` table again, to query it; `known` is its table `known_phases`, where it has one.

    Only its stable entries are loaded, which decide alone. `elements` is the order of the columns of fractions,
    by default the elements of the table, alphabetical; elements that the table lacks have no reference, so that
    distances of their compounds are NaN.
    """
    columns = [
        "calculation_id",
        "elements",
        "chemical_formula_reduced",
        "formation_energy_per_atom",
        "is_on_hull",
    ]
    rows = tables.read_rows(path, "hull", columns)
    if known is not None:
        columns[0] = "phase_id"
        phases = tables.read_rows(known, "known_phases", columns)
        rows += [row | {"calculation_id": row["phase_id"]} for row in phases]
    if elements is None:
        elements = sorted({element for row in rows for element in row["elements"]})
    else:
        rows = [row for row in rows if set(row["elements"]) <= set(elements)]
    rows = [row for row in rows if row["is_on_hull"]]
    return ConvexHull.from_formation_energies(
        elements,
        atomic_fractions([row["chemical_formula_reduced"] for row in rows], elements),
        [row["formation_energy_per_atom"] for row in rows],
        [row["calculation_id"] for row in rows],
    )


def atomic_fractions(formulas: Sequence[str], elements: Sequence[str]) -> Floats:
    """Give atomic fractions (N, E) of formulas such as Mg2Si; raises `TableError` for an element that isn't listed."""
    column = {element: i for i, element in enumerate(elements)}
    out = np.zeros((len(formulas), len(column)))
    for row, formula in enumerate(formulas):
        counts = _counts(formula)
        total = sum(counts.values())
        for element, count in counts.items():
            if element not in column:
                raise TableError(
                    f"formula {formula}: {element} is not among the elements {', '.join(elements)}"
                )
            out[row, column[element]] = count / total
    return out


@lru_cache(maxsize=100_000)
def _counts(formula: str) -> dict[str, int]:
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    if not parts or "".join(symbol + count for symbol, count in parts) != formula:
        raise TableError(f"{formula!r} is not a reduced formula")
    return {symbol: int(count or 1) for symbol, count in parts}


def _undrifted(path: Path, functional: str) -> list[Row]:
    table = tables.read(path, "calculations", [*COPIED, "protocol_drift"])
    keep = pc.and_(
        pc.equal(table["functional"], functional), pc.equal(pc.list_value_length(table["protocol_drift"]), 0)
    )
    rows: list[Row] = table.filter(keep).select(list(COPIED)).to_pylist()
    return rows


def _rank(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["energy_per_atom"], row["calculation_id"]


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    theories = sorted({row["theory_id"] for row in rows})
    if len(theories) > 1:
        raise TableError(
            f"calculations of one functional come from {len(theories)} theories ({', '.join(theories)}); their energies"
            " don't compare. Give each its own campaign, or compute the older ones again"
        )
    for before, row in pairwise(rows):
        if before["calculation_id"] == row["calculation_id"]:
            raise TableError(f"calculation {row['calculation_id']} is in more than one row")
    for row in rows:
        if not np.isfinite(row["energy_per_atom"]):
            raise TableError(f"calculation {row['calculation_id']}: its energy is {row['energy_per_atom']}")
