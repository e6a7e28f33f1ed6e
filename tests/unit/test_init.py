"""`hullforge init`: each template gives a campaign that passes the checks and plans, and nothing is ever overwritten."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from hullforge import check, cli_init, config
from hullforge.cli import main

VASP = ["--command", "true", "--launcher", "", "--potcars", "spec"]


@pytest.mark.parametrize("template", sorted(cli_init.DEFAULTS))
def test_each_template_passes_the_checks(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    words = ["--template", template, *(VASP if template == "vasp" else [])]
    assert main(["init", "mine", *words]) == 0
    campaign = config.load(Path("mine/campaign.yaml"))
    assert campaign.campaign == "mine"
    check.check_config(campaign)
    assert main(["check", "mine/campaign.yaml"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("template", sorted(cli_init.DEFAULTS))
def test_what_run_sh_says_plans_the_campaign(tmp_path, template):
    folder = tmp_path / "it's my $(touch pwned) campaign"
    slurm = ["--account", "ab123", "--partition", "cpu"]
    assert main(["init", str(folder), "--template", template, "--name", "mine", *slurm]) == 0
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(folder / "run.sh"), "-n", "--quiet"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (ROOT / "pwned").exists()
    assert not (folder / "results").exists(), "a plan makes nothing"
    words = shlex.split((folder / "run.sh").read_text().splitlines()[-1])
    assert ("slurm_account=ab123" in words) == (template != "laptop")


def test_answers_by_flags_are_in_the_configuration(tmp_path):
    folder = tmp_path / "spinels"
    answers = [
        "--elements",
        "O",
        "Mg",
        "Al",
        "--functionals",
        "PBE",
        "--rounds",
        "20/2",
        "500",
        "--cores",
        "32",
    ]
    hostile = ["--title", "a: b\n- !!python/object/apply:os.system [x]  $(touch x) # '\""]
    assert main(["init", str(folder), "--template", "vasp", *answers, *hostile]) == 0
    campaign = config.load(folder / "campaign.yaml")
    assert campaign.elements == ("O", "Mg", "Al")
    assert [(r.budget, r.batches) for r in campaign.rounds] == [(20, 2), (500, 1)]
    assert campaign.execution.cores_per_calculation == 32
    assert campaign.release.title == hostile[1]
    assert campaign.folder == folder / "results" / "spinels"


def test_nothing_is_ever_overwritten(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "campaign.yaml").write_text("precious")
    assert main(["init", str(folder)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (folder / "campaign.yaml").read_text() == "precious"
    assert [path.name for path in folder.iterdir()] == ["campaign.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--elements", "Xx"], "Xx"),
        (["--functionals", "B3LYP"], "B3LYP"),
        (["--rounds", "many"], "BUDGET"),
        (["--rounds", "2"], "too small"),
        (["--account", "a b; rm"], "--account"),
        (["--name", "Has Spaces"], "campaign"),
        (["--protocol", "nonesuch"], "nonesuch"),
    ],
)
def test_a_wrong_answer_is_one_error_and_makes_no_folder(tmp_path, capsys, words, said):
    assert main(["init", str(tmp_path / "mine"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
