"""OPTIMADE providers: a real server on this machine, asked through the real client."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from hullforge import cli
from hullforge.errors import TableError
from hullforge.imports import load
from hullforge.imports.columns import Columns
from hullforge.imports.optimade_provider import PRESETS, Optimade
from hullforge.store import tables

pytest.importorskip("optimade.server", reason="needs pip install 'optimade[server]' (it is in the extra dev)")

#: The names of the presets' energies are served with their prefixes, as the providers do.
FIELDS = {
    "alexandria": {"energy": "float", "energy_corrected": "float", "xc_functional": "string", "hull_distance": "float",
                   "formation_energy_per_atom": "float", "band_gap": "float", "magnetization": "float",
                   "space_group": "integer"},
    "oqmd": {"delta_e": "float", "stability": "float", "band_gap": "float"},
    "mp": {"stability": "dictionary"},
}  # fmt: skip


def structure(name, sites, **own):
    """A structure as a provider stores it; `own` are the provider's fields."""
    elements = sorted(set(sites))
    counts = [sites.count(element) for element in elements]
    return {
        "id": name,
        "type": "structures",
        "attributes": {
            "last_modified": {"$date": "2026-01-01T00:00:00Z"},
            "elements": elements,
            "nelements": len(elements),
            "elements_ratios": [count / len(sites) for count in counts],
            "chemical_formula_reduced": "".join(
                f"{e}{c if c > 1 else ''}" for e, c in zip(elements, counts, strict=True)
            ),
            "chemical_formula_descriptive": "".join(sites),
            "chemical_formula_anonymous": "A" if len(elements) == 1 else "AB",
            "dimension_types": [1, 1, 1],
            "nperiodic_dimensions": 3,
            "lattice_vectors": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
            "cartesian_site_positions": [[0.5 * i, 0.0, 0.0] for i in range(len(sites))],
            "nsites": len(sites),
            "species_at_sites": sites,
            "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements],
            "structure_features": [],
            **own,
        },
    }


def stability(formation, above):
    return {
        "_mp_stability": {"gga_gga+u": {"formation_energy_per_atom": formation, "energy_above_hull": above}}
    }


