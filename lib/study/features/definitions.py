"""Hand-crafted features of a nodule's patch, in the seven groups of the paper's Table 3.

The paper names feature groups and gives no formula, so each group holds what the field means by
its name. A patch is (32, 32, 32) zyx in HU, 1 mm voxels; every length is in mm.

group       looks at                 holds
intensity   voxels inside the mask   first-order statistics of HU
shape       the mask                 form without scale: sphericity, elongation, solidity, ...
texture     mask and 1 mm around it  grey-level co-occurrence (Haralick 1973), local binary patterns
morphology  both sides of outline    sharpness of the margin, surroundings, roughness of the outline
size        the mask                 volume, surface, diameters, extents
random      the whole patch          pooled responses to fixed random 3D kernels; no mask
wavelet     mask and 1 mm around it  statistics of stationary wavelet bands

A source may show only the planes that a reader marked (`lidc_slices`), and fill the rest. So
intensity, texture, morphology and wavelet look at imaged planes only, and within each plane: how
many planes there are does not enter. Shape and size come from the readers' outlines, in z too,
whatever the source: they are what the readers drew. Random sees what a network sees, the filling
too.
"""

from functools import cache
from typing import Any

import numpy as np
import pywt
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from scipy.stats import kurtosis, skew
from skimage.measure import marching_cubes, mesh_surface_area, perimeter_crofton, regionprops

from nodulebook.core.errors import InputError
from nodulebook.patches.cube import LUNG_HU, WINDOW_HU, scale_to_unit
from study.features.texture import (
    GREY_LEVELS,
    Array,
    Mask,
    Named,
    entropy,
    morphology,
    texture,
    with_rim,
)

VERSION = "1"
"""Raised with every change that can change a number."""

WAVELET, WAVELET_LEVELS = "coif1", 3

N_KERNELS, KERNEL_SIZE, KERNEL_SEED = 64, 5, 0
RESPONSE = 0.05
"""A random kernel answers where its response is above this (kernels have sum 0 and norm 1)."""


def all_features(volume_hu: NDArray[Any], mask: Mask) -> dict[str, Named]:
    """Every group's features of one patch.

    Args:
        volume_hu: (z, y, x) HU, clipped to the paper's window here; a plane that is `LUNG_HU`
            throughout counts as not imaged.
        mask: (z, y, x) the readers' consensus.

    Returns:
        For each of `GROUPS` its features by name, all finite.

    Raises:
        InputError: shapes differ or are no cube, a value is not finite, or the mask has no voxel in
            an imaged plane.
    """
    volume, mask, imaged = _checked(volume_hu, mask)
    seen = mask & imaged[:, None, None]
    planes = np.flatnonzero(seen.any(axis=(1, 2)))
    return {
        "intensity": intensity(volume[seen]),
        "shape": shape(mask),
        "texture": texture(volume[planes], seen[planes]),
        "morphology": morphology(volume[planes], seen[planes]),
        "size": size(mask),
        "random": random_responses(volume),
        "wavelet": wavelet(volume[planes], seen[planes]),
    }


GROUPS = ("intensity", "shape", "texture", "morphology", "size", "random", "wavelet")
"""In the order of the paper's Table 3."""


def _checked(volume_hu: NDArray[Any], mask: Mask) -> tuple[Array, Mask, Mask]:
    """The volume within the window, the mask, and which planes are imaged."""
    volume, mask = np.asarray(volume_hu, dtype=float), np.asarray(mask, dtype=bool)
    if volume.ndim != 3 or volume.shape != mask.shape or len(set(volume.shape)) != 1:
        raise InputError(f"patch {volume.shape} and mask {mask.shape} must be cubes of one size")
    if not np.isfinite(volume).all():
        raise InputError("the patch has a voxel that is not finite")
    imaged = (volume != LUNG_HU).any(axis=(1, 2))
    if not (mask & imaged[:, None, None]).any():
        raise InputError("the mask has no voxel in a plane that has an image")
    return np.clip(volume, *WINDOW_HU), mask, imaged


# ------------------------------------------------------------------------------------- intensity


def intensity(hu: Array) -> Named:
    """First-order statistics of the voxels inside a nodule.

    Args:
        hu: (n,) within the window.
    """
    five, quarter, median, three_quarters, ninety_five = np.percentile(hu, [5, 25, 50, 75, 95])
    share = np.histogram(hu, bins=GREY_LEVELS, range=WINDOW_HU)[0] / len(hu)
    return {
        "mean_hu": float(hu.mean()),
        "sd_hu": float(hu.std()),
        "min_hu": float(hu.min()),
        "p5_hu": float(five),
        "p25_hu": float(quarter),
        "median_hu": float(median),
        "p75_hu": float(three_quarters),
        "p95_hu": float(ninety_five),
        "max_hu": float(hu.max()),
        "mean_deviation_hu": float(np.abs(hu - hu.mean()).mean()),
        "skewness": _skewness(hu),
        "kurtosis": _kurtosis(hu),
        "entropy_bits": entropy(share),
        "uniformity": float((share**2).sum()),
        "share_above_-300_hu": float((hu > -300).mean()),  # solid
        "share_below_-600_hu": float((hu < -600).mean()),  # air, cavity, faint ground glass
        "share_above_200_hu": float((hu > 200).mean()),  # calcium
    }


