"""The files that make an environment agree with each other."""

import re

import pytest
import yaml

from conftest import ROOT
from hullforge import documents
from hullforge.config import Campaign, load


def locked() -> dict[str, str]:
    pairs = [
        line.strip().split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    ]
    return {name.lower(): version for name, version in pairs}


def test_the_lock_pins_everything_and_names_no_address():
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)


@pytest.mark.parametrize("name", ["hullforge", "dft", "learning"])
def test_conda_environments_have_the_locked_versions(name):
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    pins = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    for pin in pins:
        package, version = pin.split("==")
        assert locked()[package.lower()] == version


def test_every_dependency_of_the_package_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    for requirement in wanted:
        assert re.split(r"[\[<>=!~ ]", requirement)[0].lower() in locked(), requirement


def test_generated_documents_are_up_to_date():
    """Made by: hullforge schema --out ..., hullforge schema --tables --out ..."""
    assert (ROOT / "config/schemas/campaign.schema.json").read_text() == documents.config_schema()
    assert (ROOT / "docs/tables.md").read_text() == documents.dictionary()


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/**/*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_is_valid(path):
    assert isinstance(load(path), Campaign)
