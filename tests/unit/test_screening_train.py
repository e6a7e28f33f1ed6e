"""Training: it learns, it repeats, it does not mind few records, and its file says when it is broken."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk

from hullforge.config import Training, TrainSettings
from hullforge.crystals import decorations
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype, compile_structure
from hullforge.errors import ModelError
from hullforge.screening import calibrate, data, model, train
from hullforge.store import ids, tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import NUMBERS, row_from_atoms

ELEMENTS = ("Li", "Mg", "Al", "Si")
POOL = np.array([NUMBERS[symbol] for symbol in ELEMENTS])


def prototypes() -> list[Prototype]:
    structures = {
        "copper": bulk("Cu"),
        "tungsten": bulk("W"),
        "halite": bulk("NaCl", "rocksalt", a=5.6),
        "fluorite": bulk("CaF2", "fluorite", a=5.4),
        "cesium chloride": bulk("CsCl", "cesiumchloride", a=4.1),
    }
    compiled = [compile_structure(atoms, name, "test") for name, atoms in structures.items()]
    return sorted(compiled, key=lambda p: p.prototype_id)


def synthetic_energy(prototype: Prototype, symbols: tuple[str, ...]) -> float:
    """Elements attract by how far apart they stand in a made-up scale; the prototype shifts it."""
    if len(symbols) == 1:
        return 0.01 * prototype.nsites
    scale = {"Li": -1.0, "Mg": -0.4, "Al": 0.3, "Si": 1.0}
    shift = {"halite": 0.1, "fluorite": -0.05}.get(prototype.name, 0.0)
    return -0.2 * (scale[symbols[0]] - scale[symbols[1]]) ** 2 + shift


def empty_row(name: str) -> dict[str, Any]:
    def value(column):
        kind = str(column.type)
        if column.null:
            return None
        if kind.startswith(("list", "map")):
            return []
        if kind.startswith("fixed_size_list"):
            return [0] * column.type.list_size
        return {"string": "", "bool": False}.get(kind, 0)

    return {column.name: value(column) for column in TABLES[name].columns}


def rows_of(
    prototype: Prototype, symbols: tuple[str, ...], energy: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    atoms = decorations.decorate(prototype, symbols)
    candidate = ids.candidate_id(prototype.prototype_id, symbols)
    common = row_from_atoms(atoms) | {
        "calculation_id": "k1-" + candidate,
        "candidate_id": candidate,
        "prototype_id": prototype.prototype_id,
        "functional": "PBE",
    }
    calculation = {
        key: v for key, v in (empty_row("calculations") | common).items() if key in empty_row("calculations")
    }
    placed = common | {"formation_energy_per_atom": energy, "e_above_hull": 0.1, "hull_status": "ok"}
    hull = {key: v for key, v in (empty_row("hull") | placed).items() if key in empty_row("hull")}
    return calculation, hull


def campaign(folder: Path, limit: int | None = None, change=None) -> dict[str, Any]:
    """Write a prototypes table and the tables of a round on synthetic energies."""
    known = prototypes()
    pairs = []
    for prototype in known:
        ranks = np.arange(Decorations(prototype, ELEMENTS).count)
        for row in Decorations(prototype, ELEMENTS).unrank(ranks):
            symbols = tuple(ELEMENTS[at] for at in row)
            pairs.append(rows_of(prototype, symbols, synthetic_energy(prototype, symbols)))
    pairs = pairs[:limit]
    if change is not None:
        change(pairs)
    tables.write(folder / "prototypes.parquet", "prototypes", [prototype.row() for prototype in known])
    tables.write(folder / "calculations.parquet", "calculations", [calculation for calculation, _ in pairs])
    tables.write(folder / "hull.parquet", "hull", [hull for _, hull in pairs])
    return {
        "prototypes": folder / "prototypes.parquet",
        "calculations": [folder / "calculations.parquet"],
        "hull": folder / "hull.parquet",
    }


def settings(**training) -> TrainSettings:
    return TrainSettings(
        training=Training(**{"epochs": 60, "ensemble": 2, **training}), elements=ELEMENTS, seed=3
    )


def metrics_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())


def test_training_learns_a_synthetic_target(tmp_path):
    files = campaign(tmp_path)
    train.run(settings(epochs=150, validation_share=0.15), **files, out=tmp_path / "screener")
    found = metrics_of(tmp_path / "screener")
    records, _ = data.load(prototypes(), files["calculations"], files["hull"], 8.0)
    spread = float(np.abs(records.target - np.median(records.target)).mean())
    assert found["n_train"] + found["n_validation"] + found["n_test"] == len(records) == 4 + 4 + 6 + 12 + 6
    assert found["train"]["mae"] < 0.2 * spread
    assert found["validation"]["mae"] < 0.7 * spread
    assert found["train"]["mae_volume_relative"] < 0.02
    assert found["seen_elements"] == list(ELEMENTS)


def test_the_same_records_give_the_same_bytes(tmp_path):
    files = campaign(tmp_path)
    state = torch.random.get_rng_state()
    for name in ("one", "two"):
        torch.rand(1)
        train.run(settings(epochs=5), **files, out=tmp_path / name)
    torch.random.set_rng_state(state)
    for file in ("model.pt", "metrics.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_members_differ_and_the_caller_keeps_its_random_state(tmp_path):
    files = campaign(tmp_path, limit=6)
    before = torch.random.get_rng_state()
    train.run(settings(epochs=2), **files, out=tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    one, two = (member.state_dict() for member in model.load(tmp_path / "model.pt").members)
    assert not torch.equal(one["elements.learned"], two["elements.learned"])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_few_records_are_enough_to_go_on(tmp_path, number):
    files = campaign(tmp_path, limit=number)
    train.run(settings(epochs=3, validation_share=0.9, test_share=0), **files, out=tmp_path)
    found = metrics_of(tmp_path)
    assert found["n_train"] + found["n_validation"] == number
    assert (found["n_train"] == 0) == (number == 0)
    assert found["notes"]
    screener = model.load(tmp_path / "model.pt")
    table = model.GraphTable(prototypes())
    predicted = screener.predict_mixed(table, np.array([0]), POOL[None, :2])
    assert np.isfinite(predicted.energy).all()
    assert (predicted.uncertainty > 0).all()


def test_what_is_dropped_is_counted(tmp_path):
    def change(pairs):
        pairs[0][1]["formation_energy_per_atom"] = 9.0
        pairs[1][0]["protocol_drift"] = ["relax1:encut=300"]
        pairs[2][1].update(hull_status="missing_reference", formation_energy_per_atom=None)
        pairs[3][1]["prototype_id"] = "no such prototype"
        again = [dict(row) for row in pairs[4]]
        for row in again:
            row["calculation_id"] += "-again"
        again[1]["formation_energy_per_atom"] -= 1.0
        pairs.append(tuple(again))

    files = campaign(tmp_path, limit=12, change=change)
    records, dropped = data.load(prototypes(), files["calculations"], files["hull"], 8.0)
    assert dropped == data.Dropped(not_placed=1, protocol_drift=1, not_found=1, repeated=1, outliers=1)
    assert len(records) == 8
    assert records.target.min() < -0.9


def test_a_decoration_is_found_whatever_the_order_of_the_sites():
    prototype = next(p for p in prototypes() if p.name == "fluorite")
    symbols = ("Si", "Mg")
    numbers = decorations.decorate(prototype, symbols).numbers
    candidate = ids.candidate_id(prototype.prototype_id, symbols)
    for order in (numbers, numbers[::-1], np.sort(numbers)):
        assert data.decoration(prototype, order.tolist(), candidate) == (14, 12)
    assert data.decoration(prototype, numbers.tolist(), "c1-another") is None
    assert data.decoration(prototype, [12, 12], candidate) is None


def names(records: data.Records) -> set[tuple[int, ...]]:
    return {(int(p), *map(int, s)) for p, s in zip(records.prototype, records.species, strict=True)}


@pytest.mark.parametrize("by", ["structure", "composition", "prototype"])
def test_split_does_not_move_when_records_are_added(tmp_path, by):
    few = campaign(tmp_path / "few", limit=15)
    many = campaign(tmp_path / "many")
    sides = []
    for files in (few, many):
        records, _ = data.load(prototypes(), files["calculations"], files["hull"], 8.0)
        _, validation, test = data.split(records, prototypes(), 0.3, 0.2, by, seed=1)
        sides.append([names(part) for part in (records, validation, test)])
    (few_all, *few_held), (_, *many_held) = sides
    for few_part, many_part in zip(few_held, many_held, strict=True):
        assert few_part == many_part & few_all
    assert many_held[0] or many_held[1]


def small_screener() -> model.Screener:
    torch.manual_seed(0)
    members = [model.Network(train.PRESETS["tiny"]) for _ in range(2)]
    return model.Screener(members, model.Normalisation(-0.3, 0.4, 0.02, 0.05), ELEMENTS, 1.7)


def test_a_model_file_rebuilds_itself(tmp_path):
    screener = small_screener()
    screener.save(tmp_path / "model.pt")
    again = model.load(tmp_path / "model.pt")
    table = model.GraphTable(prototypes())
    index, species = np.array([0, 3]), np.array([[3, 12], [13, 14]])
    before, after = (s.predict_mixed(table, index, species) for s in (screener, again))
    np.testing.assert_array_equal(before.energy, after.energy)
    np.testing.assert_array_equal(before.uncertainty, after.uncertainty)
    again.save(tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()
    # Equal names that are other objects: pickle must not tell.
    again.seen = [bytes(symbol, "ascii").decode() for symbol in again.seen]
    again.save(tmp_path / "other.pt")
    assert (tmp_path / "other.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_model_file_cut_short_is_refused(tmp_path, share):
    path = tmp_path / "model.pt"
    small_screener().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="train again"):
        model.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "cgat-1", "format"),
        ("element_table", ["H", "He"], "table of elements"),
        ("ensemble", [], "do not match"),
        ("normalisation", {"mean": 0}, "do not match"),
    ],
)
def test_a_model_file_that_does_not_fit_is_refused(tmp_path, key, value, message):
    path = tmp_path / "model.pt"
    small_screener().save(path)
    content = torch.load(path, weights_only=True)
    content[key] = value
    torch.save(content, path)
    with pytest.raises(ModelError, match=message):
        model.load(path)


def test_weights_of_another_shape_and_an_absent_file_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    small_screener().save(path)
    content = torch.load(path, weights_only=True)
    content["arguments"]["width"] = 16
    torch.save(content, path)
    with pytest.raises(ModelError, match="do not match"):
        model.load(path)
    with pytest.raises(ModelError, match="no such model file"):
        model.load(tmp_path / "absent.pt")


def test_unseen_elements_are_loud_and_uncertain():
    screener = small_screener()
    with pytest.warns(model.UnseenElementWarning, match="never seen Fe"):
        assert screener.warn_about(["Li", "Fe"]) == ["Fe"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert screener.warn_about(ELEMENTS) == []
    table = model.GraphTable(prototypes())
    index = np.array([3, 3, 3])
    known, one, two = screener.predict_mixed(table, index, np.array([[3, 12], [3, 26], [27, 26]])).uncertainty
    assert max(known, model.UNSEEN_ELEMENT) < one < two
    assert two > 1.3 * model.UNSEEN_ELEMENT


def test_uncertainty_is_calibrated_by_the_validation_records():
    records = data.Records(
        np.full(40, 3, np.int32),
        np.tile(np.array([3, 12], np.uint8), (40, 1)),
        np.linspace(-3, 3, 40, dtype=np.float32),
        np.zeros(40, np.float32),
    )
    screener = small_screener()
    screener.temperature = 1.0
    table = model.GraphTable(prototypes())
    screener.temperature = train.temperature(screener, table, records)
    predicted = train.predict(screener, table, records)
    z = (predicted.energy - records.target) / predicted.uncertainty
    assert np.square(z).mean() == pytest.approx(1, rel=0.15)


def test_few_records_calibrate_by_cross_validation_and_all_of_them_train(tmp_path):
    files = campaign(tmp_path)
    few = {"epochs": 20, "ensemble": 1, "validation_share": 0.0, "test_share": 0.0}
    train.run(settings(**few), **files, out=tmp_path / "plain")
    train.run(
        settings(**few, calibration_folds=3), **files, out=tmp_path / "crossed", checkpoint=tmp_path / "state"
    )
    plain, crossed = metrics_of(tmp_path / "plain"), metrics_of(tmp_path / "crossed")
    assert plain["temperature"] == 1.0
    assert any("not calibrated" in note for note in plain["notes"])
    assert not any("not calibrated" in note for note in crossed["notes"])
    assert crossed["n_train"] == plain["n_train"] == 32
    # The networks are those that train without it; only what they say of their uncertainty differs.
    before, after = (model.load(tmp_path / name / "model.pt") for name in ("plain", "crossed"))
    assert after.temperature == crossed["temperature"] != 1.0
    states = before.members[0].state_dict(), after.members[0].state_dict()
    for name in states[0]:
        if not name.startswith("out."):
            assert torch.equal(states[0][name], states[1][name]), name
    for row, same in enumerate((True, False, True)):  # mean, log standard deviation, volume
        assert torch.equal(states[0]["out.weight"][row], states[1]["out.weight"][row]) is same
    assert crossed["cross_validation"]["n"] == 32
    assert crossed["cross_validation"]["mae"] > crossed["train"]["mae"]
    assert not list(tmp_path.glob("state*"))


def errors_by_latent(spread: float, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Latents of `small_screener`'s width, and errors that grow with the first of them where `spread` is not 0."""
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(n, small_screener().members[0].out.in_features))
    return latent, rng.normal(size=n) * np.exp(spread * latent[:, 0] - 2)


