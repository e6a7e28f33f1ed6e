"""Ranks, shards, decorated structures, estimated volumes and shortest distances, on worked examples."""

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule, mx2

from hullforge.crystals import decorations, geometry, prototypes, volume
from hullforge.errors import PrototypeError


@pytest.fixture(scope="module")
def rocksalt():
    return prototypes.compile_structure(bulk("NaCl", "rocksalt", a=5.64), "Halite", "test")


@pytest.fixture(scope="module")
def perovskite():
    scaled = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = Atoms("SrTiO3", cell=np.eye(3) * 3.9, scaled_positions=scaled, pbc=True)
    return prototypes.compile_structure(atoms, "Perovskite", "test")


def test_swapped_rock_salts_have_one_rank(rocksalt):
    assert decorations.rank(rocksalt, np.array([[3, 7], [7, 3]])).tolist() == [24, 24]
    assert decorations.unrank(rocksalt, np.array([24]), 83).tolist() == [[3, 7]]
    assert decorations.canonical(rocksalt, ("Cl", "Na")) == ("Na", "Cl")


def test_ranks_do_not_depend_on_the_pool(perovskite):
    ranks = np.arange(decorations.count(perovskite, 6))
    assert np.array_equal(decorations.unrank(perovskite, ranks, 6), decorations.unrank(perovskite, ranks, 83))


def test_an_unchanged_order_is_kept_where_nothing_is_equivalent(perovskite):
    assert decorations.canonical(perovskite, ("Ti", "Sr", "O")) == ("Ti", "Sr", "O")
    assert decorations.count(perovskite, 83) == 83 * 82 * 81


def test_ranks_outside_are_refused(rocksalt):
    with pytest.raises(PrototypeError, match="not all among the 3 decorations"):
        decorations.unrank(rocksalt, np.array([3]), 3)
    with pytest.raises(PrototypeError, match="not all among"):
        decorations.unrank(rocksalt, np.array([-1]), 3)
    assert decorations.unrank(rocksalt, np.array([], dtype=int), 3).shape == (0, 2)


def test_a_pool_smaller_than_the_species_has_no_decorations(perovskite):
    assert decorations.count(perovskite, 2) == 0
    assert decorations.shard_ranges([perovskite], 2, 0, 3) == []


@pytest.mark.parametrize("elements", [("Na",), ("Na", "Na"), ("Na", "Cl", "O"), ("Na", "Xx")])
def test_impossible_decorations_are_refused(rocksalt, elements):
    with pytest.raises(PrototypeError):
        decorations.canonical(rocksalt, elements)


def test_rank_refuses_an_element_twice(rocksalt):
    with pytest.raises(PrototypeError, match="twice"):
        decorations.rank(rocksalt, np.array([[1, 1]]))
    with pytest.raises(PrototypeError, match="has 2 species"):
        decorations.rank(rocksalt, np.array([[1, 2, 3]]))


def test_unranking_is_fast(perovskite):
    ranks = np.arange(500_000)
    start = time.process_time()
    decorations.unrank(perovskite, ranks, 83)
    assert time.process_time() - start < 2


def test_decorated_cells_have_the_volume_and_composition_asked_for(perovskite):
    atoms = decorations.decorate(perovskite, ("Ca", "Zr", "S"), 14.0)
    assert atoms.get_volume() / len(atoms) == pytest.approx(14.0)
    assert sorted(atoms.get_chemical_symbols()) == ["Ca", "S", "S", "S", "Zr"]
    assert atoms.get_scaled_positions() == pytest.approx(
        Atoms(
            cell=perovskite.cell, numbers=atoms.numbers, positions=perovskite.positions
        ).get_scaled_positions()
    )
    estimated = decorations.decorate(perovskite, ("Ca", "Zr", "S"))
    assert estimated.get_volume() / 5 == pytest.approx(volume.estimated_volume_per_atom(estimated.numbers))


def test_layers_touch_and_keep_their_vacuum():
    layer = mx2("MoS2", vacuum=3)
    layer.pbc = (True, True, False)
    prototype = prototypes.compile_structure(layer, "layer", "test")
    atoms = decorations.decorate(prototype, ("W", "Te"))
    data = (atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc)
    assert geometry.shortest_distance_ratio(*data) == pytest.approx(1)
    (across,) = np.flatnonzero(~atoms.pbc)
    heights = atoms.positions[:, across]
    assert atoms.cell.lengths()[across] - np.ptp(heights) == pytest.approx(decorations.VACUUM)


@pytest.mark.parametrize(("atoms", "tolerance"), [
    (bulk("Al"), 0.02), (bulk("Fe"), 0.02), (bulk("NaCl", "rocksalt", a=5.64), 0.15), (bulk("MgO", "rocksalt", a=4.21), 0.4),
    (bulk("GaAs", "zincblende", a=5.65), 0.2), (bulk("CaF2", "fluorite", a=5.46), 0.35), (bulk("NiAl", "cesiumchloride", a=2.89), 0.2),
])  # fmt: skip
def test_estimated_volumes_are_near_known_ones(atoms, tolerance):
    estimate = volume.estimated_volume_per_atom(atoms.numbers)
    assert estimate == pytest.approx(atoms.get_volume() / len(atoms), rel=tolerance)


def test_every_element_has_an_estimated_volume():
    for number in range(1, 119):
        assert 4 < volume.estimated_volume_per_atom([number]) < 150
    for bad in ([], [0, 8]):
        with pytest.raises(ValueError, match="atomic numbers"):
            volume.estimated_volume_per_atom(bad)


def ratio(atoms):
    return geometry.shortest_distance_ratio(atoms.numbers, atoms.cell.array, atoms.positions, atoms.pbc)


def test_shortest_distance_of_known_crystals():
    assert ratio(bulk("NaCl", "rocksalt", a=5.64)) == pytest.approx(2.82 / (1.66 + 1.02))
    # One atom meets its own images, also across a long cell and a skewed one.
    assert ratio(Atoms("H", cell=[2.0, 9.0, 9.0], pbc=True)) == pytest.approx(2 / 0.62)
    assert ratio(Atoms("H", cell=[[2.0, 0, 0], [20.5, 1.0, 0], [0, 0, 9]], pbc=True)) == pytest.approx(
        np.hypot(0.5, 1) / 0.62
    )


def test_shortest_distance_respects_periodicity():
    assert ratio(Atoms("H")) == np.inf
    assert ratio(molecule("H2")) == pytest.approx(molecule("H2").get_distance(0, 1) / 0.62)
    pair = Atoms("H2", cell=[10.0, 10.0, 3.0], positions=[[0, 0, 0.1], [0, 0, 2.9]])
    assert ratio(pair) == pytest.approx(2.8 / 0.62)
    pair.pbc = (False, False, True)
    assert ratio(pair) == pytest.approx(0.2 / 0.62)


def test_broken_geometries_are_told():
    assert np.isnan(geometry.shortest_distance_ratio([1], np.eye(3), [[np.nan, 0, 0]], [1, 1, 1]))
    assert (
        geometry.shortest_distance_ratio([1], [[1, 0, 0], [2, 0, 0], [0, 0, 1]], [[0, 0, 0]], [1, 1, 1]) == 0
    )
