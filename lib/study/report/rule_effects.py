"""Effect of each evaluation rule (`study.experiments.rules`) on the network and on the ruler."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nodulebook.runs.contract import Run
from nodulebook.stats.bootstrap import Interval, joint_bootstrap_difference, patient_bootstrap
from nodulebook.stats.text import interval, percent
from study.experiments.rules import BASE, best_on_test, read_rules

BEST_ON_TEST = "best-on-test"
"""Our own rules, with each fold's epoch chosen on its own test nodules: no run of its own."""

ALL_LEAKS = "all-leaks"
"""Copies split at random, each fold's epoch chosen on its own test copies: no run of its own."""

TITLES = {
    BASE: "our rules",
    "split-by-nodule": "nodules split at random",
    "split-by-copy": "copies split at random",
    BEST_ON_TEST: "epoch chosen on the test fold",
    ALL_LEAKS: "copies split, epoch chosen on the test fold",
    "at-3-benign": "mean of 3 is benign",
    "at-3-malignant": "mean of 3 is malignant",
    "median-rating": "median instead of mean",
    "at-least-1-reader": "at least 1 reader",
    "at-least-2-readers": "at least 2 readers",
    "at-least-4-readers": "at least 4 readers",
}
"""Every rule as figures and tables call it, in the order of the chapter."""

METRICS = {"roc_auc": "AUC", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Effect:
    """The results under one rule."""

    name: str
    table: pd.DataFrame
    """The pooled predictions."""
    network: dict[str, Interval]
    """AUC and accuracy, by the names of `METRICS`."""
    change: dict[str, Interval]
    """Minus the results under our own rules, the same draws of patients on both sides."""
    ruler: Interval
    """AUC of the readers' diameter alone on the same nodules under the same labels."""
    trained: float
    """Mean accuracy on the training patches in the last epoch of the ten folds."""


def effects(runs: Mapping[str, Run], nodules: pd.DataFrame) -> dict[str, Effect]:
    """The rules with ten folds, in the order of `TITLES`.

    Args:
        runs: from `rules.whole_rules`, `rules.BASE` among them.
    """
    diameter = nodules.set_index("nodule_id")["diameter_mm"]
    found = {}
    for name in dict.fromkeys([*TITLES, *runs]):
        run = runs.get({BEST_ON_TEST: BASE, ALL_LEAKS: "split-by-copy"}.get(name, name))
        if run is None or (name == ALL_LEAKS and not _kept_each_epoch(run)):
            continue
        chosen = name in (BEST_ON_TEST, ALL_LEAKS)
        table = best_on_test(run) if chosen else run.probabilities
        base = runs[BASE].probabilities
        lesion = table["nodule_id"].str.partition("~")[0]  # a copy is called <nodule>~<number>
        size = table.assign(p_malignant=(diameter[lesion] / (diameter.max() + 1)).to_numpy())
        found[name] = Effect(
            name,
            table,
            {m: patient_bootstrap(table, m) for m in METRICS},
            {m: joint_bootstrap_difference(table, base, m) for m in METRICS},
            patient_bootstrap(size, "roc_auc"),
            float(np.mean([one.history["accuracy"].iloc[-1] for one in run.folds.values()])),
        )
    return found


def _kept_each_epoch(run: Run) -> bool:
    rule = read_rules().get(run.name)
    return rule is not None and rule.each_epoch


def rules_table(found: Mapping[str, Effect]) -> pd.DataFrame:
    """Ruler, network and training accuracy under each rule, as text; one row per rule."""
    rows = []
    for name, one in found.items():
        row = {"rule": TITLES.get(name, name)}
        row |= {f"{text} of the network": interval(one.network[m]) for m, text in METRICS.items()}
        row["AUC of the ruler"] = interval(one.ruler)
        for metric, text in METRICS.items():
            row[f"{text}, minus ours"] = "" if name == BASE else interval(one.change[metric])
        counts = f"{len(one.table):,} ({one.table['label'].sum():,})"
        rows.append(row | {"training accuracy": percent(one.trained), "n (malignant)": counts})
    return pd.DataFrame(rows)