def _skewness(values: Array) -> float:
    return float(skew(values)) if np.ptp(values) > 1e-9 else 0.0


def _kurtosis(values: Array) -> float:
    """Excess kurtosis; 0 for a constant."""
    return float(kurtosis(values)) if np.ptp(values) > 1e-9 else 0.0


# ---------------------------------------------------------------------------------- size and shape


def surface_mm2(mask: Mask) -> tuple[float, float]:
    """Surface of a smooth solid of the mask's volume, and how much rounder a ball of it would be.

    Marching cubes on the bare mask would follow its steps and find a ball's surface too large by a
    tenth, so the mask is smoothed by 0.7 mm. That takes volume from small and edged masks: the
    surface is scaled back to the mask's volume.

    Returns:
        mm^2; and the sphericity, surface of the ball of equal volume / surface.
    """
    soft = gaussian_filter(np.pad(mask, 4).astype(float), 0.7)
    # A mask of few voxels has no 0.5 left: the surface then runs half-way up to its highest.
    corners, faces, *_ = marching_cubes(soft, min(0.5, soft.max() / 2))
    triangles = corners[faces].astype(float)
    crossed = np.cross(triangles[:, 1], triangles[:, 2])
    volume = abs(np.einsum("ij,ij->", triangles[:, 0], crossed)) / 6
    area = float(mesh_surface_area(corners, faces))
    sphericity = float(np.cbrt(36 * np.pi * volume**2) / area)
    return float(area * np.cbrt(mask.sum() / volume) ** 2), sphericity


def _corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """The corners of the voxels or pixels at the points, (m, d); voxel i runs from i to i + 1."""
    steps = np.stack(np.meshgrid(*[[0, 1]] * points.shape[1]), axis=-1)
    every = points[:, None] + steps.reshape(-1, points.shape[1])
    return np.unique(every.reshape(-1, points.shape[1]), axis=0)


def _hull(mask: Mask) -> ConvexHull:
    """Convex hull of a mask's voxels or pixels, as boxes and not as points."""
    return ConvexHull(_corners(np.argwhere(mask & ~binary_erosion(mask))))


def _largest_distance(hull: ConvexHull) -> float:
    return float(pdist(hull.points[hull.vertices]).max())


def size(mask: Mask) -> Named:
    """Volume, surface, diameters and extents.

    Args:
        mask: (z, y, x), not empty. What lies outside of the patch does not count.
    """
    volume = float(mask.sum())
    areas = mask.sum(axis=(1, 2))
    extents = [float(np.ptp(np.flatnonzero(mask.any(axis=axes)))) + 1 for axes in _OTHER_AXES]
    diameters = [_largest_distance(_hull(plane)) for plane in mask if plane.any()]
    return {
        "volume_mm3": volume,
        "equivalent_diameter_mm": float(np.cbrt(6 * volume / np.pi)),
        "surface_mm2": surface_mm2(mask)[0],
        "largest_diameter_mm": _largest_distance(_hull(mask)),
        "largest_plane_diameter_mm": max(diameters),
        "mean_plane_diameter_mm": float(np.mean(diameters)),
        "largest_plane_area_mm2": float(areas.max()),
        "extent_z_mm": extents[0],
        "extent_wide_mm": max(extents[1:]),
        "extent_narrow_mm": min(extents[1:]),
    }


_OTHER_AXES = ((1, 2), (0, 2), (0, 1))


