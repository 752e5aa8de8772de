"""Ten label rules on ratings by hand, and the ruler's published values."""

import pandas as pd
import pytest

from nodulebook.data.cohort import label_nodules, read_nodules
from nodulebook.stats.metrics import roc_auc
from study.report.label_rules import RULES, labelled_by, rule_rows

RULE = {rule.key: rule for rule in RULES}


def _nodules(*ratings):
    return pd.DataFrame(
        {
            "nodule_id": [f"N{i}" for i in range(len(ratings))],
            "patient_id": [f"P{i}" for i in range(len(ratings))],
            "malignancy": ratings,
            "readers": [len(one.split(";")) for one in ratings],
        }
    )


@pytest.mark.parametrize(
    "key, ratings, label",
    [
        ("mean", "3;3;4", 1),
        ("mean", "2;3;4", None),
        ("mean", "2;3", None),  # two readers
        ("three-malignant", "2;3;4", 1),
        ("three-benign", "2;3;4", 0),
        ("median", "1;3;5;5", 1),  # median 4, mean 3.5
        ("median", "3;3;4", None),
        ("rounded", "2;3;2;3", 0),  # 2.5 is rounded to 2
        ("rounded", "3;4;3;4", 1),  # 3.5 is rounded to 4
        ("rounded", "3;3;4", None),
        ("two-four", "4;4;4", 1),
        ("two-four", "2;2;2", 0),
        ("two-four", "3;4;4", None),
        ("below-two", "4;4;4", None),
        ("below-two", "1;2;2", 0),
        ("readers-1", "4", 1),
        ("readers-2", "4", None),
        ("readers-4", "4;4;4", None),
    ],
)
def test_a_rule_by_hand(key, ratings, label):
    assert labelled_by(RULE[key], _nodules(ratings))["label"].tolist() == (
        [] if label is None else [label]
    )


@pytest.mark.parametrize(
    "key, n, ruler",
    [
        ("mean", 1010, 0.906),
        ("three-malignant", 1186, 0.837),
        ("three-benign", 1186, 0.884),
        ("median", 746, 0.939),
        ("rounded", 677, 0.949),
        ("two-four", 386, 0.977),
        ("below-two", 268, 0.988),
    ],
)
def test_the_rulers_auc_under_a_rule(key, n, ruler):
    table = labelled_by(RULE[key], read_nodules())
    assert len(table) == n
    assert round(roc_auc(table["label"], table["diameter_mm"]), 3) == ruler


def test_our_rule_is_the_cohorts():
    ours = labelled_by(RULE["mean"], read_nodules())
    pd.testing.assert_frame_equal(ours, label_nodules(read_nodules()))


def test_networks_are_scored_where_all_have_predictions():
    nodules = read_nodules().query("readers >= 3").head(200)
    scores = nodules[["nodule_id", "patient_id"]].assign(
        p_malignant=nodules["diameter_mm"] / 100, label=0, fold=0
    )
    networks = {"one": [scores.iloc[10:]], "other": [scores.iloc[:150], scores.iloc[:150]]}
    for row in rule_rows(networks, nodules, n_draws=20):
        both = labelled_by(row.rule, nodules)["nodule_id"].isin(scores["nodule_id"].iloc[10:150])
        assert row.predicted == both.sum() <= row.n
        assert row.networks["one"].estimate == row.networks["other"].estimate
        assert row.networks["one"].estimate == row.ruler_same.estimate  # they repeat the diameter
