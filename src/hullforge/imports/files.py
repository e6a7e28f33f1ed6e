"""Any files with energies as one table of columns, ready for `hullforge.thermo.build`.

Comes in: tables of hullforge (`entries`, `calculations`, `hull`, `known_phases`), CSV and Parquet of formulas and
energies, extended XYZ, JSON of computed entries. Goes out: `id`, `formula`, `energy_per_atom` and `theory_id`, and
what could not be read. Tables are read whole columns at a time, a million rows in seconds; no structure is kept.

    from hullforge.imports import files
    from hullforge.thermo.build import build
    built = build(files.read(["alexandria_000.json.bz2"]).table())
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hullforge.errors import TableError
from hullforge.imports.alexandria import Alexandria
from hullforge.imports.base import Found, Importer, Refused
from hullforge.imports.columns import Columns
from hullforge.imports.extxyz import ExtXyz
from hullforge.store import tables
from hullforge.store.vocabulary import HullStatus, ImportRefusal

STR, F64 = pa.string(), pa.float64()
#: What is known of each row. `theory` is of the total energy, `corrected_theory` of the corrected one: corrections
#: such as MP2020 are made to bring GGA and GGA+U onto one scale. Empty: nobody says.
LIGHT = pa.schema(
    [
        ("id", STR), ("formula", STR), ("energy", F64), ("correction", F64), ("formation", F64), ("above", F64),
        ("theory", STR), ("corrected_theory", STR),
    ]
)  # fmt: skip
_AT_ONCE = 4096


class Scale(StrEnum):
    """Which energies are placed."""

    AUTO = "auto"
    RAW = "raw"
    CORRECTED = "corrected"
    FORMATION = "formation"


@dataclass(frozen=True)
class Refusal:
    """A row that could not be read: its file, where in it, its id, the reason and what was found."""

    file: str
    row: str
    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Read:
    """The rows of some files (columns `LIGHT`), what was refused, and how many rows each file gave."""

    rows: pa.Table
    refused: list[Refusal]
    files: dict[str, int]

    def scale(self, wanted: Scale = Scale.AUTO) -> Scale:
        """Decide which energies the rows have in common.

        AUTO: corrected energies where all rows have a correction, total energies where none has, formation energies
        where there are no others. Raises `TableError` where rows have no energy of one kind in common.
        """
        total, correction = (len(self.rows) - self.rows[name].null_count for name in ("energy", "correction"))
        formation = len(self.rows) - self.rows["formation"].null_count
        if wanted is not Scale.AUTO:
            return wanted
        if total == 0 and formation:
            return Scale.FORMATION
        if correction == 0 or len(self.rows) == 0:
            return Scale.RAW
        if correction == total:
            return Scale.CORRECTED
        raise TableError(
            f"{correction} rows have an energy correction and {total - correction} have none; say which energies to"
            " place: --energy raw or corrected. Rows of a scheme that corrects only some of them become complete with"
            " hullforge import --correction-scheme NAME"
        )

    def of_theory(self, theory_id: str) -> "Read":
        """Give the rows of one theory alone, all where `theory_id` is empty; raises `TableError` when none is left."""
        if not theory_id:
            return self
        rows = self.rows.filter(pc.ends_with(self.rows["theory"], f"theory {theory_id}"))
        if not len(rows):
            named = "; ".join(sorted(filter(None, pc.unique(self.rows["theory"]).to_pylist()))) or "no theory"
            raise TableError(f"--theory {theory_id}: no row is of it; the files name {named}")
        return Read(rows, self.refused, self.files)

    def theories(self, scale: Scale) -> pa.ChunkedArray:
        """Give each row's theory as far as its file names it; empty where it doesn't."""
        return self.rows["corrected_theory" if scale is Scale.CORRECTED else "theory"]

    def table(self, wanted: Scale = Scale.AUTO, *, any_theory: bool = False) -> pa.Table:
        """Give the columns `id`, `formula`, `energy_per_atom` and `theory_id` for `build`, energies on one scale.

        Raises `TableError` as `scale` does, and for rows of two theories unless `any_theory`.
        """
        scale = self.scale(wanted)
        theory = self.theories(scale)
        if not any_theory:
            _one_theory(theory, scale)
        energy = self.rows["energy"]
        if scale is Scale.CORRECTED:
            energy = pc.add(energy, self.rows["correction"])
        elif scale is Scale.FORMATION:
            energy = self.rows["formation"]
        columns = {"id": self.rows["id"], "formula": self.rows["formula"], "energy_per_atom": energy}
        return pa.table(columns if any_theory else {**columns, "theory_id": theory})


def read(paths: Iterable[str | Path], columns: Columns | None = None) -> Read:
    """Read files; `columns` say what CSV, Parquet and extended XYZ call what.

    Ids that several CSV or extended XYZ files have are each file's own: there the file's name stands before all ids of
    these files. Raises `TableError` for a file that as a whole can't be read.
    """
    parts: list[pa.Table] = []
    numbered: dict[int, str] = {}
    refused: list[Refusal] = []
    count: dict[str, int] = {}
    for path in map(Path, paths):
        rows, bad = _reader(path)(path, columns or Columns())
        if {".csv", ".extxyz", ".xyz"} & {suffix.lower() for suffix in path.suffixes}:
            numbered[len(parts)] = path.name
        parts.append(rows.select(LIGHT.names).cast(LIGHT))
        refused += bad
        count[str(path)] = count.get(str(path), 0) + rows.num_rows
    ids = [pc.unique(parts[part]["id"]) for part in numbered]
    if len(ids) > 1 and len(pc.unique(pa.chunked_array(ids))) < sum(map(len, ids)):
        for part, name in numbered.items():
            own = pc.binary_join_element_wise(name, parts[part]["id"], ":")
            parts[part] = parts[part].set_column(0, LIGHT.field("id"), own)
    return Read(pa.concat_tables(parts) if parts else LIGHT.empty_table(), refused, count)


Light = tuple[pa.Table, list[Refusal]]


def _reader(path: Path) -> Callable[[Path, Columns], Light]:
    """Choose the reader by what the file is."""
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    kinds = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bz2")]
    kind = kinds[-1] if kinds else ""
    if kind == ".parquet":
        return _parquet
    if kind == ".csv":
        return _csv
    if kind == ".json":
        return lambda path, _: _imported(Alexandria(), path)
    if kind in (".extxyz", ".xyz"):
        return lambda path, columns: _imported(ExtXyz(columns), path)
    raise TableError(
        f"{path}: '{kind}' is nothing that is read; these are .parquet, .csv, .json, .extxyz and .xyz, the last four also"
        " with .gz or .bz2"
    )


# -------------------------------------------------------------------------------------- tables of hullforge


def _parquet(path: Path, columns: Columns) -> Light:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a whole Parquet file ({error})") from error
    name = (schema.metadata or {}).get(b"hullforge.table", b"").decode()
    if not name:
        meant = columns.found_in(schema.names, str(path))
        if "formula" not in meant or any("/" in source for source in meant.values()):
            from hullforge.imports.tabular import Parquet

            return _imported(Parquet(columns), path)
        wanted = sorted(set(meant.values()))
        return _named(pq.read_table(path, columns=wanted), meant, path), []
    if name not in _TABLES:
        raise TableError(
            f"{path}: the table '{name}' has no energies to place; these have: {', '.join(_TABLES)}"
        )
    return _TABLES[name](path)


def _entries(path: Path) -> Light:
    names = ["id", "chemical_formula_reduced", "energy_per_atom", "energy_correction_per_atom",
             "formation_energy_per_atom", "e_above_hull", "theory_id", "source", "functional", "correction_scheme"]  # fmt: skip
    table = tables.read(path, "entries", names)
    kind = pc.binary_join_element_wise(table["functional"], table["source"], " of ")
    corrected = pc.binary_join_element_wise(kind, table["correction_scheme"], ", corrected: ")
    theory = pc.binary_join_element_wise(kind, table["theory_id"], ", theory ")
    return _light(table, table["id"], theory, corrected, above="e_above_hull"), []


def _calculations(path: Path) -> Light:
    names = ["calculation_id", "chemical_formula_reduced", "energy_per_atom", "theory_id", "functional", "software",
             "protocol_drift", "run_type"]  # fmt: skip
    table = tables.read(path, "calculations", names)
    drifted = pc.greater(pc.list_value_length(table["protocol_drift"]), 0)
    refused = [
        Refusal(path.name, "", id_, "protocol_drift", "its recovery touched the energy")
        for id_ in table.filter(drifted)["calculation_id"].to_pylist()
    ]
    table = table.filter(pc.invert(drifted))
    # One theory_id may give U to some compounds only, and energies with U don't compare with those without.
    functional = _with_u(table["functional"], pc.ends_with(table["run_type"], "+U"))
    kind = pc.binary_join_element_wise(functional, table["software"], " of ")
    theory = pc.binary_join_element_wise(kind, table["theory_id"], ", theory ")
    return _light(table, table["calculation_id"], theory, theory), refused


def _hull(path: Path) -> Light:
    names = ["calculation_id", "chemical_formula_reduced", "energy_per_atom", "energy_correction_per_atom",
             "correction_note", "formation_energy_per_atom", "e_above_hull", "theory_id", "functional",
             "correction_scheme", "hull_status"]  # fmt: skip
    table = tables.read(path, "hull", names)
    left_out = pc.equal(table["hull_status"], HullStatus.INCOMPATIBLE.value)
    refused = [
        Refusal(path.name, "", row["calculation_id"], HullStatus.INCOMPATIBLE.value, row["correction_note"])
        for row in table.filter(left_out).select(["calculation_id", "correction_note"]).to_pylist()
    ]
    table = table.filter(pc.invert(left_out))
    functional, scheme = table["functional"], table["correction_scheme"]
    corrected = pc.binary_join_element_wise(functional, table["theory_id"], ", theory ")
    if pc.all(pc.equal(scheme, "none")).as_py() is not False:
        table = table.drop_columns(["energy_correction_per_atom"])
        return _light(table, table["calculation_id"], corrected, corrected, above="e_above_hull"), refused
    functional = _with_u(functional, pc.match_substring(table["correction_note"], "mixing correction"))
    theory = pc.binary_join_element_wise(functional, table["theory_id"], ", theory ")
    corrected = pc.binary_join_element_wise(corrected, scheme, ", corrected: ")
    return _light(table, table["calculation_id"], theory, corrected, above="e_above_hull"), refused


def _with_u(functional: pa.ChunkedArray, has_u: pa.ChunkedArray) -> pa.ChunkedArray:
    """Call the functional of calculations with a Hubbard U by a name of its own."""
    return pc.if_else(has_u, pc.binary_join_element_wise(functional, "+U", ""), functional)


def _known(path: Path) -> Light:
    names = [
        "phase_id",
        "chemical_formula_reduced",
        "energy_per_atom",
        "formation_energy_per_atom",
        "e_above_hull",
    ]
    table = tables.read(path, "known_phases", names)
    nobody = pa.repeat("", table.num_rows)
    return _light(table, table["phase_id"], nobody, nobody, above="e_above_hull"), []


_TABLES: dict[str, Callable[[Path], Light]] = {
    "entries": _entries,
    "calculations": _calculations,
    "hull": _hull,
    "known_phases": _known,
}


def _light(table: pa.Table, ids: Any, theory: Any, corrected: Any, above: str = "") -> pa.Table:
    nothing = pa.nulls(table.num_rows, F64)

    def column(name: str) -> Any:
        return table[name] if name in table.column_names else nothing

    return pa.table(
        {
            "id": ids,
            "formula": table["chemical_formula_reduced"],
            "energy": column("energy_per_atom"),
            "correction": column("energy_correction_per_atom"),
            "formation": column("formation_energy_per_atom"),
            "above": column(above),
            "theory": theory,
            "corrected_theory": corrected,
        }
    )


# ----------------------------------------------------------------------------------------- other files


def _csv(path: Path, columns: Columns) -> Light:
    """Read a CSV's columns as text, and the text as numbers: what is no number becomes NaN, and is refused later."""
    refused: list[Refusal] = []

    def invalid(row: pa_csv.InvalidRow) -> str:
        message = f"it has {row.actual_columns} values, the header {row.expected_columns}"
        where = "" if row.number is None else f"line {row.number}"
        refused.append(Refusal(path.name, where, "", ImportRefusal.UNREADABLE.value, message))
        return "skip"

    parsing = pa_csv.ParseOptions(invalid_row_handler=invalid, newlines_in_values=True)
    try:
        with pa_csv.open_csv(path, parse_options=parsing) as first:
            names = first.schema.names
        meant = columns.found_in(names, str(path))
        refused.clear()
        wanted = sorted(set(meant.values()))
        table = pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(use_threads=False),  # so that rows have numbers
            parsing,
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, STR), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a whole CSV file in UTF-8 ({error})") from error
    return _named(table, meant, path), refused


