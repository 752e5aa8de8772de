"""One reader as a classifier, the labels' stability, the estimated ceiling, and arithmetic."""

from collections.abc import Sequence

import pandas as pd

from nodulebook.core.paper import CLAIMED_AUC
from nodulebook.stats.arithmetic import (
    auc_ranges,
    fold_mean_possible,
    near_equal_folds,
    right_counts,
)
from nodulebook.stats.bootstrap import Interval, bootstrap_means, patient_bootstrap
from nodulebook.stats.mixture import Expectation
from nodulebook.stats.readers import (
    READER_STATISTICS,
    half_agreement,
    one_against_others,
    ratings_of,
    without_one,
)
from nodulebook.stats.text import interval, number

PAPER_SETS = ((600, 630), (450, 554))
"""Malignant and benign nodules: of the paper's abstract, and of its reference [17]."""


def _reader_arms(reference: pd.DataFrame, labelled: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "the others, reference nodules": one_against_others(ratings_of(reference)),
        "the others, labelled nodules": one_against_others(ratings_of(labelled)),
        "a label that includes the reader": one_against_others(ratings_of(labelled), own_too=True),
    }


def readers_rows(reference: pd.DataFrame, labelled: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """One reader as a classifier: statistic -> label (of three) -> interval."""
    arms = _reader_arms(reference, labelled)
    return {
        name: {arm: patient_bootstrap(table, of) for arm, table in arms.items()}
        for name, of in READER_STATISTICS.items()
    }


def readers_table(reference: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """`readers_rows` as text, after the numbers of ratings and nodules."""
    rows = [
        {"one reader against": name} | {arm: interval(one) for arm, one in arms.items()}
        for name, arms in readers_rows(reference, labelled).items()
    ]
    counts = {
        arm: f"{len(table):,} / {table['nodule_id'].nunique():,}"
        for arm, table in _reader_arms(reference, labelled).items()
    }
    return pd.DataFrame([{"one reader against": "ratings / nodules"} | counts, *rows])


def agreement_table(reference: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """How stable the labels are: two panels of two, and one reader left out."""
    halves, left = half_agreement(ratings_of(reference)), without_one(ratings_of(labelled))
    rows = [
        ("two panels of two readers give the same label", halves, "agree"),
        ("the label is the same without one of the readers", left, "same"),
        ("it becomes a mean of 3, which is no label", left, "lost"),
        ("it becomes the other label", left, "turned"),
    ]
    return pd.DataFrame(
        [
            {
                "": text,
                "share": interval(bootstrap_means(table[[column]], table["patient_id"])[column]),
                "nodules": f"{table['nodule_id'].nunique():,}",
            }
            for text, table, column in rows
        ]
    )


def expectation_table(
    accuracies: Sequence[Expectation], aucs: Sequence[Expectation], reference: pd.DataFrame
) -> pd.DataFrame:
    """The estimated ceiling, and two of the model's predictions next to the ratings themselves.

    Args:
        accuracies: the likeliest mixture, and those with the lowest and highest accuracy.
        aucs: the same of AUC.
    """
    rated = ratings_of(reference)
    table, halves = one_against_others(rated), half_agreement(rated)
    agree = bootstrap_means(halves[["agree"]], halves["patient_id"])["agree"]
    middle, reader_auc = accuracies[0], interval(patient_bootstrap(table, "roc_auc"))
    rows = [
        ("estimated ceiling of accuracy", *(number(one.accuracy) for one in accuracies), ""),
        ("estimated ceiling of AUC", *(number(one.auc) for one in aucs), ""),
        ("a second panel gives the same label", number(middle.second_panel), "", "", ""),
        ("check: AUC of one reader", number(middle.reader_auc), "", "", reader_auc),
        ("check: two panels of two agree", number(middle.halves), "", "", interval(agree)),
    ]
    return pd.DataFrame(rows, columns=["", "likeliest", "lowest", "highest", "seen in the ratings"])


def arithmetic_table(accuracy: str, auc: float = CLAIMED_AUC) -> pd.DataFrame:
    """Whether an accuracy can come from these nodules, and what AUC goes with it, as text.

    Args:
        accuracy: in per cent, as printed.
        auc: the AUC that is reported with the accuracy.
    """
    rows = []
    for malignant, benign in PAPER_SETS:
        n = malignant + benign
        errors = round((1 - float(accuracy) / 100) * n)
        hard_low, hard_high, low, high = auc_ranges(malignant, benign, errors)
        possible = fold_mean_possible(near_equal_folds(n), accuracy)
        rows.append(
            {
                "nodules": f"{n:,} ({malignant} + {benign})",
                f"k with k / n = {accuracy} %": ", ".join(map(str, right_counts(n, accuracy)))
                or "none",
                "mean of ten near-equal folds": "possible" if possible else "not possible",
                f"AUC {auc}": "possible" if low <= auc <= high else "not possible",
                "errors, nearest": str(errors),
                "AUC of the binary calls": f"{number(hard_low, 4)} to {number(hard_high, 4)}",
                "AUC of any scores": f"{number(low, 4)} to {number(high, 4)}",
            }
        )
    return pd.DataFrame(rows)
