"""Ionic steps of DFT that pre-relaxation saves: the same structures of the laptop campaign, with it and without.

The structures are the first compounds of the laptop campaign's first round, in the order of its selection; the stages are those
of the campaign, called as its rules call them, with its protocol and engine (GPAW). One side starts from the decorated prototypes
at the estimated volume, the other from where the campaign's potential takes them. Counted are the ionic steps of the first
functional, all protocol steps together; a structure that DFT can't finish on either side is printed and left out of the sum.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import runner
from hullforge import config
from hullforge.dft import protocol as protocols
from hullforge.store import tables

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
#: Structures, and how many without `--long`.
STRUCTURES, FEWER = 12, 4
#: The goal for the sum, and the ratio above which a structure wants a reason.
GOAL, WANTS_A_REASON = 0.6, 0.8


def run(*, long: bool) -> runner.Outcome:
    """Run the benchmark on 4 structures, 12 with `long`; some minutes of GPAW each."""
    runner.package("gpaw", "gpaw")
    runner.package("chgnet", "chgnet")
    campaign = config.load(CONFIG)
    with tempfile.TemporaryDirectory() as name:
        return compare(campaign, Path(name), STRUCTURES if long else FEWER)


def compare(campaign: config.Campaign, folder: Path, number: int) -> runner.Outcome:
    """Compute `number` compounds of the campaign's first round twice, below `folder`, and print each."""
    prototypes, selection = folder / "prototypes.parquet", folder / "selection.parquet"
    choose(campaign, folder, prototypes, selection)
    keep_compounds(selection, number)
    sides = {}
    for side, prerelax in (("without", config.Prerelax(backend="none")), ("with", campaign.prerelax)):
        starts = folder / side / "starts.parquet"
        call(
            "prerelax",
            config.PrerelaxSettings(prerelax=prerelax, seed=campaign.seed),
            *(
                "--prototypes",
                prototypes,
                "--selection",
                selection,
                "--batch",
                0,
                "--workers",
                1,
                "--out",
                starts,
            ),
        )
        functional = campaign.functionals[0]
        protocol = protocols.load(campaign.protocol).only(functional, campaign.engine.name)
        settings = config.DftSettings(
            source="steps_saved", round=0, functional=functional, engine=campaign.engine, protocol=protocol
        )
        out = folder / side / "dft"
        call(
            "dft",
            settings,
            *("--starts", starts, "--batch", 0, "--work", folder / side / "work", "--cores", 1, "--out", out),
            *("--step-time", campaign.limits.step_time_s),
        )
        sides[side] = {
            row["candidate_id"]: row for row in tables.read_rows(out / "calculations.parquet", "calculations")
        }
        sides[f"{side} starts"] = {row["candidate_id"]: row for row in tables.read_rows(starts, "prerelax")}
    return judge(sides, number)


def judge(sides: dict[str, dict[str, dict[str, Any]]], number: int) -> runner.Outcome:
    """Print a line per structure, and give the ratio of the sums."""
    rows, totals = [], [0, 0]
    for candidate, start in sorted(sides["with starts"].items()):
        one, other = sides["with"].get(candidate), sides["without"].get(candidate)
        name = f"{start['chemical_formula_reduced']} {start['prototype_id'][:8]}"
        volumes = [
            None if one is None else side[candidate]["volume"] / one["volume"]
            for side in (sides["without starts"], sides["with starts"])
        ]
        if one is None or other is None:
            rows.append(
                [
                    name,
                    other and other["n_ionic_steps"],
                    one and one["n_ionic_steps"],
                    None,
                    *volumes,
                    start["status"],
                ]
            )
            continue
        counts = one["n_ionic_steps"], other["n_ionic_steps"]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        ratio = counts[0] / counts[1]
        mark = "above" if ratio > WANTS_A_REASON else ""
        rows.append([name, counts[1], counts[0], ratio, *volumes, f"{start['status']} {mark}".strip()])
    print(
        runner.table(
            ["", "steps without", "with", "ratio", "V/V(DFT) without", "with", "pre-relaxation"], rows
        )
    )
    paired = sum(row[3] is not None for row in rows)
    ratio = totals[0] / totals[1] if totals[1] else None
    print(f"{paired} of {number} structures end on both sides; {totals[0]} steps against {totals[1]}")
    return runner.Outcome(
        {"steps_with": totals[0], "steps_without": totals[1], "structures": paired},
        holds=ratio is not None and ratio <= GOAL if number == STRUCTURES else None,
        ratio=None if ratio is None else 1 / ratio,
        peer="the same structures from the decorated prototype",
    )


def choose(campaign: config.Campaign, folder: Path, prototypes: Path, selection: Path) -> None:
    """Write the campaign's prototypes and the selection of its first round."""
    call(
        "prototypes",
        config.PrototypesSettings(prototypes=campaign.prototypes),
        *("--out", prototypes, "--rejects", folder / "rejects.parquet"),
    )
    settings = config.SelectSettings(
        round=0,
        budget=campaign.rounds[0].budget,
        batches=1,
        elements=campaign.elements,
        site_groups=campaign.prototypes.site_groups,
        bootstrap=campaign.bootstrap,
        chemistry=campaign.screening.chemistry,
        selection=campaign.selection,
        seed=campaign.seed,
    )
    call("select", settings, "--prototypes", prototypes, "--out", selection)


def keep_compounds(selection: Path, number: int) -> None:
    """Keep the first `number` compounds of a selection: elements are relaxed from known volumes in any case."""
    rows = sorted(tables.read_rows(selection, "selection"), key=lambda row: row["rank"])
    compounds = [row for row in rows if len(set(row["species"])) > 1][:number]
    tables.write(selection, "selection", compounds)


def call(stage: str, settings: Any, *arguments: object) -> None:
    """Run a stage as the rules do; an error shows what the stage said."""
    command = [
        sys.executable, "-m", "hullforge.cli", stage, "--settings", json.dumps(settings.model_dump(mode="json")),
        *map(str, arguments),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"hullforge {stage}: {(done.stderr or done.stdout)[-2000:]}")
