"""The source `idc`: the scans as DICOM, as the Imaging Data Commons or TCIA give them.

In any layout of folders below the one that the user names; a scan's slices are found by their
SeriesInstanceUID, wherever they are. LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204,
CC BY 3.0; Imaging Data Commons: Fedorov et al. 2023, doi 10.1148/rg.230180.
"""

from functools import partial
from pathlib import Path

from nodulebook.core import paths
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.ct.find import FoundScan
from nodulebook.patches.sources import scans

SOURCE = "idc"

recipe = partial(scans.recipe, SOURCE)
patches = partial(scans.patches, SOURCE)


def find(folder: Path) -> tuple[scans.Found, list[str]]:
    """The CT series below a folder, and the files that cannot be read.

    The first look reads the header of every file, minutes for the whole collection; what each
    folder held is then remembered under `data/patches/`.
    """
    found = find_dicom(folder, index_json=paths.patch_stores() / ".idc-scans" / "folders.json")
    return {n: FoundScan(n, dicom=tuple(files)) for n, files in found.series.items()}, found.damaged
