"""`hullforge serve`: the consortium's validator against it, filters, and what it refuses."""

import shutil
import socket

import pytest
import synthetic_campaign

import served
from hullforge import cli
from hullforge.release import build, layout, serve
from hullforge.store import tables

pytest.importorskip("duckdb")
pytest.importorskip("optimade.server")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    settings = synthetic_campaign.campaign(
        tmp_path_factory.mktemp("campaign"),
        release={"title": "Invented <numbers>", "authors": ["N. N."], "license": "CC-BY-4.0"},
    )
    out = settings.folder / "release" / "2026.1"
    build.run(settings, synthetic_campaign.make(settings), out)
    return out


@pytest.fixture(scope="module")
def client(release, tmp_path_factory):
    from starlette.testclient import TestClient

    from hullforge.release import optimade_api

    return TestClient(optimade_api.app(release, tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="module")
def rows(release):
    """Everything published, by id."""
    found = {}
    for functional in ("PBE", "SCAN"):
        calculations = tables.read_rows(release / layout.table("calculations", functional), "calculations")
        hull = tables.read_rows(release / layout.table("hull", functional), "hull")
        placed = {row["calculation_id"]: row for row in hull}
        found |= {row["calculation_id"]: placed[row["calculation_id"]] | row for row in calculations}
    return found


def none(row):
    return False


def every(row):
    return True


def near(row, bound):
    return row["e_above_hull"] is not None and row["e_above_hull"] < bound


def ask(client, filter_, **more):
    answer = client.get("/v1/structures", params={"filter": filter_, "page_limit": 100, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def address(release):
    """Where the command serves the release, as a user would start it."""
    with served.served(release) as found:
        yield found


@pytest.mark.slow
def test_the_validator_passes_on_a_machine_without_network(address):
    result = served.validated(address)
    assert (result["failure_count"], result["internal_failure_count"]) == (0, 0)
    assert result["success_count"] > 45


def test_the_import_of_optimade_reads_back_what_was_published(address, rows, tmp_path):
    out = tmp_path / "entries.parquet"
    asked = '_hullforge_functional="PBE" AND _hullforge_e_above_hull IS KNOWN'
    command = ["import", "optimade", address, "--preset", "hullforge", "--filter", asked, "--out", str(out)]
    assert cli.main(command) == 0
    wanted = {
        name: row
        for name, row in rows.items()
        if row["functional"] == "PBE" and row["e_above_hull"] is not None
    }
    entries = {row["id"]: row for row in tables.read_rows(out, "entries")}
    assert set(entries) == set(wanted)
    for name, row in wanted.items():
        for column in (
            "energy_per_atom",
            "formation_energy_per_atom",
            "e_above_hull",
            "functional",
            "chemical_formula_reduced",
        ):
            assert entries[name][column] == row[column]


def test_every_calculation_is_served_with_its_published_numbers(client, rows):
    answer = ask(client, "nelements>=1")
    assert {entry["id"] for entry in answer["data"]} == set(rows)
    assert answer["meta"]["data_available"] == len(rows)
    for entry in answer["data"]:
        row, attributes = rows[entry["id"]], entry["attributes"]
        for name in ("energy", "functional", "formation_energy_per_atom", "e_above_hull", "is_on_hull"):
            assert attributes[f"_hullforge_{name}"] == row[name]
        assert [x for vector in attributes["lattice_vectors"] for x in vector] == list(row["cell"])
        assert attributes["cartesian_site_positions"] == [list(p) for p in row["positions"]]
        assert [synthetic_campaign.NUMBERS[e] for e in attributes["species_at_sites"]] == list(row["numbers"])
        for name in ("elements", "nelements", "nsites", "chemical_formula_reduced"):
            assert attributes[name] == row[name]


@pytest.mark.parametrize(
    ("filter_", "holds"),
    [
        ('elements HAS "Al"', lambda r: "Al" in r["elements"]),
        ('NOT elements HAS "Al"', lambda r: "Al" not in r["elements"]),
        ('elements HAS ALL "Al","Cu"', lambda r: {"Al", "Cu"} <= set(r["elements"])),
        ('elements HAS ANY "Ag","Ni"', lambda r: {"Ag", "Ni"} & set(r["elements"])),
        ('elements HAS ONLY "Al","Cu"', lambda r: set(r["elements"]) <= {"Al", "Cu"}),
        ("elements LENGTH 2", lambda r: r["nelements"] == 2),
        ("NOT (elements LENGTH 2)", lambda r: r["nelements"] != 2),
        ("elements LENGTH > 1", lambda r: r["nelements"] > 1),
        ("species_at_sites LENGTH >= 2", lambda r: r["nsites"] >= 2),
        ("elements_ratios HAS 0.5", lambda r: r["nelements"] == 2),
        ("2 > nelements", lambda r: r["nelements"] < 2),
        ('chemical_formula_reduced CONTAINS "Cu"', lambda r: "Cu" in r["chemical_formula_reduced"]),
        ('chemical_formula_reduced STARTS WITH "A"', lambda r: r["chemical_formula_reduced"][0] == "A"),
        ('chemical_formula_reduced CONTAINS ".*"', none),
        ('chemical_formula_anonymous="AB"', lambda r: r["nelements"] == 2),
        ("_hullforge_is_on_hull=TRUE", lambda r: r["is_on_hull"]),
        ("_hullforge_is_on_hull=FALSE", lambda r: r["is_on_hull"] is False),
        ("_hullforge_is_on_hull!=TRUE", lambda r: r["is_on_hull"] is False),
        ("_hullforge_e_above_hull<0.3 AND nelements=2", lambda r: r["nelements"] == 2 and near(r, 0.3)),
        ("_hullforge_e_above_hull IS UNKNOWN", lambda r: r["e_above_hull"] is None),
        ("_hullforge_e_above_hull IS KNOWN", lambda r: r["e_above_hull"] is not None),
        ("NOT _hullforge_e_above_hull IS KNOWN", lambda r: r["e_above_hull"] is None),
        (
            '_hullforge_functional="PBE" OR _hullforge_energy<-15',
            lambda r: r["functional"] == "PBE" or r["energy"] < -15,
        ),
        ("_hullforge_band_gap != 1", none),
        ("_other_thing IS UNKNOWN", every),
        ("_other_thing > 3", none),
        ("chemical_formula_hill IS KNOWN", none),
        ('last_modified > "2000-01-01T00:00:00Z"', every),
        ('last_modified < "2000-01-01T00:00:00Z"', none),
        ('type="structures"', every),
        (r'id="\" OR 1=1 --"', none),
        ("""id="'; DROP TABLE structures; --" """, none),
        ("nsites < 99999999999999999999999999", every),
    ],
)  # fmt: skip
def test_filters_find_what_the_tables_hold(client, rows, filter_, holds):
    wanted = {name for name, row in rows.items() if holds(row)}
    answer = ask(client, filter_)
    assert {entry["id"] for entry in answer["data"]} == wanted
    assert answer["meta"]["data_returned"] == len(wanted)


@pytest.mark.parametrize(
    ("filter_", "code"),
    [
        ('nelements="two"', 400),
        ("chemical_formula_reduced=5", 400),
        ('nelements HAS "Al"', 400),
        ('elements="Al"', 400),
        ("nsites LENGTH 2", 400),
        ('nsites CONTAINS "2"', 400),
        ('last_modified > "yesterday"', 400),
        ("_hullforge_nothing=1", 400),
        ("nelements=nsites", 501),
        ('species.name HAS "Al"', 501),
        ('elements:elements_ratios HAS "Al":0.5', 501),
        ("lattice_vectors LENGTH 3", 501),
    ],
)
def test_filters_that_mean_nothing_are_the_clients_error(client, filter_, code):
    assert client.get("/v1/structures", params={"filter": filter_}).status_code == code


def test_pages_are_sorted_and_never_overlap(client, rows):
    seen, offset = [], 0
    while True:
        answer = ask(client, "nelements>0", page_limit=3, page_offset=offset, sort="-_hullforge_e_above_hull")
        seen += answer["data"]
        offset += 3
        if not answer["meta"]["more_data_available"]:
            break
    assert sorted(entry["id"] for entry in seen) == sorted(rows)
    distances = [entry["attributes"]["_hullforge_e_above_hull"] for entry in seen]
    known = [d for d in distances if d is not None]
    assert known == sorted(known, reverse=True)
    assert distances[len(known) :] == [None] * (len(distances) - len(known))
    assert client.get("/v1/structures", params={"sort": "lattice_vectors"}).status_code == 400


def test_one_entry_references_licence_and_page(client, rows):
    name = next(iter(rows))
    assert client.get(f"/v1/structures/{name}").json()["data"]["id"] == name
    assert client.get("/v1/structures/none").json()["data"] is None
    (reference,) = client.get("/v1/references").json()["data"]
    assert reference["attributes"]["authors"] == [{"name": "N. N."}]
    assert reference["attributes"]["year"] == "2026"
    assert client.get("/v1/references", params={"filter": 'year="2026"'}).json()["meta"]["data_returned"] == 1
    info = client.get("/v1/info").json()["data"]["attributes"]
    assert info["available_licenses"] == ["CC-BY-4.0"]
    properties = client.get("/v1/info/structures").json()["data"]["properties"]
    assert properties["_hullforge_e_above_hull"]["unit"] == "eV/atom"
    page = client.get("/").text
    assert "Invented &lt;numbers&gt;" in page
    assert "_hullforge_e_above_hull" in page


def test_nothing_can_be_written(client, rows):
    for method in ("post", "put", "patch", "delete"):
        assert getattr(client, method)("/v1/structures").status_code == 405
    coll = client.app.state.entry_collections["structures"]
    with pytest.raises(NotImplementedError):
        coll.insert([{}])
    with pytest.raises(Exception, match="disabled"):
        coll.con.cursor().execute("COPY structures TO 'stolen.parquet'")
    with pytest.raises(Exception, match="locked"):
        coll.con.cursor().execute("SET enable_external_access = true")
    assert len(coll) == len(rows)


def test_a_port_in_use_is_one_sentence(release, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", str(release), "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "can't listen on 127.0.0.1, port" in error
    assert "--port 0 takes a free one" in error


def test_a_folder_that_is_no_release(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "not a release folder: it has no SHA256SUMS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (layout.SUMS, "not a release folder: it has no SHA256SUMS"),
        (layout.table("hull", "SCAN"), "hull/SCAN.parquet: no such file; table hull was expected here"),
        (layout.table("structures"), "structures.parquet: no such file"),
    ],
)
def test_a_release_that_lacks_a_file(release, tmp_path, capsys, name, says):
    shutil.copytree(release, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    assert cli.main(["serve", str(tmp_path / "copy"), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_a_changed_table_is_not_served(release, tmp_path, capsys):
    shutil.copytree(release, tmp_path / "copy")
    path = tmp_path / "copy" / layout.table("hull", "PBE")
    changed = tables.read_rows(path, "hull")
    changed[0]["e_above_hull"] = 0.5
    tables.write(path, "hull", changed)
    assert cli.main(["serve", str(tmp_path / "copy"), "--port", "0"]) == 2
    assert "not what SHA256SUMS says" in capsys.readouterr().err


def test_a_changed_licence_is_not_served(release, tmp_path, capsys):
    shutil.copytree(release, tmp_path / "copy")
    path = tmp_path / "copy" / layout.DATASET
    path.write_text(path.read_text().replace("CC-BY-4.0", "CC0-1.0"))
    assert cli.main(["serve", str(tmp_path / "copy"), "--port", "0"]) == 2
    assert "dataset.json: not what SHA256SUMS says" in capsys.readouterr().err


def test_a_missing_extra_is_one_sentence(release, monkeypatch, capsys):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "duckdb" else name)
    assert cli.main(["serve", str(release), "--port", "0"]) == 2
    assert "not installed (duckdb): pip install 'hullforge[serve]'" in capsys.readouterr().err
