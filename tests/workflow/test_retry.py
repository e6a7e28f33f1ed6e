"""Failures are tried again in an open round, keep their rows, and make nothing that is finished run again."""

import pytest

from conftest import digests
from hullforge.cli import main
from hullforge.store import tables

pytestmark = [pytest.mark.campaign, pytest.mark.slow]


def rows(campaign, name, round_=None):
    pattern = f"round-{'*' if round_ is None else f'{round_:03d}'}/{name}.parquet"
    return [row for path in sorted(campaign.results.glob(pattern)) for row in tables.read_rows(path, name)]


def ids(found):
    return {row["calculation_id"] for row in found}


def retry(campaign, *words, monkeypatch, capsys):
    monkeypatch.chdir(campaign.folder)
    code = main(["retry", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_failures_are_tried_again_and_keep_their_history(make_campaign, monkeypatch, capsys):
    kinds = ["scf", "crash", "truncated"]
    campaign = make_campaign(
        functionals=["PBE", "PBEsol", "SCAN"],
        rounds=[{"budget": 8, "batches": 2}],
        engine__faults={"share": 0.8, "seed": 2, "kinds": kinds},
        promotion={"e_above_hull": 5.0, "max_structures": 8},
    )
    here = {"monkeypatch": monkeypatch, "capsys": capsys}
    table = "results/emt/round-000/calculations.parquet"
    assert campaign.run(table).returncode == 0
    before, failed = rows(campaign, "calculations"), rows(campaign, "failures")
    costs = {row["calculation_id"]: row for row in rows(campaign, "costs")}
    assert len({row["reason"] for row in failed}) >= 2, "the seed draws several kinds that last"

    # What is no retry: physics, unknown settings, nothing that matches.
    for words, said in (
        (["--set", "xc=LDA"], "changes the energy"),
        (["--set", "kpoint_density=1"], "changes the energy"),
        (["--set", "mixr=x"], "may change; those are damping, mixer"),
        (["--limit", "walltime=3"], "step_time_s"),
        (["--limit", "step_time_s=-1"], "step_time_s"),
    ):
        code, text = retry(campaign, "--round", "0", *words, **here)
        assert code == 2, text
        assert said in text
    assert not (campaign.results / "round-000" / "retries.parquet").exists()
    code, text = retry(campaign, "--reason", "hung", **here)
    assert code == 2
    assert "no failure matches" in text

    # Into the round that is still open, in all functionals at once.
    reason = max({row["reason"] for row in failed}, key=lambda name: sum(r["reason"] == name for r in failed))
    wanted = [row for row in failed if row["reason"] == reason]
    code, text = retry(
        campaign, "--reason", reason, "--set", "mixer=slow", "--limit", "step_time_s=99", **here
    )
    assert code == 0, text
    assert f"round 0: {len(wanted)} failures are tried again" in text
    campaign.complete()
    after, still = rows(campaign, "calculations"), rows(campaign, "failures")
    assert ids(before) <= ids(after)
    assert ids(failed) <= ids(still), "the old rows stay"
    assert not ids(after) & ids(still)
    again = [row for row in (*after, *still) if row["supersedes"]]
    assert {row["supersedes"] for row in again} == ids(wanted)
    assert all('retry:mixer="slow"' in row["corrections"] for row in again)
    # Measured times repeat only where nothing was run again.
    now = {row["calculation_id"]: row for row in rows(campaign, "costs")}
    assert {name: now[name] for name in costs} == costs
    assert any(row["supersedes"] for row in after), "the seed lets a retry succeed"
    assert main(["verify", str(campaign.results)]) == 0
    assert main(["verify", str(campaign.results / "release" / "2026.1")]) == 0
    capsys.readouterr()

    # All rounds are sealed now: a retry needs a new one, and changes no sealed byte.
    left = ids(still) - {row["supersedes"] for row in again}
    code, text = retry(campaign, "--round", "0", **here)
    assert code == 2
    assert "add a round" in text
    sealed = digests(campaign.results / "round-000")
    campaign.edit(rounds=[{"budget": 8, "batches": 2}, {"budget": 1}], release={"version": "2026.2"})
    code, text = retry(campaign, "--round", "0", **here)
    assert code == 0, text
    assert f"round 1: {len(left)} failures are tried again" in text
    assert "left out: tried again already" in text
    campaign.complete()
    assert digests(campaign.results / "round-000") == sealed
    late = [row for name in ("calculations", "failures") for row in rows(campaign, name, 1)]
    assert {row["supersedes"] for row in late} - {None} == left
    every = [row["calculation_id"] for name in ("calculations", "failures") for row in rows(campaign, name)]
    assert len(every) == len(set(every))
    assert main(["verify", str(campaign.results / "release" / "2026.2")]) == 0
