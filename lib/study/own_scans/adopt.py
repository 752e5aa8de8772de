"""A user's scans and labels as a cohort to train on: `nodulebook adopt`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, write_csv
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.folds import make_folds
from nodulebook.data.patients import check_spelling
from nodulebook.patches.sources.own import CUBES
from study.own_scans.networks import Networks, Report
from study.own_scans.page import check_target
from study.own_scans.positions import labels_of
from study.own_scans.scans import Folder
from study.own_scans.scoring import by_scan, patches_of

NODULES, FOLDS = "nodules.csv", "folds.csv"


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

    Folds are dealt by patient: by the column patient_id, else by the scan's patient or name.

    Args:
        folder: the scans, or cubes.
        positions: from `positions.read_positions`.
        to: the folder to write. An older cohort of this kind is replaced, unless it has runs.
        report: gets a line where scans are taken for patients.
        positions_csv: the file of the positions, which must not lie in `to`.

    Returns:
        The folds, and what was left out: line, id, scan, reason.

    Raises:
        InputError: no position has a label, or there are too few patients or nodules for ten folds;
            or `to` holds what must not be lost: scans, positions, trained runs, other files.
    """
    again = _check_place(to, {"--positions": positions_csv, "--scans": folder.path})
    table = positions.assign(label=labels_of(positions)).dropna(subset="label")
    table = table.reset_index(drop=True)
    if table.empty:
        raise InputError("no position has a label: a column label or rating is needed")
    reason = np.full(len(table), "", object)
    anything = Networks(lambda fold: None, (0,), {})  # type: ignore[arg-type,return-value]
    rows, cubes = [], []
    unnamed: set[str] = set()
    for scan, here in by_scan(table, folder, anything, reason):
        whose = scan.patient_id or folder.given_patients[scan.name] or scan.name
        for patch in patches_of(scan, table.loc[here], anything, reason):
            given = table.loc[patch.row].to_dict()
            patient = given.get("patient_id") or whose
            unnamed |= {patient} & {scan.name}
            rows.append(
                {"nodule_id": f"{scan.name} {given['id']}"}
                | {"patient_id": patient, "label": int(given["label"])}
                | {"diameter_mm": given.get("diameter_mm", patch.diameter_mm)}
            )
            cubes.append(patch.volume_hu)
    nodules = pd.DataFrame(rows, columns=["nodule_id", "patient_id", "label", "diameter_mm"])
    check_spelling(folder.path, nodules["patient_id"])
    folds = make_folds(nodules, N_FOLDS)
    if unnamed:
        report(
            f"{len(unnamed)} scans name no patient, and each counts as one: where a patient has "
            "several, add the column patient_id"
        )
    if nodules["diameter_mm"].isna().any():
        nodules = nodules.drop(columns="diameter_mm")
    with folder_written_aside(to.expanduser().resolve()) as aside:
        write_csv(nodules, aside / NODULES)
        write_csv(folds, aside / FOLDS)
        np.save(aside / CUBES, np.array(cubes, np.int16))
    if again:
        report(f"{to}: the cohort there is replaced, and its patches removed: training cuts anew")
    lost = table.loc[reason != "", ["line", "id", "scan"]].assign(reason=reason[reason != ""])
    return folds, lost


def _check_place(to: Path, given: Mapping[str, Path | None]) -> bool:
    """Refuse a folder that holds what must not be lost: it is replaced as a whole.

    Args:
        to: the folder.
        given: what the cohort is made from, by the option that names it.

    Returns:
        Whether an older cohort is there.

    Raises:
        InputError: what is given lies in it; or it holds runs or files that `adopt` did not write.
    """
    place, elsewhere = to.expanduser().resolve(), "name a new folder with --to"
    for option, path in given.items():
        if path is not None and path.expanduser().resolve().is_relative_to(place):
            raise InputError(f"{option} {path}: lies in {to}, which is replaced: {elsewhere}")
    check_target(to, {NODULES, FOLDS, CUBES, "patches", "runs"})
    runs = place / "runs"
    for path in runs.rglob("*") if runs.is_dir() else runs.parent.glob(runs.name):
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
