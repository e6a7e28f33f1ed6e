"""Several files of one table as one sorted stream, with bounded memory.

Comes in: Parquet files, each in any order, few large ones or thousands of small ones. Goes out: tables of some ten
thousand rows, sorted as the table is, rows of one key never in two of them. What does not fit into one piece is dealt
out to files in a temporary folder first, so that memory holds one number a row, the keys of a million rows, and a few
pieces. The pieces depend on the rows alone, not on how files hold them.
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
#: Rows that are read at a time, and rows that are dealt out at a time.
_BATCH, _HAND = 8_192, 65_536
#: Keys that are looked up at once: each look-up hashes the whole order first.
_LOOKUP = 1_048_576


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
    ranks = _ranks(paths, name, key, order)
    counts = np.zeros(len(order) + 1, dtype=np.int64)
    for found in ranks:
        counts[1:] += np.bincount(found, minlength=len(order))
    # Number of the piece of each key: rows before it, in pieces.
    piece_of = np.cumsum(counts)[:-1] // PIECE
    columns = tables.empty(name).column_names
    if not len(piece_of) or piece_of[-1] == 0:
        parts = [tables.filled(name, tables.read(path, name)).select(columns) for path in paths]
        yield tables.conform(name, complete(pa.concat_tables([tables.empty(name), *parts])))
        return
    with tempfile.TemporaryDirectory(prefix=".pieces.", dir=scratch) as folder:
        dealt = _deal(paths, name, [piece_of[found] for found in ranks], Path(folder))
        del ranks
        for path in dealt:
            with pa.memory_map(str(path)) as source:
                yield tables.conform(name, complete(pa.ipc.open_file(source).read_all()))
            path.unlink()


def _deal(paths: Sequence[Path], name: str, pieces: Sequence[np.ndarray], folder: Path) -> list[Path]:
    """Write the rows of each piece to a file of its own; `pieces` says of each file's rows where they belong."""
    columns = tables.empty(name).column_names
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    hand: list[pa.Table] = []
    places: list[np.ndarray] = []

    def put_down() -> None:
        where = np.concatenate(places)
        by_piece = np.argsort(where, kind="stable")
        table = pa.concat_tables(hand).combine_chunks().take(pa.array(by_piece))
        hand.clear()
        places.clear()
        numbers, begins = np.unique(where[by_piece], return_index=True)
        for number, begin, end in zip(numbers.tolist(), begins, [*begins[1:], len(where)], strict=True):
            if number not in writers:
                writers[number] = pa.ipc.new_file(str(folder / f"{number}.arrow"), table.schema)
            writers[number].write_table(table.slice(begin, end - begin))

    for path, found in zip(paths, pieces, strict=True):
        done = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                table = tables.filled(name, pa.Table.from_batches([batch])).select(columns)
                hand.append(table.replace_schema_metadata())
                places.append(found[done : done + table.num_rows])
                done += table.num_rows
                if sum(map(len, places)) >= _HAND:
                    put_down()
    if hand:
        put_down()
    for writer in writers.values():
        writer.close()
    return [folder / f"{number}.arrow" for number in sorted(writers)]


def _ranks(paths: Sequence[Path], name: str, key: str, order: pa.ChunkedArray) -> list[np.ndarray]:
    """Give the place in `order` of the key of each row, file by file."""
    found: list[np.ndarray] = []
    waiting: list[pa.ChunkedArray] = []

    def look_up() -> None:
        keys = pa.chunked_array([chunk for column in waiting for chunk in column.chunks], order.type)
        ranks = pc.index_in(keys, value_set=order)
        if ranks.null_count:
            first = pc.index(pc.is_null(ranks), True).as_py()
            ends = np.cumsum([len(column) for column in waiting])
            path = paths[len(found) + int(np.searchsorted(ends, first, side="right"))]
            raise TableError(
                f"{path}: a row of {keys[first]}, which is not among the calculations of the rounds"
            )
        numbers = ranks.to_numpy().astype(np.int32)
        found.extend(np.split(numbers, np.cumsum([len(column) for column in waiting])[:-1]))
        waiting.clear()

    for path in paths:
        waiting.append(tables.read(path, name, [key])[key])
        if sum(map(len, waiting)) >= _LOOKUP:
            look_up()
    if waiting:
        look_up()
    return found
