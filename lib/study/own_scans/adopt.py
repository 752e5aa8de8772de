"""A user's scans and labels as a cohort to train on: `nodulebook adopt`."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, write_csv
from nodulebook.core.settings import N_FOLDS
from nodulebook.ct.dicom_files import TWO_PATIENTS
from nodulebook.ct.folder import listed
from nodulebook.data.folds import make_folds
from nodulebook.data.patients import check_spelling
from nodulebook.model.parts import CLASSES
from nodulebook.patches.sources.own import CUBES
from study.own_scans.evaluate import FEWEST
from study.own_scans.labels import by_rating, labels_of
from study.own_scans.networks import Networks, Report, Scans, told_patient
from study.own_scans.page import LEFT_OUT, check_target
from study.own_scans.scans import Folder
from study.own_scans.scoring import ABSENT, by_scan, patches_of, reasons

NODULES, FOLDS = "nodules.csv", "folds.csv"
SEVERAL = "its scan's files name several patients: say whose it is in the column patient_id"

COLUMNS = ("nodule_id", "patient_id", "label", "diameter_mm")
"""Of `nodules.csv`; the last is left out where nodules without a diameter remain."""


def adopt(
    folder: Folder,
    positions: pd.DataFrame,
    to: Path,
    report: Report = print,
    positions_csv: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write nodules.csv, folds.csv and cubes.npy of the positions that have a label.

    And left_out.csv, where such a position could not be used.

    Folds are dealt by patient, one per scan: that of the column patient_id, in whichever row of the
    scan, else the one that the scan's files name, else the scan's name.

    Args:
        folder: the scans, or cubes.
        positions: from `positions.read_positions`.
        to: the folder to write. An older cohort of this kind is replaced, unless it has runs.
        report: gets a line on each thing that may not be as the user thinks: whose scans are,
            diameters, rare labels, odd patches.
        positions_csv: the file of the positions, which must not lie in `to`.

    Returns:
        The folds, and what was left out: line, id, scan, reason.

    Raises:
        InputError: no position has a label; there are too few patients, or nodules of a label, for
            ten folds; a scan is given to two patients; or `to` holds what must not be lost: scans,
            positions, trained runs, other files.
    """
    again = _check_place(to, {"--positions": positions_csv, "--scans": folder.path})
    name = str(positions_csv or "positions")
    table = positions.assign(label=labels_of(positions)).reset_index(drop=True)
    if table["label"].isna().all():
        raise InputError("no position has a label: a column label or rating is needed")
    reason = np.full(len(table), "", object)
    # No network yet: no spacing of slices is wider than it knows.
    anything = Networks(lambda fold: None, (0,), {}, max_spacing_mm=np.inf)  # type: ignore[arg-type,return-value]
    # Of all rows: also one without a label says whose its scan is.
    scans = list(by_scan(table, folder, anything, reason, name))
    if len(absent := table["scan"][reason == ABSENT]):
        report(f"{folder.path} holds {listed(folder.scans.values())}, but no {absent.iloc[0]}")
    patients = _patients(name, table, scans, folder.given_patients, report)
    planned = _planned(table, scans, patients, reason)
    _check_once(name, planned["nodule_id"], table["line"])
    check_spelling(folder.path, planned["patient_id"])
    _dealt(planned, _lost(table, reason))  # too few are refused before any scan is read
    patches = {
        patch.row: patch
        for scan, rows in scans
        for patch in patches_of(
            scan, table.loc[planned.index.intersection(pd.Index(rows))], anything, reason
        )
    }
    lost = _lost(table, reason)
    nodules = planned.loc[sorted(patches)]
    folds = _dealt(nodules, lost)
    nodules = nodules.assign(
        diameter_mm=table.get("diameter_mm", pd.Series(np.nan, table.index)),
        automatic=pd.Series({row: patch.diameter_mm for row, patch in patches.items()}),
        line=table["line"],
    )
    nodules = _with_ruler(name, nodules, report)
    with folder_written_aside(to.expanduser().resolve()) as aside:
        write_csv(nodules, aside / NODULES)
        write_csv(folds, aside / FOLDS)
        np.save(aside / CUBES, np.array([patches[row].volume_hu for row in nodules.index]))
        if len(lost):
            write_csv(lost, aside / LEFT_OUT)
    if again:
        report(
            f"{to}: the cohort there is replaced; patches that were cut for training are removed"
        )
    if rated := by_rating(positions):
        report(rated)
    if without := int(table["label"].isna().sum()):
        report(f"positions without a label, which are not in the cohort: {without}")
    for line in _few(folds):
        report(line)
    odd = [(table["line"][row], one) for row in nodules.index for one in patches[row].warnings]
    for line in reasons(pd.DataFrame(odd, columns=["line", "reason"])):
        report(f"warning: {line}")
    return folds, lost


