"""Whole runs made again, on another processor: what rounding alone changes.

`nodulebook again` compares one fold, a hundred nodules. A run that is repeated whole is kept, under
`papermill_runs/again/`, and its ten folds are compared with the committed ones.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, FoldParameters
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import open_source
from nodulebook.runs.contract import Run, is_done, list_runs, read_run
from nodulebook.stats.bootstrap import paired_bootstrap_difference
from nodulebook.stats.metrics import roc_auc
from nodulebook.stats.text import interval, number
from study.experiments.folds import fold_is_done
from study.experiments.parallel import run_side_by_side

AGAIN = "again"
"""The folder of `papermill_runs/` that holds what was repeated, under the names of the runs."""


def _parameters(run: str, fold: int, data: str) -> FoldParameters:
    """Of a fold of a committed run of a profile.

    Raises:
        InputError: the run is not whole, or no profile made it.
    """
    committed = read_run(run, folds=read_folds())
    if committed.missing_folds or "profile_name" not in committed.folds[0].run:
        raise InputError(f"run {run!r} cannot be repeated: not ten folds, or not of a profile")
    about = committed.folds[0].run
    parameters = FoldParameters(
        fold=fold,
        profile=about["profile_name"],
        source=about["source"],
        run=run,
        data=data,
        seed=about["seed"],
    )
    fold_is_done(parameters)  # refuses where the profile is another by now
    return parameters


def repeat_fold(run: str, fold: int, data: str = "") -> Path:
    """Train and test a fold of a committed run again, unless it is done, and keep it in `AGAIN`.

    Args:
        run: a whole run of `papermill_runs/`, of a network.
        fold: 0 to 9.
        data: the CT data, instead of NODULEBOOK_DATA.

    Returns:
        The folder of the fold in `AGAIN`.

    Raises:
        InputError: there is no such run, or its profile has changed since.
    """
    parameters = _parameters(run, fold, data)
    folder = paths.fold_folder(f"{AGAIN}/{run}", fold)
    if is_done(folder, read_folds()):
        return folder
    # Keras takes seconds to import, and tables of repeats do not need it.
    from nodulebook.runs.network_fold import open_fold, run_without_notebook

    profile = parameters.settings
    split, store = open_fold(parameters, profile)
    return run_without_notebook(AGAIN, parameters, profile, split, store.recipe)


def repeat_run(run: str, data: str = "", jobs: int | None = None) -> None:
    """All ten folds, side by side; those that are done are skipped. As `repeat_fold`."""
    parameters = _parameters(run, 0, data)
    lesions = parameters.settings.training.lesions
    open_source(parameters.source, Path(data) if data else None, lesions)
    run_side_by_side([(repeat_fold, run, fold, data) for fold in range(N_FOLDS)], jobs)


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


def repeat_sentence(pairs: dict[str, tuple[Run, Run]], run: str) -> str:
    """How far a run moved when it was made again; says so where it has not been."""
    if run not in pairs:
        return f"The run {run} has not been made again on another machine yet."
    (row,) = repeats_table({run: pairs[run]}).to_dict("records")
    return (
        f"Made again on another machine, with nothing else changed, the run {run} has AUC "
        f"{row['AUC again']} instead of {row['AUC']}; the difference, with its 95 % "
        f"patient-bootstrap interval, is {row['again minus committed']}."
    )


def repeat_sources(pairs: dict[str, tuple[Run, Run]], run: str) -> list[str]:
    """What `repeat_sentence` is computed from, for `trace.glue_texts`: the run, and its repeat."""
    return [run, *([f"{AGAIN}/{run}"] if run in pairs else [])]


def _auc(table: pd.DataFrame) -> float:
    return roc_auc(table["label"], table["p_malignant"])
