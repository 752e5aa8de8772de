"""The user's own scans, and the positions in them that are to be looked at.

A position is a point in the world, in mm, as DICOM and LUNA16 have it (LPS: x to the patient's
left, y to the back, z to the head). 3D Slicer shows RAS: there x and y have the other sign.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.ct import find
from nodulebook.ct.find import FoundFolder
from nodulebook.ct.volume import Geometry, Volume
from nodulebook.data.annotations import Scan, patients_by_series, read_scans
from nodulebook.data.cohort import cluster_readings, nodule_table, read_nodules
from nodulebook.data.patients import lidc_patient
from nodulebook.patches.mask import reference_mask
from nodulebook.patches.sources.placement import first_slice, nodule_world, placement

WORLD = ("x_mm", "y_mm", "z_mm")

KNOWN_COLUMNS = {
    "id": ("id",),
    "scan": ("scan", "seriesuid"),
    "x_mm": ("x_mm", "coordX"),
    "y_mm": ("y_mm", "coordY"),
    "z_mm": ("z_mm", "coordZ"),
}
"""Columns of a table of positions, and how they may be called: the second name is LUNA16's."""

# ----------------------------------------------------------------------------------- the scans


def find_scans(path: Path) -> FoundFolder:
    """The CT scans of a folder and the folders in it, in any format and layout.

    `patient_id` of each is the patient of LIDC-IDRI, or "" where that is not sure (`lidc_patient`).
    What each folder holds is remembered under `data/patches/`, so that a second look is quick.

    Raises:
        InputError: there is no such folder, or no CT scan in it.
    """
    found = find.find_scans(path, paths.patch_stores() / ".own-scans" / "folders.json")
    scans = {
        name: replace(
            scan,
            patient_id=lidc_patient(
                name, scan.patient_id, *(str(file) for file in (*scan.dicom, *scan.images))
            ),
        )
        for name, scan in found.scans.items()
    }
    return replace(found, scans=scans)


# ------------------------------------------------------------------------------- the positions


def read_positions(path: Path) -> pd.DataFrame:
    """Read a table of positions: a CSV file, a row a position.

    Columns: x_mm, y_mm, z_mm in the world (LPS); scan, which may be left out where the folder
    holds one scan; id, the rows' number where it is left out. LUNA16's own names (seriesuid,
    coordX, coordY, coordZ) do as well. Further columns are kept as text.

    Returns:
        Columns line (in the file), id, scan ("" where not said), x_mm, y_mm, z_mm, and the others.

    Raises:
        InputError: no such file, not CSV, no row, a column missing or there twice, or a wrong
            cell; the message names line and value.
    """
    header, rows = _csv_rows(path)
    names = _named(path, header)
    records: list[dict[str, object]] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{path}: line {line}: {len(cells)} cells, but the first line names "
                f"{len(header)} columns"
            )
        record: dict[str, object] = dict(zip(names, (cell.strip() for cell in cells), strict=True))
        for name in WORLD:
            record[name] = _number(path, line, name, str(record[name]))
        scan = str(record.get("scan", ""))
        record["scan"] = scan[:-4] if scan.lower().endswith(".mhd") else scan
        record["id"] = record.get("id", str(len(records) + 1))
        if not record["id"]:
            raise InputError(f"{path}: line {line}: id is empty; name it, or leave the column out")
        records.append(record | {"line": line})
    if not records:
        raise InputError(f"{path}: has no position: a row for each, below the columns' names")
    table = pd.DataFrame(records)
    twice = table[table["id"].duplicated(keep=False)]
    if len(twice):
        one, other = twice[twice["id"] == twice["id"].iloc[0]]["line"].iloc[:2]
        raise InputError(f"{path}: line {other}: id {twice['id'].iloc[0]!r} is that of line {one}")
    first = ["line", "id", "scan", *WORLD]
    return table[first + [name for name in table.columns if name not in first]]


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The first line's cells, and the others that are not empty, with their line numbers."""
    try:
        with path.expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(c.strip() for c in row)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise InputError(f"{path}: is empty; the columns {', '.join(WORLD)} are needed")
    header = [cell.strip() for cell in rows[0][1]]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise InputError(f"{path}: its cells must be separated by commas")
    return header, rows[1:]


def _named(path: Path, header: Sequence[str]) -> list[str]:
    """The columns by our names."""
    ours = {called: name for name, several in KNOWN_COLUMNS.items() for called in several}
    names = [ours.get(cell, cell) for cell in header]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: column {twice[0] or '(without a name)'} is there twice")
    missing = [name for name in WORLD if name not in names]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing (there is {', '.join(header)}); "
            "needed are x_mm, y_mm, z_mm, or LUNA16's coordX, coordY, coordZ"
        )
    return names


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{path}: line {line}: {name} is {text!r}, but must be a number of mm, as -84.3"
        )
    return value


