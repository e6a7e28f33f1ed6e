"""From energies of one functional to its convex hull: the stage `hull` of a round.

Comes in: the `calculations` tables of rounds 0 to r. Goes out: the tables `hull` (formation energy, distance,
decomposition and chemical potentials of each calculation), `elemental_references` (the energies that formation
energies are taken against) and, where phases are known beforehand, `known_phases`. Known phases are on the hull like
calculations and may be references; they are rows of their own table, not of `hull`. Rows whose recovery touched the
energy (`protocol_drift`) are left out; energies of two theories are never placed together. Whole columns at a time,
for millions of calculations. Which corrections are added is decided by `hullforge.thermo.corrections`; what it can't
make comparable, and what has an energy that can't be one, is a row without formation energy, with the reason.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.vocabulary import HullStatus
from hullforge.thermo import corrections
from hullforge.thermo import known as known_phases
from hullforge.thermo.build import build, with_id_called
from hullforge.thermo.formulas import PROBLEMS, parse
from hullforge.thermo.hull import ConvexHull
from hullforge.thermo.known import Phase
from hullforge.thermo.refusals import Refusal
from hullforge.thermo.simplex import Floats

_LOG = logging.getLogger(__name__)

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
    scheme: str = "none",
) -> None:
    """Place all calculations of `functional` and write the tables `hull` to `out` and its references.

    `known` is the user's table of known phases for a campaign with `engine`; they are placed too, and written
    beside `out` as `known_beside` says. `scheme` corrects energies before they are placed. Raises `TableError` when
    the calculations are of more than one theory, an id repeats, or an energy isn't finite, and `ConfigError` for a
    table of known phases that can't be used.
    """
    columns = columns_of(corrections.Scheme(scheme))
    rows = pa.concat_tables(
        [
            _bare(tables.empty("calculations").select(columns)),
            *(_undrifted(p, functional, columns) for p in calculations),
        ]
    )
    phases = known_phases.load(known, engine, functional, scheme) if known is not None else []
    placement = placed(rows, round_, phases, functional, corrections.Scheme(scheme))
    tables.write(references, "elemental_references", placement.references)
    if known is not None:
        tables.write(known_beside(out), "known_phases", placement.known)
    tables.write(out, "hull", placement.hull)


def columns_of(scheme: corrections.Scheme) -> list[str]:
    """Columns of `calculations` that placing needs with this correction scheme."""
    needed = ("elements", "hubbards") if scheme is corrections.Scheme.NONE else corrections.COLUMNS
    return list(dict.fromkeys([*COPIED, *needed]))


def known_beside(hull: Path) -> Path:
    """Where the table `known_phases` of a `hull` table lies, if there are known phases."""
    return hull.with_name(f"{hull.stem}-known.parquet")


@dataclass(frozen=True)
class Placed:
    """The tables `hull`, `elemental_references` and `known_phases`."""

    hull: pa.Table
    references: pa.Table
    known: pa.Table


def placed(
    calculations: pa.Table,
    round_: int,
    known: Sequence[Phase] = (),
    functional: str = "",
    scheme: corrections.Scheme = corrections.Scheme.NONE,
) -> Placed:
    """Place N calculations of one functional, and known phases, on their common hull.

    `calculations` has the columns of `columns_of`, energies in eV/atom; the corrections of `scheme` are added to
    them before they are placed, while the column `energy_per_atom` stays as it was. What the scheme doesn't fit takes
    no part. Known phases are taken as they are. `functional` labels references that are known phases. Raises `TableError` as `run` does.
    """
    theories = sorted(pc.unique(calculations["theory_id"]).to_pylist())
    if len(theories) > 1:
        raise TableError(
            f"calculations of one functional come from {len(theories)} theories ({', '.join(theories)}); their energies"
            " don't compare. Give each its own campaign, or compute the older ones again"
        )
    corrected = corrections.correct(calculations, scheme)
    everything = calculations.append_column("energy_correction_per_atom", pa.array(corrected.per_atom))
    everything = everything.append_column("correction_note", pa.array(corrected.notes, pa.string()))
    fits = ~np.isnan(corrected.per_atom)
    calculations, left_out = everything.filter(pa.array(fits)), everything.filter(pa.array(~fits))
    phases = _as_table(known, functional, theories[0] if theories else "")
    shared = pa.concat_tables([_bare(calculations.select(phases.column_names)), phases])
    added = np.append(corrected.per_atom[fits], np.zeros(len(phases)))
    energies = pc.add(shared["energy_per_atom"], pa.array(added))
    built = build(
        pa.table(
            {
                "id": shared["calculation_id"],
                "formula": shared["chemical_formula_reduced"],
                "energy_per_atom": energies,
            }
        ),
        on_bad="refuse",
    )
    _tell(built.refused, {phase.phase_id for phase in known})
    chosen = pc.index_in(built.references["id"], shared["calculation_id"])
    references = shared.take(chosen).append_column("element", built.references["element"])
    references = references.append_column("correction_scheme", pa.repeat(scheme.value, len(references)))
    computed = built.rows < len(calculations)
    version = pa.scalar(round_, pa.int16())

    results = built.entries.filter(pa.array(computed))
    copied = [*COPIED, "energy_correction_per_atom", "correction_note"]
    hull = calculations.select(copied).take(pa.array(built.rows[computed]))
    for name in _RESULTS:
        column = results[name]
        hull = hull.append_column(
            name, with_id_called(column, "calculation_id") if name == "decomposition" else column
        )

    refused = calculations.filter(pc.is_in(calculations["calculation_id"], built.refused["id"]))
    for rows, status in ((left_out, HullStatus.INCOMPATIBLE), (refused, HullStatus.IMPOSSIBLE_ENERGY)):
        hull = pa.concat_tables([_bare(hull), _bare(_unplaced(rows.select(copied), hull.schema, status))])
    for name, value in {"correction_scheme": pa.scalar(scheme.value), "hull_version": version}.items():
        hull = hull.append_column(name, pa.repeat(value, len(hull)))

    results = built.entries.filter(pa.array(~computed))
    placed_phases = shared.take(pa.array(built.rows[~computed]))
    placed_phases = placed_phases.append_column("phase_id", placed_phases["calculation_id"])
    placed_phases = placed_phases.append_column("hull_version", pa.repeat(version, len(placed_phases)))
    for name in ("formation_energy_per_atom", "e_above_hull", "is_on_hull"):
        placed_phases = placed_phases.append_column(name, results[name])
    return Placed(
        tables.conform("hull", hull),
        tables.conform("elemental_references", references),
        tables.conform("known_phases", placed_phases),
    )


_RESULTS = (
    "formation_energy_per_atom", "e_above_hull", "is_on_hull", "hull_status", "decomposition", "chemical_potentials",
)  # fmt: skip


def _tell(refused: pa.Table, known: set[str]) -> None:
    """Warn of calculations with impossible energies, which stay out; raise `TableError` for all else."""
    for row in refused.to_pylist():
        kind = "known phase" if row["id"] in known else "calculation"
        text = f"{kind} {row['id']}: {row['detail']}"
        if row["reason"] != Refusal.IMPOSSIBLE_ENERGY or row["id"] in known:
            raise TableError(text)
        _LOG.warning("%s It takes no part in the hull", text)


def _unplaced(rows: pa.Table, like: pa.Schema, status: HullStatus) -> pa.Table:
    """Give rows that take no part in the hull the columns of results that it has for the others."""
    nothing = pa.nulls(len(rows), pa.float64())
    columns = {
        "energy_correction_per_atom": pc.if_else(
            pc.is_nan(rows["energy_correction_per_atom"]), None, rows["energy_correction_per_atom"]
        ),
        "formation_energy_per_atom": nothing,
        "e_above_hull": nothing,
        "is_on_hull": pa.array(np.zeros(len(rows), dtype=bool)),
        "hull_status": pa.repeat(status.value, len(rows)),
        "decomposition": pa.array([[] for _ in range(len(rows))], like.field("decomposition").type),
        "chemical_potentials": pa.nulls(len(rows), like.field("chemical_potentials").type),
    }
    return pa.table(
        [columns.get(name, rows[name] if name in rows.column_names else None) for name in like.names],
        names=like.names,
    )


def _as_table(phases: Sequence[Phase], functional: str, theory: str) -> pa.Table:
    """Give known phases the columns that placing and references need; they have no structure."""
    n = len(phases)
    return pa.table(
        {
            "calculation_id": pa.array([phase.phase_id for phase in phases], pa.string()),
            "structure_id": pa.repeat("", n),
            "functional": pa.repeat(functional, n),
            "theory_id": pa.repeat(theory, n),
            "elements": pa.array([phase.elements for phase in phases], pa.list_(pa.string())),
            "nelements": pa.array([len(phase.elements) for phase in phases], pa.int8()),
            "chemsys": pa.array(["-".join(phase.elements) for phase in phases], pa.string()),
            "chemical_formula_reduced": pa.array([phase.formula for phase in phases], pa.string()),
            "energy_per_atom": pa.array([phase.energy_per_atom for phase in phases], pa.float64()),
        }
    )


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
    rows = tables.read(path, "hull", columns)
    if known is not None:
        phases = tables.read(known, "known_phases", ["phase_id", *columns[1:]])
        rows = pa.concat_tables([_bare(rows), _bare(phases.rename_columns(columns))])
    if elements is None:
        elements = sorted(pc.unique(pc.list_flatten(rows["elements"])).to_pylist())
    rows = rows.filter(rows["is_on_hull"]).sort_by("calculation_id")
    formulas = parse(rows["chemical_formula_reduced"], elements)
    energies = rows["formation_energy_per_atom"].to_numpy()
    return ConvexHull.from_formulas(elements, formulas, energies, rows["calculation_id"])


def atomic_fractions(formulas: Sequence[str], elements: Sequence[str]) -> Floats:
    """Give atomic fractions (N, E) of formulas such as Mg2Si; raises `TableError` for an element that isn't listed."""
    parsed = parse(formulas, elements)
    if parsed.problem.any():
        which = int(np.argmax(parsed.problem > 0))
        raise TableError(f"formula {parsed.text[which].as_py()!r} {PROBLEMS[parsed.problem[which]]}")
    of = np.repeat(np.arange(len(parsed.text)), parsed.sizes)
    strange = parsed.elements >= len(elements)
    if strange.any():
        first = int(strange.argmax())
        raise TableError(
            f"formula {parsed.text[int(of[first])].as_py()}: {parsed.order[parsed.elements[first]]} is not among the"
            f" elements {', '.join(elements)}"
        )
    out = np.zeros((len(parsed.text), len(elements)))
    out[of, parsed.elements] = parsed.shares
    return out[parsed.code]


def _undrifted(path: Path, functional: str, columns: list[str]) -> pa.Table:
    table = tables.read(path, "calculations", [*columns, "protocol_drift"])
    keep = pc.and_(
        pc.equal(table["functional"], functional), pc.equal(pc.list_value_length(table["protocol_drift"]), 0)
    )
    return _bare(table.filter(keep).select(columns))


def _bare(table: pa.Table) -> pa.Table:
    """Drop what keeps tables of different origin from being joined: metadata, and which columns may be null."""
    return pa.Table.from_arrays(table.columns, table.column_names)
