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
from nodulebook.patches.sources import SOURCES
from nodulebook.runs.contract import read_run
from nodulebook.stats.added_value import (
    combined_score,
    matched_auc,
    ruler_score,
    seeds_auc,
    seeds_difference,
)
from nodulebook.stats.bootstrap import Interval, bootstrap_means, patient_bootstrap
from nodulebook.stats.calibration import calibration_curve, calibration_slope
from study.own_scans.labels import by_rating, labels_of
from study.own_scans.meeting import with_labels
from study.own_scans.page import PAGE, PROBABILITIES, check_target, render
from study.own_scans.positions import (
    WORLD,
    given_columns,
    numbers,
    read_positions,
    refuse,
)

EVALUATION, NODULES = "evaluation.csv", "nodules.csv"
FEWEST = 10
"""Nodules of each label, and patients, that a measure needs: of fewer, intervals say nothing."""
PATIENTS = 5
"""Patients of each label that it needs: among k, a percentile is right at best 1 - 2^(1-k) of the
time, and draws without any of them are dropped."""
DRAWS = 2000
AUTO = "diameter_auto_mm"


def evaluate_scores(scored: Path, to: Path, labels: Path | None = None) -> list[str]:
    """Compare scores with labels, and write evaluation.csv, nodules.csv and a page.

    Args:
        scored: the folder or the table that `score` wrote; any CSV with id, p_malignant and label
            or rating does. Or the folder of a run.
        to: the folder to write.
        labels: a table with id (and scan) and label or rating, in place of those of `scored`:
            nodules that it gives no label are left out.

    Returns:
        Lines to print: what was compared, and each measure.

    Raises:
        InputError: a table is missing or wrong, no nodule has a label, or no label a nodule.
    """
    scored = scored.expanduser()
    check_target(to, {EVALUATION, NODULES, PAGE}, {"--scored": scored, "--labels": labels})
    of_run = scored.is_dir() and any(scored.glob("fold-*"))
    path = scored / PROBABILITIES if scored.is_dir() and not of_run else scored
    table, remark = _of_run(path) if of_run else (_scores(path), "")
    remarks = [remark]
    if labels is not None:
        named = {"id"} if of_run else given_columns(path)
        table, remark = with_labels(table, labels, named)
        remarks.append(remark)
    remarks = [one for one in (*remarks, by_rating(table)) if one]
    table["label"] = labels_of(table)
    table = table[table["label"].notna()].reset_index(drop=True)
    if table.empty:
        raise InputError(
            f"{labels or path}: no nodule has a label: a column label (0, 1) or rating (1 to 5, "
            "not 3) is needed"
        )
    ruler, diameter = _ruler(table)
    group = _group(table)
    nodules = pd.DataFrame(
        {
            "nodule_id": table["scan"] + " " + table["id"],
            "patient_id": table[group].astype(str) if group else table.index.astype(str),
            "label": table["label"].astype(int),
            "p_malignant": table["p_malignant"].astype(float),
            "diameter_mm": diameter,
        }
    )
    measures = pd.DataFrame(_measures(nodules))
    trained = table.get("patient_in_training", pd.Series("unknown", table.index))
    seen = (trained == "yes").sum()
    # Of LIDC-IDRI, whose scans name themselves, unknown is the rule.
    by_own = table.get("trained_on", pd.Series("", table.index)) == SOURCES["own"]
    if unknown := int((by_own & ~trained.isin(["yes", "no"])).sum()):
        remarks.append(
            f"{unknown} of {len(table)} nodules are of patients of whom it is unknown whether the "
            "network was trained on them: if it was, these numbers are too good"
        )
    counts = nodules["label"].value_counts().reindex([0, 1], fill_value=0)
    placed = [name for name in WORLD if name in table and table[name].notna().all()]
    facts: dict[str, Any] = {
        "n": len(nodules),
        "malignant": int(counts[1]),
        "groups": nodules["patient_id"].nunique(),
        "group": {"patient_id": "patient", "scan": "scan"}.get(group, "nodule"),
        "ruler": ruler,
        "seen": int(seen),
        "again": int(table.duplicated(["scan", *placed]).sum()) if placed else 0,
        "fewest": FEWEST,
        "patients": PATIENTS,
        "remarks": remarks,
    }
    bins = []
    if measures.set_index("measure")["value"].notna()["Brier score"]:
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
    lines += remarks
    if facts["again"]:
        lines.append(f"{facts['again']} rows are at the place of another: each counts as a nodule")
    if seen:
        lines.append(f"{seen} nodules are of patients that the network was trained on")
    for row in measures.dropna(subset="value").itertuples():
        lines.append(f"{row.measure}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    for why, part in measures[measures["remark"] != ""].groupby("remark"):
        lines.append(f"{why}: {'; '.join(part['measure'])}")
    return lines


def _of_run(folder: Path) -> tuple[pd.DataFrame, str]:
    """The predictions of a run's folds on their held-out patients, with the cohort's diameters.

    Also returns a remark on the folds that are missing.
    """
    found = read_run(folder.resolve().name, folder.resolve().parent)
    run, nodules = found.probabilities, read_nodules().set_index("nodule_id")
    patient = run["nodule_id"].map(nodules["patient_id"])
    if (other := patient != run["patient_id"]).any():
        raise InputError(
            f"{folder}: its nodules, such as {run['nodule_id'][other].iloc[0]} of patient "
            f"{run['patient_id'][other].iloc[0]}, are not of the cohort here (such as "
            f"{nodules.index[0]}); name the run's with NODULEBOOK_COHORT"
        )
    missing = ", ".join(map(str, found.missing_folds))
    remark = f"folds {missing} are not there: their patients take no part" if missing else ""
    diameter = run["nodule_id"].map(nodules["diameter_mm"])
    table = run.assign(scan="", id=run["nodule_id"], diameter_mm=diameter)
    return table.dropna(axis="columns", how="all"), remark


def _scores(path: Path) -> pd.DataFrame:
    """The rows of a table of scores, with p_malignant and the automatic diameters as numbers."""
    table = read_positions(path, coordinates=False)
    if "p_malignant" not in table:
        raise InputError(f"{path}: column p_malignant is missing; give what `score` wrote")
    p = pd.Series(numbers(path, table, "p_malignant", "between 0 and 1"))
    refuse(path, table, ~p.between(0, 1), "must be between 0 and 1", "p_malignant")
    table["p_malignant"] = p
    if AUTO in table:
        table[AUTO] = numbers(path, table, AUTO, "a diameter in mm", empty=True)
    return table


def _ruler(table: pd.DataFrame) -> tuple[str, pd.Series]:
    """What the ruler is, and its diameters, NaN where it has none: that of the most nodules."""
    columns = {
        name: table[column].astype(float).where(table[column].astype(float) > 0)
        for column, name in (
            ("diameter_mm", "the table's diameters"),
            (AUTO, "the automatic ruler"),
        )
        if column in table
    }
    name = max(columns, key=lambda one: columns[one].count(), default="none")
    diameter = columns.get(name, pd.Series(np.nan, table.index))
    if (without := int(diameter.isna().sum())) and without < len(table):
        name += f", which {without} nodules lack; they are left out where it takes part"
    return name, diameter


def _group(table: pd.DataFrame) -> str:
    """The column that patients are told by."""
    if "patient_id" in table and (table["patient_id"] != "").all():
        return "patient_id"
    return "scan" if (table["scan"] != "").all() else ""


def _measures(nodules: pd.DataFrame) -> list[dict[str, object]]:
    """Rows of evaluation.csv: measure, nodules, value, low, high, and why there is no value."""
    rows: list[dict[str, object]] = []
    sized = nodules.dropna(subset="diameter_mm")

    def row(measure: str, part: pd.DataFrame, one: Interval | None, remark: str = "") -> None:
        texts = dict.fromkeys(("value", "low", "high"), None)
        if one is not None:
            values = zip(texts, (one.estimate, one.low, one.high), strict=True)
            texts = {name: round(value, 4) for name, value in values}
        rows.append({"measure": measure, "nodules": len(part)} | texts | {"remark": remark})

    def add(
        measure: str, compute: Callable[[], Interval], ruler: bool = False, labels: bool = True
    ) -> None:
        part = sized if ruler else nodules
        counts = part["label"].value_counts().reindex([0, 1], fill_value=0)
        few = part.groupby("label")["patient_id"].nunique().min() < PATIENTS
        remarks = {
            "no nodule has a diameter": part.empty,
            f"fewer than {FEWEST} patients: not computed": part["patient_id"].nunique() < FEWEST,
        }
        if labels:
            remarks |= {
                "all nodules have the same label: not computed": counts.min() == 0,
                f"fewer than {FEWEST} nodules of one label: not computed": counts.min() < FEWEST,
                f"fewer than {PATIENTS} patients have one of the labels: not computed": few,
            }
        if remark := next((text for text, holds in remarks.items() if holds), ""):
            row(measure, part, None, remark)
            return
        try:
            one = compute()
            if not np.isfinite([one.estimate, one.low, one.high]).all():
                raise InputError("not defined for these scores")
            row(measure, part, one)
        except InputError as error:
            row(measure, part, None, f"not computed: {error}")

    ruled = sized.assign(p_malignant=sized["diameter_mm"].rank(pct=True))
    diameter = sized.set_index("nodule_id")["diameter_mm"]

    def dealt() -> pd.DataFrame:
        fewest = min(10, *sized.groupby("label")["patient_id"].nunique())
        return sized.assign(fold=make_folds(sized, fewest)["fold"].to_numpy())

    def minus_ruler() -> Interval:
        folded = sized.assign(fold=0)
        return seeds_difference([folded], [folded.assign(p_malignant=ruled["p_malignant"])], DRAWS)

    def both_minus_ruler() -> Interval:
        folded = dealt()
        both, alone = combined_score(folded, diameter), ruler_score(folded, diameter)
        return seeds_difference([both], [alone], DRAWS)

    def mean() -> Interval:
        column = nodules[["p_malignant"]]
        return bootstrap_means(column, nodules["patient_id"], DRAWS)["p_malignant"]

    add("mean score", mean, labels=False)
    add("AUC of the score", lambda: patient_bootstrap(nodules, "roc_auc", DRAWS))
    add("AUC of the ruler", lambda: patient_bootstrap(ruled, "roc_auc", DRAWS), True)
    add("AUC, score minus ruler", minus_ruler, True)
    add("AUC of both together", lambda: seeds_auc([combined_score(dealt(), diameter)], DRAWS), True)
    add(
        "AUC of the ruler, fitted", lambda: seeds_auc([ruler_score(dealt(), diameter)], DRAWS), True
    )
    add("AUC, both minus fitted ruler", both_minus_ruler, True)
    add(
        "AUC, pairs of like size",
        lambda: matched_auc([sized.assign(fold=0)], diameter, n_draws=DRAWS),
        True,
    )
    add("Brier score", lambda: patient_bootstrap(nodules, "brier", DRAWS))
    add("calibration slope", lambda: patient_bootstrap(nodules, calibration_slope, DRAWS))
    return rows
