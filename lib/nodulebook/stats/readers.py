"""The readers as classifiers, and how well any classifier can do on labels that they made.

The label is whether the mean of three or four readers' malignancy ratings (1 to 5) is above 3.
LIDC's readers are not named: which of them gave a rating is unknown, and the first of one nodule
is not the first of the next. So "a reader" here is any of them.

Where two lesions could not be told apart, or a reader marked one twice, a lesion has more than
four ratings; these few are left out.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.stats.bootstrap import WeightedStatistic, weighted_auc
from nodulebook.stats.metrics import ratio

Array = NDArray[np.float64]

N_RATINGS = 5
MIDDLE = 3
MOST_READERS = 4


def ratings_of(nodules: pd.DataFrame, min_readers: int = 3) -> pd.DataFrame:
    """The nodules with `min_readers` to four readers, and `ratings`, theirs as a tuple.

    Args:
        nodules: nodule_id, malignancy (as "5;5;4") and further columns, which are kept.
        min_readers: 3 gives the reference nodules.

    Raises:
        InputError: a rating is not 1 to 5.
    """
    ratings = []
    for row, text in enumerate(nodules["malignancy"]):
        parts = str(text).split(";")
        if not all(part in {"1", "2", "3", "4", "5"} for part in parts):
            raise InputError(
                f"nodule {nodules['nodule_id'].iloc[row]}: malignancy is {text!r}, but must be "
                "ratings from 1 to 5 joined by ;"
            )
        ratings.append(tuple(int(part) for part in parts))
    kept = [min_readers <= len(one) <= MOST_READERS for one in ratings]
    listed = pd.Series(ratings, index=nodules.index, dtype=object)
    return nodules.assign(ratings=listed)[kept].reset_index(drop=True)


def one_against_others(rated: pd.DataFrame, own_too: bool = False) -> pd.DataFrame:
    """Every rating beside the label, if any, that the nodule's other readers give it.

    Args:
        rated: from `ratings_of`.
        own_too: the label of all readers instead, the rater among them, as the book's labels are.

    Returns:
        One row per rating: nodule_id, patient_id, rating, label, and p_malignant: 0, 0.25, ... 1
        for the ratings 1 to 5.
    """
    rows = []
    for row in rated.to_dict("records"):
        ratings = row["ratings"]
        for k, rating in enumerate(ratings):
            judges = ratings if own_too else ratings[:k] + ratings[k + 1 :]
            if (label := _label(judges)) is not None:
                p = (rating - 1) / (N_RATINGS - 1)
                rows.append((row["nodule_id"], row["patient_id"], rating, label, p))
    columns = ["nodule_id", "patient_id", "rating", "label", "p_malignant"]
    return pd.DataFrame(rows, columns=columns)


def _label(ratings: Sequence[int]) -> int | None:
    """1 or 0; None where the mean is 3."""
    over = sum(ratings) - MIDDLE * len(ratings)
    return None if over == 0 else int(over > 0)


def half_for_the_middle(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
    """Accuracy where a rating of 3 (p = 0.5) counts as half right; for `patient_bootstrap`."""
    right = np.where(p == 0.5, 0.5, (p > 0.5) == label)
    share: Array = weight @ right / weight.sum(axis=1)
    return share


def _rate(of: int, at_least: float) -> WeightedStatistic:
    def statistic(label: NDArray[np.bool_], p: Array, weight: Array) -> Array:
        right = (p >= at_least) == label
        wanted = np.ones(len(label)) if of < 0 else (label == bool(of)).astype(float)
        return ratio(weight @ (right * wanted), weight @ wanted)

    return statistic


READER_STATISTICS: dict[str, WeightedStatistic] = {
    "AUC": weighted_auc,
    "accuracy, 3 half right": half_for_the_middle,
    "accuracy, 3 as malignant": _rate(-1, 0.5),
    "accuracy, 3 as benign": _rate(-1, 0.75),
    "sensitivity, 3 as malignant": _rate(1, 0.5),
    "specificity, 3 as malignant": _rate(0, 0.5),
    "sensitivity, 3 as benign": _rate(1, 0.75),
    "specificity, 3 as benign": _rate(0, 0.75),
}
"""Of tables from `one_against_others`."""


def half_agreement(rated: pd.DataFrame) -> pd.DataFrame:
    """Four readers as two panels of two: do their labels agree?

    Returns:
        One row for each of the three ways to part the four readers of a nodule of `ratings_of`,
        where neither panel's mean is 3: nodule_id, patient_id, agree (0 or 1).
    """
    rows = []
    for row in rated.to_dict("records"):
        ratings = row["ratings"]
        if len(ratings) != MOST_READERS:
            continue
        for other in (1, 2, 3):
            one = _label((ratings[0], ratings[other]))
            two = _label([ratings[k] for k in (1, 2, 3) if k != other])
            if one is not None and two is not None:
                rows.append((row["nodule_id"], row["patient_id"], int(one == two)))
    return pd.DataFrame(rows, columns=["nodule_id", "patient_id", "agree"])


def without_one(rated: pd.DataFrame) -> pd.DataFrame:
    """What becomes of a label of `ratings_of` when one of its readers is left out.

    Returns:
        One row per reader of a labelled nodule: nodule_id, patient_id, same, turned, lost (0 or 1).
        The label is lost where the others' mean is 3.
    """
    rows = []
    for row in rated.to_dict("records"):
        ratings = row["ratings"]
        label = _label(ratings)
        if label is None:
            continue
        for others in combinations(ratings, len(ratings) - 1):
            now = _label(others)
            same, lost = int(now == label), int(now is None)
            rows.append((row["nodule_id"], row["patient_id"], same, 1 - same - lost, lost))
    return pd.DataFrame(rows, columns=["nodule_id", "patient_id", "same", "turned", "lost"])
