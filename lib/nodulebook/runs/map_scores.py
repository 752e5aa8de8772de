"""Reading and writing a fold's saliency scores: explanations.csv and sanity.csv.

Both files are optional; `nodulebook.explain.scores` gives their columns. A cell is empty where a
measure is undefined: measures against the outline where the readers' consensus has no voxel
(mask_mm3 is 0), error_mm where the map is empty, the last four for off-centre patches, a
correlation where one of the maps is constant.
"""

from pathlib import Path

import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, refuse_rows, written_aside
from nodulebook.explain.scores import (
    CENTRED_MEASURES,
    CHECKS,
    COLUMNS,
    METHODS,
    OUTLINE_MEASURES,
    PLACEMENTS,
    SANITY_COLUMNS,
    Explanations,
)
from nodulebook.runs.contract import Fold, Run

EXPLANATIONS = "explanations.csv"
SANITY = "sanity.csv"

_MAY_BE_EMPTY = {*OUTLINE_MEASURES, "error_mm", *CENTRED_MEASURES, *METHODS}

SAME_P = 2e-3
"""How far a prediction may be from that in probabilities.csv: another processor rounds."""


def write_explanations(folder: Path, given: Explanations, fold: Fold) -> None:
    """Write the two files next to the fold's own, numbers to four digits, and read them back.

    Raises:
        InputError: a column is missing, or `read_explanations` would refuse what was given;
            then neither file is written.
    """
    tables = ((EXPLANATIONS, given.measures, COLUMNS), (SANITY, given.sanity, SANITY_COLUMNS))
    for name, table, columns in tables:
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise InputError(f"{folder / name}: column {', '.join(missing)} is missing")
    _check(folder, given, fold)
    for name, table, columns in tables:
        with written_aside(folder / name) as aside:
            table[list(columns)].to_csv(
                aside, index=False, lineterminator="\n", float_format="%.4g"
            )
    read_explanations(folder, fold)


def read_explanations(folder: Path, fold: Fold) -> Explanations | None:
    """The two tables of a fold, checked against its own files; None where neither file is there.

    Raises:
        InputError: one of the two files is missing, or breaks the contract; the message names
            file, row and value.
    """
    if not (folder / EXPLANATIONS).exists() and not (folder / SANITY).exists():
        return None
    given = Explanations(
        _read(folder / EXPLANATIONS, COLUMNS), _read(folder / SANITY, SANITY_COLUMNS)
    )
    _check(folder, given, fold)
    return given


def pooled_explanations(run: Run, folder: Path) -> tuple[Explanations, tuple[int, ...]] | None:
    """The tables of all folds of a run that have them, with each nodule's patient and label.

    Returns:
        The pooled tables, with the further columns patient_id, label, and `right` (1 where the
        class predicted for the patch is the label) in the first; and the folds that have them.
        None where no fold has.

    Raises:
        InputError: as `read_explanations`.
    """
    found = {k: read_explanations(folder / run.name / f"fold-{k}", f) for k, f in run.folds.items()}
    there = {k: value for k, value in found.items() if value is not None}
    if not there:
        return None
    about = run.probabilities.set_index("nodule_id")[["patient_id", "label"]]
    measures, sanity = (
        pd.concat([getattr(value, part) for value in there.values()], ignore_index=True).join(
            about, on="nodule_id"
        )
        for part in ("measures", "sanity")
    )
    measures["right"] = (measures["explained"] == measures["label"]).astype(int)
    return Explanations(measures, sanity), tuple(there)


def _read(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    table = read_csv(path, columns, gaps=_MAY_BE_EMPTY)
    if unknown := [name for name in table.columns if name not in columns]:
        raise InputError(f"{path}: column {', '.join(unknown)} is unknown")
    return table


def _check(folder: Path, given: Explanations, fold: Fold) -> None:
    _check_measures(folder / EXPLANATIONS, given.measures, fold)
    _check_sanity(folder / SANITY, given.sanity, fold)


def _check_measures(path: Path, table: pd.DataFrame, fold: Fold) -> None:
    p = fold.probabilities.set_index("nodule_id")["p_malignant"]
    _one_of(path, table, "placement", PLACEMENTS)
    _one_of(path, table, "method", METHODS)
    _complete(path, table, ["nodule_id", "placement", "method"], p.index, 2 * len(METHODS))
    for name in ("explained", "empty"):
        refuse_rows(path, table, name, ~table[name].isin((0, 1)), "but must be 0 or 1")
    for name in ("p_malignant", *OUTLINE_MEASURES, "deletion", "insertion"):
        outside = table[name].notna() & ~table[name].between(0, 1)
        refuse_rows(path, table, name, outside, "but must be between 0 and 1")
    for name in ("mask_mm3", "error_mm", "kept_mm3", "kept_other_mm3"):
        refuse_rows(path, table, name, table[name] < 0, "but must not be negative")
    centred = table["placement"] == "centred"
    off = centred & (table["nodule_id"].map(p) - table["p_malignant"]).abs().gt(SAME_P)
    refuse_rows(path, table, "p_malignant", off, "but probabilities.csv has another prediction")
    clear = (table["p_malignant"] - 0.5).abs() > SAME_P
    wrong = clear & (table["explained"] != (table["p_malignant"] > 0.5))
    refuse_rows(path, table, "explained", wrong, "but the class predicted is the other")
    outlined = table["mask_mm3"] > 0
    wanted = dict.fromkeys(OUTLINE_MEASURES, outlined)
    wanted |= {"error_mm": outlined & (table["empty"] == 0)}
    wanted |= dict.fromkeys(CENTRED_MEASURES, centred)
    for name, due in wanted.items():
        refuse_rows(path, table, name, table[name].isna() & due, "but a number is due")
        refuse_rows(path, table, name, table[name].notna() & ~due, "but must be empty here")


def _check_sanity(path: Path, table: pd.DataFrame, fold: Fold) -> None:
    _one_of(path, table, "check", CHECKS)
    steps = len(table[["check", "step"]].drop_duplicates())
    nodules = fold.probabilities["nodule_id"]
    _complete(path, table, ["nodule_id", "check", "step"], pd.Index(nodules), steps)
    for name in SANITY_COLUMNS:
        if name in METHODS:
            outside = table[name].notna() & ~table[name].between(-1, 1)
            refuse_rows(path, table, name, outside, "but must be between -1 and 1")


def _one_of(path: Path, table: pd.DataFrame, name: str, known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    refuse_rows(
        path, table, name, ~table[name].isin(names), f"but must be one of {', '.join(names)}"
    )


def _complete(
    path: Path, table: pd.DataFrame, key: list[str], nodules: pd.Index, rows: int
) -> None:
    """Every test nodule of the fold has `rows` rows, no other has one, and none is there twice."""
    other = ~table["nodule_id"].isin(nodules)
    refuse_rows(path, table, "nodule_id", other, "which is none of the fold's test nodules")
    twice = table.duplicated(key)
    refuse_rows(path, table, "nodule_id", twice, f"with the same {' and '.join(key[1:])} twice")
    counts = table["nodule_id"].value_counts().reindex(nodules, fill_value=0)
    short = counts.index[counts != rows]
    if len(short):
        raise InputError(f"{path}: nodule {short[0]} has {counts[short[0]]} rows, not {rows}")
