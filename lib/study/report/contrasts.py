"""Runs beside one of them on the same nodules: differences, two tests each, corrected for many.

Three ways to say how sure a difference is, since none is beyond doubt: draws of patients and
DeLong's test take the fitted networks as they are; the t test over folds also sees that each fold
was trained anew.
"""

from collections.abc import Mapping

import pandas as pd

from nodulebook.core.settings import N_FOLDS
from nodulebook.runs.contract import Run, on_common_nodules
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import Interval, paired_bootstrap_difference
from nodulebook.stats.paired_tests import (
    Difference,
    corrected_fold_difference,
    delong_difference,
    holm,
)
from nodulebook.stats.text import interval, number


def over_folds(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    """The mean difference of the folds' AUCs, by the corrected resampled t test."""
    aucs = [
        [metrics.roc_auc(part["label"], part["p_malignant"]) for _, part in table.groupby("fold")]
        for table in (first, second)
    ]
    return corrected_fold_difference(aucs[0], aucs[1], test_share=1 / (N_FOLDS - 1))


def contrast_table(runs: Mapping[str, Run], base: Run, base_text: str) -> pd.DataFrame:
    """Each run minus one of them, a row a run.

    Args:
        runs: text of the row -> run; the base itself is left out.
        base: the run that the others are compared with.
        base_text: how the table's heads call it.

    Returns:
        Columns "classified by", "n", "AUC minus <base>" (patient bootstrap), "p, DeLong", "mean
        over folds" (corrected t interval), "p, folds" and "accuracy minus <base>" (patient
        bootstrap), as text. The p values are Holm's, over the rows of their column.
    """
    others = {text: run for text, run in runs.items() if run.name != base.name}
    rows, delong, folds = [], [], []
    for text, run in others.items():
        first, second = on_common_nodules(run, base)
        by_fold = over_folds(first, second)
        delong.append(delong_difference(first, second).p_value)
        folds.append(by_fold.p_value)
        rows.append(
            {
                "classified by": text,
                "n": f"{len(first):,}",
                f"AUC minus {base_text}": interval(
                    paired_bootstrap_difference(first, second, "roc_auc")
                ),
                "p, DeLong": "",
                "mean over folds": interval(
                    Interval(by_fold.estimate, by_fold.low, by_fold.high, 0)
                ),
                "p, folds": "",
                f"accuracy minus {base_text}": interval(
                    paired_bootstrap_difference(first, second, "accuracy")
                ),
            }
        )
    table = pd.DataFrame(rows)
    for column, values in (("p, DeLong", delong), ("p, folds", folds)):
        table[column] = [p_text(p) for p in holm(values)]
    return table


def p_text(p: float) -> str:
    """A p value as the book prints it."""
    return "< 0.001" if p < 0.001 else number(p)
