"""The contract that every backend of `hullforge.potentials` keeps: units, signs, batches, names of what is missing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import untrained
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from numpy.testing import assert_allclose

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials import base, contract
from hullforge.potentials.base import Description, Evaluation, Potential

HAS = {package: importlib.util.find_spec(package) is not None for package in ("chgnet", "matgl")}


@pytest.fixture(scope="session")
def matgl_folders(tmp_path_factory) -> dict[str, Path]:
    """Small untrained potentials for Al and Cu of each architecture, made and saved here: no network, no download."""
    if not HAS["matgl"]:
        pytest.skip("matgl is not installed")
    return untrained.save_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def matgl_folder(matgl_folders) -> Path:
    return matgl_folders["TensorNet"]


BACKENDS = ("emt", "ase:ase.calculators.emt.EMT", "chgnet", *untrained.ARCHITECTURES)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not HAS.get("matgl" if name in untrained.ARCHITECTURES else name, True),
                reason="the package is not installed",
            ),
        )
        for name in BACKENDS
    ],
)
def potential(request) -> Potential:
    settings = Prerelax(backend=request.param) if request.param not in untrained.ARCHITECTURES else None
    if settings is None:
        folders = request.getfixturevalue("matgl_folders")
        settings = Prerelax(backend="matgl", model=folders[request.param])
    loaded = base.load(settings, ("Al", "Cu"))
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


def test_forces_and_stress_are_the_derivatives_of_the_energy_in_our_units(potential):
    atoms = crystals()[2]
    result = potential.evaluate([atoms])[0]
    assert np.abs(result.forces).max() > 0.01
    assert np.abs(result.stress).max() > 1e-3
    assert contract.violations(potential, atoms) == []


class Planted(Potential):
    """A potential whose forces and stress are another's, times factors."""

    def __init__(self, other: Potential, forces: float = 1.0, stress: float = 1.0):
        super().__init__(other.describe(), other.calculator)
        self.factors = forces, stress

    def _evaluate_one(self, atoms):
        found = super()._evaluate_one(atoms)
        return Evaluation(found.energy, found.forces * self.factors[0], found.stress * self.factors[1])


def test_the_contract_catches_a_stress_in_gigapascal(potential):
    found = contract.violations(Planted(potential, stress=160.21766), crystals()[2])
    assert len(found) == 1
    assert found[0].endswith("times that (GPa)")


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"stress": 160.21766}, "160.2 times that (GPa)"),
        ({"stress": -160.21766}, "(GPa, other sign)"),
        ({"stress": -1.0}, "-1 times that (other sign)"),
        ({"stress": 1602.1766}, "(kbar)"),
        ({"stress": 1 / 160.21766}, "stress"),
        ({"forces": -1.0}, "forces are not minus the derivative"),
        ({"forces": 1.05}, "forces"),
    ],
)
def test_the_contract_names_wrong_units_and_signs(planted, words):
    found = contract.violations(Planted(base.load(Prerelax(backend="emt")), **planted), crystals()[2])
    assert len(found) == 1
    assert words in found[0]


def test_a_stretched_crystal_is_under_tension():
    stretched = bulk("Cu", a=3.9)
    emt = base.load(Prerelax(backend="emt"))
    assert emt.evaluate([stretched])[0].stress[:3].min() > 0


def test_one_pass_over_a_batch_gives_what_single_evaluations_give(potential):
    together = potential.evaluate_together(crystals())
    alone = [potential.evaluate([atoms])[0] for atoms in crystals()]
    for a, b in zip(together, alone, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=2e-6 * max(1, abs(b.energy)))
        assert_allclose(a.forces, b.forces, atol=2e-5)
        assert_allclose(a.stress, b.stress, atol=1e-5)
        assert a.forces.dtype == a.stress.dtype == np.float64


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


def test_the_energy_does_not_change_with_translation_rotation_repetition_or_order(potential):
    atoms = crystals()[2]
    energy = potential.evaluate([atoms])[0].energy
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    shifted = atoms.copy()
    shifted.positions += (0.3, -1.1, 2.0)
    doubled = atoms.repeat((2, 1, 1))
    swapped = doubled[[3, 0, 2, 1]]
    energies = [result.energy for result in potential.evaluate([turned, shifted, doubled, swapped])]
    assert_allclose(energies, [energy, energy, 2 * energy, 2 * energy], atol=2e-4 + 2e-6 * abs(energy))


