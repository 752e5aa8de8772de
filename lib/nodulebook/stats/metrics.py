"""The paper's metrics (its Eqs 11-15, mended) and the usual ones beside them.

Label 1 is malignant, the positive class; 0 is benign. A ratio 0/0 (no positive case, nothing
called positive, ...) is undefined and given as nan, never as 0 or 1.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from nodulebook.core.errors import InputError

Array = NDArray[np.float64]
Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True, eq=False)
class Confusion(Generic[Number]):
    """True and false positives and negatives: numbers, or arrays of one shape."""

    tp: Number
    tn: Number
    fp: Number
    fn: Number


def confusion(label: ArrayLike, predicted: ArrayLike) -> Confusion[float]:
    """Count the four outcomes of labels and predictions, (n,) of 0 and 1.

    Raises:
        InputError: another value, no case at all, or two lengths.
    """
    truth, called = binary("label", label), binary("predicted", predicted)
    _same_length(truth, called)
    return Confusion(
        tp=int((truth & called).sum()),
        tn=int((~truth & ~called).sum()),
        fp=int((~truth & called).sum()),
        fn=int((truth & ~called).sum()),
    )


def accuracy(c: Confusion[Number]) -> Number:
    """(TP + TN) / (TP + TN + FP + FN). Eq 11 prints FN twice and no TN below; mended."""
    return ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn)


def sensitivity(c: Confusion[Number]) -> Number:
    """TP / (TP + FN): Eq 12, and the true positive rate of Eq 15. nan without malignant cases."""
    return ratio(c.tp, c.tp + c.fn)


def specificity(c: Confusion[Number]) -> Number:
    """TN / (TN + FP): Eq 13. nan without benign cases."""
    return ratio(c.tn, c.tn + c.fp)


def precision(c: Confusion[Number]) -> Number:
    """TP / (TP + FP): Eq 14. nan where nothing is called malignant."""
    return ratio(c.tp, c.tp + c.fp)


def false_positive_rate(c: Confusion[Number]) -> Number:
    """FP / (FP + TN): Eq 15, 1 - specificity. nan without benign cases."""
    return ratio(c.fp, c.fp + c.tn)


def f1(c: Confusion[Number]) -> Number:
    """2 TP / (2 TP + FP + FN); not in the paper. nan where all cases are true negatives."""
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


RATES: dict[str, Callable[[Confusion[Any]], Any]] = {
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "precision": precision,
    "false_positive_rate": false_positive_rate,
    "f1": f1,
}
"""The ratios of the four outcomes, by name."""


def roc_auc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve; ties count one half. nan where only one class is present.

    Args: label (n,), 0 or 1; score (n,), finite, on any scale.
    """
    truth, values = binary("label", label), finite("score", score)
    _same_length(truth, values)
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, values))


def brier(label: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference between probability and label; 0 is perfect."""
    truth, values = binary("label", label), probability("p", p)
    _same_length(truth, values)
    return float(np.mean((values - truth) ** 2))


def summarise(label: ArrayLike, p: ArrayLike) -> dict[str, float]:
    """Every metric of this file, of labels (n,) and probabilities (n,); malignant from p >= 0.5 on.

    Returns:
        n, n_malignant, tp, tn, fp, fn, the names of `RATES`, roc_auc, brier; nan where undefined.
    """
    values = probability("p", p)
    c = confusion(label, values >= 0.5)
    counts = {"n": len(values), "n_malignant": c.tp + c.fn} | asdict(c)
    return (
        {name: float(count) for name, count in counts.items()}
        | {name: rate(c) for name, rate in RATES.items()}
        | {"roc_auc": roc_auc(label, values), "brier": brier(label, values)}
    )


def ratio(part: Number, whole: Number) -> Number:
    """`part / whole`, nan where whole is 0; a float for numbers, an array for arrays."""
    if isinstance(whole, np.ndarray):
        divided = np.full(whole.shape, np.nan)
        np.divide(part, whole, out=divided, where=whole != 0)
        return divided
    return part / whole if whole else float("nan")


def _vector(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"{name} must be a list of values, but has shape {array.shape}")
    return array


def binary(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """The values as True and False; InputError names the first that is neither 0 nor 1."""
    array = _vector(name, values)
    _refuse(name, array, ~np.isin(array, (0, 1)), "0 or 1")
    return array.astype(bool)


def finite(name: str, values: ArrayLike) -> Array:
    """The values as an array; InputError names the first that is not finite."""
    array = _vector(name, values).astype(float)
    _refuse(name, array, ~np.isfinite(array), "finite")
    return array


def probability(name: str, values: ArrayLike) -> Array:
    """The values as an array; InputError names the first that is not in [0, 1]."""
    array = finite(name, values)
    _refuse(name, array, (array < 0) | (array > 1), "between 0 and 1")
    return array


def _refuse(name: str, array: NDArray[Any], bad: NDArray[np.bool_], due: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"{name}[{row}] is {array[row]}, but must be {due}")


def _same_length(one: NDArray[Any], other: NDArray[Any]) -> None:
    if len(one) != len(other):
        raise InputError(f"{len(one)} labels, but {len(other)} values for them")
