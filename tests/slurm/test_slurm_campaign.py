"""Campaigns through `snakemake --profile slurm` on a real SLURM, whatever befalls their jobs, their node and their head."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import Cluster, started

from conftest import ROOT, Campaign

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.campaign]

#: One functional and one round: each job of SLURM costs five seconds of Snakemake's own start.
SMALL = {
    "functionals": ["PBE"],
    "training": {"epochs": 2},
    "resources": {
        "dft": {"cores": 2, "memory_mib": 1000, "time_min": 10},
        "prerelax": {"cores": 1, "memory_mib": 1000},
        "train": {"cores": 1, "memory_mib": 1000, "gpus": 1, "partition": "gpu"},
        "tables": {"memory_mib": 1000},
    },
}
#: Every calculation's engine stands still once, for so long, seconds: time to do something to its job.
SILENCE_S = 12
SLOW = {
    "engine": {"name": "emt", "version": "3.29.0", "faults": {"share": 1.0, "kinds": ["hang"]}},
    "limits": {"silence_s": SILENCE_S},
}
PATIENCE_S = 900.0


@pytest.fixture(scope="module")
def cluster():
    with started() as running:
        yield running


class ClusterCampaign(Campaign):
    """A campaign whose profile was filled in for the test's cluster."""

    def __init__(self, folder: Path, cluster: Cluster, config: str = "config/test/emt.yaml", **edits) -> None:
        super().__init__(folder, config, **{**SMALL, **edits})
        self.cluster = cluster
        (folder / "slurm").symlink_to("profiles/slurm")
        profile = folder / "profiles" / "slurm" / "config.v9+.yaml"
        text = profile.read_text().replace("slurm_account: CHANGE_ME", "slurm_account: physics")
        text = text.replace("slurm_partition: CHANGE_ME", "slurm_partition: cpu")
        profile.write_text(text.replace("# slurm-status-command", "slurm-status-command"))

    def command(self, *arguments: str) -> list[str]:
        # The first look at a job comes after 40 s, else.
        quickly = ("--slurm-init-seconds-before-status-checks", "3")
        return [sys.executable, "-m", "snakemake", "--profile", "slurm", *quickly, *arguments]

    def here(self, *arguments: str) -> None:
        """Run on this machine, without SLURM."""
        command = Campaign.command(self, *arguments)
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]

    def file(self, name: str) -> str:
        """Path of a file of the first round, as Snakemake knows it."""
        return (self.results.relative_to(self.folder) / "round-000" / name).as_posix()

    @property
    def environment(self) -> dict[str, str]:
        mine = self.cluster.environment
        scratch = {"HULLFORGE_TEST_SCRATCH": str(self.cluster.folder / "scratch")}
        return {**super().environment, "PATH": mine["PATH"], "SLURM_CONF": mine["SLURM_CONF"], **scratch}

    def head(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake without waiting."""
        with (self.folder / "snakemake.out").open("ab") as out:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def said(self) -> str:
        """What Snakemake and its jobs said, the ends of it."""
        logs = sorted(self.folder.glob(".snakemake/slurm_logs/**/*.log"))
        files = [self.folder / "snakemake.out", *logs, *sorted(self.results.glob("logs/**/*.log"))]
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in files if path.exists())

    def done(self) -> dict[str, int]:
        """When each finished calculation was finished, by its id."""
        return {
            path.parent.name: path.stat().st_mtime_ns for path in self.results.glob("work/*/*/*/done.json")
        }

    def until(self, condition: Callable[[], object], head: subprocess.Popen[bytes] | None = None) -> None:
        """Wait for something to come about while the head lives."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert head is None or head.poll() is None, self.said()
            time.sleep(0.3)


def local_release(make_campaign, **edits) -> dict[str, str]:
    """Checksums of the same campaign's release, computed on this machine without SLURM."""
    return make_campaign(**{**SMALL, **edits}).complete().release()


def test_a_campaign_is_the_same_on_a_cluster_whose_node_and_controller_come_and_go(
    cluster, tmp_path, make_campaign
):
    rounds = {"rounds": [{"budget": 5, "batches": 1}]}
    campaign = ClusterCampaign(tmp_path, cluster, **rounds)
    head = campaign.head()
    try:
        # The node is taken out of service while a job runs on it, and the controller is stopped for a while.
        campaign.until(lambda: cluster.computing("prerelax"), head)
        cluster.drain()
        cluster.stop_controller()
        time.sleep(8)
        cluster.start_controller()
        assert cluster.node_state().startswith("drain")
        campaign.until(lambda: any(s == "PENDING" for s, _ in cluster.jobs().values()), head)
        cluster.resume()
        assert head.wait(PATIENCE_S) == 0, campaign.said()
    finally:
        end(head)
        cluster.resume()
    assert campaign.release() == local_release(make_campaign, **rounds)
    # Nothing had to be done twice, and training had its GPU.
    assert all(state == "COMPLETED" for state, _ in cluster.jobs("all").values())
    jobs = [text for _, text in cluster.jobs("all").values()]
    assert len(jobs) == len(set(jobs)) >= 10
    [train] = cluster.of_rule("train")
    assert re.search("gpu[:=]1", cluster.call("scontrol", "show", "job", train[0]).stdout)


def test_jobs_that_are_ended_and_a_head_that_dies_lose_nothing(cluster, tmp_path, make_campaign):
    edits = {**SLOW, "rounds": [{"budget": 12, "batches": 2}]}
    campaign = ClusterCampaign(tmp_path, cluster, **edits)
    campaign.here(campaign.file("prerelax/batch-0.parquet"), campaign.file("prerelax/batch-1.parquet"))
    target = campaign.file("calculations.parquet")
    before = {i for i, _ in cluster.of_rule("dft")}

    def batches(*states: str) -> list[str]:
        return [
            i for i, state in cluster.of_rule("dft") if i not in before and (not states or state in states)
        ]

    head = campaign.head(target)
    try:
        campaign.until(lambda: len(batches("RUNNING")) == 2 and len(campaign.done()) >= 2, head)
        first, second = batches()
        # One job is cancelled, and the other one's time is up all of a sudden.
        cluster.call("scancel", first)
        cluster.call("scontrol", "update", f"JobId={second}", "TimeLimit=1")
        campaign.until(lambda: len(batches("RUNNING")) >= 1 and len(batches()) >= 3, head)
        # Then the head is killed while the cancelled batch runs again, and started anew.
        third = batches()[2]
        campaign.until(lambda: third in batches("RUNNING", "COMPLETED"), head)
    finally:
        end(head)
    finished = campaign.done()
    head = campaign.head(target)
    try:
        campaign.until(lambda: len(batches()) >= 5, head)
        assert head.wait(PATIENCE_S) == 0, campaign.said()
    finally:
        end(head)
    states = dict(cluster.of_rule("dft"))
    assert states[first] == "CANCELLED", campaign.said()
    assert states[second] in {"TIMEOUT", "COMPLETED"}, campaign.said()
    # Nothing that was finished was computed again, by whichever job.
    after = campaign.done()
    assert len(after) == 12
    assert finished.items() <= after.items()
    campaign.here()
    assert campaign.release() == local_release(make_campaign, **edits)


def test_programs_run_side_by_side_as_steps_of_their_job_and_on_its_scratch_disk(cluster, tmp_path):
    vasp = {"command": [str(ROOT / "tests" / "stand-ins" / "vasp")], "potcars": "spec"}
    edits = {"functionals": ["PBE"], "rounds": [{"budget": 4, "batches": 1}]}
    found = {}
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
        campaign = ClusterCampaign(tmp_path / name, cluster, "config/test/vasp.yaml", **edits, execution=vasp)
        campaign.here(campaign.file("prerelax/batch-0.parquet"))
        target = campaign.file("calculations.parquet")
        if name == "local":
            campaign.here(target)
        else:
            launcher = ["srun", "--exact", "--mem=0", "-n", "{cores}"]
            place = {"scratch": "$HULLFORGE_TEST_SCRATCH/job"}
            campaign.edit(execution={**vasp, "launcher": launcher, **place})
            head = campaign.head(target)
            try:
                assert head.wait(PATIENCE_S) == 0, campaign.said()
            finally:
                end(head)
        tables = sorted(campaign.results.glob("round-000/dft/*/batch-0/*.parquet"))
        found[name] = {path.name: path.read_bytes() for path in tables if path.name != "costs.parquet"}
    assert len(found["local"]) == 3
    assert found["cluster"] == found["local"]
    [(job, state)] = cluster.of_rule("dft")[-1:]
    assert state == "COMPLETED"
    shown = cluster.call("scontrol", "show", "job", job).stdout
    assert "NumTasks=2" in shown
    # Steps that wait for each other say so.
    words = "".join(path.read_text() for path in campaign.results.glob("work/**/*stderr.txt"))
    assert "busy" not in words
    scratch = Path(campaign.environment["HULLFORGE_TEST_SCRATCH"])
    assert not list(scratch.rglob("OUTCAR*"))


def end(head: subprocess.Popen[bytes]) -> None:
    """Kill a head with all that it started; its jobs are SLURM's and live on."""
    if head.poll() is None:
        os.killpg(head.pid, signal.SIGKILL)
    head.wait()
