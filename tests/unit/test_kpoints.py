"""The k-point grid rule, against cells worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullforge.dft.kpoints import grid, grid_by_length

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


# Sheets and chains: n = ceil(6 x 2 pi |b|) = ceil(37.699 |b|) at the paper's density.


def hexagonal_sheet(a=2.504, height=20.0):
    """Boron nitride: |b| = 2 / (sqrt(3) a) = 0.46114 1/angstrom, times 37.699 is 17.385."""
    return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, height]])


def test_a_hexagonal_sheet_gets_the_same_number_along_both_axes_and_one_across():
    assert grid_by_length(hexagonal_sheet(), (True, True, False), 6.0) == (18, 18, 1)


def test_a_rectangular_sheet_gets_the_paper_s_density_per_area():
    # a 4, b 8: 37.699 / 4 = 9.42 and 37.699 / 8 = 4.71, rounded up; (6 x 2 pi)^2 / 32 = 44.4 are asked for, 50 given.
    assert grid_by_length(np.diag([4.0, 8.0, 20.0]), (True, True, False), 6.0) == (10, 5, 1)


def test_a_chain_gets_points_along_its_axis_alone():
    # 37.699 / 3.1 = 12.16.
    assert grid_by_length(np.diag([18.0, 18.0, 3.1]), (False, False, True), 6.0) == (1, 1, 13)
    assert grid_by_length(np.diag([3.1, 18.0, 18.0]), (True, False, False), 6.0) == (13, 1, 1)


def test_the_vacuum_changes_nothing_in_a_grid_by_length():
    thin, thick = hexagonal_sheet(height=16.0), hexagonal_sheet(height=40.0)
    assert grid_by_length(thin, (True, True, False), 6.0) == grid_by_length(thick, (True, True, False), 6.0)


def test_lengths_that_divide_the_density_are_not_rounded_up_by_noise():
    # 2 pi x 6 x |b| = 12 exactly along both axes, up to the last bits.
    a = 2 * np.pi * 6 / 12
    assert grid_by_length(np.diag([a * (1 + 1e-14), a * (1 - 1e-14), 20]), (True, True, False), 6.0) == (
        12,
        12,
        1,
    )


@pytest.mark.parametrize(("a", "c", "natoms", "expected"), [
    # Mg: |b| = 0.36045 twice, 0.19194; product 0.024939; m = (500 / 0.024939)^(1/3) = 27.167: 9.79, 9.79, 5.21.
    (3.2034, 5.21, 2, (10, 10, 5)),
    # Graphite: 0.46869 twice, 0.14906; product 0.032745; m = (250 / 0.032745)^(1/3) = 19.691: 9.23, 9.23, 2.94.
    (2.4637, 6.709, 4, (9, 9, 3)),
])  # fmt: skip
def test_hexagonal_cells_worked_by_hand(a, c, natoms, expected):
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]]
    assert grid(cell, PERIODIC, natoms, 1000) == expected
    # Even numbers are as good as odd ones: a Gamma-centred grid has the six-fold axis of the lattice with both.
    assert expected[0] == expected[1]


def test_a_density_of_zero_is_refused():
    with pytest.raises(ValueError, match="density above zero, found 0"):
        grid_by_length(CUBE, PERIODIC, 0)
