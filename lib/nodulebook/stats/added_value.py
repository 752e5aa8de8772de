"""Does a score add anything to a ruler? Diameter and score together against diameter alone.

On LIDC-IDRI the diameter separates the labels almost as well as any network, so a difference in
AUC between the two says little. What a network adds is the AUC of both together minus that of the
diameter (Pencina et al. 2008; Kerr et al. 2011), and its AUC among nodules of like size.

A run of several seeds is a list of tables, one per seed, with the same nodules. An interval is over
draws of patients and, in each draw, of one seed; the test is over folds. `diameter_mm` is by
nodule_id; InputError where a nodule has no positive one. `n_draws` and `seed` are of the draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import (
    Interval,
    aligned_tables,
    interval_of,
    label_and_p,
    resampled,
    statistic_draws,
    weighted_auc,
)
from nodulebook.stats.calibration import fold_wise, logit, plain_logistic
from nodulebook.stats.paired_tests import Difference, corrected_fold_difference

Array = NDArray[np.float64]
Tables = Sequence[pd.DataFrame]
"""One per seed; one row per nodule: nodule_id, patient_id, label, p_malignant, fold."""

DRAWS = 20_000
WITHIN = 0.10
"""Nodules are of like size where the larger diameter is less than this share above the other."""


@dataclass(frozen=True)
class Comparison:
    """First minus second: the difference in pooled AUC, and the test over folds."""

    auc: Interval
    """Over draws of patients and seeds."""
    by_fold: Difference
    """Mean difference of the folds' AUCs, with the correction of Nadeau and Bengio."""
    n: int
    """Nodules that both have."""


def ruler_score(table: pd.DataFrame, diameter_mm: pd.Series) -> pd.DataFrame:
    """The table with the probability by log diameter alone, fitted on the other folds."""
    label, _ = label_and_p(table)
    features = np.log(_diameters(table, diameter_mm))[:, None]
    return table.assign(p_malignant=fold_wise(features, label, table["fold"], plain_logistic()))


def combined_score(table: pd.DataFrame, diameter_mm: pd.Series) -> pd.DataFrame:
    """The table with the probability by log diameter and the score's logit together."""
    label, p = label_and_p(table)
    features = np.column_stack([np.log(_diameters(table, diameter_mm)), logit(p)])
    return table.assign(p_malignant=fold_wise(features, label, table["fold"], plain_logistic()))


