"""Features of texture and morphology: grey-level co-occurrence, openings, outlines in planes."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from scipy.spatial import ConvexHull
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import find_contours

from nodulebook.patches.cube import LUNG_HU, scale_to_unit

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Named = dict[str, float]

GREY_LEVELS = 32
"""Of the co-occurrence matrices, over the window: 56 HU each."""

DISTANCES_MM = (1, 2)
"""Between the two voxels of a co-occurrence pair."""


def entropy(share: Array) -> float:
    """Shannon entropy of shares that add up to 1, in bits."""
    there = share[share > 0]
    return float(-(there * np.log2(there)).sum()) + 0.0  # no -0.0


def with_rim(masks: Mask) -> Mask:
    """The masks and 1 mm around them, plane by plane, so that small nodules have a texture too."""
    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
    grown: Mask = binary_dilation(masks, cross)
    return grown


def co_occurrence(planes: NDArray[np.int64], regions: Mask, distance: int) -> Array:
    """How often two grey levels lie `distance` apart, in four directions, over all planes.

    Args:
        planes: (n, y, x) levels from 0.
        regions: (n, y, x); only pairs within a plane's region count.
        distance: in voxels; diagonally, in each of the two directions.

    Returns:
        (GREY_LEVELS, GREY_LEVELS), symmetric, with sum 1; all 0 where there is no pair.
    """
    total = np.zeros((GREY_LEVELS + 1, GREY_LEVELS + 1))
    # skimage rounds offsets: a diagonal of length 2 would be the neighbour at 1, 1.
    angles = [0, np.pi / 2]
    diagonals = [np.pi / 4, 3 * np.pi / 4]
    for plane, region in zip(planes, regions, strict=True):
        levels = np.where(region, plane + 1, 0).astype(np.uint8)  # 0: outside
        for steps, directions in ((distance, angles), (distance * np.sqrt(2), diagonals)):
            counted = graycomatrix(levels, [steps], directions, GREY_LEVELS + 1, symmetric=True)
            total += counted.sum(axis=(2, 3))
    inside = total[1:, 1:]
    share: Array = inside / max(inside.sum(), 1)
    return share


def texture(volume: Array, masks: Mask) -> Named:
    """Grey-level co-occurrence and local binary patterns, pooled over planes and directions.

    Args:
        volume: (n, y, x) HU within the window, imaged planes.
        masks: (n, y, x).
    """
    regions = with_rim(masks)
    levels = np.minimum(scale_to_unit(volume) * GREY_LEVELS, GREY_LEVELS - 1).astype(np.int64)
    out: Named = {}
    for distance in DISTANCES_MM:
        pairs = co_occurrence(levels, regions, distance)
        for name, value in haralick(pairs).items():
            out[f"{name}_{distance}_mm"] = value
    patterns = np.concatenate(
        [
            local_binary_pattern(plane, P=8, R=1, method="uniform")[region]
            for plane, region in zip(np.rint(volume).astype(np.int64), regions, strict=True)
        ]
    )
    share = np.bincount(patterns.astype(int), minlength=10) / len(patterns)
    return out | {f"pattern_{k}": float(value) for k, value in enumerate(share)}


def haralick(pairs: Array) -> Named:
    """Properties of a co-occurrence matrix (Haralick, Shanmugam and Dinstein 1973).

    Args:
        pairs: (levels, levels), symmetric, with sum 1.
    """
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    stacked = pairs[:, :, None, None]
    out = {name: float(graycoprops(stacked, name)[0, 0]) for name in names}
    i, j = np.indices(pairs.shape)
    centred = i + j - 2 * float((i * pairs).sum())
    return out | {
        "entropy_bits": entropy(pairs.ravel()),
        "cluster_shade": float(np.cbrt((centred**3 * pairs).sum())),  # roots, as of a length
        "cluster_prominence": float(((centred**4 * pairs).sum()) ** 0.25),
    }


# ------------------------------------------------------------------------------------ morphology


def morphology(volume: Array, masks: Mask) -> Named:
    """The margin: how sharp, what lies around it, how rough and lobed the outline is.

    Gradients and distances are taken within each plane.

    Args:
        volume: (n, y, x) HU within the window, imaged planes.
        masks: (n, y, x), none of them empty.
    """
    depth = np.stack([_depth(mask) for mask in masks])  # mm inside; negative outside
    gradient = np.stack(list(np.gradient(volume, axis=(1, 2))))
    inwards = np.stack(list(np.gradient(depth, axis=(1, 2))))
    inwards /= np.maximum(np.linalg.norm(inwards, axis=0), 1e-9)
    rim = np.abs(depth) <= 1
    steepness = np.linalg.norm(gradient, axis=0)[rim]
    across = (gradient * inwards).sum(axis=0)[rim]
    inner = volume[(depth > 0) & (depth <= 2)]
    outer = volume[(depth <= -1.5) & (depth > -5)]
    step = float(inner.mean() - outer.mean()) if len(outer) else 0.0
    around = outer if len(outer) else np.full(1, float(LUNG_HU))
    largest = masks[int(masks.sum(axis=(1, 2)).argmax())]
    return {
        "gradient_mean_hu_per_mm": float(steepness.mean()),
        "gradient_sd_hu_per_mm": float(steepness.std()),
        "gradient_p10_hu_per_mm": float(np.percentile(steepness, 10)),
        "gradient_p90_hu_per_mm": float(np.percentile(steepness, 90)),
        "across_mean_hu_per_mm": float(across.mean()),
        "across_sd_hu_per_mm": float(across.std()),
        "across_share": float(across.mean() / max(steepness.mean(), 1.0)),
        "across_falling_share": float((across < 0).mean()),
        "step_hu": step,
        "sharpness_per_mm": float(across.mean() / max(abs(step), 50.0)),
        "around_mean_hu": float(around.mean()),
        "around_sd_hu": float(around.std()),
        "around_p90_hu": float(np.percentile(around, 90)),
        "around_share_above_-500_hu": float((around > -500).mean()),  # vessels, pleura, spicules
    } | outline(largest)


def _depth(mask: NDArray[np.bool_]) -> Array:
    """Signed distance to the outline of a plane, mm, positive inside."""
    padded = np.pad(mask, 1)  # the patch's edge is an outline, too
    inside = distance_transform_edt(padded)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask)
    depth: Array = np.where(mask, inside - 0.5, 0.5 - outside)
    return depth


OUTLINE_POINTS = 64


def outline(plane: NDArray[np.bool_]) -> Named:
    """Roughness, lobes and spikes of an outline, from its Fourier descriptors.

    The outline as a complex curve, sampled evenly along its length; amplitudes of both senses,
    relative to the circle's (Zahn and Roskies 1972; Kuhl and Giardina 1982).

    Args:
        plane: (y, x), not empty.
    """
    # Smoothed, or the steps from pixel to pixel would be the roughest of it.
    soft = gaussian_filter(np.pad(plane, 4).astype(float), 0.7)
    curves = find_contours(soft, min(0.5, soft.max() / 2))
    curve = max(curves, key=len)
    lengths = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(OUTLINE_POINTS) / OUTLINE_POINTS * along[-1]
    y, x = (np.interp(at, along, curve[:, axis]) for axis in (0, 1))
    amplitude = np.abs(np.fft.fft(x + 1j * y))
    forth, back = amplitude[1:17], amplitude[:-17:-1]
    both = np.hypot(forth, back) / max(amplitude[1], amplitude[-1])
    hull = ConvexHull(curve)
    return {
        "outline_roughness": float(along[-1] / hull.area),  # of a 2D hull: its perimeter
        "outline_elongation": float(min(forth[0], back[0]) / max(forth[0], back[0])),
        "outline_lobes": float(np.linalg.norm(both[1:4])),  # 2 to 4 times around
        "outline_spikes": float(np.linalg.norm(both[4:12])),  # 5 to 12 times around
    }