def shape(mask: Mask) -> Named:
    """Form without scale. On a grid of 1 mm a small nodule's form is rough, so that size shows.

    Args:
        mask: (z, y, x), not empty.
    """
    points = np.argwhere(mask)
    # A voxel is a box, not a point: 1/12 mm^2 of its own along each axis.
    axes = np.sqrt(np.linalg.eigvalsh(np.cov(points.T, bias=True) + np.eye(3) / 12)[::-1])
    box = np.ptp(points, axis=0) + 1
    distance = np.linalg.norm(points - points.mean(axis=0), axis=1)
    edge = mask & ~binary_erosion(mask)  # beyond the patch nothing is in the mask
    edge_distance = np.linalg.norm(np.argwhere(edge) - points.mean(axis=0), axis=1)
    plane = mask[int(mask.sum(axis=(1, 2)).argmax())]
    (disc,) = regionprops(plane.astype(np.uint8))
    return {
        "sphericity": surface_mm2(mask)[1],
        "elongation": float(axes[1] / axes[0]),
        "flatness": float(axes[2] / axes[0]),
        "solidity": float(len(points) / _hull(mask).volume),
        "share_of_box": float(len(points) / box.prod()),
        "height_over_width": float(box[0] / box[1:].mean()),
        "asymmetry": _asymmetry(points),
        "radius_variation": float(edge_distance.std() / max(edge_distance.mean(), 0.5)),
        "spread": float(distance.mean() / np.cbrt(3 * len(points) / (4 * np.pi))),
        "plane_circularity": float(4 * np.pi * plane.sum() / perimeter_crofton(plane) ** 2),
        "plane_eccentricity": float(disc.eccentricity),
        "plane_solidity": float(plane.sum() / _hull(plane).volume),  # of a 2D hull: its area
    }


def _asymmetry(points: NDArray[np.int64]) -> float:
    """Share of the voxels that have no partner on the other side of the centre."""
    mirrored = np.rint(2 * points.mean(axis=0)).astype(int) - points
    there = {tuple(point) for point in points.tolist()}
    return 1 - sum(tuple(point) in there for point in mirrored.tolist()) / len(points)


# ---------------------------------------------------------------------------- random and wavelet


@cache
def _kernels() -> NDArray[np.float32]:
    """(size^3, kernels): standard normal numbers, each kernel shifted to sum 0 and norm 1."""
    numbers = np.random.default_rng(KERNEL_SEED).normal(size=(KERNEL_SIZE**3, N_KERNELS))
    numbers -= numbers.mean(axis=0)
    kernels: NDArray[np.float32] = (numbers / np.linalg.norm(numbers, axis=0)).astype(np.float32)
    return kernels


def random_responses(volume: Array) -> Named:
    """Pooled responses to `N_KERNELS` fixed random 5 x 5 x 5 kernels, half of them dilated by 2.

    Per kernel: the largest response, the share of places with one above `RESPONSE` (as in
    ROCKET: Dempster et al. 2020), and the mean response within 5 mm of the patch's middle.

    Args:
        volume: (z, y, x) HU within the window.
    """
    unit = scale_to_unit(volume)
    out: Named = {}
    for dilation in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(
            unit, (dilation * (KERNEL_SIZE - 1) + 1,) * 3
        )[..., ::dilation, ::dilation, ::dilation]
        edge = len(windows)
        flat = windows.reshape(edge**3, -1)
        response = (flat @ _kernels()[:, dilation - 1 :: 2]).reshape(edge, edge, edge, -1)
        middle = slice(edge // 2 - 5, edge // 2 + 5)
        highest = response.max(axis=(0, 1, 2))
        share = (response > RESPONSE).mean(axis=(0, 1, 2))
        centre = response[middle, middle, middle].mean(axis=(0, 1, 2), dtype=np.float64)
        for k in range(N_KERNELS // 2):
            name = f"kernel_{2 * k + dilation - 1:02d}"
            out[f"{name}_max"] = float(highest[k])
            out[f"{name}_share"] = float(share[k])
            out[f"{name}_centre"] = float(centre[k])
    return out


def wavelet(volume: Array, masks: Mask) -> Named:
    """Statistics of stationary wavelet bands of the planes (coiflet 1, three levels).

    The two bands with one high-pass filter are taken together, so that a quarter turn changes
    little.

    Args:
        volume: (n, y, x) HU within the window, imaged planes; edges divisible by 8.
        masks: (n, y, x).
    """
    regions = with_rim(masks)
    levels = pywt.swtn(volume, WAVELET, level=WAVELET_LEVELS, axes=(1, 2), norm=True)
    out: Named = {}
    for k, bands in enumerate(reversed(levels), start=1):  # the finest first
        smooth = bands["aa"][regions]
        out[f"level_{k}_smooth_mean_hu"] = float(smooth.mean())
        out[f"level_{k}_smooth_sd_hu"] = float(smooth.std())
        out[f"level_{k}_smooth_skewness"] = _skewness(smooth)
        out[f"level_{k}_smooth_kurtosis"] = _kurtosis(smooth)
        edges = np.concatenate([bands["ad"][regions], bands["da"][regions]])
        for name, band in (("edge", edges), ("diagonal", bands["dd"][regions])):
            out[f"level_{k}_{name}_mean_hu"] = float(np.abs(band).mean())
            out[f"level_{k}_{name}_rms_hu"] = float(np.sqrt((band**2).mean()))
            out[f"level_{k}_{name}_kurtosis"] = _kurtosis(band)
    return out