def _planned(
    table: pd.DataFrame,
    scans: Scans,
    patients: Mapping[str, str],
    reason: NDArray[np.object_],
) -> pd.DataFrame:
    """The nodules, by the positions that have a label and a scan: nodule_id, patient_id, label.

    Where the patient of a scan is "", `SEVERAL` becomes the reason of its rows.
    """
    nodule_id = pd.Series("", table.index)
    patient_id = pd.Series("", table.index)
    for scan, rows in scans:
        nodule_id[rows] = scan.name + " " + table.loc[rows, "id"]
        patient_id[rows] = patients[scan.name]
        if not patients[scan.name]:
            reason[rows] = SEVERAL
    columns = {"nodule_id": nodule_id, "patient_id": patient_id, "label": table["label"]}
    planned: pd.DataFrame = pd.DataFrame(columns)[table["label"].notna() & (reason == "")]
    return planned.astype({"label": int})


def _lost(table: pd.DataFrame, reason: NDArray[np.object_]) -> pd.DataFrame:
    """The positions with a label that are left out: line, id, scan, reason."""
    rows = (reason != "") & table["label"].notna()
    lost: pd.DataFrame = table.loc[rows, ["line", "id", "scan"]].assign(reason=reason[rows])
    return lost.reset_index(drop=True)


def _dealt(nodules: pd.DataFrame, lost: pd.DataFrame) -> pd.DataFrame:
    """The folds of the nodules; each fold's network has both labels to train on.

    Args:
        nodules: nodule_id, patient_id, label.
        lost: the positions that were left out, for the message.

    Raises:
        InputError: there is no nodule, or there are too few of a label or too few patients.
    """
    but = f"; left out: {'; '.join(reasons(lost))}" if len(lost) else ""
    if nodules.empty:
        raise InputError(f"no position with a label can be used{but}")
    patients = nodules["patient_id"].unique()
    counts = nodules["label"].value_counts().reindex([0, 1], fill_value=0)
    if counts.min() == 0:
        raise InputError(
            f"all {len(nodules)} nodules are {CLASSES[counts.argmax()]}: training needs benign and "
            f"malignant ones{but}"
        )
    if len(patients) < N_FOLDS:
        raise InputError(
            f"too few patients for {N_FOLDS} folds, each of which holds others out: "
            f"{len(patients)} ({listed(patients)}). Whose a scan is, the column patient_id says, "
            f"else its files' PatientID; where anonymised files share one, give the column{but}"
        )
    if counts.max() < N_FOLDS:
        raise InputError(
            f"{counts[0]} nodules are benign and {counts[1]} malignant, but {N_FOLDS} folds need "
            f"as many nodules of one label or more{but}"
        )
    with warnings.catch_warnings():  # that a label is rare; `_few` says it
        warnings.filterwarnings("ignore", "The least populated class")
        folds = make_folds(nodules, N_FOLDS)
    for label, name in enumerate(CLASSES):
        rare = folds[folds["label"] == label]
        if rare["fold"].nunique() < 2:
            raise InputError(
                f"all {name} nodules are held out in one fold (patients: "
                f"{listed(rare['patient_id'].unique())}), whose network would train on none: "
                f"{name} nodules of further patients are needed{but}"
            )
    return folds


def _few(folds: pd.DataFrame) -> list[str]:
    """What cannot be judged for want of nodules of a label: a line for each such label."""
    lines = []
    for label, name in enumerate(CLASSES):
        rare = folds[folds["label"] == label]
        if without := N_FOLDS - rare["fold"].nunique():
            measures = f"; with fewer than {FEWEST}, evaluate computes no AUC"
            lines.append(
                f"only {len(rare)} nodules are {name}, and {without} of {N_FOLDS} folds test none: "
                f"judge all folds together{measures if len(rare) < FEWEST else ''}"
            )
    return lines


def _patients(
    name: str,
    table: pd.DataFrame,
    scans: Scans,
    of_files: Mapping[str, str],
    report: Report,
) -> dict[str, str]:
    """Whose each scan is, so that no fold trains on a patient whom it holds out.

    A spreadsheet names the patient in the first row of a scan only, or of one of two scans; what
    the files say tells which scans are one patient's.

    Args:
        name: the table, for messages.
        table: the positions.
        scans: scans and the rows of their positions.
        of_files: scan -> PatientID, as its files have it.
        report: gets a line where scans are taken for patients, or files contradict the table.

    Returns:
        Scan -> patient; "" where the table names none and the files several.

    Raises:
        InputError: the table names two patients of one scan; or none of a scan whose files name the
            patient of scans that the table gives to several.
    """
    told = {scan.name: told_patient(name, scan.name, table.loc[rows]) for scan, rows in scans}
    filed = {scan.name: scan.patient_id or of_files[scan.name] for scan, _ in scans}
    known: dict[str, list[str]] = {}  # patients of the table by what the files call them
    for scan_name, patient in told.items():
        whose = filed[scan_name]
        if (
            patient
            and whose not in ("", TWO_PATIENTS)
            and patient not in known.setdefault(whose, [])
        ):
            known[whose].append(patient)
    patients = dict(told)
    unnamed = 0
    for scan, rows in scans:
        whose = filed[scan.name]
        theirs = known.get(whose, [whose])
        if told[scan.name] or whose == TWO_PATIENTS:
            continue
        if len(theirs) > 1:
            raise InputError(
                f"{name}: line {table['line'].loc[rows[0]]}: patient_id is empty, and the files of "
                f"the scan name {whose!r}, as do those of {listed(theirs)}: fill it in"
            )
        patients[scan.name] = theirs[0] or scan.name
        unnamed += not whose
    if unnamed:
        report(
            f"{unnamed} scans name no patient, and each counts as one: where a patient has "
            "several, give the column patient_id"
        )
    if split := [whose for whose, theirs in known.items() if len(theirs) > 1]:
        report(
            f"files name one patient ({listed(split)}) where the table has several; the table is "
            "followed"
        )
    return patients


