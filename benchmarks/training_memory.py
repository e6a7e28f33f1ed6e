"""How much memory training takes on millions of records, and that it holds no graph of any of them.

Comes in: nothing; a table of calculations and a hull on AFLOW's ternaries, with made-up energies, are written to a
temporary folder. Goes out: what a process of its own takes to load them as `hullforge train` does, and to train the
preset `tiny` for some hundred steps, on 1e5 and 1e6 records, with `--long` also 5e6. Training is stopped there:
each step holds what all others hold. The bound: from the smallest size to the largest, the peak grows by less than
1000 bytes a record, the tables that loading reads included. The reduced graph of a structure takes thousands.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import runner, unranking
from benchmarks.screening_memory import LAUNCH
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.store import ids, tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import NUMBERS

SIZES, LONG_SIZES = (100_000, 1_000_000), (100_000, 1_000_000, 5_000_000)
STEPS, BATCH = 200, 64
PROTOTYPES = 40
BOUND_BYTES = 1000.0
#: Rows that are made up at a time.
CHUNK = 100_000


@dataclass(frozen=True)
class Taken:
    """What a process took."""

    records: int
    loaded_gib: float  # largest resident set after loading
    peak_gib: float  # at the end
    load_s: float  # CPU time of loading
    step_s: float  # CPU time of a step


def write(folder: Path, known: Sequence[Prototype], number: int) -> None:
    """Write `number` rows of the columns that training reads; the others are left out, or there would be no room."""
    tables.write(folder / "prototypes.parquet", "prototypes", [prototype.row() for prototype in known])
    names = {
        "calculations": ("calculation_id", "numbers", "protocol_drift"),
        "hull": ("calculation_id", "candidate_id", "prototype_id", "hull_status", "formation_energy_per_atom", "volume",
                 "nsites"),
    }  # fmt: skip
    schemas = {}
    for name, columns in names.items():
        whole = TABLES[name].arrow()
        schemas[name] = pa.schema([whole.field(column) for column in columns], whole.metadata)
    random = np.random.default_rng(0)
    with (
        pq.ParquetWriter(
            folder / "calculations.parquet", schemas["calculations"], compression="zstd"
        ) as first,
        pq.ParquetWriter(folder / "hull.parquet", schemas["hull"], compression="zstd") as second,
    ):
        left = number
        for at, prototype in enumerate(known):
            space = Decorations(prototype, unranking.POOL)
            share = -(-left // (len(known) - at))
            left -= share
            ranks = np.arange(share) * (space.count // share)
            for begin in range(0, share, CHUNK):
                rows = _rows(prototype, space, ranks[begin : begin + CHUNK], random)
                first.write_table(pa.Table.from_pydict(rows, schema=schemas["calculations"]))
                second.write_table(pa.Table.from_pydict(rows, schema=schemas["hull"]))


def _rows(
    prototype: Prototype, space: Decorations, ranks: np.ndarray, random: np.random.Generator
) -> dict[str, Any]:
    """Give the columns of both tables for decorations of one prototype, in the order of its sites."""
    chosen = space.unrank(ranks)
    symbols = np.array(space.elements)[chosen]
    numbers = np.array([NUMBERS[symbol] for symbol in space.elements])[chosen][:, prototype.site_species]
    candidates = [ids.candidate_id(prototype.prototype_id, row) for row in symbols.tolist()]
    n = len(ranks)
    return {
        "calculation_id": [f"k1-{candidate}" for candidate in candidates],
        "candidate_id": candidates,
        "prototype_id": [prototype.prototype_id] * n,
        "hull_status": ["ok"] * n,
        "formation_energy_per_atom": random.normal(size=n),
        "volume": np.full(n, 15.0 * prototype.nsites),
        "nsites": np.full(n, prototype.nsites),
        "numbers": list(numbers),
        "protocol_drift": [[]] * n,
    }


class _EnoughError(Exception):
    """As many steps were trained as are wanted."""


def take(folder: Path, out: Path) -> None:
    """Load and train in this process; write what that took to `out`, as JSON."""
    import resource

    from hullforge.config import Training
    from hullforge.crystals import prototypes
    from hullforge.screening import data, train
    from hullforge.screening.graphs import Batch, GraphTable
    from hullforge.screening.model import threads

    def peak() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    class Counted(GraphTable):
        """A table that stops the training after some batches."""

        batches = 0

        def mixed(self, index: np.ndarray, species: np.ndarray) -> Batch:
            self.batches += 1
            if self.batches > STEPS:
                raise _EnoughError
            return super().mixed(index, species)

    known = prototypes.load(folder / "prototypes.parquet")
    training = Training(preset="tiny", ensemble=1, epochs=1, batch_size=BATCH, device="cpu")
    start = time.process_time()
    records, _ = data.load(
        known, [folder / "calculations.parquet"], folder / "hull.parquet", training.max_target
    )
    parts = data.split(records, known, training.validation_share, training.test_share, training.split_by, 0)
    loaded, loaded_gib = time.process_time(), peak()
    number = len(records)
    del records
    try:
        with threads(1):
            train.fit(Counted(known), parts[0], parts[1], training, 0)
    except _EnoughError:
        pass
    step = (time.process_time() - loaded) / STEPS
    out.write_text(json.dumps([number, loaded_gib, peak(), loaded - start, step]))


def measure(known: Sequence[Prototype], number: int) -> Taken:
    """Write `number` rows and train on them in a process of its own. Raises `RuntimeError` when that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, known, number)
        out = folder / "taken.json"
        command = [sys.executable, "-m", "benchmarks.training_memory", str(folder), str(out)]
        told = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        if told[0] != "0":
            raise RuntimeError(f"training on {number} records failed with status {told[0]}")
        return Taken(*json.loads(out.read_text()))


def run(*, long: bool, sizes: Sequence[int] | None = None) -> runner.Outcome:
    """Measure each size."""
    if not hasattr(os, "wait4"):
        raise runner.UnavailableError(
            "this system does not tell the memory of a process; run it on Linux or macOS"
        )
    known = sorted(unranking.ternaries(), key=lambda prototype: prototype.prototype_id)[:PROTOTYPES]
    taken = [measure(known, number) for number in sizes or (LONG_SIZES if long else SIZES)]
    print(f"preset tiny, {STEPS} steps of {BATCH} records")
    print(runner.table(
        ["records", "GiB after loading", "GiB after training", "CPU s to load", "CPU ms a step"],
        [[f"{one.records:,}", one.loaded_gib, one.peak_gib, one.load_s, 1000 * one.step_s] for one in taken],
    ))  # fmt: skip
    first, last = taken[0], taken[-1]
    per_record = (last.peak_gib - first.peak_gib) * 2**30 / (last.records - first.records)
    figures: dict[str, float | None] = {"peak_grows_by_bytes_a_record": per_record}
    for one in taken:
        figures[f"peak_GiB_at_{one.records}_records"] = one.peak_gib
        figures[f"load_cpu_s_at_{one.records}_records"] = one.load_s
    return runner.Outcome(figures, per_record < BOUND_BYTES)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
