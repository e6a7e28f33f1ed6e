"""Sorted streams: the rows of many files, each once, in the table's order, however they are cut into pieces."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.frames import made
from hullforge.errors import TableError
from hullforge.store import streams, tables


@pytest.fixture
def files(tmp_path):
    """Files of 0 to 70 frames, rows in no order; with the order of their calculations."""
    whole = made(400)
    shuffled = whole.take(pa.array(np.random.default_rng(1).permutation(400)))
    cuts = [0, 0, 70, 90, 91, 150, 220, 290, 360, 400]
    paths = []
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        paths.append(tmp_path / f"{number}.parquet")
        tables.write(paths[-1], "frames", shuffled.slice(begin, end - begin))
    order = pa.chunked_array([sorted(set(whole["calculation_id"].to_pylist()))])
    return paths, order, tables.conform("frames", whole)


@pytest.mark.parametrize("piece", [10, 33, 1000])
@pytest.mark.parametrize("hand", [1, 64, 1000])
@pytest.mark.parametrize("lookup", [50, 10_000])
def test_all_rows_arrive_in_order(files, tmp_path, monkeypatch, piece, hand, lookup):
    paths, order, whole = files
    for name, value in (("PIECE", piece), ("_HAND", hand), ("_LOOKUP", lookup)):
        monkeypatch.setattr(streams, name, value)
    pieces = list(streams.sorted_pieces(paths, "frames", "calculation_id", order, tmp_path))
    assert pa.concat_tables(pieces).equals(whole)
    assert len(pieces) == -(-400 // piece) or piece == 33
    assert not list(tmp_path.glob(".pieces.*"))
    for one, other in itertools.pairwise(pieces):
        assert one["calculation_id"][-1].as_py() < other["calculation_id"][0].as_py()


@pytest.mark.parametrize("lookup", [50, 10_000])
def test_a_row_of_a_stranger_is_named_with_its_file(files, tmp_path, monkeypatch, lookup):
    paths, order, _ = files
    monkeypatch.setattr(streams, "_LOOKUP", lookup)
    tables.write(tmp_path / "strange.parquet", "frames", made(10, start=4000))
    with pytest.raises(TableError, match=r"strange\.parquet: a row of k1-"):
        list(
            streams.sorted_pieces(
                [*paths, tmp_path / "strange.parquet", paths[0]], "frames", "calculation_id", order, tmp_path
            )
        )


def test_no_files_give_one_empty_piece(tmp_path):
    order = pa.chunked_array([], pa.string())
    (piece,) = streams.sorted_pieces([], "frames", "calculation_id", order, tmp_path)
    assert piece.equals(tables.empty("frames"))
