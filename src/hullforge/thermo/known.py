"""Phases that are known before a campaign begins: on the hull from the start, and never computed.

Comes in: the user's table, CSV or Parquet, with the columns `id`, `formula` and an energy in eV/atom: either
`energy_per_atom`, total energies of the campaign's own theory, or `formation_energy_per_atom`, which only a
campaign whose calculations are formation energies themselves can use (the engine replay). Elements have rows of
their own; an element's lowest phase, known or computed, is its reference. Where the campaign's hull is corrected, a
column `correction_scheme` has to say so of these energies, too. A table `entries`, as `hullforge import` makes it, is
read too: its energies of the campaign's functional, with its corrections where the hull has the same. Goes out: a
`Phase` a row, sorted by id.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import ConfigError
from hullforge.store import tables
from hullforge.store.structures import NUMBERS, composition_columns

#: What ids of known phases begin with in the tables of a campaign; no calculation's does.
PREFIX = "known:"
TOTAL, FORMATION = "energy_per_atom", "formation_energy_per_atom"
#: Says that the energies hold the corrections of a scheme already; absent or empty: they hold none.
SCHEME = "correction_scheme"
#: An element's formation energy further from zero than this is a mistake, eV/atom.
ZERO = 1e-8


@dataclass(frozen=True)
class Phase:
    """A known phase: its id in the campaign's tables, composition columns, energy in eV/atom."""

    phase_id: str
    elements: tuple[str, ...]
    formula: str
    energy_per_atom: float


def load(path: Path, engine: str, functional: str = "", scheme: str | None = "none") -> list[Phase]:
    """Read the user's table for a campaign with this engine, functional ('': whichever) and scheme (None: whichever).

    Raises `ConfigError` naming the file, the column or row, what was found and what is allowed.
    """
    names, rows = _rows(path, engine, functional, scheme)
    given = [name for name in (TOTAL, FORMATION) if name in names]
    missing = [name for name in ("id", "formula") if name not in names]
    if missing or len(given) != 1:
        raise ConfigError(
            f"hull.known_phases: {path} has the columns {', '.join(names)}; needed are id, formula and one of"
            f" {TOTAL} and {FORMATION}"
        )
    if given[0] == FORMATION and engine not in ("", "replay"):
        raise ConfigError(
            f"hull.known_phases: {path} gives {FORMATION}, which can't be compared with total energies of the engine"
            f" {engine}; give {TOTAL} of the campaign's own theory, the elements among them"
        )
    if scheme not in (None, "none") and SCHEME not in names:
        raise ConfigError(
            f"hull.known_phases: {path} lacks the column {SCHEME}; with hull.corrections {scheme} each row has to say"
            f" that its energy is corrected: {scheme}"
        )
    phases: dict[str, Phase] = {}
    for number, row in enumerate(rows, start=1):
        found = str(row.get(SCHEME) or "none")
        if scheme is not None and found != scheme:
            raise ConfigError(
                f"hull.known_phases: {path}, row {number}: {SCHEME} is {found}; the campaign's hull has {scheme}"
            )
        phase = _phase(row, given[0], f"hull.known_phases: {path}, row {number}")
        if phase.phase_id in phases:
            raise ConfigError(f"hull.known_phases: {path}, row {number}: the id {row['id']} repeats")
        phases[phase.phase_id] = phase
    if not phases:
        raise ConfigError(f"hull.known_phases: {path} has no rows")
    return [phases[name] for name in sorted(phases)]


def elements_of(path: Path) -> set[str]:
    """Give the elements that a table of known phases has a reference for; errors as in `load`."""
    return {phase.elements[0] for phase in load(path, "", "", None) if len(phase.elements) == 1}


def _phase(row: dict[str, Any], column: str, where: str) -> Phase:
    try:
        energy = float(row[column])
    except (TypeError, ValueError):
        energy = math.nan
    if not math.isfinite(energy):
        raise ConfigError(f"{where}: {column} is {row[column]!r}; a number in eV/atom is needed")
    if not row["id"]:
        raise ConfigError(f"{where}: the id is empty")
    columns = composition_columns(_numbers(str(row["formula"]), where))
    if column == FORMATION and columns["nelements"] == 1 and abs(energy) > ZERO:
        raise ConfigError(
            f"{where}: the element {row['formula']} has a formation energy of {energy:g} eV/atom; elements have 0"
        )
    return Phase(
        PREFIX + str(row["id"]), tuple(columns["elements"]), columns["chemical_formula_reduced"], energy
    )


