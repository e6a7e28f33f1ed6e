"""What 50 kills (-9) of the whole process tree cost a campaign that is restarted by the same command after each.

Comes in: a campaign of three rounds and two functionals with the engine emt, some of whose calculations fail on
purpose. It runs once undisturbed. Then it runs again in another folder, and is frozen and killed at seeded moments:
one each for the stages in turn, at a random fraction of the time that the stage took undisturbed, all others when
the campaign has got on by a random number of files. Executions are counted by the engine's own children: each appends
a line to a log outside the campaign before it does anything. Which calculations ran at a kill is read off their locks,
while the whole tree stands still. Goes out: how many kills hit which stage; calculations lost, duplicated and repeated;
whether the final database is the same, byte for byte. Bound: none lost, none duplicated, each calculation repeated at
most as often as it was running at a kill, and every file of the release and of the sealed rounds the same but for
measured times: the tables of costs, the raw outputs, the pages of the reports and the section `costs` of their numbers.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks import runner
from hullforge.store import journal, tables

REPOSITORY = Path(__file__).parents[1]
KILLS = 50
#: Stages that a kill is aimed at in any case.
STAGES = (
    "prototypes", "select", "prerelax", "dft", "place", "promote", "collect", "train", "report", "seal", "screen",
    "release",
)  # fmt: skip
#: Files that hold measured times, and so differ between any two runs.
CLOCKS = ("costs.parquet", "raw.tar.gz", "report.html")
#: Longest wait for a campaign to get on, seconds.
PATIENCE_S = 900.0
POLL_S = 0.05
#: Appended to by each child of the engine, by Python's own hook for start-up.
SPY = """
import os, sys
if "hullforge.dft.engines.emt" in sys.orig_argv:
    with open(os.environ["EXECUTIONS"], "ab", buffering=0) as log:
        log.write((os.getcwd() + "\\n").encode())
"""
CONFIG = {
    "campaign": "killed",
    "elements": ["Al", "Cu", "Au"],
    "seed": 1,
    "prototypes": {"library": "aflow", "max_sites": 2, "nspecies": [1, 2]},
    "engine": {
        "name": "emt",
        "version": version("ase"),
        "faults": {"share": 0.3, "kinds": ["scf", "crash", "truncated"], "seed": 3},
    },
    "protocol": "emt",
    "functionals": ["PBE", "PBEsol"],
    "promotion": {"e_above_hull": 0.2, "max_structures": 4},
    "rounds": [{"budget": 8, "batches": 2}, {"budget": 6, "batches": 2}, {"budget": 6, "batches": 2}],
    "training": {"epochs": 3},
    "prerelax": {"backend": "none"},
}


@dataclass(frozen=True)
class Kill:
    """One kill: the stages that ran, and the calculations whose locks were held."""

    stages: frozenset[str]
    running: frozenset[str]


@dataclass
class Disturbed:
    """A campaign's folder, and what happened to it."""

    folder: Path
    kills: list[Kill] = field(default_factory=list)
    #: Names of all files ever seen in the results, those under work included: how far the campaign has got.
    seen: set[str] = field(default_factory=set)
    #: Longest time that each stage was seen running, seconds.
    durations: dict[str, float] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.folder / "results" / "killed"

    @property
    def executions(self) -> Path:
        """Log of the engine's children, outside the results."""
        return self.folder / "executions.log"

    def prepare(self) -> None:
        """Copy the workflow, and write the configuration and the engine's spy."""
        self.folder.mkdir(parents=True)
        for name in ("Snakefile", "rules", "envs", "profiles"):
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        (self.folder / "config").mkdir()
        (self.folder / "config" / "config.yaml").write_text(json.dumps(CONFIG))
        (self.folder / "spy").mkdir()
        (self.folder / "spy" / "sitecustomize.py").write_text(SPY)

    def start(self) -> subprocess.Popen[bytes]:
        """Start Snakemake, the same way each time."""
        paths = [str(self.folder / "spy"), str(REPOSITORY / "src")]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "EXECUTIONS": str(self.executions),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with (self.folder / "snakemake.out").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "2"],
                cwd=self.folder,
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def look(self) -> int:
        """Note the files that are there now; gives the number of those ever seen."""
        for folder, names, files in os.walk(self.results):
            if folder == str(self.results):
                names[:] = [name for name in names if name not in ("logs", "benchmarks")]
            self.seen.update(f"{folder}/{name}" for name in files if not name.startswith("."))
        return len(self.seen)

    def fail(self, why: str) -> None:
        """Raise with the end of Snakemake's words."""
        text = (self.folder / "snakemake.out").read_text()
        raise AssertionError(f"{why}\n{text[-3000:]}")

    def watch(self, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, float]]:
        """Give again and again for how long which stages have been running, until the process ends."""
        began: dict[tuple[int, str], float] = {}
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None:
            if time.monotonic() > deadline:
                self.fail("the campaign gets nowhere")
            now = time.monotonic()
            alive = {(pid, stage) for pid in tree(process.pid) if (stage := stage_of(pid))}
            began = {key: began.get(key, now) for key in alive}
            running: dict[str, float] = {}
            for (_, stage), since in began.items():
                running[stage] = max(now - since, running.get(stage, 0.0))
                self.durations[stage] = max(now - since, self.durations.get(stage, 0.0))
            yield running
            time.sleep(POLL_S)

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Freeze the whole tree, look what it was at, and kill all of it."""
        members = freeze(process.pid)
        stages = frozenset(stage for pid in members if (stage := stage_of(pid)))
        running = frozenset(
            path.parent.name for path in self.results.glob("work/*/*/*/lock") if is_held(path)
        )
        self.kills.append(Kill(stages, running))
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while any(is_alive(pid) for pid in members):
            assert time.monotonic() < deadline, "killed processes do not go away"
            time.sleep(0.01)


def stage_of(pid: int) -> str:
    """Give the stage of hullforge that a process is, empty for others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    # Not the shell above it, whose command line is one word.
    return words[2].decode() if len(words) > 2 and words[1].endswith(b"/hullforge") else ""


