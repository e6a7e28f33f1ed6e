"""A hash of what a table says, whatever the file looks like: `LOGICAL_HASHES` of a release.

Comes in: a Parquet file, or record batches. Goes out: a SHA-256 over the decoded columns: their names, types and
order, and of every row, in order, values, nulls and lengths of lists. It doesn't depend on the version of pyarrow that
wrote or reads the file, on compression, encodings, row groups or chunks; units and other metadata don't count. Tables
are read a batch at a time and never held whole.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.errors import TableError

#: Goes into every hash; another one whenever the same table would get another hash.
RECIPE = "hullforge-logical-1"
#: Rows in memory at a time; about 3 MB of frames.
BATCH = 4096

_TEXTS = {"string": "string", "large_string": "string", "binary": "binary", "large_binary": "binary"}


def of_file(path: Path) -> str:
    """Hash of a Parquet file, in hexadecimal. Raises `TableError` where it isn't one, or has types that no table has."""
    try:
        with pq.ParquetFile(path) as file:
            # One row group at a time: over all of them, the reader keeps every page that it has read until the end.
            batches = (
                batch
                for group in range(file.num_row_groups)
                for batch in file.iter_batches(batch_size=BATCH, row_groups=[group])
            )
            return of_batches(file.schema_arrow, batches)
    except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
        raise TableError(f"{path}: not a whole Parquet file ({error})") from error


def of_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Hash of a table in pieces, in hexadecimal. Raises `TableError` where a type is none that tables have."""
    columns = [_Column(field.name, field.type) for field in schema]
    for batch in batches:
        for column, array in zip(columns, batch.columns, strict=True):
            column.add(array)
    content = [RECIPE, [column.content() for column in columns]]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def text(folder: Path, names: Sequence[str]) -> str:
    """Text of the list of hashes of the tables `names` in `folder`, laid out as `sha256sum` does its own."""
    return "".join(f"{of_file(folder / name)}  {name}\n" for name in sorted(names))


class _Column:
    """Hashes of one column or of a part of one: of its nulls, its lengths and its values, each a stream of its own.

    A stream only ever grows at its end, so that it is the same however the rows come in pieces. Nulls count as such;
    what stands in the memory below them doesn't.
    """

    def __init__(self, name: str, type_: pa.DataType) -> None:
        self.name = name
        self.type = type_
        self.rows = 0
        self.valid, self.lengths, self.values = (hashlib.sha256() for _ in range(3))
        self.kind, parts = _shape(name, type_)
        self.parts = [_Column(*part) for part in parts]

    def add(self, array: pa.Array) -> None:
        """Take in more rows."""
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        self.rows += len(array)
        self.valid.update(_bytes(array.is_valid()))
        if array.null_count:
            array = array.drop_null()
        if self.kind == "list":
            self.lengths.update(_bytes(pc.list_value_length(array).cast(pa.int64())))
            self.parts[0].add(array.flatten())
        elif self.kind == "map":
            offsets = array.offsets.to_numpy()
            self.lengths.update(np.diff(offsets).astype("<i8").tobytes())
            first, n = int(offsets[0]), int(offsets[-1] - offsets[0])
            for part, values in zip(self.parts, (array.keys, array.items), strict=True):
                part.add(values.slice(first, n))
        elif self.kind == "struct":
            for part, values in zip(self.parts, array.flatten(), strict=True):
                part.add(values)
        elif self.kind in _TEXTS:
            self.lengths.update(_bytes(pc.binary_length(array).cast(pa.int64())))
            self.values.update(_joined(array))
        elif self.kind != "null":
            self.values.update(_bytes(array))

    def content(self) -> list[Any]:
        """Give what the table's hash is made of."""
        digests = [stream.hexdigest() for stream in (self.valid, self.lengths, self.values)]
        return [self.name, self.kind, self.rows, *digests, [part.content() for part in self.parts]]


def _shape(name: str, type_: pa.DataType) -> tuple[str, list[tuple[str, pa.DataType]]]:
    """Give our own name of a type, since pyarrow's may change, and what it is made of."""
    if pa.types.is_dictionary(type_):
        return _shape(name, type_.value_type)
    if pa.types.is_map(type_):
        return "map", [("key", type_.key_type), ("value", type_.item_type)]
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return "list", [("", type_.value_type)]
    if pa.types.is_struct(type_):
        return "struct", [(field.name, field.type) for field in type_]
    if str(type_) in _TEXTS:
        return _TEXTS[str(type_)], []
    if pa.types.is_boolean(type_):
        return "bool", []
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return np.dtype(type_.to_pandas_dtype()).name, []
    if pa.types.is_null(type_):
        return "null", []
    raise TableError(f"column {name}: a logical hash of type {type_} is not defined")


def _bytes(array: pa.Array) -> bytes:
    """Values of an array without nulls, one after another, little-endian; all NaN are one NaN."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f" and (missing := np.isnan(values)).any():
        values = np.where(missing, np.array(np.nan, values.dtype), values)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _joined(array: pa.Array) -> bytes:
    """Texts of an array without nulls, joined."""
    if not len(array):
        return b""
    _, offsets, data = array.buffers()
    width = "<i8" if str(array.type).startswith("large") else "<i4"
    every = np.frombuffer(offsets, width)
    start, stop = int(every[array.offset]), int(every[array.offset + len(array)])
    return data.slice(start, stop - start).to_pybytes() if stop > start else b""
