"""Band gap and density of states from eigenvalues, on spectra worked by hand."""

import numpy as np
import pytest

from hullforge.dft.engines.bands import band_gap, dos_at_fermi


def test_the_gap_is_indirect():
    # Filled band tops out at 1.0 (first k-point), empty one bottoms at 1.6 (second).
    assert band_gap([[[1.0, 2.5], [0.2, 1.6]]], 1.3) == pytest.approx(0.6)


def test_a_band_on_both_sides_of_the_fermi_level_makes_a_metal():
    assert band_gap([[[0.0, 1.0, 3.0], [0.0, 2.0, 3.0]]], 1.5) == 0


def test_overlapping_bands_make_a_semimetal():
    # The Fermi level can't lie between bands that overlap: it cuts one of them.
    assert band_gap([[[0.0, 2.0], [1.5, 1.2]]], 1.4) == 0


def test_the_gap_of_two_spins_is_between_any_two_of_them():
    assert band_gap([[[0.0, 3.0]], [[1.0, 4.0]]], 2.0) == pytest.approx(2.0)


def test_a_gap_without_empty_bands_is_refused():
    with pytest.raises(ValueError, match="both sides"):
        band_gap([[[0.0, 1.0]]], 5.0)


@pytest.mark.parametrize("spins", [1, 2])
def test_a_uniform_spectrum_has_its_density(spins):
    # 1000 levels per eV and spin, so 2000 states/eV.
    levels = np.tile(np.arange(-5, 5, 1e-3), (spins, 1, 1))
    assert dos_at_fermi(levels, [1.0], 0.0, 0.1) == pytest.approx(2000, rel=1e-6)


def test_an_insulator_has_almost_none():
    assert dos_at_fermi([[[-3.0, 3.0]]], [1.0], 0.0, 0.1) < 1e-9


def test_weights_count():
    one_of_two = dos_at_fermi([[[0.0], [9.0]]], [0.25, 0.75], 0.0, 0.1)
    assert one_of_two == pytest.approx(0.25 * 2 / (4 * 0.1))


def test_far_states_do_not_overflow():
    assert dos_at_fermi([[[-1e5, 1e5]]], [1.0], 0.0, 0.01) == pytest.approx(0)
