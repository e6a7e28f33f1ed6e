"""What joining the batches of a large round takes: memory that does not grow with it, and time against a plain copy.

Comes in: nothing; a made-up round (`made_campaign`) with ten frames a calculation is written to a temporary folder. Goes
out: CPU seconds, largest resident set and frames per CPU second of `hullforge collect` as a process of its own, for 10 000
and 40 000 structures, with `--long` for 50 000 and 500 000 (five million frames). Beside it, in the same run, the Parquet
limit: pyarrow reads the same tables and writes their rows as they come, unsorted and unchecked, zstd level 3 as ours.
Bound: below 4 GiB at 500 000; without `--long` it isn't judged.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import made_campaign, runner
from benchmarks.screening_memory import LAUNCH
from hullforge import config
from hullforge.store import tables

#: Structures and batches.
SIZES, LONG_SIZES = ((10_000, 50), (40_000, 200)), ((50_000, 250), (500_000, 2_500))
JUDGED, BOUND_GIB = 500_000, 4.0
NAMES = ("calculations", "failures", "costs")


@dataclass(frozen=True)
class Taken:
    """What one way of joining a round took."""

    structures: int
    way: str
    frames: int
    cpu_s: float
    peak_gib: float

    @property
    def rate(self) -> float:
        """Frames per CPU second."""
        return self.frames / self.cpu_s


def copy(settings: config.Campaign, here: Path, out: Path) -> None:
    """Write the rows of all batches to a round's tables in the order that they come in."""
    for functional in settings.functionals:
        _copy(_paths(settings, here, "frames", functional), out / "frames" / f"{functional}.parquet")
    for name in NAMES:
        _copy(_paths(settings, here, name), out / f"{name}.parquet")


def _paths(settings: config.Campaign, here: Path, name: str, functional: str = "") -> list[Path]:
    folders = made_campaign.batch_folders(settings, here)
    wanted = [f for f in folders if not functional or f.parent.name.startswith(f"{functional}-")]
    return [folder / f"{name}.parquet" for folder in wanted]


def _copy(paths: Sequence[Path], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    schema = pq.read_schema(paths[0])
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(out, schema, compression="zstd", compression_level=3) as file:
        for path in paths:
            waiting.append(pq.read_table(path))
            if sum(map(len, waiting)) >= tables.ROW_GROUP or path == paths[-1]:
                file.write_table(pa.concat_tables(waiting))
                waiting = []


def measure(settings: config.Campaign, here: Path, out: Path) -> list[Taken]:
    """Join the batches of the round in `here` both ways; raises `RuntimeError` when rows are lost on the way."""
    structures = settings.rounds[0].budget
    folders = [str(folder) for folder in made_campaign.batch_folders(settings, here)]
    config_file = settings.folder.parent / "campaign.yaml"
    commands = {
        "hullforge collect": [
            "-m", "hullforge.cli", "collect", "--batches", *folders, "--functionals", *settings.functionals,
            "--out", str(out / "ours"),
        ],
        "plain copy": ["-m", "benchmarks.collecting", str(config_file), str(here), str(out / "plain")],
    }  # fmt: skip
    taken = []
    for (way, command), place in zip(commands.items(), ("ours", "plain"), strict=True):
        # All the time of one core: pyarrow's threads would be counted, but not what they wait for.
        told = subprocess.run(
            [sys.executable, "-c", LAUNCH, sys.executable, *command],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).stdout.split()
        if told[0] != "0":
            raise RuntimeError(f"{way} failed with status {told[0]}")
        frames = {
            f: tables.count(out / place / "frames" / f"{f}.parquet", "frames") for f in settings.functionals
        }
        taken.append(Taken(structures, way, sum(frames.values()), float(told[2]), int(told[1]) / 2**20))
    for name in (*NAMES, *(f"frames/{f}" for f in settings.functionals)):
        kind = name.partition("/")[0]
        ours, plain = (tables.count(out / place / f"{name}.parquet", kind) for place in ("ours", "plain"))
        if ours != plain:
            raise RuntimeError(f"{name}: {ours} rows were collected of {plain}")
    return taken


def made(size: tuple[int, int], folder: Path) -> list[Taken]:
    """Make a round of so many structures in so many batches, and measure it."""
    shape = made_campaign.Shape(*size, rounds=1)
    settings = made_campaign.campaign(folder, shape)
    return measure(settings, made_campaign.write_round(settings, 0, shape), folder / "out")


def outcome(taken: Sequence[Taken]) -> runner.Outcome:
    """Print what was measured, and judge the largest round where it is as large as the bound says."""
    print(runner.table(
        ["way", "structures", "frames", "CPU s", "frames/CPU s", "peak GiB"],
        [[t.way, f"{t.structures:,}", f"{t.frames:,}", t.cpu_s, t.rate, t.peak_gib] for t in taken],
    ))  # fmt: skip
    first, last, plain = taken[0], taken[-2], taken[-1]
    figures: dict[str, float | None] = {
        "structures": last.structures, "frames": last.frames, "cpu_s": last.cpu_s, "frames_per_cpu_s": last.rate,
        "plain_copy_frames_per_cpu_s": plain.rate, "peak_GiB": last.peak_gib, "plain_copy_peak_GiB": plain.peak_gib,
        "peak_grows_by_bytes_a_frame": (last.peak_gib - first.peak_gib) * 2**30 / (last.frames - first.frames),
    }  # fmt: skip
    holds = last.peak_gib < BOUND_GIB if last.structures >= JUDGED else None
    return runner.Outcome(figures, holds, last.rate / plain.rate, "a plain copy by pyarrow")


def run(*, long: bool) -> runner.Outcome:
    """Measure each size, one after the other."""
    if not sys.platform.startswith("linux"):
        raise runner.UnavailableError("largest resident sets are read as Linux tells them; run it there")
    taken = []
    for size in LONG_SIZES if long else SIZES:
        with tempfile.TemporaryDirectory() as name:
            taken += made(size, Path(name))
    return outcome(taken)


if __name__ == "__main__":
    copy(config.load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
