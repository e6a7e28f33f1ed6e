"""What all benchmarks share: their list, how time is taken, how an outcome is told.

Comes in: the name of a benchmark, whose module `benchmarks.NAME` has a function `run(*, long) -> Outcome` that
prints its table. Goes out: the outcome as one line of JSON. Time is CPU time of the one thread that works, and two
things that are compared take turns in one process, so that what else the machine does hits both.
"""

import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

BENCHMARKS = {
    "unranking": "decorations of ternary prototypes unranked per second of one core, against itertools",
    "screening_memory": "peak memory of scoring a shard, from 1e5 to 1e7 ranks",
    "training_memory": "peak memory of training the screener on up to 5e6 records",
    "screening_throughput": "structures scored per second of one core, against CGAT and against whole graphs",
    "screening_gpu": "structures scored per second on a GPU in bf16, and the share of its peak",
    "vasp_import": "VASP runs imported per CPU second of one core, against reading them and against pymatgen",
    "perovskites": "error of formation energies of cubic perovskites, against structure-blind baselines",
    "prerelax_speed": "cells of 2 to 12 atoms pre-relaxed per second by two workers, against chgnet's own relaxer",
    "steps_saved": "ionic steps of GPAW with pre-relaxation against without, structures of the laptop campaign",
    "potential_training": "frames trained on per CPU second of one core, against matgl's own script; peak memory",
    "prerelax_gpu": "cells pre-relaxed per second on a GPU, in batches against one at a time",
    "hull_exactness": "distances to the hull against pymatgen's PhaseDiagram, and proofs of 1e6 entries",
    "hull_speed": "CPU time of a hull over 25 elements, against PatchedPhaseDiagram, and its growth to 1e6 entries",
    "hull_million": "CPU time and peak memory of the hull of 1e6 entries over 83 elements, from file to file",
    "hull_query": "new compositions placed per second against a hull of 1e6 entries",
    "parquet_against_extxyz": "frames written and read per CPU second, Parquet and our text against ASE's text",
    "release_identity": "SHA256SUMS of a campaign released twice, and logical hashes under two versions of pyarrow",
    "release_memory": "peak memory of the release of up to 1e6 frames, in a process of its own",
    "collecting": "CPU time and peak memory of joining the batches of a round, against a plain copy",
    "batch_overhead": "own CPU time a structure of a batch of DFT calculations, beside that of its engine",
    "planning": "CPU time and peak memory of `snakemake -n` for rounds of 500 000 calculations",
    "status_latency": "CPU time of `hullforge status` on a campaign of a million calculations",
    "kills": "calculations lost, duplicated and repeated after 50 kills of a campaign, and the bytes of its database",
    "optimade_latency": "seconds until `hullforge serve` answers, 2e5 structures, against its default collection",
}


class UnavailableError(Exception):
    """Something that a benchmark needs is absent; the message says what, and how to get it."""


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found.

    `figures` have their units in their keys. `ratio` says how many times better than `peer` we are. `holds` is None
    where the bound can't be judged here.
    """

    figures: Mapping[str, float | None]
    holds: bool | None
    ratio: float | None = None
    peer: str | None = None

    def line(self, name: str) -> str:
        """Give the outcome as one line of JSON; numbers have four digits."""
        content: dict[str, Any] = {
            "name": name,
            "figures": {key: _rounded(value) for key, value in self.figures.items()},
        }
        if self.peer is not None:
            content |= {"ratio": _rounded(self.ratio), "peer": self.peer}
        return json.dumps(content | {"holds": self.holds})


def _rounded(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def run(name: str, *, long: bool) -> int:
    """Run a benchmark and print its outcome as the last line; gives the exit status."""
    try:
        outcome: Outcome = importlib.import_module(f"benchmarks.{name}").run(long=long)
    except UnavailableError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        print(Outcome({}, holds=None).line(name))
        return 1
    print(outcome.line(name))
    return 0


def package(name: str, install: str) -> ModuleType:
    """Import a package that only benchmarks need. Raises `UnavailableError` with the name to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"this benchmark needs the package {install}; run: pip install {install}"
        ) from error


def seam(name: str) -> ModuleType | None:
    """Import the module `benchmarks.NAME`, or give None where it does not exist."""
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"benchmarks.{name}":
            raise
        return None


@dataclass(frozen=True)
class Rates:
    """Units of work per CPU second of each side, one number per round."""

    rounds: Mapping[str, Sequence[float]]

    def median(self, side: str) -> float:
        """Give the median rate of a side, units per CPU second."""
        return statistics.median(self.rounds[side])

    def ratio(self, side: str, other: str) -> float:
        """Give how many times faster `side` is than `other`: the median over rounds of the ratio in a round."""
        return statistics.median(a / b for a, b in zip(self.rounds[side], self.rounds[other], strict=True))


def rate(work: Callable[[], int], clock: Callable[[], float] = time.thread_time) -> float:
    """Do a piece of work, which gives how many units it was; gives the units per second of `clock`.

    Unless told otherwise that is CPU time of this thread.
    """
    start = clock()
    units = work()
    return units / max(clock() - start, 1e-9)


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> Rates:
    """Let `sides` take turns, `rounds` times, after one round that is not counted.

    A side measures its own rate, a tenth of a second or more of work at a time, most easily with `rate`.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            value = measure()
            if number:
                rates[name].append(value)
    return Rates(rates)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Set rows in columns: texts to the left, numbers to the right with four digits."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)
