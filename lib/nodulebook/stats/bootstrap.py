"""Confidence intervals by resampling patients.

Nodules of one patient are not independent, so patients are drawn with replacement, each with all
of its nodules (cluster bootstrap, percentile interval: Efron and Tibshirani 1993, chapters 8 and
13). A draw is kept as a weight per nodule, the number of times that its patient was drawn, and
the statistics are computed for all draws at once.

A table has one row per nodule: patient_id, label (0 or 1), p_malignant (finite), and nodule_id
where two tables are compared. `n_draws` is the number of draws; the same `seed` gives the same
patients. A statistic is one of `STATISTICS` or a function like them. Draws in which it is
undefined (one class only, say) are dropped. InputError: a column is missing or has a wrong value,
the statistic is unknown, or `n_draws` is below 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.metrics import Confusion

Array = NDArray[np.float64]

WeightedStatistic = Callable[[NDArray[np.bool_], Array, Array], Array]
"""label (n,), p (n,), weight (draws, n) -> a value for every draw (draws,), nan if undefined."""

BLOCK = 2000
"""Draws that are weighted at once; more take the memory of one block and its time again."""

TAILS = (1 - 0.95) / 2, (1 + 0.95) / 2
"""Of every interval."""

THRESHOLD = 0.5
"""A nodule is called malignant where p >= 0.5."""


@dataclass(frozen=True)
class Interval:
    """A statistic on the whole table and the limits of its confidence interval."""

    estimate: float
    low: float
    high: float
    n_draws: int  # the draws that the limits come from: those in which it is defined


@dataclass(frozen=True, eq=False)
class RocBand:
    """A ROC curve on a grid and its pointwise confidence limits; arrays of the grid's length."""

    fpr: Array
    tpr: Array
    low: Array
    high: Array
    n_draws: int


def weighted_auc(label: NDArray[np.bool_], score: Array, weight: Array) -> Array:
    """AUC of every draw: the weight of correctly ordered pairs, ties one half."""
    # One row per nodule, as `resampled` has them in memory. The nodules are gone through by rising
    # score, so that only a few rows are at work at a time, and they fit into the processor's cache.
    rows, order = weight.T, np.argsort(score, kind="stable")
    _, first = np.unique(score[order], return_index=True)
    below, positive, ordered, product = np.zeros((4, len(weight)))
    for start, stop in zip(first, np.append(first[1:], len(order)), strict=True):
        alike = order[start:stop]
        malignant = [rows[k] for k in alike if label[k]]
        benign = [rows[k] for k in alike if not label[k]]
        lower = below + sum(benign) / 2 if malignant and benign else below
        for one in malignant:
            ordered += np.multiply(one, lower, out=product)
            positive += one
        for one in benign:
            below += one
    return metrics.ratio(ordered, positive * below)


def _class_weights(label: NDArray[np.bool_], score: Array, weight: Array) -> tuple[Array, Array]:
    """Weight of both classes at each distinct score, rising: malignant, benign (draws, scores)."""
    order = np.argsort(score, kind="stable")
    _, first = np.unique(score[order], return_index=True)
    sorted_weight = weight[:, order]
    positive = np.add.reduceat(sorted_weight * label[order], first, axis=1)
    negative = np.add.reduceat(sorted_weight * ~label[order], first, axis=1)
    return positive, negative


