"""Runs beside one of them: the same nodules, both tests, corrected for their number."""

import numpy as np
import pytest

from made_runs import made_probabilities
from nodulebook.runs.contract import Run
from nodulebook.stats.bootstrap import paired_bootstrap_difference
from nodulebook.stats.paired_tests import delong_difference
from nodulebook.stats.text import interval
from study.report import contrasts


def made(name: str, strength: float, n: int = 200) -> Run:
    """Ten folds of `n` nodules of 100 patients; the larger the strength, the better."""
    table = made_probabilities(name, strength, np.arange(n) // 2)
    return Run(name, {}, table.assign(fold=np.arange(n) // 2 % 10), ())


BASE, WEAK, SAME = made("base", 2.0), made("weak", 0.1), made("twin", 2.0)


def test_rows_are_the_differences_on_common_nodules():
    larger = made("more", 0.1, n=240)
    table = contrasts.contrast_table({"base": BASE, "more": larger, "weak": WEAK}, BASE, "ours")
    assert table["classified by"].tolist() == ["more", "weak"]
    assert table["n"].tolist() == ["200", "200"]
    cut = larger.probabilities[:200]
    for metric, column in (("roc_auc", "AUC minus ours"), ("accuracy", "accuracy minus ours")):
        expected = paired_bootstrap_difference(cut, BASE.probabilities, metric)
        assert table[column][0] == interval(expected)


def test_p_values_are_holms_over_the_rows():
    """The smaller of two is doubled, the larger is not below it."""
    table = contrasts.contrast_table({"weak": WEAK, "twin": SAME}, BASE, "ours")
    p = {
        name: delong_difference(run.probabilities, BASE.probabilities).p_value
        for name, run in (("weak", WEAK), ("twin", SAME))
    }
    assert 2 * p["weak"] < 0.001 and p["twin"] > 0.05
    assert table["p, DeLong"].tolist() == ["< 0.001", contrasts.p_text(p["twin"])]
    alone = contrasts.contrast_table({"twin": SAME}, BASE, "ours")
    assert alone["p, DeLong"].tolist() == [contrasts.p_text(p["twin"])]


def test_the_mean_over_folds_is_of_the_folds_aucs():
    """Scores that are shifted from fold to fold rank wrongly when pooled, not within folds."""
    shifted = BASE.probabilities.copy()
    shifted["p_malignant"] = (shifted["p_malignant"] + shifted["fold"]) / 10
    by_fold = contrasts.over_folds(shifted, BASE.probabilities)
    assert by_fold.estimate == pytest.approx(0, abs=1e-12)
    pooled = paired_bootstrap_difference(shifted, BASE.probabilities, "roc_auc")
    assert pooled.high < -0.1


@pytest.mark.parametrize(("p", "text"), [(0.0009, "< 0.001"), (0.0014, "0.001"), (1.0, "1.000")])
def test_p_values_as_printed(p, text):
    assert contrasts.p_text(p) == text
