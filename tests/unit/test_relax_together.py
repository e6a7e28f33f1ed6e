"""Many relaxations in one pass of the model: the same as alone, whatever one of them does, and whatever fits in memory."""

import importlib.util

import numpy as np
import pytest
import untrained
from ase import Atoms
from ase.build import bulk
from numpy.testing import assert_allclose

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials import base
from hullforge.potentials.base import Potential
from hullforge.potentials.relax import Run, rattled, relax, together
from hullforge.store.vocabulary import PrerelaxStatus

EMT = Prerelax(backend="emt", fmax=0.01)


class Batched(Potential):
    """EMT that takes many at once, with planted faults."""

    def __init__(self, fits=1000, error=None, nan=None):
        emt = base.load(EMT)
        super().__init__(emt.describe(), emt.calculator)
        self.fits, self.error, self.nan = fits, error, nan
        self.sizes = []

    def evaluate_together(self, structures):
        self.sizes.append(len(structures))
        if len(structures) > self.fits:
            raise self.error or MemoryError
        return self.evaluate(structures)

    def _evaluate_one(self, atoms):
        if self.nan and self.nan in atoms.symbols:
            return base.Evaluation(float("nan"), np.zeros((len(atoms), 3)), np.zeros(6))
        return super()._evaluate_one(atoms)


def starts() -> list[Atoms]:
    return [
        bulk("Cu", a=3.9), bulk("Al", a=4.3), bulk("AlCu", "cesiumchloride", a=3.2), bulk("Ag", a=4.0),
        bulk("Ni", a=3.3), bulk("Pt", a=4.1), bulk("CuAu", "cesiumchloride", a=3.2),
    ]  # fmt: skip


def same(one, other) -> bool:
    return (
        one.status == other.status
        and one.n_steps == other.n_steps
        and one.message == other.message
        and (one.atoms.cell.array == other.atoms.cell.array).all()
    )


@pytest.mark.parametrize("size", [1, 3, 100])
def test_together_gives_what_each_gives_alone(size):
    potential, done = Batched(), []
    found = together(potential, starts(), EMT, [0] * 7, size, done.append)
    alone = [relax(base.load(EMT), start, EMT) for start in starts()]
    assert all(same(a, b) for a, b in zip(found, alone, strict=True))
    assert {result.status for result in found} == {PrerelaxStatus.CONVERGED}
    assert len(done) == 7
    assert max(potential.sizes) == min(size, 7)


def test_who_is_done_makes_place_for_the_next():
    potential = Batched()
    together(potential, starts(), EMT, [0] * 7, 3)
    last = next(number for number, size in enumerate(potential.sizes) if size < 3)
    assert last > len(potential.sizes) / 2, "passes are full until the last structures are under way"


def test_one_that_gives_nan_fails_alone():
    found = together(Batched(nan="Ag"), starts(), EMT, [0] * 7, 100)
    assert [result.status.value for result in found] == ["converged"] * 3 + ["failed"] + ["converged"] * 3
    assert "NaN" in found[3].message


def test_one_that_the_model_refuses_fails_alone():
    """Silicon raises in EMT, and with it the whole pass."""
    chosen = [*starts()[:2], bulk("Si"), *starts()[2:]]
    found = together(Batched(), chosen, EMT, [0] * 8, 100)
    assert [result.status.value for result in found] == ["converged"] * 2 + ["failed"] + ["converged"] * 5
    assert "Si" in found[2].message


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_out_of_memory_halves_the_batch_and_goes_on(error):
    potential = Batched(fits=2, error=error)
    found = together(potential, starts(), EMT, [0] * 7, 100)
    assert {result.status for result in found} == {PrerelaxStatus.CONVERGED}
    assert potential.sizes[:3] == [7, 3, 1]
    assert max(potential.sizes[3:]) == 1, "once too large is too large for good"


def test_torch_out_of_memory_is_one():
    torch = pytest.importorskip("torch")
    potential = Batched(fits=3, error=torch.OutOfMemoryError("planted"))
    found = together(potential, starts(), EMT, [0] * 7, 4)
    assert {result.status for result in found} == {PrerelaxStatus.CONVERGED}
    assert max(potential.sizes[1:]) == 2


def test_what_alone_is_too_large_for_memory_fails():
    found = together(Batched(fits=0), starts()[:2], EMT, [0] * 2, 2)
    assert {result.status for result in found} == {PrerelaxStatus.FAILED}
    assert "MemoryError" in found[0].message


BATCHING = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
        ),
    )
    for name, package in (("chgnet", "chgnet"), ("TensorNet", "matgl"), ("QET", "matgl"))
]


