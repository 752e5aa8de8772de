"""Recipes compared on validation patients (`study.experiments.trials`)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from nodulebook.stats.bootstrap import Interval, paired_bootstrap_difference, patient_bootstrap
from nodulebook.stats.text import interval
from study.experiments.trials import Trial, diameter_of, split_auc


def outcomes(
    table: pd.DataFrame, names: Sequence[str], base: str
) -> dict[str, tuple[Interval, Interval]]:
    """AUC and paired difference to the base of each trial that has all splits, by name.

    AUC: the mean over the splits of the AUC within each. Difference: on the same nodules, the
    same draws of patients on both sides.

    Args:
        table: from `trials.trial_table`.
    """
    first = table[table["trial"] == base].reset_index(drop=True)
    statistic = split_auc(first["fold"].to_numpy())
    found = {}
    for name in names:
        other = table[table["trial"] == name].set_index("nodule_id")
        if not other.empty:
            same = other.loc[first["nodule_id"]].reset_index()
            difference = paired_bootstrap_difference(same, first, statistic)
            found[name] = patient_bootstrap(same, statistic), difference
    return found


def trials_table(
    found: Mapping[str, tuple[Interval, Interval]], trials: Mapping[str, Trial], base: str
) -> pd.DataFrame:
    """`outcomes` as text, one row per trial."""
    rows = [
        {
            "tried": f"{one.title} (`{name}`)" if (one := trials[name]).title else f"`{name}`",
            "AUC": interval(auc),
            "difference": "" if name == base else interval(difference),
            "in full": one.question,
            "epochs": str(one.settings.training.epochs),
        }
        for name, (auc, difference) in found.items()
    ]
    return pd.DataFrame(rows)


def ruler_auc(table: pd.DataFrame, nodules: pd.DataFrame) -> Interval:
    """The mean over splits of the AUC of the readers' diameter on the validated nodules.

    Args:
        table: from `trials.trial_table`.
    """
    first = table[table["trial"] == table["trial"].iloc[0]].reset_index(drop=True)
    return patient_bootstrap(diameter_of(first, nodules), split_auc(first["fold"].to_numpy()))


def seed_spread(found: Mapping[str, tuple[Interval, Interval]]) -> tuple[float, float]:
    """Standard deviation of the AUC over seeds, and the half-width of the 95 % range of the
    difference between two single runs of one recipe.

    The half-width is √2 standard deviations times the 97.5 % quantile of t with one degree of
    freedom fewer than there are seeds, since few seeds tell the deviation itself only roughly.
    """
    deviation = float(np.std([auc.estimate for auc, _ in found.values()], ddof=1))
    return deviation, float(student_t.ppf(0.975, len(found) - 1)) * 2**0.5 * deviation
