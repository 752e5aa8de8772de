"""What a map is worth: measures against the readers' outline, and against the network itself.

A map (n, z, y, x) is >= 0, zero everywhere where nothing supports the class. Masks (n, z, y, x)
are the readers' consensus. Voxels are 1 mm. A measure is nan where it has no meaning: every one
where the mask is empty, the localisation error also where the map is.

pointing game, energy   Zhang et al. 2018 (IJCV 126:1084); Wang et al. 2020, "Score-CAM"
insertion, deletion     Petsiuk et al. 2018, "RISE"
sanity checks           Adebayo et al. 2018
forward simulation      Doshi-Velez and Kim 2017, with a rule in place of a person
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from nodulebook.patches.cube import LUNG_HU, scale_to_unit

Array = NDArray[np.float64]
Maps = NDArray[np.floating[Any]]
Masks = NDArray[np.bool_]
Volumes = NDArray[np.float32]
Predict = Callable[[Volumes], Array]
"""Volumes (n, z, y, x) in [0, 1] -> the malignant probability (n,)."""

TOLERANCE_MM = 1.0
"""The pointing game counts a peak this far outside the outline as a hit: a voxel."""

GAUSSIAN_SIGMA_MM = 4.0
"""Of the trivial rival: a blob of about 9 mm across at half height, as the median nodule's size."""

SHIFT_MM = 8
"""Off-centre patches are moved by this much along each axis: 14 mm in all."""

FRACTIONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the voxels that are taken away (or put back); close where a nodule's volume lies."""

KEPT = 0.02
"""Share of the voxels that the judge sees: 655 mm3, a ball of 11 mm."""

LUNG = float(scale_to_unit(np.array(float(LUNG_HU))))
"""Aerated lung on the network's scale: stands where voxels are taken away."""

JUDGE_MM3 = float(np.pi / 6 * 8**3)
"""The judge says malignant where it sees this much tissue: a ball of 8 mm, a size at which
guidelines begin to ask for more. Fixed beforehand, not fitted."""

TISSUE = float(scale_to_unit(np.array(-400.0)))
"""Above this the judge takes a voxel for tissue: half way between lung and soft tissue."""


def centred_gaussian(shape: Sequence[int], sigma_mm: float = GAUSSIAN_SIGMA_MM) -> Array:
    """A blob in the middle, maximum at most 1, of the shape asked for: the first trivial rival."""
    axes = [np.arange(size) - (size - 1) / 2 for size in shape]
    squared = np.square(np.stack(np.meshgrid(*axes, indexing="ij"))).sum(axis=0)
    return np.asarray(np.exp(-squared / (2 * sigma_mm**2)), dtype=np.float64)


def image_map(volumes: Volumes) -> Maps:
    """The image itself, above the level of lung, as a map: the second trivial rival."""
    maps: Maps = (volumes - np.float32(LUNG)).clip(min=0)
    return maps


