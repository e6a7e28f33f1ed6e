"""The logical hash: the same for the same table, however its file was written; another one for any other table."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_campaign
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.errors import TableError
from hullforge.release import build, layout, logical
from hullforge.release.verify import verify
from hullforge.store import tables

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "energy": pa.float64(),
        "count": pa.int32(),
        "flag": pa.bool_(),
        "forces": pa.list_(pa.list_(pa.float64(), 3)),
        "cell": pa.list_(pa.float64()),
        "errors": pa.list_(pa.string()),
        "hubbards": pa.map_(pa.string(), pa.float64()),
        "phases": pa.list_(pa.struct({"id": pa.string(), "share": pa.float64()})),
    }
)
NUMBER = st.floats(width=64)
TEXT = st.text(max_size=4)
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | TEXT,
        "energy": st.none() | NUMBER,
        "count": st.none() | st.integers(-(2**31), 2**31 - 1),
        "flag": st.none() | st.booleans(),
        "forces": st.none() | st.lists(st.none() | st.lists(NUMBER, min_size=3, max_size=3), max_size=3),
        "cell": st.none() | st.lists(st.none() | NUMBER, max_size=3),
        "errors": st.none() | st.lists(st.none() | TEXT, max_size=3),
        "hubbards": st.none() | st.lists(st.tuples(TEXT, NUMBER), max_size=3),
        "phases": st.none()
        | st.lists(
            st.none() | st.fixed_dictionaries({"id": st.none() | TEXT, "share": st.none() | NUMBER}),
            max_size=2,
        ),
    }
)


def table_of(rows):
    return pa.Table.from_pylist(rows, SCHEMA)


def hash_of(table, chunk=None):
    return logical.of_batches(table.schema, table.to_batches(max_chunksize=chunk))


def in_file(table, folder, **options):
    path = folder / "t.parquet"
    pq.write_table(table, path, **options)
    return logical.of_file(path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROW, max_size=9),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from(["snappy", "zstd", "none"]),
)
def test_the_file_does_not_matter(tmp_path_factory, rows, size, skipped, compression):
    table = table_of(rows)
    wanted = hash_of(table)
    assert hash_of(table, chunk=size) == wanted
    assert hash_of(pa.concat_tables([table_of([row]) for row in rows] or [table])) == wanted
    padded = table_of([*rows[:1] * skipped, *rows]).slice(skipped if rows else 0)
    assert hash_of(padded) == wanted
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=size, compression=compression, use_dictionary=size > 1)
    file.seek(0)
    assert logical.of_file(file) == wanted


def changed(value):
    """Another value of the same type; null becomes one, the rest null or another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 1 if value != 1 else 0
    if isinstance(value, str):
        return value + "x"
    return value[:-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5), st.data())
def test_any_other_value_counts(rows, data):
    column = data.draw(st.sampled_from(SCHEMA.names))
    number = data.draw(st.integers(0, len(rows) - 1))
    value = rows[number][column]
    empty = {"name": "", "energy": 0.0, "count": 0, "flag": False}.get(column, [])
    others = [empty] if value is None else [None, *([changed(value)] if value != [] else [])]
    for other in others:
        edited = [*rows[:number], {**rows[number], column: other}, *rows[number + 1 :]]
        assert hash_of(table_of(edited)) != hash_of(table_of(rows)), (value, other)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=4))
def test_the_order_of_different_rows_counts(rows):
    table, swapped = table_of(rows), table_of([rows[1], rows[0], *rows[2:]])
    same = hash_of(table_of([rows[0]])) == hash_of(table_of([rows[1]]))
    assert (hash_of(table) == hash_of(swapped)) == same


ONE = pa.table({"a": [1.0], "b": [2.0]})


