"""CSV and Parquet files of any columns.

Comes in: a file and what its columns mean. Goes out: a row a line, read as they come: a CSV line by line, a Parquet
file some thousand rows at a time. Rows without a column of ids are called by their file and number.
"""

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hullforge.errors import TableError
from hullforge.imports.base import Found, Refused
from hullforge.imports.columns import STRUCTURE, Columns, found, id_of
from hullforge.imports.json_stream import opened
from hullforge.imports.pymatgen_entries import guarded
from hullforge.store.vocabulary import ImportRefusal

_AT_ONCE = 1024


@dataclass(frozen=True)
class Csv:
    """Importer of .csv, .csv.gz and .csv.bz2 files."""

    columns: Columns = field(default_factory=Columns)
    name: str = ""

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the file; raises `TableError` when it lacks a column that is needed, or is no text."""
        path = Path(source)
        csv.field_size_limit(sys.maxsize)
        try:
            with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
                lines = csv.reader(stream)
                header = next(lines, [])
                meant = self.columns.found_in(header, source)
                for number, line in enumerate((line for line in lines if line), start=1):
                    if len(line) != len(header):
                        message = f"it has {len(line)} values, the header {len(header)}"
                        yield Refused(f"row {number}", "", ImportRefusal.UNREADABLE, message)
                        continue
                    yield _row(dict(zip(header, line, strict=True)), meant, path, number)
        except (UnicodeDecodeError, EOFError, OSError, csv.Error) as error:
            raise TableError(f"{path}: not a whole CSV file in UTF-8 ({error})") from error


@dataclass(frozen=True)
class Parquet:
    """Importer of Parquet files."""

    columns: Columns = field(default_factory=Columns)
    name: str = ""

    def read(self, source: str) -> Iterator[Found | Refused]:
        """Read the file; raises `TableError` when it lacks a column that is needed, or is not whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(source)
        if not path.is_file():
            raise TableError(f"{path}: no such file")
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                meant = self.columns.found_in(names, source)
                wanted = {name.split("/")[0] for name in meant.values()} | set(STRUCTURE)
                number = 0
                for batch in file.iter_batches(_AT_ONCE, columns=[name for name in names if name in wanted]):
                    for values in batch.to_pylist():
                        number += 1
                        yield _row(values, meant, path, number)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path}: not a whole Parquet file ({error})") from error


def _row(values: Mapping[str, Any], meant: Mapping[str, str], path: Path, number: int) -> Found | Refused:
    row = f"row {number}"
    id_ = id_of(values, meant, f"{path.name}:{number}")
    return guarded(lambda: found(values, meant, row, id_), row, id_)
