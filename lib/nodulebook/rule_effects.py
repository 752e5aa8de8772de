"""What each rule of an evaluation changes (`nodulebook.rules`), as a table and in sentences."""

import pandas as pd

from nodulebook.artefacts import Run
from nodulebook.report import CLAIMED_AUC, METRIC_TEXT, interval, number
from nodulebook.rules import BASE, best_on_test
from nodulebook.settings import read_rules
from nodulebook.statistics import Interval, joint_bootstrap_difference, patient_bootstrap

BEST_ON_TEST = "best-on-test"
"""Our own rules, with each fold's epoch chosen on its own test nodules: no run of its own."""

CLAIMED = {"roc_auc": CLAIMED_AUC, "accuracy": 0.9708}
"""The paper's abstract."""


def rule_texts() -> dict[str, str]:
    """Every rule and what it says, in the order of the book."""
    texts = {name: rule.question for name, rule in read_rules().items()}
    return texts | {BEST_ON_TEST: "our rules, each fold's epoch chosen on its own test nodules"}


def rule_predictions(runs: dict[str, Run]) -> dict[str, pd.DataFrame]:
    """The pooled predictions under each rule that is whole, in the order of `rule_texts`.

    Args:
        runs: from `rules.whole_rules`.
    """
    tables = {name: run.probabilities for name, run in runs.items()}
    if BASE in runs:
        tables[BEST_ON_TEST] = best_on_test(runs[BASE])
    return {name: tables[name] for name in rule_texts() if name in tables}


def rules_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """AUC and accuracy under each rule, and how far they lie from those under our own.

    Args:
        tables: from `rule_predictions`, `rules.BASE` among them.

    Returns:
        Columns "rule", "n", "malignant", "AUC", "accuracy", "AUC, minus ours", "accuracy, minus
        ours", as text; a row a rule.
    """
    texts, rows = rule_texts(), []
    for name, table in tables.items():
        row = {
            "rule": texts[name],
            "n": str(len(table)),
            "malignant": str(int(table["label"].sum())),
        }
        row |= {METRIC_TEXT[m]: interval(patient_bootstrap(table, m)) for m in CLAIMED}
        for metric in CLAIMED:
            off = joint_bootstrap_difference(table, tables[BASE], metric)
            row[f"{METRIC_TEXT[metric]}, minus ours"] = "" if name == BASE else interval(off)
        rows.append(row)
    return pd.DataFrame(rows)


def rule_sentence(tables: dict[str, pd.DataFrame], name: str) -> str:
    """What a rule changes, and whether the paper's numbers come within reach under it.

    Args:
        tables: from `rule_predictions`, `rules.BASE` among them.
        name: of the rule.
    """
    changes = [
        _change(metric, joint_bootstrap_difference(tables[name], tables[BASE], metric))
        for metric in CLAIMED
    ]
    reached = [
        f"{METRIC_TEXT[metric]} of {claim}"
        for metric, claim in CLAIMED.items()
        if patient_bootstrap(tables[name], metric).high >= claim
    ]
    if reached:
        return f"{'; '.join(changes)}. Within reach of what came out: the claimed " + (
            " and the claimed ".join(reached) + "."
        )
    return f"{'; '.join(changes)}. Both numbers of the paper lie above what came out."


def _change(metric: str, off: Interval) -> str:
    """`AUC 0.021 higher (0.003 to 0.040)`, or that no difference is shown."""
    text = METRIC_TEXT[metric]
    if off.low <= 0 <= off.high:
        return f"{text}: no difference is shown, {interval(off)}"
    way = "higher" if off.estimate > 0 else "lower"
    low, high = sorted((abs(off.low), abs(off.high)))
    return f"{text} {number(abs(off.estimate))} {way} ({number(low)} to {number(high)})"
