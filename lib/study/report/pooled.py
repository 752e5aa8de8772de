"""The complete runs, and their pooled and fold-wise metrics in tables."""

from collections.abc import Iterable, Sequence

import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import REAL_CT, SOURCES
from nodulebook.runs.contract import Fold, Run, list_runs, on_common_nodules, read_run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import paired_bootstrap_difference, patient_bootstrap
from nodulebook.stats.text import interval as interval
from nodulebook.stats.text import number as number
from nodulebook.stats.text import percent as percent
from study.report.cohort import diameter_table as diameter_table
from study.report.cohort import phantom_volume_table as phantom_volume_table
from study.report.literature import comparability
from study.report.networks import layer_table as layer_table
from study.report.networks import multiply_adds as multiply_adds
from study.report.networks import network_table as network_table

SOURCE_TEXT = SOURCES | {"annotations": "readers' annotations, no image"}
"""How a source is called beneath figures and in tables."""

METRIC_TEXT = {
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "brier": "Brier",
}


def fold_caption(fold: Fold) -> str:
    """Source, n and settings of one fold, for a caption."""
    run = fold.run
    return (
        f"Run {run['run']}, fold {run['fold']}; source: {SOURCE_TEXT[run['source']]}; "
        f"{run['n_train']} training nodules. Dotted lines: the learning rate falls to a tenth."
    )


READING_ORDER = (*REAL_CT, "annotations", "phantom")
"""Sources in the order in which tables have them: what is no evidence about CT comes last."""

COMPARED = ("features-", "rival-")
"""How the names of runs begin that stand in the comparison chapter only: too many for a figure."""


def complete_runs(compared: bool = False) -> dict[str, Run]:
    """The runs that have all ten folds, valid; real CT first, then the readers, then phantom.

    Args:
        compared: with those of `COMPARED`.

    Raises:
        InputError: there is none, or one is damaged.
    """
    folds = read_folds()
    names = [name for name in list_runs() if compared or not name.startswith(COMPARED)]
    runs = {name: read_run(name, folds=folds) for name in names}
    complete = {name: run for name, run in runs.items() if not run.missing_folds}
    if not complete:
        raise InputError(
            f"{paths.runs_folder()} has no run with all {N_FOLDS} folds: "
            "`make folds PROFILE=quick SOURCE=phantom` makes one in some minutes"
        )
    return in_reading_order(complete)


def in_reading_order(runs: dict[str, Run]) -> dict[str, Run]:
    """The runs by `READING_ORDER` of their sources, then by name."""
    return dict(
        sorted(runs.items(), key=lambda item: (READING_ORDER.index(source(item[1])), item[0]))
    )


def source(run: Run) -> str:
    """The data source of a run."""
    return str(next(iter(run.folds.values())).run["source"])


def per_fold_metrics(runs: dict[str, Run]) -> pd.DataFrame:
    """Eqs 11 to 15, AUC and Brier score of every fold of every run; columns run, fold, ..."""
    rows = [
        {"run": name, "fold": k}
        | metrics.summarise(fold.probabilities["label"], fold.probabilities["p_malignant"])
        for name, run in runs.items()
        for k, fold in run.folds.items()
    ]
    return pd.DataFrame(rows)


def pooled_table(runs: dict[str, Run], names: Sequence[str] = tuple(METRIC_TEXT)) -> pd.DataFrame:
    """Metrics of the pooled predictions with 95 % patient-bootstrap intervals, one row per run."""
    rows = []
    for name, run in runs.items():
        table = run.probabilities
        row = {
            "run": name,
            "source": SOURCE_TEXT[source(run)],
            "n": str(len(table)),
            "malignant": str(int(table["label"].sum())),
        }
        for metric in names:
            row[METRIC_TEXT[metric]] = interval(patient_bootstrap(table, metric))
        rows.append(row)
    return pd.DataFrame(rows)