def told(member, latent: np.ndarray) -> np.ndarray:
    row, bias = (x[1].detach().double().numpy() for x in (member.out.weight, member.out.bias))
    return latent @ row + bias


def test_the_uncertainty_learns_where_errors_are_large():
    member = small_screener().members[0]
    latent, errors = errors_by_latent(spread=0.8)
    means = member.out.weight[0].detach().clone()
    calibrate.refit(member, latent[:2000], errors[:2000])
    unseen = latent[2000:]
    assert np.corrcoef(told(member, unseen), unseen[:, 0])[0, 1] > 0.95
    assert np.mean(told(member, unseen)) == pytest.approx(-2, abs=0.2)
    assert torch.equal(member.out.weight[0], means)


def test_errors_that_tell_nothing_move_the_level_of_the_uncertainty_alone():
    member = small_screener().members[0]
    latent, errors = errors_by_latent(spread=0.0)
    before = told(member, latent)
    with torch.no_grad():  # errors of the size that the network says, but for a level
        errors = errors * np.exp(before)
    calibrate.refit(member, latent[:2000], errors[:2000])
    assert np.std(told(member, latent) - before) < 0.1
    assert np.mean(told(member, latent) - before) == pytest.approx(-2, abs=0.2)


@pytest.mark.parametrize("errors", [[], [0.1], [0.0, 0.0, 0.0]])
def test_too_few_errors_leave_the_uncertainty_as_trained(errors):
    member = small_screener().members[0]
    latent, _ = errors_by_latent(0.0, len(errors))
    before = told(member, latent)
    calibrate.refit(member, latent, np.array(errors))
    assert np.array_equal(told(member, latent), before)


