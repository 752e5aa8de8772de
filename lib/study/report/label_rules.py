"""One set of predictions under many label rules: how much of an AUC is the choice of nodules.

A rule says how many readers a lesion needs and which ratings make it malignant or benign; all
others are left out. Nothing is trained: a run's out-of-fold predictions are scored again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nodulebook.runs.contract import Run
from nodulebook.stats.added_value import seeds_auc
from nodulebook.stats.bootstrap import Interval, patient_bootstrap


@dataclass(frozen=True)
class LabelRule:
    """Which lesions get which label."""

    key: str
    text: str
    readers: int
    """The fewest readers that must have marked the lesion."""
    statistic: Callable[[Sequence[int]], float]
    """Of a lesion's ratings, 1 to 5."""
    malignant_above: float
    benign_below: float


def _half_to_even(ratings: Sequence[int]) -> float:
    return float(np.round(np.mean(ratings)))


TINY = 1e-9
"""So that "at or above 3" is "above 3 less this"."""

RULES = (
    LabelRule("three-malignant", "mean 3 counts as malignant", 3, np.mean, 3 - TINY, 3 - TINY),
    LabelRule("three-benign", "mean 3 counts as benign", 3, np.mean, 3, 3 + TINY),
    LabelRule("readers-1", "mean not 3, one reader or more", 1, np.mean, 3, 3),
    LabelRule("readers-2", "mean not 3, two readers or more", 2, np.mean, 3, 3),
    LabelRule("readers-4", "mean not 3, four readers", 4, np.mean, 3, 3),
    LabelRule("mean", "mean not 3, three readers or more (ours)", 3, np.mean, 3, 3),
    LabelRule("median", "median not 3", 3, np.median, 3, 3),
    LabelRule("rounded", "rounded mean not 3", 3, _half_to_even, 3, 3),
    LabelRule("two-four", "mean at most 2 or at least 4", 3, np.mean, 4 - TINY, 2 + TINY),
    LabelRule("below-two", "mean below 2 or above 4", 3, np.mean, 4, 2),
)
"""The rules that the paper could mean and those of the works that it is compared with."""


def labelled_by(rule: LabelRule, nodules: pd.DataFrame) -> pd.DataFrame:
    """The lesions that a rule labels, with the column label."""
    ratings = nodules["malignancy"].str.split(";").map(lambda parts: [int(one) for one in parts])
    value = ratings.map(rule.statistic)
    malignant, benign = value > rule.malignant_above, value < rule.benign_below
    kept = (nodules["readers"] >= rule.readers) & (malignant | benign)
    return nodules[kept].assign(label=malignant[kept].astype(int)).reset_index(drop=True)


def every_prediction(run: Run) -> pd.DataFrame:
    """A run's out-of-fold predictions, of every held-out lesion where its folds have them."""
    tables = [
        fold.probabilities if fold.lesions is None else fold.lesions for fold in run.folds.values()
    ]
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class RuleRow:
    """What a rule gives."""

    rule: LabelRule
    n: int
    malignant: int
    ruler: Interval
    """Of diameter alone, on all n nodules."""
    predicted: int
    """Nodules among the n that every network has a prediction for."""
    ruler_same: Interval
    """Of diameter alone, on these."""
    networks: dict[str, Interval]
    """Of each network, on the same."""


def rule_rows(
    networks: dict[str, list[pd.DataFrame]], nodules: pd.DataFrame, n_draws: int = 2000
) -> list[RuleRow]:
    """Ruler and networks under each of `RULES`, on the same out-of-fold predictions.

    Args:
        networks: name to the predictions of its seeds, from `every_prediction`.
    """
    common = set(nodules["nodule_id"])
    for tables in networks.values():
        common = common.intersection(*(table["nodule_id"] for table in tables))
    rows = []
    for rule in RULES:
        labelled = labelled_by(rule, nodules)
        table = labelled[["nodule_id", "patient_id", "label"]].assign(
            p_malignant=labelled["diameter_mm"]
        )
        same = table[table["nodule_id"].isin(common)]
        rows.append(
            RuleRow(
                rule,
                len(table),
                int(table["label"].sum()),
                patient_bootstrap(table, "roc_auc", n_draws),
                len(same),
                patient_bootstrap(same, "roc_auc", n_draws),
                {
                    name: seeds_auc([_relabelled(one, same) for one in tables], n_draws)
                    for name, tables in networks.items()
                },
            )
        )
    return rows


def _relabelled(predictions: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    scores = predictions[["nodule_id", "p_malignant", "fold"]]
    return labelled.drop(columns="p_malignant").merge(scores, on="nodule_id", validate="1:1")
