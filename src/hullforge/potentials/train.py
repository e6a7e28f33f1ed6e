"""Training of an interatomic potential on the relaxation paths of all rounds so far, with matgl.

Comes in: frames and calculations of one functional, and where the configuration says so a potential to go on from.
Goes out: a matgl model folder, which the backend `matgl` loads, with `metrics.json` and the training curve beside it.
The network learns energies per atom less the elements' reference energies, forces and stresses. On a CPU the same
frames and settings give the same bytes, also when training was killed and went on from its checkpoint. Frames of a
test structure are never trained on; they are evaluated once, at the end.
"""

import csv
import hashlib
import io
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hullforge.config import FitSettings, PotentialTraining
from hullforge.errors import ModelError
from hullforge.potentials import frames as frame_files
from hullforge.potentials.base import hash_of_files, require_elements
from hullforge.potentials.fitting import Converter, chunks, errors, predict, sample
from hullforge.potentials.fitting import loss as loss_of
from hullforge.potentials.frames import FrameFile, Sides
from hullforge.potentials.matgl import FILES, elements_of
from hullforge.store.atomic import atomic_path, read_json, write_bytes, write_json, write_text
from hullforge.store.structures import NUMBERS, SYMBOLS

log = logging.getLogger(__name__)

#: With fewer validation frames than this, their error is too noisy to choose an epoch by.
CHOOSING_FROM = 16
WEIGHT_DECAY = 1e-4
GRADIENT_LIMIT = 10.0
#: Share of the steps in which the learning rate rises, and where it ends over its peak.
WARM_UP, FLOOR = 0.05, 0.01
#: Seconds between two checkpoints.
CHECKPOINT_INTERVAL_S = 60.0
#: Architecture and arguments of each preset.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "tensornet-small": ("TensorNet", {"units": 32, "nblocks": 1, "cutoff": 5.0}),
    "tensornet": ("TensorNet", {"units": 64, "nblocks": 2, "cutoff": 5.0}),
    "m3gnet-small": (
        "M3GNet",
        {"units": 32, "nblocks": 2, "dim_node_embedding": 32, "dim_edge_embedding": 32, "cutoff": 5.0},
    ),
    "m3gnet": ("M3GNet", {"cutoff": 5.0}),
}


