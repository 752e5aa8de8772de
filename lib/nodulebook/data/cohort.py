"""LIDC-IDRI scans to LUNA16's 888, readings to lesions, ratings to labels (paper 3.1.1, 5)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv
from nodulebook.core.paths import NODULES_CSV, OWN_COHORT, SCANS_CSV
from nodulebook.data.annotations import CHARACTERISTICS, Reading, Scan, read_scans
from nodulebook.data.contours import reading_volume_centroid
from nodulebook.data.patients import check_spelling

MAX_SLICE_THICKNESS_MM = 2.5
"""LUNA16's limit. The paper says 3 mm, which would keep 1,014 scans, not 888."""

LUNA16_LEFT_OUT = frozenset(
    f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{end}"
    for end in (
        "156990013635454707781600846659",  # LIDC-IDRI-0085
        "696727502904070993160975844791",  # LIDC-IDRI-0107
        "410251741986998833890312367579",  # LIDC-IDRI-0146
        "245181799370098278918756923992",  # LIDC-IDRI-0267
        "110499927630654433643791451680",  # LIDC-IDRI-0418
        "526570782606728516388531252230",  # LIDC-IDRI-0514
        "331079701650130000691651987949",  # LIDC-IDRI-0572
        "329334252028672866365623335798",  # LIDC-IDRI-0672
        "220041426531925632952954881401",  # LIDC-IDRI-0979
    )
)
"""Nine series thin enough, but not among LUNA16's 888.

LUNA16 dropped scans with uneven spacing or missing slices. The slice positions in the annotation
database show that for three of the nine only (-0267, -0514, -0672), so they are listed, not found.
"""

REFERENCE_READERS = 3
"""LUNA16's reference standard: marked by at least three of the four readers."""

COLUMNS = {
    "nodule_id": "str",
    "patient_id": "str",
    "series_uid": "str",
    "cluster": "int",
    "readers": "int",
    "malignancy": "str",
    "malignancy_mean": "float",
    "diameter_mm": "float",
    "volume_mm3": "float",
    "centroid_x_px": "float",
    "centroid_y_px": "float",
    "centroid_z_mm": "float",
} | dict.fromkeys(CHARACTERISTICS, "str")
"""Columns of `data/nodules.csv`, one row per lesion.

`cluster` numbers a scan's lesions from 0; `readers` counts the readings in it (5 and more where
lesions are too close to be separated); `malignancy` and the characteristics list the ratings,
joined by `;` in the database's order; sizes and the centroid are means over the readings.
"""

CENTROID = ("centroid_x_px", "centroid_y_px", "centroid_z_mm")
LESION_COLUMNS = ("nodule_id", "cluster", "readers", *CENTROID)
"""What `lesions_of` reads of a row."""

SCAN_COLUMNS = {
    "patient_id": "str",
    "scan_number": "int",
    "series_uid": "str",
    "slice_thickness_mm": "float",
    "pixel_spacing_mm": "float",
    "slice_spacing_mm": "float",
    "slices": "int",
    "lesions": "int",
}
"""Columns of `data/scans.csv`, one row per scan, also scans without a lesion.

`slices` counts the scan's images; `lesions` counts its rows in `data/nodules.csv`.
"""


def luna16_scans() -> list[Scan]:
    """The 888 scans of LUNA16, chosen from the 1,018 of LIDC-IDRI."""
    return [
        scan
        for scan in read_scans()
        if scan.slice_thickness_mm <= MAX_SLICE_THICKNESS_MM
        and scan.series_uid not in LUNA16_LEFT_OUT
    ]


def _contour_points_ijk(scan: Scan, reading: Reading) -> NDArray[np.int64]:
    """All contour points, (n, 3): row, column and slice *index* (not mm)."""
    points_xy = np.concatenate([c.points_xy for c in reading.contours])
    z_mm = np.array([c.z_mm for c in reading.contours])
    index = np.abs(scan.slice_z_mm[:, None] - z_mm).argmin(axis=0)
    return np.column_stack(
        [points_xy[:, ::-1], np.repeat(index, [len(c.points_xy) for c in reading.contours])]
    )


def cluster_readings(scan: Scan) -> list[list[Reading]]:
    """Group a scan's readings into lesions, as pylidc's `cluster_annotations()` does.

    Two readings are joined where their contour points come within a tolerance of each other;
    a lesion is a connected component. The tolerance starts at the slice thickness (a number in
    mm that pylidc compares with distances in voxels) and shrinks by a tenth while a component
    has more than four readings and the tolerance is at least 0.1. Only pairs that can be
    within the tolerance are measured, which is what makes this fast.

    Returns:
        The lesions, ordered by mean slice index; readings in database order.
    """
    if not scan.readings:
        return []
    points = [_contour_points_ijk(scan, reading) for reading in scan.readings]
    tolerance = scan.slice_thickness_mm
    distance = _near_distances(points, tolerance)
    label = connected_components(distance <= tolerance)[1]
    while np.bincount(label).max() > 4 and tolerance * 0.9 >= 0.1:
        tolerance *= 0.9
        label = connected_components(distance <= tolerance)[1]
    height = np.array([p[:, 2].mean() for p in points])
    order = sorted(np.unique(label), key=lambda c: np.mean(height[label == c]))
    return [[scan.readings[i] for i in np.flatnonzero(label == c)] for c in order]


