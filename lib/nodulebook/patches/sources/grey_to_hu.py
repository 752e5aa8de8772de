"""Estimated Hounsfield units of slices that were stretched to 0..255 one by one."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nodulebook.patches.cube import LUNG_HU

Grey = NDArray[np.uint8]


Folder = tuple[str, int]
"""A nodule's folder in the set: patient and number."""

ToHu = Callable[[Grey, Folder], NDArray[np.float32]]


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


def slices_to_hu(images: Grey) -> NDArray[np.float32]:
    """Estimated Hounsfield units of slices, each by its own `estimate_hu_map`; same shape."""
    volume_hu = np.empty(images.shape, np.float32)
    for grey, plane in zip(images, volume_hu, strict=True):
        scale, offset = estimate_hu_map(grey)
        plane[...] = np.clip(scale * grey + offset, *HU_RANGE)
    return volume_hu


def estimated(images: Grey, _: Folder) -> NDArray[np.float32]:
    """As `slices_to_hu`, whatever the folder."""
    return slices_to_hu(images)


def estimate_hu_map(grey: Grey) -> tuple[float, float]:
    """Estimate scale and offset in HU = scale x grey + offset, for one stretched slice.

    The likeliest pair under a fixed picture of what a slice through the chest holds (lung, fat,
    soft tissue, contrast: `_TEMPLATE_HU`) and of its darkest pixel (air). The picture's few
    numbers hold for all slices; none was fitted to a nodule. A slice of one grey value has no
    histogram to speak of; it becomes the lung.

    Args:
        grey: (128, 128).

    Returns:
        Scale in HU a grey value and offset in HU.
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
