"""The paper's Tables 3 and 4, run again: what the comparison chapter prints.

Rows come from the files of complete runs: `features-<group>-<source>`, `rival-<name>-<source>`,
networks of our own, `diameter`, and the readers themselves.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from nodulebook.core.files import read_csv
from nodulebook.core.paths import DATA
from nodulebook.runs.contract import Run, on_common_nodules
from nodulebook.stats import metrics
from nodulebook.stats.arithmetic import (
    auc_ranges,
    fold_mean_possible,
    near_equal_folds,
    right_counts,
)
from nodulebook.stats.bootstrap import (
    THRESHOLD,
    Interval,
    bootstrap_means,
    paired_bootstrap_difference,
    patient_bootstrap,
)
from nodulebook.stats.readers import (
    READER_STATISTICS,
    Expectation,
    half_agreement,
    half_for_the_middle,
    one_against_others,
    ratings_of,
    without_one,
)
from nodulebook.stats.text import interval, number, percent
from study.experiments.features import GROUPS
from study.experiments.handcrafted import ALL, PREFIX, run_name

DIAMETER = "diameter"
RIVAL = "rival-"
OURS = {
    "laptop": "ours",
    "paper": "ours",
    "paper-no-se": "ours",
    "honest": "ours",
    "honest-slices": "[30], our recipe",
}
"""What stands beside the rivals with more than their budget or another network, where it has been
run whole; and what the table says in place of the paper's row."""

BUDGET = "laptop"
"""The profile that gives every rival its budget."""

OUR_KIND = "networks of ours"

GROUP_TEXT = {
    "intensity": "intensity",
    "shape": "shape",
    "texture": "texture",
    "morphology": "morphology (margin)",
    "size": "size",
    "random": "random",
    "wavelet": "wavelet",
    ALL: "all together",
}

LITERATURE_COLUMNS = (
    "table",
    "row",
    "citation",
    "work",
    "what_it_is",
    "data",
    "n",
    "split_unit",
    "label_rule",
    "metric",
    "value",
    "source",
    "how_seen",
    "rerun_by_name",
    "rerun_by_content",
)
"""Of `data/literature.csv`, a row a reported number."""


# ------------------------------------------------------------------------------ differences


@cache  # a run is what it is: table and sentence ask the same
def difference(run: Run, other: Run, metric: str, level: float) -> Interval:
    """The paired difference run minus other, on the nodules that both have."""
    return paired_bootstrap_difference(*on_common_nodules(run, other), metric, level=level)


def with_star(run: Run, other: Run, metric: str, comparisons: int) -> str:
    """The difference with its 95 % interval, and a star where it stands many comparisons.

    The star: the interval at the level 1 - 0.05 / comparisons (Bonferroni) leaves out 0.
    """
    text = interval(difference(run, other, metric, 0.95))
    return text + (" *" if stands(run, other, metric, comparisons) else "")


def stands(run: Run, other: Run, metric: str, comparisons: int) -> int:
    """1 or -1 where the difference is above or below 0, corrected for comparisons; else 0."""
    # The corrected interval holds the other: where that holds 0, so does the corrected one.
    for level in (0.95, 1 - 0.05 / comparisons):
        one = difference(run, other, metric, level)
        if one.low <= 0 <= one.high:
            return 0
    return 1 if one.low > 0 else -1


def _numbers(run: Run, other: Run | None, comparisons: int) -> dict[str, str]:
    table = run.probabilities
    same = other is None or run.name == other.name
    return {
        "AUC": interval(patient_bootstrap(table, "roc_auc")),
        "accuracy": interval(patient_bootstrap(table, "accuracy")),
        "AUC minus diameter": "" if same or other is None
        else with_star(run, other, "roc_auc", comparisons),
    }  # fmt: skip


# ---------------------------------------------------------------------------------- the tables


def chosen_text(run: Run) -> str:
    """Which classifiers were chosen in how many folds: "SVM (RBF) 9, random forest 1"."""
    counts = Counter(str(fold.run["chosen"]["classifier"]) for fold in run.folds.values())
    return ", ".join(f"{name} {n}" for name, n in counts.most_common())


def rows_of(runs: dict[str, Run], source: str, table: str) -> dict[str, Run]:
    """The runs that are rows of Table 3 or 4, by the row's text, diameter alone at the end.

    Args:
        runs: complete runs by name.
        source: of the runs.
        table: "3" (feature groups) or "4" (networks of others, then ours).
    """
    if table == "3":
        names = {GROUP_TEXT[g]: run_name(g, source) for g in (*GROUPS, ALL)}
    else:
        ending = f"-{source}"
        rivals = sorted(n for n in runs if n.startswith(RIVAL) and n.endswith(ending))
        names = {n.removeprefix(RIVAL).removesuffix(ending): n for n in rivals}
        names |= {name: f"{name}{ending}" for name in OURS}
    names["diameter alone"] = DIAMETER
    return {text: runs[name] for text, name in names.items() if name in runs}


