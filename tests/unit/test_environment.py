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


def recipe(name: str) -> list[str]:
    """The steps of a container's recipe, without the words of its format."""
    text = (ROOT / "envs" / name).read_text().replace("\\\n", " ")
    lines = [
        line.strip().removeprefix("RUN ") for line in text.splitlines() if not line.strip().startswith("#")
    ]
    return [step.strip() for line in lines for step in line.split("&&") if step.strip()]


def test_both_container_recipes_do_the_same_steps():
    def steps(name):
        return [step for step in recipe(name) if step.startswith(("apt-get", "pip", "grep", "CC="))]

    assert steps("Dockerfile") == steps("hullforge.def")
    assert len(steps("Dockerfile")) == 8


@pytest.mark.parametrize("name", ["Dockerfile", "hullforge.def"])
def test_container_recipes_install_the_lock_and_name_no_version_of_their_own(name):
    steps = recipe(name)
    installs = [step for step in steps if "pip install" in step]
    assert [step.split()[-1] for step in installs[1:]] == ["others.txt", "gpaw.txt", "."]
    # What the two lists leave out of the lock is nothing: one has the lines that the other lacks.
    assert "grep -v '^gpaw' requirements.lock > others.txt" in steps
    assert "grep '^gpaw' requirements.lock > gpaw.txt" in steps
    assert not any("==" in step.replace("'^torch=='", "") for step in steps)
    assert "torch" in locked()


@pytest.mark.parametrize("name", ["Dockerfile", "hullforge.def"])
def test_container_recipes_have_the_system_packages_of_the_virtual_environment(name):
    setup = (ROOT / "setup-environment.sh").read_text()
    [wanted] = re.findall(r'^packages="(.*)"$', setup, re.M)
    [install] = [step for step in recipe(name) if step.startswith("apt-get install")]
    assert set(wanted.split()) - {"python3-venv"} <= set(install.split())


@pytest.mark.parametrize("name", ["Dockerfile", "hullforge.def"])
def test_container_recipes_carry_what_they_install_from_and_the_python_of_the_other_environments(name):
    text = (ROOT / "envs" / name).read_text()
    for source in ("requirements.lock", "pyproject.toml", "README.md", "LICENSE", "src"):
        assert (ROOT / source).exists()
        assert source in text
    [version] = re.findall(r"python:(\d+\.\d+)-", text)
    for environment in (ROOT / "envs").glob("*.yaml"):
        assert f"python={version}" in yaml.safe_load(environment.read_text())["dependencies"]
