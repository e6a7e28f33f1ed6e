"""Structure-blind baselines for `perovskites`: a plain perceptron and gradient-boosted trees.

Comes in: training and test rows and a seed. Goes out: predicted heats of formation and their uncertainties, eV per
5-atom cell. The perceptron knows which element is on which site, by learned and by tabulated features of the
elements; the trees know the composition and the tabulated features of A and B, or the composition alone.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from benchmarks.perovskites import Row

MEMBERS = 4
LEARNED, HIDDEN = 16, (256, 256, 128)
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 120, 64, 2e-3, 0.05


@lru_cache(maxsize=1)
def properties() -> np.ndarray:
    """Give tabulated features of the elements up to Pu (119, P), standardised over these; 0 where there is none."""
    from pymatgen.core import Element

    from hullforge.store.structures import SYMBOLS

    def row(element: Element) -> list[float]:
        states = element.common_oxidation_states or element.oxidation_states or (0,)
        return [
            element.Z, element.group, element.row, element.mendeleev_no, element.X, element.electron_affinity,
            element.ionization_energies[0] if element.ionization_energies else np.nan,
            element.atomic_radius or np.nan, element.atomic_radius_calculated or np.nan,
            element.average_ionic_radius or np.nan, float(element.atomic_mass), min(states), max(states),
            element.is_transition_metal, element.molar_volume or np.nan,
        ]  # fmt: skip

    table = np.full((len(SYMBOLS), 15), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # radii that nobody has measured
        table[1:95] = [row(Element(symbol)) for symbol in SYMBOLS[1:95]]
    mean, std = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    return np.nan_to_num((table - mean) / std)


def _numbers(rows: Sequence["Row"]) -> np.ndarray:
    """Give the atomic numbers on A, B and the anion sites (R, 5)."""
    from hullforge.store.structures import NUMBERS

    return np.array([[NUMBERS[symbol] for symbol in (row.a, row.b, *row.anions)] for row in rows])


def _heats(rows: Sequence["Row"]) -> np.ndarray:
    return np.array([row.heat for row in rows])


class Perceptron(nn.Module):
    """Learned and tabulated features of the five elements, side by side, through three hidden layers."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        table = torch.from_numpy(properties()).float()
        self.register_buffer("table", table)
        self.learned = nn.Embedding(len(table), LEARNED)
        sizes = (5 * (LEARNED + table.shape[1]), *HIDDEN)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Map atomic numbers (R, 5) to normalised heats (R,)."""
        features = torch.cat([self.learned(numbers), self.table[numbers]], dim=-1)
        return self.layers(features.flatten(1))[:, 0]


def perceptrons(train: Sequence["Row"], test: Sequence["Row"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train `MEMBERS` perceptrons; gives their mean and their spread over the test rows."""
    numbers, heats = torch.from_numpy(_numbers(train)), _heats(train)
    mean, std = heats.mean(), heats.std()
    targets = torch.from_numpy((heats - mean) / std).float()
    asked = torch.from_numpy(_numbers(test))
    predicted = []
    for member in range(MEMBERS):
        generator = torch.Generator().manual_seed(1000 * seed + member)
        torch.manual_seed(1000 * seed + member)
        model = Perceptron()
        steps = EPOCHS * -(-len(train) // BATCH)
        optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(train), generator=generator).split(BATCH):
                optimiser.zero_grad()
                nn.functional.smooth_l1_loss(model(numbers[batch]), targets[batch], beta=0.3).backward()
                optimiser.step()
                schedule.step()
        with torch.inference_mode():
            predicted.append(model(asked).double().numpy() * std + mean)
    return np.mean(predicted, axis=0), np.std(predicted, axis=0)


def trees(train: Sequence["Row"], test: Sequence["Row"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit gradient-boosted trees on features of composition and cations; they give no uncertainty."""
    return _boosted(_sites(train), _heats(train), _sites(test), seed)


def trees_composition_only(
    train: Sequence["Row"], test: Sequence["Row"], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit gradient-boosted trees that can't tell ABX3 from BAX3; they give no uncertainty."""
    return _boosted(_composition(train), _heats(train), _composition(test), seed)


def _boosted(
    known: np.ndarray, heats: np.ndarray, asked: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=600, learning_rate=0.05, l2_regularization=1.0, random_state=seed
    )
    predicted = model.fit(known, heats).predict(asked)
    return predicted, np.full(len(asked), np.nan)


def _composition(rows: Sequence["Row"]) -> np.ndarray:
    """Give the mean, deviation, least and greatest of each property over the atoms, and the number of each anion."""
    numbers = _numbers(rows)
    features = properties()[numbers]
    anions = np.stack([(numbers[:, 2:] == z).sum(axis=1) for z in (7, 8, 9, 16)], axis=1)
    return np.concatenate(
        [features.mean(axis=1), features.std(axis=1), features.min(axis=1), features.max(axis=1), anions],
        axis=1,
    )


def _sites(rows: Sequence["Row"]) -> np.ndarray:
    """Give the features of the composition, then those of A and of B."""
    cations = properties()[_numbers(rows)[:, :2]]
    return np.concatenate([_composition(rows), cations[:, 0], cations[:, 1]], axis=1)


MODELS: dict[str, Callable[[Sequence["Row"], Sequence["Row"], int], tuple[np.ndarray, np.ndarray]]] = {
    "perceptrons": perceptrons,
    "trees": trees,
    "trees_composition_only": trees_composition_only,
}
