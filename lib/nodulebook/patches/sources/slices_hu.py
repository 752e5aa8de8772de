"""Hounsfield units of slices that were stretched to 0..255 one by one.

Where a slice's own line HU = scale x grey + offset is not known, its HU can be estimated.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, sha256
from nodulebook.patches.cube import LUNG_HU

SCALES = {
    "lidc_slices": "estimated (`estimate_hu_map`)",
    "lidc_exact": "exact to the rounding of 8 bits, about 2 HU, where `EXACT_LINES` has the slice",
    "lidc_grey": "one linear map for all: the arm that says what the estimate is worth",
}
"""How the sources that read LIDC-IDRI-slices get HU from grey values."""

EXACT_LINES = paths.DATA / "slices_hu_exact.csv"
"""The lines of 7,243 of the set's 14,167 slices, fitted to the original stored values."""

ONE_SCALE, ONE_OFFSET = 7.9, -990.0
"""The map that the estimate is measured against."""

Grey = NDArray[np.uint8]  # (n, 128, 128)
Folder = tuple[str, int]
"""A nodule's folder in the set: patient and number."""
ToHu = Callable[[Grey, Folder], NDArray[np.float32]]

Lines = dict[Folder, dict[int, tuple[float, float]]]
"""Scale and offset of the slices of a folder that have a line, by the slice's number."""

_TEMPLATE_HU = (
    # share, mean, standard deviation: what 90 mm around a nodule are made of
    (0.40, -880.0, 50.0),  # lung
    (0.15, -800.0, 110.0),  # dependent lung, edges
    (0.11, -100.0, 30.0),  # fat
    (0.22, 40.0, 35.0),  # muscle, blood, nodule
    (0.05, 140.0, 60.0),  # blood with contrast medium
)

_AIR_HU, _AIR_SD_HU = -1018.0, 10.0
"""The darkest pixel of a slice through the lung, which the stretch has made 0."""

_TEMPLATE_WEIGHT = 100.0
"""How many independent pixels a slice's histogram counts for, against the prior on air."""

_PADDING_GAP = 20
"""Grey values 1 to 20 all unused: 0 is not air, but the filling outside the field of view."""

HU_RANGE = (-1024.0, 3071.0)


def hu_recipe(source: str) -> dict[str, str]:
    """What a source's HU depend on, as text, beyond the slices."""
    if source == "lidc_exact":
        return {"slices_hu_exact_csv": sha256(EXACT_LINES)}
    if source == "lidc_grey":
        return {"grey_to_hu": f"{ONE_SCALE} x grey + {ONE_OFFSET}"}
    return {}


def to_hu_of(source: str) -> ToHu:
    """The function that gives the HU of slices for one of `SCALES`; errors as `read_lines`."""
    if source == "lidc_exact":
        lines = read_lines(EXACT_LINES)
        return lambda images, folder: exact_where_known(images, lines.get(folder, {}))
    if source == "lidc_grey":
        scale, offset = np.float32(ONE_SCALE), np.float32(ONE_OFFSET)
        return lambda images, _: images.astype(np.float32) * scale + offset
    return lambda images, _: slices_to_hu(images)


def read_lines(path: Path) -> Lines:
    """The lines of a table.

    Raises:
        InputError: the table is missing, a value of it cannot be read, or a slice has two lines.
    """
    kinds = {"patient_id": "str", "nodule": "int", "slice": "int"}
    table = read_csv(path, kinds | {"hu_scale": "float", "hu_offset": "float"}, others="float")
    lines: Lines = {}
    for row in table.to_dict("records"):
        folder = (str(row["patient_id"]), int(row["nodule"]))
        of_folder, number = lines.setdefault(folder, {}), int(row["slice"])
        if number in of_folder:
            raise InputError(f"{path}: slice {number} of {folder} has two lines; keep one")
        of_folder[number] = (float(row["hu_scale"]), float(row["hu_offset"]))
    return lines


def exact_where_known(images: Grey, lines: dict[int, tuple[float, float]]) -> NDArray[np.float32]:
    """HU (n, 128, 128) of a folder's slices: by their lines, or estimated where there is none.

    `lines` has scale and offset by the slice's number. The result is clipped to the range of CT, as
    the estimate is.

    Raises:
        InputError: a line's slice is not among the images.
    """
    volume_hu = slices_to_hu(images)
    for number, (scale, offset) in lines.items():
        if not 0 <= number < len(images):
            raise InputError(
                f"{EXACT_LINES}: a line for slice {number} of a nodule that has {len(images)} "
                "slices; take the table that belongs to this data set"
            )
        volume_hu[number] = np.clip(scale * images[number] + offset, *HU_RANGE)
    return volume_hu


def slices_to_hu(images: Grey) -> NDArray[np.float32]:
    """Estimated Hounsfield units of slices, each by its own `estimate_hu_map`; same shape."""
    volume_hu = np.empty(images.shape, np.float32)
    for grey, plane in zip(images, volume_hu, strict=True):
        scale, offset = estimate_hu_map(grey)
        plane[...] = np.clip(scale * grey + offset, *HU_RANGE)
    return volume_hu


def estimate_hu_map(grey: Grey) -> tuple[float, float]:
    """Estimate scale and offset in HU = scale x grey + offset, for one stretched slice (128, 128).

    The likeliest pair under a fixed picture of what a slice through the chest holds (lung, fat,
    soft tissue, contrast: `_TEMPLATE_HU`) and of its darkest pixel (air). The picture's few
    numbers hold for all slices; none was fitted to a nodule. A slice of one grey value has no
    histogram to speak of; it becomes the lung.
    """
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    used = np.flatnonzero(counts[1:]) + 1
    if len(used) == 0:
        return 0.0, float(LUNG_HU)
    darkest = int(used[0]) if used[0] > _PADDING_GAP else 0
    histogram = np.zeros(256)
    histogram[: 256 - darkest] = counts[darkest:]
    if darkest == 0:
        histogram[0] = 0  # may be padding, too
    scales, offsets, log_density, log_prior = _hu_grid()
    fit = _TEMPLATE_WEIGHT * (log_density @ (histogram / histogram.sum())) + log_prior
    at_offset, at_scale = np.unravel_index(int(fit.argmax()), fit.shape)
    scale = float(scales[at_scale])
    return scale, float(offsets[at_offset]) - scale * darkest


@cache
def _hu_grid() -> tuple[NDArray[np.float64], ...]:
    """Candidate scales (s) and offsets (o), log density (o, s, grey) and log prior (o, 1)."""
    scales, offsets = np.geomspace(4, 21, 120), np.arange(-1060.0, -900.0, 5.0)
    hu = scales[:, None] * np.arange(256) + offsets[:, None, None]
    density = np.full(hu.shape, 1e-6)
    for share, mean, sd in _TEMPLATE_HU:
        density += share / (sd * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((hu - mean) / sd) ** 2)
    density += 0.08 * ((hu > -700) & (hu < 0)) / 700  # edges, ground-glass
    density += 0.03 * ((hu > 0) & (hu < 1000)) / 1000  # bone, calcium
    log_density = np.log(density * scales[:, None])
    log_prior = -0.5 * ((offsets[:, None] - _AIR_HU) / _AIR_SD_HU) ** 2
    return scales, offsets, log_density, log_prior
