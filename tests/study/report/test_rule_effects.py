"""What a rule changes for the network and for the ruler."""

import numpy as np
import pandas as pd
import pytest

from made_runs import made_probabilities
from nodulebook.runs.contract import Fold, Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import joint_bootstrap_difference
from study.experiments.rules import BASE
from study.report import rule_effects

PATIENTS = np.arange(300) // 2


def made(name: str, strength: float, n: int = 300, copies: bool = False) -> Run:
    table = made_probabilities(name, strength, PATIENTS[:n])
    if copies:
        twin = table.assign(nodule_id=table["nodule_id"] + "~5")
        table = pd.concat([table, twin], ignore_index=True)
    ends = [pd.DataFrame({"accuracy": [0.1, last]}) for last in (0.8, 0.9)]
    return Run(name, {k: Fold(table, h, {}) for k, h in enumerate(ends)}, table, ())


RUNS = {
    BASE: made("ours", 1.0),
    "at-3-benign": made("hard", 0.0, 200),
    "split-by-copy": made("copies", 5.0, copies=True),
    "a-new-rule": made("new", 1.0),
}


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(rule_effects, "best_on_test", lambda run: run.probabilities)
    ids = RUNS[BASE].probabilities["nodule_id"]
    size = np.random.default_rng(0).uniform(3, 30, len(ids))
    nodules = pd.DataFrame({"nodule_id": ids, "diameter_mm": size})
    return rule_effects.effects(RUNS, nodules), nodules.set_index("nodule_id")["diameter_mm"]


def test_each_rule_has_the_ruler_on_its_own_nodules(found):
    effects, diameter = found
    for name in ("at-3-benign", "split-by-copy"):
        table = effects[name].table
        size = [diameter[nodule.split("~")[0]] for nodule in table["nodule_id"]]
        wanted = metrics.roc_auc(table["label"], size)
        assert effects[name].ruler.estimate == pytest.approx(wanted)


def test_changes_are_against_our_rules_and_training_accuracy_is_of_the_last_epoch(found):
    effects, _ = found
    wanted = joint_bootstrap_difference(
        RUNS["at-3-benign"].probabilities, RUNS[BASE].probabilities, "roc_auc"
    )
    assert effects["at-3-benign"].change["roc_auc"] == wanted
    assert effects[BASE].trained == pytest.approx(0.85)


def test_the_table_has_the_known_rules_in_order_and_new_ones_after_them(found):
    table = rule_effects.rules_table(found[0])
    titles = rule_effects.TITLES
    assert list(table)[:2] == ["rule", "AUC of the network"]
    assert table["rule"].tolist() == [
        titles[BASE], titles["split-by-copy"], titles[rule_effects.BEST_ON_TEST],
        titles["at-3-benign"], "a-new-rule",
    ]  # fmt: skip
    counts = [(len(one.table), one.table["label"].sum()) for one in found[0].values()]
    assert [n for n, _ in counts] == [300, 600, 300, 200, 300]
    assert table["n (malignant)"].tolist() == [f"{n} ({malignant})" for n, malignant in counts]
    assert table["AUC, minus ours"][0] == "" and set(table["training accuracy"]) == {"85.0 %"}


def test_the_epoch_is_chosen_on_copies_only_where_each_epoch_was_kept(found, monkeypatch):
    assert rule_effects.ALL_LEAKS not in found[0]  # the run of copies here kept its last epoch only
    copies = made("memorise-split-by-copy", 5.0, copies=True)
    chosen = made("chosen", 0.0, copies=True).probabilities
    monkeypatch.setattr(rule_effects, "best_on_test", lambda run: chosen)
    nodules = pd.DataFrame({"nodule_id": RUNS[BASE].probabilities["nodule_id"]})
    nodules["diameter_mm"] = np.linspace(3, 30, len(nodules))
    effects = rule_effects.effects({BASE: RUNS[BASE], "split-by-copy": copies}, nodules)
    assert effects[rule_effects.ALL_LEAKS].table is chosen
    assert effects["split-by-copy"].table is copies.probabilities
