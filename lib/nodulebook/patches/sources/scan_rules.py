"""The paper's rules for scans (its 3.1.1), checked on the scans' own files.

Slices thicker than a limit, unevenly spaced slices, and missing slices reject a scan.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom import read_dicom_series
from nodulebook.ct.find import FoundScan, open_image
from nodulebook.ct.spacing import judge
from nodulebook.data.annotations import Scan, read_scans
from nodulebook.data.cohort import MAX_SLICE_THICKNESS_MM
from nodulebook.patches.sources import scans as scan_source

COLUMNS = [
    "series_uid",
    "patient_id",
    "slices",
    "slice_thickness_mm",
    "slice_spacing_mm",
    "largest_deviation_mm",
    "missing",
    "verdict",
]


def check_scans(
    source: str, data: Path | None = None, max_thickness_mm: float = MAX_SLICE_THICKNESS_MM
) -> pd.DataFrame:
    """Check every annotated scan in the user's folder; the paper's limit is 3 mm, LUNA16's 2.5.

    A DICOM series says its slices' thickness and places. An `.mhd` file has only a number of slices
    and one spacing: there, thickness and places come from the annotation database, and slices are
    missing where the file has fewer. So does the thickness of a series that says no readable one.

    Returns:
        Columns `COLUMNS`, one row per scan; `missing` counts slices, `verdict` is "kept" or
        says why not.

    Raises:
        InputError: the folder is missing or holds no annotated scan.
    """
    annotated = {scan.series_uid: scan for scan in read_scans()}
    found = scan_source.find(source, data, annotated)
    if not found:
        raise InputError(
            f"{scan_source.data_folder(data)}: no scan of LIDC-IDRI for the source {source} is here"
        )
    rows = []
    for uid, scan in found.items():
        try:
            row = _check(scan, annotated[uid], max_thickness_mm)
        except InputError as error:
            row = (0, math.nan, math.nan, math.nan, 0, f"unreadable: {error}")
        rows.append((uid, annotated[uid].patient_id, *row))
    return pd.DataFrame(rows, columns=COLUMNS)


def _check(
    found: FoundScan, scan: Scan, max_thickness_mm: float
) -> tuple[int, float, float, float, int, str]:
    known = np.unique(scan.slice_z_mm)
    if found.dicom:
        series = read_dicom_series(found.dicom, scan.series_uid)
        positions = series.positions_mm
        said = (one.thickness_mm for one in series.slices if math.isfinite(one.thickness_mm))
        thickness = max(said, default=scan.slice_thickness_mm)
    else:
        geometry = open_image(found.images[0]).geometry
        positions = known if geometry.size_xyz[2] == len(known) else geometry.slices_mm
        thickness = scan.slice_thickness_mm
    check, missing, verdict = judge(positions, thickness, len(known), max_thickness_mm)
    return (
        check.slices,
        thickness,
        round(check.spacing_mm, 4),
        round(check.largest_deviation_mm, 4),
        missing,
        verdict,
    )