def test_a_layer_is_the_crystal_that_its_cell_with_vacuum_shows(potential):
    """matgl takes what is not periodic along all axes for a molecule without a cell; nothing would have told."""
    layer = Atoms(
        "AlCu", positions=[(0, 0, 8), (1.45, 1.45, 9.4)], cell=[2.9, 2.9, 16], pbc=(True, True, False)
    )
    crystal = layer.copy()
    crystal.pbc = True
    found, wanted = potential.evaluate([layer, crystal])
    both = potential.evaluate_together([layer, crystal])
    for result in (found, *both):
        assert result.energy == pytest.approx(wanted.energy, abs=1e-4)
        assert_allclose(result.forces, wanted.forces, atol=1e-4)
    assert layer.pbc.tolist() == [True, True, False]


def test_forces_and_stress_turn_with_the_crystal(potential):
    from ase.stress import voigt_6_to_full_3x3_stress as full

    atoms = crystals()[2]
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    rotation = np.linalg.solve(atoms.cell.array, turned.cell.array)
    before, after = potential.evaluate([atoms, turned])
    assert_allclose(after.forces, before.forces @ rotation, atol=2e-4)
    assert_allclose(full(after.stress), rotation.T @ full(before.stress) @ rotation, atol=2e-4)


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


# ------------------------------------------------------------------------------------------ calculators of ASE's kind


class Gigapascal(EMT):
    """EMT whose stress is in GPa."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        if "stress" in self.results:
            self.results["stress"] = self.results["stress"] * 160.21766


class Deaf(EMT):
    def __init__(self, wanted=None):
        super().__init__()
        if wanted:
            raise ValueError(f"no weights {wanted}")


HERE = "ase:test_potentials"


def test_any_calculator_of_ases_kind_is_a_potential():
    settings = Prerelax(backend="ase:ase.calculators.emt.EMT", arguments={"asap_cutoff": True}, theory="EMT")
    base.check(settings, ("Al", "Cu"))
    other = base.load(settings).describe()
    plain = base.load(Prerelax(backend="ase:ase.calculators.emt.EMT")).describe()
    assert other.model_hash != plain.model_hash
    assert other.version.startswith("ase-3.")
    assert other.theory == "EMT"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "ase:ase.nowhere.EMT"}, "the module can't be imported"),
        ({"backend": "ase:ase.calculators.emt.EMTT"}, "has no EMTT"),
        ({"backend": "ase:os.system"}, "is no class of ASE's calculators"),
        ({"backend": "ase:subprocess.Popen", "arguments": {"args": "touch x"}}, "is no class of ASE's"),
        ({"backend": "ase:ase.calculators.espresso.Espresso"}, "starts a program"),
        ({"backend": "ase:ase.calculators.vasp.Vasp", "arguments": {"command": "touch x"}}, "command"),
        ({"backend": f"{HERE}.Deaf", "arguments": {"wanted": "large"}}, "no weights large"),
        ({"backend": f"{HERE}.Gigapascal"}, r"160\.\d times that \(GPa\)"),
        ({"backend": "ase:ase.calculators.emt.EMT", "known_elements": ("Al",)}, "does not know Cu"),
    ],
)
def test_what_is_no_potential_is_refused_before_the_first_job(settings, words):
    with pytest.raises(ModelError, match=words):
        base.check(Prerelax(**settings), ("Al", "Cu"))


def test_elements_that_a_calculator_lacks_are_found_by_trying():
    with pytest.raises(ModelError, match=r"for Mg .*; Si "):
        base.check(Prerelax(backend="ase:ase.calculators.emt.EMT"), ("Mg", "Al", "Si"))


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "ase:__import__('os').EMT"},
        {"backend": "ase:EMT"},
        {"backend": "ase:ase.calculators.emt.EMT()"},
        {"backend": "mace"},
        {"backend": "matgl"},
        {"backend": "matgl", "hub": "../etc"},
        {"backend": "chgnet", "hub": "owner/name"},
        {"backend": "emt", "arguments": {"a": 1}},
    ],
)
def test_the_configuration_refuses_what_cannot_be_meant(settings):
    with pytest.raises(ValueError, match=r"prerelax|backend|hub"):
        Prerelax(**settings)
