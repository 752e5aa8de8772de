"""The source `idc`: the scans as DICOM, as the Imaging Data Commons or TCIA give them.

In any layout of folders below the one that the user names; a scan's slices are found by their
SeriesInstanceUID, wherever they lie. LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204,
CC BY 3.0; Imaging Data Commons: Fedorov et al. 2023, doi 10.1148/rg.230180.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nodulebook.core import paths
from nodulebook.ct.dicom import find_dicom, open_dicom
from nodulebook.ct.volume import Volume
from nodulebook.patches.sources import scans

SOURCE = "idc"

recipe = partial(scans.recipe, SOURCE)
patches = partial(scans.patches, SOURCE)


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
