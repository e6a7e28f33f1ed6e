"""Several files of one table as one sorted stream, with bounded memory.

Comes in: Parquet files, each in any order. Goes out: tables of some ten thousand rows, sorted as the table is, rows of
one key never in two of them. What does not fit into one piece is dealt out to files in a temporary folder first, so
that memory holds one number a row and one piece. The pieces depend on the rows alone, not on how files hold them.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.errors import TableError
from hullforge.store import tables

#: Rows of a piece, about; more where one key has more.
PIECE = 32_768
_BATCH = 8_192


def sorted_pieces(
    paths: Sequence[Path],
    name: str,
    key: str,
    order: pa.ChunkedArray,
    scratch: Path,
    complete: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> Iterator[pa.Table]:
    """Give the rows of all `paths`, files of the table `name`, in the table's order.

    `order` has all values of the column `key`, in the order that the sorted table has them; `complete` fills columns
    before rows are sorted; `scratch` is a folder for temporary files. Raises `TableError` for a file that isn't whole
    or is another table, and for a row whose key is not in `order`.
    """
    counts = np.zeros(len(order) + 1, dtype=np.int64)
    for path in paths:
        ranks = _ranks(path, tables.read(path, name, [key])[key], order)
        counts[1:] += np.bincount(ranks, minlength=len(order))
    # Number of the piece of each key: rows before it, in pieces.
    piece_of = np.cumsum(counts)[:-1] // PIECE
    if not len(piece_of) or piece_of[-1] == 0:
        parts = [tables.filled(name, tables.read(path, name)) for path in paths]
        columns = tables.empty(name).column_names
        yield tables.conform(name, complete(pa.concat_tables([part.select(columns) for part in parts])))
        return
    with tempfile.TemporaryDirectory(prefix=".pieces.", dir=scratch) as folder:
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH):
                    table = tables.filled(name, pa.Table.from_batches([batch]))
                    table = table.select(tables.empty(name).column_names)
                    pieces = piece_of[_ranks(path, table[key], order)]
                    for number in np.unique(pieces).tolist():
                        part = table.filter(pa.array(pieces == number)).replace_schema_metadata()
                        if number not in writers:
                            writers[number] = pa.ipc.new_file(f"{folder}/{number}.arrow", part.schema)
                        writers[number].write_table(part)
        for writer in writers.values():
            writer.close()
        for number in sorted(writers):
            with pa.memory_map(f"{folder}/{number}.arrow") as source:
                yield tables.conform(name, complete(pa.ipc.open_file(source).read_all()))
            Path(f"{folder}/{number}.arrow").unlink()


def _ranks(path: Path, keys: pa.ChunkedArray, order: pa.ChunkedArray) -> np.ndarray:
    """Give the place of each key in `order`."""
    ranks = pc.index_in(keys, value_set=order)
    if ranks.null_count:
        stranger = keys.filter(pc.is_null(ranks))[0]
        raise TableError(f"{path}: a row of {stranger}, which is not among the calculations of the rounds")
    return ranks.to_numpy()
