"""The complete runs, and their pooled and fold-wise metrics in tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path

import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import REAL_CT, SOURCES
from nodulebook.runs.arithmetic import arithmetics
from nodulebook.runs.contract import (
    RUN,
    Run,
    fold_folders,
    list_runs,
    read_run,
)  # fmt: skip
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import patient_bootstrap
from nodulebook.stats.text import interval, number
from nodulebook.stats.text import percent as percent

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


READING_ORDER = (*REAL_CT, "annotations", "phantom")
"""Sources in the order in which tables have them: what is no evidence about CT comes last."""

COMPARED = ("features-", "rival-", "recipe-")
"""How the names of runs begin that stand in the comparison chapter only: too many for a figure."""


class CompleteRuns(Mapping[str, Run]):
    """Runs by name; one is read and checked when it is first asked for, since few pages ask all."""

    def __init__(self, names: Iterable[str], folds: pd.DataFrame) -> None:
        """Of these names, checked against data/folds.csv."""
        self._read = cache(partial(read_run, folds=folds))
        self._names = list(names)

    def __getitem__(self, name: str) -> Run:
        """The run; InputError: it is damaged."""
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        """The names in their order."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


def complete_runs(compared: bool = False) -> Mapping[str, Run]:
    """The runs that have all ten folds; real CT first, then the readers, then phantom.

    Args:
        compared: with those of `COMPARED`.

    Raises:
        InputError: there is none, or one has no known source; when a run is asked for: it is
            damaged.
    """
    folds = read_folds()
    names = [name for name in list_runs() if compared or not name.startswith(COMPARED)]
    wanted = set(folds["fold"])
    complete = {name: of for name in names if wanted <= set(of := fold_folders(name))}
    if not complete:
        raise InputError(
            f"{paths.runs_folder()} has no run with all {N_FOLDS} folds: "
            "`make folds PROFILE=quick SOURCE=phantom` makes one in some minutes"
        )
    sources = {name: _noted_source(min(of.items())[1] / RUN) for name, of in complete.items()}
    return CompleteRuns(in_reading_order(sources), folds)


def _noted_source(path: Path) -> str:
    record = read_json(path)
    noted = record.get("source") if isinstance(record, dict) else None
    if noted not in READING_ORDER:
        raise InputError(f"{path}: source is {noted!r}, not one of {', '.join(READING_ORDER)}")
    return str(noted)


def in_reading_order(sources: Mapping[str, str]) -> list[str]:
    """The runs by `READING_ORDER` of their sources, then by name."""
    return sorted(sources, key=lambda name: (READING_ORDER.index(sources[name]), name))


def source(run: Run) -> str:
    """The data source of a run."""
    return str(next(iter(run.folds.values())).run["source"])


def per_fold_metrics(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Eqs 11 to 15, AUC and Brier score of every fold of every run; columns run, fold, ..."""
    rows = [
        {"run": name, "fold": k}
        | metrics.summarise(fold.probabilities["label"], fold.probabilities["p_malignant"])
        for name, run in runs.items()
        for k, fold in run.folds.items()
    ]
    return pd.DataFrame(rows)


def pooled_table(
    runs: Mapping[str, Run], names: Sequence[str] = tuple(METRIC_TEXT)
) -> pd.DataFrame:
    """Metrics of the pooled predictions with 95 % patient-bootstrap intervals, one row per run."""
    rows = [
        {
            "run": name,
            "source": SOURCE_TEXT[source(run)],
            "n": f"{len(run.probabilities):,}",
            "malignant": str(int(run.probabilities["label"].sum())),
        }
        | {METRIC_TEXT[one]: interval(patient_bootstrap(run.probabilities, one)) for one in names}
        for name, run in runs.items()
    ]
    return pd.DataFrame(rows)


def fold_mean_table(
    per_fold: pd.DataFrame, names: Sequence[str] = tuple(METRIC_TEXT)
) -> pd.DataFrame:
    """Mean and standard deviation over the folds, one row per run."""
    # Undefined in one fold, undefined over all: a mean of the others would hide it.
    by_run = per_fold.groupby("run", sort=False)[list(names)]
    mean, deviation = (by_run.agg(how, skipna=False) for how in ("mean", "std"))
    table = mean.map(number) + " ± " + deviation.map(number)
    table.insert(0, "folds", per_fold.groupby("run", sort=False).size().astype(str))
    return table.rename(columns=METRIC_TEXT).reset_index()


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


def compared_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of runs that are compared on the same nodules, in the order of their sources.

    An arm is a run `<profile>-<source>`, or `diameter`. Pairs that are not there are left out.
    """
    there = set(names)
    pairs = [
        tuple(arm if arm == "diameter" else f"{arm}-{source}" for arm in pair)
        for source, pair in product(READING_ORDER, PAIRS)
    ]
    return [(one, other) for one, other in pairs if {one, other} <= there]


def making_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """On what each run was made, and how long its ten folds took."""
    rows = []
    for name, run in runs.items():
        records = [fold.run for fold in run.folds.values()]
        backends = [
            f"{one['backend']} {one['versions'].get(one['backend'], '')}" for one in records
        ]
        rows.append(
            {
                "run": name,
                "epochs": str(len(run.folds[0].history)),
                "seed": distinct(record["seed"] for record in records),
                "backend": distinct(text.strip() for text in backends),
                "computed with": arithmetics(records),
                "device": distinct(record["device"] for record in records),
                "hours": f"{training_seconds(run) / 3600:.2f}",
            }
        )
    return pd.DataFrame(rows)


def training_seconds(run: Run) -> float:
    """How long the folds of a run took together."""
    return float(sum(fold.run["wall_seconds"] for fold in run.folds.values()))


def distinct(values: Iterable[object]) -> str:
    """The value, or all of them where folds differ."""
    return "; ".join(dict.fromkeys(str(value) for value in values))
