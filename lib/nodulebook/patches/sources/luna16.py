"""The source `luna16`: the paper's data, 888 scans of LIDC-IDRI as `.mhd` with `.raw` or `.zraw`.

All subsets or some, in any folders below the one that the user names; each scan is found by its
file's name, which is its SeriesInstanceUID. `.mha` and NIfTI files named so are read as well.
LUNA16: Setio et al. 2017, doi 10.1016/j.media.2017.06.015; data: doi 10.5281/zenodo.3723295 and
10.5281/zenodo.4121926.
"""

import re
from functools import partial
from pathlib import Path

from nodulebook.ct.find import FoundScan, find_images
from nodulebook.patches.sources import scans

SOURCE = "luna16"
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")

recipe = partial(scans.recipe, SOURCE)
patches = partial(scans.patches, SOURCE)


def find(folder: Path) -> tuple[scans.Found, list[str]]:
    """The scans below a folder, by series; no file is known to be damaged before it is opened."""
    images = find_images(folder)
    return {n: FoundScan(n, images=tuple(images[n])) for n in images if _UID.fullmatch(n)}, []
