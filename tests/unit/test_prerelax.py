"""Pre-relaxation: gates, statuses, symmetry, workers that die, and the table that comes out in any case."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from fake_workers import counts_threads, dies_on_aluminium, hangs_on_aluminium, never_starts
from numpy.testing import assert_allclose

from hullforge.config import Prerelax, PrerelaxSettings
from hullforge.crystals import decorations, prototypes
from hullforge.errors import ModelError
from hullforge.potentials import base, prerelax
from hullforge.potentials.base import Description, Potential
from hullforge.potentials.relax import relax
from hullforge.potentials.workers import relax_many
from hullforge.store import tables
from hullforge.store.structures import atoms_from_row, composition_columns
from hullforge.store.vocabulary import PrerelaxStatus

EMT = Prerelax(backend="emt", fmax=0.01)


class Fake(Calculator):
    """Energy, force and stress as the test wants them."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, stress=0.0, force=0.0, energy=-1.0, error=None):
        super().__init__()
        self.stress, self.force, self.energy, self.error = stress, force, energy, error

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.error:
            raise self.error
        forces = np.zeros((len(atoms), 3))
        forces[0] += self.force
        self.results = {
            "energy": self.energy,
            "free_energy": self.energy,
            "forces": forces,
            "stress": np.array([self.stress] * 3 + [0.0] * 3),
        }


def fake(**kwargs) -> Potential:
    return Potential(Description("fake", "1", "none", ("Cu", "Al"), "0" * 64), Fake(**kwargs))


def stretched() -> Atoms:
    return bulk("Cu", a=3.9)


def test_a_stretched_crystal_relaxes_to_its_lattice_constant():
    result = relax(base.load(EMT), stretched(), EMT)
    assert result.status == PrerelaxStatus.CONVERGED
    assert_allclose((4 * result.atoms.get_volume()) ** (1 / 3), 3.59, atol=0.01)
    assert result.volume_ratio == pytest.approx(result.atoms.get_volume() / stretched().get_volume())
    assert result.energy_per_atom < 0
    assert result.message == ""
    assert not result.atoms.constraints


def test_the_symmetry_of_the_prototype_is_kept_to_the_last_digit():
    start = Atoms(
        "AlCu3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[3.9] * 3,
        pbc=True,
    )
    result = relax(base.load(EMT), start, EMT)
    final = result.atoms
    assert result.n_steps > 2
    found = spglib.get_symmetry_dataset(
        (final.cell.array, final.get_scaled_positions(), final.numbers), symprec=1e-8
    )
    assert found.number == 221


def test_the_start_is_not_changed():
    start = stretched()
    before = start.cell.array.copy()
    relax(base.load(EMT), start, EMT)
    assert_allclose(start.cell.array, before, atol=0)
    assert start.calc is None


def test_too_few_steps_give_the_last_geometry():
    result = relax(base.load(EMT), stretched(), EMT.model_copy(update={"max_steps": 1}))
    assert result.status == PrerelaxStatus.NOT_CONVERGED
    assert "limit of steps" in result.message
    assert result.volume_ratio < 1


def test_too_little_time_gives_the_last_geometry():
    ticks = iter([0.0, *[1e9] * 50])
    result = relax(base.load(EMT), stretched(), EMT, clock=lambda: next(ticks))
    assert result.status == PrerelaxStatus.NOT_CONVERGED
    assert "limit of 120 s" in result.message


@pytest.mark.parametrize(
    ("calculator", "status", "words"),
    [
        ({"stress": -5.0}, PrerelaxStatus.EXPLODED, "volume ratio"),
        ({"stress": 5.0}, PrerelaxStatus.COLLAPSED, "below 0.4"),
        ({"energy": float("nan")}, PrerelaxStatus.FAILED, "NaN"),
        ({"force": float("nan")}, PrerelaxStatus.FAILED, "NaN"),
        ({"stress": float("inf")}, PrerelaxStatus.FAILED, "infinity"),
        ({"error": RuntimeError("isolated atom")}, PrerelaxStatus.FAILED, "isolated atom"),
    ],
)
def test_when_the_potential_misbehaves_the_start_goes_on(calculator, status, words):
    result = relax(fake(**calculator), stretched(), EMT)
    assert result.status == status
    assert words in result.message
    assert result.volume_ratio is None
    assert result.energy_per_atom is None
    assert_allclose(result.atoms.cell.array, stretched().cell.array, atol=0)


