"""The k-point grid rule, against cells worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullforge.dft.kpoints import grid

PERIODIC = (True, True, True)
CUBE = 4.0 * np.eye(3)


def hematite():
    """Reduced primitive cell of Fe2O3 (a 5.038, c 13.772 in hexagonal axes): two hexagonal vectors, one body vector."""
    a, c = 5.038, 13.772
    first, second = np.array([a, 0, 0]), np.array([a / 2, a * np.sqrt(3) / 2, 0])
    return np.array([first, second, (first + second) / 3 + [0, 0, c / 3]])


@pytest.mark.parametrize(("density", "expected"), [(1000, (5, 5, 4)), (2000, (6, 6, 5)), (8000, (10, 10, 9))])
def test_hematite_gets_the_grids_of_the_published_driver(density, expected):
    assert grid(hematite(), PERIODIC, 10, density) == expected


def test_a_cube_of_one_atom_gets_the_cube_root_of_the_density():
    assert grid(CUBE, PERIODIC, 1, 1000) == (10, 10, 10)


def test_a_cube_of_eight_atoms_gets_half_as_many_along_each_axis():
    assert grid(CUBE, PERIODIC, 8, 1000) == (5, 5, 5)


def test_a_long_axis_gets_fewer_points():
    # |b| = 1/3, 1/3, 1/12; m = (1000 / 4 / (1/108))^(1/3) = 30; n = 10, 10, 2.5, and halves go up.
    assert grid(np.diag([3.0, 3.0, 12.0]), PERIODIC, 4, 1000) == (10, 10, 3)


def test_axes_equal_by_symmetry_get_equal_numbers_where_noise_sits_on_a_half():
    # m |b| = 4.5 up to the last bits, which differ between the axes.
    cell = np.diag([4.0, 4.0 * (1 + 1e-14), 4.0 * (1 - 1e-14)])
    assert grid(cell, PERIODIC, 1, 4.5**3) == (5, 5, 5)


def test_every_axis_gets_at_least_one_point():
    assert grid(np.diag([2.0, 2.0, 80.0]), PERIODIC, 8, 100) == (8, 8, 1)


def test_axes_without_periodicity_get_one_point():
    numbers = grid(np.diag([2.5, 2.5, 15.0]), (True, True, False), 2, 1000)
    assert numbers[2] == 1
    assert numbers[0] == numbers[1] > 10


def test_flat_lists_are_cells_too():
    assert grid(list(CUBE.ravel()), PERIODIC, 1, 1000) == (10, 10, 10)


@given(st.floats(0.5, 2.0), st.integers(1, 8), st.floats(50, 8000))
def test_scaling_the_crystal_changes_nothing(factor, natoms, density):
    cell = np.array([[4.0, 0.3, 0], [0, 5.1, 0.7], [0.2, 0, 6.3]])
    assert grid(cell * factor, PERIODIC, natoms, density) == grid(cell, PERIODIC, natoms, density)


@pytest.mark.parametrize(
    ("cell", "natoms", "density"), [(np.zeros((3, 3)), 1, 1000), (CUBE, 0, 1000), (CUBE, 1, 0)]
)
def test_nonsense_is_refused(cell, natoms, density):
    with pytest.raises(ValueError, match="grid"):
        grid(cell, PERIODIC, natoms, density)
