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

    Returns:
        Columns "run", "n", "AUC", "AUC again", "again minus committed" (pooled), "a fold's AUC
        differs by" (without sign), as text.
    """
    rows = []
    for name, (committed, again) in pairs.items():
        by_fold = [
            abs(_auc(again.folds[fold].probabilities) - _auc(committed.folds[fold].probabilities))
            for fold in committed.folds
        ]
        difference = paired_bootstrap_difference(
            again.probabilities, committed.probabilities, "roc_auc"
        )
        rows.append(
            {
                "run": name,
                "n": f"{len(again.probabilities):,}",
                "AUC": number(_auc(committed.probabilities)),
                "AUC again": number(_auc(again.probabilities)),
                "again minus committed": interval(difference),
                "a fold's AUC differs by": f"{number(float(np.mean(by_fold)))} on average, "
                f"{number(max(by_fold))} at most",
            }
        )
    return pd.DataFrame(rows)


def _auc(table: pd.DataFrame) -> float:
    return roc_auc(table["label"], table["p_malignant"])
