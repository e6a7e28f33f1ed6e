"""The hull: worked examples, edge cases, and pymatgen's PhaseDiagram as the judge."""

import warnings

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from hullforge.errors import TableError
from hullforge.thermo import hull as hull_module
from hullforge.thermo.hull import ConvexHull
from hullforge.thermo.simplex import lowest_mixtures

ELEMENTS = ("Li", "Mg", "Al", "Si", "Cu", "Zn", "Ga", "Ge", "Ag")


def random_entries(rng, n, n_elements, kmax, largest=6, quantum=None, scale=1.0):
    """Fractions (N, E) and formation energies (N,) with all elements at 0, among them duplicates."""
    counts = np.zeros((n, n_elements), dtype=int)
    for row in counts:
        k = rng.integers(1, kmax + 1)
        row[rng.choice(n_elements, k, replace=False)] = rng.integers(1, largest + 1, k)
    energies = rng.normal(0.0, 0.3, n) * scale
    if quantum is not None:
        energies = np.round(energies / quantum) * quantum
    energies[(counts > 0).sum(axis=1) == 1] = abs(energies[(counts > 0).sum(axis=1) == 1])
    counts = np.vstack([np.eye(n_elements, dtype=int), counts])
    return counts / counts.sum(axis=1, keepdims=True), np.concatenate([np.zeros(n_elements), energies])


def names(n):
    return [f"k{i:06d}" for i in range(n)]


def make(x, e, ids=None):
    return ConvexHull.from_formation_energies(ELEMENTS[: x.shape[1]], x, e, ids or names(len(e)))


