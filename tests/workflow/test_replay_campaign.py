"""A campaign that replays a made-up table: what comes out, and what a wrong table says."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, digests
from hullforge.cli import main
from hullforge.store import tables

pytestmark = [pytest.mark.campaign, pytest.mark.slow]

CATIONS = ("Ca", "Sr", "Ba", "Ti", "Zr")
ENERGIES = {("Sr", "Ti"): -0.6, ("Ba", "Ti"): -0.4, ("Ti", "Sr"): 3.0}


def write_source(path):
    """Twenty ABO3, each once, as relaxed 5-atom cells with energies per cell."""
    rng = np.random.default_rng(0)
    with path.open("w") as stream:
        for a in CATIONS:
            for b in CATIONS:
                if a == b:
                    continue
                energy = ENERGIES.get((a, b), round(0.1 + rng.random(), 3))
                stream.write(
                    f'5\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 heat={energy} pbc="T T T"\n'
                )
                places = np.array([[0, 0, 0], [2, 2, 2], [2, 2, 0], [2, 0, 2], [0, 2, 2]]) + 1.0
                places += rng.normal(scale=0.1, size=(5, 3))
                for symbol, place in zip((a, b, "O", "O", "O"), places, strict=True):
                    stream.write(f"{symbol} {place[0]:.6f} {place[1]:.6f} {place[2]:.6f}\n")


def replay(make_campaign, **edits):
    """The perovskites campaign cut down to the made-up table, and what the table's command printed."""
    settings = {
        "elements": [*CATIONS, "O"],
        "prototypes": {
            "library": "none",
            "folder": "config/campaigns/perovskites/prototypes",
            "nspecies": [3],
            "site_groups": [
                {"prototype": "abx3", "elements": {"A": [*CATIONS], "B": [*CATIONS], "C": ["O"]}}
            ],
        },
        "rounds": [{"budget": 8, "batches": 2}, {"budget": 5}],
        "training": {"epochs": 3, "ensemble": 2},
        "screening__shards": 2,
    }
    campaign = make_campaign("config/campaigns/perovskites.yaml", **settings)
    prototypes = "config/campaigns/perovskites/prototypes"
    shutil.copytree(ROOT / prototypes, campaign.folder / prototypes)
    source = campaign.folder / "known.extxyz"
    write_source(source)
    return campaign, source


@pytest.fixture
def ready(make_campaign, capsys, monkeypatch):
    campaign, source = replay(make_campaign)
    monkeypatch.chdir(campaign.folder)
    arguments = ["replay-table", str(source), "--config", "config/config.yaml", "--energy", "heat"]
    assert main([*arguments, "--formation", "--out", "tables/perovskites"]) == 0
    printed = capsys.readouterr().out
    campaign.edit(engine__version=printed.split("version: ")[1].split(",")[0])
    return campaign


def test_a_replayed_campaign_ends_with_a_release_that_verifies(ready, capsys):
    ready.complete()
    known = {
        row["candidate_id"]: row for row in tables.read_rows("tables/perovskites/replay.parquet", "replay")
    }
    rows = [
        row
        for r in range(2)
        for row in tables.read_rows(ready.results / f"round-00{r}" / "calculations.parquet", "calculations")
    ]
    assert len(rows) == 13
    for row in rows:
        answer = known[row["candidate_id"]]
        assert row["energy_per_atom"] == pytest.approx(answer["energy_per_atom"], abs=1e-12)
        assert row["positions"] == answer["positions"]
        assert row["run_type"] == "replay"
    first = tables.read_rows(ready.results / "round-000" / "selection.parquet", "selection")
    assert {row["stratum"] for row in first} == {"control"}
    hull = {
        row["candidate_id"]: row
        for row in tables.read_rows(ready.results / "round-001/hull/RPBE.parquet", "hull")
    }
    stable = [known[c] for c, row in hull.items() if row["is_on_hull"]]
    assert all(row["energy_per_atom"] < 0 for row in stable)
    phases = tables.read_rows(ready.results / "round-001/hull/RPBE-known.parquet", "known_phases")
    assert sorted(row["phase_id"] for row in phases) == sorted(f"known:{e}" for e in [*CATIONS, "O"])
    assert main(["verify", str(ready.results / "release" / "2026.1")]) == 0
    assert main(["verify", str(ready.results)]) == 0
    metrics = json.loads((ready.results / "round-001" / "report" / "metrics.json").read_text())
    prevalence = metrics["replay"]["prevalence"]
    assert [item["n"] for item in prevalence] == [20] * len(prevalence)
    assert next(item["hits"] for item in prevalence if item["threshold"] == 0) == 2
    assert [group["round"] for group in metrics["replay"]["rounds"]] == [0, 1]
    page = (ready.results / "round-001" / "report" / "report.html").read_text()
    assert "REPLAYED, NOT COMPUTED" in page
    assert "random choice" in page
    before = digests(ready.results)
    assert "Nothing to be done" in ready.run().stdout
    assert digests(ready.results) == before


def error_of(campaign) -> str:
    done = campaign.run(timeout=900)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert not list(campaign.results.glob("*")) or not list(campaign.results.glob("round-*")), done.stdout
    return done.stdout


def other_prototypes(campaign):
    rows = tables.read_rows("tables/perovskites/replay.parquet", "replay")
    for row in rows:
        row["prototype_id"] = "AB_cP2_221_a_b-00000000"
    tables.write("other.parquet", "replay", rows)


def without_a_column(campaign):
    import pyarrow.parquet as pq

    table = pq.read_table("tables/perovskites/replay.parquet")
    pq.write_table(table.drop_columns(["species"]), "other.parquet")


def a_lone_energy(campaign):
    with Path("other.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "formula"), ("Ca", "Ca")])


def formation_energies_of_nothing(campaign):
    with Path("other.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "formula", "formation_energy_per_atom"), ("Ca", "Ca", "1.5")])


@pytest.mark.parametrize(
    ("edits", "words", "make"),
    [
        ({"engine__table": "nowhere.parquet"}, ["engine.table", "nowhere.parquet"], None),
        ({"engine": {"name": "replay", "version": "r1"}}, ["engine.table is missing", "replay-table"], None),
        ({"engine__version": "r1-12345678"}, ["r1-12345678", "set engine.version to r1-"], None),
        ({"engine__table": "tables/perovskites/known.csv"}, ["known.csv", "Parquet"], None),
        ({"functionals": ["PBE"]}, ["results of RPBE", "PBE"], None),
        ({"candidates": "nowhere.parquet"}, ["candidates", "nowhere.parquet"], None),
        ({"candidates": "other.parquet"}, ["candidates", "AB_cP2_221_a_b-00000000"], other_prototypes),
        ({"candidates": "other.parquet"}, ["candidates", "species"], without_a_column),
        ({"hull__known_phases": "other.csv"}, ["hull.known_phases", "energy_per_atom"], a_lone_energy),
        ({"hull__known_phases": "other.csv"}, ["row 1", "elements have 0"], formation_energies_of_nothing),
        ({"hull__known_phases": None}, ["rounds.0.budget", "8 is too small"], None),
    ],
)
def test_a_wrong_table_is_one_clear_error_before_the_first_job(ready, edits, words, make):
    if make:
        make(ready)
    if words[-1] == "8 is too small":
        edits = {**edits, "rounds": [{"budget": 4}]}
        words = [words[0], "4 is too small"]
    ready.edit(**edits)
    message = error_of(ready)
    for word in words:
        assert word in message, message
