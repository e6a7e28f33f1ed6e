"""A potential that is trained on relaxation paths: what it learns from, what it never sees, and that it is found again."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("matgl")

from benchmarks import emt_frames
from hullforge import cli
from hullforge.config import Curation, FitSettings, PotentialTraining, Prerelax, Split
from hullforge.errors import ModelError
from hullforge.potentials import base, fitting, train
from hullforge.potentials import frames as frame_files
from hullforge.store import tables

FILES = ("curve.csv", "metrics.json", "model.json", "model.pt", "state.pt")
CURATION = Curation(split=Split(validation=0.25, test=0.25, seed=3))


def settings(**changes):
    training = PotentialTraining(**({"epochs": 2, "batch_size": 4, "device": "cpu"} | changes))
    return FitSettings(
        potential_training=training, curation=CURATION, functional="PBE", elements=emt_frames.ELEMENTS, seed=1
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    presets = {"tensornet-small": ("TensorNet", {"units": 8, "nblocks": 1, "cutoff": 3.5})}
    monkeypatch.setattr(train, "PRESETS", presets)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return emt_frames.make(tmp_path_factory.mktemp("paths"), number=20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, paths):
    out = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        presets = {"tensornet-small": ("TensorNet", {"units": 8, "nblocks": 1, "cutoff": 3.5})}
        patch.setattr(train, "PRESETS", presets)
        train.run(settings(epochs=6), [paths[0]], [paths[1]], out)
    return out


def test_the_folder_is_a_potential_of_the_backend_and_as_good_as_its_metrics_say(trained, paths, tmp_path):
    """References, the factor of 160.2 and the sign of stress: all of them are wrong here, or none."""
    metrics = json.loads((trained / "metrics.json").read_text())
    potential = base.load(Prerelax(backend="matgl", model=trained), emt_frames.ELEMENTS)
    assert "PBE" in potential.describe().theory
    assert "emt-1" in potential.describe().theory
    sides = frame_files.build([paths[0]], [paths[1]], "PBE", CURATION, tmp_path)
    from ase import Atoms

    with sides.test:
        frames = list(sides.test)
    said = potential.evaluate(
        [Atoms(f.numbers, cell=f.cell, positions=f.positions, pbc=True) for f in frames]
    )
    energy = [(e.energy - f.energy) / len(f.numbers) for e, f in zip(said, frames, strict=True)]
    forces = np.concatenate([(e.forces - f.forces).ravel() for e, f in zip(said, frames, strict=True)])
    stress = np.concatenate(
        [np.delete(_full(e.stress - f.stress), []) for e, f in zip(said, frames, strict=True)]
    )
    found = metrics["test"]
    assert found["n"] == len(frames) > 0
    assert np.abs(energy).mean() == pytest.approx(found["mae_energy_per_atom"], rel=1e-3, abs=1e-5)
    assert np.abs(forces).mean() == pytest.approx(found["mae_force"], rel=1e-3)
    assert np.abs(stress).mean() == pytest.approx(found["mae_stress"], rel=1e-3)


def _full(voigt):
    return voigt[[0, 5, 4, 5, 1, 3, 4, 3, 2]]


def test_training_learns(trained):
    rows = (trained / "curve.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,loss,learning_rate")
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]


def test_a_killed_training_goes_on_to_the_same_bytes(paths, tmp_path, monkeypatch):
    whole, resumed, checkpoint = tmp_path / "whole", tmp_path / "resumed", tmp_path / "checkpoint"
    train.run(settings(), [paths[0]], [paths[1]], whole)
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL_S", -1.0)
    real, calls = train.loss_of, []

    def dies(*args):
        calls.append(None)
        if len(calls) in (6, 9):  # in the first epoch, and again after going on
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "loss_of", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.run(settings(), [paths[0]], [paths[1]], resumed, checkpoint=checkpoint)
        assert checkpoint.is_file()
        assert not resumed.exists()
    train.run(settings(), [paths[0]], [paths[1]], resumed, checkpoint=checkpoint)
    assert not checkpoint.exists()
    for name in FILES:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "whole"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", None])
def test_a_checkpoint_of_something_else_is_left_alone(content, paths, tmp_path, caplog):
    checkpoint = tmp_path / "checkpoint"
    if content is None:
        import torch

        torch.save({"key": "another", "state": {}}, checkpoint)
    else:
        checkpoint.write_bytes(content)
    assert train._resumed(checkpoint, "key") is None
    assert "starts over" in caplog.text


def test_a_warm_start_goes_on_and_its_references_are_fitted_again(trained, paths, tmp_path):
    """The second round's energies have another zero, which must not be learned by the network."""
    rows = tables.read_rows(paths[0], "frames")
    for row in rows:
        row["energy"] = row["free_energy"] = row["energy"] - 100.0 * len(row["numbers"])
    tables.write(tmp_path / "frames.parquet", "frames", rows)
    out = tmp_path / "model"
    train.run(
        settings(start="last_round", epochs=1),
        [tmp_path / "frames.parquet"],
        [paths[1]],
        out,
        previous=trained,
    )
    before, after = (json.loads((path / "metrics.json").read_text()) for path in (trained, out))
    assert after["start"] == "last_round"
    assert after["references"]["Cu"] == pytest.approx(before["references"]["Cu"] - 100, abs=0.5)
    assert after["train"]["mae_energy_per_atom"] < 1.5 * before["train"]["mae_energy_per_atom"] + 0.01