def test_atoms_that_come_too_close_count_as_collapsed():
    pair = Atoms("Cu2", positions=[(0, 0, 0), (1.0, 0, 0)], cell=[8, 8, 8], pbc=True)
    result = relax(fake(), pair, EMT)
    assert result.status == PrerelaxStatus.COLLAPSED
    assert "shortest distance" in result.message


def test_results_come_in_order_whatever_the_number_of_workers():
    starts = [bulk("Cu", a=3.9), bulk("Al", a=4.3), bulk("Ag", a=4.3), bulk("Ni", a=3.4)]
    label, one = relax_many(EMT, ("Cu", "Al", "Ag", "Ni"), starts, 1)
    _, two = relax_many(EMT, ("Cu", "Al", "Ag", "Ni"), starts, 2)
    assert label.startswith("emt ase-")
    for start, a, b in zip(starts, one, two, strict=True):
        assert a.atoms.get_chemical_formula() == start.get_chemical_formula()
        assert a.status == PrerelaxStatus.CONVERGED
        assert (a.atoms.cell.array == b.atoms.cell.array).all()
        assert a.energy_per_atom == b.energy_per_atom


def test_nothing_to_do_starts_no_worker():
    assert relax_many(EMT, (), [], 2) == ("", [])


STARTS = [bulk("Cu"), bulk("Al"), bulk("Ni"), bulk("Ag")]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_structure_that_kills_its_worker_fails_alone(workers):
    done = []
    _, results = relax_many(EMT, ("Al",), STARTS, workers, on_done=done.append, target=dies_on_aluminium)
    assert [r.status.value for r in results] == ["converged", "failed", "converged", "converged"]
    assert "exit code 11" in results[1].message
    assert len(done) == 4


def test_a_structure_that_hangs_its_worker_fails_alone(monkeypatch):
    monkeypatch.setattr("hullforge.potentials.workers.GRACE_S", 0.0)
    settings = EMT.model_copy(update={"time_limit_s": 1.0})
    _, results = relax_many(settings, ("Al",), STARTS, 2, target=hangs_on_aluminium)
    assert [r.status.value for r in results] == ["converged", "failed", "converged", "converged"]
    assert "no sign of life" in results[1].message


def test_workers_that_never_start_are_an_error_of_the_machine():
    with pytest.raises(ModelError, match="could not load the potential emt"):
        relax_many(EMT, ("Al",), STARTS, 2, target=never_starts)


def test_workers_run_on_one_thread_and_leave_the_parent_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    label, _ = relax_many(EMT, ("Cu",), STARTS[:1], 1, target=counts_threads)
    assert label == "1,1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


# ------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Two prototypes: copper and rock salt."""
    path = tmp_path_factory.mktemp("library") / "prototypes.parquet"
    compiled = [
        prototypes.compile_structure(bulk("Cu"), "Copper", "test"),
        prototypes.compile_structure(bulk("NaCl", "rocksalt", a=5.6), "Halite", "test"),
    ]
    tables.write(path, "prototypes", [prototype.row() for prototype in compiled])
    return path


def selection(
    path: Path, library: Path, wanted: list[tuple[str, tuple[str, ...], int, float | None]]
) -> Path:
    """Write a selection of (prototype name, elements, batch, predicted volume per atom)."""
    by_name = {prototype.name: prototype for prototype in prototypes.load(library)}
    rows = []
    for number, (name, elements, batch, volume) in enumerate(wanted):
        atoms = decorations.decorate(by_name[name], elements)
        rows.append(
            {
                "candidate_id": f"c1-{number:04d}", "prototype_id": by_name[name].prototype_id, "round": 1, "batch": batch, "rank": number,
                "species": list(elements), "chemical_formula_reduced": composition_columns(atoms.numbers)["chemical_formula_reduced"],
                "stratum": "exploit", "predicted_formation_energy_per_atom": 0.0, "predicted_e_above_hull": 0.0, "uncertainty": 0.1,
                "predicted_volume_per_atom": volume, "latent_distance": 1.0,
            }
        )  # fmt: skip
    tables.write(path, "selection", rows)
    return path