STRUCTURES = [
    structure("li", ["Li"], _alexandria_energy=-1.9, _alexandria_energy_corrected=-1.9,
              _alexandria_xc_functional="PBE", _oqmd_delta_e=0.0, **stability(0.0, 0.0)),
    structure("lio", ["Li", "O"], _alexandria_energy=-9.0, _alexandria_energy_corrected=-9.4,
              _alexandria_xc_functional="PBE", _alexandria_hull_distance=0.1, _alexandria_space_group=225,
              _oqmd_delta_e=-1.1, _oqmd_stability=-0.2, **stability(-1.2, 0.03)),
    structure("o", ["O", "O"], _alexandria_energy=-9.8, _alexandria_xc_functional="PBEsol", _oqmd_delta_e=0.0),
    structure("bare", ["Li", "O"]),
    *(structure(f"x{i}", ["Na", "Cl"], _alexandria_energy=-7.0 - i, _alexandria_xc_functional="PBE", _oqmd_delta_e=-2.0)
      for i in range(8)),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The reference server on a free port, with the structures above; gives its address."""
    folder = tmp_path_factory.mktemp("optimade")
    lines = [{"x-optimade": {"api_version": "1.2.0"}}, *STRUCTURES]
    (folder / "structures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "database_backend": "mongomock",
        "insert_test_data": False,
        "insert_from_jsonl": str(folder / "structures.jsonl"),
        "provider": {"prefix": "hf", "name": "test", "description": "test", "homepage": None},
        "provider_fields": {
            "structures": [
                {"name": f"_{prefix}_{name}", "type": type_, "description": name}
                for prefix, fields in FIELDS.items()
                for name, type_ in fields.items()
            ]
        },
        "page_limit_max": 50,
        "log_dir": str(folder),
    }
    (folder / "config.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                "optimade.server.main:app",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env={**os.environ, "OPTIMADE_CONFIG_FILE": str(folder / "config.json")},
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/v1/structures?page_limit=1", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                time.sleep(0.25)
        else:
            pytest.fail((folder / "log").read_text()[-3000:])
        yield address
    finally:
        process.terminate()
        process.wait()


def imported(tmp_path, importer, address, said=None):
    out = tmp_path / "entries.parquet"
    load.run(importer, [address], said or load.Said("PBE"), out, progress=False)
    refused = tables.read_rows(load.refusals_beside(out), "refusals")
    return {row["id"]: row for row in tables.read_rows(out, "entries")}, {
        r["id"]: r["reason"] for r in refused
    }


def test_alexandrias_fields_become_energies_over_all_pages(server, tmp_path):
    rows, refused = imported(tmp_path, Optimade(preset="alexandria", page=5), server)
    assert set(rows) == {"li", "lio", *(f"x{i}" for i in range(8))}
    assert refused == {"o": "other_functional", "bare": "no_energy"}
    row = rows["lio"]
    assert row["energy_per_atom"] == pytest.approx(-4.5)
    assert row["energy_correction_per_atom"] == pytest.approx(-0.2)
    assert (row["e_above_hull"], row["space_group_it_number"], row["source"]) == (0.1, 225, "alexandria")
    assert row["numbers"] == [3, 8]
    assert row["positions"] == [[0.0] * 3, [0.5, 0.0, 0.0]]
    assert rows["x0"]["energy_correction_per_atom"] is None


def test_a_filter_is_the_providers_work(server, tmp_path):
    rows, refused = imported(tmp_path, Optimade('elements HAS ALL "Li","O"', "alexandria"), server)
    assert (set(rows), refused) == ({"lio"}, {"bare": "no_energy"})


def test_formation_energies_alone_are_kept_as_such(server, tmp_path):
    rows, _ = imported(tmp_path, Optimade(preset="oqmd"), server)
    row = rows["lio"]
    assert (row["energy_per_atom"], row["formation_energy_per_atom"], row["e_above_hull"]) == (
        None,
        -1.1,
        -0.2,
    )
    rows, refused = imported(tmp_path, Optimade('elements HAS "Li"', "mp"), server)
    assert (rows["lio"]["formation_energy_per_atom"], rows["lio"]["e_above_hull"]) == (-1.2, 0.03)
    assert refused == {"bare": "no_energy"}


def test_the_users_own_names_need_no_preset(server, tmp_path, capsys):
    out = tmp_path / "e.parquet"
    command = ["import", "optimade", server, "--functional", "PBE", "--out", str(out)]
    assert cli.main([*command, "--column", "energy=_alexandria_energy", "--filter", 'elements HAS "Li"']) == 0
    rows = tables.read_rows(out, "entries")
    assert {row["id"]: row["energy_per_atom"] for row in rows} == pytest.approx({"li": -1.9, "lio": -4.5})
    assert {row["source"] for row in rows} == {server.removeprefix("http://")}
    assert cli.main(command) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("filter_", ["elements HAS", "nonsense = 1 = 2"])
def test_a_filter_that_is_none_is_one_error(server, tmp_path, filter_):
    with pytest.raises(TableError, match=r"127\.0\.0\.1"):
        imported(tmp_path, Optimade(filter_, "oqmd"), server)
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_does_not_answer_is_one_error(tmp_path):
    with pytest.raises(TableError, match="the provider answers"):
        imported(tmp_path, Optimade(preset="oqmd"), "http://127.0.0.1:9")


def test_energies_without_a_name_are_one_error(tmp_path):
    with pytest.raises(TableError, match="OPTIMADE has no name for energies"):
        imported(tmp_path, Optimade(columns=Columns({"id": "id"})), "http://127.0.0.1:9")
    assert set(PRESETS) == {"alexandria", "hullforge", "mp", "oqmd"}
