"""Tables of how well saliency maps did: pooled scores of a run, by method."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.explain.faithfulness import JUDGE_MM3
from nodulebook.explain.scores import (
    METHODS,
    OF_THE_NETWORK,
    PLACEMENTS,
    RIVALS,
    SANITY_COLUMNS,
    Explanations,
)
from nodulebook.patches.sources import SOURCES
from nodulebook.runs.contract import list_runs, read_run
from nodulebook.runs.map_scores import pooled_explanations
from nodulebook.stats.bootstrap import Interval, bootstrap_means, patient_bootstrap
from nodulebook.stats.text import interval, number
from study.report.names import title
from study.report.pooled import SOURCE_TEXT, source

MEASURES = {
    "pointing": "pointing game",
    "energy": "energy inside",
    "dice": "best Dice",
    "error_mm": "error (mm)",
    "deletion": "deletion",
    "insertion": "insertion",
}
"""What a measure is called in a table. Low is good for error and deletion, else high."""

DIGITS = {"error_mm": 1, "pointing": 2, "energy": 3, "dice": 3, "deletion": 3, "insertion": 3}

SHOWN_BY_GROUP = (
    "grad_cam_plus_plus",
    "grad_cam_plus_plus_fine",
    "guided_grad_cam_plus_plus",
    *RIVALS,
)


class ExplainedRun:
    """A run's pooled explanations, with each nodule's diameter, and how to call it."""

    def __init__(
        self,
        name: str,
        source: str,
        given: Explanations,
        folds: Sequence[int],
        predicts_rating: bool = False,
    ) -> None:
        """Take pooled tables, as `pooled_explanations` gives them.

        Args:
            predicts_rating: the network was trained on mean ratings. Areas under its output are
                then no areas under a probability, and they are not compared with those.
        """
        self.name, self.source, self.folds = name, source, tuple(folds)
        self.predicts_rating = predicts_rating
        diameter = read_nodules().set_index("nodule_id")["diameter_mm"]
        self.measures = given.measures.join(diameter, on="nodule_id")
        self.sanity = given.sanity

    @property
    def n(self) -> int:
        """Number of nodules measured."""
        return int(self.measures["nodule_id"].nunique())

    def mean(self, measure: str, placement: str, method: str) -> Interval:
        """Mean of a measure over nodules, with its patient-bootstrap interval."""
        return means(self.measures, measure, placement)[method]

    @property
    def caption(self) -> str:
        """Run, source, folds, n and interval."""
        part = self.measures[
            (self.measures["method"] == RIVALS[0]) & (self.measures["placement"] == "centred")
        ]
        outlined = int((part["mask_mm3"] > 0).sum())
        count = len(self.folds)
        folds = f"{count} test folds" if count > 1 else f"test fold {self.folds[0]}"
        every = "" if outlined == len(part) else f", {outlined:,} of them with an outline"
        return (
            f"{title(self.name)} (`{self.name}`); source: {SOURCE_TEXT[self.source]}; "
            f"n = {len(part):,} nodules of {folds}{every}. Mean (95 % patient-bootstrap interval)."
        )


SHOWN_ARMS = ("paper", "honest", "quick")
"""The arms whose maps the book shows, unless it is asked for more."""


def explained_runs(also: str = "") -> dict[str, ExplainedRun]:
    """The runs of `SHOWN_ARMS` of which a fold's maps were measured; real CT first, by name.

    Args:
        also: the name of a further run.
    """
    folds, found = read_folds(), {}
    shown = {f"{arm}-{source}" for arm in SHOWN_ARMS for source in SOURCES} | {also}
    for name in sorted(shown.intersection(list_runs())):
        run = read_run(name, folds=folds)
        pooled = pooled_explanations(run, paths.runs_folder())
        if pooled is not None:
            training = next(iter(run.folds.values())).run["profile"].get("training", {})
            rating = bool(training.get("soft_labels", False))
            found[name] = ExplainedRun(name, source(run), *pooled, predicts_rating=rating)
    return dict(sorted(found.items(), key=lambda item: (item[1].source == "phantom", item[0])))


def by_method(measures: pd.DataFrame, measure: str, placement: str) -> pd.DataFrame:
    """A measure with one row per nodule and one column per method; the patient is index level 2."""
    part = measures[measures["placement"] == placement]
    table = part.pivot(index=["nodule_id", "patient_id"], columns="method", values=measure)
    return table[[name for name in METHODS if name in table.columns]]


def means(measures: pd.DataFrame, measure: str, placement: str) -> dict[str, Interval]:
    """Mean and interval of a measure, by method."""
    table = by_method(measures, measure, placement)
    return bootstrap_means(table, table.index.to_frame()["patient_id"])


def _texts(values: Mapping[str, Interval], digits: int) -> dict[str, str]:
    return {method: interval(value, digits) for method, value in values.items()}


def _rows(columns: Mapping[str, Mapping[str, str]], methods: Iterable[str]) -> pd.DataFrame:
    """One row per method, from the cells of each column by method."""
    cells = pd.DataFrame(columns).loc[list(methods)]
    return cells.rename(METHODS).rename_axis("method").reset_index()


def measure_table(run: ExplainedRun, placement: str) -> pd.DataFrame:
    """Every measure of every method; only those against the outline off centre and for ratings."""
    areas = placement == "centred" and not run.predicts_rating
    names = [m for m in MEASURES if areas or m not in ("deletion", "insertion")]
    values = {name: means(run.measures, name, placement) for name in names}
    return _rows({MEASURES[m]: _texts(values[m], DIGITS[m]) for m in names}, METHODS)


def against_gaussian(run: ExplainedRun) -> pd.DataFrame:
    """Each method of the network minus the Gaussian, on the same nodules, centred and off."""
    columns = {}
    for placement, measure in product(PLACEMENTS, ("pointing", "energy")):
        table = by_method(run.measures, measure, placement)
        difference = table[list(OF_THE_NETWORK)].sub(table["gaussian"], axis=0)
        values = bootstrap_means(difference, table.index.to_frame()["patient_id"])
        columns[f"{MEASURES[measure]}, {placement}"] = _texts(values, 3)
    return _rows(columns, OF_THE_NETWORK)


def groups(measures: pd.DataFrame) -> dict[str, "pd.Series[bool]"]:
    """Label, diameter, and whether the prediction is right."""
    size = measures["diameter_mm"]
    return {
        "benign": measures["label"] == 0,
        "malignant": measures["label"] == 1,
        "below 6 mm": size < 6,
        "6 to 10 mm": (size >= 6) & (size < 10),
        "10 mm and above": size >= 10,
        "predicted right": measures["right"] == 1,
        "predicted wrong": measures["right"] == 0,
    }


def group_table(run: ExplainedRun, measure: str) -> pd.DataFrame:
    """One measure on centred patches by class, size, and right or wrong prediction."""
    rows = []
    for name, chosen in groups(run.measures).items():
        part = run.measures[chosen & (run.measures["placement"] == "centred")]
        if len(part):
            values = _texts(means(part, measure, "centred"), DIGITS[measure])
            row = {"nodules": name, "n": f"{part['nodule_id'].nunique():,}"}
            rows.append(row | {METHODS[method]: values[method] for method in SHOWN_BY_GROUP})
    return pd.DataFrame(rows)


JUDGED = ("first task", "second task", "AUC of the tissue volume")
"""Which of two maps is for malignant, and which class the network predicts: share of right
answers; how well the volume in the map tells the predicted classes apart."""


def discrimination(run: ExplainedRun) -> dict[str, dict[str, Interval]]:
    """The judge's results, by column of `JUDGED` and method."""
    centred = run.measures[run.measures["placement"] == "centred"]
    malignant = centred["explained"] == 1
    kept, other = centred["kept_mm3"], centred["kept_other_mm3"]
    more = np.where(malignant, kept - other, other - kept)
    named = (kept >= JUDGE_MM3) == malignant
    judged = centred.assign(pair=(np.sign(more) + 1) / 2, named=named.astype(float))
    seen = centred.assign(label=centred["explained"], p_malignant=centred["kept_mm3"])
    areas = {
        str(method): patient_bootstrap(part, "roc_auc") for method, part in seen.groupby("method")
    }
    shares = (means(judged, name, "centred") for name in ("pair", "named"))
    return dict(zip(JUDGED, (*shares, areas), strict=True))


