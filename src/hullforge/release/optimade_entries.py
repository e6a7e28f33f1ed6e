"""A release's calculations as OPTIMADE structures: the rows that `hullforge serve` answers from.

Comes in: a release folder. Goes out: a table in memory (DuckDB) with one row per calculation, the standard's
properties made from the release's own columns, and beside them the release's energies and hull distances; and the
description of every column. A structure is a calculation's final geometry: one crystal computed with two functionals
is two entries. Reads only files whose checksums agree with the release's list; writes nothing.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from hullforge.errors import SealError
from hullforge.release import layout
from hullforge.release.optimade_filter import Kind
from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import NUMBERS
from hullforge.thermo import corrections

#: Prefix of what the standard has no name for.
PREFIX = "hullforge"
#: Columns of `calculations` and `hull` that are served with the prefix.
OF_CALCULATIONS = (
    "energy", "energy_per_atom", "free_energy", "functional", "theory_id", "run_type", "software",
    "software_version", "structure_id", "candidate_id", "prototype_id", "round", "source", "volume", "chemsys",
    "max_force", "max_stress", "total_magnetization", "band_gap", "dos_at_fermi",
)  # fmt: skip
OF_HULL = (
    "formation_energy_per_atom", "e_above_hull", "is_on_hull", "hull_status", "correction_scheme",
    "energy_correction_per_atom", "hull_version",
)  # fmt: skip
_SHARED = ("elements", "nelements", "nsites", "chemical_formula_reduced")
#: Properties of the standard that are made here, and what they hold.
_STANDARD = {
    "id": Kind.TEXT,
    "type": Kind.TEXT,
    "immutable_id": Kind.TEXT,
    "last_modified": Kind.TIME,
    "elements": Kind.TEXTS,
    "nelements": Kind.NUMBER,
    "elements_ratios": Kind.NUMBERS,
    "chemical_formula_descriptive": Kind.TEXT,
    "chemical_formula_reduced": Kind.TEXT,
    "chemical_formula_anonymous": Kind.TEXT,
    "dimension_types": Kind.NUMBERS,
    "nperiodic_dimensions": Kind.NUMBER,
    "nsites": Kind.NUMBER,
    "species_at_sites": Kind.TEXTS,
    "structure_features": Kind.TEXTS,
    "space_group_it_number": Kind.NUMBER,
    "lattice_vectors": Kind.OPAQUE,
    "cartesian_site_positions": Kind.OPAQUE,
    "species": Kind.OPAQUE,
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def provider_fields() -> list[dict[str, Any]]:
    """Give name, type, unit and description of what is served with the prefix, from the tables' own schema."""
    found = []
    for name, columns in (("calculations", OF_CALCULATIONS), ("hull", OF_HULL)):
        by_name = {column.name: column for column in TABLES[name].columns}
        for column in (by_name[c] for c in columns):
            field = {"name": column.name, "type": _type(column.type), "description": column.description}
            found.append(field | ({"unit": column.unit} if column.unit else {}))
    return found


def kinds() -> dict[str, Kind]:
    """Give what each column of the table holds, as filters tell apart."""
    of = {"string": Kind.TEXT, "boolean": Kind.TRUTH, "float": Kind.NUMBER, "integer": Kind.NUMBER}
    return _STANDARD | {field["name"]: of[field["type"]] for field in provider_fields()}


def _type(type_: pa.DataType) -> str:
    """Give OPTIMADE's name of a type."""
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    return "float" if pa.types.is_floating(type_) else "string"


