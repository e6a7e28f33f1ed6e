"""How much memory the scoring of a shard takes, and that it does not grow with the shard.

Comes in: nothing; prototypes, a model with random weights and a hull are made up in a temporary folder. Goes out: the
peak memory (largest resident set) of `hullforge screen` as a process of its own, on shards of 1e5 and 1e6 ranks, with
`--long` also 1e7, cut from the same round of AFLOW's ternaries with 83 elements. All of them keep equally many rows,
so few that the shortest shard fills them: what is left of the growth is what a rank costs. One more shard keeps as
many rows as the configuration lets by default, so that this run holds what a shard of 1e8 ranks holds. The bound:
below 2 GiB, and less than 5 % more per decade.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from benchmarks import runner, unranking
from hullforge.config import Screening, ScreenSettings
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.store import tables
from hullforge.store.schema import TABLES

RANKS, LONG_RANKS = (100_000, 1_000_000), (100_000, 1_000_000, 10_000_000)
#: Rows that a shard keeps of each kind: the shortest one offers ten times as many.
KEPT = 10_000
#: Ranks of the shard that keeps as much as the default allows.
FULL_RANKS = 300_000
MEMBERS = 3
BOUND_GIB, MAX_GROWTH = 2.0, 0.05

# The peak of a process counts from before its program is loaded, when it still has its parent's memory: a small
# process in between keeps ours out.
LAUNCH = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
"""


@dataclass(frozen=True)
class Peak:
    """What one run of the stage took."""

    ranks: int
    kept: int  # rows written
    gib: float  # largest resident set
    seconds: float  # CPU time


def write_round(folder: Path, known: Sequence[Prototype], preset: str, members: int) -> None:
    """Make up what a round is screened with, in `folder`: prototypes, a screener with random weights, a hull.

    The hull has all elements of `unranking.POOL` and some binaries.
    """
    import torch

    from hullforge.screening.model import Normalisation, Screener
    from hullforge.screening.network import PRESETS, Network

    tables.write(folder / "prototypes.parquet", "prototypes", [prototype.row() for prototype in known])
    rows = [_phase(symbol, [symbol], 0.0) for symbol in unranking.POOL]
    for number, (first, second) in enumerate(combinations(unranking.POOL, 2)):
        if number % 5 == 0:
            rows.append(_phase(f"{first}{second}", [first, second], -0.1 - 0.001 * (number % 97)))
    tables.write(folder / "hull.parquet", "hull", rows)
    torch.manual_seed(0)
    networks = [Network(PRESETS[preset]) for _ in range(members)]
    (folder / "screener").mkdir()
    Screener(networks, Normalisation(), unranking.POOL).save(folder / "screener" / "model.pt")


class Round:
    """A made-up round to screen: AFLOW's ternary prototypes, 83 elements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        known = sorted(unranking.ternaries(), key=lambda prototype: prototype.prototype_id)
        self.size = sum(Decorations(prototype, unranking.POOL).count for prototype in known)
        write_round(folder, known, "tiny", MEMBERS)

    def peak(self, ranks: int, keep: int) -> Peak:
        """Run the stage on the first shard of about `ranks` ranks. Raises `RuntimeError` when it fails."""
        shards = max(1, self.size // ranks)
        settings = ScreenSettings(
            elements=unranking.POOL,
            screening=Screening(
                shards=shards, keep_per_shard=keep, e_above_hull_cutoff=1e6, control_share=1.0, device="cpu"
            ),
            seed=1,
        )
        out = self.folder / f"shard-{ranks}-{keep}.parquet"
        command = [
            str(Path(sys.executable).parent / "hullforge"), "screen", "--settings", settings.model_dump_json(),
            "--prototypes", str(self.folder / "prototypes.parquet"), "--screener", str(self.folder / "screener"),
            "--hull", str(self.folder / "hull.parquet"), "--shard", "0", "--out", str(out),
        ]  # fmt: skip
        told = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        if told[0] != "0":
            raise RuntimeError(f"hullforge screen failed with status {told[0]}")
        unit = 1 if sys.platform == "darwin" else 1024
        kept = tables.read(out, "screen").num_rows
        return Peak(self.size // shards, kept, int(told[1]) * unit / 2**30, float(told[2]))


def _phase(formula: str, elements: Sequence[str], energy: float) -> dict[str, Any]:
    """Give a row of the table `hull`: a stable phase, eV/atom; nothing in the columns that screening ignores."""
    blank: dict[str, Any] = {}
    for column in TABLES["hull"].columns:
        kind = str(column.type)
        empty: Any = [] if kind.startswith("list") else {"string": "", "bool": False}.get(kind, 0)
        blank[column.name] = None if column.null else empty
    return blank | {
        "calculation_id": f"made-up-{formula}",
        "elements": sorted(elements),
        "nelements": len(elements),
        "chemical_formula_reduced": formula,
        "formation_energy_per_atom": energy,
        "e_above_hull": 0.0,
        "is_on_hull": True,
        "hull_status": "ok",
    }


def run(*, long: bool, lengths: Sequence[int] | None = None, full: int = FULL_RANKS) -> runner.Outcome:
    """Run the stage on shards of growing length, then on one that keeps what the default allows."""
    if not hasattr(os, "wait4"):
        raise runner.UnavailableError(
            "this system does not tell the memory of a process; run it on Linux or macOS"
        )
    lengths = lengths or (LONG_RANKS if long else RANKS)
    with tempfile.TemporaryDirectory() as folder:
        made_up = Round(Path(folder))
        peaks = [made_up.peak(ranks, min(KEPT, lengths[0] // 10)) for ranks in lengths]
        largest = made_up.peak(full, min(Screening().keep_per_shard, full // 3))
    growth = max(after.gib / before.gib - 1 for before, after in pairwise(peaks))
    print(f"tiny network, ensemble of {MEMBERS}")
    print(runner.table(
        ["ranks", "rows kept", "peak GiB", "more than the line above", "CPU s"],
        [
            [f"{peak.ranks:,}", peak.kept, peak.gib, change, peak.seconds]
            for peak, change in zip(
                [*peaks, largest],
                [None, *(f"{b.gib / a.gib - 1:+.1%}" for a, b in pairwise(peaks)), None],
                strict=True,
            )
        ],
    ))  # fmt: skip
    print("the last line keeps what a shard of any length keeps by default")
    figures: dict[str, float | None] = {f"peak_GiB_at_{peak.ranks}_ranks": peak.gib for peak in peaks}
    figures |= {
        "peak_GiB_with_default_kept_rows": largest.gib,
        "growth_per_decade": growth,
        "ranks_per_cpu_second": peaks[-1].ranks / peaks[-1].seconds,
    }
    highest = max(peak.gib for peak in (*peaks, largest))
    return runner.Outcome(figures, highest < BOUND_GIB and growth < MAX_GROWTH)
