"""The command `hullforge init`: the folder of a new campaign, from a template.

Comes in: the name of a template and answers by flags. Goes out: a folder with `campaign.yaml`, which is checked before
it is written, and `run.sh`, which starts Snakemake with it. Never writes into a folder that holds something, and never
runs anything. Answers go into the file as JSON, which YAML reads as what was typed.
"""

import argparse
import json
import re
import shlex
import string
from importlib import metadata
from pathlib import Path
from typing import Any

from hullforge.errors import ConfigError

TEMPLATES = Path(__file__).parent / "templates"
CONFIG, SCRIPT = "campaign.yaml", "run.sh"
#: What a template says where the user does not.
DEFAULTS: dict[str, dict[str, Any]] = {
    "laptop": {
        "elements": ["Li", "Mg", "Al", "Si"],
        "functionals": ["PBE", "PBEsol", "SCAN"],
        "protocol": "laptop",
        "engine_version": "26.7.0",
        "datasets": "1.2.1",
        "rounds": [{"budget": 32}, {"budget": 32}],
    },
    "gpaw-cluster": {
        "elements": ["Li", "Na", "Mg", "Al", "Si"],
        "functionals": ["PBE", "PBEsol", "SCAN"],
        "protocol": "alexandria",
        "engine_version": "26.7.0",
        "datasets": "1.2.1",
        "rounds": [{"budget": 100, "batches": 4}, {"budget": 2000, "batches": 40}],
    },
    "vasp": {
        "elements": ["Li", "Na", "Mg", "Al", "Si", "Ti", "Mn", "Fe", "O", "F"],
        "functionals": ["PBE", "PBEsol", "SCAN"],
        "protocol": "alexandria",
        "engine_version": "6.4.3",
        "datasets": "",
        "rounds": [{"budget": 100, "batches": 4}, {"budget": 2000, "batches": 40}],
    },
}
#: Templates whose jobs SLURM runs.
CLUSTER = ("gpaw-cluster", "vasp")


def add(commands: Any) -> None:
    """Add `init` to the commands of `hullforge`."""
    sub = commands.add_parser(
        "init",
        help="make the folder of a new campaign from a template",
        description="Make the folder of a new campaign from a template, with your answers filled in. An existing"
        " folder that holds something is never touched.",
        epilog="example: hullforge init spinels --template vasp --elements Mg Al O --account ab123 --partition cpu",
    )
    sub.add_argument("folder", type=Path, help="folder to make; results will go into it, too")
    sub.add_argument("--template", choices=sorted(DEFAULTS), default="laptop", help="default: %(default)s")
    sub.add_argument("--name", help="name of the campaign (default: the folder's, in small letters)")
    sub.add_argument("--description", default="", help="what the campaign is for, one sentence")
    sub.add_argument("--elements", nargs="+", help="pool of elements")
    sub.add_argument("--functionals", nargs="+", help="the first decides what goes on to the others")
    sub.add_argument("--protocol", help="name or path of a protocol")
    sub.add_argument(
        "--rounds",
        nargs="+",
        metavar="BUDGET[/BATCHES]",
        help="structures of each round, and jobs they are split into",
    )
    sub.add_argument(
        "--engine-version", help="version that results are labelled with (default: the installed one)"
    )
    sub.add_argument("--datasets", help="version of the data sets (gpaw), label of the POTCAR library (vasp)")
    sub.add_argument("--account", help="SLURM account of a cluster's jobs")
    sub.add_argument("--partition", help="SLURM partition of a cluster's jobs")
    sub.add_argument(
        "--command", nargs="+", default=["vasp_std"], help="the program (vasp; default: vasp_std)"
    )
    sub.add_argument(
        "--launcher",
        default="srun --exact --mem=0 -n {cores}",
        help="what stands before it (default: %(default)s)",
    )
    sub.add_argument(
        "--cores", type=int, default=16, help="cores of a calculation (vasp; default: %(default)s)"
    )
    sub.add_argument("--potcars", choices=("library", "spec"), default="library", help="default: %(default)s")
    sub.add_argument("--version", default="2026.1", help="version of the release (default: %(default)s)")
    sub.add_argument("--title", help="title of the release")
    sub.set_defaults(run=_init)