@dataclass(frozen=True, eq=False)
class Lesion:
    """A row of `data/nodules.csv` and what the annotations have of it."""

    row: dict[Any, Any]
    readings: list[Reading]
    centre_xyz: NDArray[np.float64]  # x and y in the scan's pixels, z in mm

    @property
    def name(self) -> str:
        """Its nodule_id."""
        return str(self.row["nodule_id"])


def lesions_of(scan: Scan, rows: Iterable[dict[Any, Any]]) -> Iterator[Lesion]:
    """The lesions of rows of `data/nodules.csv`, all of one scan.

    Raises:
        InputError: the scan has no such lesion, or one of another number of readers.
    """
    lesions = cluster_readings(scan)
    for row in rows:
        cluster, readers = int(row["cluster"]), row["readers"]
        if not 0 <= cluster < len(lesions) or len(lesions[cluster]) != readers:
            raise InputError(
                f"nodule {row['nodule_id']}: cluster {cluster} with {readers} readers is not what "
                "the annotations of its scan give; make the nodule table again"
            )
        centre_xyz = np.array([row[name] for name in CENTROID], dtype=float)
        yield Lesion(row, lesions[cluster], centre_xyz)


def lesions_by_scan(nodules: pd.DataFrame) -> Iterator[tuple[Scan, Lesion]]:
    """Each row's scan and lesion, those of one series together.

    Args:
        nodules: `LESION_COLUMNS` and series_uid; further columns are kept in `Lesion.row`.

    Raises:
        InputError: as `lesions_of`, or a series is not in the annotation database.
    """
    scans = {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}
    for series_uid, rows in nodules.groupby("series_uid", sort=False):
        scan = scans[str(series_uid)]
        for lesion in lesions_of(scan, rows.to_dict("records")):
            yield scan, lesion


def _near_distances(points: Sequence[NDArray[np.int64]], limit: float) -> NDArray[np.float64]:
    """Smallest distance between every two point sets; infinite where it is above `limit`."""
    low = np.array([p.min(axis=0) for p in points])
    high = np.array([p.max(axis=0) for p in points])
    gap = np.maximum(0.0, np.maximum(low[:, None] - high, low - high[:, None]))  # of their boxes
    near = np.triu((gap**2).sum(axis=2) <= limit**2, k=1)
    # Readers of one lesion nearly always share a point: then no distance need be measured.
    members = [set(p.view("V24").ravel().tolist()) for p in points]  # three int64: 24 bytes
    distance = np.full(near.shape, np.inf)
    np.fill_diagonal(distance, 0.0)
    for i, j in np.argwhere(near):
        if not members[i].isdisjoint(members[j]):
            nearest = 0.0
        else:
            to_i = cKDTree(points[i]).query(points[j], distance_upper_bound=limit * (1 + 1e-9))
            nearest = to_i[0].min()
        distance[i, j] = distance[j, i] = nearest
    return distance


def reading_diameter_mm(scan: Scan, reading: Reading) -> float:
    """The largest distance between two points of one contour, in its slice plane, mm.

    As pylidc's `Annotation.diameter`, but 0 where every contour is a single point.
    """
    starts = np.cumsum([0] + [len(c.points_xy) for c in reading.contours[:-1]])
    every_xy = np.concatenate([c.points_xy for c in reading.contours])
    box_xy = np.maximum.reduceat(every_xy, starts) - np.minimum.reduceat(every_xy, starts)
    diagonal = (box_xy**2).sum(axis=1)
    largest = 0  # squared, in pixels, as `diagonal`: exact integers
    for i in np.argsort(-diagonal):
        if diagonal[i] <= largest:  # no two points are further apart than their box's corners
            break
        x, y = reading.contours[i].points_xy.T
        squared = np.subtract.outer(x, x) ** 2 + np.subtract.outer(y, y) ** 2
        largest = max(largest, int(squared.max()))
    return float(np.sqrt(largest)) * scan.pixel_spacing_mm


def nodule_id(scan: Scan, cluster: int) -> str:
    """`LIDC-IDRI-0001-s1-n00`: patient, scan number, lesion in the order of `cluster_readings`."""
    return f"{scan.patient_id}-s{scan.scan_number}-n{cluster:02d}"


