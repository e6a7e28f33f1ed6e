"""What jobs ask a cluster for, and the profile that has to be filled in."""

import re
import subprocess
import sys

import pytest
import yaml

from conftest import ROOT
from hullforge import check
from hullforge.config import Campaign, Resources, StageResources
from hullforge.errors import ConfigError
from hullforge.release import card

PROFILE = ROOT / "profiles" / "slurm" / "config.v9+.yaml"


def test_time_grows_with_the_structures_and_the_attempt_up_to_the_limit():
    stage = StageResources(cores=8, time_min=30, time_min_per_structure=10)
    assert stage.minutes(1, 0, 8, 9999) == 30
    # 20 structures, 8 side by side, take three turns.
    assert stage.minutes(1, 20, 8, 9999) == 60
    assert stage.minutes(2, 20, 8, 9999) == 120
    assert stage.minutes(3, 20, 8, 150) == 150


def test_a_stage_keeps_its_defaults_where_only_one_key_is_given():
    resources = Resources.model_validate({"dft": {"cores": 64}})
    assert resources.dft.cores == 64
    assert resources.dft.time_min == Resources().dft.time_min > StageResources().time_min


@pytest.mark.parametrize("name", ["a b", "$(id)", "x;rm", "-p"])
def test_a_partition_is_a_name(name):
    with pytest.raises(ValueError, match="partition"):
        StageResources(partition=name)


@pytest.mark.parametrize("name", ["vasp;id", "vasp $(id)", "-v", "a b", ""])
def test_a_module_is_a_name(name):
    assert StageResources(modules=["vasp/6.4.3-intel+mkl"]).modules
    with pytest.raises(ValueError, match="modules"):
        StageResources(modules=[name])


@pytest.mark.parametrize("name", ["a b.sif", "x.sif;id", "$(id)", "-h"])
def test_a_container_is_a_file_or_an_address(name):
    assert Resources(container="docker://ghcr.io/a/b:1.0").container
    with pytest.raises(ValueError, match="container"):
        Resources(container=name)


def test_resources_are_no_part_of_what_is_published():
    assert "resources" in Campaign.model_fields
    assert "resources" in card._MACHINE


def test_the_profile_asks_to_be_filled_in():
    profile = yaml.safe_load(PROFILE.read_text())
    given = [f"{name}={value}" for name, value in profile["default-resources"].items()]
    with pytest.raises(ConfigError, match="slurm_account and slurm_partition"):
        check.check_profile(given)
    check.check_profile([word.replace(check.CHANGE_ME, "mine") for word in given])


def test_the_profile_is_found_by_its_name_and_no_rule_retries_by_itself():
    assert (ROOT / "slurm").resolve() == PROFILE.parent.resolve()
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert not re.search(r"\bretries:", rules)
    assert "slurm-array-jobs" not in PROFILE.read_text()


def test_the_default_profile_overrides_no_key_of_the_cluster_but_with_the_same_value():
    default = yaml.safe_load((ROOT / "profiles/default/config.v9+.yaml").read_text())
    cluster = yaml.safe_load(PROFILE.read_text())
    assert default.items() <= cluster.items()


def test_jobs_of_an_earlier_head_that_still_wait_are_named(tmp_path, monkeypatch):
    here, there = tmp_path / "a|b", tmp_path / "there"
    here.mkdir()
    lines = [f"12|{here}|rule_dft_x", f"11|{here}|rule_dft_y", f"13|{there}|rule_dft_z", f"14|{here}|mine"]
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(here)
    assert check.earlier_jobs().endswith("scancel 11 12")
    program.write_text("#!/bin/sh\nexit 1\n")
    assert check.earlier_jobs() == ""


@pytest.mark.slow
def test_a_profile_that_was_not_filled_in_ends_before_any_job(make_campaign):
    campaign = make_campaign()
    (campaign.folder / "slurm").symlink_to("profiles/slurm")
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm"],
        cwd=campaign.folder,
        env=campaign.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    assert "slurm_account and slurm_partition: CHANGE_ME is still there" in run.stderr
    assert not campaign.results.exists()


@pytest.mark.slow
def test_a_change_of_resources_plans_nothing(make_campaign):
    campaign = make_campaign(rounds=[{"budget": 4, "batches": 1}], functionals=["PBE"])
    target = campaign.results / "round-000" / "selection.parquet"
    name = str(target.relative_to(campaign.folder))
    assert campaign.run(name).returncode == 0
    campaign.edit(resources={"tables": {"cores": 2, "time_min": 5}})
    assert "Nothing to be done" in campaign.run("-n", name).stdout
