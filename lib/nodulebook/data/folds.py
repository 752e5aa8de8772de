"""Ten folds, each patient in one of them, each with the same share of malignant nodules.

The paper (its section 5) says ten-fold cross-validation and not how nodules were dealt; nodules
of one patient in both training and test would leak, so a patient is never split.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, write_csv
from nodulebook.core.paths import DATA, FOLDS_CSV, NODULES_CSV, SCANS_CSV
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.cohort import (
    label_nodules,
    luna16_scans,
    nodule_table,
    read_nodules,
    scan_table,
)

SEED = 0
"""Gives folds of 100 to 102 nodules, 44 to 45 % of them malignant; never chosen for a result."""

COLUMNS = {"nodule_id": "str", "patient_id": "str", "label": "int", "fold": "int"}


def check_fold(fold: object) -> None:
    """Refuse what is not the number of a fold, an int (not a bool) from 0 to 9, by InputError."""
    if isinstance(fold, bool) or not isinstance(fold, int | np.integer) or not 0 <= fold < N_FOLDS:
        raise InputError(f"fold {fold!r}: must be a whole number from 0 to {N_FOLDS - 1}")


def make_folds(labelled: pd.DataFrame, n_folds: int = N_FOLDS, seed: int = SEED) -> pd.DataFrame:
    """Deal labelled nodules to folds: grouped by patient, stratified by label.

    scikit-learn's `StratifiedGroupKFold`: patients are shuffled, sorted by how unequal their
    label counts are, and each given to the fold where it leaves the labels spread most evenly.
    The order of the rows does not matter.

    Args:
        labelled: columns nodule_id, patient_id, label (0 or 1), as from `cohort.label_nodules`.
        n_folds: number of folds, at least 2.
        seed: of the shuffle.

    Returns:
        nodule_id, patient_id, label, fold (0 to n_folds - 1), in the order of `labelled`.

    Raises:
        InputError: `n_folds` is below 2, or above the number of patients or of nodules of the
            commoner label.
    """
    patients = labelled["patient_id"].nunique()
    most = int(labelled["label"].value_counts().max()) if len(labelled) else 0
    if not 2 <= n_folds <= min(patients, most):
        raise InputError(
            f"n_folds is {n_folds}: must be at least 2, and at most the number of patients "
            f"({patients}) and of nodules of the commoner label ({most})"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold = np.full(len(labelled), -1)
    for number, (_, test) in enumerate(
        splitter.split(labelled, labelled["label"], labelled["patient_id"])
    ):
        fold[test] = number
    return labelled[["nodule_id", "patient_id", "label"]].assign(fold=fold).reset_index(drop=True)


def read_folds(path: Path = FOLDS_CSV) -> pd.DataFrame:
    """The committed table `data/folds.csv`, checked against `data/nodules.csv`.

    Returns:
        The columns nodule_id, patient_id, label, fold; one row per labelled nodule.

    Raises:
        InputError: a table is missing or a cell of it is wrong; a labelled nodule is missing,
            twice or unlabelled; its patient or label is not that of `data/nodules.csv`; a patient
            is in two folds; a fold is not 0 to 9, or is empty.
    """
    folds = read_csv(path, COLUMNS)[list(COLUMNS)]
    labelled = label_nodules(read_nodules()).set_index("nodule_id")

    def refuse(bad: pd.Series, why: str) -> None:
        """Raise for the first row that is bad, with `why` filled in from that row."""
        if bad.any():
            row = int(bad.to_numpy().argmax())
            text = why.format_map({str(name): value for name, value in folds.iloc[row].items()})
            raise InputError(
                f"{path}: line {row + 2}: {text}; restore the file, or write it again with "
                "nodulebook.data.folds.write_cohort()"
            )

    name = folds["nodule_id"]
    refuse(~folds["fold"].between(0, N_FOLDS - 1), f"fold {{fold}} is not 0 to {N_FOLDS - 1}")
    refuse(name.duplicated(), "nodule {nodule_id} is listed twice")
    refuse(~name.isin(labelled.index), "nodule {nodule_id} is not a labelled nodule of nodules.csv")
    given = labelled.loc[name]
    refuse(
        folds["patient_id"] != given["patient_id"].to_numpy(),
        "nodule {nodule_id} is not of patient {patient_id}",
    )
    refuse(
        folds["label"] != given["label"].to_numpy(),
        "nodule {nodule_id} has label {label}, which nodules.csv contradicts",
    )
    first = folds.groupby("patient_id")["fold"].transform("first")
    refuse(folds["fold"] != first, "patient {patient_id} is in fold {fold} and in another")
    absent = sorted(set(labelled.index) - set(name))
    if absent:
        raise InputError(
            f"{path}: {len(absent)} labelled nodules are missing, the first is {absent[0]}; "
            "restore the file"
        )
    empty = set(range(N_FOLDS)) - set(folds["fold"])
    if empty:
        raise InputError(f"{path}: fold {min(empty)} has no nodule; restore the file")
    return folds


def absent_nodules(folds: pd.DataFrame, fold: int, there: Collection[str]) -> list[str]:
    """The nodules of one fold that a source lacks, sorted: `absent_nodules` of run.json.

    Args:
        folds: nodule_id and fold.
        fold: the fold that is held out.
        there: nodule_ids that the source has.
    """
    held_out = folds.loc[folds["fold"] == fold, "nodule_id"]
    return sorted(str(name) for name in held_out if name not in set(there))


def write_cohort(folder: Path = DATA) -> None:
    """Write scans.csv, nodules.csv and folds.csv from the annotation database, in seconds.

    The same bytes on each run.

    Raises:
        InputError: the annotation database cannot be used.
    """
    scans = luna16_scans()
    nodules = nodule_table(scans)
    write_csv(scan_table(scans, nodules), folder / SCANS_CSV.name)
    write_csv(nodules, folder / NODULES_CSV.name)
    write_csv(make_folds(label_nodules(nodules)), folder / FOLDS_CSV.name)
