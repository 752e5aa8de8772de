"""The source `lidc_exact`: as `lidc_slices`, with exact Hounsfield units where they are known.

`data/slices_hu_exact.csv` holds the line HU = scale x grey + offset of 7,243 of the set's 14,167
slices, fitted to the slice's original stored values. It is
right to the rounding of 8 bits, about 2 HU. The other slices keep the estimate of `lidc_slices`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, sha256
from nodulebook.patches.sources import lidc_slices
from nodulebook.patches.sources.grey_to_hu import HU_RANGE, Folder, Grey, slices_to_hu
from nodulebook.patches.store import Patch

TABLE = paths.DATA / "slices_hu_exact.csv"

Lines = dict[Folder, dict[int, tuple[float, float]]]
"""Scale and offset of the slices of a folder that have a line, by the slice's number."""


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on; see `lidc_slices.recipe`."""
    return lidc_slices.recipe(data) | {"slices_hu_exact_csv": sha256(TABLE)}


def patches(nodules: pd.DataFrame, data: Path | None = None, margin: int = 0) -> Iterator[Patch]:
    """The patches; see `lidc_slices.patches`."""
    lines = read_lines(TABLE)

    def to_hu(images: Grey, folder: Folder) -> NDArray[np.float32]:
        return exact_where_known(images, lines.get(folder, {}))

    return lidc_slices.patches(nodules, data, to_hu, margin)


def read_lines(path: Path) -> Lines:
    """The table's lines.

    Raises:
        InputError: the table is missing a value of it cannot be read, or a slice has two lines.
    """
    table = read_csv(
        path,
        {
            "patient_id": "str",
            "nodule": "int",
            "slice": "int",
            "hu_scale": "float",
            "hu_offset": "float",
        },
        others="float",
    )
    lines: Lines = {}
    for row in table.to_dict("records"):
        folder = (str(row["patient_id"]), int(row["nodule"]))
        of_folder, number = lines.setdefault(folder, {}), int(row["slice"])
        if number in of_folder:
            raise InputError(f"{path}: slice {number} of {folder} has two lines; keep one")
        of_folder[number] = (float(row["hu_scale"]), float(row["hu_offset"]))
    return lines


def exact_where_known(images: Grey, lines: dict[int, tuple[float, float]]) -> NDArray[np.float32]:
    """Hounsfield units of a folder's slices: by their lines, or estimated where there is none.

    Args:
        images: (n, 128, 128) grey values.
        lines: scale and offset by the slice's number, 0 to n - 1.

    Returns:
        (n, 128, 128), clipped to the range of CT as the estimate is.

    Raises:
        InputError: a line's slice is not among the images.
    """
    volume_hu = slices_to_hu(images)
    for number, (scale, offset) in lines.items():
        if not 0 <= number < len(images):
            raise InputError(
                f"{TABLE}: a line for slice {number} of a nodule that has {len(images)} slices; "
                "take the table that belongs to this data set"
            )
        volume_hu[number] = np.clip(scale * images[number] + offset, *HU_RANGE)
    return volume_hu