def tree(pid: int) -> list[int]:
    """Give a process and all its descendants, parents first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


def freeze(pid: int) -> list[int]:
    """Stop a tree from its root on, until it has no member that runs; gives all members."""
    stopped: list[int] = []
    while new := [member for member in tree(pid) if member not in stopped]:
        for member in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        stopped += new
    return stopped


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock of a calculation."""
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def undisturbed(folder: Path) -> Disturbed:
    """Run the campaign to its end."""
    run_ = Disturbed(folder)
    run_.prepare()
    process = run_.start()
    for _ in run_.watch(process):
        run_.look()
    if process.returncode:
        run_.fail(f"the undisturbed campaign ended with {process.returncode}")
    run_.look()
    return run_


def disturbed(folder: Path, kills: int, like: Disturbed, seed: int) -> Disturbed:
    """Run the campaign, kill and restart it `kills` times, and let it end."""
    rng = random.Random(seed)
    run_ = Disturbed(folder)
    run_.prepare()
    total = len(like.seen)
    aims = {stage: rng.random() * like.durations.get(stage, 0.0) for stage in STAGES}
    while len(run_.kills) < kills:
        left = kills - len(run_.kills)
        # Some files further on, so that the rest of the kills is spread over the rest of the campaign.
        share = max(0, total - len(run_.seen)) / (left + 1)
        target = len(run_.seen) + max(1, round(rng.uniform(0.2, 1.8) * share))
        process, due, pause = run_.start(), None, rng.uniform(0, 0.5)
        for running in run_.watch(process):
            if due is None and run_.look() >= target:
                due = time.monotonic() + pause
            aimed = next((s for s, since in running.items() if s in aims and since >= aims[s]), None)
            if aimed is not None:
                del aims[aimed]
            if aimed is not None or (due is not None and time.monotonic() >= due):
                run_.kill(process)
                break
        else:
            run_.fail(f"the campaign was over after {len(run_.kills)} of {kills} kills")
    process = run_.start()
    for _ in run_.watch(process):
        continue
    if process.returncode:
        run_.fail(f"after {kills} kills the campaign ended with {process.returncode}")
    return run_


