"""The cohort in tables: sizes by label, and the phantom's volumes against the readers'."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import cluster_readings
from nodulebook.data.contours import consensus_mask
from nodulebook.patches.store import PatchStore
from nodulebook.stats.text import number, percent

DIAMETER_EDGES_MM = (3, 5, 10, 15, 20, 25, 30)


def diameter_table(labelled: pd.DataFrame) -> pd.DataFrame:
    """Nodules by diameter and label: the paper's Table 1, from our cohort.

    Args:
        labelled: columns diameter_mm and label.

    Returns:
        Columns "diameter (mm)", "nodules", "benign", "malignant", as text, with a row of totals.
    """
    rows = []
    for low, high in pairwise((0, *DIAMETER_EDGES_MM, np.inf)):
        part = labelled[(labelled["diameter_mm"] >= low) & (labelled["diameter_mm"] < high)]
        if len(part) or low:
            name = f"{low} and above" if np.isinf(high) else f"{low} to {high}"
            rows.append(_diameter_row(name if low else f"below {high}", part))
    rows.append(_diameter_row("all", labelled))
    return pd.DataFrame(rows)


def _diameter_row(name: str, part: pd.DataFrame) -> dict[str, str]:
    malignant = int(part["label"].sum())
    return {
        "diameter (mm)": name,
        "nodules": str(len(part)),
        "benign": str(len(part) - malignant),
        "malignant": str(malignant),
    }


def phantom_volume_table(nodules: pd.DataFrame, store: PatchStore) -> pd.DataFrame:
    """Rendered volume against the readers' consensus volume, by diameter.

    Args:
        nodules: columns nodule_id, series_uid, cluster, diameter_mm.
        store: the phantom's patches.

    Returns:
        Columns "diameter (mm)", "nodules", "within 10 %", "median ratio", as text.
    """
    known = nodules.set_index("nodule_id").loc[store.table["nodule_id"]]
    consensus = consensus_volumes_mm3(known)
    rendered = store.masks.sum(axis=(1, 2, 3))  # 1 mm voxels
    drawn = consensus > 0  # half of the readers agree on no voxel at all for a few small ones
    ratio = rendered[drawn] / consensus[drawn]
    diameter = known["diameter_mm"].to_numpy()[drawn]
    rows = []
    for low, high, name in (
        (0, 5, "up to 5"),
        (5, 10, "5 to 10"),
        (10, 20, "10 to 20"),
        (20, 1e9, "above 20"),
        (5, 1e9, "all above 5"),
    ):
        part = ratio[(diameter > low) & (diameter <= high)]
        rows.append(
            {
                "diameter (mm)": name,
                "nodules": str(len(part)),
                "within 10 %": percent(float(np.mean(np.abs(part - 1) <= 0.1))),
                "median ratio": number(float(np.median(part))),
            }
        )
    return pd.DataFrame(rows)


def consensus_volumes_mm3(nodules: pd.DataFrame) -> NDArray[np.float64]:
    """The volume that at least half of a nodule's readers include, on the scan's own grid.

    Args:
        nodules: columns series_uid and cluster.
    """
    scans = {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}
    lesions = {uid: cluster_readings(scan) for uid, scan in scans.items()}
    return np.array(
        [
            consensus_mask(scans[uid], lesions[uid][cluster]).volume_mm3
            for uid, cluster in zip(nodules["series_uid"], nodules["cluster"], strict=True)
        ]
    )
