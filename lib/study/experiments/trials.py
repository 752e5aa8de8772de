"""Trials: recipes compared on validation patients, never on the fold that they are judged on.

The ten folds are two halves, 0 to 4 and 5 to 9. A recipe for the folds of one half is chosen with
patients of the other half only, all of whom are training patients there: nested
cross-validation with two outer groups (Varma and Simon 2006). Within a half a trial trains on
three folds and validates on the other two, and once more the other way round.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import Entry, check_fold_parameters, read_entries
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import open_for_training
from nodulebook.runs.contract import Fold, read_fold
from nodulebook.runs.job import FoldJob
from nodulebook.stats.bootstrap import WeightedStatistic, weighted_auc
from study.experiments.parallel import run_parallel

TRIALS = "trials"
"""The folder of `papermill_runs/` that holds trials; a fold folder of it is a split."""

HALVES = (range(5), range(5, 10))
SPLITS = (
    ((0, 1, 2), (3, 4)),
    ((3, 4, 0), (1, 2)),
    ((5, 6, 7), (8, 9)),
    ((8, 9, 5), (6, 7)),
)
"""Folds trained on and folds validated, of each split; the first two are of the first half."""


class Trial(Entry):
    """An entry of `profiles/trials/trials.yaml`: a recipe to be judged on validation patients."""

    group: Literal["seed", "why", "recipe", "slices", "robust", "pretrained", "average"]
    """seed: the paper's recipe from another seed; why: one thing changed in it; recipe: a
    candidate for the honest one; slices: the honest one with another work's network; robust: a
    candidate for the one that is trained with random shifts; pretrained: the same, with a network
    that starts from ImageNet weights; average: a further member of the averages over networks of
    several kinds."""
    source: Literal["phantom", "lidc_slices", "lidc_exact", "lidc_grey"] = "lidc_slices"


def read_trials() -> dict[str, Trial]:
    """The trials by name, in the order of `profiles/trials/trials.yaml`."""
    return read_entries(Trial, paths.TRIALS_YAML)


def half_of(fold: int) -> int:
    """The half, 0 or 1, that an outer fold lies in; its recipe is chosen in the other."""
    return next(half for half, folds in enumerate(HALVES) if fold in folds)


def half_of_split(split: int) -> int:
    """The half that a split's nodules are of."""
    return half_of(SPLITS[split][0][0])


def trial_folds(folds: pd.DataFrame, split: int) -> tuple[pd.DataFrame, set[str]]:
    """The fold table of a split, and the patients who take no part in it.

    Args:
        folds: data/folds.csv: nodule_id, patient_id, label, fold.
        split: 0 to 3.

    Returns:
        The rows of the split's nodules with `fold` set to `split` where they validate, and to
        `split + 1` where they train; and the patients of the other half and of folds left out.
    """
    train, validate = SPLITS[split]
    taking_part = folds["fold"].isin((*train, *validate))
    table = folds[taking_part].reset_index(drop=True)
    number = np.where(table["fold"].isin(validate), split, split + 1)
    hidden = {str(patient) for patient in folds.loc[~taking_part, "patient_id"]}
    return table.assign(fold=number), hidden


def trial_job(
    trial: Trial, split: int, into: str = "", folds: pd.DataFrame | None = None
) -> FoldJob:
    """The job of a split of a trial; its fold table is that of `trial_folds`.

    `folds` is data/folds.csv where it has been read already.
    """
    settings = {"profile_hash": trial.settings.hash(), "source": trial.source}
    table, _ = trial_folds(read_folds() if folds is None else folds, split)
    return FoldJob(f"{into}{TRIALS}/{trial.name}", split, settings, table)


def read_trial_fold(name: str, split: int, folds: pd.DataFrame | None = None) -> Fold:
    """A split's files, checked against the nodules that it validates (of data/folds.csv)."""
    table, _ = trial_folds(read_folds() if folds is None else folds, split)
    return read_fold(paths.fold_folder(f"{TRIALS}/{name}", split), table)