@pytest.mark.parametrize(
    "other",
    [
        ONE.rename_columns(["a", "c"]),
        ONE.select(["b", "a"]),
        ONE.drop_columns(["b"]),
        ONE.set_column(0, "a", pa.array([1.0], pa.float32())),
        ONE.set_column(0, "a", pa.array([1])),
        ONE.set_column(0, "a", pa.array([[1.0]])),
        pa.concat_tables([ONE, ONE]),
        ONE.slice(1),
    ],
)
def test_names_order_types_and_number_of_rows_count(other):
    assert hash_of(other) != hash_of(ONE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]]),
        ([[], [1.0]], [[1.0], []]),
        ([None, [1.0]], [[], [1.0]]),
        ([[None, 1.0]], [[1.0, None]]),
        ([0.0], [-0.0]),
        (["ab", "c"], ["a", "bc"]),
        (["", None], [None, ""]),
    ],
)
def test_shapes_nulls_and_signs_count(one, other):
    assert hash_of(pa.table({"a": one})) != hash_of(pa.table({"a": other}))


def test_what_only_says_how_it_is_stored_does_not_count():
    plain = pa.table({"a": ["x", "y", None, "x"]})
    for type_ in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        assert hash_of(pa.table({"a": plain["a"].cast(type_)})) == hash_of(plain)
    marked = plain.replace_schema_metadata({"made": "today"})
    assert hash_of(marked) == hash_of(plain)
    below = pa.Array.from_buffers(pa.float64(), 2, [pa.py_buffer(b"\x01"), pa.array([1.0, 7.0]).buffers()[1]])
    assert hash_of(pa.table({"a": below})) == hash_of(pa.table({"a": [1.0, None]}))


def test_the_hash_is_this_one_for_good():
    rows = [
        {"name": "Al", "energy": -3.7, "count": 1, "flag": True, "forces": [[0.0, 0.1, -0.0]], "cell": [1.0, None],
         "errors": [], "hubbards": [("Ni", 6.2)], "phases": [{"id": "k1", "share": 1.0}]},
        dict.fromkeys(SCHEMA.names),
    ]  # fmt: skip
    assert hash_of(table_of(rows)) == "6e184dc4af0a07d54d0ce9784192935a26bc9fedb80cbb62b9587649dab4d1eb"


def test_other_types_and_other_files_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"column t: .* timestamp"):
        hash_of(pa.table({"t": pa.array([0], pa.timestamp("s"))}))
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(TableError, match=r"t\.parquet: not a whole Parquet file"):
        logical.of_file(tmp_path / "t.parquet")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    campaign = synthetic_campaign.campaign(tmp_path_factory.mktemp("campaign"))
    out = campaign.folder / "release" / "2026.1"
    build.run(campaign, synthetic_campaign.make(campaign), out)
    return out


def test_a_release_lists_every_table_and_its_values_do_not_depend_on_the_file(release):
    listed = dict(line.split("  ")[::-1] for line in (release / layout.LOGICAL).read_text().splitlines())
    assert sorted(listed) == [name for name in layout.files(release) if name.endswith(".parquet")]
    for path, digest in listed.items():
        table = pq.read_table(release / path)
        assert in_file(table, release.parent, compression="snappy", row_group_size=3) == digest, path


def test_verify_takes_another_encoding_but_no_other_value(release):
    path = layout.table("frames", "PBE")
    whole = (release / path).read_bytes()
    pq.write_table(pq.read_table(release / path), release / path, compression="snappy", row_group_size=2)
    (release / layout.SUMS).write_text(layout.sums(release))
    assert verify(release) == []
    rows = tables.read_rows(release / path, "frames")
    rows[1]["stress"] = [-value for value in rows[1]["stress"]]
    tables.write(release / path, "frames", rows)
    (release / layout.SUMS).write_text(layout.sums(release))
    assert f"{path}: its rows are not those of {layout.LOGICAL}: another logical hash" in verify(release)
    (release / path).write_bytes(whole)
    good = (release / layout.LOGICAL).read_text()
    for text, expected in (
        (good.replace(f"  {path}\n", "  data/nothing.parquet\n"), f"{layout.LOGICAL}: {path} is not listed"),
        (good + "hello\n", f"{layout.LOGICAL}: not a list of checksums: 'hello'"),
    ):
        (release / layout.LOGICAL).write_text(text)
        (release / layout.SUMS).write_text(layout.sums(release))
        assert expected in verify(release)
