"""How a table of labels meets a table of scores: which rows are one nodule, and whose it is."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.data.patients import check_spelling
from study.own_scans.labels import labels_of
from study.own_scans.positions import WORLD, given_columns, read_positions, refuse, stem


def with_labels(
    table: pd.DataFrame, labels: Path, named: Collection[str]
) -> tuple[pd.DataFrame, str]:
    """The nodules that a table of labels labels, with its label, patient and diameter.

    `named` are the columns that the scores have. Also returns a remark on labelled rows that meet
    no nodule.
    """
    given = read_positions(labels, coordinates=False)
    label = labels_of(given)
    if label.isna().all():
        raise InputError(f"{labels}: no row has a label: a column label or rating is needed")
    keys = _keys(table, given, set(named), given_columns(labels))
    if not keys:
        raise InputError(f"{labels}: needs a column id, or scan, as in the table of scores")
    for spelled in (str, stem):  # a scan as it is written; else without folder and ending
        mine, theirs = (_index(side, keys, spelled) for side in (table, given))
        if mine.isin(theirs).any():
            break
    shown = [", ".join(map(str, side[0])) for side in (theirs, mine)]
    if not mine.isin(theirs).any():
        raise InputError(
            f"{labels}: none of its rows is of a scored nodule: {' and '.join(keys)} {shown[0]!r}, "
            f"where the scores have {shown[1]!r}"
        )
    for one, other in ((mine, theirs), (theirs, mine)):
        twice = one[one.duplicated() & one.isin(other)]
        if len(twice):
            raise InputError(
                f"{labels}: {' and '.join(keys)} {', '.join(map(str, twice[0]))!r} names several "
                "nodules: both tables need the columns id and scan"
            )
    once = ~theirs.duplicated()
    row = pd.Series(np.flatnonzero(once), theirs[once]).reindex(mine).to_numpy()
    met = ~np.isnan(row)
    found = given.iloc[row[met].astype(int)].set_index(table.index[met])
    _check_patients(labels, table[met], found)
    kept = table[met].drop(columns=["label", "rating"], errors="ignore")
    for name in ("label", "rating", "diameter_mm"):
        if name in found:
            there = found[name].notna()
            kept[name] = found[name].where(there, kept.get(name, found[name]))
    if "patient_id" in found:
        scans = given["scan"].map(spelled if "scan" in keys else lambda name: "")
        kept["patient_id"] = _patients(
            labels, kept, found, given["patient_id"], kept["scan"].map(spelled), scans
        )
    if "patient_id" in kept:
        check_spelling(labels, kept["patient_id"])
    more = label.notna().to_numpy() & ~theirs.isin(mine)
    if not more.any():
        return kept.reset_index(drop=True), ""
    remark = f"{labels}: {more.sum()} more rows with a label are of no scored nodule, the first is "
    remark += repr(", ".join(map(str, theirs[more][0])))
    if not met.all():
        first = ", ".join(map(str, mine[~met][0]))
        remark += f"; {(~met).sum()} scored nodules have no row, the first is {first!r}"
    return kept.reset_index(drop=True), remark


def _check_patients(labels: Path, table: pd.DataFrame, found: pd.DataFrame) -> None:
    """Refuse labels that give a nodule to another patient of the scores: ids that number the rows
    of two tables in another order would meet.

    Raises:
        InputError: they do; names line and patients.
    """
    if "patient_id" in table and "patient_id" in found:
        theirs, ours = found["patient_id"], table["patient_id"]
        other = (theirs != "") & (ours != "") & (theirs != ours) & theirs.isin(set(ours))
        row = int(other.to_numpy().argmax())
        why = (
            f"{ours.iloc[row]!r} in the scores. If ids are row numbers of tables in another order, "
            "give both tables id and scan; if they name patients in two ways, leave the column out "
            "of the labels"
        )
        refuse(labels, found, other, why, "patient_id")


def _patients(
    labels: Path,
    table: pd.DataFrame,
    found: pd.DataFrame,
    given: "pd.Series[str]",
    scan: "pd.Series[str]",
    scans: "pd.Series[str]",
) -> "pd.Series[str]":
    """Whose each nodule is, by one table's name for all rows of a scan and of a scores' patient.

    A spreadsheet's merged cells are empty below the first: its patient must not be split in two.

    Args:
        labels: the table of labels, for the message.
        table: the scored nodules that have a row in it.
        found: those rows.
        given: the patients of all rows of it: one that no nodule meets may name its scan's.
        scan: of each nodule.
        scans: of each of all rows; "" where the tables do not meet by it.

    Raises:
        InputError: a scan, or a patient of the scores, would have two names.
    """
    theirs = found["patient_id"]
    ours = table.get("patient_id", pd.Series("", table.index))
    ours = _filled(ours, scan, ours, scan)
    theirs = _filled(theirs, scan, theirs, scan)
    theirs = _filled(theirs, scan, given, scans)
    theirs = _filled(theirs, ours, theirs, ours)
    patient = theirs.where(theirs != "", ours)
    for of, what in ((scan, "scan"), (ours, "patient of the scores")):
        known = (of != "") & (patient != "")
        first = patient[known].groupby(of[known]).first()
        other = known & (patient != of.map(first))
        if other.any():
            row = int(other.to_numpy().argmax())
            here = of.iloc[row]
            raise InputError(
                f"{labels}: line {found['line'].iloc[row]}: {what} {here!r} is of patient "
                f"{patient.iloc[row]!r} here, but of {first[here]!r} in another row; name each "
                "patient in one way, or leave the column out of the labels"
            )
    return patient


def _filled(
    patient: "pd.Series[str]",
    of: "pd.Series[str]",
    others: "pd.Series[str]",
    others_of: "pd.Series[str]",
) -> "pd.Series[str]":
    """Patients, where empty the only one of the `others` of the same scan (or the like)."""
    known = pd.DataFrame({"of": others_of, "patient": others}).drop_duplicates()
    known = known[(known["of"] != "") & (known["patient"] != "")]
    known = known.drop_duplicates("of", keep=False)
    return patient.where(patient != "", of.map(known.set_index("of")["patient"]).fillna(""))


def _keys(table: pd.DataFrame, given: pd.DataFrame, named: set[str], has: set[str]) -> list[str]:
    """The columns by which scores and labels meet; none where they cannot.

    By scan and id where both tables have them, by id alone where one names no scan and, where ids
    repeat, by patient and id. A table without ids is met by scan and place, or by scan alone.
    """
    sides = (table, given)
    scans = "scan" in named & has and all((side["scan"] != "").any() for side in sides)
    if "id" in has:
        if scans:
            return ["scan", "id"]
        again = any(side["id"].duplicated().any() for side in sides)
        return ["patient_id", "id"] if again and "patient_id" in named & has else ["id"]
    if not scans:
        return []
    placed = all(
        set(WORLD) <= set(side) and side[list(WORLD)].notna().to_numpy().all() for side in sides
    )
    return ["scan", *WORLD] if placed else ["scan"]


def _index(table: pd.DataFrame, keys: list[str], spelled: Callable[[str], str]) -> pd.MultiIndex:
    """The rows' keys; places to 0.001 mm, as `score` writes them."""
    side = table[keys].copy()
    if "scan" in side:
        side["scan"] = side["scan"].map(spelled)
    for name in set(WORLD) & set(keys):
        side[name] = side[name].astype(float).round(3)
    return pd.MultiIndex.from_frame(side)
