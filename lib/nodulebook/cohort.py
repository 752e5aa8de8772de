"""LIDC-IDRI scans to LUNA16's 888, readings to lesions, ratings to labels (paper 3.1.1, 5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from nodulebook.annotations import CHARACTERISTICS, Reading, Scan, read_scans
from nodulebook.contours import reading_volume_centroid
from nodulebook.files import read_csv
from nodulebook.paths import NODULES_CSV

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
"""Nine series thin enough, but not among LUNA16's 888 (uneven spacing or missing slices)."""

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


def luna16_scans() -> list[Scan]:
    """The 888 scans of LUNA16, chosen from the 1,018 of LIDC-IDRI."""
    return [
        scan
        for scan in read_scans()
        if scan.slice_thickness_mm <= MAX_SLICE_THICKNESS_MM
        and scan.series_uid not in LUNA16_LEFT_OUT
    ]


def _contour_points_kxy(scan: Scan, reading: Reading) -> NDArray[np.float64]:
    """All contour points, (n, 3): row, column and slice *index* (not mm)."""
    points = np.concatenate([c.points_xy for c in reading.contours]).astype(float)
    index = [scan.slice_index(c.z_mm) for c in reading.contours]
    return np.column_stack(
        [points[:, ::-1], np.repeat(index, [len(c.points_xy) for c in reading.contours])]
    )


def cluster_readings(scan: Scan, max_size: int = 4) -> list[list[Reading]]:
    """Group a scan's readings into lesions, as pylidc's `cluster_annotations()` does.

    Two readings are joined where their contour points come within a tolerance of each other;
    a lesion is a connected component. The tolerance starts at the slice thickness (a number in
    mm that pylidc compares with distances in voxels) and shrinks by a tenth while a component
    has more than `max_size` readings and the tolerance is at least 0.1. Only pairs that can be
    within the tolerance are measured, which is what makes this fast.

    Returns:
        The lesions, ordered by mean slice index; readings in database order.
    """
    if not scan.readings:
        return []
    points = [_contour_points_kxy(scan, reading) for reading in scan.readings]
    tolerance = scan.slice_thickness_mm
    distance = _near_distances(points, tolerance)
    _, label = connected_components(distance <= tolerance, directed=False)
    while np.bincount(label).max() > max_size and tolerance * 0.9 >= 0.1:
        tolerance *= 0.9
        _, label = connected_components(distance <= tolerance, directed=False)
    height = np.array([p[:, 2].mean() for p in points])
    order = sorted(range(label.max() + 1), key=lambda c: np.mean(height[label == c]))
    return [[scan.readings[i] for i in np.flatnonzero(label == c)] for c in order]


def _near_distances(points: Sequence[NDArray[np.float64]], limit: float) -> NDArray[np.float64]:
    """Smallest distance between every two point sets; infinite where it is above `limit`."""
    n = len(points)
    low = np.array([p.min(axis=0) for p in points])
    high = np.array([p.max(axis=0) for p in points])
    trees: dict[int, cKDTree] = {}
    distance = np.full((n, n), np.inf)
    np.fill_diagonal(distance, 0.0)
    for i in range(n):
        for j in range(i + 1, n):
            gap = np.maximum(0.0, np.maximum(low[i] - high[j], low[j] - high[i]))
            if gap @ gap > limit * limit:
                continue
            tree = trees.setdefault(i, cKDTree(points[i]))
            nearest = tree.query(points[j], distance_upper_bound=limit * (1 + 1e-9))[0].min()
            distance[i, j] = distance[j, i] = nearest
    return distance


def reading_diameter_mm(scan: Scan, reading: Reading) -> float:
    """The largest distance between two points of one contour, in its slice plane, mm."""
    box = [(float(np.hypot(*np.ptp(c.points_xy, axis=0))), c.points_xy) for c in reading.contours]
    largest = 0.0
    for diagonal, points_xy in sorted(box, key=lambda item: -item[0]):
        if diagonal <= largest:  # no two points are further apart than their box's corners
            break
        largest = max(largest, float(pdist(points_xy).max()))
    return largest * scan.pixel_spacing_mm


def nodule_id(scan: Scan, cluster: int) -> str:
    """`LIDC-IDRI-0001-s1-n00`: patient, scan number, lesion in the order of `cluster_readings`."""
    return f"{scan.patient_id}-s{scan.scan_number}-n{cluster:02d}"


def nodule_table(scans: Sequence[Scan]) -> pd.DataFrame:
    """One row a lesion, with the columns of `COLUMNS`; sizes are means over its readings."""
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


def _join(ratings: Sequence[int]) -> str:
    return ";".join(str(rating) for rating in ratings)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)


def read_nodules() -> pd.DataFrame:
    """The committed table `data/nodules.csv`, checked.

    Raises:
        InputError: the table is missing, or a cell of it is wrong.
    """
    return read_csv(NODULES_CSV, COLUMNS)


def label_nodules(nodules: pd.DataFrame, min_readers: int = REFERENCE_READERS) -> pd.DataFrame:
    """Keep the labelled nodules and add the column `label`: 1 malignant, 0 benign.

    The paper's rule (its section 5): at least `min_readers` readers; mean rating above 3 is
    malignant, below 3 benign; exactly 3 is left out.
    """
    kept = nodules[(nodules["readers"] >= min_readers) & (nodules["malignancy_mean"] != 3)]
    return kept.assign(label=(kept["malignancy_mean"] > 3).astype(int)).reset_index(drop=True)
