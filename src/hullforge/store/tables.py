"""Parquet in and out: the only place that writes or reads a table.

Goes in: rows (dicts) or an Arrow table; comes out: a whole file with the schema of `hullforge.store.schema`,
rows sorted, zstd level 3, byte-stream split on floats, dictionaries on strings only, no clock and no pandas
metadata, so that the same rows give the same bytes. A half-written file is never seen under its final name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.errors import TableError
from hullforge.store.atomic import atomic_path
from hullforge.store.schema import SCHEMA_VERSION, TABLES

#: Rows per row group; about 10 MB of frames.
ROW_GROUP = 16_384


def _leaf_paths(name: str, type_: pa.DataType) -> list[tuple[str, pa.DataType]]:
    """Give the Parquet paths of the primitive leaves below a column."""
    if pa.types.is_struct(type_):
        return [leaf for field in type_ for leaf in _leaf_paths(f"{name}.{field.name}", field.type)]
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return _leaf_paths(f"{name}.list.element", type_.value_type)
    return [(name, type_)]


def from_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Build the table `name` from rows; every column must be present but those a later stage adds.

    Unknown keys are refused. Keyed columns are dicts.

    Raises `TableError` naming the column and the row.
    """
    schema = TABLES[name].arrow()
    rows = list(rows)
    wanted, added = set(schema.names), _added(name)
    for number, row in enumerate(rows):
        if not wanted - added <= set(row) <= wanted:
            missing, extra = sorted(wanted - added - set(row)), sorted(set(row) - wanted)
            raise TableError(
                f"table {name}, row {number}: missing columns {missing}, unknown columns {extra}"
            )
    arrays, keyed = [], _keyed(name)
    for field in schema:
        try:
            values = [_value(row, field) for row in rows]
            if field.name in keyed:
                values = [_pairs(value, field.type) for value in values]
            arrays.append(pa.array(values, type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"table {name}, column {field.name}: {error}") from error
    return conform(name, pa.Table.from_arrays(arrays, schema=schema))


def _added(name: str) -> set[str]:
    """Names of the columns that a later stage adds to the table `name`."""
    return {column.name for column in TABLES[name].columns if column.added}


def _keyed(name: str) -> set[str]:
    """Names of the columns of the table `name` whose lists of pairs are dicts in Python."""
    return {column.name for column in TABLES[name].columns if column.keyed}


def _pairs(value: Any, type_: pa.DataType) -> Any:
    """Give a dict as a list of pairs, sorted by key; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    key, content = (field.name for field in type_.value_type)
    return [{key: k, content: value[k]} for k in sorted(value)]


def as_dict(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Give a value of a keyed column, as Arrow gives it, as a dict."""
    return dict(tuple(pair.values()) for pair in pairs)


def modern(name: str, table: pa.Table) -> pa.Table:
    """Give the columns that stand in `table` the types of the table `name`, where an older hullforge wrote others."""
    for column in TABLES[name].columns:
        place = table.schema.get_field_index(column.name)
        if place < 0 or table.schema.field(place).type == column.type:
            continue
        found = table.schema.field(place).type
        if pa.types.is_map(found):
            chunks = [_unmapped(chunk, column.type) for chunk in table.column(place).chunks]
            table = table.set_column(place, column.field(), pa.chunked_array(chunks, column.type))
        elif pa.types.is_fixed_size_list(found) and pa.types.is_list(column.type):
            table = table.set_column(place, column.field(), table.column(place).cast(column.type))
    return table


def _unmapped(array: pa.MapArray, type_: pa.DataType) -> pa.ListArray:
    pairs = pa.StructArray.from_arrays([array.keys, array.items], fields=list(type_.value_type))
    return pa.ListArray.from_arrays(array.offsets, pairs, type=type_, mask=array.is_null())


def wrong_lengths(name: str, table: pa.Table) -> Iterator[str]:
    """Give the columns with lists of another length than the table `name` says, each with its first such row."""
    for column in TABLES[name].columns:
        if not column.length or column.name not in table.column_names:
            continue
        lengths = pc.list_value_length(table[column.name])
        bad = pc.index(pc.not_equal(lengths, column.length), True).as_py()
        if bad >= 0:
            yield f"column {column.name}, row {bad}: {lengths[bad]} values, there must be {column.length}"


def filled(name: str, table: pa.Table) -> pa.Table:
    """Append columns that a later stage adds, as nulls, where `table` lacks them; today's types, as by `modern`."""
    table = modern(name, table)
    for column in TABLES[name].columns:
        if column.added and column.name not in table.column_names:
            table = table.append_column(column.field(), pa.nulls(table.num_rows, column.type))
    return table


def _value(row: Mapping[str, Any], field: pa.Field) -> Any:
    return row.get(field.name) if field.nullable else row[field.name]


def conform(name: str, table: pa.Table) -> pa.Table:
    """Give `table` the columns, types, metadata and row order of the table `name`.

    Raises `TableError` when a column is absent, of another type, null where it must not be, or has lists of another
    length than it must.
    """
    definition = TABLES[name]
    schema = definition.arrow()
    table = filled(name, table)
    missing = [column for column in schema.names if column not in table.column_names]
    if missing:
        raise TableError(f"table {name}: missing columns {missing}")
    columns = []
    for field in schema:
        column = table.column(field.name)
        if column.null_count and not field.nullable:
            raise TableError(
                f"table {name}, column {field.name}: {column.null_count} rows are null, none may be"
            )
        try:
            columns.append(column.cast(field.type) if column.type != field.type else column)
        except pa.ArrowInvalid as error:
            raise TableError(f"table {name}, column {field.name}: {error}") from error
    table = pa.Table.from_arrays(columns, schema=schema)
    for wrong in wrong_lengths(name, table):
        raise TableError(f"table {name}, {wrong}")
    if definition.sort_by and table.num_rows > 1:
        table = table.sort_by([(column, "ascending") for column in definition.sort_by])
    return table


def empty(name: str) -> pa.Table:
    """Give the table `name` without rows."""
    return TABLES[name].arrow().empty_table()


def write(path: str | Path, name: str, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
    """Write the table `name` to `path`, whole or not at all; the same rows give the same bytes."""
    table = conform(name, rows) if isinstance(rows, pa.Table) else from_rows(name, rows)
    with atomic_path(path) as temporary:
        pq.write_table(table.combine_chunks(), temporary, row_group_size=ROW_GROUP, **_options(table.schema))


@contextmanager
def writer(path: str | Path, name: str) -> Iterator[Callable[[pa.Table | Iterable[Mapping[str, Any]]], None]]:
    """Give a function that appends rows to the table `name`; the file appears at `path` when the block ends well.

    For tables of which no more than a row group is to be in memory: those in the order of their source (without
    `sort_by`), and those whose pieces are given in their order.
    """
    schema = TABLES[name].arrow()
    waiting: list[pa.Table] = []

    def flush(file: pq.ParquetWriter, least: int) -> None:
        while waiting and sum(table.num_rows for table in waiting) >= least:
            table = pa.concat_tables(waiting)
            waiting[:] = [table.slice(ROW_GROUP)] if table.num_rows > ROW_GROUP else []
            file.write_table(table.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **_options(schema)) as file:

        def append(rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
            waiting.append(conform(name, rows) if isinstance(rows, pa.Table) else from_rows(name, rows))
            flush(file, ROW_GROUP)

        yield append
        flush(file, 1)


def _options(schema: pa.Schema) -> dict[str, Any]:
    """How all tables are written; the same rows give the same bytes."""
    leaves = [leaf for field in schema for leaf in _leaf_paths(field.name, field.type)]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [leaf for leaf, type_ in leaves if pa.types.is_string(type_)],
        "use_byte_stream_split": [leaf for leaf, type_ in leaves if pa.types.is_floating(type_)],
        "write_statistics": True,
    }


def read(path: str | Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the table `name` from `path`, whole or only `columns`.

    Raises `TableError` when the file is absent, cut short, another table, or of a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file; table {name} was expected here")
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            found = metadata.get(b"hullforge.table", b"?").decode()
            version = int(metadata.get(b"hullforge.schema_version", b"0"))
            if version > SCHEMA_VERSION:
                raise TableError(
                    f"{path}: written with table schema {version}, this hullforge knows up to {SCHEMA_VERSION};"
                    " install the newer hullforge that made it"
                )
            if found != name:
                raise TableError(f"{path}: this is the table '{found}', not '{name}'")
            return modern(name, file.read(columns=list(columns) if columns is not None else None))
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
        raise TableError(f"{path}: not a whole Parquet file ({error}); delete it and run again") from error


def count(path: str | Path, name: str) -> int:
    """Give the number of rows of the table `name` in `path`, from the end of the file alone; raises what `read` raises."""
    return int(read(path, name, []).num_rows)


def pieces(path: str | Path, name: str) -> Iterator[pa.Table]:
    """Give the table `name` from `path` in its order, a row group at a time; raises what `read` raises."""
    read(path, name, [])
    try:
        with pq.ParquetFile(Path(path)) as file:
            for number in range(file.num_row_groups):
                yield modern(name, file.read_row_group(number))
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
        raise TableError(f"{path}: not a whole Parquet file ({error}); delete it and run again") from error


def read_rows(path: str | Path, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read the table `name` as a list of dicts; for tables of at most some 1e5 rows. Keyed columns are dicts."""
    table = read(path, name, columns)
    keyed = _keyed(name).intersection(table.column_names)
    rows = table.to_pylist()
    for row in rows:
        for column in keyed:
            row[column] = None if row[column] is None else as_dict(row[column])
    return rows


def prototypes_of(round_folder: Path) -> Path:
    """Give the table of prototypes that a round used: its own where it harvested, else that of the round before.

    The first round's is the campaign's.
    """
    campaign, number = round_folder.parent, int(round_folder.name.removeprefix("round-"))
    own = (campaign / f"round-{earlier:03d}" / "prototypes.parquet" for earlier in range(number, 0, -1))
    return next((path for path in own if path.is_file()), campaign / "prototypes.parquet")


def concat(paths: Iterable[str | Path], name: str) -> pa.Table:
    """Read several files of one table into one, sorted."""
    # Files of rounds that are older than a column lack it; one order of columns for all.
    tables = [filled(name, read(path, name)) for path in paths]
    return conform(name, pa.concat_tables(tables)) if tables else empty(name)
