"""Training of the screener on all rounds so far.

Comes in: prototypes, calculations, the hull of the first functional, and where the configuration says so the
screener of the round before. Goes out: `model.pt`, an ensemble that differs by its seeds alone, and
`metrics.json`. The mean is trained with L1, which forgives outliers, the standard deviation with the Gaussian
likelihood of the residuals the mean leaves, the volume ratio beside them. On a CPU the same records and settings
give the same bytes, also when training was killed and went on from its checkpoint. Few records never fail: what
had to be left out, validation and calibration for one, stands in the metrics.
"""

import hashlib
import logging
import pickle
import time
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from tqdm import tqdm

from hullforge.config import Training, TrainSettings
from hullforge.crystals import prototypes as crystal_prototypes
from hullforge.errors import ModelError
from hullforge.screening import calibrate, data, elements, metrics, model
from hullforge.screening.data import Records
from hullforge.screening.graphs import GraphTable
from hullforge.screening.model import LOG_STD_LIMITS, Landmarks, Normalisation, Prediction, Screener, threads
from hullforge.screening.network import PRESETS, Arguments, Network
from hullforge.store.atomic import write_bytes, write_json
from hullforge.store.structures import NUMBERS

log = logging.getLogger(__name__)

#: Weights of the likelihood and of the volume beside the L1 of the energy.
NLL_WEIGHT, VOLUME_WEIGHT = 0.1, 0.2
#: With fewer validation records than this, their error is too noisy to choose an epoch by.
EARLY_STOPPING_FROM = 16
#: Members of an ensemble that is trained without a part of the records, for its errors on that part alone.
CROSSED_MEMBERS = 2
#: The calibration starts from this many imagined records with an uncertainty that fits.
CALIBRATION_PRIOR = 4
WEIGHT_DECAY = 1e-2
GRADIENT_LIMIT = 1.0
#: CGAT's cycles: so many epochs from the lowest learning rate to the next lowest, and the lowest over the peak.
CYCLE_EPOCHS, CYCLE_FLOOR = 130, 0.1
#: Peak of the learning rate of a warm start, over that of a cold one: what is known should not be shaken off.
WARM_SHARE = 0.3
#: The same for weights that a potential taught, which has more to be corrected.
PRETRAINED_SHARE = 0.5
#: Records per step of an evaluation.
EVALUATION_BATCH = 512
#: Points that stand for the training set in the latent space, and the most records that they are chosen among.
LANDMARKS, LANDMARK_RECORDS = 256, 20_000
#: Seconds between two checkpoints.
CHECKPOINT_INTERVAL_S = 60.0


def run(
    settings: TrainSettings,
    prototypes: Path,
    calculations: list[Path],
    hull: Path,
    out: Path,
    previous: Path | None = None,
    checkpoint: Path | None = None,
    pretrained: Path | None = None,
) -> None:
    """Train and write `out/model.pt` and `out/metrics.json`.

    `previous` is the folder of the screener that a warm start goes on from, `pretrained` that of one that learned
    from a potential, used where there is no `previous`; `checkpoint` is the file from which a killed training
    goes on; it is deleted at the end. Raises `TableError` for tables that are absent or broken,
    `ModelError` for a `previous` of another preset and a GPU that is not there; never for few records.
    """
    training = settings.training
    known = crystal_prototypes.load(prototypes)
    records, dropped = data.load(known, calculations, hull, training.max_target, training.target)
    train, validation, test = data.split(
        records, known, training.validation_share, training.test_share, training.split_by, settings.seed
    )
    table = GraphTable(known)
    # One thread: sums are then added in one order, whatever machine part the scheduler gave.
    with threads(1):
        start, taught = None, None
        if previous is not None:
            start = model.load(Path(previous) / "model.pt")
        elif pretrained is not None:
            taught = rescaled(model.load(Path(pretrained) / "model.pt"), train, training.target)
        share = WARM_SHARE if taught is None else PRETRAINED_SHARE
        screener, history = fit(
            table, train, validation, training, settings.seed, start or taught, checkpoint, share
        )
        crossed = None
        if training.calibration_folds:
            parts = data.folds(train, known, training.calibration_folds, training.split_by, settings.seed)
            crossed = cross_validated(table, train, parts, training, settings.seed, checkpoint, taught)
            crossed = calibrated(screener, table, train, crossed)
        report = evaluate(screener, table, {"train": train, "validation": validation, "test": test})
    report |= {
        "cross_validation": None if crossed is None else crossed.report(),
        "preset": training.preset,
        "target": training.target,
        "ensemble": training.ensemble,
        "start": "last_round" if start is not None else "pretrained" if taught is not None else "scratch",
        "epochs": [len(member) for member in history],
        "history": history,
        "dropped": asdict(dropped),
        "seen_elements": screener.seen,
        "unseen_elements": [symbol for symbol in settings.elements if symbol not in screener.seen],
        "notes": _notes(len(train), len(validation), 0 if crossed is None else len(crossed.target)),
    }
    screener.move(torch.device("cpu")).save(Path(out) / "model.pt")
    write_json(Path(out) / "metrics.json", report)
    if checkpoint is not None:
        for path in (checkpoint, *_fold_checkpoints(checkpoint, training.calibration_folds)):
            Path(path).unlink(missing_ok=True)


