"""Effect of each evaluation rule (`study.experiments.rules`), as a table and in sentences."""

import pandas as pd

from nodulebook.core.paper import CLAIMED_ACCURACY, CLAIMED_AUC
from nodulebook.core.settings import read_rules
from nodulebook.runs.contract import Run
from nodulebook.stats.bootstrap import Interval, joint_bootstrap_difference, patient_bootstrap
from nodulebook.stats.text import interval, number, percent
from study.experiments.rules import BASE, best_on_test
from study.report.pooled import METRIC_TEXT

BEST_ON_TEST = "best-on-test"
"""Our own rules, with each fold's epoch chosen on its own test nodules: no run of its own."""

COPIES = "split-by-copy"
"""The rule that deals copies of nodules."""

CLAIMED = {"roc_auc": CLAIMED_AUC, "accuracy": CLAIMED_ACCURACY}
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


def rules_caption(tables: dict[str, pd.DataFrame]) -> str:
    """Source, n, interval and budget of the table of rules."""
    sizes = [len(table) for table in tables.values()]
    epochs = read_rules()[BASE].settings.training.epochs
    return (
        "One rule changed at a time. Source: LIDC-IDRI CT slices, ten folds each, pooled; "
        f"{min(sizes):,} to {max(sizes):,} test nodules (or copies, where those are dealt), n; the "
        f"network and the {epochs} epochs of the profile `laptop`. Estimate (95 % interval over "
        "draws of patients, the same draw for both sides of a difference; not corrected for the "
        "number of rows)."
    )


def learnt_sentence(runs: dict[str, Run]) -> str:
    """How much of its training patches the network gets right at the end, dealt by patient and
    by copy: what it could know by heart.

    Args:
        runs: from `rules.whole_rules`.
    """
    found = [
        f"{percent(_last_training_accuracy(runs[name]))} {words}"
        for name, words in ((BASE, "under our own rules"), (COPIES, "where copies are dealt"))
        if name in runs
    ]
    if not found:
        return "The runs that would tell are not there yet."
    return (
        f"After its last epoch this one is right on {' and on '.join(found)} of the patches that "
        "it is trained on (mean of ten folds)."
    )


def _last_training_accuracy(run: Run) -> float:
    lasts = [float(fold.history["accuracy"].iloc[-1]) for fold in run.folds.values()]
    return sum(lasts) / len(lasts)


def reach_sentence(tables: dict[str, pd.DataFrame]) -> str:
    """Under which rules an interval reaches the paper's accuracy or AUC, and the highest of each.

    Args:
        tables: from `rule_predictions`.
    """
    texts, parts = rule_texts(), []
    for metric, claim in CLAIMED.items():
        found = {name: patient_bootstrap(table, metric) for name, table in tables.items()}
        reach = [f"“{texts[name]}”" for name, one in found.items() if one.high >= claim]
        best = max(found, key=lambda name: found[name].estimate)
        parts.append(
            f"{METRIC_TEXT[metric]} of {claim}: "
            + (f"within the interval of {', '.join(reach)}" if reach else "under none of them")
            + f"; the highest that came out is {interval(found[best])}, under “{texts[best]}”"
        )
    said = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"Which of these rules alone brings the paper's numbers within reach? {said}."


def rule_sentence(tables: dict[str, pd.DataFrame], name: str) -> str:
    """What a rule changes, and whether the paper's numbers come within reach under it.

    Args:
        tables: from `rule_predictions`, `rules.BASE` among them.
        name: of the rule; one that is not there is said to be missing.
    """
    if name not in tables:
        return "Its ten folds are not there yet."
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
