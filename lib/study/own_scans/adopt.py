"""A user's scans and labels as a cohort to train on: `nodulebook adopt`."""

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


def adopt(
    folder: Folder, positions: pd.DataFrame, to: Path, report: Report = print
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write nodules.csv, folds.csv and cubes.npy of the positions that have a label.

    Folds are dealt by patient: by the column patient_id, else by the scan's patient or name.

    Args:
        folder: the scans, or cubes.
        positions: from `positions.read_positions`.
        to: the folder to write.
        report: gets a line where scans are taken for patients.

    Returns:
        The folds, and what was left out: line, id, scan, reason.

    Raises:
        InputError: no position has a label, or there are too few patients or nodules for ten folds.
    """
    check_target(to, {NODULES, FOLDS, CUBES, "patches", "runs"})
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
    lost = table.loc[reason != "", ["line", "id", "scan"]].assign(reason=reason[reason != ""])
    return folds, lost