def _named(table: pa.Table, meant: dict[str, str], path: Path) -> pa.Table:
    """Give the light columns of a table whose columns are named as `meant` says by meaning."""

    def numbers(meaning: str) -> Any:
        return None if meaning not in meant else _floats(table[meant[meaning]])

    count = table.num_rows
    total, atoms = numbers("energy_per_atom"), numbers("nsites")
    if total is None and "energy" in meant:
        if atoms is None:
            raise TableError(
                f"{path}: {meant['energy']} is per cell, and nothing says how many atoms a cell has: --column"
                " nsites=..., or name a column of energies per atom: --column energy_per_atom=..."
            )
        total = numbers("energy") / atoms
    correction = numbers("energy_correction_per_atom")
    if correction is None and "energy_corrected" in meant and atoms is not None and total is not None:
        correction = numbers("energy_corrected") / atoms - total
    ids = table[meant["id"]].cast(STR) if "id" in meant else _numbered(path.name, count)
    theory: Any = pa.repeat("", count)
    if "functional" in meant:
        theory = pc.fill_null(table[meant["functional"]].cast(STR), "")
        if "run_type" in meant:
            theory = pc.binary_join_element_wise(
                theory, pc.fill_null(table[meant["run_type"]].cast(STR), ""), " "
            )
    formula = table[meant["formula"]]
    return pa.table(
        {
            "id": ids,
            "formula": formula.cast(STR),
            "energy": _nullable(total, count),
            # A correction that is absent is none; an energy that is no number is refused.
            "correction": pa.array(correction, F64, mask=np.isnan(correction))
            if correction is not None
            else pa.nulls(count, F64),
            "formation": _nullable(numbers("formation_energy_per_atom"), count),
            "above": _nullable(numbers("e_above_hull"), count),
            "theory": theory,
            "corrected_theory": theory,
        }
    )


