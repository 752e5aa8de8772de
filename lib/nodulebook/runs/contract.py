"""The run contract: the files that a fold leaves, written, read and checked.

`papermill_runs/<run>/fold-<k>/` holds

probabilities.csv  one row per test nodule: nodule_id, patient_id, label, p_malignant, fold, arm
history.csv        one row per epoch: epoch (from 1), loss, further numbers
run.json           what made them: the keys of `RUN_KEYS`, and others
lesions.csv        optional: one row per lesion of the held-out patients that the source has, with
                   the columns of probabilities.csv; label is empty where the rule gives none

A fold is done when these files are valid. Every number of the book comes from them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, read_json, refuse_rows, write_csv, write_json
from nodulebook.core.settings import N_FOLDS

PROBABILITIES = "probabilities.csv"
HISTORY = "history.csv"
RUN = "run.json"
LESIONS = "lesions.csv"

EACH_EPOCH = "each_epoch.csv"
"""In some runs: nodule_id, and the probability after each epoch, epoch_1, epoch_2, ..."""

PROBABILITY_COLUMNS = {
    "nodule_id": "str",
    "patient_id": "str",
    "label": "int",
    "p_malignant": "float",
    "fold": "int",
    "arm": "str",
}

RUN_KEYS: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "arm": str,
    "source": str,
    "fold": int,
    "seed": int,
    "profile": dict,
    "profile_hash": str,
    "data_hash": str,
    "n_train": int,
    "n_test": int,
    "absent_nodules": list,  # test nodules of data/folds.csv that the source lacks
    "versions": dict,
    "backend": str,
    "device": str,
    "wall_seconds": (int, float),
    "started": str,
    "ended": str,
}

SAME_IN_A_RUN = ("run", "arm", "source", "seed", "profile_hash", "data_hash", "rule")
"""Keys that all folds of a run share, or all lack; otherwise pooling would mix two experiments."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold's files."""

    probabilities: pd.DataFrame  # columns of PROBABILITY_COLUMNS, one row per test nodule
    history: pd.DataFrame  # epoch, loss, ...; one row per epoch
    run: dict[str, Any]
    lesions: pd.DataFrame | None = None
    """Columns of PROBABILITY_COLUMNS, one row per lesion of the held-out patients; label is NaN
    where the rule gives none. None in folds that did not predict them."""


@dataclass(frozen=True, eq=False)
class Run:
    """The folds of a run that are there, by number, and their pooled probabilities."""

    name: str
    folds: dict[int, Fold]
    probabilities: pd.DataFrame
    missing_folds: tuple[int, ...]