def _notes(n_train: int, n_validation: int, n_crossed: int) -> list[str]:
    """Say in words what few records did not allow."""
    notes = []
    if n_train == 0:
        notes.append("no record to train on: the networks are untrained and every prediction is a guess")
    if n_validation == 0 and n_crossed == 0:
        notes.append("no validation record: the uncertainty is not calibrated (temperature 1)")
    if n_validation < EARLY_STOPPING_FROM:
        notes.append(
            f"fewer than {EARLY_STOPPING_FROM} validation records: the last epoch was taken, not the best"
        )
    return notes


def fit(
    table: GraphTable,
    train: Records,
    validation: Records,
    training: Training,
    seed: int,
    start: Screener | None = None,
    checkpoint: Path | None = None,
    warm_share: float = WARM_SHARE,
) -> tuple[Screener, list[list[dict[str, float | None]]]]:
    """Train the ensemble; gives it with the history of each member, an entry per epoch.

    `start` are networks to go on from, with `warm_share` of the peak learning rate; raises `ModelError` when they
    have another shape.
    """
    arguments = PRESETS[training.preset]
    if start is not None and (start.members[0].arguments != arguments or start.target != training.target):
        raise ModelError(
            "training can't go on from a screener of another preset or target than the configuration's; it has"
            f" {start.members[0].arguments} and {start.target}: set training.start: scratch, or delete what was"
            " pre-trained"
        )
    scale = normalisation(train) if start is None else start.normalisation
    device = model.device(training.device)
    run = _Run(table, train, validation, training, scale, device, seed, warm_share)
    run.open(checkpoint, start)
    total = training.ensemble * training.epochs
    # Global state of the random generator is left as found.
    with (
        tqdm(total=total, unit="epoch", desc="training", disable=None) as bar,
        torch.random.fork_rng(devices=[]),
    ):
        for member in range(training.ensemble):
            bar.n = member * training.epochs
            if member < len(run.done):
                continue
            network = _network(arguments, seed, member, None if start is None else start.members)
            run.done.append(run.fit(network, bar) if len(train) else _Member(network.state_dict(), []))
        bar.n = total
        bar.refresh()
        members = [Network(arguments) for _ in run.done]
    for network, finished in zip(members, run.done, strict=True):
        network.load_state_dict(finished.state)
    screener = Screener(members, scale, train.elements, target=training.target).move(device)
    screener.landmarks = landmarks(screener, table, train)
    screener.temperature = temperature(screener, table, validation)
    return screener, [finished.history for finished in run.done]