def _with_ruler(name: str, nodules: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Fill in what the table has no diameter of, so that one empty cell does not cost the ruler.

    Args:
        name: the table, for messages.
        nodules: also with diameter_mm of the table, the automatic ruler's, and line.
        report: gets a line where a diameter is not the table's, or there is none.

    Returns:
        The columns of `COLUMNS`; no diameter_mm where a nodule's is not known, which no reader of
        the cohort allows.
    """
    gaps = nodules["diameter_mm"].isna()
    diameter = nodules["diameter_mm"].fillna(nodules["automatic"])
    if gaps.all():
        report(f"{name} has no diameter_mm: the automatic ruler's diameters are taken")
    elif gaps.any():
        report(
            f"{name}: diameter_mm is empty in {_lines(nodules['line'][gaps])}: the automatic "
            "ruler's is taken there"
        )
    if (none := diameter.isna()).any():
        report(
            f"{name}: neither diameter_mm nor the automatic ruler gives a diameter in "
            f"{_lines(nodules['line'][none])}, so {NODULES} has none and evaluate no ruler: fill "
            "them in, or leave these positions out"
        )
        return nodules[list(COLUMNS[:-1])]
    return nodules.assign(diameter_mm=diameter)[list(COLUMNS)]


def _lines(lines: Iterable[int], most: int = 10) -> str:
    """As `lines 3, 7`; the first ones, and how many more."""
    every = [str(line) for line in lines]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"line{'s' * (len(every) > 1)} {', '.join(every[:most])}{more}"


def _check_once(name: str, nodules: "pd.Series[str]", line: "pd.Series[int]") -> None:
    """Refuse two positions of one name: a scan may be given by its own name and its patient's.

    Raises:
        InputError: there are two; names their lines.
    """
    twice = nodules[nodules.duplicated(keep=False)]
    if len(twice):
        one, other = line[twice.index[twice == twice.iloc[0]]].iloc[:2]
        raise InputError(
            f"{name}: line {other}: nodule {twice.iloc[0]!r} (scan and id) is that of line {one}"
        )


def _check_place(to: Path, given: Mapping[str, Path | None]) -> bool:
    """Refuse a folder that holds what must not be lost: it is replaced as a whole.

    Args:
        to: the folder.
        given: what the cohort is made from, by the option that names it.

    Returns:
        Whether an older cohort is there.

    Raises:
        InputError: what is given is inside it, or it holds runs or files not written by `adopt`.
    """
    place, elsewhere = to.expanduser().resolve(), "name a new folder with --to"
    check_target(to, {NODULES, FOLDS, CUBES, LEFT_OUT, "patches", "runs"}, given)
    runs = place / "runs"
    for path in runs.rglob("[!.]*") if runs.is_dir() else runs.parent.glob(runs.name):
        within = path.relative_to(place).parts
        if path.is_file() and ".locks" not in within:  # which also a failed start leaves
            raise InputError(
                f"{to}: holds {'/'.join(within[:2])}, trained on the cohort there: {elsewhere}"
            )
    for path in sorted((place / "patches").glob("[!.]*")):
        if not (path / "store.json").is_file() and not path.name.endswith("-left-out.csv"):
            raise InputError(
                f"{to}: holds patches/{path.name}, which the book did not write: {elsewhere}"
            )
    there = [name for name in (NODULES, FOLDS, CUBES) if (place / name).exists()]
    if there and (len(there) < 3 or _header(place / NODULES) not in (COLUMNS, COLUMNS[:-1])):
        raise InputError(
            f"{to}: holds {', '.join(there)}, but not as adopt writes a cohort (columns "
            f"{', '.join(COLUMNS)}), so they may be your own: {elsewhere}"
        )
    return bool(there)


def _header(path: Path) -> tuple[str, ...]:
    """The names in the first line of a CSV file that the project wrote."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return tuple(stream.readline().strip().split(","))
