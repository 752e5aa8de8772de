"""Comparisons of runs: the same nodules, both tests, one correction, one set of words."""

import numpy as np
import pytest

from made_runs import made_probabilities
from nodulebook.core import paths
from nodulebook.runs.contract import Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import Interval
from nodulebook.stats.paired_tests import delong_difference
from study.report.contrasts import (
    HIGHER,
    LOWER,
    NO_DIFFERENCE,
    contrast_table,
    contrasts,
    p_text,
    verdict_word,
)  # fmt: skip


def made(name: str, strength: float, n: int = 200) -> Run:
    """Ten folds of `n` nodules of 100 patients; the larger the strength, the better."""
    table = made_probabilities(name, strength, np.arange(n) // 2)
    return Run(name, {}, table.assign(fold=np.arange(n) // 2 % 10), ())


BASE, WEAK, SAME = made("base", 2.0), made("weak", 0.1), made("twin", 2.0)


def test_differences_are_of_the_nodules_that_both_have():
    larger = made("more", 0.1, n=240)
    (one,) = contrasts([([larger], [BASE])])
    cut = larger.probabilities[:200]
    wanted = [metrics.roc_auc(t["label"], t["p_malignant"]) for t in (cut, BASE.probabilities)]
    assert one.n == 200 and one.auc.estimate == pytest.approx(wanted[0] - wanted[1])
    assert one.verdict == LOWER
    table = contrast_table([one])
    assert table["verdict"].tolist() == [LOWER] and list(table)[:3] == ["run", "minus", "AUC"]


def test_a_run_counts_with_all_its_seeds():
    (one,) = contrasts([([BASE, WEAK], [SAME])])
    tables = [run.probabilities for run in (BASE, WEAK, SAME)]
    aucs = [metrics.roc_auc(table["label"], table["p_malignant"]) for table in tables]
    assert one.auc.estimate == pytest.approx((aucs[0] + aucs[1]) / 2 - aucs[2])
    assert (one.run, one.base) == ("base", "twin")


def test_p_values_are_corrected_over_the_whole_family():
    """The smallest of four, against two bases, is multiplied by four."""
    pairs = [([run], [base]) for base in (BASE, SAME) for run in (WEAK, made("other", 2.0))]
    alone = [contrasts([pair])[0] for pair in pairs]
    family = contrasts(pairs)
    first = min(range(4), key=lambda k: alone[k].p)
    assert family[first].p == pytest.approx(min(1, 4 * alone[first].p))
    assert all(together.p >= one.p for together, one in zip(family, alone, strict=True))
    p = delong_difference(WEAK.probabilities, BASE.probabilities).p_value
    assert alone[0].delong == pytest.approx(p)


@pytest.mark.parametrize(
    ("low", "high", "p", "words"),
    [
        (0.01, 0.03, 0.049, HIGHER),
        (-0.03, -0.01, 0.049, LOWER),
        (0.01, 0.03, 0.05, NO_DIFFERENCE),
        (-0.01, 0.03, 0.001, NO_DIFFERENCE),
    ],
)
def test_a_verdict_needs_both_the_test_and_the_interval(low, high, p, words):
    assert verdict_word(Interval((low + high) / 2, low, high, 0), p) == words


def test_the_words_are_those_of_the_plan():
    plan = " ".join((paths.DATA / "analysis_plan.yml").read_text().split())
    for words in (HIGHER, LOWER, NO_DIFFERENCE):
        assert f'"{words}"' in plan


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0009, "< 0.001"), (0.0014, "0.001"), (0.0496, "0.0496"), (0.0508, "0.051"), (1.0, "1.000")],
)
def test_p_values_as_printed(p, text):
    assert p_text(p) == text