def added_value(
    tables: Tables, diameter_mm: pd.Series, n_draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Diameter and score together minus diameter alone, both fitted on the other folds."""
    together = [combined_score(table, diameter_mm) for table in tables]
    return compare(together, [ruler_score(tables[0], diameter_mm)], n_draws, seed)


def compare(first: Tables, second: Tables, n_draws: int = DRAWS, seed: int = 0) -> Comparison:
    """The difference in AUC between two runs of one or several seeds, on the nodules of both.

    Raises:
        InputError: the runs share no nodule or differ in patients, labels or folds; a fold holds
            one class only.
    """
    both = _on_common_nodules([*first, *second])
    sides = both[: len(first)], both[len(first) :]
    one, other = (np.mean([fold_aucs(table) for table in side], axis=0) for side in sides)
    if len(one) < 2:
        raise InputError("a comparison over folds needs two folds at least")
    test = corrected_fold_difference(one, other, test_share=1 / (len(one) - 1))
    return Comparison(seeds_difference(*sides, n_draws, seed), test, len(both[0]))


def seeds_difference(first: Tables, second: Tables, n_draws: int = 2000, seed: int = 0) -> Interval:
    """First minus second, each the mean AUC of its seeds, on the nodules (or patients) of both.

    The interval is over draws of patients, the same for both, and of each side's seeds.
    """
    both = _on_common_nodules([*first, *second])
    sides = both[: len(first)], both[len(first) :]
    (one, of_one), (other, of_other) = (
        seed_draws(side, _auc_draws, n_draws, (seed, k)) for k, side in enumerate(sides)
    )
    return interval_of(one - other, of_one - of_other)


def seeds_auc(tables: Tables, n_draws: int = 2000, seed: int = 0) -> Interval:
    """The mean AUC of a run's seeds, and its interval over draws of patients and seeds.

    With one seed it is that of `bootstrap.patient_bootstrap`, to the last digit.
    """
    return interval_of(*seed_draws(_on_common_nodules(tables), _auc_draws, n_draws, (seed, 0)))


def seeds_statistic(tables: Tables, statistic: str, n_draws: int = 2000, seed: int = 0) -> Interval:
    """As `seeds_auc`, of another of `bootstrap.STATISTICS`."""

    def draws(table: pd.DataFrame, n_draws: int, seed: int) -> tuple[float, Array]:
        return statistic_draws(table, statistic, n_draws, seed)

    return interval_of(*seed_draws(_on_common_nodules(tables), draws, n_draws, (seed, 0)))


def matched_auc(
    tables: Tables,
    diameter_mm: pd.Series,
    within: float = WITHIN,
    n_draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The share of ordered pairs among all pairs of a malignant and a benign nodule of like size.

    Args:
        tables: one per seed.
        diameter_mm: diameter by nodule_id.
        within: a pair counts where the larger diameter is below (1 + within) times the smaller.
        n_draws: draws of patients and seeds; all such pairs of the patients drawn count.
        seed: of the draws.

    Raises:
        InputError: no pair is of like size.
    """
    tables = _on_common_nodules(tables)
    label, _ = label_and_p(tables[0])
    size = np.log(_diameters(tables[0], diameter_mm))
    alike = np.abs(size[label][:, None] - size[~label]) < np.log1p(within)
    if not alike.any():
        raise InputError(f"no malignant and benign nodule have diameters within {within:.0%}")

    patients, once = tables[0]["patient_id"], np.ones((1, len(label)))

    def weight_of(pairs: NDArray[np.bool_] | Array) -> Callable[[Array], Array]:
        """The weight of pairs (malignant, benign) in each draw."""
        # Counts and halves of counts, far below 2^24: float32 is exact, and half the work.
        exact = pairs.astype(np.float32)

        def total(weight: Array) -> Array:
            positive = weight[:, label].astype(np.float32)
            return np.asarray((positive @ exact * weight[:, ~label]).sum(axis=1))

        return total

    of_all = weight_of(alike)
    drawn = resampled(patients, of_all, n_draws, seed)

    def draws(table: pd.DataFrame, n_draws: int, seed: int) -> tuple[float, Array]:
        p = table["p_malignant"].to_numpy(float)
        of_won = weight_of(alike * (np.sign(p[label][:, None] - p[~label]) + 1) / 2)
        estimate = metrics.ratio(of_won(once), of_all(once))[0]
        return float(estimate), metrics.ratio(resampled(patients, of_won, n_draws, seed), drawn)

    return interval_of(*seed_draws(tables, draws, n_draws, (seed, 0)))


def fold_aucs(table: pd.DataFrame) -> Array:
    """The AUC within each fold, in the order of the folds' numbers; nan with one class only."""
    label, p = label_and_p(table)
    fold, _ = pd.factorize(table["fold"], sort=True)
    return _aucs_of_folds(fold.astype(np.int64).tobytes(), label.tobytes(), p.tobytes()).copy()


# A page compares the same run with many others: what depends on one table is computed once.
@lru_cache(maxsize=128)
def _aucs_of_folds(fold: bytes, label: bytes, p: bytes) -> Array:
    truth, score = np.frombuffer(label, bool), np.frombuffer(p)
    number = np.frombuffer(fold, np.int64)
    parts = [number == k for k in range(number.max() + 1)]
    return np.array([metrics.roc_auc(truth[part], score[part]) for part in parts])


def _auc_draws(table: pd.DataFrame, n_draws: int, seed: int) -> tuple[float, Array]:
    """The AUC on the table, and in each draw of patients."""
    label, p = label_and_p(table)
    patients = tuple(table["patient_id"].tolist())
    return _aucs_of_draws(patients, label.tobytes(), p.tobytes(), n_draws, seed)


@lru_cache(maxsize=128)
def _aucs_of_draws(
    patients: tuple[str, ...], label: bytes, p: bytes, n_draws: int, seed: int
) -> tuple[float, Array]:
    truth, score = np.frombuffer(label, bool), np.frombuffer(p)

    def auc(weight: Array) -> Array:
        return weighted_auc(truth, score, weight)

    drawn = resampled(pd.Series(patients), auc, n_draws, seed)
    drawn.flags.writeable = False  # shared by all that ask again
    return float(auc(np.ones((1, len(truth))))[0]), drawn


def seed_draws(
    tables: Tables,
    draws: Callable[[pd.DataFrame, int, int], tuple[float, Array]],
    n_draws: int,
    seeds: tuple[int, int],
) -> tuple[float, Array]:
    """The mean of a statistic over seeds, and its value in each draw of patients and a seed.

    Args:
        draws: table, number and seed of the draws -> the statistic on the table and in each draw.
    """
    each = [draws(table, n_draws, seeds[0]) for table in tables]
    drawn = np.random.default_rng([1, *seeds]).integers(0, len(tables), n_draws)
    values = np.column_stack([of_draws for _, of_draws in each])
    return float(np.mean([once for once, _ in each])), values[np.arange(n_draws), drawn]


def _on_common_nodules(tables: Tables) -> list[pd.DataFrame]:
    """The tables on the nodules that all have, in one order.

    Raises:
        InputError: there is no such nodule, or patients, labels or folds differ.
    """
    if not tables:
        raise InputError("a comparison needs at least one table of predictions per run")
    ids = set(tables[0]["nodule_id"]).intersection(*(table["nodule_id"] for table in tables[1:]))
    if not ids:
        raise InputError("the runs that are compared share no nodule")
    kept = [table[table["nodule_id"].isin(ids)].reset_index(drop=True) for table in tables]
    same = [kept[0], *(aligned_tables(kept[0], table) for table in kept[1:])]
    if any((table["fold"].to_numpy() != same[0]["fold"].to_numpy()).any() for table in same):
        raise InputError("the runs that are compared have different folds")
    return same


def _diameters(table: pd.DataFrame, diameter_mm: pd.Series) -> Array:
    found = diameter_mm.reindex(table["nodule_id"])
    bad = ~(found > 0).to_numpy()
    if bad.any():
        name = table["nodule_id"].iloc[int(bad.argmax())]
        raise InputError(f"nodule {name}: its diameter is {found[name]}, but must be above 0 mm")
    return found.to_numpy(float)
