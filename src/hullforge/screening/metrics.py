"""How good predictions were, in the terms of Matbench Discovery.

Comes in: arrays of true and predicted distances to the hull. Goes out: plain numbers, None for what can't be
said. The rules are those of its `metrics/discovery.py` (Riebesell et al., Nat. Mach. Intell. 7, 836 (2025)):
stable means at or below the threshold, a prediction of NaN counts as unstable and is left out of the errors,
nothing is rounded. Never imports torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Distances to the hull at which hits are counted, eV/atom.
HIT_THRESHOLDS = (0.0, 0.025, 0.05, 0.1)


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None


def finite_mean(values: ArrayLike) -> float | None:
    """Mean of the finite values, None without any."""
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    return float(array.mean()) if len(array) else None


def discovery(true: ArrayLike, predicted: ArrayLike, threshold: float = 0.0) -> dict[str, Any]:
    """Judge predictions as a search for stable crystals.

    `true`, `predicted` (N,): distances to the hull, eV/atom; `threshold` inclusive. Gives counts TP, FP, TN, FN,
    `prevalence`, `precision`, `recall`, `f1`, `accuracy` and `daf`, the discovery acceleration factor: precision
    over prevalence. Raises `ValueError` when a true value is NaN.
    """
    actual, guess = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if np.isnan(actual).any():
        raise ValueError("a true distance to the hull is NaN")
    positive = actual <= threshold
    chosen = guess <= threshold  # NaN compares false: negative
    tp, fp = int((positive & chosen).sum()), int((~positive & chosen).sum())
    fn, tn = int((positive & ~chosen).sum()), int((~positive & ~chosen).sum())
    prevalence = _ratio(tp + fn, len(actual))
    precision = _ratio(tp, tp + fp)
    return {
        "n": len(actual), "threshold": float(threshold), "TP": tp, "FP": fp, "TN": tn, "FN": fn,
        "prevalence": prevalence,
        "precision": precision,
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, len(actual)),
        "daf": precision / prevalence if precision is not None and prevalence else None,
    }  # fmt: skip


def errors(true: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Errors of predictions (N,); pairs with a NaN are left out.

    Gives `mae`, `rmse`, `bias` (mean of predicted - true) and `mad` (median absolute deviation of the errors from
    zero) in the unit of the input, and `r2`, None where all true values are equal.
    """
    actual, guess = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    known = np.isfinite(actual) & np.isfinite(guess)
    actual, error = actual[known], (guess - actual)[known]
    if not len(error):
        return {"n": 0, "mae": None, "rmse": None, "r2": None, "mad": None, "bias": None}
    spread = float(np.square(actual - actual.mean()).sum())
    return {
        "n": len(error),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "r2": 1 - float(np.square(error).sum()) / spread if spread > 0 else None,
        "mad": float(np.median(np.abs(error))),
        "bias": float(error.mean()),
    }


def hit_rates(
    e_above_hull: ArrayLike, thresholds: Sequence[float] = HIT_THRESHOLDS
) -> dict[str, float | None]:
    """Share of computed candidates at or below each threshold (eV/atom); NaN counts as no hit.

    Keys are the thresholds as text: '0.0', '0.025', ...
    """
    values = np.asarray(e_above_hull, dtype=float)
    return {
        str(float(threshold)): _ratio(int((values <= threshold).sum()), len(values))
        for threshold in thresholds
    }


def coverage(true: ArrayLike, predicted: ArrayLike, uncertainty: ArrayLike) -> dict[str, float | None]:
    """Share of errors within one and two standard deviations; 0.683 and 0.954 when calibrated."""
    actual, guess, std = (np.asarray(x, dtype=float) for x in (true, predicted, uncertainty))
    known = np.isfinite(actual) & np.isfinite(guess) & np.isfinite(std)
    error = np.abs(guess - actual)[known]
    return {
        "1_sigma": _ratio(int((error <= std[known]).sum()), len(error)),
        "2_sigma": _ratio(int((error <= 2 * std[known]).sum()), len(error)),
    }
