"""`verify` finds what is wrong with a release, also when the checksums were made again."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_campaign

from hullforge.release import build, layout, logical
from hullforge.release.verify import verify
from hullforge.store import atomic, seal, tables

PBE = layout.table("calculations", "PBE")
HULL = layout.table("hull", "PBE")
FRAMES = layout.table("frames", "PBE")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    settings = synthetic_campaign.campaign(tmp_path_factory.mktemp("campaign"))
    seal.claim(settings.folder, "invented", 2)
    build.run(settings, synthetic_campaign.make(settings), settings.folder / "release" / "2026.1")
    return settings.folder


@pytest.fixture
def campaign(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "invented")
    return tmp_path / "invented"


@pytest.fixture
def release(campaign):
    return campaign / "release" / "2026.1"


def edit(release, path, change):
    """Change the rows of a table with `change(rows)`, and make the checksums again."""
    name = path.split("/")[1].removesuffix(".parquet")
    rows = tables.read_rows(release / path, name)
    changed = change(rows)
    tables.write(release / path, name, rows if changed is None else changed)
    remake_sums(release)


def remake_sums(release):
    """Make checksums and logical hashes anew, so that only the content can tell."""
    (release / layout.LOGICAL).write_text(logical.text(release, layout.tables(release)))
    (release / layout.SUMS).write_text(layout.sums(release))


def set_value(column, value, row=0):
    def change(rows):
        rows[row][column] = value(rows[row][column]) if callable(value) else value

    return change


def test_a_flipped_byte(release):
    path = release / layout.DICTIONARY
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    assert verify(release) == ["dictionary.md: its checksum is not the one in SHA256SUMS"]


def test_a_table_cut_short(release):
    path = release / FRAMES
    path.write_bytes(path.read_bytes()[:-50])
    problems = "\n".join(verify(release))
    assert f"{FRAMES}: its checksum" in problems
    assert f"{FRAMES}: not a whole Parquet file" in problems


def test_a_removed_file(release):
    (release / FRAMES).unlink()
    problems = "\n".join(verify(release))
    assert f"{FRAMES}: missing, though SHA256SUMS lists it" in problems
    assert "no such file" in problems


def test_a_file_too_many(release):
    (release / "notes.txt").write_text("hello")
    assert verify(release) == ["notes.txt: not listed in SHA256SUMS"]


def test_no_checksums(release):
    (release / layout.SUMS).unlink()
    assert verify(release) == ["SHA256SUMS: missing; the release is incomplete"]


@pytest.mark.parametrize("content", ["hello\n", "ab  file\n"])
def test_checksums_that_are_none(release, content):
    (release / layout.SUMS).write_text(content)
    assert "not a list of checksums" in verify(release)[0]


CORRUPTIONS = {
    "changed energy": (PBE, set_value("energy", lambda e: e + 1e-6), "energy .* is not .* eV/atom times"),
    "changed energy per atom": (PBE, set_value("energy_per_atom", lambda e: e + 1e-6), "times 1 atoms"),
    "duplicate calculation": (PBE, lambda rows: [*rows, rows[0]], "calculation_id k1-.* is in more than one row"),
    "duplicate frame": (FRAMES, lambda rows: [*rows, rows[0]], "frame_id .* is in more than one row"),
    "missing calculation": (PBE, lambda rows: rows[1:], "is not among the calculations"),
    "stale distance": (HULL, set_value("e_above_hull", lambda e: e + 1e-7, 0), "e_above_hull is .* the published energies"),
    "stale formation energy": (HULL, set_value("formation_energy_per_atom", 0.5), "formation_energy_per_atom is 0.5"),
    "wrong flag": (HULL, set_value("is_on_hull", False), "is_on_hull is False"),
    "row missing in hull": (HULL, lambda rows: rows[1:], "calculation k1-.* is missing"),
    "broken decomposition": (HULL, set_value("decomposition", []), "decomposition is not a mixture"),
    "other potentials": (HULL, set_value("chemical_potentials", [1.0]), "chemical potentials do not give"),
    "wrong status": (HULL, set_value("hull_status", "missing_reference"), "hull_status is missing_reference"),
    "two hull versions": (HULL, set_value("hull_version", 0), "hull versions"),
    "moved atom": (PBE, set_value("positions", [[0.1, 0, 0]]), "the geometry is not that of structure_id"),
    "other start": (PBE, set_value("parent_structure_id", "s1-0"), "the id is not that of its theory"),
    "largest force": (PBE, set_value("max_force", 1.0), "the largest force is"),
    "swapped stress": (PBE, set_value("stress", lambda s: [10 * x for x in s]), "the largest stress is"),
    "forces of another structure": (PBE, set_value("forces", [[0.0] * 3] * 5), "1 atoms, 5 forces"),
    "another functional": (PBE, set_value("functional", "SCAN"), "functional SCAN is not among the this file's name"),
    "frame energy": (FRAMES, set_value("energy", 1.0), "frame 0: frame_id .* energy"),
    "frame of nothing": (FRAMES, set_value("calculation_id", "k1-0"), "calculation_id k1-0 is not among"),
    "lost candidate": (layout.table("failures"), lambda rows: rows[1:], "has neither a PBE calculation nor a failure"),
    "wrong volume": (layout.table("structures"), set_value("volume", 1.0), "volume"),
    "structure missing": (layout.table("structures"), lambda rows: rows[1:], "is not among the structures"),
    "prototype missing": (layout.table("prototypes"), lambda rows: rows[1:], "is not among the prototypes"),
    "wrong reference": (layout.table("elemental_references"), set_value("energy_per_atom", -9.0), "not the lowest elemental"),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_changed_content_with_fresh_checksums(release, corruption):
    path, change, expected = CORRUPTIONS[corruption]
    edit(release, path, change)
    problems = verify(release)
    assert any(re.search(expected, problem) for problem in problems), problems


def test_a_wrong_unit(release):
    path = release / PBE
    table = pq.read_table(path)
    fields = [
        f.with_metadata({**f.metadata, b"unit": b"Ha"}) if f.name == "energy" else f for f in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields, metadata=table.schema.metadata)), path)
    remake_sums(release)
    assert f"{PBE}: column energy has unit b'Ha', not b'eV'" in verify(release)


def test_a_missing_column(release):
    path = release / PBE
    pq.write_table(pq.read_table(path).drop_columns(["stress"]), path)
    remake_sums(release)
    assert f"{PBE}: its columns are not those of the table 'calculations'" in verify(release)


def test_another_table_under_the_name(release):
    (release / HULL).write_bytes((release / PBE).read_bytes())
    remake_sums(release)
    assert any("this is the table 'calculations', not 'hull'" in problem for problem in verify(release))


def test_unsorted_rows(release):
    path = release / PBE
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(table.num_rows)[::-1]), path)
    remake_sums(release)
    assert any("rows are not sorted" in problem for problem in verify(release))


def test_a_changed_energy_in_extended_xyz(release):
    path = release / layout.extxyz("structures", "PBE")
    path.write_text(path.read_text().replace("energy=-3.7 ", "energy=-3.8 "))
    remake_sums(release)
    (problem,) = verify(release)
    assert "energy is -3.8 eV" in problem


def test_a_changed_free_energy_in_extended_xyz(release):
    path = release / layout.extxyz("frames", "PBE")
    text = path.read_text()
    assert " free_energy=" in text
    path.write_text(re.sub(r" free_energy=\S+", " free_energy=-99.0", text, count=1))
    remake_sums(release)
    (problem,) = verify(release)
    assert "free_energy is -99.0 eV" in problem


def test_extended_xyz_cut_short(release):
    path = release / layout.extxyz("frames", "PBE")
    path.write_text(path.read_text()[:-10])
    remake_sums(release)
    assert verify(release) == [f"{layout.extxyz('frames', 'PBE')}: frame 13 is cut short"]


def test_wrong_counts(release):
    data = json.loads((release / layout.DATASET).read_text())
    data["by_functional"]["SCAN"]["frames"] = 3
    atomic.write_json(release / layout.DATASET, data)
    remake_sums(release)
    assert verify(release) == ["dataset.json: counts 3 rows of data/frames/SCAN.parquet, which has 8"]


def test_many_bad_rows_are_counted_not_listed(release):
    edit(
        release,
        FRAMES,
        lambda rows: [row.update(calculation_id=f"k1-{i:02d}") for i, row in enumerate(rows)] and None,
    )
    problems = [problem for problem in verify(release) if problem.startswith(FRAMES)]
    assert any("and 9 more" in problem for problem in problems)


def test_a_folder_that_is_neither(tmp_path):
    assert "neither a release" in verify(tmp_path)[0]


def test_a_campaign_is_checked_with_its_seals_and_releases(release, campaign):
    folder = campaign
    for round_ in sorted(folder.glob("round-*")):
        seal.seal(round_, sorted(round_.rglob("*.parquet")), folder)
    assert verify(folder) == []
    (release / "stray").write_text("")
    victim = folder / "round-000" / "failures.parquet"
    victim.write_bytes(victim.read_bytes() + b"x")
    problems = verify(folder)
    assert "failures.parquet" in problems[0]
    assert problems[-1] == "release/2026.1: stray: not listed in SHA256SUMS"
