"""The user's own scans, and the places in them that are known without a table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.ct import find
from nodulebook.ct.dicom import read_dicom_series
from nodulebook.ct.dicom_files import TWO_PATIENTS
from nodulebook.ct.find import FoundFolder, FoundScan
from nodulebook.ct.folder import listed
from nodulebook.ct.volume import Geometry, Volume
from nodulebook.data.annotations import Scan, patients_by_series, read_scans
from nodulebook.data.cohort import lesions_of, nodule_table, read_nodules
from nodulebook.data.patients import lidc_patient
from nodulebook.patches.mask import reference_mask
from nodulebook.patches.sources.placement import first_slice, nodule_world, placement
from study.own_scans.positions import WORLD, stem


@dataclass(frozen=True, eq=False)
class Folder(FoundFolder):
    """What was found in the user's folder; `patient_id` of a scan is that of LIDC-IDRI, or ""."""

    given_patients: Mapping[str, str]  # scan -> PatientID, as its files have it

    def one(self, name: str) -> FoundScan:
        """A scan by its name or its patient's, as written or at the end of a path (`stem`); by ""
        the only scan in the folder.

        Raises:
            InputError: there is no such scan, or there are several.
        """
        if not name or name in self.scans:
            return super().one(name)
        ours = lidc_patient("", name)
        scans = [
            scan
            for key, scan in self.scans.items()
            if self.given_patients[key] == name or (ours and ours == scan.patient_id)
        ]
        if not scans:
            last = stem(name)
            return self.one(last) if last != name and last in self.scans else super().one(name)
        if len(scans) > 1:
            raise InputError(
                f"patient {name!r} has {len(scans)} scans: say which in the column scan "
                f"({listed(scans)})"
            )
        return scans[0]


def find_scans(path: Path) -> Folder:
    """The CT scans of a folder and the folders in it, in any format and layout.

    What each folder holds is remembered under `data/patches/`, so that a second look is quick.

    Raises:
        InputError: there is no such folder, or no CT scan in it.
    """
    found = find.find_scans(path, paths.patch_stores() / ".own-scans" / "folders.json")
    scans = {
        name: replace(scan, patient_id=_lidc_patient(scan)) for name, scan in found.scans.items()
    }
    given = {name: scan.patient_id for name, scan in found.scans.items()}
    return Folder(found.path, scans, found.others, found.damaged, given)


def _lidc_patient(scan: FoundScan) -> str:
    """The patient of LIDC-IDRI that a scan is of, or "".

    PatientID and names of files come first, then the folders, the nearest first. A folder counts
    only with four digits, as the collection's patients have, or the series: `LIDC-IDRI-888` or
    `LIDC-IDRI_2` holds a copy of the collection.
    """
    if scan.patient_id == TWO_PATIENTS:
        return lidc_patient(scan.name)
    files = (*scan.dicom, *scan.images)
    named = lidc_patient(scan.name, scan.patient_id, *(file.name for file in files))
    if named:
        return named
    nearest = {_patient_of_folder(file) for file in {file.parent for file in files}}
    return nearest.pop() if len(nearest) == 1 else ""


def _patient_of_folder(path: Path) -> str:
    """The patient that the innermost folder of a path names, or ""."""
    for part in reversed(path.parts):
        texts = re.findall(r"(?i)lidc[-_ .]*idri[-_ .]*\d{4}(?!\d)|[0-9.]{20,}", part)
        if texts and (patient := lidc_patient("", *texts)):
            return patient
    return ""


# ------------------------------------------------------------------------------ places in a scan


def pixel_world(
    scan: FoundScan, volume: Volume, pixels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """World positions (n, 3), mm, of pixels (n, 3): column and row from 0, and number of the slice.

    The number is the InstanceNumber of a DICOM file; in other files slices count from 1, in the
    order in which they are stored. NaN where the scan has no slice of that number.

    Raises:
        InputError: the DICOM files do not give each slice a number of its own.
    """
    index = pixels.copy()
    index[:, 2] -= 1
    if scan.dicom:
        # Of the stack only: a scout or a projection may have the number of a slice.
        slices = read_dicom_series(scan.dicom, scan.name).slices
        order = {one.number: k for k, one in enumerate(slices)}
        if len(order) < len(slices) or -1 in order:
            raise InputError(
                f"scan {scan.name}: InstanceNumber does not give each slice a number of its own, "
                f"so slice {pixels[0, 2]:g} is not known; give the positions in mm"
            )
        index[:, 2] = [order.get(number, np.nan) for number in pixels[:, 2]]
    return volume.geometry.to_world(index)


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


def known_positions(folder: Folder, min_readers: int = 3) -> tuple[pd.DataFrame, dict[str, str]]:
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
    for name, here in nodules[nodules["series_uid"].isin(list(ours))].groupby("series_uid"):
        try:
            volume = ours[str(name)].open()
            worlds = _nodule_worlds(volume, annotated[str(name)], here)
        except InputError as error:
            left_out[str(name)] = str(error)
            continue
        for row, world in zip(here.to_dict("records"), worlds, strict=True):
            try:
                check_inside(volume.geometry, world)
            except InputError as error:
                left_out[str(row["nodule_id"])] = str(error)
                continue
            rows.append(
                {"id": row["nodule_id"], "scan": name, "patient_id": row["patient_id"]}
                | dict(zip(WORLD, world.round(2).tolist(), strict=True))
                | {key: row[key] for key in ("readers", "malignancy_mean", "diameter_mm")}
            )
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(
            f"{folder.path}: no nodule marked by {min_readers} readers or more is in its "
            f"{len(ours)} scans of LIDC-IDRI" + (f" ({why})" if why else "")
        )
    return pd.DataFrame(rows).sort_values("id", ignore_index=True), left_out


def _nodule_worlds(volume: Volume, scan: Scan, nodules: pd.DataFrame) -> list[NDArray[np.float64]]:
    """Centroids, xyz in mm in the world, of a scan's nodules."""
    first = first_slice(volume, scan)
    lesions = list(lesions_of(scan, nodules.to_dict("records")))
    outlined = [(reference_mask(scan, one.readings), one.centre_xyz) for one in lesions]
    flips = placement(volume, scan, first, outlined)
    return [nodule_world(volume, scan, first, centre, flips) for _, centre in outlined]