def _init(a: argparse.Namespace) -> None:
    """Fill in, check, write, and say what comes next."""
    from hullforge.store import atomic

    if a.folder.exists() and (not a.folder.is_dir() or any(a.folder.iterdir())):
        raise ConfigError(f"{a.folder}: exists and is not empty; choose another folder, nothing was written")
    for flag, given in (("--account", a.account), ("--partition", a.partition)):
        if given is not None and not re.fullmatch(r"[A-Za-z0-9_.,-]+", given):
            raise ConfigError(
                f"{flag}: '{given}' is no name that SLURM knows; letters, digits and . , _ - are allowed"
            )
    command = run_command(a)
    text = fill(a, shlex.join(command))
    campaign = _checked(text)
    script = (
        "#!/bin/sh\n# Run from the root of hullforge's repository; arguments are Snakemake's, such as -n.\n"
    )
    atomic.write_text(a.folder / CONFIG, text)
    atomic.write_text(a.folder / SCRIPT, f'{script}exec {shlex.join(command)} "$@"\n')
    print(
        f"{a.folder}: campaign '{campaign.campaign}' over {', '.join(campaign.elements)}. Next, from the repository:"
    )
    print(f"  {shlex.join(['hullforge', 'check', str(a.folder / CONFIG)])}")
    print(f"  {shlex.join(['sh', str(a.folder / SCRIPT), '-n'])}")
    print(f"  {shlex.join(['sh', str(a.folder / SCRIPT)])}")


def run_command(a: argparse.Namespace) -> list[str]:
    """Give Snakemake's command line for the campaign."""
    config = ["--configfile", str(a.folder / CONFIG)]
    if a.template not in CLUSTER:
        return ["snakemake", "--cores", "all", *config]
    # What stands in the profile is overridden, so that one profile serves all campaigns.
    named = [f"slurm_{key}={value}" for key in ("account", "partition") if (value := getattr(a, key))]
    return ["snakemake", "--profile", "slurm", *(["--default-resources", *named] if named else []), *config]


def fill(a: argparse.Namespace, run: str) -> str:
    """Give the template with the answers."""
    name = a.name or re.sub(r"[^a-z0-9]+", "-", a.folder.resolve().name.lower()).strip("-")
    answers = {
        **DEFAULTS[a.template],
        "name": name,
        "description": a.description or f"made from the template {a.template}",
        "output": str(a.folder / "results"),
        "version": a.version,
        "title": a.title or f"{name}, a hullforge data set",
        "command": a.command,
        "launcher": shlex.split(a.launcher),
        "cores": a.cores,
        "potcars": a.potcars,
    }
    if answers["datasets"]:
        answers |= _installed()
    given = ("elements", "functionals", "protocol", "engine_version", "datasets")
    answers |= {key: value for key in given if (value := getattr(a, key)) is not None}
    if a.rounds:
        answers["rounds"] = [_round(word) for word in a.rounds]
    values = {key: json.dumps(value) for key, value in answers.items()}
    text = (TEMPLATES / f"{a.template}.yaml").read_text()
    return string.Template(text).substitute(values, run=run.replace("\n", " "))


def _installed() -> dict[str, str]:
    """Give the version of GPAW that is installed here, if any."""
    try:
        return {"engine_version": metadata.version("gpaw")}
    except metadata.PackageNotFoundError:
        return {}


def _round(word: str) -> dict[str, int]:
    """Read 100 or 100/4; raises `ConfigError` for anything else."""
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", word)
    if match is None:
        raise ConfigError(f"--rounds: '{word}' is neither BUDGET nor BUDGET/BATCHES, such as 2000/40")
    return {"budget": int(match[1]), **({"batches": int(match[2])} if match[2] else {})}


def _checked(text: str) -> Any:
    """Check the filled-in template as `hullforge check` does, but for what has to be installed."""
    import yaml

    from hullforge import check, config

    campaign = config.load(yaml.safe_load(text))
    check.check_config(campaign)
    return campaign