def random_maps(n: int, shape: Sequence[int]) -> Array:
    """Smooth random maps: noise blurred by 4 mm, from 0 to 1."""
    noise = np.random.default_rng(0).random((n, *shape))
    blurred = np.array([gaussian_filter(one, 4.0, mode="wrap") for one in noise])
    low, high = (f(blurred, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    scaled: Array = (blurred - low) / (high - low)
    return scaled


def peaks_zyx(maps: Maps) -> Array:
    """Where each map is largest, in voxels, (n, 3); nan for an empty map.

    A coarse map has its maximum on a whole plateau of voxels: then the plateau's middle.
    """
    peaks = np.full((len(maps), 3), np.nan)
    for row, one in enumerate(maps):
        if one.max() > 0:
            peaks[row] = np.argwhere(one >= one.max() * (1 - 1e-6)).mean(axis=0)
    return peaks


def pointing_hits(maps: Maps, masks: Masks) -> Array:
    """1 where the peak lies within `TOLERANCE_MM` of a voxel of the mask, else 0, (n,)."""
    hits = np.full(len(maps), np.nan)
    for row, (peak, mask) in enumerate(zip(peaks_zyx(maps), masks, strict=True)):
        if mask.any():
            distance = np.linalg.norm(np.argwhere(mask) - peak, axis=1)
            hits[row] = float((distance <= TOLERANCE_MM).any())
    return hits


def localisation_errors_mm(maps: Maps, masks: Masks) -> Array:
    """Distance from the peak to the centre of mass of the mask, (n,)."""
    errors = np.full(len(maps), np.nan)
    for row, (peak, mask) in enumerate(zip(peaks_zyx(maps), masks, strict=True)):
        if mask.any():
            errors[row] = np.linalg.norm(np.argwhere(mask).mean(axis=0) - peak)
    return errors


def energy_inside(maps: Maps, masks: Masks) -> Array:
    """Share of a map's sum that lies inside the mask, (n,); 0 for an empty map."""
    inside = (maps * masks).sum(axis=(1, 2, 3), dtype=float)
    total = maps.sum(axis=(1, 2, 3), dtype=float)
    share = np.divide(inside, total, out=np.zeros(len(maps)), where=total > 0)
    return np.where(masks.any(axis=(1, 2, 3)), share, np.nan)


def best_dice(maps: Maps, masks: Masks) -> Array:
    """The largest Dice of {map >= t} and the mask over all t > 0, (n,); 0 for an empty map.

    The threshold is the best for each map by itself, with the outline known: an upper bound.
    """
    best = np.full(len(maps), np.nan)
    for row, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        if not mask.any():
            continue
        values, inside = one.ravel(), mask.ravel()
        order = np.argsort(-values, kind="stable")
        values, hits = values[order], np.cumsum(inside[order])
        # A threshold takes all voxels of the same value, or none.
        ends = (np.diff(values, append=-1) < 0) & (values > 0)
        dice = 2 * hits / (np.arange(1, len(hits) + 1) + inside.sum())
        best[row] = dice[ends].max(initial=0)
    return best


def ranking(maps: Maps) -> NDArray[np.int64]:
    """Voxel numbers of each map from its largest value to its smallest, (n, voxels).

    Equal voxels come in one fixed random order, not in the order of their places.
    """
    flat = maps.reshape(len(maps), -1)
    shuffled = np.random.default_rng(0).permutation(flat.shape[1])
    return shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]


def deletion_and_insertion(
    predict: Predict,
    volumes: Volumes,
    maps: Maps,
    explained: NDArray[np.integer[Any]],
    fractions: Sequence[float] = FRACTIONS,
) -> tuple[Array, Array]:
    """Probability of the explained class while a map's voxels are taken away, or put in.

    Deletion: the first voxels of the map's ranking become lung. Insertion: they alone are seen,
    all else is lung. Volumes and maps are (n, z, y, x); `explained` (n,) is 1 where the map is for
    malignant, 0 for benign; `fractions` of the voxels rise from 0 to 1.

    Returns:
        Two arrays (n, fractions).
    """
    order = ranking(maps)
    flat = volumes.reshape(len(volumes), -1)
    curves = np.zeros((2, len(volumes), len(fractions)))
    for column, fraction in enumerate(fractions):
        first = order[:, : round(fraction * flat.shape[1])]
        deleted = flat.copy()
        np.put_along_axis(deleted, first, LUNG, axis=1)
        inserted = np.full_like(flat, LUNG)
        np.put_along_axis(inserted, first, np.take_along_axis(flat, first, axis=1), axis=1)
        for row, seen in enumerate((deleted, inserted)):
            p = predict(seen.reshape(volumes.shape))
            curves[row, :, column] = np.where(explained == 1, p, 1 - p)
    return curves[0], curves[1]


def area(curves: Array, fractions: Sequence[float] = FRACTIONS) -> Array:
    """Area under each curve over [0, 1], (n,), by the trapezium rule."""
    return np.asarray(np.trapezoid(curves, fractions, axis=1), dtype=np.float64)


def kept_tissue_mm3(volumes: Volumes, maps: Maps, share: float = KEPT) -> Array:
    """All that the judge looks at: tissue among the voxels that a map ranks first, (n,)."""
    flat = volumes.reshape(len(volumes), -1)
    first = ranking(maps)[:, : round(share * flat.shape[1])]
    tissue: Array = (np.take_along_axis(flat, first, axis=1) > TISSUE).sum(axis=1).astype(float)
    return tissue


def shifts_zyx(nodule_ids: Sequence[str]) -> NDArray[np.int64]:
    """For each nodule a shift of `SHIFT_MM` along each axis, its signs from the nodule's name."""
    digests = [hashlib.sha256(name.encode()).digest()[0] for name in nodule_ids]
    signs = [[1 if digest >> axis & 1 else -1 for axis in range(3)] for digest in digests]
    return SHIFT_MM * np.array(signs, dtype=np.int64).reshape(-1, 3)


def shifted(values: NDArray[Any], by_zyx: NDArray[np.integer[Any]], fill: float) -> NDArray[Any]:
    """Each (z, y, x) array moved by whole voxels; what comes in from outside is `fill`."""
    moved: NDArray[Any] = np.full_like(values, fill)
    for row, by in enumerate(by_zyx):
        there, here = (
            tuple(
                slice(max(sign * int(d), 0), size + min(sign * int(d), 0))
                for d, size in zip(by, values.shape[1:], strict=True)
            )
            for sign in (1, -1)
        )
        moved[row][there] = values[row][here]
    return moved


def rank_correlations(maps: Maps, others: Maps) -> Array:
    """Spearman correlation of each map with the other, (n,); nan where one is constant.

    On every other voxel along each axis: a map that was interpolated loses nothing by it.
    """
    correlations = np.full(len(maps), np.nan)
    for row, pair in enumerate(zip(maps, others, strict=True)):
        a, b = (rankdata(one[::2, ::2, ::2].ravel()) for one in pair)
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            correlations[row] = np.corrcoef(a, b)[0, 1]
    return correlations


def randomised_step_by_step(model: Any) -> Iterator[str]:
    """Randomise a network of `nodulebook.model.senet`, part by part from the output on.

    Each step leaves the earlier parts random too (cascading randomisation). Kernels are drawn
    anew (He normal), biases and batch means become 0, scales and batch variances 1.

    Yields:
        The name of the part just made random: logits, stage4, ..., first. When the last has been
        taken, or the loop is left, the model has its own weights again.
    """
    own = model.get_weights()
    generator = np.random.default_rng(0)
    layers = [layer for layer in model.layers if layer.weights]
    try:
        for part in dict.fromkeys(layer.name.split("_")[0] for layer in reversed(layers)):
            for layer in layers:
                if layer.name.split("_")[0] == part:
                    layer.set_weights([_fresh(weight, generator) for weight in layer.weights])
            yield part
    finally:
        model.set_weights(own)


def _fresh(weight: Any, generator: np.random.Generator) -> NDArray[np.float32]:
    kind = weight.path.split("/")[-1]
    if kind == "kernel":
        fan_in = int(np.prod(weight.shape[:-1]))
        drawn = generator.normal(0, np.sqrt(2 / fan_in), weight.shape)
        return np.asarray(drawn, dtype=np.float32)
    return np.full(weight.shape, float(kind in ("gamma", "moving_variance")), np.float32)
