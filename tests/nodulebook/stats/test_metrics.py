"""The metrics are the paper's as mended, agree with scikit-learn, and never invent a value."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.metrics import Confusion, confusion, roc_auc, summarise

# 10 nodules, 4 malignant: 3 found, 1 missed; of 6 benign 4 are right, 2 false alarms.
LABEL = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
CALLED = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_hand_worked_case():
    c = confusion(LABEL, CALLED)
    assert (c.tp, c.tn, c.fp, c.fn) == (3, 4, 2, 1)
    assert metrics.accuracy(c) == 7 / 10
    assert metrics.sensitivity(c) == 3 / 4
    assert metrics.specificity(c) == 4 / 6
    assert metrics.precision(c) == 3 / 5
    assert metrics.false_positive_rate(c) == 2 / 6
    assert metrics.f1(c) == 6 / 9


def test_eq_11_as_printed_is_no_accuracy():
    """(TP + TN) / (TP + FN + FP + FN) can pass 1; the mended denominator counts every case."""
    c = confusion([0] * 9 + [1], [0] * 9 + [1])
    assert (c.tp + c.tn) / (c.tp + c.fn + c.fp + c.fn) == 10
    assert metrics.accuracy(c) == 1


def test_auc_by_counting_pairs():
    # Of 2 x 3 pairs: 0.8 beats all three; 0.4 beats 0.1, ties with 0.4, loses to 0.6.
    label, p = [1, 1, 0, 0, 0], [0.8, 0.4, 0.1, 0.4, 0.6]
    assert roc_auc(label, p) == pytest.approx((3 + 1 + 0.5) / 6)
    assert roc_auc(label, np.array(p) * 30) == roc_auc(label, p)  # any scale, as a diameter in mm


def test_brier():
    assert metrics.brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)
    assert metrics.brier([1, 0, 0], [1, 0, 0]) == 0


def test_a_probability_at_the_threshold_is_called_malignant():
    row = summarise([1, 0], [0.5, 0.4999])
    assert (row["tp"], row["tn"]) == (1, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=2, max_size=40).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_agrees_with_scikit_learn(rows):
    label = np.array([row[0] for row in rows])
    p = np.array([row[1] for row in rows]) / 10
    called = p >= 0.5
    got = summarise(label, p)
    assert [got[k] for k in ("tn", "fp", "fn", "tp")] == sk.confusion_matrix(
        label, called, labels=[0, 1]
    ).ravel().tolist()
    wanted = {
        "n": len(rows),
        "n_malignant": label.sum(),
        "accuracy": sk.accuracy_score(label, called),
        "sensitivity": sk.recall_score(label, called),
        "specificity": sk.recall_score(label, called, pos_label=0),
        "precision": sk.precision_score(label, called, zero_division=np.nan),
        "false_positive_rate": 1 - sk.recall_score(label, called, pos_label=0),
        "f1": sk.f1_score(label, called, zero_division=np.nan),
        "roc_auc": sk.roc_auc_score(label, p),
        "brier": sk.brier_score_loss(label, p),
    }
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, nan_ok=True), name


def test_undefined_ratios_are_nan():
    benign = summarise([0, 0], [0.1, 0.2])
    for name in ("sensitivity", "precision", "f1", "roc_auc"):
        assert math.isnan(benign[name]), name
    assert benign["accuracy"] == benign["specificity"] == 1
    malignant = summarise([1, 1], [0.1, 0.9])
    for name in ("specificity", "false_positive_rate", "roc_auc"):
        assert math.isnan(malignant[name]), name
    assert malignant["precision"] == 1


def test_a_model_that_calls_all_benign_has_no_precision_but_f1_zero():
    row = summarise([0, 1], [0.1, 0.2])
    assert math.isnan(row["precision"])
    assert row["f1"] == 0


def test_rates_of_many_confusions_at_once():
    c = Confusion(*(np.array(x, dtype=float) for x in ([3, 0], [4, 2], [2, 0], [1, 0])))
    assert metrics.accuracy(c).tolist() == [0.7, 1]
    np.testing.assert_array_equal(metrics.precision(c), [0.6, np.nan])


def test_summary_holds_plain_floats():
    assert {type(value) for value in summarise(LABEL, np.array(CALLED) / 2).values()} == {float}


def test_swapping_the_classes_swaps_the_rates():
    p = np.random.default_rng(0).random(10)
    here, there = summarise(LABEL, p), summarise(1 - np.array(LABEL), 1 - p)
    assert here["sensitivity"] == there["specificity"]
    assert here["roc_auc"] == pytest.approx(there["roc_auc"])
    assert here["brier"] == pytest.approx(there["brier"])


@pytest.mark.parametrize(
    ("label", "p", "says"),
    [
        ([0, 2], [0.1, 0.2], r"label\[1\] is 2"),
        ([0, np.nan], [0.1, 0.2], r"label\[1\] is nan"),
        ([0, 1], [0.1, 1.2], r"p\[1\] is 1.2"),
        ([0, 1], [np.nan, 0.2], r"p\[0\] is nan"),
        ([0, 1], [0.1], "2 labels, but 1"),
        ([], [], "shape"),
        ([[0, 1]], [[0.1, 0.2]], "shape"),
    ],
)
def test_bad_input_is_named(label, p, says):
    with pytest.raises(InputError, match=says):
        summarise(label, p)
