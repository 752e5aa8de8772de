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
    least, most = DIAMETER_EDGES_MM[0], DIAMETER_EDGES_MM[-1]
    within = [f"{low} to {high}" for low, high in pairwise(DIAMETER_EDGES_MM)]
    group = pd.cut(
        labelled["diameter_mm"], [0, *DIAMETER_EDGES_MM, np.inf], right=False,
        labels=[f"below {least}", *within, f"{most} and above"],
    ).rename("diameter (mm)")  # fmt: skip
    table = labelled.groupby(group, observed=False)["label"].agg(nodules="size", malignant="sum")
    if not table["nodules"].iloc[0]:
        table = table.iloc[1:]
    table.index = table.index.astype(str)
    table.loc["all"] = table.sum()
    table.insert(1, "benign", table["nodules"] - table["malignant"])
    return table.astype(int).map("{:,}".format).reset_index()


def phantom_volume_table(nodules: pd.DataFrame, store: PatchStore) -> pd.DataFrame:
    """Rendered volume against the readers' consensus volume, by diameter.

    Args:
        nodules: columns nodule_id, series_uid, cluster, diameter_mm.
        store: the phantom's patches.
    """
    known = nodules.set_index("nodule_id").loc[store.table["nodule_id"]]
    consensus = consensus_volumes_mm3(known)
    rendered = store.masks.sum(axis=(1, 2, 3))  # 1 mm voxels
    drawn = consensus > 0  # half of the readers agree on no voxel at all for a few small ones
    ratio = rendered[drawn] / consensus[drawn]
    diameter = known["diameter_mm"].to_numpy()[drawn]
    rows = []
    for name, low, high in (
        ("up to 5", 0, 5), ("5 to 10", 5, 10), ("10 to 20", 10, 20), ("above 20", 20, np.inf),
        ("all above 5", 5, np.inf),
    ):  # fmt: skip
        part = ratio[(diameter > low) & (diameter <= high)]
        rows.append(
            {
                "diameter (mm)": name,
                "nodules": f"{len(part):,}",
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