def check_inside(geometry: Geometry, world_xyz_mm: NDArray[np.float64]) -> None:
    """Refuse a position outside a scan; half a voxel beyond the outermost centres is inside.

    Raises:
        InputError: it lies outside; the message says where the scan lies.
    """
    if _inside(geometry, world_xyz_mm):
        return
    edges = [np.array([-0.5, n - 0.5]) for n in geometry.size_xyz]
    corners = geometry.to_world(np.stack(np.meshgrid(*edges), axis=-1)).reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = ", ".join(f"{n} {a:.1f} to {b:.1f}" for n, a, b in zip("xyz", low, high, strict=True))
    place = ", ".join(f"{value:.1f}" for value in world_xyz_mm)
    turned = _inside(geometry, world_xyz_mm * [-1, -1, 1])
    hint = " (with x and y negated it would not: RAS, as 3D Slicer shows it?)" if turned else ""
    raise InputError(f"{place} lies outside the scan, which spans {extent} mm{hint}")


def _inside(geometry: Geometry, world_xyz_mm: NDArray[np.float64]) -> bool:
    index = geometry.to_index(world_xyz_mm)
    return bool(((index >= -0.5) & (index <= np.array(geometry.size_xyz) - 0.5)).all())


# ------------------------------------------------------------- positions that the book knows of


def known_positions(
    folder: FoundFolder, min_readers: int = 3
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Where LIDC-IDRI's readers marked nodules in the scans of a folder.

    Args:
        folder: from `find_scans`.
        min_readers: by how many readers at least.

    Returns:
        A table of positions: id, scan, x_mm, y_mm, z_mm, and what is known of the nodule
        (readers, malignancy_mean, diameter_mm); and what was left out: scan or nodule -> reason.

    Raises:
        InputError: no scan of the folder is of LIDC-IDRI, or none has such a nodule in it.
    """
    series = patients_by_series()
    ours = {name: scan for name, scan in folder.scans.items() if name in series}
    if not ours:
        raise InputError(
            f"{folder.path}: none of its {len(folder.scans)} scans is of LIDC-IDRI, so nothing is "
            "known of nodules in them; write the positions yourself"
        )
    annotated = {scan.series_uid: scan for scan in read_scans(ours)}
    nodules = read_nodules()
    # Not in the table: those that LUNA16 left out, as of thick slices.
    beyond = [annotated[name] for name in ours if name not in set(nodules["series_uid"])]
    nodules = pd.concat([nodules, nodule_table(beyond)]) if beyond else nodules
    nodules = nodules[nodules["readers"] >= min_readers]
    rows: list[dict[str, object]] = []
    left_out: dict[str, str] = {}
    for name, scan in ours.items():
        here = nodules[nodules["series_uid"] == name]
        if here.empty:
            continue
        try:
            volume = scan.open()
            worlds = _nodule_worlds(volume, annotated[name], here)
        except InputError as error:
            left_out[name] = str(error)
            continue
        for row in here.itertuples():
            world = worlds[str(row.nodule_id)]
            try:
                check_inside(volume.geometry, world)
            except InputError as error:
                left_out[str(row.nodule_id)] = str(error)
                continue
            rows.append(
                {"id": row.nodule_id, "scan": name}
                | dict(zip(WORLD, world.round(2).tolist(), strict=True))
                | {
                    "readers": row.readers,
                    "malignancy_mean": row.malignancy_mean,
                    "diameter_mm": row.diameter_mm,
                }
            )
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(
            f"{folder.path}: no nodule marked by {min_readers} readers or more lies in its "
            f"{len(ours)} scans of LIDC-IDRI" + (f" ({why})" if why else "")
        )
    return pd.DataFrame(rows).sort_values("id", ignore_index=True), left_out


def _nodule_worlds(
    volume: Volume, scan: Scan, nodules: pd.DataFrame
) -> Mapping[str, NDArray[np.float64]]:
    """Centroids, xyz in mm in the world, of a scan's nodules by name."""
    first = first_slice(volume, scan)
    lesions = cluster_readings(scan)
    centres = {
        str(row.nodule_id): np.array(
            [row.centroid_x_px, row.centroid_y_px, row.centroid_z_mm], dtype=float
        )
        for row in nodules.itertuples()
    }
    masks = [reference_mask(scan, lesions[int(k)]) for k in nodules["cluster"]]
    flips = placement(volume, scan, first, list(zip(masks, centres.values(), strict=True)))
    return {
        name: nodule_world(volume, scan, first, centre, flips) for name, centre in centres.items()
    }
