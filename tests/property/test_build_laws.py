"""Laws of hulls built from tables, for any entries: pymatgen's distances, proofs, order, cells, and what is refused."""

import io
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from benchmarks import hull_certificates
from hullforge.errors import TableError
from hullforge.thermo.build import Built, build, query

ELEMENTS = ("Al", "Cu", "Li", "Mg", "O", "Si")
LEVELS = (-3.7, -4.1, -1.9, -1.6, -4.9, -5.4)


def linear(x):
    """On the planes through the elements and their equal mixture."""
    return -0.6 * np.min(np.where(x > 0, x, 1.0), axis=1)


SHAPES = {
    "as drawn": lambda _x, e: e,
    "zero": lambda x, _e: np.zeros(len(x)),
    "linear": lambda x, _e: linear(x),
    "nearly linear": lambda x, e: linear(x) + 1e-10 * e,
    "all stable": lambda x, _e: 0.5 * (x**2).sum(axis=1) - 0.5,
    "tiny": lambda _x, e: 1e-7 * e,
}


@st.composite
def tables(draw, most_elements=6, references=True):
    """Entries of 1 to 6 elements in any cells: round numbers, so that ties and degenerate facets are common."""
    size = draw(st.integers(1, most_elements))
    energy = st.one_of(
        st.integers(-8, 8).map(lambda i: i / 20), st.floats(-1, 1), st.just(0.0), st.floats(-1e-9, 1e-9)
    )
    counts = st.lists(st.sampled_from((0, 0, 1, 1, 2, 3, 4, 19)), min_size=size, max_size=size).filter(any)
    rows = draw(st.lists(st.tuples(counts, energy, st.sampled_from((1, 1, 2, 4))), max_size=22))
    elemental = [[int(i == j) for j in range(size)] for i in range(size)] if references else []
    n = np.array([*elemental, *(c for c, _, _ in rows)], dtype=np.int64).reshape(-1, size)
    cells = np.array([1] * len(elemental) + [z for _, _, z in rows], dtype=np.int64)
    x = n / n.sum(axis=1, keepdims=True)
    formation = np.array([0.0] * len(elemental) + [e for _, e, _ in rows])
    formation = SHAPES[draw(st.sampled_from(sorted(SHAPES)))](x, formation)
    pure = (n > 0).sum(axis=1) == 1
    formation = np.where(pure, np.abs(formation), formation)
    if draw(st.booleans()):
        formation = formation + x @ np.array(LEVELS[:size])
    formulas = [
        "".join(f"{ELEMENTS[i]}{row[i] * z}" for i in np.flatnonzero(row))
        for row, z in zip(n, cells, strict=True)
    ]
    ids = draw(st.permutations([f"k{i:03d}" for i in range(len(n))]))
    return pa.table({
        "id": pa.array(ids, pa.string()),
        "formula": pa.array(formulas, pa.string()),
        "energy_per_atom": pa.array(formation, pa.float64()),
    })  # fmt: skip


def written(built: Built) -> bytes:
    """All that is published of a hull, as bytes of Parquet files."""
    out = io.BytesIO()
    for table in (built.entries, built.references, built.refused):
        pq.write_table(table, out, compression="zstd")
    return out.getvalue() + repr(sorted(built.missing.items())).encode()


@given(tables())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_distances_are_those_of_pymatgens_phase_diagram(entries):
    compositions = [Composition(formula) for formula in entries["formula"].to_pylist()]
    energies = entries["energy_per_atom"].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagram = PhaseDiagram(
            [PDEntry(c, e * c.num_atoms) for c, e in zip(compositions, energies, strict=True)]
        )
        # Not get_e_above_hull: it takes entries within 1e-8 eV of a stable one for that one.
        heights = [diagram.get_hull_energy_per_atom(c) for c in compositions]
        formation = [diagram.get_form_energy_per_atom(e) for e in diagram.all_entries]
    built = build(entries)
    expected = (energies - heights)[built.rows]
    np.testing.assert_allclose(built.entries["e_above_hull"], expected, rtol=0, atol=1e-9)
    assert sorted(built.entries["formation_energy_per_atom"].to_pylist()) == pytest.approx(
        sorted(formation), abs=1e-9
    )


@given(tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_published_proves_itself(entries):
    built = build(entries)
    assert hull_certificates.check(entries, built.entries).worst < 1e-11
    above = built.entries["e_above_hull"].to_numpy()
    assert (above >= 0).all()
    assert (built.entries["is_on_hull"].to_numpy(zero_copy_only=False) == (above <= 1e-8)).all()


@given(tables(references=False), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_rows_changes_no_byte(entries, random):
    order = list(range(len(entries)))
    random.shuffle(order)
    shuffled = entries.take(pa.array(order, pa.int64()))
    assert written(build(shuffled)) == written(build(entries))
    # How the table lies in memory is no business of the result either.
    parts = pa.concat_tables([shuffled.slice(0, 3), shuffled.slice(3)])
    encoded = parts.set_column(1, "formula", parts["formula"].dictionary_encode())
    assert written(build(encoded)) == written(build(entries))


@given(tables(references=False), st.lists(st.integers(1, 5), min_size=30, max_size=30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_size_of_the_cell_and_the_order_of_elements_change_nothing(entries, cells):
    formulas = [
        "".join(f"{s}{int(n) * z}" for s, n in reversed(Composition(f).get_el_amt_dict().items()))
        for f, z in zip(entries["formula"].to_pylist(), cells, strict=False)
    ]
    other = entries.set_column(1, "formula", pa.array(formulas, pa.string()))
    assert written(build(other)) == written(build(entries))


@given(tables())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_queries_agree_with_what_was_placed_and_go_below(entries):
    built = build(entries)
    formulas, energies = entries["formula"], entries["energy_per_atom"].to_numpy()
    expected = built.entries["e_above_hull"].to_numpy()
    np.testing.assert_allclose(query(built, formulas, energies)[built.rows], expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        query(built, formulas, energies - 2)[built.rows], expected - 2, rtol=0, atol=1e-11
    )


BAD = (
    ("x", "Li2O", float("nan")), ("x", "Li2O", float("-inf")), ("x", "Lithium", -1.0), ("x", "Li0.5O", -1.0),
    ("x", "", -1.0), (None, "Li2O", -1.0),
)  # fmt: skip


@given(tables(), st.lists(st.sampled_from(BAD), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bad_rows_are_refused_and_leave_no_trace(entries, rows):
    """A table with bad rows stops; when they are refused, the rest gives the bytes that it gives alone."""
    more = pa.table({
        "id": pa.array([i and f"{i}{n}" for n, (i, _, _) in enumerate(rows)], pa.string()),
        "formula": pa.array([f for _, f, _ in rows], pa.string()),
        "energy_per_atom": pa.array([e for _, _, e in rows], pa.float64()),
    })  # fmt: skip
    spoiled = pa.concat_tables([more, entries])
    with pytest.raises(TableError):
        build(spoiled)
    built = build(spoiled, on_bad="refuse")
    assert len(built.refused) == len(rows)
    assert built.entries.equals(build(entries).entries)
    assert built.references.equals(build(entries).references)
