"""Law of extended XYZ: from Parquet through the text to ASE, every number arrives as it left."""

import ase.io
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullforge.release import extxyz
from hullforge.store import tables

FINITE = st.floats(allow_nan=False, allow_infinity=False)
#: What a calculation prints, beside any double at all.
NUMBER = st.one_of(FINITE, st.integers(-9, 9).map(float), st.floats(-999, 999).map(lambda x: round(x, 8)))


def numbers(*shape):
    """Nested lists of this shape."""
    if not shape:
        return NUMBER
    return st.lists(numbers(*shape[1:]), min_size=shape[0], max_size=shape[0])


@st.composite
def frames(draw):
    """Some rows of `frames`, of any number of atoms, each with what it happens to have."""
    rows = []
    for step in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 5))
        maybe = lambda strategy: draw(st.none() | strategy)  # noqa: E731
        rows.append({
            "frame_id": f"k1-0-{step}", "calculation_id": "k1-0", "functional": "PBE", "theory_id": "t1-0", "step": step,
            "protocol_step": "relax1", "numbers": draw(st.lists(st.integers(1, 118), min_size=n, max_size=n)),
            "cell": draw(numbers(9)), "positions": draw(numbers(n, 3)),
            "pbc": draw(st.lists(st.booleans(), min_size=3, max_size=3)), "energy": draw(NUMBER),
            "free_energy": maybe(NUMBER), "electronic_converged": maybe(st.booleans()), "forces": maybe(numbers(n, 3)),
            "stress": maybe(numbers(6)), "magmoms": maybe(numbers(n)),
        })  # fmt: skip
    return rows


def bits(values):
    """The doubles as they lie in memory, so that -0.0 and 0.0 differ; None stays."""
    return None if values is None else np.asarray(values, dtype="<f8").tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=frames())
def test_every_bit_arrives(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")
    tables.write(folder / "frames.parquet", "frames", rows)
    table = tables.read(folder / "frames.parquet", "frames")
    extxyz.write(folder / "frames.extxyz", table, extxyz.FRAME_INFO)
    read = ase.io.read(folder / "frames.extxyz", index=":")
    for atoms, row in zip(read, sorted(rows, key=lambda row: row["step"]), strict=True):
        assert atoms.numbers.tolist() == row["numbers"]
        assert atoms.pbc.tolist() == row["pbc"]
        assert bits(atoms.positions) == bits(row["positions"])
        assert bits(atoms.cell.array) == bits(row["cell"])
        results = atoms.calc.results
        for name in ("energy", "free_energy", "forces", "stress", "magmoms"):
            assert bits(results.get(name)) == bits(row[name]), name
        assert atoms.info["step"] == row["step"]
        assert atoms.info.get("electronic_converged") == row["electronic_converged"]