def test_a_given_potential_is_fine_tuned_and_the_doubt_about_its_past_is_said(trained, paths, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("model.pt", "state.pt"):
        (foreign / name).write_bytes((trained / name).read_bytes())
    described = json.loads((trained / "model.json").read_text()) | {"metadata": None}
    (foreign / "model.json").write_text(json.dumps(described))
    train.run(settings(start="model", model=foreign, epochs=1), [paths[0]], [paths[1]], tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert any("may have seen structures" in note for note in metrics["notes"])


def test_a_model_that_was_split_otherwise_is_refused(trained, paths, tmp_path):
    other = settings(start="last_round").model_copy(update={"curation": Curation(split=Split(seed=4))})
    with pytest.raises(ModelError, match="may have seen what is now for tests"):
        train.run(other, [paths[0]], [paths[1]], tmp_path / "out", previous=trained)


def test_a_model_that_lacks_an_element_of_the_pool_is_refused(trained, paths, tmp_path):
    more = settings(start="last_round").model_copy(update={"elements": ("Al", "Cu", "Au", "Ni")})
    with pytest.raises(ModelError, match="does not know Au"):
        train.run(more, [paths[0]], [paths[1]], tmp_path / "out", previous=trained)


def test_no_frame_to_train_on_is_an_error_that_counts_them(paths, tmp_path):
    none = settings().model_copy(update={"curation": Curation(energy_per_atom=(40, 50))})
    with pytest.raises(ModelError, match=r"no frame of PBE to train a potential on: 60 were left out"):
        train.run(none, [paths[0]], [paths[1]], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_frames_of_two_theories_never_meet(paths, tmp_path):
    rows = tables.read_rows(paths[1], "calculations")
    rows[0]["theory_id"] = "emt-2"
    tables.write(tmp_path / "calculations.parquet", "calculations", rows)
    with pytest.raises(ModelError, match=r"2 theories \(emt-1, emt-2\)"):
        train.run(settings(), [paths[0]], [tmp_path / "calculations.parquet"], tmp_path / "out")


def test_frames_without_forces_or_stress_and_layers(paths, tmp_path):
    rows = tables.read_rows(paths[0], "frames")
    for row in rows[:30]:
        row["forces"] = row["stress"] = None
    rows[40]["pbc"] = [True, True, False]
    rows[41]["free_energy"] = None
    tables.write(tmp_path / "frames.parquet", "frames", rows)
    out = tmp_path / "out"
    train.run(settings(epochs=1), [tmp_path / "frames.parquet"], [paths[1]], out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["left_out"] == {"not_periodic": 1}
    assert metrics["energy"] == "energy"
    assert np.isfinite(metrics["train"]["mae_force"])


def test_reference_energies_are_found_where_energies_are_sums():
    pairs = [(np.array(z), float(sum(emt_frames.OFFSETS[n] for n in z))) for z in emt_frames.compositions()]
    found = frame_files.fit_references(pairs)
    assert {n: pytest.approx(found[n]) for n in emt_frames.OFFSETS} == emt_frames.OFFSETS
    assert not found[[1, 8, 26]].any()


def test_the_graph_is_matgls_own():
    from ase import Atoms
    from matgl.ext.ase import Atoms2Graph

    rng = np.random.default_rng(0)
    atoms = emt_frames.atoms_of([13, 29, 29], rng)
    nan = np.full((3, 3), np.nan)
    frame = frame_files.Frame(atoms.numbers, atoms.cell.array, atoms.positions, 0.0, nan, np.full(6, np.nan))
    ours, _ = fitting.Converter(emt_frames.ELEMENTS, 5.0)([frame])
    theirs, _, _ = Atoms2Graph(emt_frames.ELEMENTS, 5.0).get_graph(Atoms(atoms))
    assert (ours.edge_index == theirs.edge_index).all()
    assert (ours.pbc_offset == theirs.pbc_offset).all()
    assert (ours.node_type == theirs.node_type).all()
    assert np.allclose(ours.frac_coords, theirs.frac_coords, atol=1e-6)


def test_the_stage_is_called_from_the_command_line(paths, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(train, "run", lambda *args: given.append(args))
    argv = [
        "fit",
        "--settings",
        settings().to_json(),
        "--frames",
        str(paths[0]),
        "--calculations",
        str(paths[1]),
    ]
    monkeypatch.setattr(sys, "argv", ["hullforge", *argv])
    assert not cli.main([*argv, "--out", str(tmp_path / "m")])
    assert given[0][0] == settings()
    assert given[0][1] == [paths[0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"start": "model"}, "needs potential_training.model"), ({"model": "somewhere"}, "not used with start")],
)
def test_settings_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PotentialTraining(**changes)