def write_fold(
    folder: Path,
    probabilities: pd.DataFrame,
    history: pd.DataFrame,
    run: dict[str, Any],
    lesions: pd.DataFrame | None = None,
) -> None:
    """Write a fold's files, after checking them as `read_fold` does.

    Args:
        folder: an existing folder, `fold-<k>` or one that is to be renamed to it.
        probabilities: the columns of `PROBABILITY_COLUMNS`. Numbers are written so that reading
            gives the same float64.
        history: epoch, from 1 on, and loss; further columns must be numbers too.
        run: the keys of `RUN_KEYS`; others are kept.
        lesions: as `Fold.lesions`; the rows of `probabilities` are among them.

    Raises:
        InputError: there is no such folder, or something does not keep the contract.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder to write a fold into")
    tables = [
        (PROBABILITIES, probabilities, list(PROBABILITY_COLUMNS)),
        (HISTORY, history, ["epoch", "loss"]),
    ]
    if lesions is not None:
        tables.append((LESIONS, lesions, list(PROBABILITY_COLUMNS)))
    for name, table, needed in tables:
        missing = [column for column in needed if column not in table.columns]
        if missing:
            raise InputError(f"{folder / name}: column {', '.join(missing)} is missing")
    try:
        # A float32 would be written with fewer digits, which read as another float64.
        probabilities = probabilities.astype({"p_malignant": float})
        history = history.astype({name: float for name in history.columns if name != "epoch"})
        if lesions is not None:
            lesions = lesions.astype({"p_malignant": float, "label": float}).reset_index(drop=True)
        json.dumps(run, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder}: a value cannot be written ({error})") from None
    _check(folder, Fold(probabilities, history, run, lesions))
    probabilities = probabilities.astype({"label": int, "fold": int})
    write_csv(probabilities[list(PROBABILITY_COLUMNS)], folder / PROBABILITIES)
    write_csv(history.astype({"epoch": int}), folder / HISTORY)
    if lesions is not None:
        lesions = lesions.astype({"label": "Int64", "fold": int})
        write_csv(lesions[list(PROBABILITY_COLUMNS)], folder / LESIONS)
    write_json(run, folder / RUN)


def read_fold(folder: Path, expected: pd.DataFrame | None = None) -> Fold:
    """Read a fold and check it.

    Args:
        folder: `<run>/fold-<k>`.
        expected: the nodules that the fold must have: columns nodule_id, patient_id, label, and
            fold where it holds other folds too (as data/folds.csv does). Those in run.json's
            `absent_nodules` are taken off. None: any nodules will do.

    Raises:
        InputError: a file is missing or breaks the contract; the message names file, row and
            value.
    """
    if _fold_number(folder) is None:
        raise InputError(f"{folder}: not the folder of a fold, which is called fold-<number>")
    probabilities = read_csv(folder / PROBABILITIES, PROBABILITY_COLUMNS)
    history = read_csv(folder / HISTORY, {"epoch": "int", "loss": "float"}, others="float")
    lesions = None
    if (folder / LESIONS).exists():
        kinds = PROBABILITY_COLUMNS | {"label": "float"}
        lesions = read_csv(folder / LESIONS, kinds, gaps=("label",))
    fold = Fold(probabilities, history, read_json(folder / RUN), lesions)
    _check(folder, fold)
    if expected is not None:
        _check_expected(folder, fold, expected)
    return fold


def list_runs(folder: Path | None = None) -> list[str]:
    """Names of the runs in a folder (`paths.runs_folder()`) that have a fold's folder, sorted."""
    folder = paths.runs_folder() if folder is None else folder
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if fold_folders(path.name, folder))


def fold_folders(run: str, folder: Path | None = None) -> dict[int, Path]:
    """The folders of a run's folds by their numbers, in order; none where there is no such run."""
    place = (paths.runs_folder() if folder is None else folder) / run
    if run != place.name or run.startswith(".") or not place.is_dir():
        return {}
    numbered = ((_fold_number(path), path) for path in place.iterdir() if path.is_dir())
    return dict(sorted((k, path) for k, path in numbered if k is not None))


def read_run(run: str, folder: Path | None = None, folds: pd.DataFrame | None = None) -> Run:
    """Read and check all folds of a run that are there.

    Args:
        run: the run's name.
        folder: the folder of runs; None: `paths.runs_folder()`.
        folds: data/folds.csv, to check the nodules against.

    Returns:
        The run. `missing_folds` are those of `folds` that are not there, or without `folds`
        those of 0 to 9. The pooled rows are in the order of the folds.

    Raises:
        InputError: there is no such run, a fold is invalid, or two folds do not belong together.
    """
    folder = paths.runs_folder() if folder is None else folder
    found = {k: read_fold(path, folds) for k, path in fold_folders(run, folder).items()}
    if not found:
        there = ", ".join(list_runs(folder)) or "none at all"
        raise InputError(f"there is no run {run!r} in {folder}; there is {there}")
    _check_together(folder / run, found)
    pooled = pd.concat([fold.probabilities for fold in found.values()], ignore_index=True)
    twice = pooled[pooled["nodule_id"].duplicated(keep=False)]
    if len(twice):
        name = twice["nodule_id"].iloc[0]
        where = twice["fold"][twice["nodule_id"] == name].tolist()
        raise InputError(f"{folder / run}: nodule {name} is tested in folds {where}")
    wanted: Iterable[int] = range(N_FOLDS) if folds is None else folds["fold"].unique().tolist()
    missing = tuple(sorted(set(wanted) - set(found)))
    return Run(name=run, folds=found, probabilities=pooled, missing_folds=missing)


