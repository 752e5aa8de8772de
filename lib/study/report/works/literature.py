"""What the works report that the paper, and this book, are compared with."""

from collections.abc import Mapping

import pandas as pd

from nodulebook.core.files import read_csv
from nodulebook.core.paths import DATA
from nodulebook.runs.contract import Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import THRESHOLD
from nodulebook.stats.text import number, percent
from study.report.names import title
from study.report.works.comparison import auc_of

COLUMNS = (
    "table", "row", "citation", "work", "what_it_is", "data", "n", "split_unit", "label_rule",
    "metric", "value", "source", "how_seen", "rerun_by_name", "rerun_by_content", "rule",
)  # fmt: skip
"""Of `data/literature.csv`, one row per reported number."""

_METRIC = {
    "accuracy_percent": ("acc. ", " %"),
    "sensitivity_percent": ("sens. ", " %"),
    "specificity_percent": ("spec. ", " %"),
    "auc": ("AUC ", ""),
}


def read_literature() -> pd.DataFrame:
    """`data/literature.csv`, all text; at least the columns of `COLUMNS`.

    Raises:
        InputError: it is missing, a column is, or a name, work or way of seeing is empty.
    """
    needed = ("table", "work", "what_it_is", "data", "source", "how_seen")
    return read_csv(DATA / "literature.csv", dict.fromkeys(needed, "str"))


def claimed_table(literature: pd.DataFrame, runs: Mapping[str, Run], source: str) -> pd.DataFrame:
    """One row per row of the paper's Tables 3 and 4: what its work and our re-run report."""
    rows = []
    of_paper = literature[literature["table"].isin(("3", "4"))]
    for (table, row), part in of_paper.groupby(["table", "row"], sort=False):
        first = part.iloc[0]
        rows.append(
            {
                "row of the paper": f"Table {table}: {row}{_cite(first)}",
                "its authors report": reported(part) or "no number seen",
                "re-run, by the row's name": _rerun(first["rerun_by_name"], runs, source),
                "re-run, by the work's content": _rerun(first["rerun_by_content"], runs, source),
                "on": f"{first['data']}; split by: {first['split_unit']}",
            }
        )
    return pd.DataFrame(rows)


def literature_table(literature: pd.DataFrame) -> pd.DataFrame:
    """One row per work of the paper's tables: what it is, and what it reports.

    Of several numbers of one metric the first is shown.
    """
    rows = []
    paper = literature[literature["table"] != "later"]
    for (table, row), part in paper.groupby(["table", "row"], sort=False):
        first = part.iloc[0]
        values = part.drop_duplicates("metric").set_index("metric")["value"]
        rows.append(
            {
                "row of the paper": (f"paper's Table {table}: " if str(table).isdigit() else "")
                + f"{row}{_cite(first)}",
                "acc., %": values.get("accuracy_percent", ""),
                "AUC": values.get("auc", ""),
                "what it is": first["what_it_is"],
                "data": first["data"],
                "comparable with ours": comparability(first),
                "how seen": first["how_seen"],
            }
        )
    return pd.DataFrame(rows)


def later_table(literature: pd.DataFrame) -> pd.DataFrame:
    """Works on the same task that the paper's tables do not have, with what they report."""
    rows = [
        {
            "work": f"{work}{_cite(part.iloc[0])}",
            "reported": reported(part),
            "comparable with ours": comparability(part.iloc[0]),
            "design": part["what_it_is"].iloc[0],
            "data": part["data"].iloc[0] + (f", n = {n}" if (n := part["n"].iloc[0]) else ""),
            "split by": part["split_unit"].iloc[0],
            "how seen": part["how_seen"].iloc[0],
        }
        for work, part in literature[literature["table"] == "later"].groupby("work", sort=False)
    ]
    return pd.DataFrame(rows)


def comparability(row: pd.Series) -> str:
    """Whether a row's number can be compared with ours, and what stands against it.

    Only works with our label rule and a split by patient are comparable in part: even they tested
    other nodules.
    """
    if row["data"] == "none":
        return "no: classifies no nodules"
    against = []
    if row["rule"] != "mean":
        against.append("label rule")
    if not row["split_unit"].startswith("patients"):
        against.append("split not seen" if row["split_unit"] == "not seen" else "split")
    return "no: " + ", ".join(against) if against else "in part: other nodules"


def _cite(row: pd.Series) -> str:
    return f" {{cite:p}}`{row['citation']}`" if row["citation"] else ""


def reported(part: pd.DataFrame) -> str:
    """A work's numbers as one text; of several of one metric, each with what sets it apart."""
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


def _rerun(names: str, runs: Mapping[str, Run], source: str) -> str:
    """Accuracy and AUC of each of the runs named, separated by "; " in both texts."""
    parts = []
    for name in filter(None, names.split("; ")):
        run = runs.get(f"{name}-{source}")
        if run is None:
            parts.append(f"{title(name)}: no ten folds")
            continue
        label, p = run.probabilities["label"], run.probabilities["p_malignant"]
        right = metrics.accuracy(metrics.confusion(label, p >= THRESHOLD))
        parts.append(f"{title(name)}: acc. {percent(right)}, AUC {number(auc_of(run))}")
    return "; ".join(parts) or "none: the work classifies no nodules"
