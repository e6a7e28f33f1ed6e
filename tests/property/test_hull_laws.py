"""Laws of the convex hull, for any entries: pymatgen's distances, proofs, order, and lower bounds."""

import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from hullforge.thermo.hull import ConvexHull

ELEMENTS = ("Li", "Mg", "Al", "Si", "Cu")


@st.composite
def entries(draw, most_elements=5):
    """Fractions (N, E) and formation energies (N,): round numbers, so that ties and degenerate facets are common."""
    e = draw(st.integers(1, most_elements))
    energy = st.one_of(
        st.integers(-8, 8).map(lambda i: i / 20), st.floats(-1, 1), st.just(0.0), st.floats(-1e-9, 1e-9)
    )
    composition = st.lists(st.integers(0, 4), min_size=e, max_size=e).filter(any)
    rows = draw(st.lists(st.tuples(composition, energy), max_size=25))
    counts = np.array([*np.eye(e, dtype=int).tolist(), *(c for c, _ in rows)], dtype=float).reshape(-1, e)
    energies = np.array([0.0] * e + [v for _, v in rows])
    pure = (counts > 0).sum(axis=1) == 1
    energies[pure] = abs(energies[pure])
    return counts / counts.sum(axis=1, keepdims=True), energies


def make(x, e, ids=None):
    return ConvexHull.from_formation_energies(
        ELEMENTS[: x.shape[1]], x, e, ids or [f"k{i:03d}" for i in range(len(e))]
    )


@given(entries())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_distances_are_those_of_pymatgens_phase_diagram(drawn):
    x, e = drawn
    elements = ELEMENTS[: x.shape[1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phases = [
            PDEntry(Composition({s: f for s, f in zip(elements, row, strict=True) if f}), energy)
            for row, energy in zip(x, e, strict=True)
        ]
        diagram = PhaseDiagram(phases)
        # Not get_e_above_hull: it takes entries within 1e-8 eV of a stable one for that one.
        expected = [p.energy_per_atom - diagram.get_hull_energy_per_atom(p.composition) for p in phases]
    np.testing.assert_allclose(make(x, e).place().e_above_hull, expected, rtol=0, atol=1e-9)


@given(entries())
@settings(max_examples=80, deadline=None)
def test_every_distance_carries_its_proof(drawn):
    x, e = drawn
    placement = make(x, e).place()
    for row, energy, above, mu in zip(
        x, e, placement.e_above_hull, placement.chemical_potentials, strict=True
    ):
        present = row > 0
        assert above >= 0
        assert abs(row[present] @ mu[present] - (energy - above)) < 1e-11
        inside = ~(x[:, ~present] > 0).any(axis=1)
        assert (e[inside] - x[inside][:, present] @ mu[present]).min() > -1e-11


@given(entries(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_changes_no_bit(drawn, random):
    x, e = drawn
    order = list(range(len(e)))
    random.shuffle(order)
    ids = [f"k{i:03d}" for i in range(len(e))]
    straight, shuffled = make(x, e).place(), make(x[order], e[order], [ids[i] for i in order]).place()
    np.testing.assert_array_equal(shuffled.e_above_hull, straight.e_above_hull[order])
    assert shuffled.decomposition == [straight.decomposition[i] for i in order]


@given(entries(), entries())
@settings(max_examples=60, deadline=None)
def test_more_entries_never_raise_the_hull(drawn, more):
    (x, e), (y, f) = drawn, more
    if x.shape[1] != y.shape[1]:
        return
    before = make(x, e)
    after = make(np.vstack([x, y]), np.append(e, f))
    assert (after.place().e_above_hull[: len(e)] >= before.place().e_above_hull - 1e-11).all()
    np.testing.assert_allclose(before.query(x, e), before.place().e_above_hull, rtol=0, atol=1e-12)
