"""Training of the screener on all rounds so far.

Comes in: prototypes, calculations, the hull of the first functional. Goes out: `model.pt`, an ensemble that
differs by its seeds alone, and `metrics.json`. The mean is trained with L1, which forgives outliers, the
standard deviation with the Gaussian likelihood of the residuals the mean leaves, the volume ratio beside them.
On a CPU the same records and settings give the same bytes. Few records never fail: what had to be left out,
validation and calibration for one, stands in the metrics.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from tqdm import tqdm

from hullforge.config import Training, TrainSettings
from hullforge.crystals import prototypes as crystal_prototypes
from hullforge.screening import data, metrics
from hullforge.screening.data import Records
from hullforge.screening.graphs import Batch, GraphTable
from hullforge.screening.model import LOG_STD_LIMITS, Normalisation, Prediction, Screener, threads
from hullforge.screening.network import PRESETS, Network
from hullforge.store.atomic import write_json

#: Weights of the likelihood and of the volume beside the L1 of the energy.
NLL_WEIGHT, VOLUME_WEIGHT = 0.1, 0.2
#: With fewer validation records than this, their error is too noisy to choose an epoch by.
EARLY_STOPPING_FROM = 16
#: The calibration starts from this many imagined records with an uncertainty that fits.
CALIBRATION_PRIOR = 4
WEIGHT_DECAY = 1e-2
GRADIENT_LIMIT = 1.0
#: Records per step of an evaluation.
EVALUATION_BATCH = 512


def run(settings: TrainSettings, prototypes: Path, calculations: list[Path], hull: Path, out: Path) -> None:
    """Train and write `out/model.pt` and `out/metrics.json`.

    Raises `TableError` for tables that are absent or broken; never for few records.
    """
    training = settings.training
    known = crystal_prototypes.load(prototypes)
    records, dropped = data.load(known, calculations, hull, training.max_formation_energy)
    train, validation = data.split(records, training.validation_share, settings.seed)
    # One thread: sums are then added in one order, whatever machine part the scheduler gave.
    with threads(1):
        screener, history = fit(GraphTable(known), train, validation, training, settings.seed)
        report = evaluate(screener, GraphTable(known), train, validation)
    report |= {
        "preset": training.preset,
        "ensemble": training.ensemble,
        "epochs": history,
        "dropped": asdict(dropped),
        "seen_elements": screener.seen,
        "unseen_elements": [symbol for symbol in settings.elements if symbol not in screener.seen],
        "notes": _notes(len(train), len(validation)),
    }
    screener.save(Path(out) / "model.pt")
    write_json(Path(out) / "metrics.json", report)


def _notes(n_train: int, n_validation: int) -> list[str]:
    """Say in words what few records did not allow."""
    notes = []
    if n_train == 0:
        notes.append("no record to train on: the networks are untrained and every prediction is a guess")
    if n_validation == 0:
        notes.append("no validation record: the uncertainty is not calibrated (temperature 1)")
    if n_validation < EARLY_STOPPING_FROM:
        notes.append(
            f"fewer than {EARLY_STOPPING_FROM} validation records: the last epoch was taken, not the best"
        )
    return notes


def fit(
    table: GraphTable, train: Records, validation: Records, training: Training, seed: int
) -> tuple[Screener, list[int]]:
    """Train the ensemble; gives it with the number of epochs that each member was trained."""
    scale = normalisation(train)
    members, epochs = [], []
    total = training.ensemble * training.epochs
    # Global state of the random generator is left as found.
    with (
        tqdm(total=total, unit="epoch", desc="training", disable=None) as bar,
        torch.random.fork_rng(devices=[]),
    ):
        for member in range(training.ensemble):
            digest = hashlib.sha256(f"{seed}/{member}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            network = Network(PRESETS[training.preset])
            epochs.append(
                _fit_member(network, table, train, validation, training, scale, bar) if len(train) else 0
            )
            members.append(network)
            bar.n = (member + 1) * training.epochs
            bar.refresh()
    screener = Screener(members, scale, train.elements)
    screener.temperature = temperature(screener, table, validation)
    return screener, epochs


def normalisation(train: Records) -> Normalisation:
    """Mean and spread of the targets; spreads never below what noise alone would give."""
    if not len(train):
        return Normalisation()
    energy, ratio = train.formation_energy_per_atom, train.log_volume_ratio
    ratio = ratio[np.isfinite(ratio)]
    return Normalisation(
        energy_mean=float(energy.mean()),
        energy_std=max(float(energy.std()), 0.05),
        volume_mean=float(ratio.mean()) if len(ratio) else 0.0,
        volume_std=max(float(ratio.std()), 0.02) if len(ratio) else 0.1,
    )


def _targets(records: Records, scale: Normalisation) -> tuple[Tensor, Tensor]:
    """Normalised targets (N,) each."""
    energy = (records.formation_energy_per_atom - scale.energy_mean) / scale.energy_std
    volume = (records.log_volume_ratio - scale.volume_mean) / scale.volume_std
    return torch.from_numpy(energy).float(), torch.from_numpy(volume).float()


def loss(outputs: tuple[Tensor, Tensor, Tensor], energy: Tensor, volume: Tensor) -> Tensor:
    """Loss of normalised outputs against normalised targets (N,); an unknown volume is NaN and does not count.

    The likelihood sees the mean as given: otherwise a confident network would stop correcting large errors.
    """
    mean, log_std, ratio = (x.reshape(-1) for x in outputs)
    log_std = log_std.clamp(*LOG_STD_LIMITS)
    residual = (energy - mean).detach()
    likelihood = log_std + 0.5 * (residual * torch.exp(-log_std)).square()
    known = torch.isfinite(volume)
    volume_loss = smooth_l1_loss(ratio[known], volume[known]) if bool(known.any()) else mean.new_zeros(())
    return (energy - mean).abs().mean() + NLL_WEIGHT * likelihood.mean() + VOLUME_WEIGHT * volume_loss


def _fit_member(
    network: Network,
    table: GraphTable,
    train: Records,
    validation: Records,
    training: Training,
    scale: Normalisation,
    bar: Any,
) -> int:
    """Train one member in place; gives the number of epochs."""
    energy, volume = _targets(train, scale)
    batches = -(-len(train) // training.batch_size)
    # The fused step updates all weights in one call; with hundreds of small tensors that is half of the time.
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=training.learning_rate, total_steps=training.epochs * batches + 1
    )
    choosing = len(validation) >= EARLY_STOPPING_FROM
    patience = max(20, training.epochs // 4)
    best, best_epoch, best_state = np.inf, 0, None
    whole = table.mixed(train.prototype, train.species) if batches == 1 else None
    for epoch in range(1, training.epochs + 1):
        network.train()
        for rows in (
            torch.randperm(len(train)).split(training.batch_size)
            if whole is None
            else [torch.arange(len(train))]
        ):
            chosen = rows.numpy()
            batch: Batch = whole or table.mixed(train.prototype[chosen], train.species[chosen])
            optimiser.zero_grad()
            loss(network(batch), energy[rows], volume[rows]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT)
            optimiser.step()
            schedule.step()
        bar.update()
        if not choosing:
            continue
        error = _error(network, table, validation, scale)
        if error < best:
            best, best_epoch = error, epoch
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - best_epoch >= patience:
            break
    if best_state is not None:
        network.load_state_dict(best_state)
    return epoch


def _error(network: Network, table: GraphTable, records: Records, scale: Normalisation) -> float:
    """Mean absolute error of one member's energies, eV/atom."""
    predicted = predict(Screener([network], scale, []), table, records)
    return float(np.abs(predicted.formation_energy_per_atom - records.formation_energy_per_atom).mean())


