"""Counting: against brute force on small sets, and on the paper's numbers."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.stats.arithmetic import (
    auc_ranges,
    fold_mean_possible,
    near_equal_folds,
    printed_range,
    right_counts,
)
from nodulebook.stats.metrics import roc_auc


def test_a_printed_number_stands_for_rounding_and_cutting_off():
    low, high = printed_range("97.08")
    assert (low, high) == (Fraction("0.97075"), Fraction("0.9709"))
    assert printed_range("50") == (Fraction("0.495"), Fraction("0.51"))
    assert printed_range("91.7")[1] == Fraction("0.918")


@pytest.mark.parametrize(
    ("n", "percent", "wanted"),
    [
        (1230, "97.08", []),
        (1004, "97.08", []),
        (1004, "91.67", []),
        (4, "75", [3]),
        (3, "66.7", [2]),
    ],
)
def test_counts_by_hand(n, percent, wanted):
    assert right_counts(n, percent) == wanted


@given(st.integers(1, 400), st.data())
def test_what_was_right_is_found_again(n, data):
    k = data.draw(st.integers(0, n))
    assert k in right_counts(n, f"{100 * k / n:.2f}")


@pytest.mark.parametrize(("n", "wanted"), [(1230, [123] * 10), (1004, [101] * 4 + [100] * 6)])
def test_near_equal_folds(n, wanted):
    assert near_equal_folds(n) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 100))
def test_fold_means_as_by_trying_all(sizes, percent):
    low, high = printed_range(str(percent))
    every = (
        sum(Fraction(k, n) for k, n in zip(right, sizes, strict=True)) / len(sizes)
        for right in product(*(range(n + 1) for n in sizes))
    )
    assert fold_mean_possible(sizes, str(percent)) == any(low <= mean <= high for mean in every)


def test_the_papers_accuracy_is_no_mean_of_near_equal_folds_but_its_forerunners_is():
    for n in (1230, 1004):
        assert not fold_mean_possible(near_equal_folds(n), "97.08")
    assert fold_mean_possible(near_equal_folds(1004), "91.67")


def test_folds_of_many_sizes_reach_nearly_anything():
    assert fold_mean_possible(list(range(96, 106)), "97.08")


@pytest.mark.parametrize(("malignant", "benign", "errors"), [(3, 3, 1), (2, 4, 2), (4, 2, 3)])
def test_auc_ranges_as_by_trying_every_order(malignant, benign, errors):
    n = malignant + benign
    hard, any_ = set(), set()
    for places in combinations(range(n), malignant):  # of the malignant, scores rising
        label = np.isin(np.arange(n), places)
        for threshold in range(n + 1):
            called = np.arange(n) >= threshold
            if (called != label).sum() == errors:
                any_.add(roc_auc(label, np.arange(n)))
                hard.add(roc_auc(label, called))
    wanted = (min(hard), max(hard), min(any_), max(any_))
    assert auc_ranges(malignant, benign, errors) == pytest.approx(wanted)


def test_without_errors_the_auc_is_one():
    assert auc_ranges(5, 7, 0) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: printed_range("many"),
        lambda: right_counts(0, "50"),
        lambda: fold_mean_possible([], "50"),
        lambda: fold_mean_possible([3, 0], "50"),
        lambda: auc_ranges(0, 3, 1),
        lambda: auc_ranges(3, 3, 7),
    ],
)
def test_wrong_numbers_are_refused(call):
    with pytest.raises(InputError):
        call()