def _numbered(name: str, count: int) -> pa.Array:
    return pc.binary_join_element_wise(name, pa.array(np.arange(1, count + 1)).cast(STR), ":")


def _nullable(values: Any, count: int) -> pa.Array:
    return pa.nulls(count, F64) if values is None else pa.array(values, F64)


def _floats(column: pa.ChunkedArray) -> Any:
    """Give a column as floats; NaN for what is absent or no number."""
    try:
        return column.cast(F64).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.array([_float(value) for value in column.to_pylist()])


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _imported(importer: Importer, path: Path) -> Light:
    """Read a file that has no columns row by row; of a row what the hull needs is kept, without its structure."""
    pieces: list[pa.Table] = []
    refused: list[Refusal] = []
    rows: list[dict[str, Any]] = []

    def flush() -> None:
        pieces.append(pa.Table.from_pylist(rows, LIGHT))
        rows.clear()

    for item in importer.read(str(path)):
        if isinstance(item, Refused):
            refused.append(Refusal(path.name, item.row, item.id, item.reason.value, item.message))
            continue
        rows.append(_light_row(item))
        if len(rows) == _AT_ONCE:
            flush()
    flush()
    return pa.concat_tables(pieces), refused


def _light_row(found: Found) -> dict[str, Any]:
    theory = " ".join(part for part in (found.functional, found.run_type) if part)
    scheme = f"corrected: {found.correction_scheme}" if found.correction_scheme else ""
    corrected = ", ".join(part for part in (found.functional, scheme) if part)
    return {
        "id": found.id,
        "formula": "".join(
            f"{element}{count if count > 1 else ''}" for element, count in found.counts.items()
        ),
        "energy": found.energy,
        "correction": found.correction,
        "formation": found.formation_energy,
        "above": found.e_above_hull,
        "theory": theory,
        "corrected_theory": corrected,
    }


def _one_theory(theory: pa.ChunkedArray, scale: Scale) -> None:
    """Raise `TableError` where rows are of two theories, or of one and of nobody knows which."""
    counts = Counter({pair["values"] or "": pair["counts"] for pair in pc.value_counts(theory).to_pylist()})
    if len(counts) < 2:
        return
    named = "; ".join(
        f"{count} of {name or 'a theory that no file names'}" for name, count in counts.most_common()
    )
    corrected = (
        " Where the files give corrections that make them comparable: --energy corrected."
        if scale is Scale.RAW
        else ""
    )
    raise TableError(
        f"the rows are of {len(counts)} theories, whose energies don't compare: {named}. Make a hull of each"
        f" (--theory, its id), or say that you know them to compare: --any-theory.{corrected}"
    )