def database(results: Path) -> dict[str, str]:
    """Give the SHA-256 of every file that a campaign ends with, by path, but for measured times."""
    found = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if not path.is_file() or name.startswith(("logs/", "work/")) or path.name in CLOCKS:
            continue
        content = path.read_bytes()
        if path.parent.name == "report" and path.name == "metrics.json":
            content = _without(content, "costs")
        elif path.name == "sealed.json":
            record = json.loads(content)
            timed = (*CLOCKS, "report/metrics.json")
            files = {file: digest for file, digest in record["files"].items() if not file.endswith(timed)}
            content = json.dumps(record | {"files": files}, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _without(content: bytes, key: str) -> bytes:
    record = json.loads(content)
    del record[key]
    return json.dumps(record, sort_keys=True).encode()


def calculations(results: Path) -> Counter[str]:
    """Count the ids in the rounds' calculations and failures."""
    ids: Counter[str] = Counter()
    for name in ("calculations", "failures"):
        for path in sorted(results.glob(f"round-*/{name}.parquet")):
            ids.update(tables.read(path, name, ["calculation_id"]).column("calculation_id").to_pylist())
    return ids


def executions(run_: Disturbed) -> Counter[tuple[str, str]]:
    """Count the starts of the engine by calculation and step."""
    places = (Path(line) for line in run_.executions.read_text().splitlines())
    return Counter((place.parent.name, place.name) for place in places)


def repeats(planned: Mapping[tuple[str, str], int], found: Mapping[tuple[str, str], int]) -> Counter[str]:
    """Count by calculation how often its steps were begun again: a step of n attempts that runs twice is one repeat."""
    again: Counter[str] = Counter()
    for key, count in found.items():
        attempts = planned.get(key, 0)
        again[key[0]] += -(-(count - attempts) // max(attempts, 1))
    return again


def unexplained(again: Mapping[str, int], kills: Sequence[Kill]) -> int:
    """Count the repeats of calculations beyond the kills at which they were running."""
    running = Counter(name for kill in kills for name in kill.running)
    return sum(max(0, count - running[name]) for name, count in again.items())


def compare(like: Disturbed, run_: Disturbed) -> dict[str, int]:
    """Give what the kills changed, by number."""
    before, after = calculations(like.results), calculations(run_.results)
    planned, found = executions(like), executions(run_)
    again = repeats(planned, found)
    return {
        "calculations": len(before),
        "calculations_lost": len(before.keys() - after.keys()),
        "calculations_duplicated": sum(count - 1 for count in after.values())
        + len(after.keys() - before.keys()),
        "engine_runs_undisturbed": sum(planned.values()),
        "engine_runs": sum(found.values()),
        "repeated": sum(again.values()),
        "running_at_kills": sum(len(kill.running) for kill in run_.kills),
        "repeated_without_running": unexplained(again, run_.kills),
        "left_under_work": len(list(run_.results.glob(f"work/*/*/*/{journal.DONE_FILE}"))),
    }


def run(*, long: bool, kills: int | None = None, seed: int = 1) -> runner.Outcome:
    """Kill a campaign 50 times (150 times if `long`)."""
    kills = kills or (3 * KILLS if long else KILLS)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        like = undisturbed(Path(name) / "undisturbed")
        alone = time.monotonic() - began
        run_ = disturbed(Path(name) / "killed", kills, like, seed)
        took = time.monotonic() - began
        found = compare(like, run_)
        ours, theirs = database(run_.results), database(like.results)
        different = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        found |= {"files_compared": len(theirs), "files_different": len(different)}
    stages = Counter(stage for kill in run_.kills for stage in kill.stages or ["between stages"])
    print(runner.table(["killed during", "kills"], sorted(stages.items())))
    print()
    print(runner.table(["what", "number"], [("kills", len(run_.kills)), *found.items()]))
    for file in different:
        print(f"different: {file}")
    print(f"\nundisturbed {alone:.0f} s, with {kills} kills {took - alone:.0f} s of wall time")
    holds = not any(
        found[key]
        for key in (
            "calculations_lost",
            "calculations_duplicated",
            "repeated_without_running",
            "files_different",
        )
    )
    figures = {"kills": len(run_.kills), "stages_hit": len(stages.keys() & set(STAGES)), **found}
    return runner.Outcome(figures, holds=holds and len(run_.kills) >= KILLS)