def run(
    settings: FitSettings,
    frames: Sequence[Path],
    calculations: Sequence[Path],
    out: Path,
    previous: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train on the frames of `settings.functional` and write the model folder `out`.

    `previous` is the model folder of the round before; `checkpoint` the file from which a killed training goes on,
    deleted at the end. Raises `TableError` for broken tables, `ModelError` for a model that can't be gone on from, for
    frames of several theories, without a frame to train on, and where training diverges.
    """
    training = settings.potential_training
    start = _start(training, previous)
    if start is not None:
        require_elements(str(start), elements_of(start), settings.elements)
        _check_split(start, settings)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch, _one_thread():
        folder = Path(scratch)
        sides = frame_files.build(frames, calculations, settings.functional, settings.curation, folder)
        if not len(sides.train):
            raise ModelError(
                f"no frame of {settings.functional} to train a potential on: {sum(sides.left_out.values())} were left"
                f" out by the curation, {len(sides.validation)} are for validation, {len(sides.test)} for tests"
            )
        with sides.train, sides.validation, sides.test:
            fitted = fit(sides, settings, start, checkpoint)
            report = {
                part: errors(fitted.network, file, fitted.references, fitted.converter)
                for part, file in (
                    ("train", sides.train),
                    ("validation", sides.validation),
                    ("test", sides.test),
                )
            }
        potential = _with_references(fitted)
        potential.save(folder / "model", metadata=_metadata(sides, settings))
        report |= _about(sides, settings, start, fitted)
        for name in FILES:
            with atomic_path(out / name) as temporary:
                temporary.write_bytes((folder / "model" / name).read_bytes())
        write_text(out / "curve.csv", _curve(fitted.history))
        write_json(out / "metrics.json", report)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)


def _start(training: PotentialTraining, previous: Path | None) -> Path | None:
    """Give the folder of the model to go on from, if any; raises `ModelError` where it lacks a file."""
    if training.start == "scratch":
        return None
    found = previous if training.start == "last_round" and previous is not None else training.model
    if found is None:
        return None
    missing = [name for name in FILES if not (Path(found) / name).is_file()]
    if missing:
        raise ModelError(
            f"potential_training: {found} is not a matgl model folder, it lacks {', '.join(missing)}"
        )
    return Path(found)


def _check_split(start: Path, settings: FitSettings) -> None:
    """Refuse to go on from a potential of ours that may have learned from what is now for tests."""
    split = (read_json(start / "model.json").get("metadata") or {}).get("split")
    now = settings.curation.split.model_dump(mode="json")
    if split is not None and split != now:
        raise ModelError(
            f"potential_training: {start} was trained with another split of the structures ({split}, now {now}), so it"
            " may have seen what is now for tests; start from scratch, or restore release.curation.split"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Add sums in one order, whatever part of the machine was given."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Fitted:
    """A network that was trained, the references that its energies lack (119,), and how it went."""

    network: Any
    references: np.ndarray
    converter: Converter
    elements: tuple[str, ...]
    history: list[dict[str, Any]]
    chosen_epoch: int


@dataclass
class _State:
    """Where training stands after a step; all that is needed to go on with the same numbers."""

    epoch: int = 0
    batch: int = 0
    losses: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    best: float = float("inf")
    best_epoch: int = 0
    best_network: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(sides: Sides, settings: FitSettings, start: Path | None, checkpoint: Path | None) -> _Fitted:
    """Train a network on `sides.train`, whose files are open; the epoch is chosen on `sides.validation`."""
    import torch

    training = settings.potential_training
    device = _device(training.device)
    network, elements = _network(settings, start, sides)
    converter = Converter(elements, float(network.model.cutoff))
    network.to(device)
    references = sides.references
    if start is not None:
        references = _references_beside(network, sides.train, converter)
    peak = training.learning_rate * (training.warm_share if start is not None else 1.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=WEIGHT_DECAY, fused=True)
    key = _key(sides, settings, start)
    state = _resumed(checkpoint, key) or _State()
    if state.network:
        network.load_state_dict(state.network)
        optimiser.load_state_dict(state.optimiser)
    batches = -(-len(sides.train) // training.batch_size)
    saved = time.monotonic()
    choosing = len(sides.validation) >= CHOOSING_FROM
    with tqdm(total=training.epochs * batches, unit="batch", desc="potential", disable=None) as bar:
        bar.update(state.epoch * batches + state.batch)
        for epoch in range(state.epoch, training.epochs):
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(sides.train))
            network.train()
            for batch in range(state.batch, batches):
                chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
                rate = peak * _share(epoch * batches + batch, training.epochs * batches)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.zero_grad()
                frames = [sides.train[number] for number in chosen.tolist()]
                loss = loss_of(predict(network, frames, references, converter), training)
                value = float(loss.detach())
                if not np.isfinite(value):
                    raise ModelError(
                        f"training of the potential diverged in epoch {epoch + 1}: the loss is {value}; lower"
                        " potential_training.learning_rate"
                    )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT)
                optimiser.step()
                state.batch, state.losses = batch + 1, state.losses + value * len(chosen)
                bar.update()
                if checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_INTERVAL_S:
                    _save(checkpoint, key, state, network, optimiser)
                    saved = time.monotonic()
            entry = {"epoch": epoch + 1, "loss": state.losses / len(sides.train), "learning_rate": rate}
            if len(sides.validation):
                entry |= _validated(network, sides.validation, references, converter, training)
            state.history.append(entry)
            if choosing and entry["validation_loss"] < state.best:
                state.best, state.best_epoch, state.best_network = (
                    entry["validation_loss"],
                    epoch + 1,
                    _copy(network),
                )
            state.epoch, state.batch, state.losses = epoch + 1, 0, 0.0
    if state.best_network is not None:
        network.load_state_dict(state.best_network)
    network.to("cpu").eval()
    chosen_epoch = state.best_epoch or len(state.history)
    return _Fitted(network, references, converter, elements, state.history, chosen_epoch)


def _share(step: int, steps: int) -> float:
    """Learning rate over its peak: a linear rise, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return float(FLOOR + (1 - FLOOR) * 0.5 * (1 + np.cos(np.pi * (step - rise) / max(1, steps - rise))))


def _copy(network: Any) -> dict[str, Any]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _device(wanted: str) -> str:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("potential_training.device: cuda, but torch sees no GPU; set it to auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _network(settings: FitSettings, start: Path | None, sides: Sides) -> tuple[Any, tuple[str, ...]]:
    """Make matgl's `Potential` without reference energies, and give it with its elements.

    From scratch its unit of energy is the root mean square of the forces, so that what a random network gives has
    the right size. Global state of the random generator is left as found.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import matgl
    import torch
    from matgl import models
    from matgl.apps.pes import Potential

    if start is not None:
        elements = elements_of(start)
        try:
            given = matgl.load_model(start)
        except (RuntimeError, ValueError, AttributeError, KeyError, OSError) as error:
            raise ModelError(
                f"potential_training: {start} can't be loaded: {error.__cause__ or error}"
            ) from error
        if given.calc_charge or given.calc_magmom:
            raise ModelError(
                f"potential_training: {start} predicts charges or moments, which frames don't hold; take a model of"
                " energies, forces and stresses"
            )
        network = Potential(
            model=given.model,
            data_mean=given.data_mean,
            data_std=given.data_std,
            calc_repuls=given.calc_repuls,
        )
        state = {name: v for name, v in given.state_dict().items() if not name.startswith("element_refs")}
        network.load_state_dict(state, strict=False)
        return network, elements
    name, arguments = PRESETS[settings.potential_training.preset]
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f"potential/{settings.seed}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        bare = getattr(models, name)(element_types=settings.elements, is_intensive=False, **arguments)
    squares = [frame.forces.ravel() for frame in sample(sides.train)]
    forces = np.concatenate(squares)
    forces = forces[np.isfinite(forces)]
    size = float(np.sqrt(np.mean(forces**2))) if len(forces) else 0.0
    return Potential(model=bare, data_std=max(size, 0.1)), tuple(settings.elements)


def _references_beside(network: Any, train: FrameFile, converter: Converter) -> np.ndarray:
    """Fit to our DFT the reference energies (119,) that a given network needs beside it, eV per atom."""
    network.eval()
    none = np.zeros(len(SYMBOLS))
    pairs = []
    for frames in chunks(sample(train)):
        said = predict(network, frames, none, converter).energy.detach().cpu().numpy().astype(float)
        pairs += [(f.numbers, f.energy - e) for f, e in zip(frames, said, strict=True)]
    return frame_files.fit_references(pairs)


def _validated(
    network: Any, file: FrameFile, references: np.ndarray, converter: Converter, training: PotentialTraining
) -> dict[str, float]:
    found = errors(network, file, references, converter, training)
    return {f"validation_{name}": value for name, value in found.items() if name != "n" and value is not None}


def _key(sides: Sides, settings: FitSettings, start: Path | None) -> str:
    """Name what a checkpoint must have been written for."""
    model = "" if start is None else hash_of_files(start / name for name in FILES)
    return hashlib.sha256(f"{settings.to_json()}/{sides.digest}/{model}".encode()).hexdigest()


def _save(checkpoint: Path, key: str, state: _State, network: Any, optimiser: Any) -> None:
    import torch

    state.network, state.optimiser = network.state_dict(), optimiser.state_dict()
    buffer = io.BytesIO()
    torch.save({"key": key, "state": vars(state)}, buffer)
    write_bytes(checkpoint, buffer.getvalue())


def _resumed(checkpoint: Path | None, key: str) -> _State | None:
    """Give the state in `checkpoint` where it is whole and of the same frames, settings and start."""
    import torch

    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if content["key"] != key:
            log.warning("%s: of other frames or settings; training starts over", checkpoint)
            return None
        state = _State(**content["state"])
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        log.warning("%s: not a whole checkpoint (%s); training starts over", checkpoint, type(error).__name__)
        return None
    log.warning("training goes on from its checkpoint: epoch %d, batch %d", state.epoch + 1, state.batch + 1)
    return state


def _with_references(fitted: _Fitted) -> Any:
    """Give matgl's `Potential` with the reference energies in it, as it is saved."""
    from matgl.apps.pes import Potential

    network = fitted.network
    potential = Potential(
        model=network.model,
        data_mean=network.data_mean,
        data_std=network.data_std,
        element_refs=[float(fitted.references[NUMBERS[symbol]]) for symbol in fitted.elements],
        calc_repuls=network.calc_repuls,
    )
    potential.load_state_dict(network.state_dict(), strict=False)
    return potential.eval()


def _metadata(sides: Sides, settings: FitSettings) -> dict[str, Any]:
    """Say what the model is, for its own file."""
    return {
        "theory": f"{settings.functional}, theory {sides.theory_id}; energies are {sides.energy} of the frames",
        "functional": settings.functional,
        "theory_id": sides.theory_id,
        "elements_trained_on": list(sides.seen),
        "frames": len(sides.train),
        "frames_sha256": sides.digest,
        "split": settings.curation.split.model_dump(mode="json"),
    }


def _about(sides: Sides, settings: FitSettings, start: Path | None, fitted: _Fitted) -> dict[str, Any]:
    training = settings.potential_training
    notes = []
    if start is not None and (read_json(start / "model.json").get("metadata") or {}).get("split") is None:
        notes.append(
            "the potential that training went on from does not say what it was trained on; it may have seen structures"
            " that are for tests here"
        )
    if len(sides.validation) < CHOOSING_FROM:
        notes.append(f"fewer than {CHOOSING_FROM} validation frames: the last epoch was taken, not the best")
    return {
        **_metadata(sides, settings),
        "energy": sides.energy,
        "start": "scratch" if start is None else training.start,
        "start_sha256": None if start is None else hash_of_files(start / name for name in FILES),
        "epochs": len(fitted.history),
        "chosen_epoch": fitted.chosen_epoch,
        "left_out": sides.left_out,
        "references": {symbol: float(fitted.references[NUMBERS[symbol]]) for symbol in sides.seen},
        "unseen_elements": [symbol for symbol in settings.elements if symbol not in sides.seen],
        "notes": notes,
    }


def _curve(history: list[dict[str, Any]]) -> str:
    """Give the training curve as CSV, a row an epoch; energies in eV/atom, forces in eV/angstrom."""
    names = list(dict.fromkeys(name for entry in history for name in entry))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return buffer.getvalue()