WANTED = [
    ("Copper", ("Al",), 0, None),
    ("Halite", ("Al", "Cu"), 0, 14.0),
    ("Copper", ("Ni",), 1, None),
    ("Copper", ("Ag",), 0, 17.0),
]


def test_the_stage_writes_one_row_per_candidate_of_its_batch(tmp_path, library):
    chosen = selection(tmp_path / "selection.parquet", library, WANTED)
    settings = PrerelaxSettings(prerelax=EMT, seed=0)
    prerelax.run(settings, library, chosen, 0, tmp_path / "one.parquet", 1)
    rows = tables.read_rows(tmp_path / "one.parquet", "prerelax")
    assert [row["candidate_id"] for row in rows] == ["c1-0000", "c1-0001", "c1-0003"]
    assert {row["status"] for row in rows} == {"converged"}
    assert [row["chemical_formula_reduced"] for row in rows] == ["Al", "AlCu", "Ag"]
    assert rows[0]["backend"].startswith("emt ase-")
    silver = atoms_from_row(rows[2])
    assert_allclose((4 * silver.get_volume()) ** (1 / 3), 4.07, atol=0.02)
    prerelax.run(settings, library, chosen, 0, tmp_path / "two.parquet", 2)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_without_a_potential_the_start_has_the_predicted_volume(tmp_path, library):
    wanted = [
        ("Copper", ("Al",), 0, None),
        ("Copper", ("Ni",), 0, 12.5),
        ("Copper", ("Ag",), 0, 900.0),
        ("Copper", ("Cu",), 0, -3.0),
    ]
    chosen = selection(tmp_path / "selection.parquet", library, wanted)
    prerelax.run(
        PrerelaxSettings(prerelax=Prerelax(backend="none"), seed=0),
        library,
        chosen,
        0,
        tmp_path / "out.parquet",
        2,
    )
    rows = tables.read_rows(tmp_path / "out.parquet", "prerelax")
    assert {row["status"] for row in rows} == {"skipped"}
    assert {row["backend"] for row in rows} == {"none"}
    assert rows[0]["volume_ratio"] is None
    assert rows[1]["volume"] == pytest.approx(12.5)
    assert 8 < rows[2]["volume"] < 30, "an absurd prediction gives way to the estimate"
    assert 6 < rows[3]["volume"] < 25


def test_a_batch_without_candidates_is_an_empty_table(tmp_path, library):
    chosen = selection(tmp_path / "selection.parquet", library, WANTED)
    prerelax.run(PrerelaxSettings(prerelax=EMT, seed=0), library, chosen, 7, tmp_path / "out.parquet", 2)
    assert tables.read(tmp_path / "out.parquet", "prerelax").num_rows == 0


def test_an_element_without_parameters_is_one_clear_error(tmp_path, library):
    chosen = selection(tmp_path / "selection.parquet", library, [("Copper", ("Si",), 0, None)])
    with pytest.raises(ModelError, match="emt does not know Si"):
        prerelax.run(PrerelaxSettings(prerelax=EMT, seed=0), library, chosen, 0, tmp_path / "out.parquet", 1)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("chgnet") is None, reason="chgnet is not installed")
def test_chgnet_relaxes_to_sensible_volumes(tmp_path, library):
    chosen = selection(
        tmp_path / "selection.parquet",
        library,
        [("Copper", ("Al",), 0, None), ("Halite", ("Mg", "O"), 0, None)],
    )
    settings = PrerelaxSettings(prerelax=Prerelax(), seed=0)
    prerelax.run(settings, library, chosen, 0, tmp_path / "out.parquet", 1)
    rows = {
        row["chemical_formula_reduced"]: row for row in tables.read_rows(tmp_path / "out.parquet", "prerelax")
    }
    assert rows["Al"]["volume"] == pytest.approx(16.5, rel=0.03)
    assert rows["MgO"]["volume"] == pytest.approx(19.2, rel=0.04)
