"""How good scores are on a user's own labels: `nodulebook evaluate`.

A ruler alone goes far on most nodules, so the score is judged next to one: the table's diameters,
or the automatic ruler's. Intervals are over draws of patients; where the table names none, over
draws of scans, which makes them too narrow if patients have several.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, write_csv
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import make_folds
from nodulebook.runs.contract import read_run
from nodulebook.stats.added_value import (
    added_value,
    combined_score,
    compare,
    matched_auc,
    seeds_auc,
)
from nodulebook.stats.bootstrap import Interval, bootstrap_means, patient_bootstrap
from nodulebook.stats.calibration import calibration_curve, calibration_slope
from study.own_scans.page import PAGE, PROBABILITIES, check_target, render
from study.own_scans.positions import WORLD, labels_of, read_positions

EVALUATION, NODULES = "evaluation.csv", "nodules.csv"
FEWEST = 10
"""Nodules of each label that a measure needs; of fewer, intervals say next to nothing."""
DRAWS = 2000


def evaluate_scores(scored: Path, to: Path, labels: Path | None = None) -> list[str]:
    """Compare scores with labels, and write evaluation.csv, nodules.csv and a page.

    Args:
        scored: the folder or the table that `score` wrote; any CSV with id, p_malignant and label
            or rating does. Or the folder of a run.
        to: the folder to write.
        labels: a table with id (and scan) and label or rating, where `scored` has none.

    Returns:
        Lines to print: what was compared, and each measure.

    Raises:
        InputError: a table is missing or wrong, or no nodule has a label.
    """
    check_target(to, {EVALUATION, NODULES, PAGE})
    if scored.is_dir() and any(scored.glob("fold-*")):
        table = _of_run(scored)
    else:
        table = _labelled(scored / PROBABILITIES if scored.is_dir() else scored, labels)
    ruler = "diameter_mm" if _complete(table, "diameter_mm") else "diameter_auto_mm"
    has_ruler = _complete(table, ruler)
    group = _group(table)
    nodules = pd.DataFrame(
        {
            "nodule_id": table["scan"] + " " + table["id"],
            "patient_id": table[group].astype(str) if group else table.index.astype(str),
            "label": table["label"].astype(int),
            "p_malignant": table["p_malignant"].astype(float),
            "diameter_mm": pd.to_numeric(table[ruler]) if has_ruler else np.nan,
        }
    )
    measures = pd.DataFrame(_measures(nodules, has_ruler))
    seen = (table.get("patient_in_training", pd.Series("unknown", table.index)) == "yes").sum()
    counts = nodules["label"].value_counts().reindex([0, 1], fill_value=0)
    placed = [name for name in WORLD if name in table and table[name].notna().all()]
    which = {"diameter_mm": "the table's diameters"}.get(ruler, "the automatic ruler")
    facts: dict[str, Any] = {
        "n": len(nodules),
        "malignant": int(counts[1]),
        "groups": nodules["patient_id"].nunique(),
        "group": {"patient_id": "patient", "scan": "scan"}.get(group, "nodule"),
        "ruler": which if has_ruler else "none: not every nodule has a diameter",
        "seen": int(seen),
        "again": int(table.duplicated(["scan", *placed]).sum()) if placed else 0,
        "fewest": FEWEST,
    }
    bins = []
    if counts.min() >= FEWEST:
        bins = calibration_curve(nodules, n_groups=5, n_draws=DRAWS).to_dict("records")
    with folder_written_aside(to.expanduser().resolve()) as aside:
        write_csv(measures, aside / EVALUATION)
        write_csv(nodules, aside / NODULES)
        rows = measures.to_dict("records")
        render(aside / PAGE, "evaluated.html", facts | {"rows": rows, "bins": bins})
    lines = [
        f"{facts['n']} nodules with a label, {facts['malignant']} malignant; intervals over "
        f"{facts['groups']} {facts['group']}s; ruler: {facts['ruler']}"
    ]
    if facts["again"]:
        lines.append(f"{facts['again']} rows are at the place of another: each counts as a nodule")
    if seen:
        lines.append(f"{seen} nodules are of patients that the network was trained on")
    for row in measures.dropna(subset="value").itertuples():
        lines.append(f"{row.measure}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    for remark, part in measures[measures["remark"] != ""].groupby("remark"):
        lines.append(f"{remark}: {'; '.join(part['measure'])}")
    return lines


def _of_run(folder: Path) -> pd.DataFrame:
    """The predictions of a run's folds on their held-out patients, with the cohort's diameters."""
    run = read_run(folder.resolve().name, folder.resolve().parent).probabilities
    diameter = read_nodules().set_index("nodule_id")["diameter_mm"]
    table = run.assign(scan="", id=run["nodule_id"], diameter_mm=run["nodule_id"].map(diameter))
    return table.dropna(axis="columns")


def _labelled(path: Path, labels: Path | None) -> pd.DataFrame:
    """The rows of a table of scores that have a label."""
    table = read_positions(path, coordinates=False)
    if "p_malignant" not in table:
        raise InputError(f"{path}: column p_malignant is missing; give what `score` wrote")
    p = pd.to_numeric(table["p_malignant"], errors="coerce")
    if (bad := ~p.between(0, 1)).any():
        row = int(bad.to_numpy().argmax())
        raise InputError(
            f"{path}: line {table['line'].iloc[row]}: p_malignant is "
            f"{table['p_malignant'].iloc[row]!r}, but must be between 0 and 1"
        )
    if labels is not None:
        given = read_positions(labels, coordinates=False)
        keys = ["scan", "id"] if (given["scan"] != "").any() else ["id"]
        if table.duplicated(keys).any() or given.duplicated(keys).any():
            raise InputError(f"{labels}: ids repeat from scan to scan: add the column scan")
        told = ["label", "rating", "patient_id", "diameter_mm"]
        columns = [name for name in told if name in given]
        table = table.drop(columns=[name for name in columns if name in table])
        table = table.merge(given[keys + columns], on=keys, how="left")
    table["label"] = labels_of(table)
    if table["label"].isna().all():
        raise InputError(
            f"{labels or path}: no nodule has a label: a column label (0, 1) or rating (1 to 5, "
            "not 3) is needed, and ids as in the table of scores"
        )
    return table[table["label"].notna()].reset_index(drop=True)


def _complete(table: pd.DataFrame, name: str) -> bool:
    return name in table and bool((pd.to_numeric(table[name], errors="coerce") > 0).all())


def _group(table: pd.DataFrame) -> str:
    """The column that patients are told by."""
    if "patient_id" in table and (table["patient_id"] != "").all():
        return "patient_id"
    return "scan" if (table["scan"] != "").all() else ""


def _measures(nodules: pd.DataFrame, has_ruler: bool) -> list[dict[str, object]]:
    """Rows of evaluation.csv: measure, nodules, value, low, high, and why there is no value."""
    rows: list[dict[str, object]] = []
    counts = nodules["label"].value_counts().reindex([0, 1], fill_value=0)

    def add(measure: str, compute: Callable[[], Interval], ruler: bool = False) -> None:
        row: dict[str, object] = {"measure": measure, "nodules": len(nodules)}
        nothing = {"value": None, "low": None, "high": None}
        if counts.min() == 0:
            row |= nothing | {"remark": "all nodules have the same label: not computed"}
        elif counts.min() < FEWEST:
            row |= nothing | {"remark": f"fewer than {FEWEST} nodules of one label: not computed"}
        elif ruler and not has_ruler:
            row |= nothing | {"remark": "no diameter for every nodule"}
        else:
            try:
                one = compute()
                row |= {"value": round(one.estimate, 4), "low": round(one.low, 4)}
                row |= {"high": round(one.high, 4), "remark": ""}
            except InputError as error:
                row |= nothing | {"remark": f"not computed: {error}"}
        rows.append(row)

    means = bootstrap_means(nodules[["p_malignant"]], nodules["patient_id"], DRAWS)["p_malignant"]
    rows.append(
        {"measure": "mean score", "nodules": len(nodules), "value": round(means.estimate, 4)}
        | {"low": round(means.low, 4), "high": round(means.high, 4), "remark": ""}
    )
    sized = nodules.assign(p_malignant=nodules["diameter_mm"].rank(pct=True))
    diameter = nodules.set_index("nodule_id")["diameter_mm"]

    def dealt() -> pd.DataFrame:
        folds = make_folds(nodules, int(min(10, counts.min(), nodules["patient_id"].nunique())))
        return nodules.assign(fold=folds["fold"].to_numpy())

    def difference() -> Interval:
        folded = dealt()
        ruled = folded.assign(p_malignant=sized["p_malignant"])
        return compare([folded], [ruled], DRAWS).auc

    add("AUC of the score", lambda: patient_bootstrap(nodules, "roc_auc", DRAWS))
    add("AUC of the ruler", lambda: patient_bootstrap(sized, "roc_auc", DRAWS), True)
    add("AUC, score minus ruler", difference, True)
    add("AUC of both together", lambda: seeds_auc([combined_score(dealt(), diameter)], DRAWS), True)
    add("AUC, both minus ruler", lambda: added_value([dealt()], diameter, DRAWS).auc, True)
    add(
        "AUC, pairs of like size",
        lambda: matched_auc([nodules.assign(fold=0)], diameter, n_draws=DRAWS),
        True,
    )
    add("Brier score", lambda: patient_bootstrap(nodules, "brier", DRAWS))
    add("calibration slope", lambda: patient_bootstrap(nodules, calibration_slope, DRAWS))
    return rows
