"""How long `hullforge status` takes on a campaign of a million calculations.

Comes in: nothing; a campaign of two rounds of 500 000 structures in 2500 batches and three functionals is laid out in a
temporary folder. Round 0 is sealed: 40 000 files that its seal names, and whole tables of the round, rows of a made-up
batch again and again. Round 1 is open: its batches have ended, each with its notes; their tables are empty files, since
status looks whether they are there. Goes out: CPU seconds (of the command and its children) and seconds on the clock of
`hullforge status --json` as a process of its own, the middle of five. Bound: below 1 s of CPU time, the start included;
the clock, which other programs hold up, is told. `--long` looks fifteen times.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from benchmarks import made_campaign, planning, runner
from hullforge.store import progress, tables

BUDGET, BATCHES = 500_000, 2_500
BOUND_S = 1.0
ROUND_TABLES = ("calculations", "failures", "costs")


def lay_out(folder: Path, budget: int, batches: int) -> Path:
    """Lay the campaign out below `folder`; give its configuration."""
    shape = made_campaign.Shape(budget, batches, 2, 1)
    config = planning.sealed_round(folder, shape)
    settings = made_campaign.campaign(folder, shape)
    # One batch of each functional as the generator makes it, in a campaign of its own.
    one = made_campaign.Shape(budget // batches, 1, 1, 1)
    sample_settings = made_campaign.campaign(folder / "sample", one)
    sample = made_campaign.write_round(sample_settings, 0, one)
    made_campaign.collect_round(sample_settings, sample)
    here, there = settings.folder / "round-000", settings.folder / "round-001"
    for name in ROUND_TABLES:
        rows = tables.read(sample / f"{name}.parquet", name)
        tables.write(here / f"{name}.parquet", name, pa.concat_tables([rows] * batches))
    for name in ("selection", "promotion"):
        rows = tables.read(sample / f"{name}.parquet", name)
        for round_folder in (here, there):
            tables.write(round_folder / f"{name}.parquet", name, pa.concat_tables([rows] * batches))
    notes = progress.folder_of(settings.folder / "work", 1)
    notes.mkdir(parents=True)
    for told in progress.read(sample_settings.folder / "work", 0).values():
        for batch in range(batches):
            text = json.dumps({**vars(told), "batch": batch})
            name = f"{told.functional}-{told.theory_id}"
            (notes / f"{name}-{batch}.json").write_text(text)
            place = there / "dft" / name / f"batch-{batch}" / "calculations.parquet"
            place.parent.mkdir(parents=True)
            place.touch()
    return config


def look(config: Path) -> tuple[float, float, int]:
    """Look once; give CPU seconds, seconds on the clock, and how many calculations were counted."""
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "hullforge.cli", "status", str(config), "--json"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    state = json.loads(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    counted = 0
    for round_ in state["rounds"]:
        if round_["broken"] or child.returncode:
            raise RuntimeError(f"status failed or found broken tables: {round_['broken'][:3]}")
        counted += sum(entry["converged"] + entry["failed"] for entry in round_["functionals"])
    return usage.ru_utime + usage.ru_stime, time.monotonic() - start, counted


def run(*, long: bool) -> runner.Outcome:
    """Look several times."""
    if not hasattr(os, "wait4"):
        raise runner.UnavailableError(
            "this system does not tell the time of a process; run it on Linux or macOS"
        )
    with tempfile.TemporaryDirectory() as name:
        config = lay_out(Path(name), BUDGET, BATCHES)
        looks = [look(config) for _ in range(15 if long else 5)]
    cpu, clock = (statistics.median(one[place] for one in looks) for place in (0, 1))
    counted = looks[0][2]
    if counted < 2 * BUDGET:
        raise RuntimeError(f"{counted} calculations were counted, {2 * BUDGET} or more are there")
    print(runner.table(["calculations", "CPU s", "clock s"], [[f"{counted:,}", cpu, clock]]))
    figures: dict[str, float | None] = {"calculations": counted, "cpu_s": cpu, "clock_s": clock}
    return runner.Outcome(figures, cpu < BOUND_S)