def fold_mean_table(
    per_fold: pd.DataFrame, names: Sequence[str] = tuple(METRIC_TEXT)
) -> pd.DataFrame:
    """Mean and standard deviation over the folds, one row per run."""
    rows = []
    for run, part in per_fold.groupby("run", sort=False):
        row = {"run": str(run), "folds": str(len(part))}
        for metric in names:
            # Undefined in one fold, undefined over all: a mean of the others would hide it.
            mean, deviation = part[metric].mean(skipna=False), part[metric].std(skipna=False)
            row[METRIC_TEXT[metric]] = f"{number(mean)} ± {number(deviation)}"
        rows.append(row)
    return pd.DataFrame(rows)


PAIRS = (
    ("quick", "diameter"),
    ("paper-usual", "diameter"),
    ("paper-usual", "paper-usual-no-se"),
    ("paper-usual", "paper"),
    ("paper", "diameter"),
    ("paper", "paper-no-se"),
    ("paper", "paper-slab"),
    ("honest", "diameter"),
    ("honest", "paper"),
    ("honest-slices", "diameter"),
    ("honest-slices", "honest"),
)
"""Which arms are compared on the same nodules."""


def difference_table(
    runs: dict[str, Run], pairs: Sequence[tuple[str, str]] = PAIRS
) -> pd.DataFrame:
    """Paired differences in AUC between arms on the same source, one row per pair.

    An arm is a run `<profile>-<source>`, or `diameter`. Pairs that are not there are left out.

    Returns:
        Columns "source", "first", "second", "n", "AUC, first minus second", as text.
    """
    rows = []
    for name in READING_ORDER:
        for pair in pairs:
            found = [runs.get(arm if arm == "diameter" else f"{arm}-{name}") for arm in pair]
            one, other = found
            if one is None or other is None:
                continue
            first, second = on_common_nodules(one, other)
            difference = paired_bootstrap_difference(first, second, "roc_auc")
            rows.append(
                {
                    "source": SOURCE_TEXT[name],
                    "first": one.name,
                    "second": other.name,
                    "n": str(len(first)),
                    "AUC, first minus second": interval(difference),
                }
            )
    return pd.DataFrame(rows, columns=["source", "first", "second", "n", "AUC, first minus second"])


def making_table(runs: dict[str, Run]) -> pd.DataFrame:
    """On what each run was made, and how long its ten folds took."""
    rows = []
    for name, run in runs.items():
        records = [fold.run for fold in run.folds.values()]
        hours = sum(record["wall_seconds"] for record in records) / 3600
        rows.append(
            {
                "run": name,
                "epochs": str(len(run.folds[0].history)),
                "seed": _one_of(record["seed"] for record in records),
                "backend": _one_of(
                    f"{record['backend']} {record['versions'].get(record['backend'], '')}".strip()
                    for record in records
                ),
                "device": _one_of(record["device"] for record in records),
                "hours": f"{hours:.2f}",
            }
        )
    return pd.DataFrame(rows)


def _one_of(values: Iterable[object]) -> str:
    """The value, or all of them where folds differ."""
    return "; ".join(dict.fromkeys(str(value) for value in values))


def literature_table(literature: pd.DataFrame) -> pd.DataFrame:
    """The works of the paper's tables, from `data/literature.csv`, as the book shows them.

    Args:
        literature: one row per reported number, all text (see data/README.md).

    Returns:
        One row per work; of several numbers of one metric the first, with what it was reached on.
    """
    rows = []
    paper = literature[literature["table"] != "later"]
    for (table, row), part in paper.groupby(["table", "row"], sort=False):
        first = part.iloc[0]
        values = part.drop_duplicates("metric").set_index("metric")["value"]
        rows.append(
            {
                "row of the paper": (f"paper's Table {table}: " if str(table).isdigit() else "")
                + (f"{row} {{cite:p}}`{first['citation']}`" if first["citation"] else str(row)),
                "what it is": first["what_it_is"],
                "data": first["data"],
                "acc., %": values.get("accuracy_percent", ""),
                "AUC": values.get("auc", ""),
                "comparable with ours": comparability(first),
                "how seen": first["how_seen"],
            }
        )
    return pd.DataFrame(rows)
