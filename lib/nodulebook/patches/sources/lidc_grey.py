"""The source `lidc_grey`: as `lidc_slices`, without the estimate of Hounsfield units.

Every slice of the set was stretched to 0..255 by itself. Here one linear map is taken for all of
them, so that a network sees the grey values as they are: the arm that says what the estimate of
`lidc_slices` is worth.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.patches.sources import lidc_slices
from nodulebook.patches.sources.grey_to_hu import Folder
from nodulebook.patches.store import Patch

SCALE, OFFSET = 7.9, -990.0
"""HU = 7.9 x grey - 990, the map that the estimate of `lidc_slices` is measured against."""


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on; see `lidc_slices.recipe`."""
    return lidc_slices.recipe(data) | {"grey_to_hu": f"{SCALE} x grey + {OFFSET}"}


def patches(nodules: pd.DataFrame, data: Path | None = None, margin: int = 0) -> Iterator[Patch]:
    """The patches; see `lidc_slices.patches`."""
    return lidc_slices.patches(nodules, data, _one_map, margin)


def _one_map(images: NDArray[np.uint8], _: Folder) -> NDArray[np.float32]:
    return images.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)
