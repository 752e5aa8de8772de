"""Intervals resample patients, not nodules, and are the ordinary bootstrap's where they must be."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import (
    STATISTICS,
    bootstrap_means,
    bootstrap_roc_band,
    paired_bootstrap_difference,
    patient_bootstrap,
)


def _table(n_patients=40, seed=0, most=4, shared=1.0):
    """1 to `most` nodules a patient, whose scores share a part; ties are common."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, most + 1, n_patients))
    label = rng.integers(0, 2, len(patient))
    logit = 2 * label - 1 + shared * rng.normal(size=n_patients)[patient]
    p = 1 / (1 + np.exp(-logit - rng.normal(size=len(patient))))
    return pd.DataFrame(
        {
            "nodule_id": [f"N{i}" for i in range(len(patient))],
            "patient_id": [f"P{i}" for i in patient],
            "label": label,
            "p_malignant": p.round(2),
        }
    )


def _plainly(table, name):
    """The unweighted statistic of a table that is written out row by row."""
    return metrics.summarise(table["label"], table["p_malignant"])[name]


@pytest.mark.parametrize("name", STATISTICS)
def test_the_estimate_is_the_metric(name):
    table = _table()
    assert patient_bootstrap(table, name, n_draws=2).estimate == pytest.approx(
        _plainly(table, name), abs=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=15
    ).filter(lambda rows: sum(row[2] for row in rows))
)
def test_a_weight_is_a_row_written_so_many_times(rows):
    label, sixths, times = (np.array(column) for column in zip(*rows, strict=True))
    p = sixths / 6
    written = pd.DataFrame({"label": np.repeat(label, times), "p_malignant": np.repeat(p, times)})
    for name, weighted in STATISTICS.items():
        got = weighted(label == 1, p, times[None].astype(float))
        assert got.shape == (1,)
        assert got[0] == pytest.approx(_plainly(written, name), nan_ok=True, abs=1e-12), name


def _slow_bootstrap(table, name, n_draws, seed):
    """Draws patients, then writes out their rows."""
    patients = sorted(table["patient_id"].unique())
    rows = {patient: np.flatnonzero(table["patient_id"] == patient) for patient in patients}
    drawn = np.random.default_rng(seed).integers(0, len(patients), (n_draws, len(patients)))
    values = []
    for draw in drawn:
        chosen = table.iloc[np.concatenate([rows[patients[i]] for i in draw])]
        values.append(_plainly(chosen, name))
    return np.array(values)


@pytest.mark.parametrize("name", ["roc_auc", "sensitivity", "brier"])
def test_patients_are_drawn_with_all_their_nodules(name):
    table = _table(n_patients=15, seed=1)
    values = _slow_bootstrap(table, name, 60, seed=5)
    interval = patient_bootstrap(table, name, n_draws=60, seed=5)
    defined = values[~np.isnan(values)]
    assert interval.n_draws == len(defined)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(defined, [0.025, 0.975]))


def test_with_one_nodule_a_patient_it_is_the_ordinary_bootstrap():
    table = _table(n_patients=30, most=1).assign(patient_id=[f"{i:02d}" for i in range(30)])
    drawn = np.random.default_rng(2).integers(0, 30, (80, 30))
    values = [_plainly(table.iloc[rows], "accuracy") for rows in drawn]
    interval = patient_bootstrap(table, "accuracy", n_draws=80, seed=2)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_one_case_in_numbers():
    # Two patients, one right and one wrong: a draw's accuracy is 0, 1/2 or 1, with chances
    # 1/4, 1/2, 1/4, so the 95 % interval is [0, 1].
    table = pd.DataFrame({"patient_id": ["a", "b"], "label": [1, 1], "p_malignant": [0.9, 0.1]})
    wide = patient_bootstrap(table, "accuracy")
    assert (wide.low, wide.estimate, wide.high, wide.n_draws) == (0, 0.5, 1, 2000)


def test_the_seed_decides_and_the_rows_order_does_not():
    table = _table()
    first = patient_bootstrap(table, "roc_auc", n_draws=200, seed=3)
    assert patient_bootstrap(table, "roc_auc", n_draws=200, seed=3) == first
    assert patient_bootstrap(table.sample(frac=1, random_state=0), "roc_auc", 200, 3) == first
    assert patient_bootstrap(table, "roc_auc", n_draws=200, seed=4) != first


