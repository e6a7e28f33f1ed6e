"""The configuration refuses what it does not know, in words."""

import pytest

from hullforge.check import check_config
from hullforge.config import Campaign, PrototypesSettings, load, with_version
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


def test_the_table_of_prototypes_does_not_depend_on_what_it_is_decorated_with():
    prototypes = {
        "max_sites": 4,
        "site_groups": [{"prototype": "fluorite", "elements": {"A": ["Al"]}}],
        "harvest": {"enabled": True},
    }
    with_them, without = (load({**GOOD, "prototypes": p}) for p in (prototypes, {"max_sites": 4}))
    of = [PrototypesSettings(prototypes=campaign.prototypes).to_json() for campaign in (with_them, without)]
    assert of[0] == of[1]
    assert "site_groups" not in of[0]


def test_site_groups_are_checked_against_the_pool_and_the_folder_may_be_a_file(tmp_path):
    groups = [{"prototype": "fluorite", "elements": {"A": ["Al"], "B": ["Li", "O"]}}]
    with pytest.raises(
        ConfigError, match=r"'prototypes.site_groups.0.elements.B': found O, which the key 'elements'"
    ):
        check_config(load({**GOOD, "output": str(tmp_path), "prototypes": {"site_groups": groups}}))
    (tmp_path / "mine.cif").touch()
    check_config(
        load({**GOOD, "output": str(tmp_path / "out"), "prototypes": {"folder": str(tmp_path / "mine.cif")}})
    )
    with pytest.raises(ConfigError, match="is neither a folder nor a file"):
        check_config(load({**GOOD, "prototypes": {"folder": str(tmp_path / "nowhere")}}))


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


@pytest.mark.parametrize("orcid", ["0000-0002-1825-0097", "0000-0002-1694-233X"])
def test_an_orcid_is_taken(orcid):
    release = load({**GOOD, "release": {"creators": [{"name": "Carberry, Josiah", "orcid": orcid}]}}).release
    assert release.creators[0].orcid == orcid
    assert release.names == ("Josiah Carberry",)


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ({"creators": [{"name": "A, B", "orcid": "0000-0002-1825-0098"}]}, ["release.creators.0.orcid", "typing error"]),
        ({"creators": [{"name": "A, B", "orcid": "0000-0002-1694-2330"}]}, ["release.creators.0.orcid", "typing error"]),
        ({"creators": [{"name": "A, B", "orcid": "0000-0002-1852-0097"}]}, ["release.creators.0.orcid", "typing error"]),
        ({"creators": [{"name": "A, B", "orcid": "https://orcid.org/0000-0002-1825-0097"}]}, ["creators.0.orcid", "form"]),
        ({"creators": [{"name": "Team", "orcid": "0000-0002-1825-0097"}]}, ["release.creators.0", "Team", "family name"]),
        ({"creators": [{"name": "A, B"}], "authors": ["A B"]}, ["authors and creators", "one of them"]),
        ({"doi": "https://doi.org/10.5281/zenodo.1"}, ["release.doi", "10.5281/zenodo.1234567"]),
        ({"doi": "10.52/x"}, ["release.doi"]),
        ({"doi": "10.5281/"}, ["release.doi"]),
    ],
)  # fmt: skip
def test_a_bad_creator_or_doi_is_one_clear_error(release, words):
    text = message(release=release)
    assert len(text.splitlines()) == 1
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        ([], "2026.3"),
        (["seed=3"], "2026.3"),
        (["version=2026.10"], "2026.10"),
        (['version="2026.10"'], "2026.10"),
        (["version=2026.10", "version=2026.20"], "2026.20"),
    ],
)
def test_a_version_of_the_command_line_stays_text(arguments, version):
    parsed = {"version": 2026.1} if any(a.startswith("version") for a in arguments) else {}
    data = {**GOOD, "release": {"title": "T", "version": "2026.3"}, **parsed}
    release = load(with_version(data, arguments)).release
    assert (release.title, release.version) == ("T", version)


def test_the_previous_version_of_the_command_line_stays_text():
    arguments = ["version=2026.20", "previous=2026.10"]
    release = load(with_version({**GOOD, "version": 2026.2, "previous": 2026.1}, arguments)).release
    assert (release.version, release.previous) == ("2026.20", "2026.10")


def test_a_version_at_the_top_of_a_file_is_an_unknown_key():
    with pytest.raises(ConfigError, match="unknown key 'version'"):
        load(with_version({**GOOD, "version": "2026.1"}, []))
