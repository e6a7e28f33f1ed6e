"""Two releases compared: what was added, removed and changed is named, and equal ones differ in nothing."""

import json
import shutil

import pytest
import synthetic_campaign

from hullforge import cli
from hullforge.errors import TableError
from hullforge.release import build, diff, layout
from hullforge.store.schema import TABLES


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """The first round alone as 2026.1, and both as 2026.10."""
    folder = tmp_path_factory.mktemp("diff")
    settings = synthetic_campaign.campaign(folder)
    rounds = synthetic_campaign.make(settings)
    old, new = folder / "2026.1", folder / "2026.10"
    build.run(settings, rounds[:1], old)
    later = synthetic_campaign.campaign(folder, release={"version": "2026.10", "title": "Invented numbers"})
    build.run(later, rounds, new)
    return old, new


def test_every_published_table_has_a_key_of_its_own_columns():
    for name in (*layout.WHOLE, *layout.BY_FUNCTIONAL):
        assert set(layout.KEYS[name]) <= {column.name for column in TABLES[name].columns}, name


def test_keys_name_each_row_once(releases):
    for path in (name for name in layout.files(releases[1]) if name.endswith(".parquet")):
        key = layout.KEYS[path.removesuffix(".parquet").split("/")[1]]
        names = [name for name, _ in diff._hashes(releases[1] / path, key, [], path)]
        assert len(set(names)) == len(names), path


def test_a_release_and_its_copy_do_not_differ(releases, tmp_path, capsys):
    shutil.copytree(releases[0], tmp_path / "copy")
    assert not diff.diff(releases[0], tmp_path / "copy")
    assert cli.main(["diff", str(releases[0]), str(tmp_path / "copy")]) == 0
    assert "no difference" in capsys.readouterr().out


def test_rows_and_distances_that_changed_are_named(releases, tmp_path, capsys):
    assert cli.main(["diff", *map(str, releases), "--json", str(tmp_path / "d.json")]) == 1
    shown = capsys.readouterr().out
    assert "2026.1 -> 2026.10" in shown
    found = json.loads((tmp_path / "d.json").read_text())
    by_path = {table["path"]: table for table in found["tables"]}
    assert len(by_path["data/calculations/PBE.parquet"]["added"]) == 3
    assert not by_path["data/calculations/PBE.parquet"]["changed"]
    assert found["keys"]["config.json release.version"] == ["2026.1", "2026.10"]


def test_the_other_way_round_what_was_added_is_removed(releases):
    there, back = diff.diff(*releases), diff.diff(*releases[::-1])
    assert [(t.path, sorted(t.added)) for t in there.tables] == [(t.path, t.removed) for t in back.tables]
    assert [(m.before, m.after) for m in there.moved] == [(m.after, m.before) for m in back.moved]


def test_a_single_changed_number_is_found_with_its_column(releases, tmp_path):
    import pyarrow.parquet as pq

    shutil.copytree(releases[0], tmp_path / "copy")
    path = tmp_path / "copy" / "data/hull/PBE.parquet"
    table = pq.read_table(path)
    values = table["e_above_hull"].to_pylist()
    row = next(i for i, value in enumerate(values) if value is not None)
    values[row] += 0.25
    i = table.schema.get_field_index("e_above_hull")
    pq.write_table(table.set_column(i, table.schema.field(i), [values]), path)
    found = diff.diff(releases[0], tmp_path / "copy")
    (change,) = found.tables
    assert change.columns == {"e_above_hull": 1}
    (moved,) = found.moved
    assert moved.after - moved.before == pytest.approx(0.25)


def edited_hull(release, out, **changes):
    """A copy of the release, in which functions change columns of the hull."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(release, out)
    path = out / "data/hull/PBE.parquet"
    table = pq.read_table(path)
    for name, change in changes.items():
        i = table.schema.get_field_index(name)
        values = [change(v) for v in table[name].to_pylist()]
        table = table.set_column(i, table.schema.field(i), pa.array(values, table.schema.field(i).type))
    pq.write_table(table, path)
    return out


def test_another_number_of_the_hull_and_rounding_change_no_row(releases, tmp_path, capsys):
    other = edited_hull(
        releases[0],
        tmp_path / "copy",
        hull_version=lambda v: v + 1,
        e_above_hull=lambda v: v and v + 1e-12,
        chemical_potentials=lambda v: v and [x - 1e-12 for x in v],
    )
    found = diff.diff(releases[0], other)
    (change,) = found.tables
    assert not change.changed
    assert change.renumbered > 0
    assert not found.moved
    assert cli.main(["diff", str(releases[0]), str(other)]) == 1
    assert f"only the hull's number: {change.renumbered} rows" in capsys.readouterr().out


def test_phases_that_leave_the_hull_are_told_whatever_their_distance(releases, tmp_path):
    other = edited_hull(releases[0], tmp_path / "copy", is_on_hull=lambda _: False)
    found = diff.diff(releases[0], other)
    assert {m.fate for m in found.moved} == {"left the hull"}
    assert len(found.moved) == len(found.tables[0].changed) > 0


def test_rows_of_a_file_that_only_one_release_has_are_named(releases, tmp_path):
    shutil.copytree(releases[0], tmp_path / "copy")
    (tmp_path / "copy" / "data/frames/SCAN.parquet").unlink()
    found = diff.diff(tmp_path / "copy", releases[0])
    assert found.files_added == ["data/frames/SCAN.parquet"]
    (change,) = found.tables
    assert change.added
    assert not change.removed


def test_another_version_of_a_package_is_told(releases, tmp_path):
    shutil.copytree(releases[0], tmp_path / "copy")
    path = tmp_path / "copy" / layout.SOFTWARE
    software = json.loads(path.read_text())
    before = software["packages"]["numpy"]
    software["packages"]["numpy"] = "0.1"
    path.write_text(json.dumps(software))
    assert diff.diff(releases[0], tmp_path / "copy").keys == {"software.json packages.numpy": (before, "0.1")}
    path.unlink()
    assert not diff.diff(releases[0], tmp_path / "copy").keys


def test_a_folder_that_is_no_release_is_one_clear_error(releases, tmp_path):
    with pytest.raises(TableError, match="not a release"):
        diff.diff(releases[0], tmp_path)
