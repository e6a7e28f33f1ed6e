"""The contract that every backend of `hullforge.potentials` keeps: units, signs, batches, names of what is missing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from numpy.testing import assert_allclose

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials import base
from hullforge.potentials.base import Description, Evaluation, Potential

HAS = {package: importlib.util.find_spec(package) is not None for package in ("chgnet", "matgl")}


@pytest.fixture(scope="session")
def matgl_folder(tmp_path_factory) -> Path:
    """A small untrained TensorNet for Al and Cu, made and saved here: no network, no download."""
    if not HAS["matgl"]:
        pytest.skip("matgl is not installed")
    import torch
    from matgl.apps.pes import Potential as MatglPotential
    from matgl.models import TensorNet

    torch.manual_seed(0)
    network = TensorNet(element_types=("Al", "Cu"), is_intensive=False, cutoff=5.0, units=8, nblocks=1)
    folder = tmp_path_factory.mktemp("models") / "tensornet"
    potential = MatglPotential(model=network, data_std=1000.0, element_refs=[-3.0, -4.0], calc_stresses=True)
    potential.save(folder, metadata={"theory": "none: untrained"})
    return folder


@pytest.fixture(
    scope="session",
    params=[
        "emt",
        pytest.param("chgnet", marks=pytest.mark.skipif(not HAS["chgnet"], reason="chgnet is not installed")),
        pytest.param("matgl", marks=pytest.mark.skipif(not HAS["matgl"], reason="matgl is not installed")),
    ],
)
def potential(request) -> Potential:
    model = request.getfixturevalue("matgl_folder") if request.param == "matgl" else None
    loaded = base.load(Prerelax(backend=request.param, model=model), ("Al", "Cu"))
    assert loaded is not None
    return loaded


def crystals() -> list[Atoms]:
    """Low symmetry, strained and rattled, so that no force or stress component vanishes by symmetry."""
    rng = np.random.default_rng(3)
    cells = [bulk("Al"), bulk("Cu", cubic=True), bulk("AlCu", "cesiumchloride", a=3.05)]
    for atoms in cells:
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return cells


def test_forces_are_minus_the_gradient_of_the_energy(potential):
    atoms = crystals()[2]
    forces = potential.evaluate([atoms])[0].forces
    step = 5e-3
    numeric = np.zeros_like(forces)
    for index in np.ndindex(*forces.shape):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * step
            energies.append(potential.evaluate([moved])[0].energy)
        numeric[index] = -(energies[0] - energies[1]) / (2 * step)
    assert np.abs(forces).max() > 0.01
    assert_allclose(forces, numeric, atol=5e-3 + 0.01 * np.abs(forces).max())


def numeric_stress(potential: Potential, atoms: Atoms) -> np.ndarray:
    """Derivative of the energy with respect to strain, over volume: eV/angstrom^3, positive under tension."""
    step = 2e-3
    stress = []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(potential.evaluate([moved])[0].energy)
        stress.append((energies[0] - energies[1]) / (2 * step) / atoms.get_volume())
    return np.array(stress)


def test_stress_is_the_strain_derivative_in_ev_per_cubic_angstrom(potential):
    atoms = crystals()[2]
    stress = potential.evaluate([atoms])[0].stress
    assert np.abs(stress).max() > 1e-3
    assert_allclose(stress, numeric_stress(potential, atoms), atol=2e-4 + 0.02 * np.abs(stress).max())


def test_the_contract_catches_a_stress_in_gigapascal(potential):
    """A planted factor of 160.2 must not pass the test above."""
    atoms = crystals()[2]
    planted = 160.2 * potential.evaluate([atoms])[0].stress
    assert not np.allclose(
        planted, numeric_stress(potential, atoms), atol=2e-4 + 0.02 * np.abs(planted).max()
    )


def test_a_stretched_crystal_is_under_tension():
    stretched = bulk("Cu", a=3.9)
    emt = base.load(Prerelax(backend="emt"))
    assert emt.evaluate([stretched])[0].stress[:3].min() > 0


def test_a_batch_gives_what_single_evaluations_give(potential):
    together = potential.evaluate(crystals())
    alone = [potential.evaluate([atoms])[0] for atoms in reversed(crystals())][::-1]
    for a, b in zip(together, alone, strict=True):
        assert a.energy == b.energy
        assert_allclose(a.forces, b.forces, atol=0)
        assert_allclose(a.stress, b.stress, atol=0)


def test_evaluations_have_plain_shapes_and_double_precision(potential):
    atoms = crystals()[1]
    before = atoms.positions.copy()
    result = potential.evaluate([atoms])[0]
    assert isinstance(result, Evaluation)
    assert type(result.energy) is float
    assert result.forces.shape == (4, 3)
    assert result.stress.shape == (6,)
    assert result.forces.dtype == result.stress.dtype == np.float64
    assert result.is_finite
    assert atoms.calc is None
    assert_allclose(atoms.positions, before, atol=0)


def test_the_energy_does_not_change_with_translation_rotation_or_repetition(potential):
    atoms = crystals()[2]
    energy = potential.evaluate([atoms])[0].energy
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    shifted = atoms.copy()
    shifted.positions += (0.3, -1.1, 2.0)
    doubled = atoms.repeat((2, 1, 1))
    energies = [result.energy for result in potential.evaluate([turned, shifted, doubled])]
    assert_allclose(energies, [energy, energy, 2 * energy], atol=2e-4)


def test_a_potential_describes_itself(potential):
    description = potential.describe()
    assert {"Al", "Cu"} <= set(description.elements)
    assert len(description.model_hash) == 64
    assert description.theory
    assert description.version in description.label
    assert description.model_hash[:8] in description.label


def test_an_unknown_element_is_named(potential):
    if "Og" in potential.describe().elements:
        pytest.skip("knows everything")
    with pytest.raises(ModelError, match="Og"):
        potential.evaluate([bulk("Og", "fcc", a=4.0)])


def test_no_potential_is_none():
    assert base.load(Prerelax(backend="none"), ("Og",)) is None


def test_a_pool_with_an_element_the_model_lacks_dies_early(matgl_folder):
    with pytest.raises(ModelError, match="does not know Li, Mg"):
        base.check(Prerelax(backend="matgl", model=matgl_folder), ("Li", "Mg", "Al"))
    with pytest.raises(ModelError, match="emt does not know Si"):
        base.check(Prerelax(backend="emt"), ("Al", "Si"))


def test_a_model_folder_without_its_files_is_refused(tmp_path, matgl_folder):
    settings = Prerelax(backend="matgl", model=matgl_folder)
    incomplete = settings.model_copy(update={"model": tmp_path})
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks model\.pt, state\.pt"):
        base.check(incomplete, ())


def test_broken_model_files_are_refused(tmp_path, matgl_folder):
    for name in ("model.pt", "state.pt", "model.json"):
        (tmp_path / name).write_bytes((matgl_folder / name).read_bytes())
    settings = Prerelax(backend="matgl", model=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="can't be loaded"):
        base.load(settings)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        base.check(settings, ())
    (tmp_path / "model.json").write_text(json.dumps({"@class": "TensorNet", "kwargs": {}}))
    with pytest.raises(ModelError, match="not the bare network"):
        base.check(settings, ())


def test_a_missing_package_gives_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'hullforge\[chgnet\]'"):
        base.check(Prerelax(backend="chgnet"), ("Al",))


def test_checking_loads_no_model_package():
    code = (
        "import sys; from hullforge.config import Prerelax; from hullforge.potentials import base;"
        "base.check(Prerelax(backend='chgnet'), ('Li',)) if base.importlib.util.find_spec('chgnet') else None;"
        "print([name for name in ('torch', 'matgl', 'chgnet', 'pymatgen') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_description_reads_well():
    description = Description("chgnet", "0.4.2/0.3.0", "PBE", ("Li",), "0123456789abcdef")
    assert description.label == "chgnet 0.4.2/0.3.0 (01234567)"
