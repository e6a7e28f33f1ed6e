"""The card's snippets are all that somebody with the release folder needs: each is run there, in a program of its own."""

import json
import os
import re
import subprocess
import sys

import pytest
import synthetic_campaign

from hullforge.release import build, layout
from hullforge.store import tables

#: What each snippet is asked afterwards.
ASKED = {
    "pandas": "[list(energies), [[list(map(float, a)) for a in f] for f in forces],"
    " [distances[i] for i in calculations['calculation_id']]]",
    "ase": "[energies, [f.tolist() for f in forces], distances]",
    "matgl": "[[float(x) for x in energies], [[list(map(float, a)) for a in f] for f in forces],"
    " [float(x) for x in distances], len(training), training[0][-1]['energies'].tolist()]",
}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    settings = synthetic_campaign.campaign(tmp_path_factory.mktemp("card"))
    out = settings.folder / "release" / "2026.1"
    build.run(settings, synthetic_campaign.make(settings), out)
    return out


@pytest.fixture(scope="module")
def snippets(release):
    found = re.findall(r"```python\n(.*?)```", (release / layout.CARD).read_text(), re.DOTALL)
    return dict(zip(ASKED, found, strict=True))


def ran(release, snippets, name):
    """What a snippet of the card finds, run in the folder without hullforge; it leaves the folder as it was."""
    before = layout.sums(release)
    program = f"{snippets[name]}\nimport json, sys\njson.dump({ASKED[name]}, sys.stdout)\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=release,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert layout.sums(release) == before
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rows(release):
    return tables.read_rows(release / "data/calculations/PBE.parquet", "calculations")


@pytest.fixture(scope="module")
def distances(release):
    hull = tables.read_rows(release / "data/hull/PBE.parquet", "hull")
    return {row["calculation_id"]: row["e_above_hull"] for row in hull}


def plain(values):
    return [None if v is None or v != v else v for v in values]


@pytest.mark.parametrize("name", ["pandas", "ase"])
def test_energies_forces_and_distances_are_three_lines_away(release, snippets, rows, distances, name):
    energies, forces, found = ran(release, snippets, name)
    assert energies == [row["energy"] for row in rows]
    assert forces == [row["forces"] for row in rows]
    assert plain(found) == [distances[row["calculation_id"]] for row in rows]


@pytest.mark.slow
def test_matgl_loads_them_in_as_many(release, snippets, distances):
    pytest.importorskip("matgl")
    frames = tables.read_rows(release / "data/frames/PBE.parquet", "frames")
    wanted = [row for row in frames if row["split"] == "train" and row["forces"] and row["stress"]]
    energies, forces, found, n, first = ran(release, snippets, "matgl")
    assert energies == [row["energy"] for row in wanted]
    assert forces == [row["forces"] for row in wanted]
    assert n == len(wanted)
    assert first == pytest.approx(wanted[0]["energy"], rel=1e-6)
    placed = [value for value in distances.values() if value is not None]
    assert sorted(found) == pytest.approx(sorted(placed), rel=1e-6)


def test_the_card_names_every_file_and_no_table_that_is_not_there(release):
    text = (release / layout.CARD).read_text()
    body = text.split("## What is in the folder")[1].split("## Definitions")[0]
    missing = [
        f for f in layout.files(release) if f not in (layout.CARD, layout.LICENSE) and f"`{f}`" not in body
    ]
    assert missing == []
    named = set(re.findall(r"`((?:data|extxyz)/[^`]+)`", text))
    assert named == {f for f in layout.files(release) if f.startswith(("data/", "extxyz/"))}


def test_the_dictionary_has_the_tables_of_the_release_alone(release):
    named = set(re.findall(r"^## (.*)$", (release / layout.DICTIONARY).read_text(), re.MULTILINE))
    assert named == {name.split("/")[1].removesuffix(".parquet") for name in layout.tables(release)}
