"""AUC against the distance of a position from the nodule's middle: table and figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.folds import read_folds
from nodulebook.stats.metrics import roc_auc
from study.experiments.shifts import POSITIONS, SHIFTS
from study.figures.plots import new_figure


def shift_aucs(run: str) -> pd.Series:
    """AUC pooled over the folds, by distance in mm; the mean over the directions of a distance.

    Raises:
        InputError: the run has no `shifts.csv`, or it lacks a position.
    """
    path = paths.runs_folder() / run / SHIFTS
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; make it with `nodulebook shifts`")
    table = pd.read_csv(path).merge(read_folds()[["nodule_id", "label"]], on="nodule_id")
    names = {f"p_{y}_{x}": max(abs(y), abs(x)) for y, x in POSITIONS}
    missing = sorted(set(names) - set(table.columns))
    if missing:
        raise InputError(f"{path}: column {missing[0]} is missing; make the file again")
    label = table["label"].to_numpy()
    aucs = {name: roc_auc(label, table[name].to_numpy(float)) for name in names}
    return pd.Series(aucs).groupby(pd.Series(names)).mean().rename_axis("shift_mm")


def mean_shift_aucs(runs: Sequence[str]) -> pd.Series:
    """`shift_aucs`, the mean over runs that differ in their seed."""
    return pd.concat([shift_aucs(run) for run in runs], axis=1).mean(axis=1)


def shift_figure(arms: Mapping[str, Sequence[str]]) -> Figure:
    """AUC against distance in mm: a line for the mean of an arm's seeds, a dot for each seed.

    Args:
        arms: the runs, one per seed, by the arm's label.
    """
    figure, ((axes,),) = new_figure(size=(6, 3.6))
    for (name, runs), marker in zip(arms.items(), "os^D", strict=False):
        mean = mean_shift_aucs(runs)
        (line,) = axes.plot(mean.index, mean, marker=marker, label=name)
        for run in runs if len(runs) > 1 else ():
            aucs = shift_aucs(run)
            axes.plot(aucs.index, aucs, ".", color=line.get_color(), alpha=0.5, markersize=4)
    axes.set_xlabel("position off the centre, in the axial plane (mm)")
    axes.set_ylabel("AUC, original orientation")
    axes.set_xticks(np.arange(0, 6))
    axes.legend(frameon=False)
    return figure
