"""DeLong's test is right by hand and in simulation, and folds and comparisons are allowed for."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_rel

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import paired_bootstrap_difference, patient_bootstrap
from nodulebook.stats.paired_tests import (
    auc_covariance,
    corrected_fold_difference,
    delong_difference,
    holm,
)

SIMULATIONS = 1000


def _table(label, p, patient):
    names = [f"N{i}" for i in range(len(label))]
    return pd.DataFrame(
        {"nodule_id": names, "patient_id": patient, "label": label, "p_malignant": p}
    )


def _plain_components(label, score):
    """The share of the other class that each case is ordered right against, pair by pair."""
    order = (score[label][:, None] > score[~label]) + (score[label][:, None] == score[~label]) / 2
    return order.mean(axis=1), order.mean(axis=0)


def test_four_cases_by_hand():
    # 0.9 lies above both benign scores, 0.4 above one: V10 = 1, 1/2. V01 = 1/2, 1.
    # AUC 3/4; variances 1/8 and 1/8; over two cases each: 1/16 + 1/16.
    label = np.array([True, True, False, False])
    auc, covariance = auc_covariance(label, np.array([[0.9, 0.4, 0.5, 0.1]]), [1, 2, 3, 4])
    assert auc == pytest.approx([0.75])
    assert covariance == pytest.approx(np.array([[0.125]]))


def test_one_case_a_patient_is_delong_as_published():
    rng = np.random.default_rng(0)
    label = rng.random(60) < 0.4
    scores = (label + rng.normal(size=(3, 60))).round(1)  # with ties
    auc, covariance = auc_covariance(label, scores, range(60))
    components = [_plain_components(label, score) for score in scores]
    malignant, benign = (np.array([pair[k] for pair in components]) for k in (0, 1))
    expected = np.cov(malignant) / label.sum() + np.cov(benign) / (~label).sum()
    np.testing.assert_allclose(covariance, expected, atol=1e-15)
    np.testing.assert_allclose(auc, [metrics.roc_auc(label, score) for score in scores])


def test_two_nodules_of_a_patient_by_hand():
    # Patient 1 holds the malignant 0.9 and the benign 0.5, patients 2 and 3 one nodule each.
    # Off the AUC of 3/4: malignant +1/4, -1/4; benign -1/4, +1/4.
    # Malignant: 2/1 * (1/16 + 1/16) / 4 = 1/16; benign the same.
    # Both: 3/2 * (1/4)(-1/4) = -3/32, twice, over 2 * 2: -3/64. In all 5/64.
    label = np.array([True, True, False, False])
    _, covariance = auc_covariance(label, np.array([[0.9, 0.4, 0.5, 0.1]]), [1, 2, 1, 3])
    assert covariance == pytest.approx(np.array([[5 / 64]]))


def test_nodules_written_twice_do_not_make_it_surer():
    rng = np.random.default_rng(1)
    label = rng.random(80) < 0.5
    scores = label + rng.normal(size=(2, 80))
    _, once = auc_covariance(label, scores, range(80))
    _, five = auc_covariance(np.tile(label, 5), np.tile(scores, 5), np.tile(range(80), 5))
    np.testing.assert_allclose(five, once)


def test_a_classifier_does_not_differ_from_itself_and_sides_turn_the_sign():
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, 50)
    one = _table(label, rng.random(50), rng.integers(0, 30, 50))
    other = one.assign(p_malignant=0.3 * label + rng.random(50))
    same = delong_difference(one, one)
    assert (same.estimate, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    there = delong_difference(other, one)
    back = delong_difference(one.sample(frac=1, random_state=0), other)
    assert (back.estimate, back.low) == pytest.approx((-there.estimate, -there.high))
    assert back.p_value == pytest.approx(there.p_value)


def test_the_p_value_is_below_5_percent_where_the_interval_excludes_0():
    rng = np.random.default_rng(3)
    seen = set()
    for shift in np.linspace(0, 1.5, 12):
        label = rng.integers(0, 2, 100)
        one = _table(label, rng.normal(size=100), range(100))
        difference = delong_difference(one.assign(p_malignant=shift * label + one.p_malignant), one)
        excluded = difference.low > 0 or difference.high < 0
        assert excluded == (difference.p_value < 0.05)
        seen.add(excluded)
    assert seen == {True, False}


def _simulated(rng, effect=0.8):
    """Patients of one class with one to four nodules, alike within a patient; two scores."""
    n_patients = 120
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
    label = (np.arange(n_patients) < n_patients // 2)[patient]
    shared = effect * rng.normal(size=(2, n_patients))[:, patient]
    return label, 1.5 * label + shared + rng.normal(size=(2, len(patient))), patient


def test_95_percent_intervals_hold_the_true_auc_in_95_percent_of_simulations():
    # Malignant and benign nodules are of different patients: the true AUC is that of two normals.
    truth = norm.cdf(1.5 / np.sqrt(2 * (1 + 0.8**2)))
    rng = np.random.default_rng(4)
    held = {"delong": 0, "bootstrap": 0, "delong by nodule": 0}
    for trial in range(SIMULATIONS):
        label, (score, _), patient = _simulated(rng)
        for name, cluster in (("delong", patient), ("delong by nodule", range(len(label)))):
            auc, covariance = auc_covariance(label, score, cluster)
            held[name] += abs(auc[0] - truth) <= norm.ppf(0.975) * np.sqrt(covariance[0, 0])
        table = _table(label.astype(int), score, patient)
        interval = patient_bootstrap(table, "roc_auc", n_draws=200, seed=trial)
        held["bootstrap"] += interval.low <= truth <= interval.high
    assert 0.93 <= held["delong"] / SIMULATIONS <= 0.97
    assert 0.93 <= held["bootstrap"] / SIMULATIONS <= 0.97
    assert held["delong by nodule"] / SIMULATIONS < 0.90  # what patients as clusters are for


def test_95_percent_intervals_hold_a_true_difference_of_0_in_95_percent_of_simulations():
    # Both scores come from one distribution; each patient has nodules of both classes.
    rng = np.random.default_rng(5)
    patient = np.repeat(np.arange(80), 2)
    held = {"delong": 0, "bootstrap": 0}
    for trial in range(SIMULATIONS):
        label = (rng.random(160) < 0.45).astype(int)
        shared = 0.8 * rng.normal(size=(3, 80))[:, patient]
        scores = 1.2 * label + shared[:2] + shared[2] + rng.normal(size=(2, 160))
        one, other = (_table(label, score, patient) for score in scores)
        held["delong"] += delong_difference(one, other).p_value > 0.05
        interval = paired_bootstrap_difference(one, other, "roc_auc", n_draws=200, seed=trial)
        held["bootstrap"] += interval.low <= 0 <= interval.high
    assert 0.93 <= held["delong"] / SIMULATIONS <= 0.97
    assert 0.93 <= held["bootstrap"] / SIMULATIONS <= 0.97


def test_folds_by_hand():
    # Differences 1, 2, 3 hundredths: mean 0.02, variance 0.0001, times (1/3 + 1/2).
    found = corrected_fold_difference([0.91, 0.92, 0.93], [0.9, 0.9, 0.9], test_share=0.5)
    error = np.sqrt(1e-4 * 5 / 6)
    assert found.estimate == pytest.approx(0.02)
    assert (found.high - found.low) / 2 == pytest.approx(4.302653 * error, rel=1e-6)


def test_without_shared_training_data_it_is_the_paired_t_test():
    rng = np.random.default_rng(6)
    one, other = rng.random((2, 10))
    expected = ttest_rel(one, other)
    found = corrected_fold_difference(one, other, test_share=0)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert corrected_fold_difference(one, other, 1 / 9).p_value > found.p_value


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


def test_what_cannot_be_tested_is_named():
    one = _table([1, 1, 0], [0.5, 0.6, 0.7], ["P1", "P2", "P3"])
    with pytest.raises(InputError, match="2 and 1"):
        delong_difference(one, one)
    with pytest.raises(InputError, match="same nodules"):
        delong_difference(one, one.head(2))
    with pytest.raises(InputError, match="two or more folds"):
        corrected_fold_difference([1.0], [1.0], 0.1)
    with pytest.raises(InputError, match="fold 1 is not finite"):
        corrected_fold_difference([1.0, np.nan], [1.0, 0.5], 0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.1, 1.2])
