"""Can a printed accuracy and AUC come from so many nodules? Exact counting, no data."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

import numpy as np

from nodulebook.core.errors import InputError


def printed_range(percent: str) -> tuple[Fraction, Fraction]:
    """The shares that are printed so, rounded or cut off, both ends included.

    "97.08" may stand for anything from 97.075 to 97.09 %. InputError: it is no number.
    """
    try:
        value = Fraction(percent)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{percent!r} is no number such as 97.08") from None
    digit = Fraction(1, 10 ** len(percent.partition(".")[2]))
    return (value - digit / 2) / 100, (value + digit) / 100


def right_counts(n: int, percent: str) -> list[int]:
    """How many of n nodules may have been right for this accuracy to be printed.

    Raises:
        InputError: n is below 1, or `percent` no number.
    """
    if n < 1:
        raise InputError(f"n is {n}, but must be at least 1")
    low, high = printed_range(percent)
    return list(range(max(0, ceil(low * n)), min(n, floor(high * n)) + 1))


def near_equal_folds(n: int, folds: int = 10) -> list[int]:
    """Sizes of folds that differ by one at most."""
    return [n // folds + (k < n % folds) for k in range(folds)]


def fold_mean_possible(sizes: Sequence[int], percent: str) -> bool:
    """Whether the mean of the folds' accuracies can be printed so; `sizes` are their test nodules.

    Folds of one size count together, so that only the errors of each size are tried.

    Raises:
        InputError: no fold, an empty one, or `percent` is no number.
    """
    if not sizes or min(sizes) < 1:
        raise InputError(f"folds of {list(sizes)} nodules: each needs at least one")
    low, high = printed_range(percent)
    # Mean error, times the number of folds: a sum of (errors in folds of a size) / size.
    wanted = ((1 - high) * len(sizes), (1 - low) * len(sizes))
    counts = sorted(Counter(sizes).items(), reverse=True)
    return _reachable(counts, *wanted)


def _reachable(counts: Sequence[tuple[int, int]], low: Fraction, high: Fraction) -> bool:
    """Whether whole numbers of errors e_i, at most size_i x folds_i, give low <= sum <= high."""
    (size, folds), rest = counts[0], counts[1:]
    most = min(size * folds, floor(high * size))
    if not rest:
        return high >= 0 and max(0, ceil(low * size)) <= most
    return any(
        _reachable(rest, low - Fraction(errors, size), high - Fraction(errors, size))
        for errors in range(most + 1)
    )


def auc_ranges(malignant: int, benign: int, errors: int) -> tuple[float, float, float, float]:
    """What AUC goes with so many errors at some threshold.

    Above the threshold the scores may rank true and false positives in any order, below it false
    and true negatives; everything above ranks over everything below. With yes and no alone, all
    of these pairs are ties: then the AUC is the mean of sensitivity and specificity.

    Returns:
        Over all ways to split the errors into false positives and negatives: smallest and largest
        AUC of yes and no alone; smallest and largest AUC of any scores.

    Raises:
        InputError: no nodule of a class, or more errors than nodules.
    """
    if min(malignant, benign) < 1 or not 0 <= errors <= malignant + benign:
        raise InputError(f"{errors} errors in {malignant} malignant and {benign} benign nodules")
    fn = np.arange(max(0, errors - benign), min(errors, malignant) + 1)
    fp = errors - fn
    tp, tn = malignant - fn, benign - fp
    sure, open_ = tp * tn, tp * fp + fn * tn
    pairs = malignant * benign
    hard = (sure + open_ / 2) / pairs
    return (
        float(hard.min()),
        float(hard.max()),
        float((sure / pairs).min()),
        float(((sure + open_) / pairs).max()),
    )
