"""Documents of a release that other programs read: the citation, and the data card's configurations."""

import pytest
import synthetic_campaign
import yaml

from hullforge.release import build, citation, layout
from hullforge.store import tables


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    settings = synthetic_campaign.campaign(folder)
    build.run(settings, synthetic_campaign.make(settings), folder / "release")
    return folder / "release"


def test_the_citation_names_title_version_and_authors(release):
    found = yaml.safe_load((release / layout.CITATION).read_text())
    assert found["type"] == "dataset"
    assert found["authors"] == [{"name": "N. N."}]
    assert (found["title"], found["version"]) == ("Invented numbers", "2026.1")


def test_a_version_in_the_citation_stays_text(tmp_path):
    settings = synthetic_campaign.campaign(tmp_path, release={"version": "2026.10", "title": "A: b"})
    found = yaml.safe_load(citation.cff(settings))
    assert (found["title"], found["version"]) == ("A: b", "2026.10")
    assert found["authors"]


def test_every_configuration_of_the_card_loads_with_datasets(release, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    front = yaml.safe_load((release / layout.CARD).read_text().split("---\n")[1])
    assert {entry["config_name"].split("-")[0] for entry in front["configs"]} >= {
        "frames",
        "hull",
        "structures",
    }
    for entry in front["configs"]:
        loaded = datasets.load_dataset(
            str(release), entry["config_name"], cache_dir=str(tmp_path), split="train"
        )
        path = release / entry["data_files"]
        table = path.parent.name if path.parent.name != "data" else path.stem
        assert loaded.num_rows == tables.read(path, table).num_rows, entry["config_name"]
