"""Labels of a potential, and what the screener takes from them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ase.build import bulk

from hullforge.config import Campaign, LabelSettings, Prerelax, Training, TrainSettings
from hullforge.crystals import decorations
from hullforge.crystals.prototypes import compile_structure
from hullforge.errors import ConfigError, ModelError
from hullforge.potentials import base, labels
from hullforge.screening import data, model, pretrain, train
from hullforge.store import tables
from hullforge.store.vocabulary import PrerelaxStatus

ROOT = Path(__file__).parents[2]
ELEMENTS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
EMT = Prerelax(backend="emt")


def prototypes():
    structures = {
        "copper": bulk("Cu"),
        "cesium chloride": bulk("CsCl", "cesiumchloride", a=4.1),
        "halite": bulk("NaCl", "rocksalt", a=5.6),
    }
    compiled = [compile_structure(atoms, name, "test") for name, atoms in structures.items()]
    return sorted(compiled, key=lambda p: p.prototype_id)


@pytest.fixture
def table(tmp_path):
    tables.write(tmp_path / "prototypes.parquet", "prototypes", [p.row() for p in prototypes()])
    return tmp_path / "prototypes.parquet"


def settings(number=20, **changes):
    return LabelSettings(elements=ELEMENTS, prerelax=EMT, number=number, seed=5, **changes)


def test_a_label_is_the_lowest_energy_of_the_scaled_prototype():
    copper = next(p for p in prototypes() if p.name == "copper")
    found = labels.scan(base.load(EMT), decorations.decorate(copper, ("Cu",)))
    assert found["status"] == "converged"
    # EMT's copper: 3.59 angstrom.
    assert found["volume_per_atom"] == pytest.approx(3.59**3 / 4, rel=0.02)
    exact = base.load(EMT).energy(bulk("Cu", a=3.59))
    assert found["energy_per_atom"] == pytest.approx(exact, abs=0.01)


def test_the_energy_alone_is_that_of_the_evaluation():
    pytest.importorskip("chgnet")
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    potential = base.load(Prerelax(backend="chgnet"))
    assert potential.energy(atoms) == pytest.approx(potential.evaluate([atoms])[0].energy, abs=1e-4)
    with pytest.raises(ModelError, match="does not know Cf"):
        potential.energy(bulk("Cf", "fcc", a=5.0))


class Wrong(base.Potential):
    """A potential that diverges, raises, or has no lowest energy."""

    def __init__(self, value):
        self.value = value

    def energy(self, atoms):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value(atoms.get_volume()) if callable(self.value) else self.value


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (float("nan"), PrerelaxStatus.FAILED, "no finite energy"),
        (RuntimeError("isolated atom"), PrerelaxStatus.FAILED, "isolated atom"),
        (lambda volume: -volume, PrerelaxStatus.NOT_CONVERGED, "no lowest energy"),
    ],
)
def test_a_label_that_fails_is_a_row(value, status, words):
    found = labels.scan(Wrong(value), bulk("Cu"))
    assert found["status"] == status.value
    assert words in found["message"]
    assert found["energy_per_atom"] is found["volume_per_atom"] is None


def test_candidates_are_drawn_once_each_and_more_labels_begin_with_those_of_fewer():
    spaces = decorations.spaces(prototypes(), ELEMENTS)
    total = sum(space.count for space in spaces)
    few, more = (labels.draw(spaces, settings(number)) for number in (5, 12))
    assert more[:5] == few
    everything = labels.draw(spaces, settings(1000))
    assert len(set(everything)) == len(everything) == total
    confined = decorations.spaces(prototypes(), ("Al", "Ni"))
    assert {s for _, species in labels.draw(confined, settings()) for s in species} == {"Al", "Ni"}


def test_labels_that_were_killed_go_on_and_give_the_same_table(table, tmp_path, monkeypatch):
    labels.run(settings(), table, tmp_path / "whole.parquet")
    scan, calls = labels.scan, []

    def killed(potential, atoms):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return scan(potential, atoms)

    checkpoint = tmp_path / "work" / "labels.checkpoint"
    monkeypatch.setattr(labels, "scan", killed)
    with pytest.raises(KeyboardInterrupt):
        labels.run(settings(), table, tmp_path / "labels.parquet", checkpoint)
    # The last line was not written to its end.
    checkpoint.write_text(checkpoint.read_text()[:-9])
    calls[:] = [1] * 100
    labels.run(settings(), table, tmp_path / "labels.parquet", checkpoint)
    assert len(calls) == 100 + 20 - 6
    assert (tmp_path / "labels.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_settings_is_left_alone(table, tmp_path):
    checkpoint = tmp_path / "labels.checkpoint"
    checkpoint.write_text('{"key": "other"}\n{"energy_per_atom": 1e6}\n')
    labels.run(settings(), table, tmp_path / "labels.parquet", checkpoint)
    energies = pq.read_table(tmp_path / "labels.parquet")["energy_per_atom"].to_pylist()
    assert max(energies) < 1e3


def test_what_the_composition_explains_is_taken_off():
    shares = np.random.default_rng(0).dirichlet(np.ones(4), size=30)
    rest = np.zeros(30)
    rest[7] = 1.0
    energies = shares @ np.array([-3.0, 2.0, 0.5, -7.0])
    assert np.abs(pretrain.without_elements(energies, shares)).max() < 1e-9
    assert pretrain.without_elements(energies + rest, shares)[7] > 0.5


def training(**changes):
    return Training(**({"epochs": 4, "ensemble": 2, "pretrain": {"labels": 60, "epochs": 40}} | changes))


def test_a_screener_learns_labels_and_training_goes_on_from_it_on_its_own_scale(table, tmp_path):
    known = prototypes()
    labels.run(settings(60), table, tmp_path / "labels.parquet")
    train_settings = TrainSettings(training=training(), elements=ELEMENTS, seed=3)
    pretrain.run(train_settings, table, tmp_path / "labels.parquet", tmp_path / "pretrained")
    found = json.loads((tmp_path / "pretrained" / "metrics.json").read_text())
    records, used = pretrain.load(known, tmp_path / "labels.parquet", 8.0)
    assert used.labels == len(records) == 49
    assert found["labelled_by"] == [base.load(EMT).describe().label]
    assert found["train"]["mae"] < 0.5 * np.abs(records.target - np.median(records.target)).mean()
    # DFT's energies are others, but their differences are the same.
    taught = model.load(tmp_path / "pretrained" / "model.pt")
    few = records.take(np.arange(0, len(records), 3))
    shifted = data.Records(few.prototype, few.species, 3 * few.target - 1, few.log_volume_ratio)
    table_of_graphs = model.GraphTable(known)
    start = train.rescaled(taught, shifted, "formation_energy_per_atom")
    assert start.normalisation == train.normalisation(shifted)
    nothing = records.take(np.zeros(0, dtype=int))
    rest = records.take(np.flatnonzero(np.arange(len(records)) % 3 != 0))
    errors = []
    for begin in (None, start):
        with model.threads(1):
            screener, _ = train.fit(table_of_graphs, shifted, nothing, training(), 3, begin)
        errors.append(
            np.abs(train.predict(screener, table_of_graphs, rest).energy - (3 * rest.target - 1)).mean()
        )
        # What only the potential knew is not called known.
        assert screener.seen == shifted.elements
    assert errors[1] < 0.7 * errors[0]
    without = train.rescaled(taught, nothing, "formation_energy_per_atom")
    assert without.normalisation == taught.normalisation


def test_pretraining_repeats_to_the_byte(table, tmp_path):
    labels.run(settings(30), table, tmp_path / "labels.parquet")
    train_settings = TrainSettings(training=training(), elements=ELEMENTS, seed=3)
    for name in ("one", "two"):
        pretrain.run(train_settings, table, tmp_path / "labels.parquet", tmp_path / name)
    assert (tmp_path / "one" / "model.pt").read_bytes() == (tmp_path / "two" / "model.pt").read_bytes()
    assert torch.load(tmp_path / "one" / "model.pt", weights_only=True)["seen_elements"]


def test_labels_without_a_potential_are_refused_before_anything_runs(table, tmp_path):
    with pytest.raises(ConfigError, match="needs a potential"):
        labels.run(
            settings().model_copy(update={"prerelax": Prerelax(backend="none")}),
            table,
            tmp_path / "labels.parquet",
        )
    campaign = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    Campaign.model_validate(campaign | {"training": {"pretrain": {"labels": 5}}})
    with pytest.raises(ValueError, match=r"training\.pretrain\.labels"):
        Campaign.model_validate(
            campaign | {"training": {"pretrain": {"labels": 5}}, "prerelax": {"backend": "none"}}
        )
