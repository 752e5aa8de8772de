"""Whole runs made again, on another processor: what rounding alone changes.

`nodulebook again` compares one fold, a hundred nodules. A run that is repeated whole is kept, under
`papermill_runs/again/`, and its ten folds are compared with the committed ones.
"""

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Run, list_runs, read_run
from nodulebook.runs.job import network_job
from nodulebook.stats.added_value import fold_aucs
from nodulebook.stats.bootstrap import paired_bootstrap_difference
from nodulebook.stats.metrics import roc_auc
from nodulebook.stats.text import interval, number
from study.experiments.folds import recorded_parameters, run_folds

AGAIN = "again"
"""The folder of `papermill_runs/` that holds what was repeated, under the names of the runs."""


def repeat_run(run: str, data: str = "", jobs: int | None = None) -> None:
    """Train and test all ten folds of a committed run again and keep them in `AGAIN`.

    Folds that are done are skipped.

    Args:
        run: a whole run of `papermill_runs/`, of a network.
        data: the CT data, instead of NODULEBOOK_DATA.

    Raises:
        InputError: there is no such run, or its profile has changed since.
    """
    committed = read_run(run, folds=read_folds())
    if committed.missing_folds:
        raise InputError(f"run {run!r} cannot be repeated: it has not ten folds")
    first = recorded_parameters(committed.folds[0].run, run, 0, data)
    network_job(first).is_done()  # refuses where the patches are others by now
    run_folds(first, jobs, notebooks=False, into=f"{AGAIN}/")


def repeated_runs() -> dict[str, tuple[Run, Run]]:
    """Each run that has been repeated whole: as committed, and again."""
    folder, folds = paths.runs_folder() / AGAIN, read_folds()
    pairs = {
        name: (read_run(name, folds=folds), read_run(name, folder, folds))
        for name in list_runs(folder)
    }
    return {name: pair for name, pair in pairs.items() if not pair[1].missing_folds}


def repeats_table(pairs: dict[str, tuple[Run, Run]]) -> pd.DataFrame:
    """How far a repeated run lies from the committed one.

    Args:
        pairs: from `repeated_runs`.
    """
    rows = []
    for name, runs in pairs.items():
        before, after = (run.probabilities for run in runs)
        by_fold = np.abs(fold_aucs(after) - fold_aucs(before))
        rows.append(
            {
                "run": name,
                "AUC": number(_auc(before)),
                "AUC again": number(_auc(after)),
                "again minus committed": interval(
                    paired_bootstrap_difference(after, before, "roc_auc")
                ),
                "a fold's AUC differs by": f"{number(float(by_fold.mean()))} on average, "
                f"{number(float(by_fold.max()))} at most",
                "n": f"{len(after):,}",
            }
        )
    return pd.DataFrame(rows)


def _auc(table: pd.DataFrame) -> float:
    return roc_auc(table["label"], table["p_malignant"])