def features_table(
    runs: dict[str, Run], readers: Sequence[dict[str, str]], source: str
) -> pd.DataFrame:
    """Table 3 again: feature groups, diameter alone, one reader. Groups without a run are left out.

    Args:
        runs: complete runs by name.
        readers: from `reader_rows`.
        source: of the runs.

    Returns:
        Columns "classified by", "numbers" (features), "chosen (folds)", "AUC", "accuracy", "AUC
        minus diameter", as text.
    """
    found = rows_of(runs, source, "3")
    diameter = found.pop("diameter alone", None)
    rows = [
        {
            "classified by": text,
            "numbers": str(run.folds[0].run["n_features"]),
            "chosen (folds)": chosen_text(run),
        }
        | _numbers(run, diameter, len(found))
        for text, run in found.items()
    ]
    if diameter is not None:
        name = {"classified by": "diameter alone", "numbers": "1"}
        rows.append(name | {"chosen (folds)": "logistic regression"} | _numbers(diameter, None, 1))
    return pd.DataFrame([*rows, *readers]).fillna("")


def reader_rows(reference: pd.DataFrame, labelled: pd.DataFrame) -> list[dict[str, str]]:
    """One reader against the label of the nodule's other readers, as rows of Tables 3 and 4.

    Args:
        reference: the reference nodules of data/nodules.csv.
        labelled: the labelled ones among them.
    """
    rows = []
    for text, part in (("labelled", labelled), ("reference", reference)):
        table = one_against_others(ratings_of(part))
        rows.append(
            {
                "classified by": f"one reader, {text} nodules",
                "numbers": "1",
                "AUC": interval(patient_bootstrap(table, "roc_auc")),
                "accuracy": interval(patient_bootstrap(table, half_for_the_middle)),
            }
        )
    return rows


def rivals_table(
    runs: dict[str, Run], readers: Sequence[dict[str, str]], source: str
) -> pd.DataFrame:
    """Table 4 again: every complete run `rival-<name>-<source>`, our networks, the same others.

    `data/rivals.csv` (columns profile, row), where it is there, says which row of the paper a rival
    stands for.

    Args:
        runs: complete runs by name.
        readers: from `reader_rows`.
        source: of the runs.

    Returns:
        Columns "classified by", "paper's row", "epochs", "AUC", "accuracy", "AUC minus diameter",
        as text.
    """
    found = rows_of(runs, source, "4")
    known = _rival_rows()
    diameter = found.pop("diameter alone", None)
    rows = [
        {
            "classified by": text,
            "paper's row": known.get(f"{RIVAL}{text}", OURS.get(text, "")),
            "epochs": str(len(run.folds[0].history)),
        }
        | _numbers(run, diameter, len(found))
        for text, run in found.items()
    ]
    if diameter is not None:
        rows.append({"classified by": "diameter alone"} | _numbers(diameter, None, 1))
    columns = ["classified by", "paper's row", "epochs", "AUC", "accuracy", "AUC minus diameter"]
    return pd.DataFrame([*rows, *readers], columns=columns).fillna("")


def _rival_rows() -> dict[str, str]:
    """Profile of a rival to the paper's row, from `data/rivals.csv`."""
    path = DATA / "rivals.csv"
    if not path.is_file():
        return {}
    table = read_csv(path, {"profile": "str", "row": "str"})
    return dict(zip(table["profile"], table["row"], strict=True))