def by_pymatgen(x, e):
    """Distances by one PhaseDiagram per chemical system, of all entries in it and in its subsystems."""
    elements = ELEMENTS[: x.shape[1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entries = [
            PDEntry(Composition({s: f for s, f in zip(elements, row, strict=True) if f}), energy)
            for row, energy in zip(x, e, strict=True)
        ]
        systems = [frozenset(np.flatnonzero(row)) for row in x]
        out = np.zeros(len(e))
        for system in set(systems):
            inside = [i for i, other in enumerate(systems) if other <= system]
            diagram = PhaseDiagram([entries[i] for i in inside])
            for i in inside:
                if systems[i] == system:
                    # Not get_e_above_hull: it takes entries within 1e-8 eV of a stable one for that one.
                    out[i] = e[i] - diagram.get_hull_energy_per_atom(entries[i].composition)
    return out


def assert_certified(x, e, hull):
    """Each row's chemical potentials give the hull there and lie nowhere above an entry."""
    placement = hull.place()
    scale = max(1.0, abs(e).max())
    for row, energy, above, mu, phases in zip(
        x, e, placement.e_above_hull, placement.chemical_potentials, placement.decomposition, strict=True
    ):
        present = row > 0
        assert np.isnan(mu[~present]).all()
        assert row[present] @ mu[present] == pytest.approx(energy - above, abs=1e-11 * scale)
        inside = ~(x[:, ~present] > 0).any(axis=1)
        assert (e[inside] - x[inside][:, present] @ mu[present]).min() >= -1e-11 * scale
        ids = names(len(e))
        which = [ids.index(name) for name, _ in phases]
        shares = np.array([share for _, share in phases])
        assert shares.sum() == pytest.approx(1, abs=1e-7)
        np.testing.assert_allclose(shares @ x[which], row, atol=1e-7)
        assert shares @ e[which] == pytest.approx(energy - above, abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("n", "n_elements", "kmax", "quantum", "scale"),
    [
        (200, 5, 2, None, 1.0),
        (300, 5, 3, None, 1.0),
        (200, 6, 4, None, 1.0),
        (60, 5, 5, None, 1.0),
        (300, 4, 3, 0.05, 1.0),
        (300, 4, 3, 0.001, 1.0),
        (200, 4, 3, None, 1e-6),
        (30, 1, 1, None, 1.0),
    ],
)
def test_distances_are_those_of_pymatgen(n, n_elements, kmax, quantum, scale):
    x, e = random_entries(
        np.random.default_rng(n + n_elements), n, n_elements, kmax, quantum=quantum, scale=scale
    )
    hull = make(x, e)
    np.testing.assert_allclose(hull.place().e_above_hull, by_pymatgen(x, e), rtol=0, atol=1e-9)
    assert_certified(x, e, hull)


@pytest.mark.parametrize("kind", ["zero", "linear", "convex", "noise"])
def test_degenerate_sets_are_those_of_pymatgen(kind):
    rng = np.random.default_rng(7)
    x, _ = random_entries(rng, 150, 4, 4, largest=4)
    e = {
        "zero": np.zeros(len(x)),
        "linear": -np.minimum(x[:, 0], x[:, 1]),  # on the planes through the elements and their 1:1 phase
        "convex": -0.5 + 0.5 * (x**2).sum(axis=1),
        "noise": rng.random(len(x)) * 1e-9,
    }[kind].copy()
    pure = x.max(axis=1) == 1
    e[pure] = 0.0
    hull = make(x, e)
    np.testing.assert_allclose(hull.place().e_above_hull, by_pymatgen(x, e), rtol=0, atol=1e-9)
    assert_certified(x, e, hull)


def test_the_order_of_rows_changes_no_bit():
    rng = np.random.default_rng(3)
    x, e = random_entries(rng, 400, 5, 4, quantum=0.05)
    ids = names(len(e))
    straight = make(x, e, ids).place()
    order = rng.permutation(len(e))
    shuffled = make(x[order], e[order], [ids[i] for i in order]).place()
    np.testing.assert_array_equal(shuffled.e_above_hull, straight.e_above_hull[order])
    np.testing.assert_array_equal(shuffled.chemical_potentials, straight.chemical_potentials[order])
    assert shuffled.decomposition == [straight.decomposition[i] for i in order]


def test_query_agrees_with_place_and_goes_below():
    rng = np.random.default_rng(4)
    x, e = random_entries(rng, 300, 5, 4)
    hull = make(x, e)
    np.testing.assert_allclose(hull.query(x, e), hull.place().e_above_hull, rtol=0, atol=1e-12)
    np.testing.assert_allclose(hull.query(x, e - 1.0), hull.place().e_above_hull - 1.0, rtol=0, atol=1e-11)
    new, energies = random_entries(rng, 40, 5, 5)
    for row, energy, above in zip(new, energies, hull.query(new, energies), strict=True):
        grown = make(np.vstack([x, row]), np.append(e, max(energy, 0.0) if row.max() == 1 else energy))
        assert grown.place().e_above_hull[-1] == pytest.approx(max(above, 0.0), abs=1e-11)


def test_a_binary_by_hand():
    x = np.array([[1, 0], [0, 1], [0.5, 0.5], [2 / 3, 1 / 3], [0.25, 0.75]])
    hull = make(x, [0, 0, -0.4, -0.1, -0.3])
    placement = hull.place()
    np.testing.assert_allclose(placement.e_above_hull, [0, 0, 0, 0.4 * 2 / 3 - 0.1, 0], atol=1e-12)
    assert placement.is_on_hull.tolist() == [True, True, True, False, True]
    (first, share), (second, other) = placement.decomposition[3]
    assert (first, second) == ("k000002", "k000000")
    assert (share, other) == pytest.approx((2 / 3, 1 / 3))
    np.testing.assert_allclose(placement.chemical_potentials[3], [0, -0.8], atol=1e-12)
    assert hull.vertices == [0, 1, 2, 4]


def test_an_allotrope_above_the_lowest_has_its_difference():
    hull = make(np.array([[1.0], [1.0], [1.0]]), [0.2, 0.0, 0.1])
    assert hull.place().e_above_hull.tolist() == [0.2, 0.0, 0.1]
    assert hull.place().decomposition == [[("k000001", 1.0)]] * 3


def test_of_equal_duplicates_the_smallest_id_is_the_phase():
    x = np.array([[1, 0], [0, 1], [2 / 6, 4 / 6], [1 / 3, 2 / 3]])
    hull = make(x, [0, 0, -0.3, -0.3], ["a", "b", "z", "y"])
    assert hull.place().e_above_hull.tolist() == [0, 0, 0, 0]
    assert hull.place().decomposition[2] == hull.place().decomposition[3] == [("y", 1.0)]


def test_a_compound_at_zero_is_on_the_hull_but_no_vertex():
    hull = make(np.array([[1, 0], [0, 1], [0.5, 0.5]]), [0, 0, 0])
    assert hull.place().is_on_hull.all()
    assert hull.vertices == [0, 1]


def test_without_an_elemental_entry_compounds_are_not_placed():
    x = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [0.5, 0, 0.5]])
    hull = make(x, [0, -1, 0, -1])
    assert hull.has_reference.tolist() == [True, False, True]
    placement = hull.place()
    np.testing.assert_array_equal(placement.e_above_hull, [0, np.nan, 0, 0])
    assert not placement.is_on_hull[1]
    assert placement.decomposition[1] == []
    assert np.isnan(placement.chemical_potentials[1]).all()
    assert np.isnan(hull.query([[0, 1, 0]], [0.0])).all()


