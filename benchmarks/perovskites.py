"""How well heats of formation of cubic perovskites are predicted from prototype and elements alone.

Comes in: `perovskites_dev.csv`, ABX3 crystals with RPBE heats of formation of Castelli et al., Energy Environ. Sci.
5, 5814 and 9034 (2012), in the folder `HULLFORGE_DATA` names. Goes out: the mean absolute error of `heat_all`, eV per
5-atom cell, over five folds, at several sizes of the training set, of the screener and of two baselines trained in
the same run on the same rows. Every model is structure-blind: it is told which elements are on A, B and the anion
sites, and never sees the relaxed cell.

Folds and training subsets are drawn by hashes of the rows' ids, so every run and every model has the same ones, and
the subsets are nested. The bound: the screener's error is at most 0.125 eV with 80 % of the rows, and its
uncertainties rank its errors with a Spearman correlation above 0.4.

The screener's side is the module `perovskites_screener`: `screener_predictions(train, test, seed)` gives predictions
and uncertainties of the test rows, each (T,) in eV per cell, learned from the rows alone; `pretrained_predictions` the
same after pre-training on a potential's labels. The bound is judged on the latter where CHGNet is installed. Without
that module the baselines alone are measured.
"""

import csv
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import perovskites_baselines, runner

FILE = "perovskites_dev.csv"
FOLDS = 5
#: Parts of all rows that are trained on; the last is all that a fold leaves.
SHARES = (0.1, 0.2, 0.4, 0.8)
SEED = 1
PRETRAINED = "screener_pretrained"
MAX_ERROR, MIN_CORRELATION = 0.125, 0.4

ATOM = re.compile(r"^\s+([A-Z][a-z]?)\s+\S+\s+1\s+(-?[\d.]+)\s+(-?[\d.]+)\s+(-?[\d.]+)\s+1\s*$", re.MULTILINE)
#: Fractional coordinates across the axis along which the cells of the file are distorted: the two cations at corner
#: and centre, the anions at the face centres.
COLUMNS = np.array([[0, 0], [0.5, 0.5], [0, 0.5], [0.5, 0], [0.5, 0.5]])

