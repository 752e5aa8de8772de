"""One reader against the others, on tables worked by hand; and what a model expects of labels."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules
from nodulebook.stats.bootstrap import patient_bootstrap
from nodulebook.stats.mixture import Mixture, fall_at, label_shares, limits, share_grid
from nodulebook.stats.readers import (
    READER_STATISTICS,
    half_agreement,
    one_against_others,
    ratings_of,
    without_one,
)


def rated(*malignancy: str) -> pd.DataFrame:
    """Nodules n0, n1, ... of patients p0, p1, ..."""
    names = range(len(malignancy))
    table = pd.DataFrame(
        {
            "nodule_id": [f"n{k}" for k in names],
            "patient_id": [f"p{k}" for k in names],
            "malignancy": malignancy,
        }
    )
    return ratings_of(table, min_readers=2)


def test_ratings_are_read_and_odd_numbers_of_readers_left_out():
    table = pd.DataFrame(
        {
            "nodule_id": list("abcd"),
            "patient_id": list("wxyz"),
            "malignancy": ["5;4;1", "3", "1;2;3;4;5", "2;2;2;2"],
        }
    )
    got = ratings_of(table)
    assert got["nodule_id"].tolist() == ["a", "d"]
    assert got["ratings"].tolist() == [(5, 4, 1), (2, 2, 2, 2)]


@pytest.mark.parametrize("text", ["5;6", "", "4,4"])
def test_what_is_no_rating_is_refused(text):
    with pytest.raises(InputError, match="nodule n0: malignancy"):
        rated(text)


def test_one_against_others_by_hand():
    got = one_against_others(rated("5;4;1", "2;2;3"))
    # n0: 5 against (4 + 1) / 2 = 2.5; 4 against 3, left out; 1 against 4.5.
    # n1: each 2 against 2.5; 3 against 2.
    assert got["nodule_id"].tolist() == ["n0", "n0", "n1", "n1", "n1"]
    assert got["rating"].tolist() == [5, 1, 2, 2, 3]
    assert got["label"].tolist() == [0, 1, 0, 0, 0]
    assert got["p_malignant"].tolist() == [1, 0, 0.25, 0.25, 0.5]


def test_with_his_own_rating_in_it_the_label_is_the_books():
    got = one_against_others(rated("5;4;1", "2;2;3", "3;3;3"), own_too=True)
    assert got["nodule_id"].tolist() == ["n0"] * 3 + ["n1"] * 3
    assert got["label"].tolist() == [1, 1, 1, 0, 0, 0]


def test_statistics_of_ratings_by_hand():
    table = pd.DataFrame(
        {
            "patient_id": list("abcdef"),
            "label": [1, 1, 1, 0, 0, 0],
            "p_malignant": [1, 0.5, 0.25, 0.5, 0.25, 0.75],  # ratings 5 3 2, 3 2 4
        }
    )
    got = {
        name: patient_bootstrap(table, of, n_draws=50).estimate
        for name, of in READER_STATISTICS.items()
    }
    assert got == pytest.approx(
        {
            "AUC": (3 + 1.5 + 0.5) / 9,
            "accuracy, 3 half right": (1 + 0.5 + 0 + 0.5 + 1 + 0) / 6,
            "accuracy, 3 as malignant": 3 / 6,
            "accuracy, 3 as benign": 3 / 6,
            "sensitivity, 3 as malignant": 2 / 3,
            "specificity, 3 as malignant": 1 / 3,
            "sensitivity, 3 as benign": 1 / 3,
            "specificity, 3 as benign": 2 / 3,
        }
    )


def test_two_panels_of_two_by_hand():
    # 5 1 | 1 5: both mean 3, left out; 5 1 | 1 5 again; 5 5 | 1 1: they disagree.
    got = half_agreement(rated("5;1;1;5", "4;4;5;4", "2;1;1"))
    assert got["nodule_id"].tolist() == ["n0", "n1", "n1", "n1"]
    assert got["agree"].tolist() == [0, 1, 1, 1]


def test_without_one_by_hand():
    # 5 3 1 2 (mean 2.75, benign): without 5 benign; 3: 8/3 benign; 1: 10/3 turned; 2: 3, lost.
    got = without_one(rated("5;3;1;2", "3;3;3"))
    assert got.groupby("nodule_id")[["same", "turned", "lost"]].sum().to_numpy().tolist() == [
        [2, 1, 1]
    ]
    assert (got[["same", "turned", "lost"]].sum(axis=1) == 1).all()


def test_label_shares_as_by_trying_all_ratings():
    shares = np.array([[0.1, 0.2, 0.3, 0.25, 0.15]])
    for readers in (1, 2, 3, 4):
        up = down = 0.0
        for ratings in product(range(5), repeat=readers):
            p = float(np.prod(shares[0, list(ratings)]))
            mean = np.mean(ratings) + 1
            up, down = up + p * (mean > 3 + 1e-9), down + p * (mean < 3 - 1e-9)
        got = label_shares(shares, readers)
        assert [float(a[0]) for a in got] == pytest.approx([up, down])


def test_the_grid_has_every_share_once():
    grid = share_grid(4)
    assert len(grid) == 70 == len({tuple(row) for row in grid})
    assert np.allclose(grid.sum(axis=1), 1) and grid.min() == 0


def test_where_all_readers_agree_all_can_be_known():
    mixture = Mixture([(1, 1, 1, 1)] * 60 + [(5, 5, 5, 5)] * 40, steps=4)
    got = mixture.expectation(mixture.fit())
    assert got.accuracy == pytest.approx(1, abs=1e-3) and got.auc == pytest.approx(1, abs=1e-3)
    assert got.second_panel == pytest.approx(1, abs=1e-3)


def test_where_readers_toss_coins_little_can_be_known():
    """Three readers, 1 or 5 by a coin: the label is one, too."""
    ratings = list(product((1, 5), repeat=3)) * 50
    mixture = Mixture(ratings, steps=4)
    got = mixture.expectation(mixture.fit())
    assert got.accuracy < 0.6 and got.reader_auc == pytest.approx(0.5, abs=0.05)
    assert fall_at(mixture, 0.9) > 20


def test_the_limits_hold_the_truth():
    """Nodules of four kinds; the best classifier's accuracy is known."""
    generator = np.random.default_rng(1)
    kinds = np.array([[2, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 2]]) / 4
    each = generator.integers(0, 4, 800)
    ratings = [tuple(generator.choice(5, 4, p=kinds[k]) + 1) for k in each]
    up, down = label_shares(kinds, 4)
    truth = np.maximum(up, down).sum() / (up + down).sum()
    mixture = Mixture(ratings, steps=4)
    middle, low, high = limits(mixture)
    assert low.accuracy < truth < high.accuracy
    assert low.accuracy < middle.accuracy < high.accuracy
    for one in (low, high):
        fall = middle.log_likelihood - one.log_likelihood
        assert 0.96 * 1.92 < fall < 4  # half the 95 % point of chi-squared; a coarse grid jumps
    own = one_against_others(
        ratings_of(
            pd.DataFrame(
                {
                    "nodule_id": [f"n{k}" for k in range(800)],
                    "patient_id": [f"p{k}" for k in range(800)],
                    "malignancy": [";".join(map(str, one)) for one in ratings],
                }
            )
        )
    )
    seen = patient_bootstrap(own, "roc_auc")
    assert seen.low < middle.reader_auc < seen.high