@pytest.mark.parametrize("name", BATCHING)
def test_the_path_of_a_gpu_relaxes_as_the_path_of_a_cpu_does(name, tmp_path):
    if name == "chgnet":
        settings = Prerelax(device="cpu", max_steps=12)
    else:
        settings = Prerelax(
            backend="matgl",
            model=untrained.save_all(tmp_path)[name],
            max_steps=3,
            fmax=1e-3,
            energy_window=None,
        )
    potential = base.load(settings)
    chosen = [bulk("Cu", a=3.9), bulk("Al", a=4.2), bulk("AlCu", "cesiumchloride", a=3.1)]
    batched = together(potential, chosen, settings, [0] * 3, 3)
    for result, start in zip(batched, chosen, strict=True):
        alone = relax(potential, start, settings)
        assert result.status == alone.status
        assert result.n_steps == alone.n_steps > 0
        assert result.energy_per_atom == pytest.approx(alone.energy_per_atom, abs=1e-4)
        assert_allclose(result.atoms.cell.array, alone.atoms.cell.array, atol=2e-3)


def test_a_gpu_that_is_asked_for_and_absent_is_one_error():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match=r"prerelax\.device: torch finds no GPU here"):
        base.device_of(Prerelax(device="cuda"))
    assert base.device_of(Prerelax(backend="emt", device="cuda")) == "cpu"


# ------------------------------------------------------------------------------------------- symmetry


def saddle() -> Atoms:
    """Simple cubic nickel: of EMT, a saddle on the way to the face-centred one, which its symmetry keeps it on."""
    return bulk("Ni", "sc", a=2.5).repeat((2, 1, 1))


def test_symmetry_that_is_kept_stays_on_a_saddle_and_broken_leaves_it():
    kept = relax(base.load(EMT), saddle(), EMT)
    free = EMT.model_copy(update={"symmetry": "break", "max_steps": 300})
    left = relax(base.load(EMT), saddle(), free, seed=1)
    assert kept.status == left.status == PrerelaxStatus.CONVERGED
    assert left.energy_per_atom < kept.energy_per_atom - 0.5
    assert left.n_steps > kept.n_steps
    again = relax(base.load(EMT), saddle(), free, seed=1)
    assert same(left, again)


def test_what_is_no_saddle_keeps_its_symmetry_to_the_last_digit():
    kept = relax(base.load(EMT), bulk("Cu", a=3.9), EMT)
    broken = relax(base.load(EMT), bulk("Cu", a=3.9), EMT.model_copy(update={"symmetry": "break"}))
    assert (kept.atoms.cell.array == broken.atoms.cell.array).all()
    assert broken.n_steps > kept.n_steps


def test_rattling_is_seeded_and_keeps_the_volume():
    start = saddle()
    one, two, other = (rattled(start, 0.05, seed) for seed in (1, 1, 2))
    assert (one.positions == two.positions).all()
    assert not np.allclose(one.positions, other.positions)
    assert one.get_volume() == pytest.approx(start.get_volume())
    assert_allclose(one.positions, start.positions, atol=0.3)


def test_the_vacuum_of_a_layer_is_not_strained():
    layer = Atoms("Cu", cell=[2.6, 2.6, 15], pbc=(True, True, False))
    moved = rattled(layer, 0.1, 0)
    assert moved.cell[2, 2] == 15
    assert not np.allclose(moved.cell[0], layer.cell[0])


# ------------------------------------------------------------------------------------------- gates


def test_an_energy_outside_of_the_window_is_refused():
    settings = EMT.model_copy(update={"energy_window": (1.0, 2.0)})
    result = relax(base.load(EMT), bulk("Cu", a=3.9), settings)
    assert result.status == PrerelaxStatus.FAILED
    assert "1 to 2 are allowed" in result.message
    assert result.energy_per_atom is None


def test_isolated_atoms_are_refused_before_the_model_sees_them():
    potential = Batched()
    result = together(potential, [bulk("Cu", a=12.0)], EMT, [0], 1)[0]
    assert result.status == PrerelaxStatus.FAILED
    assert "no neighbour within 6 angstrom" in result.message
    assert potential.sizes == []


def test_an_atom_that_drifts_off_counts_as_exploded():
    settings = EMT.model_copy(update={"isolated_cutoff": 2.8, "max_volume_ratio": 100.0})
    run = Run(bulk("Cu", a=3.9), settings)
    run.atoms.set_constraint()
    run.atoms.set_cell(run.atoms.cell * 1.2, scale_atoms=True)
    result = run.advance(base.Evaluation(-1.0, np.zeros((1, 3)), np.zeros(6)))
    assert result.status == PrerelaxStatus.EXPLODED
    assert "nearest neighbour" in result.message


def test_what_is_no_geometry_fails():
    broken = bulk("Cu")
    broken.positions[0, 0] = float("nan")
    result = relax(base.load(EMT), broken, EMT)
    assert result.status == PrerelaxStatus.FAILED