def run_trial(name: str, split: int, data: str = "", into: str = "") -> Path:
    """Train and validate one split of a trial, unless it is done; it goes on where it stopped.

    Args:
        name: of `profiles/trials/trials.yaml`.
        data: the CT data, instead of NODULEBOOK_DATA.
        into: before the run's name.

    Returns:
        The folder with the files of the run contract; `fold` is the split's number.

    Raises:
        InputError: there is no such trial, or its data or results are wrong.
    """
    trials = read_trials()
    if name not in trials:
        raise InputError(f"trial {name!r} is not one of {', '.join(trials)}")
    trial = trials[name]
    with trial_job(trial, split, into) as job:
        if job.begin():
            # Keras takes seconds to import, and tables of trials do not need it.
            from nodulebook.runs.network_fold import open_fold, run_network_fold

            _, hidden = trial_folds(read_folds(), split)
            values = {"fold": split, "profile": name, "source": trial.source, "run": name}
            parameters = check_fold_parameters(values | {"data": data})
            opened = open_fold(parameters, trial.settings, job.expected, hidden)
            run_network_fold(job, parameters, trial.settings, opened)
    return job.folder


def run_trials(names: Sequence[str], data: str = "", jobs: int | None = None) -> None:
    """Run all splits of the trials named, in parallel; what is done is skipped.

    Raises:
        InputError: a trial is unknown, or one failed.
    """
    trials = read_trials()
    unknown = [name for name in names if name not in trials]
    if unknown:
        raise InputError(f"trial {unknown[0]!r} is not one of {', '.join(trials)}")
    for name in names:
        settings = trials[name].settings.training
        open_for_training(trials[name].source, Path(data) if data else None, settings)
    todo = [
        (name, split)
        for name in names
        for split in range(len(SPLITS))
        if not trial_job(trials[name], split).is_done()
    ]
    print(f"{len(todo)} splits to do", flush=True)
    run_parallel([(run_trial, name, split, data) for name, split in todo], jobs)


def trial_table(names: Sequence[str] | None = None) -> pd.DataFrame:
    """The validated predictions of the trials that are whole.

    Returns:
        Columns trial, half and those of the run contract; `fold` is the split.
    """
    parts, folds = [], read_folds()
    for name, trial in read_trials().items():
        if names is not None and name not in names:
            continue
        jobs = [trial_job(trial, split, folds=folds) for split in range(len(SPLITS))]
        if not all(job.is_done() for job in jobs):
            continue
        for split in range(len(SPLITS)):
            part = read_trial_fold(name, split, folds).probabilities
            parts.append(part.assign(trial=name, half=half_of_split(split)))
    if not parts:
        raise InputError(f"{paths.runs_folder() / TRIALS}: no trial is whole; `nodulebook trials`")
    return pd.concat(parts, ignore_index=True)


def split_auc(split: NDArray[np.int64]) -> WeightedStatistic:
    """The mean over splits of the AUC within each: predictions of two models are not ranked.

    Args:
        split: (n,), the split of each nodule, in the order of the table that is judged.
    """

    def statistic(
        label: NDArray[np.bool_], p: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        within = [split == one for one in np.unique(split)]
        aucs = [weighted_auc(label[rows], p[rows], weight[:, rows]) for rows in within]
        mean: NDArray[np.float64] = np.mean(aucs, axis=0)
        return mean

    return statistic


def diameter_of(table: pd.DataFrame, nodules: pd.DataFrame) -> pd.DataFrame:
    """The same nodules, judged by the readers' diameter alone: in place of p, millimetres."""
    diameter = nodules.set_index("nodule_id")["diameter_mm"]
    return table.assign(p_malignant=diameter[table["nodule_id"]].to_numpy(), trial="diameter")


def chosen(table: pd.DataFrame, names: Sequence[str]) -> dict[int, str]:
    """The recipe for the folds of each half: the one with the best AUC in the other half.

    Args:
        table: from `trial_table`.
        names: the candidates; of equals the first.
    """
    out = {}
    for half in (0, 1):
        there = table[table["half"] == 1 - half]
        aucs = {name: _auc(there[there["trial"] == name]) for name in names}
        out[half] = max(aucs, key=lambda name: aucs[name])
    return out


def _auc(table: pd.DataFrame) -> float:
    label, p = table["label"].to_numpy() == 1, table["p_malignant"].to_numpy(float)
    return float(split_auc(table["fold"].to_numpy())(label, p, np.ones((1, len(p))))[0])
