"""The first page says what the runs say, and leaves out what has not been run."""

import pandas as pd
import pytest

from nodulebook.runs.contract import Fold, Run
from nodulebook.stats.bootstrap import patient_bootstrap
from nodulebook.stats.text import interval
from study.report import landing
from study.report.names import title


def made(name: str, right: int, n: int = 40) -> Run:
    """The first `right` nodules are called right, all others wrong."""
    label = [k % 2 for k in range(n)]
    p = [0.9 if (one == 1) == (k < right) else 0.1 for k, one in enumerate(label)]
    table = pd.DataFrame(
        {
            "nodule_id": [f"n{k}" for k in range(n)],
            "patient_id": [f"p{k // 2}" for k in range(n)],
            "label": label,
            "p_malignant": p,
        }
    )
    history = pd.DataFrame({"epoch": range(1, 8)})
    return Run(name, {k: Fold(table, history, {}) for k in range(10)}, table, ())


@pytest.fixture
def nodules():
    rows = ["5;5;4;1", "2;1;2;3", "3;4;5", "1;1;2"] * 5
    return pd.DataFrame(
        {
            "nodule_id": [f"n{k}" for k in range(20)],
            "patient_id": [f"p{k}" for k in range(20)],
            "malignancy": rows,
        }
    )


def test_the_glance_has_claim_and_outcome_side_by_side():
    ours = made("paper-lidc_slices", right=30)
    table = landing.glance_table({ours.name: ours, "diameter": made("diameter", 20)}, "AUC 0.99")
    answers = dict(zip(table[""], table["answer"], strict=True))
    assert answers["The paper claims"] == "AUC 0.99"
    assert "7 epochs in each of 10 folds" in answers["We ran"]
    assert answers["On"].startswith("40 nodules of 20 patients")
    accuracy = patient_bootstrap(ours.probabilities, "accuracy")
    assert accuracy.estimate == 0.75
    assert answers["Came out"].endswith(f"accuracy {interval(accuracy)}")
    assert "Our best recipe" not in answers
    both = {landing.HONEST: made(landing.HONEST, 31)}
    both |= {landing.HONEST_SLICES: made(landing.HONEST_SLICES, 34)}
    answers = dict(landing.glance_table(both, "AUC 0.99").itertuples(index=False))
    assert "accuracy 0.775" in answers["Our best recipe"]
    assert "accuracy 0.850" in answers["Our recipe, a network of others on three slices"]


def test_without_runs_only_the_claim_is_said():
    table = landing.glance_table({}, "AUC 0.99")
    assert table[""].tolist() == ["The paper claims", "How sure"]


def test_the_figure_has_ours_first_and_the_limit_last(nodules):
    runs = {
        name: made(name, right)
        for name, right in (
            ("diameter", 30), ("rival-a-lidc_slices", 30), ("features-all-lidc_slices", 34),
            ("features-size-lidc_slices", 30), ("paper-lidc_slices", 32),
            ("honest-lidc_slices", 36), ("quick-phantom", 40),
        )
    }  # fmt: skip
    rows = landing.auc_rows(runs, nodules, nodules)
    assert [name for name, _, _ in rows] == [
        title("paper"),
        title("honest"),
        title("features-all"),
        "rival-a",
        title("diameter"),
        "One reader",
        "Estimated ceiling",
    ]
    by_name = {name: one for name, _, one in rows}
    honest = patient_bootstrap(runs["honest-lidc_slices"].probabilities, "roc_auc")
    assert by_name[title("honest")] == honest
    limit = by_name["Estimated ceiling"]
    assert limit.low <= limit.estimate <= limit.high <= 1
