"""How fast frames are written and read: Parquet and extended XYZ of hullforge against ASE's extended XYZ.

Comes in: made-up frames (`benchmarks.frames`), in memory as each side has them: a table here, `Atoms` with results
there. Goes out: frames per second of process CPU time, threads included. Writing is everything to a flushed file of
the final name; reading ends with all numbers in arrays, respectively in `Atoms`. ASE works on the first frames of the
same set, since its rate doesn't depend on how many there are. Before anything is timed, ASE must find every number of
these in our text, to the last bit. Bounds: Parquet is written 30 and read 50 times as fast as ASE does its text, our
text is written 6 times as fast.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import frames, runner
from hullforge.release import exports_numpy, extxyz
from hullforge.store import tables
from hullforge.store.structures import atoms_from_row

WRITE_BOUND, READ_BOUND, TEXT_BOUND = 30.0, 50.0, 6.0
PARQUET, TEXT, ASE, TO_ASE = "Parquet", "extended XYZ, hullforge", "extended XYZ, ASE", "Parquet to Atoms"
RESULTS = ("energy", "free_energy", "forces", "stress")


def check(table: pa.Table, read: list[Any]) -> None:
    """Compare what ASE read of our text with the table, bit by bit. Raises `AssertionError`."""
    assert len(read) == table.num_rows, "another number of frames"
    for atoms, row in zip(read, table.to_pylist(), strict=True):
        pairs = [(atoms.numbers, row["numbers"]), (atoms.cell.array.ravel(), row["cell"])]
        pairs += [(atoms.positions, row["positions"])]
        pairs += [(atoms.calc.results[name], row[name]) for name in RESULTS]
        for found, wanted in pairs:
            assert np.array_equal(found, np.asarray(wanted)), f"{row['frame_id']}: other numbers"


def atoms_of(table: pa.Table) -> list[Any]:
    """Give the frames as `Atoms` with results and the same `info` that our text has."""
    from ase.calculators.singlepoint import SinglePointCalculator

    made = []
    for row in table.to_pylist():
        atoms = atoms_from_row(row)
        atoms.info = {name: row[name] for name in extxyz.FRAME_INFO if row.get(name) is not None}
        results = {
            name: np.array(row[name]) if isinstance(row[name], list) else row[name] for name in RESULTS
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    return made


def run(*, long: bool, n: int | None = None, n_ase: int = 500) -> runner.Outcome:
    """Check, then let all sides take turns; 20 000 frames for our sides, 100 000 if `long`, `n_ase` for ASE."""
    import ase.io

    n = n or (100_000 if long else 20_000)
    table = frames.made(n)
    first = table.slice(0, min(n_ase, n)).combine_chunks()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parquet, few, text, theirs, sample = (
            folder / file for file in ("f.parquet", "s.parquet", "f.extxyz", "a.xyz", "s.extxyz")
        )
        extxyz.write(sample, first, extxyz.FRAME_INFO)
        check(first, ase.io.read(sample, index=":"))
        atoms = atoms_of(first)

        def timed(work: Callable[[], Any], units: int) -> Callable[[], float]:
            def once() -> int:
                work()
                return units

            return lambda: runner.rate(once, clock=time.process_time)

        tables.write(parquet, "frames", table)
        tables.write(few, "frames", first)
        ase.io.write(theirs, atoms, format="extxyz")
        writing = runner.interleaved(
            {
                PARQUET: timed(lambda: tables.write(parquet, "frames", table), n),
                TEXT: timed(lambda: extxyz.write(text, table, extxyz.FRAME_INFO), n),
                ASE: timed(lambda: ase.io.write(theirs, atoms, format="extxyz"), len(atoms)),
            },
            rounds=5,
        )
        reading = runner.interleaved(
            {
                PARQUET: timed(lambda: exports_numpy.arrays(tables.read(parquet, "frames")), n),
                ASE: timed(lambda: ase.io.read(theirs, index=":"), len(atoms)),
                TO_ASE: timed(lambda: atoms_of(tables.read(few, "frames")), len(atoms)),
            },
            rounds=5,
        )
        size = {
            PARQUET: parquet.stat().st_size / n,
            TEXT: text.stat().st_size / n,
            ASE: theirs.stat().st_size / len(atoms),
        }
    rows = [
        [
            side,
            *(rates.median(side) if side in rates.rounds else None for rates in (writing, reading)),
            size.get(side),
        ]
        for side in (PARQUET, TEXT, ASE, TO_ASE)
    ]
    print(
        f"{n} frames, 11.5 atoms each with forces and stress; {len(atoms)} read back by ASE, all numbers equal"
    )
    print(runner.table(["", "written per CPU s", "read per CPU s", "bytes a frame"], rows))
    ratios = {
        "parquet_write_ratio": writing.ratio(PARQUET, ASE),
        "parquet_read_ratio": reading.ratio(PARQUET, ASE),
        "extxyz_write_ratio": writing.ratio(TEXT, ASE),
    }
    figures = ratios | {
        "parquet_written_frames_per_cpu_second": writing.median(PARQUET),
        "parquet_read_frames_per_cpu_second": reading.median(PARQUET),
        "extxyz_written_frames_per_cpu_second": writing.median(TEXT),
        "ase_written_frames_per_cpu_second": writing.median(ASE),
        "ase_read_frames_per_cpu_second": reading.median(ASE),
    }
    holds = all(
        ratio >= bound
        for ratio, bound in zip(ratios.values(), (WRITE_BOUND, READ_BOUND, TEXT_BOUND), strict=True)
    )
    return runner.Outcome(figures, holds, ratios["parquet_write_ratio"], "ASE's extended XYZ, written")
