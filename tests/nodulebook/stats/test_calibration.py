"""Calibration slopes, fold-wise maps and the curve, on shares that are known by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve as sklearn_calibration_curve
from sklearn.linear_model import LogisticRegression

from nodulebook.core.errors import InputError
from nodulebook.stats.bootstrap import patient_bootstrap
from nodulebook.stats.calibration import (
    calibrated,
    calibration_curve,
    calibration_intercept,
    calibration_slope,
    logit,
)


def _quarters(p_low, p_high, times=10):
    """Of four nodules said to have p_low one is malignant, of four with p_high three, twice."""
    label = [1, 0, 0, 0, 1, 1, 1, 0] * 2 * times
    n = len(label)
    return pd.DataFrame(
        {
            "nodule_id": [f"N{i}" for i in range(n)],
            "patient_id": [f"P{i}" for i in range(n)],
            "label": label,
            "p_malignant": ([p_low] * 4 + [p_high] * 4) * 2 * times,
            "fold": np.arange(n) // 8 % 2,
        }
    )


@pytest.mark.parametrize(
    "p_low, p_high, slope, intercept",
    [
        (0.25, 0.75, 1, 0),
        (0.1, 0.9, 0.5, 0),  # log 9 is twice log 3: too sure
        (1 / (1 + 3**0.25), 1 / (1 + 3**-0.25), 4, 0),  # a quarter of the logit: not sure enough
        (0.5, 0.9, 1, -np.log(3)),  # both logits too high by log 3
    ],
)
def test_slope_and_intercept_by_hand(p_low, p_high, slope, intercept):
    table = _quarters(p_low, p_high)
    assert patient_bootstrap(table, calibration_slope, 2).estimate == pytest.approx(slope)
    found = patient_bootstrap(table, calibration_intercept, 2).estimate
    assert found == pytest.approx(intercept, abs=1e-9)


def test_the_slopes_of_draws_are_scikit_learns():
    rng = np.random.default_rng(0)
    label, p = rng.integers(0, 2, 60) == 1, rng.uniform(0.05, 0.95, 60)
    weight = rng.integers(0, 4, (205, 60)).astype(float)  # fitted a hundred at a time
    weight[101] *= label  # without an optimum, which must not touch its neighbours
    found = calibration_slope(label, p, weight), calibration_intercept(label, p, weight)
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [101]
    for draw in (0, 1, 99, 100, 102, 199, 200, 204):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logit(p)[:, None], label, weight[draw])
        assert found[0][draw] == pytest.approx(model.coef_[0, 0], abs=1e-4)
        assert found[1][draw] == pytest.approx(model.intercept_[0], abs=1e-4)


def test_a_slope_without_an_optimum_is_undefined():
    apart = np.array([False, False, True, True]), np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isnan(calibration_slope(*apart, np.ones((1, 4)))).all()
    one_class = np.array([True] * 4), np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isnan(calibration_slope(*one_class, np.ones((1, 4)))).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_probabilities_are_the_shares_of_the_other_folds(method):
    table = calibrated(_quarters(0.45, 0.55), method)
    assert table["p_malignant"].to_numpy() == pytest.approx(
        _quarters(0.25, 0.75)["p_malignant"].to_numpy(), abs=1e-3
    )


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_no_label_of_a_fold_reaches_its_own_calibration(method):
    table = _quarters(0.3, 0.6)
    turned = table.assign(label=table["label"].where(table["fold"] == 1, 1 - table["label"]))
    own = (table["fold"] == 0).to_numpy()
    before, after = (calibrated(one, method)["p_malignant"] for one in (table, turned))
    assert (before[own] == after[own]).all()
    assert (before[~own] != after[~own]).any()


def test_calibration_needs_both_labels_in_the_other_folds():
    with pytest.raises(InputError, match="fold 0"):
        calibrated(_quarters(0.3, 0.6).assign(label=lambda t: t["fold"]))


def _calibrated(p, label):
    n = len(p)
    return pd.DataFrame(
        {"patient_id": [f"P{k}" for k in range(n)], "label": label, "p_malignant": p}
    )


def test_calibration_groups_by_hand():
    p = [0.05, 0.1, 0.15, 0.2, 0.7, 0.8, 0.9, 1.0]
    curve = calibration_curve(_calibrated(p, [0, 0, 1, 0, 1, 0, 1, 1]), n_groups=2)
    assert curve["n"].tolist() == [4, 4]
    assert curve["p_mean"].tolist() == pytest.approx([0.125, 0.85])
    assert curve["share"].tolist() == pytest.approx([0.25, 0.75])
    assert (curve["low"] <= curve["share"]).all() and (curve["share"] <= curve["high"]).all()


def test_calibration_is_scikit_learns():
    random = np.random.default_rng(3)
    p = random.random(500)
    label = random.random(500) < p**2
    curve = calibration_curve(_calibrated(p, label.astype(int)), n_groups=8, n_draws=10)
    share, mean = sklearn_calibration_curve(label, p, n_bins=8, strategy="quantile")
    assert curve["share"].to_numpy() == pytest.approx(share)
    assert curve["p_mean"].to_numpy() == pytest.approx(mean)


def test_equal_probabilities_stay_in_one_group():
    curve = calibration_curve(_calibrated([0.0] * 50 + [0.5, 1.0], [0] * 50 + [1, 1]), 10)
    assert curve["p_mean"].is_unique and curve["n"].sum() == 52
    assert curve.loc[curve["p_mean"] == 0, "n"].tolist() == [50]


def test_a_share_is_as_sure_as_its_patients():
    """Ten nodules of one patient are one draw, not ten."""
    table = _calibrated([0.5] * 40, [0, 1] * 20)
    alone = calibration_curve(table, 1).iloc[0]
    table["patient_id"] = [f"P{k % 2}" for k in range(40)]  # all of a patient's are alike
    together = calibration_curve(table, 1).iloc[0]
    assert (together["low"], together["high"]) == (0, 1)
    assert alone["high"] - alone["low"] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, abs=0.04)


def test_calibration_needs_a_group():
    with pytest.raises(InputError, match="n_groups is 0"):
        calibration_curve(_quarters(0.2, 0.8), 0)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_slope_of_overconfident_probabilities(shift):
    """Two scores only: the line passes through the logits of the two shares, 3/4 and 1/4."""
    p = np.repeat([1 / (1 + np.exp(12 - shift)), 1 / (1 + np.exp(-12 - shift))], 4)
    label = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    weight = np.ones((3, 8))
    assert calibration_slope(label, p, weight) == pytest.approx(np.log(3) / 12)
    assert calibration_intercept(label, p, weight) == pytest.approx(-shift * np.log(3) / 12)
