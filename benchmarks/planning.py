"""What `snakemake -n` takes for a round of 500 000 calculations, for three of them, and after a sealed one.

Comes in: nothing; a configuration with rounds of 500 000 structures in 2500 batches and three functionals is written to a
temporary folder. Goes out: CPU seconds, seconds on the clock, and peak memory (resident, of the process and all of its
children together) of the dry run from the repository's root, with one round to do, with three at once, and with one after
a round that is sealed (its 40 000 files are there, empty: planning looks at names and times alone). Bounds, for one round
and for the one after a sealed one: below 60 s and 2 GiB; three rounds take no more than three times one, time and memory.
`--long` adds five rounds, which aren't judged.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import made_campaign, runner
from hullforge.dft import protocol
from hullforge.store import seal

BUDGET, BATCHES = 500_000, 2_500
BOUND_S, BOUND_GIB = 60.0, 2.0
ROOT = Path(__file__).parents[1]
#: Seconds between two looks at the memory.
LOOK_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What one dry run took, and how many jobs it planned by rule."""

    what: str
    jobs: dict[str, int]
    cpu_s: float
    clock_s: float
    peak_gib: float
    lines: int

    @property
    def total(self) -> int:
        """Jobs of all rules."""
        return sum(self.jobs.values())


def planned(what: str, config: Path, rounds_to_do: int, batches: int) -> Plan:
    """Plan the campaign of a configuration; raises `RuntimeError` when the plan isn't that of so many rounds."""
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", str(config)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
        start = time.monotonic()
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=problems)
        peak = 0
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, resident(child.pid))
            time.sleep(LOOK_S)
        clock = time.monotonic() - start
        _, status, usage = ended
        # Popen would wait for a process that is gone.
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        problems.seek(0)
        text = out.read()
        if child.returncode:
            raise RuntimeError(f"snakemake -n failed: {text[-2000:]}{problems.read()[-2000:]}")
    statistics = text[text.rindex("Job stats:") :]
    jobs = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", statistics, re.MULTILINE)}
    jobs.pop("total")
    wanted = {"prerelax": batches * rounds_to_do, "dft": 3 * batches * rounds_to_do, "collect": rounds_to_do}
    if any(jobs.get(name) != number for name, number in wanted.items()):
        raise RuntimeError(f"{what}: {jobs} were planned, not {wanted}")
    gib = max(peak, usage.ru_maxrss * 1024) / 2**30
    return Plan(what, jobs, usage.ru_utime + usage.ru_stime, clock, gib, text.count("\n"))


def resident(pid: int) -> int:
    """Give the resident memory of a process and all of its children, bytes; 0 for what has ended."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return own + sum(resident(int(child)) for child in children)


def sealed_round(folder: Path, shape: made_campaign.Shape) -> Path:
    """Write the configuration of `shape` and its round 0 as empty files that a seal names; give the configuration."""
    settings = made_campaign.campaign(folder, shape)
    seal.claim(settings.folder, settings.campaign, len(settings.rounds))
    here = settings.folder / "round-000"
    theories = {
        f: protocol.load(settings.protocol).theory_id(f, settings.engine) for f in settings.functionals
    }
    names = [f"{name}.parquet" for name in ("selection", "promotion", "calculations", "failures", "costs")]
    names += [f"frames/{f}.parquet" for f in theories]
    names += [f"hull/{f}{end}.parquet" for f in theories for end in ("", "-references", "-changes")]
    names += ["screener/model.pt", "screener/metrics.json", "report/report.html", "report/metrics.json"]
    names += [f"prerelax/batch-{b}.parquet" for b in range(shape.batches)]
    tables = ("calculations.parquet", "frames.parquet", "failures.parquet", "costs.parquet", "raw.tar.gz")
    names += [
        f"dft/{f}-{t}/batch-{b}/{table}"
        for f, t in theories.items()
        for b in range(shape.batches)
        for table in tables
    ]
    files = [here / name for name in names]
    files += [settings.folder / "prototypes.parquet", settings.folder / "rejects.parquet"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    seal.seal(here, files, settings.folder)
    return folder / "campaign.yaml"


def measure(folder: Path, rounds: Sequence[int], budget: int, batches: int) -> dict[str, Plan]:
    """Plan `rounds` rounds at once, each number of them, and one after a sealed round."""
    plans = {}
    for number in rounds:
        place = folder / f"open-{number}"
        made_campaign.campaign(place, made_campaign.Shape(budget, batches, number))
        name = f"{number} open"
        plans[name] = planned(name, place / "campaign.yaml", number, batches)
    config = sealed_round(folder / "sealed", made_campaign.Shape(budget, batches, 2))
    plans["1 sealed, 1 open"] = planned("1 sealed, 1 open", config, 1, batches)
    return plans


def run(*, long: bool) -> runner.Outcome:
    """Measure each plan."""
    if not Path("/proc/self/statm").exists():
        raise runner.UnavailableError(
            "this system does not tell the memory of processes in /proc; run it on Linux"
        )
    with tempfile.TemporaryDirectory() as name:
        plans = measure(Path(name), (1, 3, 5) if long else (1, 3), BUDGET, BATCHES)
    print(runner.table(
        ["rounds", "jobs", "CPU s", "ms CPU/job", "clock s", "peak GiB", "lines printed"],
        [[p.what, p.total, p.cpu_s, 1000 * p.cpu_s / p.total, p.clock_s, p.peak_gib, p.lines] for p in plans.values()],
    ))  # fmt: skip
    one, three, after = plans["1 open"], plans["3 open"], plans["1 sealed, 1 open"]
    figures: dict[str, float | None] = {
        "structures_a_round": BUDGET, "jobs_of_one_round": one.total, "cpu_s_one_round": one.cpu_s,
        "peak_GiB_one_round": one.peak_gib, "cpu_s_three_rounds": three.cpu_s, "peak_GiB_three_rounds": three.peak_gib,
        "three_rounds_over_three_times_one_cpu": three.cpu_s / (3 * one.cpu_s),
        "cpu_s_after_a_sealed_round": after.cpu_s, "peak_GiB_after_a_sealed_round": after.peak_gib,
    }  # fmt: skip
    holds = all(plan.cpu_s < BOUND_S and plan.peak_gib < BOUND_GIB for plan in (one, after))
    holds = holds and three.cpu_s <= 3 * one.cpu_s and three.peak_gib <= 3 * one.peak_gib
    return runner.Outcome(figures, holds)