def _network(arguments: Arguments, seed: int, member: int, start: list[Network] | None) -> Network:
    """Make a member: random weights of its own seed, or those of the member that it goes on from."""
    digest = hashlib.sha256(f"{seed}/{member}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    network = Network(arguments)
    network.elements.describe(torch.from_numpy(elements.descriptors()))
    if start is not None:
        network.load_state_dict(start[member % len(start)].state_dict())
    return network


def normalisation(train: Records) -> Normalisation:
    """Mean and spread of the targets; spreads never below what noise alone would give."""
    if not len(train):
        return Normalisation()
    energy, ratio = train.target.astype(float), train.log_volume_ratio.astype(float)
    ratio = ratio[np.isfinite(ratio)]
    return Normalisation(
        energy_mean=float(energy.mean()),
        energy_std=max(float(energy.std()), 0.05),
        volume_mean=float(ratio.mean()) if len(ratio) else 0.0,
        volume_std=max(float(ratio.std()), 0.02) if len(ratio) else 0.1,
    )


def rescaled(screener: Screener, train: Records, target: data.Target) -> Screener:
    """Put networks that a potential taught on the scale of DFT's targets, which is all that is asked of it."""
    scale = normalisation(train) if len(train) else screener.normalisation
    return Screener(screener.members, scale, [], target=target)


def _targets(records: Records, scale: Normalisation) -> tuple[Tensor, Tensor]:
    """Normalised targets (N,) each."""
    energy = (records.target.astype(float) - scale.energy_mean) / scale.energy_std
    volume = (records.log_volume_ratio.astype(float) - scale.volume_mean) / scale.volume_std
    return torch.from_numpy(energy).float(), torch.from_numpy(volume).float()


def loss(outputs: Any, energy: Tensor, volume: Tensor, kind: str = "l1") -> Tensor:
    """Loss of normalised `Outputs` against normalised targets (N,); an unknown volume is NaN and does not count.

    `l1`: the likelihood sees the mean as given, otherwise a confident network would stop correcting large errors.
    `nll`: the likelihood alone trains both.
    """
    mean, log_std, ratio = (x.reshape(-1) for x in (outputs.mean, outputs.log_std, outputs.volume))
    log_std = log_std.clamp(*LOG_STD_LIMITS)
    residual = energy - mean if kind == "nll" else (energy - mean).detach()
    likelihood = (log_std + 0.5 * (residual * torch.exp(-log_std)).square()).mean()
    known = torch.isfinite(volume)
    volume_loss = smooth_l1_loss(ratio[known], volume[known]) if bool(known.any()) else mean.new_zeros(())
    energy_loss = likelihood if kind == "nll" else (energy - mean).abs().mean() + NLL_WEIGHT * likelihood
    return energy_loss + VOLUME_WEIGHT * volume_loss


@dataclass
class _Member:
    """A member whose training has ended."""

    state: dict[str, Tensor]
    history: list[dict[str, float | None]]


@dataclass
class _Progress:
    """Where the training of one member stands after an epoch; all that is needed to go on with the same numbers."""

    network: dict[str, Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    random: Tensor
    best: float
    best_epoch: int
    best_state: dict[str, Tensor] | None
    history: list[dict[str, float | None]]


@dataclass
class _Run:
    """The training of one ensemble, its checkpoint included."""

    table: GraphTable
    train: Records
    validation: Records
    training: Training
    scale: Normalisation
    device: torch.device
    seed: int
    warm_share: float = WARM_SHARE
    done: list[_Member] = field(default_factory=list)
    checkpoint: Path | None = None
    progress: _Progress | None = None
    warm: bool = False
    _key: str = ""
    _saved: float = 0.0

    def open(self, checkpoint: Path | None, start: Screener | None) -> None:
        """Go on from `checkpoint` where it is whole and of the same records, settings and start."""
        self.warm = start is not None
        digest = hashlib.sha256(self.training.to_json().encode() + str(self.seed).encode())
        for records in (self.train, self.validation):
            for array in (records.prototype, records.species, records.target, records.log_volume_ratio):
                digest.update(np.ascontiguousarray(array).tobytes())
        if start is not None:
            for member in start.members:
                for value in member.state_dict().values():
                    digest.update(value.cpu().numpy().tobytes())
        self._key, self.checkpoint = digest.hexdigest(), checkpoint
        self._saved = time.monotonic()
        if checkpoint is None or not Path(checkpoint).is_file():
            return
        try:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
            if content["key"] != self._key:
                log.warning("%s: of other records or settings; training starts over", checkpoint)
                return
            self.done = [_Member(**member) for member in content["done"]]
            self.progress = None if content["progress"] is None else _Progress(**content["progress"])
        except (
            RuntimeError,
            pickle.UnpicklingError,
            EOFError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            log.warning(
                "%s: not a whole checkpoint (%s); training starts over", checkpoint, type(error).__name__
            )
            self.done, self.progress = [], None
            return
        epoch = 0 if self.progress is None else len(self.progress.history)
        log.warning(
            "training goes on from its checkpoint: %d members done, epoch %d of the next",
            len(self.done),
            epoch,
        )

    def _save(self, progress: _Progress) -> None:
        if self.checkpoint is None or time.monotonic() - self._saved < CHECKPOINT_INTERVAL_S:
            return
        content = {
            "key": self._key,
            "done": [vars(member) for member in self.done],
            "progress": vars(progress),
        }
        buffer = BytesIO()
        torch.save(content, buffer)
        write_bytes(self.checkpoint, buffer.getvalue())
        self._saved = time.monotonic()

    def fit(self, network: Network, bar: Any) -> _Member:
        """Train one member in place."""
        training, train = self.training, self.train
        network.to(self.device)
        energy, volume = (x.to(self.device) for x in _targets(train, self.scale))
        batches = -(-len(train) // training.batch_size)
        rate = training.learning_rate * (self.warm_share if self.warm else 1.0)
        # The fused step updates all weights in one call; with hundreds of small tensors that is half of the time.
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        schedule = _schedule(optimiser, training, rate, batches)
        choosing = len(self.validation) >= EARLY_STOPPING_FROM
        patience = max(20, training.epochs // 4)
        best, best_epoch, best_state = float("inf"), 0, None
        history: list[dict[str, float | None]] = []
        if self.progress is not None:
            found, self.progress = self.progress, None
            network.load_state_dict(found.network)
            optimiser.load_state_dict(found.optimiser)
            schedule.load_state_dict(found.schedule)
            torch.set_rng_state(found.random)
            best, best_epoch, best_state = found.best, found.best_epoch, found.best_state
            history = found.history
            bar.n += len(history)
        whole = self.table.mixed(train.prototype, train.species).to(self.device) if batches == 1 else None
        while len(history) < training.epochs:
            network.train()
            losses = torch.zeros((), device=self.device)
            order = torch.randperm(len(train)) if whole is None else torch.arange(len(train))
            for rows in order.split(training.batch_size):
                chosen = rows.numpy()
                batch = whole or self.table.mixed(train.prototype[chosen], train.species[chosen]).to(
                    self.device
                )
                at = rows.to(self.device)
                optimiser.zero_grad()
                step = loss(network(batch), energy[at], volume[at], training.loss)
                step.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT)
                optimiser.step()
                schedule.step()
                losses += step.detach() * len(rows)
            bar.update()
            error = self._error(network) if len(self.validation) else None
            history.append({"loss": float(losses) / len(train), "validation_mae": error})
            if choosing and error is not None:
                if error < best:
                    best, best_epoch, best_state = error, len(history), _copy(network)
                elif len(history) - best_epoch >= patience:
                    break
            self._save(
                _Progress(
                    network.state_dict(),
                    optimiser.state_dict(),
                    schedule.state_dict(),
                    torch.get_rng_state(),
                    best,
                    best_epoch,
                    best_state,
                    history,
                )
            )
        return _Member(best_state or _copy(network), history)

    def _error(self, network: Network) -> float:
        """Mean absolute error of one member's energies on the validation part, eV/atom."""
        screener = Screener([network], self.scale, [])
        screener.device = self.device
        predicted = predict(screener, self.table, self.validation)
        return float(np.abs(predicted.energy - self.validation.target).mean())


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _schedule(optimiser: Any, training: Training, rate: float, batches: int) -> Any:
    """Give the schedule of the learning rate, stepped once a batch."""
    if training.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=rate, total_steps=training.epochs * batches + 1
        )
    half = max(1, CYCLE_EPOCHS * batches // 2)
    return torch.optim.lr_scheduler.CyclicLR(
        optimiser, base_lr=CYCLE_FLOOR * rate, max_lr=rate, step_size_up=half, cycle_momentum=False
    )


def predict(screener: Screener, table: GraphTable, records: Records) -> Prediction:
    """Predict the records, in their order."""
    parts = [
        screener.predict_mixed(
            table, records.prototype[at : at + EVALUATION_BATCH], records.species[at : at + EVALUATION_BATCH]
        )
        for at in range(0, len(records), EVALUATION_BATCH)
    ]
    names = ("energy", "uncertainty", "volume_ratio", "latent_distance")
    if not parts:
        return Prediction(*(np.zeros(0) for _ in names))
    return Prediction(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def landmarks(screener: Screener, table: GraphTable, train: Records) -> list[Landmarks]:
    """Choose, for each member, points of its latent space that cover the training set: farthest point first.

    The unit is the median distance between a record and its nearest neighbour among the records, so that a
    candidate at distance 1 is as close to the training set as the training set is to itself.
    """
    if not len(train):
        return []
    rows = np.arange(len(train))
    if len(train) > LANDMARK_RECORDS:
        rows = np.sort(np.random.default_rng(0).choice(len(train), LANDMARK_RECORDS, replace=False))
    found = []
    for member in screener.members:
        latent = _latent(member, screener.device, table, train.take(rows))
        centre = (latent - latent.mean(0)).square().sum(1)
        chosen = [int(centre.argmin())]
        distance = (latent - latent[chosen[0]]).square().sum(1)
        while len(chosen) < min(LANDMARKS, len(latent)) and float(distance.max()) > 0:
            chosen.append(int(distance.argmax()))
            distance = torch.minimum(distance, (latent - latent[chosen[-1]]).square().sum(1))
        sample = latent[:: max(1, len(latent) // 1000)]
        nearest = torch.cdist(sample, latent).sort(1).values[:, 1] if len(latent) > 1 else sample.new_ones(1)
        unit = float(nearest.median()) or 1.0
        found.append(Landmarks(latent[chosen].clone(), unit))
    return found


def _latent(member: Network, device: torch.device, table: GraphTable, records: Records) -> Tensor:
    parts = []
    with torch.inference_mode():
        for at in range(0, len(records), EVALUATION_BATCH):
            batch = table.mixed(
                records.prototype[at : at + EVALUATION_BATCH], records.species[at : at + EVALUATION_BATCH]
            )
            parts.append(member(batch.to(device)).latent.flatten(0, 1))
    return torch.cat(parts)


def temperature(screener: Screener, table: GraphTable, validation: Records) -> float:
    """Find the factor on the uncertainty that makes the validation records most likely."""
    predicted = predict(screener, table, validation)
    return _temperature((predicted.energy - validation.target) / predicted.uncertainty)


def _temperature(z: np.ndarray) -> float:
    """Give the factor from errors over uncertainties (N,); 1 without any.

    `CALIBRATION_PRIOR` imagined records keep a handful of lucky ones from making it tiny.
    """
    if not len(z):
        return 1.0
    return float(np.sqrt((float(np.square(z).sum()) + CALIBRATION_PRIOR) / (len(z) + CALIBRATION_PRIOR)))


@dataclass(frozen=True)
class Crossed:
    """What ensembles said of N records that they had not seen, eV/atom, and which factor the uncertainty needs."""

    rows: np.ndarray  # (N,) their places among the records
    target: np.ndarray  # (N,)
    energy: np.ndarray  # (N,)
    uncertainty: np.ndarray  # (N,) before the factor
    temperature: float

    def report(self) -> dict[str, Any]:
        """Give errors, and the coverage of the calibrated uncertainty."""
        return {
            "n": len(self.target),
            **metrics.errors(self.target, self.energy),
            "coverage": metrics.coverage(self.target, self.energy, self.temperature * self.uncertainty),
        }


def _fold_checkpoints(checkpoint: Path, number: int) -> list[Path]:
    return [Path(f"{checkpoint}.fold-{fold}") for fold in range(number)]


def cross_validated(
    table: GraphTable,
    records: Records,
    part: np.ndarray,
    training: Training,
    seed: int,
    checkpoint: Path | None = None,
    taught: Screener | None = None,
) -> Crossed:
    """Train an ensemble without each part of the records, and ask it for that part.

    `part` (N,) is the part of each record. The ensembles start from random weights, or from those that a potential
    taught: those of the round before may have seen what is left out. They have fewer records, and at most
    `CROSSED_MEMBERS` members, so what is learned from their errors errs on the side of caution. Records with an element that is in no other part don't count: their uncertainty is
    enlarged by a constant, not by the factor.
    """
    found = []
    checkpoints = None if checkpoint is None else _fold_checkpoints(checkpoint, training.calibration_folds)
    fewer = training.model_copy(update={"ensemble": min(training.ensemble, CROSSED_MEMBERS)})
    if taught is not None:
        members = taught.members[: fewer.ensemble]
        taught = Screener(members, taught.normalisation, taught.seen, target=taught.target)
    for number in range(training.calibration_folds):
        train, held = records.take(part != number), np.flatnonzero(part == number)
        if not len(train) or not len(held):
            continue
        path = None if checkpoints is None else checkpoints[number]
        none = records.take(np.zeros(0, dtype=int))
        ensemble, _ = fit(table, train, none, fewer, seed, taught, path, PRETRAINED_SHARE)
        known = np.isin(records.species[held], [0, *(NUMBERS[symbol] for symbol in ensemble.seen)])
        held = held[known.all(axis=1)]
        predicted = predict(ensemble, table, records.take(held))
        found.append((held, records.target[held].astype(float), predicted.energy, predicted.uncertainty))
    rows, target, energy, uncertainty = (
        np.concatenate(column) if found else np.zeros(0)
        for column in (zip(*found, strict=True) if found else ((), (), (), ()))
    )
    return Crossed(
        rows.astype(int), target, energy, uncertainty, _temperature((energy - target) / uncertainty)
    )


def calibrated(screener: Screener, table: GraphTable, records: Records, crossed: Crossed) -> Crossed:
    """Let `screener` learn its uncertainty from the errors of `crossed` on `records`; gives those with what it says.

    The log standard deviations of each member are fitted anew, and the factor after them. The members agree on
    records that they were trained on, so their spread, which new candidates have beside it, is not in the factor.
    """
    if not len(crossed.rows):
        return crossed
    asked, unit = records.take(crossed.rows), screener.normalisation.energy_std
    errors = crossed.energy - crossed.target
    variance = np.zeros(len(errors))
    for member in screener.members:
        latent = _latent(member, screener.device, table, asked).double().cpu().numpy()
        calibrate.refit(member, latent, errors / unit)
        row, bias = (x[1].detach().double().cpu().numpy() for x in (member.out.weight, member.out.bias))
        variance += np.exp(2 * (latent @ row + bias).clip(*LOG_STD_LIMITS)) / len(screener.members)
    uncertainty = np.sqrt(variance) * unit
    screener.temperature = _temperature(errors / uncertainty)
    return replace(crossed, uncertainty=uncertainty, temperature=screener.temperature)


def evaluate(screener: Screener, table: GraphTable, parts: dict[str, Records]) -> dict[str, Any]:
    """Errors, calibration and temperature on the named parts; None for what no record can tell."""
    report: dict[str, Any] = {"temperature": screener.temperature}
    for name, records in parts.items():
        predicted = predict(screener, table, records)
        report[f"n_{name}"] = len(records)
        report[name] = {
            **metrics.errors(records.target, predicted.energy),
            "coverage": metrics.coverage(records.target, predicted.energy, predicted.uncertainty),
            "mae_volume_relative": metrics.finite_mean(
                np.abs(predicted.volume_ratio / np.exp(records.log_volume_ratio) - 1)
            ),
        }
    return report
