"""Real GPAW calculations through the child process: what its numbers must be, and how it fails."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from chains import geometry_of, run_functional, run_step, step_input, volume_of

from hullforge.dft import protocol
from hullforge.dft.step import HEARTBEAT_FILE, read_frames

pytest.importorskip("gpaw", reason="the engine gpaw is not installed")
pytestmark = [pytest.mark.gpaw, pytest.mark.slow]

LAPTOP = protocol.load("laptop")
OXIDES = protocol.load("laptop-oxides")
CONVERGED = json.loads((Path(__file__).parents[1] / "data" / "converged.json").read_text())["systems"]


def lattice_constant(geometry):
    """Of the conventional cube of a face-centred primitive cell, angstrom."""
    return (4 * volume_of(geometry)) ** (1 / 3)


def static(atoms, folder, functional="PBE", of=LAPTOP, **changes):
    """One single point of the PBEsol static step's accuracy."""
    step = of.functional("PBEsol").steps[-1]
    return run_step(step_input(of, functional, step, geometry_of(atoms), **changes), folder)


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    """Last results of the laptop protocol for silicon, by functional, started a little off."""
    folder = tmp_path_factory.mktemp("silicon")
    pbe = run_functional(LAPTOP, "PBE", bulk("Si", "diamond", 5.40), folder / "PBE")[-1]
    numbers, cell = pbe.final.geometry.numbers, np.reshape(pbe.final.geometry.cell, (3, 3))
    relaxed = Atoms(numbers, positions=pbe.final.geometry.positions, cell=cell, pbc=True)
    pbesol = run_functional(LAPTOP, "PBEsol", relaxed, folder / "PBEsol")[-1]
    return {"PBE": pbe, "PBEsol": pbesol, "folder": folder}


def test_silicon_on_the_laptop_has_the_converged_lattice(silicon):
    expected = CONVERGED["Si"]["lattice_constant"]
    assert lattice_constant(silicon["PBE"].final.geometry) == pytest.approx(expected, rel=0.005)


def test_pbesol_on_pbe_data_sets_makes_silicon_smaller(silicon):
    pbe, pbesol = (lattice_constant(silicon[name].final.geometry) for name in ("PBE", "PBEsol"))
    # 5.4758 and 5.4388 angstrom with data sets made for each functional.
    assert pbe - pbesol == pytest.approx(0.037, abs=0.01)


def test_silicon_has_a_gap(silicon):
    assert 0.4 < silicon["PBEsol"].band_gap < 0.8
    assert silicon["PBEsol"].dos_at_fermi < 0.1


def test_a_step_says_what_it_cost_and_how_it_went(silicon):
    result = silicon["PBE"]
    assert result.encut == 250
    assert result.kpoints == [8, 8, 8]
    assert result.cpu_time_s > 1
    assert 50 < result.max_memory_mib < 2000
    folder = silicon["folder"] / "PBE" / "relax1"
    assert (folder / HEARTBEAT_FILE).exists()
    assert all(frame.stress and frame.forces for frame in read_frames(folder))


def test_aluminium_is_a_metal(tmp_path):
    result = static(bulk("Al", "fcc", 4.04), tmp_path)
    assert result.status == "ok", result.message
    assert result.band_gap == 0
    # Free electrons at three per atom: 0.39 states/eV.
    assert 0.2 < result.dos_at_fermi < 0.7
    assert result.total_magnetization == 0
    # Smearing lowers the free energy, and half of that is taken back in the energy at zero smearing.
    assert 0.001 < result.final.energy - result.final.free_energy < 0.1
    assert result.final.electronic_converged


def test_scan_converges_for_aluminium_where_the_default_mixer_fails(tmp_path):
    step = LAPTOP.functional("SCAN").steps[0].model_copy(update={"kpoint_density": 200})
    result = run_step(step_input(LAPTOP, "SCAN", step, geometry_of(bulk("Al", "fcc", 4.04))), tmp_path)
    assert result.status == "ok", result.message
    assert result.final.forces is None
    assert result.band_gap == 0


def test_iron_is_ferromagnetic(tmp_path):
    spin = LAPTOP.model_copy(update={"spin": "ferromagnetic", "initial_magmom": 2.0})
    step = spin.functional("PBEsol").steps[-1].model_copy(update={"kpoint_density": 300})
    inputs = step_input(spin, "PBE", step, geometry_of(bulk("Fe", "bcc", 2.83)))
    result = run_step(inputs, tmp_path)
    assert result.status == "ok", result.message
    assert result.total_magnetization == pytest.approx(2.2, abs=0.3)
    assert result.final.geometry.magmoms is not None


def test_magnesia_has_its_volume(tmp_path):
    """19.2 cubic angstrom; the same cutoff without the Pulay correction gives 17.7."""
    last = run_functional(OXIDES, "PBE", bulk("MgO", "rocksalt", 4.20), tmp_path)[-1]
    assert volume_of(last.final.geometry) == pytest.approx(19.2, rel=0.01)


def test_corrected_stress_is_the_slope_of_the_energy_at_fixed_cutoff(tmp_path):
    """Magnesia, whose uncorrected stress is off by 14 GPa at this cutoff."""
    step = OXIDES.functional("PBEsol").steps[-1].model_copy(update={"kpoint_density": 120})
    volumes, energies, stress = [], [], None
    for scale in (0.985, 1.0, 1.015):
        atoms = bulk("MgO", "rocksalt", 4.257 * scale)
        inputs = step_input(OXIDES, "PBE", step, geometry_of(atoms), forces=scale == 1.0)
        result = run_step(inputs, tmp_path / f"{scale}")
        assert result.status == "ok", result.message
        volumes.append(atoms.get_volume())
        energies.append(result.final.energy)
        stress = result.final.stress or stress
    slope = np.polyfit(np.array(volumes) - volumes[1], energies, 2)[1]
    two_gpa = 2 / 160.2177
    assert np.mean(stress[:3]) == pytest.approx(slope, abs=two_gpa)


def test_an_element_without_data_set_is_a_result(tmp_path):
    result = static(bulk("Tc", "hcp", 2.74, 4.39), tmp_path)
    assert (result.status, result.code) == ("error", "missing_dataset")


def test_electronic_steps_that_do_not_converge_are_a_result(tmp_path):
    result = static(bulk("Si", "diamond", 5.47), tmp_path, numerics={"maxiter": 3})
    assert (result.status, result.code) == ("error", "scf_not_converged")
    assert "KohnShamConvergenceError" in result.message
    assert result.final is None


@pytest.mark.parametrize("rung", range(4))
def test_every_rung_of_the_ladder_gives_the_same_energy(rung, tmp_path, silicon_energy):
    from hullforge.dft.engines.gpaw import GpawEngine

    numerics = GpawEngine().ladder("scf_not_converged")[rung]
    energy = small_silicon(tmp_path, numerics).final.energy
    assert energy == pytest.approx(silicon_energy, abs=1e-3)


@pytest.fixture(scope="module")
def silicon_energy(tmp_path_factory):
    return small_silicon(tmp_path_factory.mktemp("small"), {}).final.energy


def small_silicon(folder, numerics):
    step = LAPTOP.functional("PBEsol").steps[-1].model_copy(update={"kpoint_density": 60})
    inputs = step_input(
        LAPTOP, "PBE", step, geometry_of(bulk("Si", "diamond", 5.47)), numerics=numerics, forces=False
    )
    result = run_step(inputs, folder)
    assert result.status == "ok", result.message
    return result