def test_repeating_nodules_of_a_patient_does_not_narrow_the_interval():
    """Ten copies of every nodule are no new knowledge; a bootstrap of nodules would shrink."""
    table = _table(n_patients=60, most=1)
    copies = pd.concat([table] * 10, ignore_index=True)
    once = patient_bootstrap(table, "roc_auc", n_draws=300)
    tenfold = patient_bootstrap(copies, "roc_auc", n_draws=300)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    by_nodule = patient_bootstrap(copies.assign(patient_id=range(600)), "roc_auc", n_draws=300)
    assert by_nodule.high - by_nodule.low < 0.5 * (once.high - once.low)


def test_coverage_of_the_true_accuracy():
    """About 95 of 100 intervals hold the truth. Ten wide: a fuller simulation is done apart."""
    rng = np.random.default_rng(0)
    held, held_by_nodule = 0, 0
    for trial in range(200):
        patient = np.repeat(np.arange(60), rng.integers(1, 7, 60))
        # A patient is easy (90 % right) or hard (50 %): 70 % in all, and alike within a patient.
        chance = np.where(rng.random(60) < 0.5, 0.9, 0.5)[patient]
        right = rng.random(len(patient)) < chance
        table = pd.DataFrame({"patient_id": patient, "label": 1, "p_malignant": right * 1.0})
        interval = patient_bootstrap(table, "accuracy", n_draws=300, seed=trial)
        held += interval.low <= 0.7 <= interval.high
        alone = table.assign(patient_id=range(len(table)))
        interval = patient_bootstrap(alone, "accuracy", n_draws=300, seed=trial)
        held_by_nodule += interval.low <= 0.7 <= interval.high
    assert 0.90 <= held / 200 <= 0.99
    assert held_by_nodule < held


def test_undefined_draws_are_dropped_and_counted():
    # One malignant patient of three: it is in a draw with chance 1 - (2/3)^3 = 0.704, and alone
    # with chance 1/27, which has no benign nodule.
    table = pd.DataFrame(
        {"patient_id": list("abc"), "label": [1, 0, 0], "p_malignant": [0.9, 0.2, 0.3]}
    )
    interval = patient_bootstrap(table, "roc_auc")
    assert interval.n_draws / 2000 == pytest.approx(0.704 - 0.037, abs=0.04)
    assert (interval.low, interval.high) == (1, 1)


def test_a_statistic_that_is_undefined_on_the_table():
    table = pd.DataFrame({"patient_id": [1, 2], "label": [0, 1], "p_malignant": [0.1, 0.2]})
    interval = patient_bootstrap(table, "precision")
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()
    assert interval.n_draws == 0


def test_a_statistic_of_ones_own():
    def mean_p(label, p, weight):
        return weight @ p / weight.sum(axis=1)

    table = _table()
    interval = patient_bootstrap(table, mean_p, n_draws=100)
    assert interval.estimate == pytest.approx(table["p_malignant"].mean())
    assert interval.low < interval.estimate < interval.high


def test_2000_draws_of_the_whole_cohort_are_quick():
    table = _table(n_patients=600, most=3).iloc[:1010]
    table["p_malignant"] = np.random.default_rng(0).random(len(table))
    start = time.perf_counter()
    patient_bootstrap(table, "roc_auc", n_draws=2000)
    assert time.perf_counter() - start < 3


def test_a_paired_difference_sees_the_same_patients():
    table_a = _table(n_patients=25, seed=3)
    table_b = table_a.assign(p_malignant=np.random.default_rng(9).random(len(table_a)))
    difference = paired_bootstrap_difference(
        table_a, table_b.sample(frac=1, random_state=1), "roc_auc", n_draws=80, seed=7
    )
    values = _slow_bootstrap(table_a, "roc_auc", 80, 7) - _slow_bootstrap(table_b, "roc_auc", 80, 7)
    values = values[~np.isnan(values)]
    assert difference.estimate == pytest.approx(
        _plainly(table_a, "roc_auc") - _plainly(table_b, "roc_auc")
    )
    assert (difference.low, difference.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    back = paired_bootstrap_difference(table_b, table_a, "roc_auc", n_draws=80, seed=7)
    assert (back.low, back.high) == pytest.approx((-difference.high, -difference.low))


def test_a_model_does_not_differ_from_itself():
    interval = paired_bootstrap_difference(_table(), _table(), "accuracy", n_draws=50)
    assert (interval.low, interval.estimate, interval.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.iloc[1:], "1 are in one table only, the first is N0"),
        (lambda t: t.assign(label=1 - t["label"]), "nodule N0: label is"),
        (lambda t: t.assign(patient_id="Q"), "nodule N0: patient_id is P0"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "nodule N0 is twice"),
        (lambda t: t.drop(columns="nodule_id"), "lacks the column nodule_id"),
    ],
)
def test_a_paired_difference_needs_the_same_nodules(change, says):
    table = _table()
    with pytest.raises(InputError, match=says):
        paired_bootstrap_difference(table, change(table), "roc_auc")
    with pytest.raises(InputError):
        paired_bootstrap_difference(change(table), table, "roc_auc")