@pytest.mark.parametrize("of", ["accuracy", "auc"])
def test_the_slopes_are_those_of_small_steps(of):
    mixture = Mixture([(1, 2, 2, 3), (4, 5, 3), (5, 5, 4, 4), (1, 1, 2)], steps=3)
    weight = np.random.default_rng(0).dirichlet(np.ones(len(mixture.even)))
    slope = (mixture._slope_of_accuracy if of == "accuracy" else mixture._slope_of_auc)(weight)
    for k in (0, 7, 20, len(weight) - 1):
        step = np.zeros(len(weight))
        step[k] = 1e-6
        up, down = (getattr(mixture.expectation(weight + s * step), of) for s in (1, -1))
        assert slope[k] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_limits_of_auc_are_its_own():
    generator = np.random.default_rng(2)
    kinds = np.array([[2, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 2]]) / 4
    ratings = [tuple(generator.choice(5, 4, p=kinds[k]) + 1) for k in generator.integers(0, 3, 300)]
    mixture = Mixture(ratings, steps=4)
    middle, low, high = limits(mixture, "auc")
    _, _, most_accurate = limits(mixture)
    assert low.auc < middle.auc < high.auc
    assert most_accurate.auc <= high.auc + 0.002


@pytest.mark.parametrize("of", ["accuracy", "auc"])
def test_on_the_committed_ratings_the_limits_are_where_the_likelihood_has_fallen_enough(of):
    """On them, a search in eight steps had stopped at a fall of 2.6."""
    nodules = read_nodules()
    ratings = ratings_of(nodules[nodules["readers"] >= 3])["ratings"].tolist()
    mixture = Mixture(ratings)
    middle, low, high = limits(mixture, of)
    assert getattr(low, of) < getattr(middle, of) < getattr(high, of)
    for one in (low, high):
        assert middle.log_likelihood - one.log_likelihood == pytest.approx(1.9207, rel=0.03)
    # The two searches meet: the upper limit is reached where the likelihood has fallen by so much.
    assert fall_at(mixture, getattr(high, of), of) == pytest.approx(1.9207, rel=0.05)


def test_a_value_that_no_mixture_reaches_is_refused():
    with pytest.raises(InputError, match="no mixture reaches"):
        fall_at(Mixture([(1, 2, 4, 5), (3, 4, 2), (2, 3, 5, 1)], steps=3), 1.01)


def test_the_model_needs_two_ratings():
    with pytest.raises(InputError, match="two ratings"):
        Mixture([(3,), (2,)])