def predict(screener: Screener, table: GraphTable, records: Records) -> Prediction:
    """Predict the records, in their order."""
    parts = [
        screener.predict_mixed(
            table, records.prototype[at : at + EVALUATION_BATCH], records.species[at : at + EVALUATION_BATCH]
        )
        for at in range(0, len(records), EVALUATION_BATCH)
    ]
    if not parts:
        return Prediction(np.zeros(0), np.zeros(0), np.zeros(0))
    names = ("formation_energy_per_atom", "uncertainty", "volume_ratio")
    return Prediction(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def temperature(screener: Screener, table: GraphTable, validation: Records) -> float:
    """Find the factor on the uncertainty that makes the validation records most likely.

    `CALIBRATION_PRIOR` imagined records keep a handful of lucky ones from making it tiny.
    """
    if not len(validation):
        return 1.0
    predicted = predict(screener, table, validation)
    z = (predicted.formation_energy_per_atom - validation.formation_energy_per_atom) / predicted.uncertainty
    squares = float(np.square(z).sum())
    return float(np.sqrt((squares + CALIBRATION_PRIOR) / (len(validation) + CALIBRATION_PRIOR)))


def evaluate(screener: Screener, table: GraphTable, train: Records, validation: Records) -> dict[str, Any]:
    """Errors, calibration and temperature; None for what no record can tell."""
    report: dict[str, Any] = {"temperature": screener.temperature}
    for name, records in (("train", train), ("validation", validation)):
        predicted = predict(screener, table, records)
        true = records.formation_energy_per_atom
        report[f"n_{name}"] = len(records)
        report[name] = {
            **metrics.errors(true, predicted.formation_energy_per_atom),
            "coverage": metrics.coverage(true, predicted.formation_energy_per_atom, predicted.uncertainty),
            "mae_volume_relative": metrics.finite_mean(
                np.abs(predicted.volume_ratio / np.exp(records.log_volume_ratio) - 1)
            ),
        }
    return report
