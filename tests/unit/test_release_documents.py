"""Documents of a release that other programs read: the citation, and the data card's configurations."""

import json
import logging
import re

import pyarrow.parquet as pq
import pytest
import synthetic_campaign
import yaml

from conftest import ROOT
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


def cff_problems(text):
    """What the format's own schema finds; cffconvert, which asks the same, needs another jsonschema than the lock's."""
    import jsonschema

    schema = json.loads((ROOT / "tests/data/cff-1.2.0.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"authors": ["N. N."]},
        {"doi": "10.5281/zenodo.12", "license": "MIT", "version": "2026.10"},
        {"creators": [{"name": "Carberry, Josiah", "orcid": "0000-0002-1825-0097", "affiliation": "Brown"}]},
        {"creators": [{"name": "The Oxides Team"}]},
    ],
)
def test_the_citation_is_valid_by_the_schema_of_its_format(tmp_path, described):
    settings = synthetic_campaign.campaign(
        tmp_path, description="What it is for.", release={"title": "A: b", **described}
    )
    text = citation.cff(settings)
    assert cff_problems(text) == []
    assert cff_problems(text.replace("authors:", "writers:")), "the schema would find a mistake"


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


def test_croissant_names_every_file_and_every_column(release):
    found = json.loads((release / layout.CROISSANT).read_text())
    assert {entry["@id"]: entry["sha256"] for entry in found["distribution"]} == {
        name: layout.sha256(release / name) for name in layout.files(release) if name != layout.CROISSANT
    }
    sets = {entry["@id"]: entry for entry in found["recordSet"]}
    for name in (name for name in layout.files(release) if name.endswith(".parquet")):
        entry = sets.pop("-".join(name.removesuffix(".parquet").split("/")[1:]))
        columns = [field["source"]["extract"]["column"] for field in entry["field"]]
        rest = re.search(r"see dictionary.md: (.*)\.$", entry["description"])
        assert {*columns, *(rest[1].split(", ") if rest else ())} == {*pq.read_schema(release / name).names}
    assert not sets
    shapes = {f["name"]: f.get("arrayShape") for s in found["recordSet"] for f in s["field"]}
    assert (shapes["positions"], shapes["cell"], shapes["numbers"], shapes["energy"]) == (
        "-1,3",
        "9",
        "-1",
        None,
    )


def test_croissant_is_valid_and_gives_back_the_records(release, caplog):
    croissant = pytest.importorskip("mlcroissant")
    with caplog.at_level(logging.WARNING):
        found = croissant.Dataset(jsonld=str(release / layout.CROISSANT))
    assert not found.metadata.ctx.issues.errors
    for entry in found.metadata.record_sets:
        rows = list(found.records(entry.uuid))
        path = entry.fields[0].source.file_object
        table = tables.read(release / path, path.split("/")[1].removesuffix(".parquet"))
        assert len(rows) == table.num_rows, entry.uuid
    energies = tables.read(release / layout.table("frames", "PBE"), "frames")["energy"].to_pylist()
    assert [row["frames-PBE/energy"] for row in found.records("frames-PBE")] == energies


def test_croissant_without_a_checksum_is_refused(release, tmp_path):
    croissant = pytest.importorskip("mlcroissant")
    broken = json.loads((release / layout.CROISSANT).read_text())
    del broken["distribution"][0]["sha256"]
    (tmp_path / "croissant.json").write_text(json.dumps(broken))
    with pytest.raises(croissant.ValidationError, match="sha256"):
        croissant.Dataset(jsonld=str(tmp_path / "croissant.json"))


CREATORS = [
    {"name": "Carberry, Josiah", "orcid": "0000-0002-1825-0097", "affiliation": "Brown: a University"},
    {"name": "The Oxides Team"},
]


def test_creators_and_doi_reach_every_export_and_the_api(tmp_path):
    pytest.importorskip("duckdb")
    pytest.importorskip("optimade.server")
    from starlette.testclient import TestClient

    from hullforge.release import export, optimade_api

    settings = synthetic_campaign.campaign(
        tmp_path, release={"title": "T", "creators": CREATORS, "doi": "10.5281/zenodo.12"}
    )
    build.run(settings, synthetic_campaign.make(settings), tmp_path / "release")
    export.run(tmp_path / "release", tmp_path / "out", export.Wish(export.Format.COLABFIT))
    (row,) = pq.read_table(tmp_path / "out/frames-colabfit/ds.parquet").to_pylist()
    assert (row["doi"], row["publication_year"]) == ("10.5281/zenodo.12", "2026")
    assert row["authors"] == ["Josiah Carberry", "The Oxides Team"]
    assert json.loads(row["links"]) == {"source-data": "https://doi.org/10.5281/zenodo.12"}
    (tmp_path / "scratch").mkdir()
    client = TestClient(optimade_api.app(tmp_path / "release", tmp_path / "scratch"))
    (reference,) = client.get("/v1/references", params={"filter": 'doi="10.5281/zenodo.12"'}).json()["data"]
    found = reference["attributes"]
    assert (found["doi"], found["url"], found["year"]) == (
        row["doi"],
        "https://doi.org/10.5281/zenodo.12",
        "2026",
    )
    person, group = found["authors"]
    assert person == {"name": "Josiah Carberry", "firstname": "Josiah", "lastname": "Carberry"}
    assert group == {"name": "The Oxides Team"}


def test_creators_and_doi_reach_every_document(tmp_path):
    settings = synthetic_campaign.campaign(
        tmp_path, release={"title": "T", "creators": CREATORS, "doi": "10.5281/zenodo.12"}
    )
    build.run(settings, synthetic_campaign.make(settings), tmp_path / "release")
    cff = yaml.safe_load((tmp_path / "release" / layout.CITATION).read_text())
    assert cff["doi"] == "10.5281/zenodo.12"
    assert cff["authors"] == [
        {
            "family-names": "Carberry",
            "given-names": "Josiah",
            "affiliation": "Brown: a University",
            "orcid": "https://orcid.org/0000-0002-1825-0097",
        },
        {"name": "The Oxides Team"},
    ]
    datacite, zenodo, croissant = (
        json.loads((tmp_path / "release" / name).read_text())
        for name in (layout.DATACITE, layout.ZENODO, layout.CROISSANT)
    )
    assert (datacite["doi"], datacite["publicationYear"]) == ("10.5281/zenodo.12", "2026")
    assert [c["nameType"] for c in datacite["creators"]] == ["Personal", "Organizational"]
    assert datacite["creators"][0]["nameIdentifiers"][0]["nameIdentifier"].endswith("0097")
    assert zenodo["creators"] == CREATORS
    assert "doi" not in zenodo
    assert croissant["creator"][0]["sameAs"] == "https://orcid.org/0000-0002-1825-0097"
    card = (tmp_path / "release" / layout.CARD).read_text()
    assert "Authors: Josiah Carberry, The Oxides Team" in card
    assert "https://doi.org/10.5281/zenodo.12" in card
