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

LEVEL = 0.05
HIGHER, LOWER, NO_DIFFERENCE = "higher", "lower", "no difference shown"


@dataclass(frozen=True)
class Contrast:
    """One run minus another, on the nodules that both have."""

    run: str
    base: str
    n: int
    auc: Interval
    """Difference in pooled AUC, 20,000 draws of patients."""
    by_fold: Difference
    """Mean difference over folds, corrected t test (Nadeau and Bengio)."""
    delong: float
    """p of the clustered DeLong test, Holm-corrected in its family: a sensitivity analysis."""
    p: float
    """p of the test over folds, Holm-corrected in its family."""

    @property
    def verdict(self) -> str:
        """Higher, lower, or no difference shown."""
        return verdict(self.auc, self.p)


def verdict(difference: Interval, p: float) -> str:
    """The words of the analysis plan: `higher` or `lower` if the corrected p is below 0.05 and the
    interval excludes 0, else `no difference shown`.
    """
    if p >= LEVEL or difference.low <= 0 <= difference.high:
        return NO_DIFFERENCE
    return HIGHER if difference.low > 0 else LOWER


def contrasts(pairs: Sequence[tuple[Run, Run]]) -> list[Contrast]:
    """The first of each pair minus the second. All pairs together are one family for Holm."""
    found = []
    for run, base in pairs:
        first, second = on_common_nodules(run, base)
        both = compare([first], [second])
        delong = delong_difference(first, second).p_value
        found.append((run.name, base.name, both, delong))
    by_fold = holm([both.by_fold.p_value for _, _, both, _ in found])
    by_delong = holm([delong for *_, delong in found])
    return [
        Contrast(run, base, both.n, both.auc, both.by_fold, float(q), float(p))
        for (run, base, both, _), p, q in zip(found, by_fold, by_delong, strict=True)
    ]


def contrast_table(family: Sequence[Contrast]) -> pd.DataFrame:
    """A family of comparisons as text, one row each."""
    rows = [
        {
            "run": title(one.run),
            "minus": title(one.base),
            "n": f"{one.n:,}",
            "AUC": interval(one.auc),
            "mean over folds": interval(
                Interval(one.by_fold.estimate, one.by_fold.low, one.by_fold.high, 0)
            ),
            "p": p_text(one.p),
            "p, DeLong": p_text(one.delong),
            "verdict": one.verdict,
        }
        for one in family
    ]
    return pd.DataFrame(rows)


def p_text(p: float) -> str:
    """A p value as the book prints it."""
    return "< 0.001" if p < 0.001 else number(p)
