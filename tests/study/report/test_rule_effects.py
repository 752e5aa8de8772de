"""What a rule changes, in a table and in words: from the predictions alone."""

import re

import numpy as np
import pandas as pd
import pytest

from made_runs import made_probabilities
from nodulebook.core.settings import read_rules
from nodulebook.runs.contract import Fold, Run
from nodulebook.stats.bootstrap import joint_bootstrap_difference, patient_bootstrap
from study.experiments.rules import BASE
from study.report import rule_effects

PATIENTS = np.arange(300) // 2
TABLES = {
    BASE: made_probabilities("ours", 1.0, PATIENTS),
    "split-by-copy": made_probabilities("copies", 5.0, PATIENTS),
    "at-3-benign": made_probabilities("hard", 0.0, PATIENTS[:200]),
    "median-rating": made_probabilities("median", 1.0, PATIENTS),
}


def test_the_table_has_each_rule_and_its_distance_to_ours() -> None:
    table = rule_effects.rules_table(TABLES)
    texts = rule_effects.rule_texts()
    assert table["rule"].tolist() == [texts[name] for name in TABLES]
    assert table["n"].tolist() == ["300", "300", "200", "300"]
    assert table["malignant"].tolist() == ["150", "150", "100", "150"]
    assert table["AUC, minus ours"][0] == "" and table["accuracy, minus ours"][0] == ""
    wanted = joint_bootstrap_difference(TABLES["at-3-benign"], TABLES[BASE], "roc_auc")
    assert table["AUC, minus ours"][2].startswith(f"−{abs(wanted.estimate):.3f} (−")
    auc = patient_bootstrap(TABLES["split-by-copy"], "roc_auc")
    assert table["AUC"][1] == f"{auc.estimate:.3f} ({auc.low:.3f} to {auc.high:.3f})"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "split-by-copy",
            r"AUC 0.2\d+ higher \(.*; accuracy 0.\d+ higher .* claimed AUC of 0.9664",
        ),
        (
            "at-3-benign",
            r"AUC 0.\d+ lower \(.*; accuracy 0.\d+ lower .*\. Both numbers of the paper",
        ),
        ("median-rating", "AUC: no difference is shown, .*; accuracy: no difference is shown, "),
    ],
)
def test_a_sentence_says_what_changes_and_whether_the_claim_is_within_reach(
    name: str, words: str
) -> None:
    assert re.match(words, rule_effects.rule_sentence(TABLES, name))


def test_limits_of_a_difference_downwards_are_in_order() -> None:
    sentence = rule_effects.rule_sentence(TABLES, "at-3-benign")
    low, high = re.findall(r"\((0\.\d+) to (0\.\d+)\)", sentence)[0]
    assert 0 < float(low) < float(high)


def test_predictions_without_our_own_rules_have_no_chosen_epoch() -> None:
    assert rule_effects.rule_predictions({}) == {}


def test_the_caption_says_source_sizes_and_epochs() -> None:
    caption = rule_effects.rules_caption(TABLES)
    assert "LIDC-IDRI CT slices" in caption and "200 to 300 test nodules" in caption
    assert f"{read_rules()[BASE].settings.training.epochs} epochs" in caption


def test_what_is_learnt_by_heart_is_the_mean_of_the_last_epochs() -> None:
    def ends_with(*accuracies: float) -> Run:
        histories = [pd.DataFrame({"accuracy": [0.1, one]}) for one in accuracies]
        folds = {i: Fold(pd.DataFrame(), h, {}) for i, h in enumerate(histories)}
        return Run("made", folds, pd.DataFrame(), ())

    runs = {BASE: ends_with(0.8, 0.9), "split-by-copy": ends_with(0.95, 0.97)}
    sentence = rule_effects.learnt_sentence(runs)
    assert "85.0 % under our own rules and on 96.0 % where copies are dealt" in sentence
    assert "85.0 % under our own rules of the patches" in rule_effects.learnt_sentence(
        {BASE: runs[BASE]}
    )
    assert "not there yet" in rule_effects.learnt_sentence({})


def test_the_reach_names_the_rules_whose_interval_holds_the_claim() -> None:
    texts = rule_effects.rule_texts()
    sentence = rule_effects.reach_sentence(TABLES)
    auc, accuracy = sentence.split("Accuracy of 0.9708: ")
    assert f"AUC of 0.9664: within the interval of “{texts['split-by-copy']}”;" in auc
    reach = [n for n, t in TABLES.items() if patient_bootstrap(t, "accuracy").high >= 0.9708]
    listed = ", ".join(f"“{texts[name]}”" for name in reach)
    wanted = f"within the interval of {listed};" if reach else "under none of them;"
    assert accuracy.startswith(wanted)
    best = patient_bootstrap(TABLES["split-by-copy"], "roc_auc").estimate
    assert f"the highest that came out is {best:.3f} (" in auc
    without = {name: t for name, t in TABLES.items() if name != "split-by-copy"}
    assert rule_effects.reach_sentence(without).count("under none of them") == 2


def test_a_rule_that_was_not_run_is_said_to_be_missing() -> None:
    assert rule_effects.rule_sentence(TABLES, "at-3-malignant").endswith("not there yet.")
