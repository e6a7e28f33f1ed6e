"""Whole campaigns with the fast engine: what comes out, what a kill costs, what an edit plans."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress

import psutil
import pytest
from ase import Atoms
from ase.io import write

from conftest import ROOT, digests
from hullforge.cli import main
from hullforge.store import tables

pytestmark = [pytest.mark.campaign, pytest.mark.slow]


def every_selected_row_is_accounted_for(results, first="PBE"):
    for selection in sorted(results.glob("round-*/selection.parquet")):
        chosen = tables.read(selection, "selection").column("candidate_id").to_pylist()
        assert len(chosen) == len(set(chosen))
        ended = []
        for name in ("calculations", "failures"):
            table = tables.read(selection.parent / f"{name}.parquet", name)
            ended += [
                candidate
                for candidate, functional in zip(
                    table.column("candidate_id").to_pylist(),
                    table.column("functional").to_pylist(),
                    strict=True,
                )
                if functional == first
            ]
        assert sorted(ended) == sorted(chosen)


def test_a_campaign_ends_with_a_release_that_verifies(emt_campaign, capsys):
    every_selected_row_is_accounted_for(emt_campaign.results)
    assert main(["verify", str(emt_campaign.results / "release" / "2026.1")]) == 0
    assert main(["verify", str(emt_campaign.results)]) == 0
    out = capsys.readouterr().out
    assert "no problem found" in out
    sealed = json.loads((emt_campaign.results / "round-001" / "sealed.json").read_text())
    assert sealed["files"]
    assert not any((emt_campaign.results / "work").rglob("done.json")), (
        "work folders are swept when a round is sealed"
    )


def test_a_finished_campaign_has_nothing_to_do(emt_campaign):
    before = digests(emt_campaign.results)
    again = emt_campaign.run()
    assert again.returncode == 0, again.stdout
    assert "Nothing to be done" in again.stdout
    assert digests(emt_campaign.results) == before


def test_nothing_of_the_machine_or_the_clock_is_published(emt_campaign):
    hostname = os.uname().nodename.encode()
    for path in (emt_campaign.results / "release").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(emt_campaign.folder).encode() not in content, path
            assert len(hostname) < 4 or hostname not in content, path


def test_a_harvest_gives_each_later_round_its_own_table(make_campaign, tmp_path):
    # Halfway between bcc and fcc, which is where the relaxation ends; and a binary that has its label already.
    (tmp_path / "mine").mkdir()
    between = Atoms("Al", cell=[[-1.5, 1.5, 1.85], [1.5, -1.5, 1.85], [1.5, 1.5, -1.85]], pbc=True)
    write(tmp_path / "mine" / "between.extxyz", between)
    write(
        tmp_path / "mine" / "l10.extxyz",
        Atoms("AuCu", cell=[2.8, 2.8, 3.7], scaled_positions=[[0] * 3, [0.5] * 3], pbc=True),
    )
    campaign = make_campaign(
        functionals=["PBE"],
        rounds=[{"budget": 6}, {"budget": 3}],
        prototypes={
            "library": "none",
            "folder": str(tmp_path / "mine"),
            "nspecies": [1, 2],
            "harvest": {"enabled": True, "e_above_hull": 1.0},
        },
    ).complete()
    base = tables.read_rows(campaign.results / "prototypes.parquet", "prototypes")
    later = tables.read_rows(campaign.results / "round-001" / "prototypes.parquet", "prototypes")
    ids = {row["prototype_id"] for row in later}
    assert {row["prototype_id"] for row in base} < ids, "relaxations of this campaign end in new structures"
    assert all(row in later for row in base)
    sealed = json.loads((campaign.results / "round-001" / "sealed.json").read_text())["files"]
    assert {"round-001/prototypes.parquet", "round-001/rejects.parquet"} <= set(sealed)
    first = json.loads((campaign.results / "round-000" / "sealed.json").read_text())["files"]
    assert {"prototypes.parquet", "rejects.parquet"} <= set(first)
    selected = tables.read(
        campaign.results / "round-001" / "selection.parquet", "selection", ["prototype_id"]
    )
    assert set(selected.column("prototype_id").to_pylist()) <= ids
    published = tables.read(next(campaign.results.glob("release/*/data/prototypes.parquet")), "prototypes")
    assert set(published.column("prototype_id").to_pylist()) == ids
    assert main(["verify", str(campaign.results)]) == 0
    # Sealed rounds keep their tables when the harvest is switched off.
    campaign.edit(prototypes__harvest={"enabled": False})
    planned = campaign.run("-n").stdout
    assert "rule publish" in planned, "the release holds the configuration"
    assert not [name for name in ("prototypes", "harvest", "screen", "train") if f"rule {name}:" in planned]


# ---------------------------------------------------------------------------------------------- kills

MOMENTS = {
    "screening": lambda results: (results / "logs/round-001/screen-0.log").exists(),
    "dft": lambda results: len(list(results.glob("work/*/*/*/done.json"))) >= 3,
    "collecting": lambda results: (results / "logs/round-000/collect.log").exists(),
}


def kill_tree(process):
    """Kill -9 a process and all its descendants, stopped first so that none starts another meanwhile."""
    root = psutil.Process(process.pid)
    tree, found = set(), {root}
    while found:  # until none is left that started before its parent was stopped
        for member in found:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGSTOP)
        tree |= found
        found = set(root.children(recursive=True)) - tree
    for member in tree:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(tree, timeout=60)  # a killed process is gone only after a moment


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_costs_nothing(moment, make_campaign, emt_campaign):
    campaign = make_campaign()
    process = campaign.start()
    deadline = time.monotonic() + 600
    while not MOMENTS[moment](campaign.results):
        assert process.poll() is None, (campaign.folder / "snakemake.out").read_text()[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_tree(process)
    finished = {path: path.stat().st_mtime_ns for path in campaign.results.glob("work/*/*/*/done.json")}
    if moment == "dft":
        assert finished
    campaign.complete()
    assert campaign.release() == emt_campaign.release()


def test_finished_calculations_survive_a_kill(make_campaign):
    campaign = make_campaign(rounds=[{"budget": 12, "batches": 1}], functionals=["PBE"])
    process = campaign.start()
    while not MOMENTS["dft"](campaign.results):
        assert process.poll() is None, (campaign.folder / "snakemake.out").read_text()[-4000:]
        time.sleep(0.01)
    kill_tree(process)
    finished = {
        path.parent.name: path.stat().st_mtime_ns for path in campaign.results.glob("work/*/*/*/done.json")
    }
    restarted = campaign.start()
    seen = dict.fromkeys(finished, 0)
    while restarted.poll() is None:
        for path in campaign.results.glob("work/*/*/*/done.json"):
            if path.parent.name in finished:
                try:
                    seen[path.parent.name] = path.stat().st_mtime_ns
                except FileNotFoundError:  # swept after sealing
                    continue
        time.sleep(0.01)
    assert restarted.returncode == 0, (campaign.folder / "snakemake.out").read_text()[-4000:]
    assert len(finished) >= 3
    assert {name: time_ for name, time_ in seen.items() if time_} == finished, (
        "a finished calculation was done again"
    )


# ---------------------------------------------------------------------------------------------- failures


def test_a_campaign_survives_when_a_third_of_its_calculations_fail(make_campaign):
    campaign = make_campaign(
        engine__faults={"share": 0.3, "seed": 3}, limits={"step_time_s": 40, "silence_s": 8}
    )
    campaign.complete()
    every_selected_row_is_accounted_for(campaign.results)
    failures = [
        row
        for path in campaign.results.glob("round-*/failures.parquet")
        for row in tables.read_rows(path, "failures")
    ]
    recovered = [
        row
        for path in campaign.results.glob("round-*/calculations.parquet")
        for row in tables.read_rows(path, "calculations")
        if row["errors"]
    ]
    assert failures
    assert recovered
    assert all(row["reason"] and row["n_attempts"] >= 1 for row in failures)
    report = (campaign.results / "round-001" / "report" / "report.html").read_text()
    for reason in {row["reason"] for row in failures if row["round"] == 1}:
        assert reason in report
    assert main(["verify", str(campaign.results / "release" / "2026.1")]) == 0


# ---------------------------------------------------------------------------------------------- planning


def planned(campaign, *arguments):
    done = campaign.run("-n", "--quiet", "rules", *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def copied(campaign, make_campaign):
    """A copy of a finished campaign in a workflow of its own, with Snakemake's memory of it."""
    copy = make_campaign()
    shutil.copytree(campaign.results, copy.results)
    shutil.copytree(campaign.folder / ".snakemake", copy.folder / ".snakemake")
    return copy


