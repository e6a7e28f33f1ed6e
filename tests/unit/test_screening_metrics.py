"""Metrics, against values worked out by hand."""

import subprocess
import sys

import numpy as np
import pytest

from hullforge.screening import metrics


def test_discovery_counts_the_threshold_in_and_nan_as_unstable():
    true = [0.0, -0.1, 0.2, 0.3, -0.05, 0.1]
    predicted = [0.0, np.nan, -0.1, 0.5, -0.2, 0.4]
    found = metrics.discovery(true, predicted)
    # stable: rows 0, 1, 4; called stable: rows 0, 2, 4.
    assert (found["TP"], found["FP"], found["TN"], found["FN"]) == (2, 1, 2, 1)
    assert found["prevalence"] == 3 / 6
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["daf"] == pytest.approx((2 / 3) / (1 / 2))


def test_labels_are_not_rounded():
    found = metrics.discovery([0.0004, 0.0], [0.0, 0.0])
    assert (found["TP"], found["FP"]) == (1, 1)


def test_discovery_says_none_where_nothing_can_be_said():
    found = metrics.discovery([0.5, 0.6], [0.5, 0.6])
    assert found["precision"] is None
    assert found["recall"] is None
    assert found["daf"] is None
    assert metrics.discovery([], [])["accuracy"] is None


def test_a_true_label_must_be_known():
    with pytest.raises(ValueError, match="NaN"):
        metrics.discovery([np.nan], [0.0])


def test_errors():
    found = metrics.errors([0.0, 1.0, 2.0, 5.0], [0.1, 0.8, 2.4, np.nan])
    assert found["n"] == 3
    assert found["mae"] == pytest.approx(0.7 / 3)
    assert found["rmse"] == pytest.approx(np.sqrt(0.21 / 3))
    assert found["bias"] == pytest.approx(0.1)
    assert found["mad"] == pytest.approx(0.2)
    assert found["r2"] == pytest.approx(1 - 0.21 / 2)


def test_errors_of_nothing_and_of_equal_values():
    assert metrics.errors([], [])["mae"] is None
    assert metrics.errors([1.0, 1.0], [1.0, 2.0])["r2"] is None


def test_hit_rates():
    rates = metrics.hit_rates([0.0, 0.025, 0.03, 0.2, np.nan])
    assert rates == {"0.0": 0.2, "0.025": 0.4, "0.05": 0.6, "0.1": 0.6}
    assert metrics.hit_rates([])["0.0"] is None


def test_coverage():
    found = metrics.coverage([0, 0, 0, 0], [0.5, -1.0, 1.5, 3.0], [1, 1, 1, 1])
    assert found == {"1_sigma": 0.5, "2_sigma": 0.75}
    assert metrics.coverage([], [], [])["1_sigma"] is None


def test_selection_and_metrics_do_not_load_torch():
    code = "import sys, hullforge.screening.select, hullforge.screening.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
