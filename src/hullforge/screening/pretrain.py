"""The stage `pretrain`: a screener that has learned from a potential, for the first training to go on from.

Comes in: prototypes and the table `labels`. Goes out: `model.pt` and `metrics.json`, as from training. What is learned
is the energy that the potential gives to a candidate, less a sum over its elements that is fitted to the labels: a
potential's energies of the elements are as good as any others there, and DFT's own scale takes their place when
training goes on. The labels choose weights to start from; no record of training and no hull contains one.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hullforge.config import TrainSettings
from hullforge.crystals import prototypes as crystal_prototypes
from hullforge.crystals.prototypes import Prototype
from hullforge.crystals.volume import estimated_volumes_per_atom
from hullforge.screening import data, train
from hullforge.screening.data import Records
from hullforge.screening.graphs import GraphTable
from hullforge.screening.model import threads
from hullforge.store import tables
from hullforge.store.atomic import write_json
from hullforge.store.structures import NUMBERS, SYMBOLS
from hullforge.store.vocabulary import PrerelaxStatus

#: Share of the labels that the epoch is chosen by.
VALIDATION_SHARE = 0.05


@dataclass(frozen=True)
class Used:
    """How many labels there are, and why some are no records."""

    labels: int
    without_energy: int  # the potential failed, or the scan found no lowest energy
    not_found: int  # the prototype is not in the table
    outliers: int  # beyond the limit of the target


def run(
    settings: TrainSettings, prototypes: Path, labels: Path, out: Path, checkpoint: Path | None = None
) -> None:
    """Train on the labels; write `out/model.pt` and `out/metrics.json`. Raises `TableError`, never for few labels."""
    training = settings.training
    known = crystal_prototypes.load(prototypes)
    records, used = load(known, labels, training.max_target)
    learned, validation, _ = data.split(records, known, VALIDATION_SHARE, 0.0, "structure", settings.seed)
    steps = training.model_copy(update={"epochs": training.pretrain.epochs})
    table = GraphTable(known)
    with threads(1):
        screener, history = train.fit(table, learned, validation, steps, settings.seed, checkpoint=checkpoint)
        report = train.evaluate(screener, table, {"train": learned, "validation": validation})
    backends = sorted(set(tables.read(labels, "labels", ["backend"]).column("backend").to_pylist()))
    screener.save(Path(out) / "model.pt")
    write_json(
        Path(out) / "metrics.json",
        report | {"used": vars(used), "labelled_by": backends, "history": history, "seen_elements": screener.seen},
    )  # fmt: skip
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)


def load(prototypes: list[Prototype], labels: Path, max_target: float) -> tuple[Records, Used]:
    """Read the labels as records, with what the composition alone explains taken off; eV/atom."""
    rows = tables.read_rows(labels, "labels")
    index = {prototype.prototype_id: at for at, prototype in enumerate(prototypes)}
    good = [
        r for r in rows if r["status"] == PrerelaxStatus.CONVERGED.value and r["energy_per_atom"] is not None
    ]
    found = [row for row in good if row["prototype_id"] in index]
    which = np.array([index[row["prototype_id"]] for row in found], dtype=np.int32)
    species = np.zeros((len(found), max((p.nspecies for p in prototypes), default=1)), dtype=np.uint8)
    shares = np.zeros((len(found), len(SYMBOLS)))
    ratio = np.full(len(found), np.nan, dtype=np.float32)
    for at, row in enumerate(found):
        prototype = prototypes[which[at]]
        numbers = [NUMBERS[symbol] for symbol in row["species"]]
        species[at, : len(numbers)] = numbers
        shares[at, numbers] = prototype.species_counts / prototype.nsites
        if row["volume_per_atom"] is not None:
            estimate = estimated_volumes_per_atom(np.array([numbers]), prototype.species_counts)[0]
            ratio[at] = np.log(row["volume_per_atom"] / estimate)
    target = without_elements(np.array([row["energy_per_atom"] for row in found]), shares)
    keep = np.abs(target) <= max_target
    records = Records(which, species, target.astype(np.float32), ratio).take(np.flatnonzero(keep))
    return records, Used(len(rows), len(rows) - len(good), len(good) - len(found), int((~keep).sum()))


def without_elements(energies: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Take the sum over elements that fits best off `energies` (N,); `shares` (N, elements) are atomic fractions."""
    if not len(energies):
        return energies
    present = shares.any(axis=0)
    fitted = np.linalg.lstsq(shares[:, present], energies, rcond=None)[0]
    return np.asarray(energies - shares[:, present] @ fitted)