def features_sentence(runs: dict[str, Run], source: str) -> str:
    """Which groups stand above diameter alone, and which below, corrected for their number."""
    found = {g: runs[run_name(g, source)] for g in (*GROUPS, ALL) if run_name(g, source) in runs}
    diameter = runs.get(DIAMETER)
    if diameter is None or not found:
        return "No feature group has been run whole yet."
    sides = {g: stands(run, diameter, "roc_auc", len(found)) for g, run in found.items()}
    above = [GROUP_TEXT[g] for g, side in sides.items() if side > 0]
    below = [GROUP_TEXT[g] for g, side in sides.items() if side < 0]
    aucs = {g: _auc(run) for g, run in found.items()}
    best = max(aucs, key=lambda g: aucs[g])
    return (
        f"The highest AUC is that of the row “{GROUP_TEXT[best]}”, {number(aucs[best])}. Above "
        f"diameter alone, corrected for {len(found)} comparisons: {_listed(above)}; below it: "
        f"{_listed(below)}; the others cannot be told apart from it."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def rivals_works(runs: dict[str, Run], source: str) -> pd.DataFrame:
    """What each network of Table 4 is and how it differs from its work, from `data/rivals.csv`.

    Args:
        runs: complete runs by name.
        source: of the runs.

    Returns:
        Columns "classified by", "paper's row", "parameters", "what it is", "what differs", as text;
        a row a rival, whether it has been run or not.
    """
    names = ("profile", "row", "citation", "parameters", "what_it_is", "what_differs")
    table = read_csv(DATA / "rivals.csv", dict.fromkeys(names, "str"))
    not_run = [f"{profile}-{source}" not in runs for profile in table["profile"]]
    name = table["profile"].str.removeprefix(RIVAL)
    return pd.DataFrame(
        {
            "classified by": name.where(~np.array(not_run), name + " (not run whole)"),
            "paper's row": table["row"] + " {cite:p}`" + table["citation"] + "`",
            "parameters": [f"{int(n):,}" for n in table["parameters"]],
            "what it is": table["what_it_is"],
            "what differs": table["what_differs"],
        }
    )


def rivals_sentence(runs: dict[str, Run], source: str) -> str:
    """How the networks of others stand beside ours under the same budget, and beside diameter."""
    found = {
        text: run for text, run in rows_of(runs, source, "4").items() if run.name.startswith(RIVAL)
    }
    ours, diameter = runs.get(f"{BUDGET}-{source}"), runs.get(DIAMETER)
    if not found or ours is None or diameter is None:
        return "None of them can be compared yet: their rows will appear here as runs end."
    aucs = {text: _auc(run) for text, run in found.items()}
    best = max(aucs, key=lambda text: aucs[text])
    words = []
    for other, name in ((ours, f"our own network (“{BUDGET}”, AUC {number(_auc(ours))})"),
                        (diameter, f"diameter alone ({number(_auc(diameter))})")):  # fmt: skip
        sides = {text: stands(run, other, "roc_auc", len(found)) for text, run in found.items()}
        above = [text for text, side in sides.items() if side > 0]
        below = [text for text, side in sides.items() if side < 0]
        words.append(f"above {name}: {_listed(above)}; below it: {_listed(below)}")
    return (
        f"{len(found)} of them have been run whole. The highest AUC is that of “{best}”, "
        f"{number(aucs[best])}. Corrected for {len(found)} comparisons, {'; '.join(words)}; the "
        "others cannot be told apart from it."
    )


def _auc(run: Run) -> float:
    return metrics.roc_auc(run.probabilities["label"], run.probabilities["p_malignant"])


def arithmetic_sentence(accuracy: str, auc: float) -> str:
    """What the counting says of the paper's accuracy and AUC."""
    hard, can = [], []
    for one in PAPER_SETS:
        errors = round((1 - float(accuracy) / 100) * one.n)
        hard_low, _, low, high = auc_ranges(one.malignant, one.benign, errors)
        hard.append(auc < hard_low)
        can.append(low <= auc <= high)
    return (
        f"An AUC of {auc} is {'possible' if all(can) else 'not possible'} beside such an accuracy, "
        + (
            "but only if the scores rank nodules worse than chance within each predicted class: "
            "forgetting the scores and keeping the yes and no would give a higher AUC."
            if all(hard)
            else "and needs nothing odd."
        )
    )


def best_of_each_kind(runs: dict[str, Run], source: str) -> dict[str, Run]:
    """Our network as the paper describes it, and the row of the highest AUC of each other kind."""
    best: dict[str, tuple[float, str, Run]] = {}
    for table in ("3", "4"):
        for text, run in rows_of(runs, source, table).items():
            auc, kind = _auc(run), _kind(run.name.removesuffix(f"-{source}"))
            if kind != OUR_KIND and (kind not in best or auc > best[kind][0]):
                best[kind] = (auc, text, run)
    ours = runs.get(f"paper-{source}")
    found = {} if ours is None else {"ours, as the paper says": ours}
    return found | {
        text if run.name == DIAMETER else f"{kind}: {text}": run
        for kind, (_, text, run) in best.items()
    }


def accuracy_rows(
    runs: dict[str, Run], labelled: pd.DataFrame, source: str
) -> list[tuple[str, str, Interval]]:
    """Fig. 9 again: name, kind and accuracy of every row of both tables, the best first.

    Args:
        runs: complete runs by name.
        labelled: the labelled nodules.
        source: of the runs.
    """
    rows = []
    for name, run in runs.items():
        profile = name.removesuffix(f"-{source}")
        kind = _kind(profile)
        if kind and (name != profile or name == DIAMETER):
            text = profile.removeprefix(PREFIX).removeprefix(RIVAL)
            rows.append((text, kind, patient_bootstrap(run.probabilities, "accuracy")))
    readers = one_against_others(ratings_of(labelled))
    rows.append(("one reader", "readers", patient_bootstrap(readers, half_for_the_middle)))
    return sorted(rows, key=lambda row: -row[2].estimate)


def _kind(profile: str) -> str:
    if profile.startswith(PREFIX):
        return "hand-crafted features"
    if profile.startswith(RIVAL):
        return "networks of others"
    if profile == DIAMETER:
        return "readers"
    return OUR_KIND if profile in OURS else ""


# --------------------------------------------------------------------------------- the literature


def read_literature() -> pd.DataFrame:
    """`data/literature.csv`, all text.

    Raises:
        InputError: it is missing, a column is, or a name, work or way of seeing is empty.
    """
    table = read_csv(
        DATA / "literature.csv",
        dict.fromkeys(("table", "work", "what_it_is", "data", "source", "how_seen"), "str"),
    )
    return table[list(LITERATURE_COLUMNS)]


def claimed_table(
    literature: pd.DataFrame, runs: dict[str, Run], source: str, table: str
) -> pd.DataFrame:
    """What a row's work reports, beside what our run of its kind reached; never mixed.

    Args:
        literature: from `read_literature`.
        runs: complete runs by name.
        source: of the runs.
        table: "3" or "4".

    Returns:
        Columns "row of the paper", "the paper's cells", "its authors report", "on", "re-run, as the
        row is called", "re-run, as the work is", as text.
    """
    rows = []
    for row, part in literature[literature["table"] == table].groupby("row", sort=False):
        first = part.iloc[0]
        cited = f"{row} {{cite:p}}`{first['citation']}`" if first["citation"] else str(row)
        rows.append(
            {
                "row of the paper": cited,
                "the paper's cells": "lost",
                "its authors report": reported(part) or "no number seen",
                "on": first["data"] + (f"; split by: {first['split_unit']}"),
                "re-run, as the row is called": _rerun(first["rerun_by_name"], runs, source),
                "re-run, as the work is": _rerun(first["rerun_by_content"], runs, source),
            }
        )
    return pd.DataFrame(rows)


_METRIC = {
    "accuracy_percent": ("acc. ", " %"),
    "sensitivity_percent": ("sens. ", " %"),
    "specificity_percent": ("spec. ", " %"),
    "auc": ("AUC ", ""),
}


def reported(part: pd.DataFrame) -> str:
    """A work's numbers as one text; what several of one metric differ in stands behind them."""
    words = []
    for _, one in part[part["metric"] != ""].iterrows():
        before, after = _METRIC[one["metric"]]
        differs = [
            one[column]
            for column in ("label_rule", "split_unit", "what_it_is", "data")
            if part[column].nunique() > 1 and (part["metric"] == one["metric"]).sum() > 1
        ]
        words.append(f"{before}{one['value']}{after}" + (f" ({differs[0]})" if differs else ""))
    return ", ".join(words)


def _rerun(names: str, runs: dict[str, Run], source: str) -> str:
    if not names:
        return "none: no such classifier"
    parts = []
    for name in names.split("; "):
        run = runs.get(f"{name}-{source}")
        if run is None:
            parts.append(f"{name}: not run whole yet")
            continue
        label, p = run.probabilities["label"], run.probabilities["p_malignant"]
        auc = metrics.roc_auc(label, p)
        right = metrics.accuracy(metrics.confusion(label, p >= THRESHOLD))
        short = name.removeprefix(PREFIX).removeprefix(RIVAL)
        parts.append(f"{short}: acc. {percent(right)}, AUC {number(auc)}")
    return "; ".join(parts)


def later_table(literature: pd.DataFrame) -> pd.DataFrame:
    """Works after the paper or beside it, on the same task, with what they report."""
    rows = [
        {
            "work": work,
            "what it is": part["what_it_is"].iloc[0],
            "data": part["data"].iloc[0] + (f", n = {n}" if (n := part["n"].iloc[0]) else ""),
            "split by": part["split_unit"].iloc[0],
            "reported": reported(part),
            "how seen": part["how_seen"].iloc[0],
        }
        for work, part in literature[literature["table"] == "later"].groupby("work", sort=False)
    ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------ readers and arithmetic


def readers_table(reference: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """One reader as a classifier, against three labels; a row a statistic.

    Args:
        reference: reference nodules (at least three readers).
        labelled: those with a label.

    Returns:
        Columns "one reader", and three of estimates with intervals, as text.
    """
    arms = {
        "against the others, reference nodules": one_against_others(ratings_of(reference)),
        "against the others, labelled nodules": one_against_others(ratings_of(labelled)),
        "against a label they helped to make": one_against_others(
            ratings_of(labelled), own_too=True
        ),
    }
    rows = [
        {"one reader": name}
        | {arm: interval(patient_bootstrap(table, of)) for arm, table in arms.items()}
        for name, of in READER_STATISTICS.items()
    ]
    counts = {
        arm: f"{len(table):,} / {table['nodule_id'].nunique():,}" for arm, table in arms.items()
    }
    return pd.DataFrame([{"one reader": "ratings / nodules"} | counts, *rows])


def agreement_table(reference: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """How stable the labels are: two panels of two, and one reader left out."""
    halves, left = half_agreement(ratings_of(reference)), without_one(ratings_of(labelled))
    rows = [
        ("two panels of two readers give the same label", halves, "agree"),
        ("the label stays when one reader is left out", left, "same"),
        ("it is lost then (a mean of 3)", left, "lost"),
        ("it turns into the other then", left, "turned"),
    ]
    return pd.DataFrame(
        [
            {
                "": text,
                "share": interval(bootstrap_means(table[[column]], table["patient_id"])[column]),
                "nodules": f"{table['nodule_id'].nunique():,}",
            }
            for text, table, column in rows
        ]
    )


def expectation_table(
    accuracies: Sequence[Expectation], aucs: Sequence[Expectation], reference: pd.DataFrame
) -> pd.DataFrame:
    """What a classifier can be expected to reach on such labels.

    Args:
        accuracies: the likeliest mixture, and those with the lowest and highest accuracy.
        aucs: the same of AUC.
        reference: the reference nodules, for what the ratings themselves show.

    Returns:
        Columns "", "likeliest", "lowest", "highest", "seen in the ratings", as text.
    """
    rated = ratings_of(reference)
    table, halves = one_against_others(rated), half_agreement(rated)
    agree = bootstrap_means(halves[["agree"]], halves["patient_id"])["agree"]
    middle = accuracies[0]
    rows = [
        (
            "accuracy of a classifier that knows all",
            *(number(one.accuracy) for one in accuracies),
            "",
        ),
        ("its AUC", *(number(one.auc) for one in aucs), ""),
        ("a second panel gives the same label", number(middle.second_panel), "", "", ""),
        (
            "check: AUC of one reader against the others",
            number(middle.reader_auc),
            "",
            "",
            interval(patient_bootstrap(table, "roc_auc")),
        ),
        ("check: two panels of two agree", number(middle.halves), "", "", interval(agree)),
    ]
    return pd.DataFrame(rows, columns=["", "likeliest", "lowest", "highest", "seen in the ratings"])


@dataclass(frozen=True)
class Claim:
    """A set of nodules that the paper names."""

    malignant: int
    benign: int

    @property
    def n(self) -> int:
        """Nodules."""
        return self.malignant + self.benign


PAPER_SETS = (Claim(600, 630), Claim(450, 554))


def arithmetic_table(accuracy: str, sets: Sequence[Claim] = PAPER_SETS) -> pd.DataFrame:
    """Whether an accuracy can come from these nodules, and what AUC goes with it.

    Args:
        accuracy: in per cent, as printed.
        sets: of nodules.
    """
    rows = []
    for one in sets:
        errors = round((1 - float(accuracy) / 100) * one.n)
        hard_low, hard_high, low, high = auc_ranges(one.malignant, one.benign, errors)
        counts = right_counts(one.n, accuracy)
        folds = near_equal_folds(one.n)
        rows.append(
            {
                "nodules": f"{one.n:,} ({one.malignant} + {one.benign})",
                f"k with k / n = {accuracy} %": ", ".join(map(str, counts)) or "none",
                "mean of ten near-equal folds": "possible"
                if fold_mean_possible(folds, accuracy) else "not possible",
                "errors, nearest": str(errors),
                "AUC of yes and no alone": f"{number(hard_low, 4)} to {number(hard_high, 4)}",
                "AUC of any scores": f"{number(low, 4)} to {number(high, 4)}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
