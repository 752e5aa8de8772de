"""Paired comparisons of runs: one interval, one test, one correction and one set of words."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nodulebook.runs.contract import Run, on_common_nodules
from nodulebook.stats.added_value import compare
from nodulebook.stats.bootstrap import Interval
from nodulebook.stats.paired_tests import Difference, delong_difference, holm
from nodulebook.stats.text import interval, number
from study.report.names import title

ALPHA = 0.05
HIGHER, LOWER, NO_DIFFERENCE = "higher", "lower", "no difference shown"


@dataclass(frozen=True)
class Contrast:
    """One run minus another, on the nodules that all their seeds have."""

    run: str
    base: str
    n: int
    auc: Interval
    """Difference in pooled AUC, 20,000 draws of patients and seeds."""
    by_fold: Difference
    """Mean difference over folds, averaged over seeds; corrected t test (Nadeau and Bengio)."""
    delong: float
    """p of the clustered DeLong test of the first seeds, Holm-corrected in its family: a
    sensitivity analysis."""
    p: float
    """p of the test over folds, Holm-corrected in its family."""

    @property
    def verdict(self) -> str:
        """Higher, lower, or no difference shown."""
        return verdict_word(self.auc, self.p)


def verdict_word(difference: Interval, p: float) -> str:
    """The word of the analysis plan: the corrected test and the interval must both say that there
    is a difference.
    """
    if p < ALPHA and (difference.low > 0 or difference.high < 0):
        return HIGHER if difference.low > 0 else LOWER
    return NO_DIFFERENCE


def contrasts(pairs: Sequence[tuple[Sequence[Run], Sequence[Run]]]) -> list[Contrast]:
    """The first of each pair minus the second, both as the run's seeds; one family for Holm."""
    both = [
        compare([one.probabilities for one in run], [one.probabilities for one in base])
        for run, base in pairs
    ]
    p = holm([one.by_fold.p_value for one in both])
    first = [(run[0], base[0]) for run, base in pairs]
    tables = [on_common_nodules(run, base) for run, base in first]
    delong = holm([delong_difference(one, other).p_value for one, other in tables])
    return [
        Contrast(run.name, base.name, one.n, one.auc, one.by_fold, float(d), float(q))
        for (run, base), one, d, q in zip(first, both, delong, p, strict=True)
    ]


def contrast_table(family: Sequence[Contrast]) -> pd.DataFrame:
    """A family of comparisons as text, one row each."""
    rows = [
        {
            "run": title(one.run),
            "minus": title(one.base),
            "AUC": interval(one.auc),
            "mean over folds": interval(
                Interval(one.by_fold.estimate, one.by_fold.low, one.by_fold.high, 0)
            ),
            "p": p_text(one.p),
            "p, DeLong": p_text(one.delong),
            "verdict": one.verdict,
            "n": f"{one.n:,}",
        }
        for one in family
    ]
    return pd.DataFrame(rows)


def p_text(p: float) -> str:
    """A p value as the book prints it; with four digits where three would hide its side of 0.05."""
    if p < 0.001:
        return "< 0.001"
    return number(p, 4 if number(p) == number(ALPHA) else 3)