def _brier(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
    return metrics.ratio(weight @ (p - label) ** 2, weight.sum(axis=1))


def _of_confusion(rate: Callable[[Confusion[Array]], Array]) -> WeightedStatistic:
    """The weighted form of one of the ratios in `metrics`."""

    def statistic(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
        called = p >= THRESHOLD
        outcomes = (label & called, ~label & ~called, ~label & called, label & ~called)
        return rate(Confusion(*(weight @ np.column_stack(outcomes).astype(float)).T))

    return statistic


STATISTICS: dict[str, WeightedStatistic] = {
    "roc_auc": weighted_auc,
    **{name: _of_confusion(rate) for name, rate in metrics.RATES.items()},
    "brier": _brier,
}
"""The names that the bootstrap functions take."""


def patient_bootstrap(
    table: pd.DataFrame,
    statistic: str | WeightedStatistic,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic and its percentile interval; all nan where it is undefined on the table."""
    return interval_of(*statistic_draws(table, statistic, n_draws, seed))


def statistic_draws(
    table: pd.DataFrame, statistic: str | WeightedStatistic, n_draws: int, seed: int
) -> tuple[float, Array]:
    """A statistic on the table, and its value in each draw of patients."""
    label, p = label_and_p(table)
    compute = _statistic(statistic)
    estimate = float(compute(label, p, np.ones((1, len(p))))[0])
    return estimate, resampled(
        table["patient_id"], lambda weight: compute(label, p, weight), n_draws, seed
    )


def paired_bootstrap_difference(
    table_a: pd.DataFrame,
    table_b: pd.DataFrame,
    statistic: str | WeightedStatistic,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The difference a - b of a statistic on the same nodules, in any order.

    Raises:
        InputError: also where the nodules, patients or labels of the tables differ.
    """
    table_b = aligned_tables(table_a, table_b)
    return joint_bootstrap_difference(table_a, table_b, statistic, n_draws, seed)


def joint_bootstrap_difference(
    table_a: pd.DataFrame,
    table_b: pd.DataFrame,
    statistic: str | WeightedStatistic,
    n_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The difference a - b of a statistic where the tables may hold other nodules and labels.

    A patient who is drawn is drawn for both tables, with the nodules that each has of them.
    """
    (label_a, p_a), (label_b, p_b) = label_and_p(table_a), label_and_p(table_b)
    patients = pd.concat([table_a["patient_id"], table_b["patient_id"]], ignore_index=True)
    once, n = np.ones((1, len(patients))), len(table_a)
    compute = _statistic(statistic)

    def difference(weight: Array) -> Array:
        return compute(label_a, p_a, weight[:, :n]) - compute(label_b, p_b, weight[:, n:])

    drawn = resampled(patients, difference, n_draws, seed)
    return interval_of(float(difference(once)[0]), drawn)


def bootstrap_means(
    columns: pd.DataFrame, patient_id: pd.Series, n_draws: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """The mean of each column, nan left out, and its percentile interval.

    Raises:
        InputError: rows and patients differ in number, or `n_draws` is below 1.
    """
    if len(columns) != len(patient_id) or patient_id.isna().any():
        raise InputError(f"{len(columns)} rows need as many patients, but have {len(patient_id)}")
    values = columns.to_numpy(float)
    there = ~np.isnan(values)

    def means(weight: Array) -> Array:
        return metrics.ratio(weight @ np.where(there, values, 0), weight @ there.astype(float))

    drawn = resampled(patient_id, means, n_draws, seed)
    once = metrics.ratio(np.where(there, values, 0).sum(axis=0), there.sum(axis=0).astype(float))
    return {
        str(name): interval_of(float(estimate), drawn[:, k])
        for k, (name, estimate) in enumerate(zip(columns.columns, once, strict=True))
    }


def bootstrap_roc_band(
    table: pd.DataFrame, fpr_grid: ArrayLike, n_draws: int = 2000, seed: int = 0
) -> RocBand:
    """The ROC curve on a rising grid of false positive rates, with pointwise 95 % limits.

    Between the curve's points the sensitivity is interpolated linearly; on a vertical piece it
    is the upper end.

    Raises:
        InputError: also for a wrong grid, or only one class in the table.
    """
    grid = metrics.probability("fpr_grid", fpr_grid)
    if (np.diff(grid) <= 0).any():
        raise InputError("fpr_grid must increase")
    label, p = label_and_p(table)
    if label.all() or not label.any():
        raise InputError(f"a ROC curve needs both labels, but all {len(label)} are the same")
    curves = resampled(
        table["patient_id"], lambda w: _roc_on_grid(label, p, w, grid), n_draws, seed
    )
    if not len(curves):
        raise InputError(f"none of {n_draws} draws had both labels: more draws are needed")
    low, high = np.quantile(curves, TAILS, axis=0)
    tpr = _roc_on_grid(label, p, np.ones((1, len(p))), grid)[0]
    return RocBand(fpr=grid, tpr=tpr, low=low, high=high, n_draws=len(curves))


def _roc_on_grid(label: NDArray[np.bool_], p: Array, weight: Array, grid: Array) -> Array:
    """Sensitivity of every draw with both classes, (draws, grid)."""
    positive, negative = _class_weights(label, p, weight)
    both = (positive.sum(axis=1) > 0) & (negative.sum(axis=1) > 0)
    # The strictest threshold first, from (0, 0) on.
    fpr, tpr = (
        np.pad(np.cumsum(part[both, ::-1], axis=1), ((0, 0), (1, 0)))
        for part in (negative, positive)
    )
    fpr, tpr = fpr / fpr[:, -1:], tpr / tpr[:, -1:]
    return np.array([np.interp(grid, x, y) for x, y in zip(fpr, tpr, strict=True)])


def resampled(
    patient_id: pd.Series, compute: Callable[[Array], Array], n_draws: int, seed: int
) -> Array:
    """A statistic of every draw of patients, (n_draws,) or (n_draws, ...).

    Args:
        patient_id: (n,), the patient of each nodule.
        compute: weights (draws, n), how often each nodule's patient is in a draw -> the values.
        n_draws: number of draws.
        seed: of the draws.
    """
    if n_draws < 1:
        raise InputError(f"n_draws is {n_draws}, but must be at least 1")
    patient, names = pd.factorize(patient_id, sort=True)
    drawn = _drawn(len(names), n_draws, seed)
    # `weighted_auc` adds up whole nodules: a nodule's weights lie next to each other in memory.
    blocks = (drawn[:, start : start + BLOCK] for start in range(0, n_draws, BLOCK))
    return np.concatenate([compute(block[patient].astype(float).T) for block in blocks])


@lru_cache(maxsize=8)  # a table asks for many statistics of the same patients
def _drawn(n_patients: int, n_draws: int, seed: int) -> NDArray[np.uint16]:
    """How often each patient is drawn, (n_patients, n_draws)."""
    drawn = np.random.default_rng(seed).integers(0, n_patients, size=(n_draws, n_patients))
    times = np.array([np.bincount(draw, minlength=n_patients) for draw in drawn], np.uint16)
    return np.ascontiguousarray(times.T)


def interval_of(estimate: float, values: Array) -> Interval:
    """The 95 % percentile interval of the draws in which a statistic is defined.

    Where the estimate is nan, or no draw is defined, the limits are nan and `n_draws` is 0.
    """
    defined = values[~np.isnan(values)]
    if np.isnan(estimate) or not len(defined):
        return Interval(estimate, float("nan"), float("nan"), 0)
    low, high = np.quantile(defined, TAILS)
    return Interval(estimate, float(low), float(high), len(defined))


def _statistic(statistic: str | WeightedStatistic) -> WeightedStatistic:
    if not isinstance(statistic, str):
        return statistic
    if statistic not in STATISTICS:
        raise InputError(f"statistic {statistic!r} is not one of {', '.join(STATISTICS)}")
    return STATISTICS[statistic]


def _need_columns(table: pd.DataFrame, *names: str) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(f"the table lacks the column {', '.join(missing)}")


def label_and_p(table: pd.DataFrame) -> tuple[NDArray[np.bool_], Array]:
    """The columns label and p_malignant of a table, if they and patient_id are fit for use.

    Raises:
        InputError: a column is missing or has a wrong value.
    """
    _need_columns(table, "patient_id", "label", "p_malignant")
    if table["patient_id"].isna().any():
        row = int(table["patient_id"].isna().to_numpy().argmax())
        raise InputError(f"row {row} of the table has no patient_id")
    label = metrics.binary("label", table["label"])
    return label, metrics.finite("p_malignant", table["p_malignant"])


def aligned_tables(table_a: pd.DataFrame, table_b: pd.DataFrame) -> pd.DataFrame:
    """`table_b` in the order of `table_a`.

    Raises:
        InputError: nodules, patients or labels differ, or a nodule is there twice.
    """
    for table in (table_a, table_b):
        _need_columns(table, "nodule_id", "patient_id", "label")
        twice = table["nodule_id"][table["nodule_id"].duplicated()]
        if len(twice):
            raise InputError(f"nodule {twice.iloc[0]} is twice in one of the tables")
    other = set(table_a["nodule_id"]) ^ set(table_b["nodule_id"])
    if other:
        raise InputError(
            f"a paired comparison needs the same nodules, but {len(other)} are in one table only, "
            f"the first is {min(other)}"
        )
    aligned = table_b.set_index("nodule_id").loc[table_a["nodule_id"]].reset_index()
    for name in ("patient_id", "label"):
        differs = aligned[name].to_numpy() != table_a[name].to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise InputError(
                f"nodule {aligned['nodule_id'].iloc[row]}: {name} is "
                f"{table_a[name].iloc[row]} in one table, {aligned[name].iloc[row]} in the other"
            )
    return aligned