def database(folder: Path, functionals: Sequence[str], schemes: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """Give a database in memory with the table `structures` of the release; it can reach no file and no network.

    `functionals` and `schemes` (of corrections): as in the release's configuration. Raises `TableError` for files
    that are no tables of a release, and `SealError` for those that are not what the list of checksums says.
    """
    lines = (line.partition("  ") for line in (folder / layout.SUMS).read_text().splitlines())
    sums = {path: digest for digest, _, path in lines}

    def unchanged(path: str) -> None:
        if sums.get(path) != layout.sha256(folder / path):
            raise SealError(
                f"{path}: not what {layout.SUMS} says; `hullforge verify {folder}` lists what is wrong"
            )

    def read(name: str, columns: list[str], stem: str | None = None) -> pa.Table:
        path = layout.table(name, stem)
        table = tables.read(folder / path, name, columns)
        unchanged(path)
        return table

    unchanged(layout.DATASET)
    unchanged(layout.CONFIG)

    groups = read("structures", ["structure_id", "space_group_it_number"])
    modified = datetime.fromtimestamp((folder / layout.SUMS).stat().st_mtime, UTC).replace(
        microsecond=0, tzinfo=None
    )
    con = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    for number, functional in enumerate(functionals):
        own = [
            "calculation_id",
            *_SHARED,
            *OF_CALCULATIONS,
            "numbers",
            "cell",
            "positions",
            "pbc",
        ]
        calculations = _standard(read("calculations", own, functional))
        deciding = corrections.deciding(functional, schemes)
        hull = read("hull", ["calculation_id", *OF_HULL], deciding)
        # the three names stand in the statement and mean the Arrow tables of this loop
        con.register("calculations", calculations)
        con.register("hull", hull)
        con.register("groups", groups)
        columns = ", ".join(f'hull."{name}"' for name in OF_HULL)
        select = (
            f"SELECT calculations.* EXCLUDE (calculation_id), calculation_id AS id, {columns}, "  # noqa: S608
            "space_group_it_number, 'structures' AS type, NULL::VARCHAR AS immutable_id, "
            "[]::VARCHAR[] AS structure_features, ?::TIMESTAMP AS last_modified "
            "FROM calculations LEFT JOIN hull USING (calculation_id) LEFT JOIN groups USING (structure_id) "
            "ORDER BY id"
        )
        con.execute(
            f"CREATE TABLE structures AS {select}"
            if number == 0
            else f"INSERT INTO structures BY NAME {select}",
            [modified],
        )
        for name in ("calculations", "hull", "groups"):
            con.unregister(name)
    con.execute("SET enable_external_access = false; SET lock_configuration = true")
    return con


def _standard(calculations: pa.Table) -> pa.Table:
    """Replace the release's geometry by the standard's columns; formulas are taken apart once each."""
    calculations = calculations.combine_chunks()
    formulas = calculations["chemical_formula_reduced"].combine_chunks().dictionary_encode()
    parsed = [_parsed(formula) for formula in formulas.dictionary.to_pylist()]
    ratios = pa.array([ratio for ratio, _ in parsed], pa.list_(pa.float64())).take(formulas.indices)
    anonymous = pa.array([name for _, name in parsed], pa.string()).take(formulas.indices)
    symbols = np.full(max(NUMBERS.values()) + 1, "", object)
    for symbol, number in NUMBERS.items():
        symbols[number] = symbol
    numbers = calculations["numbers"].combine_chunks()
    at_sites = pa.ListArray.from_arrays(
        numbers.offsets, pa.array(symbols, pa.string()).take(numbers.values.cast(pa.int32()))
    )
    pbc = calculations["pbc"].combine_chunks().flatten().cast(pa.int8())
    offsets = pa.array(np.arange(0, 3 * len(calculations) + 1, 3), pa.int32())
    periodic = pbc.to_numpy().reshape(-1, 3).sum(axis=1).astype(np.int8)
    named = {
        "elements_ratios": ratios,
        "chemical_formula_anonymous": anonymous,
        "chemical_formula_descriptive": calculations["chemical_formula_reduced"],
        "species_at_sites": at_sites,
        "dimension_types": pa.ListArray.from_arrays(offsets, pbc),
        "nperiodic_dimensions": pa.array(periodic),
        "lattice_vectors": calculations["cell"],
        "cartesian_site_positions": calculations["positions"],
    }
    for name, column in named.items():
        calculations = calculations.append_column(name, column)
    return calculations.drop_columns(["numbers", "cell", "positions", "pbc"])


def _parsed(formula: str) -> tuple[list[float], str]:
    """Give the fractions of the elements, alphabetical as in the reduced formula, and the anonymous formula."""
    counts = [int(count or 1) for _, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)]
    ordered = sorted((count // reduce(math.gcd, counts) for count in counts), reverse=True)
    anonymous = "".join(f"{_letters(i)}{count if count > 1 else ''}" for i, count in enumerate(ordered))
    return [count / sum(counts) for count in counts], anonymous


def _letters(index: int) -> str:
    """Give the label of an anonymous element: A to Z, then Aa, Ba, ..."""
    return _LETTERS[index % 26] + ("" if index < 26 else chr(ord("a") + index // 26 - 1))


def document(row: dict[str, Any]) -> dict[str, Any]:
    """Give an entry as OPTIMADE's Python tools expect it, from a row of the table."""
    cell, positions = row["lattice_vectors"], row["cartesian_site_positions"]
    return row | {
        "lattice_vectors": [list(cell[i : i + 3]) for i in (0, 3, 6)],
        "cartesian_site_positions": [list(position) for position in positions],
        "species": [
            {"name": element, "chemical_symbols": [element], "concentration": [1.0]}
            for element in row["elements"]
        ],
        "last_modified": row["last_modified"].replace(tzinfo=UTC),
    }
