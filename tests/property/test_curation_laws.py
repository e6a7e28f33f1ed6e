"""Laws of curation: distances as one by one, thinning keeps what it must, groups keep their side."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.config import Split
from hullforge.crystals import curation
from hullforge.crystals.geometry import closeness, shortest_distance_ratio


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 7))
def test_many_frames_at_once_are_as_close_as_one_by_one(seed, natoms, periodic):
    rng = np.random.default_rng(seed)
    frames = 6
    numbers = rng.integers(1, 90, (frames, natoms))
    # From cubes to needles and planes that lean over, but never thinner than half an angstrom.
    cells = np.triu(rng.uniform(0.5, 4, (frames, 3, 3))) + np.eye(3) * 0.5
    positions = rng.uniform(-5, 5, (frames, natoms, 3))
    pbc = np.array([[periodic & 1, periodic & 2, periodic & 4]] * frames, dtype=bool)
    ratios, lonely = closeness(numbers, cells, positions, pbc)
    one_by_one = [
        shortest_distance_ratio(*frame) for frame in zip(numbers, cells, positions, pbc, strict=True)
    ]
    np.testing.assert_allclose(ratios, one_by_one, rtol=1e-9)
    for row in range(frames):
        np.testing.assert_allclose(
            lonely[row], loneliest(cells[row], positions[row], pbc[row]), rtol=1e-9, atol=1e-9
        )


def loneliest(cell, positions, pbc):
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    atoms = Atoms(numbers=[1] * len(positions), cell=cell, positions=positions, pbc=pbc)
    if not pbc.any() and len(positions) == 1:
        return np.inf
    for cutoff in (4.0, 16.0, 64.0):
        first, distance = neighbor_list("id", atoms, cutoff)
        nearest = [distance[first == atom].min(initial=np.inf) for atom in range(len(atoms))]
        if max(nearest) < np.inf:
            break
    return max(nearest)


energies = st.lists(st.floats(-10, 10), min_size=1, max_size=60)


@given(energies, st.floats(1e-4, 5))
def test_thinning_keeps_first_and_last_and_a_third(path, difference):
    kept = curation.thin(path, difference)
    assert kept[0]
    assert kept[-1]
    assert kept.sum() >= len(path) / 3


@given(energies, st.floats(1e-4, 5))
def test_thinning_keeps_every_step_that_moved_the_energy(path, difference):
    kept = curation.thin(path, difference)
    last = path[0]
    for step, energy in enumerate(path):
        if kept[step]:
            last = energy if abs(energy - last) >= difference else last
        else:
            assert abs(energy - last) < difference


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 5), st.randoms())
def test_a_group_keeps_its_side_whatever_the_cell_and_the_order_of_atoms(numbers, seed, random):
    split = Split(validation=0.3, test=0.3, seed=seed)
    other = numbers * 2
    random.shuffle(other)
    assert curation.group(numbers, split) == curation.group(other, split)
    assert curation.side(curation.group(numbers, split), split) == curation.side(
        curation.group(other, split), split
    )


def test_sides_have_the_shares_that_were_asked_for():
    split = Split(validation=0.1, test=0.2)
    sides = [curation.side(f"A{n}B", split).value for n in range(4000)]
    assert abs(sides.count("test") / 4000 - 0.2) < 0.02
    assert abs(sides.count("validation") / 4000 - 0.1) < 0.02
