"""The hull of a million entries over 83 elements: CPU time and peak memory, as a process of its own.

Comes in: a Parquet file of ids, formulas and energies like ALEXANDRIA's (`hull_entries`), 1e6 rows, with `--long` also
4.5e6. Goes out: CPU seconds of all threads, of the hull itself (sorting, simplex) and of all that a user waits for: start
of the program, reading the file, formulas, references, checks, hull, decompositions, chemical potentials, and writing
all columns of the result to Parquet; and the largest resident set. Once from Python (`thermo.build`), stage by stage,
and once as the command `hullforge hull FILE --out FILE`. The bounds, for 1e6 and both ways: below 30 s and 4 GiB.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import runner
from benchmarks.screening_memory import LAUNCH

SIZES, LONG_SIZES = (1_000_000,), (1_000_000, 4_500_000)
ELEMENTS = 83
BOUND_SECONDS, BOUND_GIB = 30.0, 4.0


def work(source: Path, out: Path) -> dict[str, Any]:
    """Place the entries of a Parquet file and write the result to another; gives the CPU seconds of each stage."""
    import pyarrow.parquet as pq

    from hullforge.thermo import build as build_module
    from hullforge.thermo.hull import ConvexHull

    hull_seconds = 0.0
    made = ConvexHull.from_formulas

    def watched(*arguments: Any) -> ConvexHull:
        nonlocal hull_seconds
        start = time.process_time()
        hull = made(*arguments)
        hull_seconds += time.process_time() - start
        return hull

    build_module.ConvexHull.from_formulas = watched  # type: ignore[method-assign,assignment]
    loaded = time.process_time()
    table = pq.read_table(source)
    read = time.process_time()
    built = build_module.build(table)
    placed = time.process_time()
    table = table.take(built.rows)
    for name in built.entries.column_names[1:]:
        table = table.append_column(name, built.entries[name])
    pq.write_table(table, out, compression="zstd", compression_level=3, row_group_size=16_384)
    return {
        "loading": loaded,
        "reading": read - loaded,
        "hull": hull_seconds,
        "rest of build": placed - read - hull_seconds,
        "writing": time.process_time() - placed,
        "entries": built.entries.num_rows,
        "stable": int(built.entries["is_on_hull"].to_numpy().sum()),
        "compositions": sum(len(level.energy) for level in built.hull.place().levels),
        "vertices": len(built.hull.vertices),
        "bytes": out.stat().st_size,
    }


def measure(size: int) -> dict[str, Any]:
    """Run `work` and the command on `size` entries, in processes of their own.

    Gives the stages of `work`, and of both the peak in GiB and CPU seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "entries.parquet", Path(folder) / "hull.parquet"
        # The entries are made in another process too, so that this one stays small.
        make = (
            "import sys, pyarrow.parquet as pq; from benchmarks import hull_entries as h;"
            f" pq.write_table(h.entries({size}, h.elements({ELEMENTS})), sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", make, str(source)], check=True)
        seconds, gib, printed = launched("-m", "benchmarks.hull_million", str(source), str(out))
        stages: dict[str, Any] = json.loads(printed.splitlines()[-1])
        command = ("-m", "hullforge.cli", "hull", str(source), "--out", str(Path(folder) / "placed.parquet"))
        command_seconds, command_gib, _ = launched(*command)
    return stages | {
        "seconds": seconds,
        "gib": gib,
        "command_seconds": command_seconds,
        "command_gib": command_gib,
    }


def launched(*arguments: str) -> tuple[float, float, str]:
    """Run Python in a process of its own; gives CPU seconds of all threads, peak in GiB, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCH, sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    code, kib, seconds = done.stdout.split()
    if int(code):
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}:\n{done.stderr[-2000:]}")
    return float(seconds), int(kib) / 2**20, done.stderr


def run(*, long: bool, sizes: tuple[int, ...] | None = None) -> runner.Outcome:
    """Measure 1e6 entries, and 4.5e6 if `long`."""
    figures: dict[str, float | None] = {}
    holds, rows, commands = True, [], []
    sizes = sizes or (LONG_SIZES if long else SIZES)
    for size in sizes:
        found = measure(size)
        stages = ("loading", "reading", "hull", "rest of build", "writing")
        rows.append([found["entries"], *(found[name] for name in stages), found["seconds"], found["gib"]])
        commands.append([found["entries"], found["command_seconds"], found["command_gib"]])
        print(
            f"{found['entries']} entries of {found['compositions']} compositions over {ELEMENTS} elements:"
            f" {found['vertices']} vertices ({found['vertices'] / found['entries']:.1%}); {found['bytes'] / 1e6:.0f} MB written"
        )
        figures |= {
            f"hull_{size}_cpu_s": found["hull"],
            f"whole_{size}_cpu_s": found["seconds"],
            f"peak_{size}_gib": found["gib"],
            f"command_{size}_cpu_s": found["command_seconds"],
            f"command_peak_{size}_gib": found["command_gib"],
        }
        if size == SIZES[0]:
            holds &= max(found["seconds"], found["command_seconds"]) < BOUND_SECONDS
            holds &= max(found["gib"], found["command_gib"]) < BOUND_GIB
    header = ["entries", "loading", "reading", "hull", "rest of build", "writing", "whole, CPU s", "peak GiB"]
    print(runner.table(header, rows))
    print(runner.table(["entries", "hullforge hull, CPU s", "peak GiB"], commands))
    return runner.Outcome(figures, holds)


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), Path(sys.argv[2]))), file=sys.stderr)
