"""Every mistake a user can make in a configuration or a folder ends in one clear error before any job."""

import json

import pytest

pytestmark = [pytest.mark.campaign, pytest.mark.slow]


def error_of(campaign) -> str:
    done = campaign.run(timeout=900)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert not list(campaign.results.glob("work/**/step.json")), "a calculation was started"
    return done.stdout


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"elemnts": ["Al"]}, ["unknown key 'elemnts'", "did you mean 'elements'"]),
        ({"screening__shard": 2}, ["unknown key 'screening.shard'", "shards"]),
        ({"elements": ["Al", "Xx"]}, ["elements", "unknown element 'Xx'"]),
        ({"elements": ["Al", "Fe"]}, ["emt", "Fe", "Cu"]),
        ({"functionals": ["PBE", "B3LYP"]}, ["B3LYP", "PBEsol", "SCAN"]),
        ({"rounds": [{"budget": 0}]}, ["rounds.0.budget", "greater than or equal to 1"]),
        ({"rounds": [{"budget": 2}]}, ["rounds.0.budget", "3 elements"]),
        ({"protocol": "nonesuch"}, ["nonesuch", "laptop"]),
        ({"engine__version": "1.0"}, ["1.0", "3.29"]),
        ({"engine": {"name": "siesta", "version": "5"}}, ["engine.name", "gpaw"]),
        ({"engine": {"name": "vasp", "version": "6"}}, ["protocol emt", "engine 'vasp'", "it has emt"]),
        ({"release__version": 2026.1}, ["release.version", "string"]),
        ({"prototypes__folder": "nowhere"}, ["prototypes.folder", "nowhere"]),
        ({"prerelax": {"backend": "matgl", "model": "nowhere"}}, ["prerelax", "nowhere", "model.json"]),
        (
            {"bootstrap__include": [{"prototype": "AB_cP2_221_a_b", "elements": ["Al", "Si"]}]},
            ["bootstrap.include", "Si"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_configuration_is_one_clear_error(make_campaign, edit, words):
    message = error_of(make_campaign(**edit))
    for word in words:
        assert word in message, message


def test_the_version_of_a_release_may_stand_on_the_command_line(make_campaign):
    """2026.10 is a number to Snakemake, and as a number 2026.1."""
    campaign = make_campaign()
    done = campaign.run("-n", "release", "--config", "version=2026.10")
    assert done.returncode == 0, done.stdout
    assert "release/2026.10/SHA256SUMS" in done.stdout
    assert "release/2026.1/" not in done.stdout
    done = campaign.run("-n", "release", "--config", "version=next")
    assert done.returncode != 0
    assert "release.version" in done.stdout
    assert "'next'" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_broken_prototype_file_is_named(make_campaign):
    campaign = make_campaign(prototypes__folder="mine")
    (campaign.folder / "mine").mkdir()
    (campaign.folder / "mine" / "good.poscar").write_text(
        "Al\n1.0\n0 2 2\n2 0 2\n2 2 0\nAl\n1\ndirect\n0 0 0\n"
    )
    (campaign.folder / "mine" / "broken.cif").write_text("data_x\n_cell_length_a nonsense\n")
    assert "broken.cif" in error_of(campaign)


def test_a_missing_engine_is_one_sentence(make_campaign):
    pytest.importorskip("hullforge.dft.engines.gpaw")
    campaign = make_campaign(
        engine={"name": "gpaw", "version": "0.0.1", "datasets": "1.2.1"}, protocol="laptop"
    )
    campaign.edit(elements=["Li", "Al"])
    assert "gpaw" in error_of(campaign)
    assert campaign.run("-n").returncode == 0, "planning needs no engine"


def test_a_folder_of_another_campaign_is_refused(make_campaign):
    campaign = make_campaign()
    campaign.results.mkdir(parents=True)
    (campaign.results / "campaign.json").write_text(json.dumps({"campaign": "another", "schema_version": 1}))
    assert "another" in error_of(campaign)


def test_a_folder_with_foreign_files_is_refused(make_campaign):
    campaign = make_campaign()
    campaign.results.mkdir(parents=True)
    (campaign.results / "thesis.tex").write_text("mine")
    assert "thesis.tex" in error_of(campaign)


def test_results_of_a_newer_schema_are_refused(make_campaign):
    campaign = make_campaign()
    campaign.results.mkdir(parents=True)
    (campaign.results / "campaign.json").write_text(json.dumps({"campaign": "emt", "schema_version": 99}))
    message = error_of(campaign)
    assert "99" in message
    assert "newer" in message


def test_fewer_rounds_than_are_sealed_are_refused(make_campaign, emt_campaign):
    import shutil

    campaign = make_campaign()
    shutil.copytree(emt_campaign.results, campaign.results)
    campaign.edit(rounds=campaign.config["rounds"][:1])
    message = error_of_sealed(campaign)
    assert "rounds" in message
    assert "sealed" in message


def error_of_sealed(campaign) -> str:
    done = campaign.run("-n")
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout
