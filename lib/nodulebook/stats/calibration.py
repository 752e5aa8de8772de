"""Are predicted probabilities shares of malignant nodules, and how are they made so?

A network that is trained on mean ratings predicts a rating, not the probability of a label. Its
calibration slope (Cox 1958; Van Calster et al. 2019) shows that: 1 is right, above 1 means
probabilities too close to one half, below 1 too close to 0 and 1. `calibrated` maps predictions
to probabilities, fold by fold (Platt 1999, or isotonic: Zadrozny and Elkan 2002).
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from nodulebook.core.errors import InputError
from nodulebook.stats.bootstrap import bootstrap_means, label_and_p

Array = NDArray[np.float64]

Method = Literal["platt", "isotonic"]

SMALLEST_P = 1e-6
"""Probabilities nearer to 0 or 1 are taken for this before their logit."""

AT_A_TIME = 100
"""Draws whose regressions are fitted together: their arrays fit into the processor's cache."""


def logit(p: ArrayLike) -> Array:
    """log(p / (1 - p)), of probabilities cut off at 1e-6 and 1 - 1e-6."""
    inside = np.clip(np.asarray(p, float), SMALLEST_P, 1 - SMALLEST_P)
    return np.asarray(np.log(inside / (1 - inside)))


def fold_wise(features: Array, label: NDArray[np.bool_], fold: ArrayLike, model: Any) -> Array:
    """Probabilities of the label in each fold, by a model fitted on the other folds.

    Args:
        features: (n, d).
        label: (n,), True for malignant.
        fold: (n,), any numbers.
        model: of scikit-learn: a classifier, or a regressor whose prediction is the probability.

    Raises:
        InputError: the folds other than one hold nodules of one class only.
    """
    folds, out = np.asarray(fold), np.full(len(label), np.nan)
    for k in np.unique(folds):
        test = folds == k
        if len(np.unique(label[~test])) < 2:
            raise InputError(f"the folds other than fold {k} need nodules of both labels to fit on")
        model.fit(features[~test], label[~test].astype(int))
        if hasattr(model, "predict_proba"):
            out[test] = model.predict_proba(features[test])[:, 1]
        else:
            out[test] = model.predict(features[test])
    return out


def calibrated(table: pd.DataFrame, method: Method = "platt") -> pd.DataFrame:
    """The table with p_malignant mapped to probabilities, by a map fitted on the other folds.

    `platt` is a logistic regression of the label on the logit, `isotonic` the best map that never
    falls. The table has patient_id, label, p_malignant and fold; errors as `fold_wise`.
    """
    label, p = label_and_p(table)
    if method == "platt":
        mapped = fold_wise(logit(p)[:, None], label, table["fold"], plain_logistic())
    else:
        isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        mapped = fold_wise(p[:, None], label, table["fold"], isotonic)
    return table.assign(p_malignant=mapped)


def plain_logistic() -> LogisticRegression:
    """A logistic regression without a penalty."""
    return LogisticRegression(C=np.inf, max_iter=1000)


def calibration_slope(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
    """Slope of the logistic regression of the label on the logit, for `patient_bootstrap`."""
    return _calibration_lines(label, p, weight)[:, 1]


def calibration_intercept(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
    """Intercept of that regression (0 is right where the slope is 1), for `patient_bootstrap`."""
    return _calibration_lines(label, p, weight)[:, 0]


def _calibration_lines(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
    """Intercept and slope of every draw, (draws, 2), by Newton's method; nan without an optimum."""
    x = np.column_stack([np.ones(len(p)), logit(p)])
    # A draw's line is close to that of all nodules, if there is one.
    start = np.nan_to_num(_newton(label, x, np.ones((1, len(p))), np.zeros(2))[0])
    blocks = (weight[first : first + AT_A_TIME] for first in range(0, len(weight), AT_A_TIME))
    return np.concatenate([_newton(label, x, np.ascontiguousarray(one), start) for one in blocks])


def _newton(label: NDArray[np.bool_], x: Array, weight: Array, start: Array) -> Array:
    """Weighted logistic regression of the label on x (n, 2) in each draw of weight (draws, n).

    `start` is the line (intercept, slope) that the search begins with.

    A step that does not raise the likelihood is halved: far from the optimum, where overconfident
    probabilities have it, a whole step overshoots.
    """
    products = np.einsum("ni,nj->nij", x, x).reshape(len(x), 4)

    def at(line: Array, weight: Array) -> tuple[Array, Array]:
        """Loss (draws,) and predicted probability (draws, n)."""
        z = line @ x.T
        e = np.exp(-np.abs(z))
        loss = weight * (np.maximum(z, 0) + np.log1p(e) - label * z)
        return loss.sum(axis=1), np.where(z > 0, 1, e) / (1 + e)

    line, step = np.tile(start, (len(weight), 1)), np.zeros((len(weight), 2))
    undefined = np.zeros(len(weight), bool)
    now, share = at(line, weight)
    for _ in range(50):
        gradient = (weight * (label - share)) @ x
        curvature = ((weight * share * (1 - share)) @ products).reshape(-1, 2, 2)
        undefined |= np.linalg.det(curvature) < 1e-9  # one class, one score, or separated classes
        curvature[undefined] = np.eye(2)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        step[undefined] = 0
        if np.abs(step).max() < 1e-8:
            break
        after, share = at(line + step, weight)
        while (worse := after > now + 1e-9 * (1 + now)).any():
            step[worse] /= 2
            after[worse], share[worse] = at((line + step)[worse], weight[worse])
        line, now = line + step, after
    line[undefined | (np.abs(step).max(axis=1) >= 1e-8)] = np.nan
    return line


def calibration_curve(
    table: pd.DataFrame, n_groups: int = 10, n_draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Share of malignant nodules in groups of like probability (a reliability diagram).

    The nodules are cut into groups of like size by their probability, nodules of the same
    probability together, so that many equal ones give fewer groups. The groups stay as they are
    in all draws of patients.

    Returns:
        One row per group: p_mean, share, low, high, n (nodules).

    Raises:
        InputError: fewer groups than one; see `nodulebook.stats.bootstrap`.
    """
    if n_groups < 1:
        raise InputError(f"n_groups is {n_groups}, but must be at least 1")
    label, p = label_and_p(table)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, n_groups + 1)[1:-1]))
    _, group = np.unique(np.searchsorted(edges, p), return_inverse=True)
    columns = pd.DataFrame({k: np.where(group == k, label, np.nan) for k in range(group.max() + 1)})
    shares = bootstrap_means(columns, table["patient_id"], n_draws, seed).values()
    counts = np.bincount(group)
    return pd.DataFrame(
        {
            "p_mean": np.bincount(group, weights=p) / counts,
            "share": [one.estimate for one in shares],
            "low": [one.low for one in shares],
            "high": [one.high for one in shares],
            "n": counts,
        }
    )