def _numbers(formula: str, where: str) -> list[int]:
    """Give the atomic numbers of a formula such as Ca2Nb2O7."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    if (
        not parts
        or "".join(s + n for s, n in parts) != formula
        or any(NUMBERS.get(s, 0) == 0 for s, _ in parts)
    ):
        raise ConfigError(f"{where}: {formula!r} is not a formula such as Ca2Nb2O7")
    if any(n and int(n) == 0 for _, n in parts):
        raise ConfigError(f"{where}: {formula!r} holds none of an element that it names")
    return [NUMBERS[symbol] for symbol, count in parts for _ in range(int(count or 1))]


def _rows(
    path: Path, engine: str, functional: str, scheme: str | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Read columns and rows of a CSV or Parquet file, or of a table `entries`."""
    if not path.is_file():
        raise ConfigError(f"hull.known_phases: {path}: no such file")
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            return list(reader.fieldnames or []), list(reader)
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        if (schema.metadata or {}).get(b"hullforge.table") == b"entries":
            return _entries(path, engine, functional, scheme)
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"hull.known_phases: {path} is neither a .csv nor a whole Parquet file: {error}"
        ) from None
    return table.column_names, table.to_pylist()


def _entries(
    path: Path, engine: str, functional: str, scheme: str | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Read imported entries, with one kind of energy and of one theory; what a scheme corrects may be of several."""
    names = [
        "id",
        "chemical_formula_reduced",
        "functional",
        "theory_id",
        TOTAL,
        FORMATION,
        "hubbards",
        "run_type",
    ]
    names += ["energy_correction_per_atom", SCHEME]
    table = tables.read(path, "entries", names)
    theories = table.group_by(["functional", "theory_id"]).aggregate([([], "count_all")]).to_pylist()
    found = ", ".join(
        f"{row['count_all']} of {row['functional']} ({row['theory_id']})"
        for row in sorted(theories, key=lambda row: (row["functional"], row["theory_id"]))
    )
    mixed = len(theories) > 1 and scheme in (None, "none")
    if mixed or (functional and {row["functional"] for row in theories} - {functional}):
        raise ConfigError(
            f"hull.known_phases: {path} holds entries {found}; needed are those of one theory, which is the campaign's own"
            f"{f': {functional}' if functional else ''}. Keep the rows of one theory"
        )
    total, formation = (table.num_rows - table[name].null_count for name in (TOTAL, FORMATION))
    if engine == "replay" and total and formation:
        raise ConfigError(
            f"hull.known_phases: {path} has both {TOTAL} and {FORMATION}, and the engine replay answers with either; give"
            f" a table of id, formula and the one that is meant"
        )
    energy = TOTAL if total or not formation else FORMATION
    if scheme == "none" and energy == TOTAL:
        _no_u(path, table)
    if scheme not in (None, "none"):
        corrected = pc.add(table[energy], table["energy_correction_per_atom"])
        table = table.set_column(table.column_names.index(energy), energy, corrected)
    kept = {"id": "id", "chemical_formula_reduced": "formula", energy: energy}
    kept |= {SCHEME: SCHEME} if scheme not in (None, "none") else {}
    table = table.select(list(kept)).rename_columns(list(kept.values()))
    return table.column_names, table.to_pylist()


def _no_u(path: Path, table: pa.Table) -> None:
    """Refuse entries with U: on a hull without corrections they don't compare with elements that have none."""
    for row in table.select(["id", "hubbards", "run_type"]).to_pylist():
        if any(tables.as_dict(row["hubbards"] or []).values()) or (row["run_type"] or "").endswith("+U"):
            raise ConfigError(
                f"hull.known_phases: {path}: {row['id']} was computed with a Hubbard U, whose energies don't compare with"
                " those without on an uncorrected hull. Leave such entries out, or make the hull with MP2020"
            )
