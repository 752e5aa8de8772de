"""What a score adds to a ruler, on tables whose answer follows by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.added_value import (
    added_value,
    combined_score,
    compare,
    fold_aucs,
    matched_auc,
    ruler_score,
    seeds_auc,
    seeds_difference,
    seeds_statistic,
)
from nodulebook.stats.bootstrap import paired_bootstrap_difference, patient_bootstrap


def _table(label, p, fold=None, patient=None):
    n = len(label)
    return pd.DataFrame(
        {
            "nodule_id": [f"N{i}" for i in range(n)],
            "patient_id": [f"P{i}" for i in (range(n) if patient is None else patient)],
            "label": label,
            "p_malignant": np.asarray(p, float),
            "fold": np.arange(n) % 2 if fold is None else fold,
        }
    )


def _diameters(values):
    return pd.Series(values, index=[f"N{i}" for i in range(len(values))], dtype=float)


def _noisy(n=240, seed=0, folds=10):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    mm = np.exp(2 + 0.5 * label + 0.5 * rng.normal(size=n))
    p = 1 / (1 + np.exp(-(label - 0.5 + rng.normal(size=n))))
    return _table(label, p, np.arange(n) % folds, np.arange(n) // 2), _diameters(mm)


def test_a_score_that_knows_the_label_adds_what_the_ruler_lacks():
    label = [0, 0, 1, 1] * 4
    mm = _diameters([5, 10, 7, 20] * 4)  # per four: 5 < 7, 5 < 20, 10 < 20 of four pairs
    table = _table(label, [0.2 if one == 0 else 0.8 for one in label], np.repeat([0, 1, 2, 3], 4))
    found = added_value([table], mm, n_draws=50)
    assert fold_aucs(ruler_score(table, mm)) == pytest.approx([0.75] * 4)
    assert found.by_fold.estimate == pytest.approx(0.25)
    assert found.auc.estimate == pytest.approx(0.25)
    assert found.n == 16


def test_a_score_that_repeats_the_ruler_adds_nothing():
    table, mm = _noisy()
    share = mm.to_numpy() / (mm.to_numpy() + 10)  # its logit is log diameter - log 10
    found = added_value([table.assign(p_malignant=share)], mm, n_draws=200)
    assert found.auc.estimate == pytest.approx(0, abs=1e-3)
    assert found.by_fold.estimate == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("make", [ruler_score, combined_score])
def test_no_label_of_a_fold_reaches_its_own_scores(make):
    table, mm = _noisy()
    before = make(table, mm)["p_malignant"]
    turned = table["label"].where(table["fold"] != 3, 1 - table["label"])
    after = make(table.assign(label=turned), mm)["p_malignant"]
    own = (table["fold"] == 3).to_numpy()
    assert (before[own] == after[own]).all()
    assert (before[~own] != after[~own]).all()


def test_a_seed_is_drawn_in_each_draw():
    # One seed orders all pairs right, the other none: a draw of patients that has both labels is
    # 1 or 0 by its seed alone, and the mean over seeds is one half.
    label = [0] * 20 + [1] * 20
    right = _table(label, [0.1] * 20 + [0.9] * 20)
    wrong = right.assign(p_malignant=1 - right["p_malignant"])
    both = seeds_auc([right, wrong], n_draws=400)
    assert (both.low, both.estimate, both.high) == (0, 0.5, 1)
    alone = seeds_auc([right], n_draws=400)
    assert (alone.low, alone.estimate, alone.high) == (1, 1, 1)


def test_one_seed_has_the_interval_of_one_table():
    table, _ = _noisy()
    assert seeds_auc([table]) == patient_bootstrap(table, "roc_auc")
    assert seeds_statistic([table], "accuracy") == patient_bootstrap(table, "accuracy")


def test_any_statistic_is_averaged_over_seeds():
    # The first seed calls all nodules right, the second none.
    label = [0] * 20 + [1] * 20
    right = _table(label, [0.1] * 20 + [0.9] * 20)
    both = [right, right.assign(p_malignant=1 - right["p_malignant"])]
    accuracy = seeds_statistic(both, "accuracy", n_draws=400)
    assert (accuracy.low, accuracy.estimate, accuracy.high) == (0, 0.5, 1)
    assert seeds_statistic(both, "roc_auc", n_draws=400) == seeds_auc(both, n_draws=400)


@pytest.mark.parametrize("column", ["p_malignant", "label", "patient_id", "fold"])
def test_what_is_computed_once_is_of_the_table_as_it_is_now(column):
    table, _ = _noisy()
    half = table.assign(p_malignant=0.5)
    before = compare([table], [half], n_draws=50), fold_aucs(table)
    again = compare([table.copy()], [half], n_draws=50), fold_aucs(table)
    assert before[0] == again[0] and before[1].tolist() == again[1].tolist()
    table[column] = half[column] = table[column].to_numpy()[::-1].copy()
    after = compare([table], [half], n_draws=50)
    assert (after.auc != before[0].auc) == (column != "fold")
    by_hand = [
        metrics.roc_auc(part["label"], part["p_malignant"]) for _, part in table.groupby("fold")
    ]
    assert fold_aucs(table).tolist() == by_hand
    named = table.assign(fold=table["fold"].map(lambda fold: f"fold {fold}"))
    assert fold_aucs(named).tolist() == by_hand


def test_the_test_over_folds_by_hand():
    # AUC of the folds 1, 1, 1/2 against 1/2, 1, 1/2: differences 1/2, 0, 0, mean 1/6, variance
    # 1/12, and with three folds a test set is half of its training set: 1/3 + 1/2.
    label, fold = [0, 1] * 3, [0, 0, 1, 1, 2, 2]
    first = _table(label, [0.1, 0.9, 0.1, 0.9, 0.5, 0.5], fold)
    second = _table(label, [0.5, 0.5, 0.1, 0.9, 0.5, 0.5], fold)
    found = compare([first], [second], n_draws=20).by_fold
    t = (1 / 6) / np.sqrt(1 / 12 * (1 / 3 + 1 / 2))
    assert found.estimate == pytest.approx(1 / 6)
    assert found.p_value == pytest.approx(2 * student.sf(t, 2))


def test_runs_meet_on_the_nodules_of_both_in_any_order():
    table, _ = _noisy()
    other = table.assign(p_malignant=table["p_malignant"] ** 2).iloc[::-1].iloc[7:]
    found = compare([table], [other], n_draws=50)  # a rising map: no AUC changes
    assert found.n == len(table) - 7
    assert (found.auc.estimate, found.auc.low, found.auc.high) == (0, 0, 0)


def test_pairs_of_like_size_by_hand():
    # Malignant 10, 20, 40; benign 9.5, 10.5, 21, 30. Within 10 %: 10 with 9.5 and 10.5, 20 with
    # 21; 20 with 10.5 is not, 40 with none. Ordered: 0.6 over 0.5, a tie at 0.6, 0.3 under 0.4.
    label = [1, 1, 1, 0, 0, 0, 0]
    p = [0.6, 0.3, 0.9, 0.5, 0.6, 0.4, 0.99]
    found = matched_auc([_table(label, p)], _diameters([10, 20, 40, 9.5, 10.5, 21, 30]), n_draws=9)
    assert found.estimate == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_limit_of_like_size_is_of_the_smaller_one():
    table = _table([1, 0], [0.9, 0.1])
    assert matched_auc([table], _diameters([10.0, 10.999]), n_draws=2).estimate == 1
    with pytest.raises(InputError, match="10%"):
        matched_auc([table], _diameters([10.0, 11.001]), n_draws=2)


def test_pairs_of_like_size_draw_patients_with_their_nodules():
    label, p = [1, 0, 1, 0], [0.9, 0.1, 0.1, 0.9]
    table = _table(label, p, patient=[0, 0, 1, 1])
    found = matched_auc([table], _diameters([10, 10, 30, 30]), n_draws=400)
    # Patient 0 alone: 1; patient 1 alone: 0; both: one half. No pair has a nodule of each.
    assert (found.low, found.estimate, found.high) == (0, 0.5, 1)


def test_with_all_pairs_alike_it_is_the_auc():
    table, mm = _noisy()
    auc = metrics.roc_auc(table["label"], table["p_malignant"])
    assert matched_auc([table], mm, within=1e9, n_draws=5).estimate == pytest.approx(auc)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_nodule_without_a_diameter_is_named(bad):
    table, mm = _noisy()
    mm["N5"] = bad
    with pytest.raises(InputError, match="N5"):
        combined_score(table, mm)


def test_runs_that_do_not_belong_together_are_refused():
    table, _ = _noisy()
    with pytest.raises(InputError, match="no nodule"):
        compare([table], [table.assign(nodule_id="X" + table["nodule_id"])])
    with pytest.raises(InputError, match="folds"):
        compare([table], [table.assign(fold=(table["fold"] + 1) % 10)])
    with pytest.raises(InputError, match="label"):
        compare([table], [table.assign(label=1 - table["label"])])


def test_a_paired_difference_of_patients_needs_no_folds():
    right, tied = (
        _table([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0] * 4),
        _table([0, 0, 1, 1], [0.5] * 4, [0] * 4),
    )
    half_right = _table([0, 0, 1, 1], [0.1, 0.7, 0.6, 0.9], [0] * 4)  # three of four pairs in order
    assert seeds_difference([right], [tied]).estimate == pytest.approx(0.5)
    assert seeds_difference([right, half_right], [tied]).estimate == pytest.approx(0.375)
    found = seeds_difference([right], [right])
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_the_difference_of_two_runs_of_one_seed_is_the_paired_bootstrap():
    table, _ = _noisy()
    other = table.assign(p_malignant=np.random.default_rng(1).random(len(table)))
    found = seeds_difference([table], [other], n_draws=200, seed=3)
    same = paired_bootstrap_difference(table, other, "roc_auc", n_draws=200, seed=3)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (same.estimate, same.low, same.high)
    )
    assert found == compare([table], [other], n_draws=200, seed=3).auc
