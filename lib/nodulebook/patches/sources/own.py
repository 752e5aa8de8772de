"""The source `own`: cubes of the user's cohort, which `NODULEBOOK_COHORT` names.

The folder holds `nodules.csv` (`cohort.read_own_nodules`), `folds.csv` (`folds.COLUMNS`) and
`cubes.npy`: HU as 16-bit integers, (n, 32, 32, 32) zyx, voxels of 1 mm, the nodule in the middle,
in the order of `nodules.csv`. `nodulebook adopt` writes them; so can any program.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.patches.cube import PATCH_SIZE
from nodulebook.patches.store import Patch, read_array

CUBES = "cubes.npy"


def _cubes() -> Path:
    if paths.OWN_COHORT is None:
        raise InputError("source own: name the folder of your cohort with NODULEBOOK_COHORT")
    if not (paths.OWN_COHORT / CUBES).is_file():
        raise InputError(f"{paths.OWN_COHORT / CUBES}: no such file; nodulebook adopt writes it")
    return paths.OWN_COHORT / CUBES


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on. InputError: no cohort is named, or it has no cubes."""
    return {"cubes_sha256": sha256(_cubes())}


def patches(nodules: pd.DataFrame, data: Path | None = None) -> Iterator[Patch]:
    """The cubes of the nodules; without outlines, so their masks are empty.

    Raises:
        InputError: the file is damaged, or is not one cube of whole HU per row of nodules.csv.
    """
    path = _cubes()
    names = pd.read_csv(paths.NODULES_CSV, dtype=str)["nodule_id"].tolist()
    shape = (len(names), PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    volumes = read_array(path, np.int16, shape)
    wanted = set(nodules["nodule_id"])
    empty = np.zeros(shape[1:], bool)
    for name, volume in zip(names, volumes, strict=True):
        if name in wanted:
            yield Patch(name, np.asarray(volume), empty)
