"""Tables, ids and files of the ground floor."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_campaign
from hypothesis import given
from hypothesis import strategies as st

from hullforge.errors import TableError
from hullforge.store import atomic, ids, schema, structures, tables

COST = {
    "calculation_id": "k1-a", "functional": "PBE", "round": 0,
    "walltime_s": 1.0, "cpu_time_s": 2.0, "max_memory_mib": 3.0,
}  # fmt: skip


@pytest.mark.parametrize("name", schema.TABLES)
def test_every_table_can_be_written_empty_and_read_back(name, tmp_path):
    tables.write(tmp_path / "t.parquet", name, [])
    assert tables.read(tmp_path / "t.parquet", name).num_rows == 0


def test_rows_come_back_as_they_went_in_sorted(tmp_path):
    rows = [{**COST, "calculation_id": name} for name in ("k1-c", "k1-a", "k1-b")]
    tables.write(tmp_path / "t.parquet", "costs", rows)
    assert tables.read_rows(tmp_path / "t.parquet", "costs") == sorted(
        rows, key=lambda row: row["calculation_id"]
    )


def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path):
    rows = [{**COST, "calculation_id": f"k1-{number}"} for number in range(50)]
    tables.write(tmp_path / "a.parquet", "costs", rows)
    tables.write(tmp_path / "b.parquet", "costs", rows[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_wrong_rows_are_refused_with_column_and_row():
    with pytest.raises(TableError, match=r"row 1: missing columns \['round'\]"):
        tables.from_rows("costs", [COST, {k: v for k, v in COST.items() if k != "round"}])
    with pytest.raises(TableError, match="column round: 1 rows are null"):
        tables.from_rows("costs", [{**COST, "round": None}])
    with pytest.raises(TableError, match="column walltime_s"):
        tables.from_rows("costs", [{**COST, "walltime_s": "long"}])


def test_a_file_that_was_cut_short_is_not_taken_for_a_whole_one(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write(path, "costs", [COST])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"t\.parquet: not a whole Parquet file"):
        tables.read(path, "costs")


def test_another_table_and_a_newer_schema_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write(path, "costs", [COST])
    with pytest.raises(TableError, match="this is the table 'costs'"):
        tables.read(path, "hull")
    table = pq.read_table(path)
    newer = {**table.schema.metadata, b"hullforge.schema_version": b"99"}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(TableError, match="schema 99"):
        tables.read(path, "costs")


def test_floats_are_split_and_strings_have_dictionaries(tmp_path):
    tables.write(tmp_path / "t.parquet", "costs", [COST])
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["walltime_s"]
    assert any("DICTIONARY" in encoding for encoding in encodings["functional"])


def test_every_physical_column_has_a_unit_in_the_file(tmp_path):
    field = schema.TABLES["calculations"].arrow().field("stress")
    assert field.metadata[b"unit"] == b"eV/angstrom^3"
    assert field.metadata[b"length"] == b"6"


@pytest.mark.parametrize("name", schema.TABLES)
def test_no_table_has_a_type_that_common_readers_cannot_read(name):
    """`datasets` has no maps, pyarrow before 26 no nulls among lists of fixed size."""
    for column in schema.TABLES[name].columns:
        assert not pa.types.is_map(column.type), column.name
        assert not (column.null and pa.types.is_fixed_size_list(column.type)), column.name
        assert not (column.length or column.keyed) or pa.types.is_list(column.type), column.name


def test_lists_of_another_length_than_the_table_says_are_refused():
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t")
    with pytest.raises(TableError, match="column stress, row 1: 5 values, there must be 6"):
        tables.from_rows("calculations", [row, row | {"stress": row["stress"][:5]}])


def test_pairs_are_dicts_in_rows_sorted_in_files_and_null_where_absent(tmp_path):
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t")
    tables.write(tmp_path / "t.parquet", "calculations", [row | {"hubbards": {"Ni": 6.2, "Fe": 5.3}}])
    (found,) = pq.read_table(tmp_path / "t.parquet")["hubbards"].to_pylist()
    assert found == [{"element": "Fe", "U": 5.3}, {"element": "Ni", "U": 6.2}]
    (found,) = tables.read_rows(tmp_path / "t.parquet", "calculations")
    assert found["hubbards"] == {"Fe": 5.3, "Ni": 6.2}


def test_tables_of_the_first_schema_are_read_as_of_today(tmp_path):
    """It had maps and lists of fixed size; rounds that were sealed with it stay as they are."""
    row = synthetic_campaign.calculation_row(synthetic_campaign.CANDIDATES[0], "PBE", "t")
    rows = [
        row | {"hubbards": {"Ni": 6.2}, "kpoints": [4, 4, 2]},
        row | {"stress": None},
        row | {"hubbards": {}},
    ]
    now = tables.from_rows("calculations", rows)
    old = {
        "hubbards": pa.map_(pa.string(), pa.float64()),
        "kpoints": pa.list_(pa.uint16(), 3),
        "stress": pa.list_(pa.float64(), 6),
    }
    table = now
    for name, type_ in old.items():
        values = now[name].to_pylist()
        if name == "hubbards":
            values = [[tuple(pair.values()) for pair in u] for u in values]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, pa.field(name, type_), pa.array(values, type_))
    pq.write_table(
        table.replace_schema_metadata({"hullforge.table": "calculations", "hullforge.schema_version": "1"}),
        tmp_path / "old.parquet",
    )
    assert pq.read_schema(tmp_path / "old.parquet").field("hubbards").type == old["hubbards"]
    for found in (
        tables.read(tmp_path / "old.parquet", "calculations"),
        *tables.pieces(tmp_path / "old.parquet", "calculations"),
    ):
        assert found.replace_schema_metadata().equals(now.replace_schema_metadata())
    tables.write(tmp_path / "new.parquet", "calculations", rows)
    both = tables.concat([tmp_path / "old.parquet", tmp_path / "new.parquet"], "calculations")
    assert both["hubbards"].to_pylist().count([{"element": "Ni", "U": 6.2}]) == 2


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    atomic.write_json(path, {"old": True})
    program = (
        "import os, signal\nfrom hullforge.store import atomic\n"
        f"with atomic.atomic_path({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert atomic.read_json(path) == {"old": True}


def test_a_failed_writer_leaves_nothing(tmp_path):
    def fail():
        with atomic.atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_ids_depend_on_content_alone():
    assert ids.content_id("x", {"a": 1, "b": 2}) == ids.content_id("x", {"b": 2, "a": 1})
    assert ids.content_id("x", {"a": None, "b": 1}) != ids.content_id("x", {"a": 1, "b": None})


@given(st.floats(-1e-10, 1e-10), st.integers(0, 2))
def test_structure_ids_do_not_see_noise_but_see_moves(noise, axis):
    cell, positions = 4 * np.eye(3), np.array([[0.0, 0, 0], [2, 2, 2]])
    reference = ids.structure_id([11, 17], cell, positions)
    noisy = positions.copy()
    noisy[1, axis] += noise
    assert ids.structure_id([11, 17], cell, noisy) == reference
    assert ids.structure_id([11, 17], cell, -0.0 * positions[:1] + positions) == reference
    noisy[1, axis] += 1e-6
    assert ids.structure_id([11, 17], cell, noisy) != reference


def test_structures_survive_the_columns():
    from ase.build import bulk

    atoms = bulk("NaCl", "rocksalt", a=5.64)
    row = structures.row_from_atoms(atoms)
    back = structures.atoms_from_row(row)
    assert np.array_equal(back.positions, atoms.positions)
    assert np.array_equal(back.cell.array, atoms.cell.array)
    assert row["chemical_formula_reduced"] == "ClNa"
    assert row["chemsys"] == "Cl-Na"
    assert row["volume"] == pytest.approx(5.64**3 / 4)


def test_starting_is_fast():
    """The status of a campaign must not wait for torch or pymatgen."""
    program = (
        "import sys, hullforge, hullforge.cli, hullforge.config, hullforge.reports.status\n"
        "print([m for m in ('torch', 'pymatgen', 'matplotlib', 'ase') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
