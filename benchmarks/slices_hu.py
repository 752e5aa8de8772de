"""The estimated HU of the source `lidc_slices` against true HU; written to data/slices_hu.csv.

    python benchmarks/slices_hu.py --data ~/lidc

The folder holds LIDC-IDRI-slices (zip or unpacked) and DICOM of some of its scans, in any folders.
Every nodule that both have is compared on its patch, in the planes for which there is a slice.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.files import write_csv
from nodulebook.ct.dicom import open_dicom
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.cube import LUNG_HU, WINDOW_HU
from nodulebook.patches.sources import lidc_slices, scans


def compared(slices_patch, true_patch):
    """Error in HU, both clipped to the window, over the imaged planes and inside the nodule."""
    imaged = (slices_patch.volume_hu != LUNG_HU).any(axis=(1, 2))
    estimate, truth = (
        np.clip(p.volume_hu[imaged].astype(float), *WINDOW_HU) for p in (slices_patch, true_patch)
    )
    mask = true_patch.mask[imaged]
    rows = []
    for part, where in (("all voxels", np.ones_like(mask)), ("nodule", mask), ("around", ~mask)):
        error = (estimate - truth)[where]
        rows.append(
            {
                "nodule_id": true_patch.nodule_id,
                "part": part,
                "planes": int(imaged.sum()),
                "voxels": int(where.sum()),
                "true_mean_hu": round(float(truth[where].mean()), 1),
                "mean_error_hu": round(float(error.mean()), 1),
                "mean_absolute_error_hu": round(float(np.abs(error).mean()), 1),
                "p90_absolute_error_hu": round(float(np.quantile(np.abs(error), 0.9)), 1),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    nodules = read_nodules()
    nodules = nodules[nodules["readers"] >= 3]
    found = find_dicom(data).series
    rows = []
    for scan in read_scans(found):
        here = nodules[nodules["series_uid"] == scan.series_uid]
        volume = open_dicom(found[scan.series_uid], scan.series_uid)
        true, _ = scans.scan_patches(volume, scan, here.to_dict("records"))
        true = {patch.nodule_id: patch for patch in true}
        some = here[here["nodule_id"].isin(list(true))]
        for patch in lidc_slices.patches(some, data):
            rows += compared(patch, true[patch.nodule_id])
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    write_csv(table, paths.DATA / "slices_hu.csv")


if __name__ == "__main__":
    main()