def test_no_entries_at_all():
    hull = make(np.zeros((0, 3)), [])
    assert hull.place().e_above_hull.shape == (0,)
    assert hull.place().decomposition == []
    assert hull.query(np.zeros((0, 3)), []).shape == (0,)
    assert np.isnan(hull.query([[1, 0, 0]], [0.0])).all()


def test_large_energies_keep_their_relative_accuracy():
    x, e = random_entries(np.random.default_rng(9), 200, 4, 4, scale=1e3)
    np.testing.assert_allclose(make(x, e).place().e_above_hull, by_pymatgen(x, e), rtol=0, atol=1e-9)


def test_nearly_equal_compositions_do_not_confuse_it():
    x = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5 + 1e-8, 0.5 - 1e-8], [0.5 + 1e-13, 0.5 - 1e-13]])
    hull = make(x, [0, 0, -0.3, -0.3, -0.2])
    np.testing.assert_allclose(hull.place().e_above_hull[2:], [0, 0, 0.1], atol=1e-7)


def test_systems_of_many_elements_are_searched_the_long_way_with_the_same_result(monkeypatch):
    x, e = random_entries(np.random.default_rng(11), 60, 6, 6)
    expected = make(x, e).place()
    monkeypatch.setattr(hull_module, "_JOINED", 2)
    found = make(x, e).place()
    np.testing.assert_allclose(found.e_above_hull, expected.e_above_hull, rtol=0, atol=1e-12)


def test_nine_elements_do_not_fit_a_key_but_work():
    x, e = random_entries(np.random.default_rng(12), 40, 9, 9)
    assert (x > 0).all(axis=1).any() or (x > 0).sum(axis=1).max() >= 8
    x, e = np.vstack([x, np.full(9, 1 / 9), np.arange(1, 10) / 45]), np.append(e, [-0.9, -0.2])
    assert_certified(x, e, make(x, e))


@pytest.mark.parametrize(
    ("x", "e", "ids", "message"),
    [
        ([[1, 0], [0, 1]], [0, np.nan], ["a", "b"], "entry b: the formation energy is not finite"),
        ([[1, 0], [0.5, 0.6]], [0, 0], ["a", "b"], "entry b: atomic fractions"),
        ([[1, 0], [1.5, -0.5]], [0, 0], ["a", "b"], "negative"),
        ([[1, 0], [np.nan, 1]], [0, 0], ["a", "b"], "not finite"),
        ([[1, 0], [0, 1]], [0, 0], ["a", "a"], "ids repeat"),
        ([[1, 0], [0, 1]], [0, -3.5], ["a", "b"], "element Mg: its lowest entry"),
        ([[1, 0], [0, 1]], [0], ["a", "b"], "one of each per entry"),
        ([[1, 0, 0]], [0], ["a"], "shape"),
    ],
)
def test_bad_input_is_named(x, e, ids, message):
    with pytest.raises(TableError, match=message):
        ConvexHull.from_formation_energies(("Li", "Mg"), x, e, ids)


def test_elements_are_named_once():
    with pytest.raises(TableError, match="named once"):
        ConvexHull(("Li", "Li"))


def test_a_query_needs_as_many_energies_as_compositions():
    with pytest.raises(TableError, match="one energy per composition"):
        make(np.eye(2), [0, 0]).query([[1, 0]], [0, 0])


def test_blands_rule_reaches_the_same_optimum(monkeypatch):
    from hullforge.thermo import simplex

    rng = np.random.default_rng(1)
    phases = np.concatenate([np.tile(np.eye(3), (20, 1, 1)), rng.dirichlet([1, 1, 1], (20, 30))], axis=1)
    costs = np.concatenate([np.zeros((20, 3)), -rng.random((20, 30))], axis=1)
    targets = rng.dirichlet([1, 1, 1], 20)
    expected = lowest_mixtures(phases, costs, targets).energy
    monkeypatch.setattr(simplex, "BLAND_AFTER", 0)
    np.testing.assert_allclose(lowest_mixtures(phases, costs, targets).energy, expected, atol=1e-12)
    monkeypatch.setattr(simplex, "GIVE_UP_AFTER", 1)
    with pytest.raises(ArithmeticError, match="did not end"):
        lowest_mixtures(phases, costs, targets)
