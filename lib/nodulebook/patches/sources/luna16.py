"""The source `luna16`: the paper's data, 888 scans of LIDC-IDRI as `.mhd` with `.raw` or `.zraw`.

All subsets or some, in any folders below the one that the user names; each scan is found by its
file's name, which is its SeriesInstanceUID. LUNA16: Setio et al. 2017, doi
10.1016/j.media.2017.06.015; data: doi 10.5281/zenodo.3723295 and 10.5281/zenodo.4121926.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nodulebook.core.errors import InputError
from nodulebook.ct.metaimage import find_mhd, open_mhd
from nodulebook.ct.volume import Volume
from nodulebook.patches.sources import scans

SOURCE = "luna16"

recipe = partial(scans.recipe, SOURCE)
patches = partial(scans.patches, SOURCE)


def find(folder: Path) -> scans.Found:
    """Header and voxel file of every scan below a folder, by series."""
    return {
        uid: [
            file
            for header in headers
            for file in (header, *(header.with_name(f"{uid}{end}") for end in (".raw", ".zraw")))
            if file.is_file()
        ]
        for uid, headers in find_mhd(folder).items()
    }


def open_scan(files: Sequence[Path], series_uid: str) -> Volume:
    """Open a scan.

    Raises:
        InputError: as `volumes.open_mhd`; or the scan is there twice and the two differ.
    """
    headers = [file for file in files if file.suffix.lower() == ".mhd"]
    if len({header.read_bytes() for header in headers}) > 1:
        raise InputError(
            f"series {series_uid} is there twice and not the same: {headers[0]} and {headers[1]}; "
            "remove one"
        )
    return open_mhd(headers[0])