#: Predictions and their uncertainties, eV per cell, of the rows to test: (training, test, seed) -> (T,), (T,).
Model = Callable[[Sequence["Row"], Sequence["Row"], int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Row:
    """A cubic perovskite: symbols of the cations and of the anions in order of atomic number, `heat` in eV per cell."""

    material_id: str
    a: str
    b: str
    anions: tuple[str, str, str]
    heat: float


@dataclass(frozen=True)
class Score:
    """Errors of one model at one size of the training set, pooled over folds, and what it took."""

    predicted: np.ndarray  # (T,) eV per cell
    uncertainty: np.ndarray  # (T,) eV per cell, NaN where the model has none
    heat: np.ndarray  # (T,) eV per cell
    folds: int
    seconds: float

    @property
    def error(self) -> float:
        """Mean absolute error, eV per cell."""
        return float(np.abs(self.predicted - self.heat).mean())

    @property
    def correlation(self) -> float | None:
        """Spearman correlation of uncertainties with absolute errors, or None without uncertainties."""
        if np.isnan(self.uncertainty).any():
            return None
        from scipy.stats import spearmanr

        return float(spearmanr(self.uncertainty, np.abs(self.predicted - self.heat)).statistic)


def data_file() -> Path:
    """Give the path of the data. Raises `UnavailableError` where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HULLFORGE_DATA", beside))
    if not (folder / FILE).is_file():
        raise runner.UnavailableError(
            f"{folder / FILE} does not exist; name the folder that holds {FILE} in the environment variable HULLFORGE_DATA"
        )
    return folder / FILE


def load_rows(path: Path | None = None) -> list[Row]:
    """Read all rows, in the order of the file; the site that an element is on is told from the geometry.

    Raises `ValueError` naming the row whose atoms are not those of a distorted cubic perovskite, or two rows of one
    decoration.
    """
    rows: list[Row] = []
    known: dict[tuple[str, str, tuple[str, str, str]], str] = {}
    with Path(path or data_file()).open(newline="") as file:
        for line in csv.DictReader(file):
            a, b, anions = sites(line["cif"], line["material_id"])
            row = Row(line["material_id"], a, b, anions, float(line["heat_all"]))
            twin = known.setdefault((a, b, anions), row.material_id)
            if twin != row.material_id:
                raise ValueError(
                    f"materials {twin} and {row.material_id} are one decoration, {a} {b} {anions}"
                )
            rows.append(row)
    return rows


def sites(cif: str, material_id: str) -> tuple[str, str, tuple[str, str, str]]:
    """Give the elements on A and B and on the three anion sites, these sorted by atomic number.

    The octahedral cation B is the one whose nearest shell holds all three anions: its farthest anion is nearer than
    that of A, also in the cells that are polar. Raises `ValueError` for anything but a cubic cell of five atoms, two
    at corner and centre and three at face centres, where each may be displaced along x.
    """
    from hullforge.store.structures import NUMBERS

    atoms = ATOM.findall(cif)
    angles = set(re.findall(r"_cell_angle_\w+\s+([\d.]+)", cif))
    lengths = set(re.findall(r"_cell_length_\w+\s+([\d.]+)", cif))
    if len(atoms) != len(COLUMNS) or len(lengths) != 1 or {float(angle) for angle in angles} != {90.0}:
        raise ValueError(f"material {material_id}: not a cubic cell of five atoms")
    symbols = [atom[0] for atom in atoms]
    positions = np.array([atom[1:] for atom in atoms], dtype=float)
    off = positions[:, 1:] - COLUMNS
    if np.abs(off - np.round(off)).max() > 0.01:
        raise ValueError(f"material {material_id}: the atoms are not those of a cubic perovskite")
    apart = positions[:2, None] - positions[None, 2:]
    farthest = np.linalg.norm(apart - np.round(apart), axis=-1).max(axis=1)
    # The centre is in line with an anion along x, however far the cell is displaced; the shells must agree.
    if not farthest[1] < farthest[0]:
        raise ValueError(f"material {material_id}: it can't be told which cation the anions surround")
    first, second, third = sorted(symbols[2:], key=NUMBERS.__getitem__)
    return symbols[0], symbols[1], (first, second, third)


def folds(rows: Sequence[Row], share: float) -> Iterator[tuple[list[Row], list[Row]]]:
    """Give training and test rows of each fold; `share` of all rows are trained on, the same ones in every run."""
    for number in range(FOLDS):
        test = [row for row in rows if _hash("fold", row) % FOLDS == number]
        rest = sorted(
            (row for row in rows if _hash("fold", row) % FOLDS != number), key=lambda r: _hash("share", r)
        )
        yield rest[: round(len(rest) * share * FOLDS / (FOLDS - 1))], test


def _hash(purpose: str, row: Row) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{row.material_id}".encode()).digest()[:8])


def evaluate(model: Model, rows: Sequence[Row], share: float, n_folds: int) -> Score:
    """Train and test a model on the first `n_folds` folds with `share` of the rows."""
    start = time.process_time()
    parts = []
    for number, (train, test) in zip(range(n_folds), folds(rows, share), strict=False):
        predicted, uncertainty = model(train, test, SEED + number)
        parts.append((predicted, uncertainty, np.array([row.heat for row in test])))
    predicted, uncertainty, heat = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Score(predicted, uncertainty, heat, n_folds, time.process_time() - start)


def run(*, long: bool) -> runner.Outcome:
    """Train all models at all sizes: all folds at the last size, one fold at the others unless `long`."""
    runner.package("sklearn", "scikit-learn")
    import torch

    torch.set_num_threads(1)
    rows = load_rows()
    models: dict[str, Model] = dict(perovskites_baselines.MODELS)
    screener = runner.seam("perovskites_screener")
    if screener is not None:
        models["screener"] = screener.screener_predictions
        if find_spec("chgnet") is not None:
            models[PRETRAINED] = screener.pretrained_predictions
    scores: dict[tuple[str, float], Score] = {}
    for share in SHARES:
        for name, model in models.items():
            n_folds = FOLDS if long or share == SHARES[-1] else 1
            scores[name, share] = evaluate(model, rows, share, n_folds)
            print(
                f"{name}, {share:.0%} of the rows: {scores[name, share].error:.4f} eV",
                file=sys.stderr,
                flush=True,
            )
    heats = np.array([row.heat for row in rows])
    print(f"{len(rows)} rows; mean absolute error of heat_all, eV per 5-atom cell; always the mean: "
          f"{np.abs(heats - heats.mean()).mean():.3f}")  # fmt: skip
    print(runner.table(
        ["model", *(f"{share:.0%} of rows" for share in SHARES), "Spearman of uncertainty and error", "CPU s"],
        [
            [name, *(scores[name, share].error for share in SHARES), scores[name, SHARES[-1]].correlation,
             scores[name, SHARES[-1]].seconds]
            for name in models
        ],
    ))  # fmt: skip
    outcome = _outcome(scores, list(models))
    if PRETRAINED not in models:
        return outcome
    taught = screener.taught()  # type: ignore[union-attr]  # it is there: its predictions are
    print(f"pre-trained on {taught.labels} labels of CHGNet, {taught.labelling_s:.0f} CPU s (0: kept from an earlier run),"
          f" in {taught.training_s:.0f} CPU s; never on a heat of the rows to test")  # fmt: skip
    figures = {**outcome.figures, "labels": taught.labels, "labelling_cpu_s": taught.labelling_s}
    return replace(outcome, figures=figures | {"pretraining_cpu_s": taught.training_s})


def _outcome(scores: dict[tuple[str, float], Score], models: Sequence[str]) -> runner.Outcome:
    figures: dict[str, float | None] = {
        f"{name}_mae_eV_per_cell_at_{share:.0%}".replace("%", "_percent"): scores[name, share].error
        for name in models
        for share in SHARES
    }
    for name in models:
        figures[f"{name}_spearman_of_uncertainty"] = scores[name, SHARES[-1]].correlation
    best = min(perovskites_baselines.MODELS, key=lambda name: scores[name, SHARES[-1]].error)
    if "screener" not in models:
        return runner.Outcome(figures, holds=None)
    ours = scores[PRETRAINED if PRETRAINED in models else "screener", SHARES[-1]]
    holds = ours.error <= MAX_ERROR and (ours.correlation or 0) > MIN_CORRELATION
    peer = f"error of the better structure-blind baseline, {best}"
    return runner.Outcome(figures, holds, scores[best, SHARES[-1]].error / ours.error, peer)