def test_the_band_holds_the_curve_and_the_curve_is_the_roc():
    table = _table()
    grid = np.linspace(0, 1, 21)
    band = bootstrap_roc_band(table, grid, n_draws=300)
    fpr, tpr, _ = roc_curve(table["label"], table["p_malignant"])
    np.testing.assert_allclose(band.tpr, np.interp(grid, fpr, tpr))
    assert (band.low <= band.tpr).all()
    assert (band.tpr <= band.high).all()
    assert (np.diff(band.low) >= -1e-12).all()
    assert (band.low[-1], band.tpr[-1], band.high[-1]) == (1, 1, 1)
    assert band.n_draws == 300
    again = bootstrap_roc_band(table, grid, n_draws=300)
    np.testing.assert_array_equal(again.low, band.low)


def test_a_perfect_score_has_a_perfect_band():
    table = _table()
    band = bootstrap_roc_band(table.assign(p_malignant=table["label"]), [0, 0.5, 1], n_draws=50)
    np.testing.assert_array_equal([band.low, band.tpr, band.high], np.ones((3, 3)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="label"), "lacks the column label"),
        (lambda t: t.assign(label=2), r"label\[0\] is 2"),
        (lambda t: t.assign(p_malignant=np.nan), r"p_malignant\[0\] is nan"),
        (lambda t: t.assign(patient_id=None), "row 0 of the table has no patient_id"),
        (lambda t: t.iloc[:0], "shape"),
    ],
)
def test_a_bad_table_is_named(change, says):
    with pytest.raises(InputError, match=says):
        patient_bootstrap(change(_table()), "accuracy")


def test_bad_arguments_are_named():
    table = _table()
    with pytest.raises(InputError, match="'auc' is not one of roc_auc"):
        patient_bootstrap(table, "auc")
    with pytest.raises(InputError, match="n_draws is 0"):
        patient_bootstrap(table, "accuracy", n_draws=0)
    with pytest.raises(InputError, match="must increase"):
        bootstrap_roc_band(table, [0, 0])
    lopsided = pd.DataFrame({"patient_id": [1, 2], "label": [0, 1], "p_malignant": [0.1, 0.2]})
    with pytest.raises(InputError, match="none of 1 draws"):
        bootstrap_roc_band(lopsided, [0, 1], n_draws=1, seed=0)
    with pytest.raises(InputError, match="both labels, but all"):
        bootstrap_roc_band(table.assign(label=1), [0, 1])


def test_means_of_columns_by_hand():
    """Two patients, one with two nodules: a draw is (a, a), (a, b), (b, a) or (b, b)."""
    table = pd.DataFrame({"x": [0.0, 1.0, 4.0], "y": [np.nan, 2.0, np.nan], "z": [np.nan] * 3})
    patients = pd.Series(["a", "a", "b"])
    found = bootstrap_means(table, patients, n_draws=4000)
    assert found["x"].estimate == pytest.approx(5 / 3)
    assert (found["x"].low, found["x"].high) == (0.5, 4.0)  # patient a twice, patient b twice
    assert (found["y"].estimate, found["y"].low, found["y"].high) == (2, 2, 2)
    assert found["y"].n_draws == pytest.approx(3000, abs=150)  # a is in three of four draws
    assert np.isnan(found["z"].estimate) and found["z"].n_draws == 0
    with pytest.raises(InputError, match="3 rows need as many patients"):
        bootstrap_means(table, patients[:2])


def test_means_draw_the_same_patients_as_the_other_intervals():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "patient_id": generator.integers(0, 9, 40).astype(str),
            "label": generator.integers(0, 2, 40),
            "p_malignant": generator.random(40),
        }
    )
    squared = pd.DataFrame({"brier": (table["p_malignant"] - table["label"]) ** 2})
    ours = bootstrap_means(squared, table["patient_id"], seed=3)["brier"]
    theirs = patient_bootstrap(table, "brier", seed=3)
    assert (ours.estimate, ours.low, ours.high) == pytest.approx(
        (theirs.estimate, theirs.low, theirs.high)
    )
