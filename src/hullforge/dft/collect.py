"""From batches to a round: the batch tables of all functionals, put together.

Comes in: the folders that `hullforge.dft.batch` wrote; goes out: the round's calculations, failures, costs, and
one table of frames per functional. Rows are only moved and sorted, so the order of batches does not matter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import TableError
from hullforge.store import tables


def run(
    batches: Sequence[Path],
    *,
    calculations: Path,
    failures: Path,
    costs: Path,
    frames: Mapping[str, Path],
) -> None:
    """Write the round's tables from its batch folders.

    `frames` gives the file of each functional's frames; a functional without any gets an empty table. Frames of
    one functional at a time are held in memory.

    Raises `TableError` when a batch's table is missing or broken, names a functional that `frames` lacks, or
    when a calculation appears twice.
    """
    good = tables.concat([folder / "calculations.parquet" for folder in batches], "calculations")
    bad = tables.concat([folder / "failures.parquet" for folder in batches], "failures")
    _refuse_duplicates([good.column("calculation_id"), bad.column("calculation_id")])
    _refuse_strangers([good, bad], frames)
    by_functional = _batches_of(batches, frames)
    for functional, path in frames.items():
        parts = [
            _only(tables.read(folder / "frames.parquet", "frames"), functional)
            for folder in by_functional[functional]
        ]
        tables.write(path, "frames", pa.concat_tables(parts) if parts else tables.empty("frames"))
    tables.write(costs, "costs", tables.concat([folder / "costs.parquet" for folder in batches], "costs"))
    tables.write(failures, "failures", bad)
    tables.write(calculations, "calculations", good)


def _batches_of(batches: Sequence[Path], frames: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Give the batches that hold frames of each functional."""
    found: dict[str, list[Path]] = {functional: [] for functional in frames}
    for folder in batches:
        path = folder / "frames.parquet"
        for functional in pc.unique(
            tables.read(path, "frames", ["functional"]).column("functional")
        ).to_pylist():
            if functional not in found:
                raise TableError(
                    f"{path}: frames of the functional {functional}, which this campaign does not have"
                )
            found[functional].append(folder)
    return found


def _only(table: pa.Table, functional: str) -> pa.Table:
    return table.filter(pc.equal(table.column("functional"), functional))


def _refuse_strangers(parts: Iterable[pa.Table], frames: Mapping[str, Path]) -> None:
    for part in parts:
        strangers = sorted(set(part.column("functional").to_pylist()) - set(frames))
        if strangers:
            raise TableError(
                f"batches hold calculations with {', '.join(strangers)}, which this campaign does not have"
            )


def _refuse_duplicates(columns: Iterable[pa.ChunkedArray]) -> None:
    counts = Counter(value for column in columns for value in column.to_pylist())
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise TableError(
            f"calculation {twice[0]} is in two batches or in both calculations and failures"
            f" ({len(twice)} such); delete the round's dft/ folder and run again, finished work is kept"
        )