def on_common_nodules(run: Run, other: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pooled probabilities of both runs, of the nodules that both have."""
    ids = set(run.probabilities["nodule_id"]) & set(other.probabilities["nodule_id"])
    first, second = (r.probabilities[r.probabilities["nodule_id"].isin(ids)] for r in (run, other))
    return first, second


def _fold_number(folder: Path, aside: bool = False) -> int | None:
    """k of `fold-<k>`; with `aside` also of a folder not yet renamed, as `.fold-<k>.x`."""
    pattern = r"\.?fold-(0|[1-9]\d*)(\..*)?" if aside else r"fold-(0|[1-9]\d*)"
    match = re.fullmatch(pattern, folder.name)
    return int(match[1]) if match else None


def _check(folder: Path, fold: Fold) -> None:
    """What a fold's files must keep, whatever the source."""
    _check_run(folder / RUN, fold.run)
    k = _fold_number(folder, aside=True)
    if k is not None and fold.run["fold"] != k:
        raise InputError(f"{folder / RUN}: fold is {fold.run['fold']}, but the folder's is {k}")
    _check_probabilities(folder / PROBABILITIES, fold.probabilities, fold.run)
    _check_history(folder / HISTORY, fold.history)
    if fold.lesions is not None:
        _check_lesions(folder / LESIONS, fold)


def _check_lesions(path: Path, fold: Fold) -> None:
    table = fold.lesions
    assert table is not None
    _check_predictions(path, table, fold.run)
    unlabelled = table["label"].isna()
    refuse_rows(path, table, "label", ~(table["label"].isin((0, 1)) | unlabelled), "must be 0 or 1")
    tested = fold.probabilities.set_index("nodule_id")
    named = table["nodule_id"].isin(tested.index)
    refuse_rows(path, table, "label", ~unlabelled & ~named, "but the nodule is not a test nodule")
    missing = tested.index.difference(table["nodule_id"].tolist()).tolist()
    if missing:
        raise InputError(f"{path}: test nodule {missing[0]} is missing")
    for name in ("patient_id", "label", "p_malignant"):
        differs = pd.Series(False, index=table.index)
        right = tested.loc[table.loc[named, "nodule_id"], name].to_numpy()
        differs[named] = table.loc[named, name].to_numpy() != right
        refuse_rows(path, table, name, differs, f"but {PROBABILITIES} has another")


def _check_run(path: Path, run: Any) -> None:
    if not isinstance(run, dict):
        raise InputError(f"{path}: must be an object with keys, but is a {type(run).__name__}")
    missing = [key for key in RUN_KEYS if key not in run]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} is missing")
    for key, kind in RUN_KEYS.items():
        value = run[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = kind.__name__ if isinstance(kind, type) else "number"
            raise InputError(f"{path}: {key} is {value!r}, but must be a {wanted}")
    if not 0 <= run["wall_seconds"] < float("inf"):
        raise InputError(f"{path}: wall_seconds is {run['wall_seconds']}")
    odd = [name for name in run["absent_nodules"] if not isinstance(name, str)]
    if odd:
        raise InputError(f"{path}: absent_nodules has {odd[0]!r}, but must hold nodule names")


def _check_probabilities(path: Path, table: pd.DataFrame, run: dict[str, Any]) -> None:
    _check_predictions(path, table, run)
    refuse_rows(path, table, "label", ~np.isin(table["label"].to_numpy(), (0, 1)), "must be 0 or 1")
    absent = [name in run["absent_nodules"] for name in table["nodule_id"].tolist()]
    refuse_rows(path, table, "nodule_id", absent, "but run.json calls it absent")
    if len(table) != run["n_test"]:
        raise InputError(f"{path}: {len(table)} nodules, but run.json's n_test is {run['n_test']}")


def _check_predictions(path: Path, table: pd.DataFrame, run: dict[str, Any]) -> None:
    """What probabilities.csv and lesions.csv both keep."""
    unknown = [name for name in table.columns if name not in PROBABILITY_COLUMNS]
    if unknown:
        raise InputError(f"{path}: column {', '.join(unknown)} is unknown")
    if table.empty:
        raise InputError(f"{path}: has no nodule")
    p = table["p_malignant"].to_numpy(float)
    refuse_rows(path, table, "p_malignant", ~((p >= 0) & (p <= 1)), "must be between 0 and 1")
    for name in ("nodule_id", "patient_id"):
        blank = [not (isinstance(value, str) and value.strip()) for value in table[name].tolist()]
        refuse_rows(path, table, name, blank, "must be text")
    refuse_rows(path, table, "nodule_id", table["nodule_id"].duplicated(), "is there twice")
    for name in ("fold", "arm"):
        differs = [value != run[name] for value in table[name].tolist()]
        refuse_rows(path, table, name, differs, f"but run.json says {run[name]!r}")


def _check_history(path: Path, table: pd.DataFrame) -> None:
    if table.empty:
        raise InputError(f"{path}: has no epoch")
    wanted = np.arange(1, len(table) + 1)
    differs = table["epoch"].to_numpy() != wanted
    refuse_rows(path, table, "epoch", differs, "but epochs must be 1, 2, 3, ...")
    for name in table.columns:
        refuse_rows(path, table, name, ~np.isfinite(table[name].to_numpy(float)), "must be finite")


def _check_expected(folder: Path, fold: Fold, expected: pd.DataFrame) -> None:
    """The fold's nodules are those of `expected`, less the absent ones, with their labels."""
    path, table = folder / PROBABILITIES, fold.probabilities
    if "fold" in expected.columns:
        expected = expected[expected["fold"] == fold.run["fold"]]
    held_out = expected["patient_id"]
    expected = expected[~expected["nodule_id"].isin(fold.run["absent_nodules"])]
    if fold.lesions is not None:
        others = ~fold.lesions["patient_id"].isin(set(held_out))
        refuse_rows(
            folder / LESIONS, fold.lesions, "patient_id", others, "who is not held out here"
        )
    known = expected.set_index("nodule_id")
    extra = ~table["nodule_id"].isin(known.index)
    refuse_rows(
        path, table, "nodule_id", extra, f"which is none of fold {fold.run['fold']}'s nodules"
    )
    missing = known.index.difference(table["nodule_id"].tolist()).tolist()
    if missing:
        raise InputError(f"{path}: {len(missing)} nodules are missing, the first is {missing[0]}")
    for name in ("patient_id", "label"):
        right = known.loc[table["nodule_id"], name].tolist()
        for row, (given, wanted) in enumerate(zip(table[name].tolist(), right, strict=True)):
            if given != wanted:
                raise InputError(
                    f"{path}: line {row + 2}: {name} of {table['nodule_id'].iloc[row]} is "
                    f"{given!r}, but must be {wanted!r}"
                )


def _check_together(folder: Path, found: dict[int, Fold]) -> None:
    """The folds of a run come from one experiment."""
    first = next(iter(found))
    for k, fold in found.items():
        for key in SAME_IN_A_RUN:
            wanted = folder.name if key == "run" else found[first].run.get(key)
            if fold.run.get(key) != wanted:
                whose = "the folder says" if key == "run" else f"fold {first} has"
                raise InputError(
                    f"{folder / f'fold-{k}' / RUN}: {key} is {fold.run.get(key)!r}, "
                    f"but {whose} {wanted!r}"
                )