def discrimination_table(run: ExplainedRun) -> pd.DataFrame:
    """The judge's results with one row per method."""
    columns = discrimination(run)
    return _rows({name: _texts(values, 2) for name, values in columns.items()}, METHODS)


def majority(run: ExplainedRun) -> str:
    """Share of right answers of a judge who always names the more frequent prediction."""
    part = run.measures[run.measures["placement"] == "centred"]
    share = part[part["method"] == RIVALS[0]]["explained"].mean()
    return number(max(share, 1 - share), 2)


STEP_TEXT = {
    "logits": "fully connected layer",
    "stage4": "and stage 4",
    "stage3": "and stage 3",
    "stage2": "and stage 2",
    "stage1": "and stage 1",
    "first": "and first convolution: all",
    "all": "trained on permuted labels",
}


def sanity_table(run: ExplainedRun) -> pd.DataFrame:
    """Correlation of the maps with those of the trained network, by step and method."""
    methods = [name for name in SANITY_COLUMNS if name in METHODS]
    rows = []
    for step, text in STEP_TEXT.items():
        part = run.sanity[run.sanity["step"] == step]
        if len(part):
            values = bootstrap_means(part[methods], part["patient_id"])
            rows.append(
                {"weights randomised in": text, "n": f"{len(part):,}"}
                | {METHODS[name]: interval(values[name], 2) for name in methods}
            )
    return pd.DataFrame(rows)
