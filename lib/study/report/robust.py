"""AUC against the distance of a position from the nodule's middle: table and figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.folds import read_folds
from nodulebook.stats.added_value import seed_draws
from nodulebook.stats.bootstrap import Interval, interval_of, resampled, weighted_auc
from nodulebook.stats.metrics import roc_auc
from study.experiments.shifts import POSITIONS, SHIFTS
from study.figures.plots import new_figure

Array = NDArray[np.float64]

DISTANCE = {f"p_{y}_{x}": max(abs(y), abs(x)) for y, x in POSITIONS}
"""Distance (mm) of the position of each column of `shifts.csv`, which is along y or along x."""


def shift_aucs(run: str) -> pd.Series:
    """AUC pooled over the folds, by distance in mm; the mean over the directions of a distance.

    Raises:
        InputError: the run has no `shifts.csv`, or it lacks a position.
    """
    table = _read_shifts(run)
    label = table["label"].to_numpy()
    aucs = {name: roc_auc(label, table[name].to_numpy(float)) for name in DISTANCE}
    return pd.Series(aucs).groupby(pd.Series(DISTANCE)).mean().rename_axis("shift_mm")


def _read_shifts(run: str) -> pd.DataFrame:
    path = paths.runs_folder() / run / SHIFTS
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; make it with `nodulebook shifts`")
    known = read_folds()[["nodule_id", "patient_id", "label"]]
    table = pd.read_csv(path).merge(known, on="nodule_id")
    missing = sorted(set(DISTANCE) - set(table.columns))
    if missing:
        raise InputError(f"{path}: column {missing[0]} is missing; make the file again")
    return table


def shift_loss(runs: Sequence[str], shift_mm: int, n_draws: int = 2000) -> Interval:
    """AUC at the centre minus AUC at a distance in the plane: its mean over directions and seeds.

    The interval is over draws of patients, the same at both positions, and of a seed in each draw.

    Args:
        runs: one per seed.
        shift_mm: the distance, one of those in `shifts.csv`.
        n_draws: number of draws.

    Raises:
        InputError: as `shift_aucs`, or the distance is none of those.
    """
    moved = [name for name, distance in DISTANCE.items() if distance == shift_mm]
    if not moved:
        raise InputError(f"shift_mm is {shift_mm}, not one of {sorted(set(DISTANCE.values()))}")

    def draws(table: pd.DataFrame, n_draws: int, seed: int) -> tuple[float, Array]:
        label = table["label"].to_numpy(bool)
        scores = {name: table[name].to_numpy(float) for name in ("p_0_0", *moved)}

        def loss(weight: Array) -> Array:
            aucs = {name: weighted_auc(label, score, weight) for name, score in scores.items()}
            away: Array = np.mean([aucs[name] for name in moved], axis=0)
            return aucs["p_0_0"] - away

        once = float(loss(np.ones((1, len(table))))[0])
        return once, resampled(table["patient_id"], loss, n_draws, seed)

    tables = [_read_shifts(run) for run in runs]
    return interval_of(*seed_draws(tables, draws, n_draws, (0, 0)))


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
