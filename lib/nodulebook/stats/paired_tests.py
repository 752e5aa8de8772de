"""Tests of the difference between two classifiers on the same nodules, beside the bootstrap.

DeLong's test with patients as clusters, the t test over folds that allows for shared training
data, and Holm's correction for many comparisons.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata, t

from nodulebook.core.errors import InputError
from nodulebook.stats.bootstrap import aligned_tables, label_and_p

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference first minus second, its 95 % confidence interval and two-sided p value."""

    estimate: float
    low: float
    high: float
    p_value: float


def auc_covariance(
    label: NDArray[np.bool_], scores: Array, cluster: ArrayLike
) -> tuple[Array, Array]:
    """AUCs of several scores on the same cases, and their covariance matrix.

    DeLong et al. 1988 (the structural components V10 and V01, by ranks as in Sun and Xu 2014),
    extended to clustered cases by Obuchowski 1997: with one case a cluster the two agree.

    Args:
        label: (n,), True for malignant.
        scores: (k, n), higher for more likely malignant.
        cluster: (n,), the patient of each case.

    Returns:
        AUCs (k,) and covariance (k, k).

    Raises:
        InputError: fewer than two patients with malignant, or with benign, cases.
    """
    label, scores = np.asarray(label, bool), np.atleast_2d(np.asarray(scores, float))
    m, n = int(label.sum()), int((~label).sum())
    _, patient = np.unique(np.asarray(cluster), return_inverse=True)
    with_malignant, with_benign = (len(np.unique(patient[part])) for part in (label, ~label))
    if min(with_malignant, with_benign) < 2:
        raise InputError(
            "DeLong's test needs malignant cases of at least two patients and benign ones of at "
            f"least two, but has {with_malignant} and {with_benign}"
        )
    among_all = rankdata(scores, axis=1)
    # The share of the other class that a case is ordered right against; ties count one half.
    component = np.empty_like(scores)
    component[:, label] = (among_all[:, label] - rankdata(scores[:, label], axis=1)) / n
    component[:, ~label] = 1 - (among_all[:, ~label] - rankdata(scores[:, ~label], axis=1)) / m
    auc = component[:, label].mean(axis=1)
    off = component - auc[:, None]
    of_patient = np.zeros((2, len(scores), patient.max() + 1))
    for k, part in enumerate((label, ~label)):
        np.add.at(of_patient[k].T, patient[part], off[:, part].T)
    malignant, benign = of_patient
    patients = of_patient.shape[-1]
    both = malignant @ benign.T * patients / (patients - 1)
    covariance = (
        malignant @ malignant.T * with_malignant / (with_malignant - 1) / m**2
        + benign @ benign.T * with_benign / (with_benign - 1) / n**2
        + (both + both.T) / (m * n)
    )
    return auc, covariance


def delong_difference(table_a: pd.DataFrame, table_b: pd.DataFrame) -> Difference:
    """The difference in AUC, a - b, by DeLong's test with patients as clusters.

    The tables have one row per nodule: nodule_id, patient_id, label, p_malignant.

    Raises:
        InputError: the tables differ in nodules, patients or labels, or hold too few patients.
    """
    table_b = aligned_tables(table_a, table_b)
    (label, p_a), (_, p_b) = label_and_p(table_a), label_and_p(table_b)
    auc, covariance = auc_covariance(label, np.array([p_a, p_b]), table_a["patient_id"])
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ covariance @ contrast)
    return _difference(float(contrast @ auc), float(np.sqrt(max(variance, 0.0))), norm)


def _difference(estimate: float, error: float, distribution: Any) -> Difference:
    """The difference whose standardised error follows a distribution of scipy."""
    if error == 0:
        return Difference(estimate, estimate, estimate, 1.0 if estimate == 0 else 0.0)
    reach = float(distribution.ppf(0.975)) * error
    p_value = 2 * float(distribution.sf(abs(estimate) / error))
    return Difference(estimate, estimate - reach, estimate + reach, p_value)


def corrected_fold_difference(first: ArrayLike, second: ArrayLike, test_share: float) -> Difference:
    """The mean difference of a metric over folds, by the corrected resampled t test.

    Folds share most of their training data, so that an ordinary t test takes them for more
    independent than they are. Nadeau and Bengio 2003 replace the variance's factor 1 / k by
    1 / k + n_test / n_train.

    Args:
        first: (k,) values of the metric, one a fold.
        second: (k,) those of the other classifier, in the same folds.
        test_share: n_test / n_train of a fold; 1 / (k - 1) in k-fold cross-validation.

    Raises:
        InputError: fewer than two folds, not as many of each, or a value that is not finite.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise InputError(f"two or more folds of each are needed, but have {a.shape} and {b.shape}")
    if not (np.isfinite(a) & np.isfinite(b)).all():
        fold = int(np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))[0])
        raise InputError(f"the metric of fold {fold} is not finite")
    off = a - b
    estimate, k = float(off.mean()), len(off)
    error = float(np.sqrt(off.var(ddof=1) * (1 / k + test_share)))
    return _difference(estimate, error, t(k - 1))


def holm(p_values: ArrayLike) -> Array:
    """p values adjusted for the number of comparisons (Holm 1979), in the order given.

    Raises:
        InputError: a value is not between 0 and 1.
    """
    p = np.asarray(p_values, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p values must be numbers between 0 and 1, but are {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return np.asarray(adjusted[np.argsort(order, kind="stable")])