def test_comments_logs_and_unrelated_keys_plan_nothing(make_campaign, emt_campaign):
    campaign = copied(emt_campaign, make_campaign)
    # An open round is the hard case: sealed ones are out of reach by construction.
    for sealed in campaign.results.glob("round-*/sealed.json"):
        sealed.unlink()
    only_seals = planned(campaign)
    assert "dft" not in only_seals
    for name in ("compute", "choose", "learn", "publish"):
        path = campaign.folder / "rules" / f"{name}.smk"
        path.write_text("# a comment\n" + path.read_text().replace("{FOLDER}/logs/", "{FOLDER}/other-logs/"))
    campaign.edit(description="said differently", limits={"step_time_s": 77}, release__title="Another")
    for module in ("dft/batch.py", "screening/train.py"):
        (ROOT / "src" / "hullforge" / module).touch()
    plan = planned(campaign)
    for rule in (
        "prototypes",
        "select",
        "prerelax",
        "dft",
        "promote",
        "collect",
        "first_hull",
        "train",
        "screen",
    ):
        assert f"\n{rule} " not in plan, plan


def test_a_finished_campaign_copied_without_snakemakes_memory_plans_nothing(make_campaign, emt_campaign):
    campaign = make_campaign()
    shutil.copytree(emt_campaign.results, campaign.results)
    assert "Nothing to be done" in campaign.run("-n").stdout


def test_a_new_round_plans_only_itself(make_campaign, emt_campaign):
    campaign = copied(emt_campaign, make_campaign)
    campaign.edit(rounds=[*campaign.config["rounds"], {"budget": 3, "batches": 1}])
    plan = campaign.run("-n").stdout
    assert "round-002" in plan
    assert not any(
        line.strip().startswith("output:") and ("round-000" in line or "round-001" in line)
        for line in plan.splitlines()
    )


def test_a_deleted_file_of_a_sealed_round_is_made_again(make_campaign, emt_campaign):
    campaign = copied(emt_campaign, make_campaign)
    hull = campaign.results / "round-001" / "hull" / "SCAN.parquet"
    before = hull.read_bytes()
    hull.unlink()
    campaign.complete()
    assert hull.read_bytes() == before
    assert campaign.release() == emt_campaign.release()
