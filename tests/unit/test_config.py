"""The configuration refuses what it does not know, in words."""

import pytest

from hullforge.config import Campaign, load
from hullforge.errors import ConfigError

GOOD = {
    "campaign": "trial",
    "elements": ["Al", "Li"],
    "engine": {"name": "emt", "version": "1"},
    "protocol": "emt",
    "rounds": [{"budget": 3}],
}


def message(**edits) -> str:
    with pytest.raises(ConfigError) as error:
        load({**GOOD, **edits})
    return str(error.value)


def test_elements_are_put_in_one_order():
    assert load(GOOD).elements == load({**GOOD, "elements": ["Li", "Al"]}).elements == ("Li", "Al")


def test_an_unknown_key_is_named_with_what_is_allowed():
    assert "did you mean 'protocol'?" in message(protocoll="x")
    assert "unknown key 'selection.strata.exploitt'" in message(selection={"strata": {"exploitt": 1}})


def test_every_problem_is_reported_at_once():
    text = message(elements=["Zz"], rounds=[])
    assert "unknown element 'Zz'" in text
    assert "at least one round" in text


def test_strata_must_add_up():
    assert "must add up to 1" in message(
        selection={"strata": {"exploit": 0.5, "explore": 0.2, "control": 0.1}}
    )


def test_planned_faults_are_for_emt_alone():
    assert "not for gpaw" in message(engine={"name": "gpaw", "version": "1", "faults": {"share": 0.5}})


def test_a_version_is_text():
    assert load({**GOOD, "release": {"version": "2026.10"}}).release.version == "2026.10"
    assert "release.version" in message(release={"version": 2026.1})


def test_broken_yaml_and_missing_files_are_named(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load(broken)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load(tmp_path / "absent.yaml")


def test_campaigns_are_immutable():
    campaign = load(GOOD)
    assert isinstance(campaign, Campaign)
    with pytest.raises(ValueError, match="frozen"):
        campaign.seed = 3