def test_what_is_left_out_of_a_fold_is_not_learned_by_it(tmp_path):
    files = campaign(tmp_path)
    records, _ = data.load(prototypes(), files["calculations"], files["hull"], 8.0)
    part = data.folds(records, prototypes(), 3, "structure", 3)
    assert set(part) == {0, 1, 2}
    few = data.folds(records.take(np.arange(5, len(records))), prototypes(), 3, "structure", 3)
    assert (few == part[5:]).all()
    training = Training(epochs=5, ensemble=1, validation_share=0, test_share=0, calibration_folds=3)
    table = model.GraphTable(prototypes())
    told = train.cross_validated(table, records, part, training, 3)
    # A record that is moved far off changes what is said of others, never what is said of itself.
    target = records.target.copy()
    target[np.flatnonzero(part == 0)[0]] += 5
    changed = train.cross_validated(table, dataclasses.replace(records, target=target), part, training, 3)
    same = told.energy == changed.energy
    n_first = int((part == 0).sum())
    assert same[:n_first].all()
    assert not same[n_first:].any()
    z = (told.energy - told.target) / (told.temperature * told.uncertainty)
    assert np.square(z).mean() == pytest.approx(1, rel=0.3)


def killed_after(monkeypatch, epochs: int) -> None:
    """Let training end like a killed process after some epochs, with a checkpoint after each."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL_S", 0.0)
    save, count = train._Run._save, iter(range(10**6))

    def saved(self, progress):
        save(self, progress)
        if next(count) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(train._Run, "_save", saved)


@pytest.mark.parametrize("epochs", [2, 6])
@pytest.mark.parametrize("schedule", ["one_cycle", "cyclical"])
def test_a_killed_training_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, epochs, schedule):
    files, chosen = campaign(tmp_path), settings(epochs=5, batch_size=8, schedule=schedule)
    train.run(chosen, **files, out=tmp_path / "whole")
    checkpoint = tmp_path / "work" / "screener.checkpoint"
    with monkeypatch.context() as patched:
        killed_after(patched, epochs)
        with pytest.raises(KeyboardInterrupt):
            train.run(chosen, **files, out=tmp_path / "resumed", checkpoint=checkpoint)
    assert checkpoint.is_file()
    with monkeypatch.context() as patched:
        done = []
        step = train.loss
        patched.setattr(train, "loss", lambda *a: done.append(1) or step(*a))
        train.run(chosen, **files, out=tmp_path / "resumed", checkpoint=checkpoint)
    assert not checkpoint.exists()
    for file in ("model.pt", "metrics.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()
    batches = -(-metrics_of(tmp_path / "whole")["n_train"] // 8)
    assert len(done) == (2 * 5 - epochs - 1) * batches


def test_a_checkpoint_that_is_broken_or_of_other_records_is_left_alone(tmp_path, monkeypatch, caplog):
    files, chosen = campaign(tmp_path), settings(epochs=3)
    checkpoint = tmp_path / "screener.checkpoint"
    with monkeypatch.context() as patched:
        killed_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            train.run(chosen, **files, out=tmp_path / "a", checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    train.run(settings(epochs=4), **files, out=tmp_path / "b", checkpoint=checkpoint)
    assert "other records or settings" in caplog.text
    checkpoint.write_bytes(content[: len(content) // 2])
    train.run(chosen, **files, out=tmp_path / "c", checkpoint=checkpoint)
    assert "not a whole checkpoint" in caplog.text


def test_a_warm_start_goes_on_from_the_last_round(tmp_path):
    files = campaign(tmp_path)
    train.run(settings(epochs=60), **files, out=tmp_path / "first")
    warm = settings(epochs=1, start="last_round")
    train.run(warm, **files, out=tmp_path / "warm", previous=tmp_path / "first")
    train.run(settings(epochs=1), **files, out=tmp_path / "cold")
    known, cold = metrics_of(tmp_path / "warm"), metrics_of(tmp_path / "cold")
    assert known["start"] == "last_round"
    assert known["train"]["mae"] < 0.5 * cold["train"]["mae"]
    with pytest.raises(ModelError, match=r"set training\.start: scratch"):
        train.run(
            settings(preset="small", start="last_round"),
            **files,
            out=tmp_path / "x",
            previous=tmp_path / "first",
        )


@pytest.mark.parametrize("loss", ["l1", "nll"])
def test_distances_to_the_hull_can_be_learned(tmp_path, loss):
    files = campaign(tmp_path)
    train.run(settings(epochs=80, target="e_above_hull", loss=loss), **files, out=tmp_path)
    screener = model.load(tmp_path / "model.pt")
    assert screener.target == "e_above_hull"
    table = model.GraphTable(prototypes())
    predicted = screener.predict_mixed(table, np.array([3]), np.array([[3, 12]]))
    np.testing.assert_allclose(predicted.energy, 0.1, atol=0.05)


def test_what_training_never_saw_lies_further_in_latent_space(tmp_path):
    def only_lithium_and_magnesium(pairs):
        pairs[:] = [pair for pair in pairs if set(pair[0]["numbers"]) <= {3, 12}]

    files = campaign(tmp_path, change=only_lithium_and_magnesium)
    train.run(settings(epochs=60), **files, out=tmp_path)
    screener = model.load(tmp_path / "model.pt")
    table = model.GraphTable(prototypes())
    seen, unseen = screener.predict_mixed(
        table, np.array([3, 3]), np.array([[3, 12], [13, 14]])
    ).latent_distance
    assert seen < unseen


def test_a_gpu_that_is_not_there_is_one_clear_error(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="no GPU; set it to auto or cpu"):
        train.run(settings(device="cuda"), **campaign(tmp_path), out=tmp_path)


def test_half_precision_moves_predictions_little():
    screener, half = small_screener(), small_screener()
    half.move(torch.device("cpu"), "bf16")
    table = model.GraphTable(prototypes())
    index, species = np.array([0, 3]), np.array([[3, 12], [13, 14]])
    full, rounded = (s.predict_mixed(table, index, species).energy for s in (screener, half))
    assert (full != rounded).any()
    np.testing.assert_allclose(full, rounded, atol=0.02)


def test_a_model_for_other_graphs_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    small_screener().save(path)
    content = torch.load(path, weights_only=True)
    content["graphs"]["neighbours"] = 12
    torch.save(content, path)
    with pytest.raises(ModelError, match="learned on graphs"):
        model.load(path)
