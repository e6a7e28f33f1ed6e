"""Frames as rows of ASE's databases: SQLite (`ase.db`), and LMDB as FAIR Chemistry's data sets are stored.

Comes in: tables with geometry and results. Goes out: one file. Unlike what `ase.db` writes by itself, rows carry no
user name, no time and no random id, so that the same rows give the same bytes. Uses ASE's names, units and sign of
stress; ids, functional and the like are key-value pairs.
"""

import hashlib
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hullforge.errors import ConfigError
from hullforge.release import extxyz
from hullforge.store.atomic import atomic_path

_RESULTS = ("energy", "free_energy", "forces", "stress", "magmoms")
#: The LMDB may grow to this, bytes; on disk it is as large as what it holds.
_MAP_SIZE = 2**40


def database(path: Path, pieces: Iterator[pa.Table]) -> Counter[str]:
    """Write an SQLite database of ASE; gives nothing that was left out. Some thousand rows a second."""
    from ase.db import connect
    from ase.db.row import AtomsRow

    with atomic_path(path) as temporary:
        with connect(temporary, type="db", use_lock_file=False) as target:
            for table in pieces:
                for row in _rows(table):
                    target.write(AtomsRow(row), row["key_value_pairs"], row["data"])
        # ASE stamps each row with the time at which it was written.
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("UPDATE systems SET mtime = 0")
            connection.commit()
            connection.execute("VACUUM")
    return Counter()


def check_lmdb() -> Any:
    """Give the package `lmdb`; raises `ConfigError` where it isn't installed."""
    try:
        import lmdb as package
    except ModuleNotFoundError as error:
        raise ConfigError("the format lmdb needs the package lmdb; run: pip install lmdb") from error
    return package


def lmdb(path: Path, pieces: Iterator[pa.Table]) -> Counter[str]:
    """Write an LMDB that `ase-db-backends` reads as `aselmdb`; gives nothing that was left out.

    Keys are 1, 2, ... as text; values are ASE's JSON of a row, compressed with zlib.
    """
    from ase.io.jsonio import encode

    def packed(value: Any) -> bytes:
        return zlib.compress(encode(value).encode())

    package = check_lmdb()
    with (
        atomic_path(path) as temporary,
        package.open(str(temporary), subdir=False, map_size=_MAP_SIZE, lock=False) as target,
    ):
        number = 0
        for table in pieces:
            with target.begin(write=True) as transaction:
                for row in _rows(table):
                    number += 1
                    transaction.put(str(number).encode(), packed(row | {"mtime": 0.0}))
        with target.begin(write=True) as transaction:
            transaction.put(b"nextid", packed(number + 1))
    return Counter()


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Give the rows of a table as the dictionaries that `ase.db.row.AtomsRow` is made of."""
    is_frame = "frame_id" in table.column_names
    info = [n for n in (extxyz.FRAME_INFO if is_frame else extxyz.STRUCTURE_INFO) if n in table.column_names]
    columns = ["numbers", "positions", "cell", "pbc", *_RESULTS, *info]
    for values in table.select(columns).to_pylist():
        name = values["frame_id" if is_frame else "calculation_id"]
        said = {key: values[key] for key in info if values[key] is not None}
        # ASE refuses texts that look like numbers among the pairs, and keeps anything in `data`.
        odd = {key: value for key, value in said.items() if isinstance(value, str) and _is_number(value)}
        yield {
            "unique_id": hashlib.sha256(name.encode()).hexdigest()[:32],
            "ctime": 0.0,
            "user": None,
            "numbers": np.array(values["numbers"], dtype=np.int32),
            "positions": np.array(values["positions"], dtype=float),
            "cell": np.array(values["cell"], dtype=float).reshape(3, 3),
            "pbc": np.array(values["pbc"], dtype=bool),
            "calculator": "unknown",
            "calculator_parameters": {},
            "key_value_pairs": {key: value for key, value in said.items() if key not in odd},
            "data": odd,
        } | {
            key: np.array(values[key], dtype=float) if isinstance(values[key], list) else values[key]
            for key in _RESULTS
            if values[key] is not None
        }


def _is_number(text: str) -> bool:
    if text in ("True", "False"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
