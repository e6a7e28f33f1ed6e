"""From batches to a round: the batch tables of all functionals, put together.

Comes in: the folders that `hullforge.dft.batch` wrote; goes out: the round's calculations, failures, costs, and
one table of frames per functional. Rows are only moved and sorted, so the order of batches does not matter. They are
streamed: memory holds the columns that rows are sorted by and a piece of some ten thousand rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import TableError
from hullforge.store import streams, tables
from hullforge.store.schema import TABLES

KEY = "calculation_id"


def run(
    batches: Sequence[Path],
    *,
    calculations: Path,
    failures: Path,
    costs: Path,
    frames: Mapping[str, Path],
) -> None:
    """Write the round's tables from its batch folders.

    `frames` gives the file of each functional's frames; a functional without any gets an empty table. Temporary files,
    as large as the frames of one functional, stand beside `calculations` meanwhile.

    Raises `TableError` when a batch's table is missing or broken, holds frames of two functionals or of one that
    `frames` lacks, or when a calculation appears twice.
    """
    good = _sorted_keys(batches, "calculations", frames)
    bad = _sorted_keys(batches, "failures", frames)
    spent = _sorted_keys(batches, "costs", frames)
    _refuse_duplicates([good[KEY], bad[KEY]])
    scratch = calculations.parent
    scratch.mkdir(parents=True, exist_ok=True)
    by_functional = _batches_of(batches, frames)
    for functional, path in frames.items():
        order = good.filter(pc.equal(good["functional"], functional))[KEY]
        _write(by_functional[functional], "frames", pc.take(order, pc.sort_indices(order)), path, scratch)
    _write(batches, "costs", spent[KEY], costs, scratch)
    _write(batches, "failures", bad[KEY], failures, scratch)
    _write(batches, "calculations", good[KEY], calculations, scratch)


def _write(batches: Sequence[Path], name: str, order: pa.ChunkedArray, out: Path, scratch: Path) -> None:
    """Write the table `name` of all batches, whose calculations come in `order`."""
    with tables.writer(out, name) as append:
        for piece in streams.sorted_pieces(_files(batches, name), name, KEY, order, scratch):
            append(piece)


def _files(batches: Sequence[Path], name: str) -> list[Path]:
    return [folder / f"{name}.parquet" for folder in batches]


def _sorted_keys(batches: Sequence[Path], name: str, frames: Mapping[str, Path]) -> pa.Table:
    """Give the columns that the table `name` is sorted by, of all batches, sorted; refuses strange functionals."""
    columns = list(TABLES[name].sort_by)
    parts = [tables.read(path, name, columns) for path in _files(batches, name)]
    keys = pa.concat_tables([tables.empty(name).select(columns), *parts], promote_options="default")
    strangers = sorted(set(pc.unique(keys["functional"]).to_pylist()) - set(frames))
    if strangers:
        raise TableError(
            f"batches hold calculations with {', '.join(strangers)}, which this campaign does not have"
        )
    return keys.combine_chunks().sort_by([(column, "ascending") for column in columns])


def _batches_of(batches: Sequence[Path], frames: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Give the batches that hold frames of each functional."""
    found: dict[str, list[Path]] = {functional: [] for functional in frames}
    for folder, path in zip(batches, _files(batches, "frames"), strict=True):
        functionals = pc.unique(tables.read(path, "frames", ["functional"])["functional"]).to_pylist()
        if len(functionals) > 1:
            raise TableError(
                f"{path}: frames of {' and '.join(sorted(functionals))}; a batch has one functional"
            )
        for functional in functionals:
            if functional not in found:
                raise TableError(
                    f"{path}: frames of the functional {functional}, which this campaign does not have"
                )
            found[functional].append(folder)
    return found


def _refuse_duplicates(columns: Iterable[pa.ChunkedArray]) -> None:
    names = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    counts = pc.value_counts(names.combine_chunks())
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise TableError(
            f"calculation {pc.min(twice)} is in two batches or in both calculations and failures"
            f" ({len(twice)} such); delete the round's dft/ folder and run again, finished work is kept"
        )
