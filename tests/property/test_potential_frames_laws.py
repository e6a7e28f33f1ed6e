"""Laws of what a potential learns from: a structure that it is tested on is never trained on, in any round."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.config import Curation, Split
from hullforge.crystals import curate
from hullforge.potentials import frames as frame_files
from hullforge.store import streams, tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import composition_columns

COMPOSITIONS = [
    [3, 8],
    [11, 17],
    [3, 3, 8],
    [12, 8],
    [8, 12],
    [13, 8, 8],
    [22, 8, 8],
    [56, 22, 8, 8, 8],
    [29],
]


def defaults(name: str) -> dict:
    """A row of nulls where they are allowed, of empty values elsewhere."""
    empty = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": False}
    return {c.name: None if c.null else empty.get(str(c.type), []) for c in TABLES[name].columns}


def write(folder: Path, number: int, paths: list[tuple[int, int]]) -> tuple[Path, Path]:
    """A round with a path of so many steps for each composition; labels are made up."""
    frames, calculations = [], []
    for place, (which, steps) in enumerate(paths):
        numbers = COMPOSITIONS[which]
        made = composition_columns(numbers)
        row = {
            "calculation_id": f"k{number}-{place}", "functional": "PBE", "theory_id": "t", "numbers": numbers,
            "pbc": [True] * 3, "energy": -5.0 * len(numbers) - number, "protocol_step": "relax1",
            "positions": [[2.2 * i, 0.0, 0.0] for i in range(len(numbers))], "stress": [0.0] * 6,
            "cell": [2.2 * len(numbers) + 0.001 * place, 0, 0, 0, 3, 0, 0, 0, 3 + 0.01 * number], "round": number,
            "forces": [[0.0, 0.0, 0.1]] * len(numbers),
        } | {key: made[key] for key in ("nelements", "chemsys", "chemical_formula_reduced")}  # fmt: skip
        for step in range(steps):
            own = {"frame_id": f"{row['calculation_id']}-{step}", "step": step}
            cell = [row["cell"][0] + 0.1 * step, *row["cell"][1:]]
            frames.append(defaults("frames") | row | own | {"cell": cell, "electronic_converged": True})
        calculations.append(defaults("calculations") | row)
    files = folder / f"frames-{number}.parquet", folder / f"calculations-{number}.parquet"
    for path, name, rows in zip(files, ("frames", "calculations"), (frames, calculations), strict=True):
        allowed = set(tables.empty(name).column_names)
        tables.write(path, name, [{k: v for k, v in row.items() if k in allowed} for row in rows])
    return files


def formulas(file: frame_files.FrameFile) -> set[str]:
    with file:
        return {composition_columns(frame.numbers.tolist())["chemical_formula_reduced"] for frame in file}


rounds = st.lists(
    st.lists(st.tuples(st.integers(0, len(COMPOSITIONS) - 1), st.integers(1, 4)), min_size=1, max_size=6),
    min_size=1,
    max_size=3,
)


@settings(max_examples=8, deadline=None)
@given(rounds=rounds, seed=st.integers(0, 5), thin=st.sampled_from([None, 0.01]))
def test_nothing_of_a_test_structure_is_trained_on_in_any_round(rounds, seed, thin):
    curation = Curation(
        split=Split(seed=seed, test=0.3, validation=0.2), thin_energy_per_atom=thin, isolated_cutoff=None
    )
    trained: set[str] = set()
    tested: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [write(folder, number, paths) for number, paths in enumerate(rounds)]
        for last in range(len(rounds)):
            frames, calculations = zip(*files[: last + 1], strict=True)
            sides = frame_files.build(frames, calculations, "PBE", curation, folder)
            trained |= formulas(sides.train) | formulas(sides.validation)
            tested |= formulas(sides.test)
            assert not trained & tested
            assert sum(map(len, (sides.train, sides.validation, sides.test))) == kept(
                frames, calculations, curation, folder
            )
    assert trained | tested


def kept(frames, calculations, curation, folder) -> int:
    """How many frames a release would publish of the same rounds."""
    own = tables.concat(calculations, "calculations")
    pieces = streams.sorted_pieces(frames, "frames", "calculation_id", own["calculation_id"], folder)
    return sum(table.num_rows for table, _ in curate.frames(pieces, own, curation))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_frame_is_read_as_it_was_written(data):
    import numpy as np

    numbers = st.floats(allow_nan=True, allow_infinity=False, width=64)
    written = []
    for n in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)):
        values = np.array(data.draw(st.lists(numbers, min_size=16 + 6 * n, max_size=16 + 6 * n)))
        written.append(
            frame_files.Frame(
                np.arange(1, n + 1), values[:9].reshape(3, 3), values[16 : 16 + 3 * n].reshape(n, 3), float(values[15]),
                values[16 + 3 * n :].reshape(n, 3), values[9:15],
            )
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as name, frame_files.write(Path(name) / "frames", written) as file:
        assert len(file) == len(written)
        for one, other in zip(file, written, strict=True):
            assert one.encoded().tobytes() == other.encoded().tobytes()


def test_a_file_that_is_not_open_says_so(tmp_path):
    file = frame_files.write(tmp_path / "frames", [])
    with pytest.raises(ValueError, match="is not open"):
        file[0]