def nodule_table(scans: Sequence[Scan]) -> pd.DataFrame:
    """One row per lesion, with the columns of `COLUMNS`; sizes are means over its readings."""
    rows = []
    for scan in scans:
        for cluster, readings in enumerate(cluster_readings(scan)):
            volumes, centres = zip(
                *(reading_volume_centroid(scan, r) for r in readings), strict=True
            )
            centroid = np.mean(centres, axis=0)
            ratings = [r.malignancy for r in readings]
            rows.append(
                {
                    "nodule_id": nodule_id(scan, cluster),
                    "patient_id": scan.patient_id,
                    "series_uid": scan.series_uid,
                    "cluster": cluster,
                    "readers": len(readings),
                    "malignancy": _join(ratings),
                    "malignancy_mean": round(float(np.mean(ratings)), 4),
                    "diameter_mm": _mean([reading_diameter_mm(scan, r) for r in readings]),
                    "volume_mm3": _mean(volumes),
                    "centroid_x_px": round(float(centroid[0]), 2),
                    "centroid_y_px": round(float(centroid[1]), 2),
                    "centroid_z_mm": round(float(centroid[2]), 2),
                }
                | {
                    name: _join([r.characteristics[name] for r in readings])
                    for name in CHARACTERISTICS
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def scan_table(scans: Sequence[Scan], nodules: pd.DataFrame) -> pd.DataFrame:
    """One row per scan, with the columns of `SCAN_COLUMNS`; `nodules` are the scans' lesions."""
    lesions = nodules["series_uid"].value_counts()
    rows = [
        (
            scan.patient_id,
            scan.scan_number,
            scan.series_uid,
            scan.slice_thickness_mm,
            scan.pixel_spacing_mm,
            round(scan.slice_spacing_mm, 4),
            len(scan.slice_z_mm),
            int(lesions.get(scan.series_uid, 0)),
        )
        for scan in scans
    ]
    return pd.DataFrame(rows, columns=list(SCAN_COLUMNS))


def _join(ratings: Sequence[int]) -> str:
    return ";".join(str(rating) for rating in ratings)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)


def read_nodules() -> pd.DataFrame:
    """The committed table `data/nodules.csv`, or that of the user's cohort, checked.

    Raises:
        InputError: the table is missing, or a cell of it is wrong.
    """
    if OWN_COHORT is not None:
        return read_own_nodules(NODULES_CSV)
    return read_csv(NODULES_CSV, COLUMNS)


def read_own_nodules(path: Path) -> pd.DataFrame:
    """`nodules.csv` of a user's cohort, with the columns of `COLUMNS`.

    It has nodule_id, patient_id, and label (0 or 1) or rating (1 to 5), and may have diameter_mm.
    So that all rules hold, a label stands for a mean rating of 1 or 5, and each nodule counts as
    marked by `REFERENCE_READERS` readers; the other columns are not known and not used.

    Raises:
        InputError: the table is missing, a column is, or a cell is wrong.
    """
    known = {"nodule_id": "str", "patient_id": "str"}
    columns = read_csv(path, known).columns
    rated = "rating" if "rating" in columns else "label"
    diameter = {"diameter_mm": "float"} if "diameter_mm" in columns else {}
    table = read_csv(path, known | {rated: "float"} | diameter)
    rating = table[rated] if rated == "rating" else 1 + 4 * table[rated]
    check_spelling(path, table["patient_id"])
    allowed = rating.between(1, 5) if rated == "rating" else rating.isin([1, 5])
    bad = ~allowed | table["nodule_id"].duplicated()
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise InputError(
            f"{path}: line {row + 2}: nodule {table['nodule_id'].iloc[row]} with {rated} "
            f"{table[rated].iloc[row]:g}: must be named once, with label 0 or 1, or rating 1 to 5"
        )
    for name, kind in COLUMNS.items():
        if name not in table or name not in {*known, *diameter}:
            table[name] = np.nan if kind == "float" else "3"
    table["series_uid"], table["cluster"] = table["nodule_id"], 0
    table["readers"], table["malignancy_mean"] = REFERENCE_READERS, rating
    return table[list(COLUMNS)]


def read_scan_table() -> pd.DataFrame:
    """The committed table `data/scans.csv`, checked.

    Raises:
        InputError: the table is missing, or a cell of it is wrong.
    """
    return read_csv(SCANS_CSV, SCAN_COLUMNS)


def label_nodules(nodules: pd.DataFrame) -> pd.DataFrame:
    """Keep the labelled nodules and add the column `label`: 1 malignant, 0 benign.

    The paper's rule (its section 5): at least three readers; mean rating above 3 is
    malignant, below 3 benign; exactly 3 is left out.
    """
    kept = nodules[(nodules["readers"] >= REFERENCE_READERS) & (nodules["malignancy_mean"] != 3)]
    return kept.assign(label=(kept["malignancy_mean"] > 3).astype(int)).reset_index(drop=True)
