"""The source `idc`: the scans as DICOM, as the Imaging Data Commons or TCIA give them.

In any layout of folders below the one that the user names; a scan's slices are found by their
SeriesInstanceUID, wherever they lie. LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204,
CC BY 3.0; Imaging Data Commons: Fedorov et al. 2023, doi 10.1148/rg.230180.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from nodulebook import paths
from nodulebook.patches import Patch
from nodulebook.sources import scans
from nodulebook.volumes import Volume, find_dicom, open_dicom

SOURCE = "idc"


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on (see `scans.recipe`)."""
    return scans.recipe(SOURCE, data)


def patches(
    nodules: pd.DataFrame, data: Path | None = None, jobs: int | None = None
) -> Iterator[Patch]:
    """The patches of the nodules whose scans are there (see `scans.patches`)."""
    return scans.patches(SOURCE, nodules, data, jobs)


def find(folder: Path) -> scans.Found:
    """The files of every DICOM series below a folder.

    The first look reads the header of every file, minutes for the whole collection; what each
    folder holds is then remembered under `data/patches/`.
    """
    return find_dicom(folder, index_json=paths.patch_stores() / ".idc-scans" / "folders.json")


def open_scan(files: Sequence[Path], series_uid: str) -> Volume:
    """Open a scan.

    Raises:
        InputError: as `volumes.open_dicom`.
    """
    return open_dicom(files, series_uid)
