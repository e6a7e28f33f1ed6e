"""Ranks, shards, decorated structures, estimated volumes and shortest distances, on worked examples."""

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule, mx2

from hullforge.config import SiteGroups
from hullforge.crystals import decorations, geometry, prototypes, volume
from hullforge.crystals.decorations import Decorations
from hullforge.errors import ConfigError, PrototypeError
from hullforge.store.structures import SYMBOLS

#: The first 83 elements.
POOL = SYMBOLS[1:84]


@pytest.fixture(scope="module")
def rocksalt():
    return prototypes.compile_structure(bulk("NaCl", "rocksalt", a=5.64), "Halite", "test")


@pytest.fixture(scope="module")
def perovskite():
    scaled = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = Atoms("SrTiO3", cell=np.eye(3) * 3.9, scaled_positions=scaled, pbc=True)
    return prototypes.compile_structure(atoms, "Perovskite", "test")


def test_swapped_rock_salts_have_one_rank(rocksalt):
    assert Decorations(rocksalt, POOL).rank(np.array([[3, 7], [7, 3]])).tolist() == [24, 24]
    assert Decorations(rocksalt, POOL).unrank(np.array([24])).tolist() == [[3, 7]]
    assert decorations.canonical(rocksalt, ("Cl", "Na")) == ("Na", "Cl")


def test_ranks_do_not_depend_on_the_pool(perovskite):
    ranks = np.arange(Decorations(perovskite, SYMBOLS[1:7]).count)
    assert np.array_equal(
        Decorations(perovskite, SYMBOLS[1:7]).unrank(ranks), Decorations(perovskite, POOL).unrank(ranks)
    )


def test_an_unchanged_order_is_kept_where_nothing_is_equivalent(perovskite):
    assert decorations.canonical(perovskite, ("Ti", "Sr", "O")) == ("Ti", "Sr", "O")
    assert Decorations(perovskite, POOL).count == 83 * 82 * 81


def test_ranks_outside_are_refused(rocksalt):
    with pytest.raises(PrototypeError, match="not all among the 3 decorations"):
        Decorations(rocksalt, SYMBOLS[1:4]).unrank(np.array([3]))
    with pytest.raises(PrototypeError, match="not all among"):
        Decorations(rocksalt, SYMBOLS[1:4]).unrank(np.array([-1]))
    assert Decorations(rocksalt, SYMBOLS[1:4]).unrank(np.array([], dtype=int)).shape == (0, 2)


def test_a_pool_smaller_than_the_species_has_no_decorations(perovskite):
    assert Decorations(perovskite, SYMBOLS[1:3]).count == 0
    assert decorations.shard_ranges([0], 0, 3) == []


@pytest.mark.parametrize("elements", [("Na",), ("Na", "Na"), ("Na", "Cl", "O"), ("Na", "Xx")])
def test_impossible_decorations_are_refused(rocksalt, elements):
    with pytest.raises(PrototypeError):
        decorations.canonical(rocksalt, elements)


def test_rank_refuses_an_element_twice(rocksalt):
    with pytest.raises(PrototypeError, match="twice"):
        Decorations(rocksalt, POOL).rank(np.array([[1, 1]]))
    with pytest.raises(PrototypeError, match="has 2 species"):
        Decorations(rocksalt, POOL).rank(np.array([[1, 2, 3]]))


def test_species_of_a_perovskite_are_confined(perovskite):
    # 'AB3C...': letters sort by the number of sites, so A and B are the cations and C the anion.
    assert perovskite.protostructure == "ABC3_cP5_221_a_b_c"
    space = Decorations(perovskite, POOL, {"A": ["Ca", "Sr"], "C": ["O"]})
    assert space.count == 2 * 81
    rows = [[POOL[index] for index in row] for row in space.unrank(np.arange(space.count))]
    assert {row[0] for row in rows} == {"Ca", "Sr"}
    assert {row[2] for row in rows} == {"O"}
    assert len(set(map(tuple, rows))) == 2 * 81
    with pytest.raises(PrototypeError, match="forbid Ca, Ti, S"):
        space.rank(np.array([[POOL.index(symbol) for symbol in ("Ca", "Ti", "S")]]))


def test_equivalent_species_are_confined_together(rocksalt):
    # Whether A or B is the anion is the same crystal, which keeps its canonical arrangement.
    one, other = (Decorations(rocksalt, ("O", "Na", "S", "Cl"), {letter: ["O", "S"]}) for letter in "AB")
    assert one.count == other.count == 5
    for space in (one, other):
        assert sorted(map(tuple, space.unrank(np.arange(5)).tolist())) == [
            (0, 1),
            (0, 2),
            (0, 3),
            (1, 2),
            (2, 3),
        ]


@pytest.mark.parametrize(("groups", "message"), [
    ({"D": ["O"]}, "has no species D; its letters are A, B, C"), ({"C": ["O", "W"]}, r"species C: W not in the pool of elements \(O, Na"),
    ({"C": []}, "species C: no element is allowed"),
])  # fmt: skip
def test_site_groups_that_do_not_fit_are_refused(perovskite, groups, message):
    with pytest.raises(PrototypeError, match=message):
        Decorations(perovskite, ("O", "Na", "S", "Cl"), groups)


def test_site_groups_of_the_configuration_are_found_or_refused(rocksalt, perovskite):
    known, pool = [rocksalt, perovskite], ("O", "Na", "S", "Cl")
    for name in ("Perovskite", perovskite.protostructure, perovskite.prototype_id):
        groups = [SiteGroups(prototype=name, elements={"C": ("O",)})]
        assert [space.count for space in decorations.spaces(known, pool, groups)] == [6, 3 * 2]
    mistakes = {
        r"key 'prototypes.site_groups.0.prototype': none of the 2 .* 'Perovskit'; close to it: Perovskite": [("Perovskit", {})],
        r"key 'prototypes.site_groups.1.prototype': .* 'prototypes.site_groups.0' names already": [("Halite", {}), ("AB_cF8_225_a_b", {})],
        r"key 'prototypes.site_groups.0.elements': AB_cF8_225_a_b has no species C": [("Halite", {"C": ("O",)})],
        r"key 'prototypes.site_groups.0.elements': no decoration of ABC3_cP5_221_a_b_c \(Perovskite\) is left": [
            ("Perovskite", {"A": ("O",), "B": ("O",)})
        ],
    }  # fmt: skip
    for message, groups in mistakes.items():
        with pytest.raises(ConfigError, match=message):
            decorations.spaces(known, pool, [SiteGroups(prototype=p, elements=e) for p, e in groups])


def test_unranking_is_fast(perovskite):
    ranks = np.arange(500_000)
    start = time.process_time()
    Decorations(perovskite, POOL).unrank(ranks)
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
