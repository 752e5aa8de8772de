"""The source `phantom`: real readers' contours and ratings, rendered as a CT of the lung.

Shape, size and ratings of each nodule are those of LIDC-IDRI's readers; the voxels are made up.
The rating of malignancy takes no part. Densities follow the usual description of nodules on CT
(solid about 30 HU, ground-glass about -650, lung about -860, calcium 300-700); blur and noise
follow the scan's slice thickness and a soft reconstruction kernel.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from nodulebook.data.annotations import DATABASE_SHA256, Reading, Scan, database_path
from nodulebook.data.cohort import LESION_COLUMNS, lesions_by_scan
from nodulebook.data.contours import grid_offsets_mm, lesion_distance_on_grid
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE
from nodulebook.patches.mask import reference_mask
from nodulebook.patches.store import Patch

VERSION = "1"
"""Raised with every change of a rendered voxel; all random numbers depend on it."""

SOLID_HU, GROUND_GLASS_HU, VESSEL_HU, FAT_HU, AIR_HU = 30.0, -650.0, 30.0, -80.0, -950.0
PSF_SIGMA_MM = 0.7
"""In-plane blur of the scanner, Gaussian."""

COLUMNS_USED = (*LESION_COLUMNS, "series_uid", "diameter_mm")
"""What is read of the nodule table; the ratings come with the contours from the database."""

CATEGORIES = {"internal_structure": min, "calcification": max}
"""Ratings that name a kind instead of a degree, and the winner where two kinds tie.

1 is soft tissue, 6 is absent calcification: in doubt, nothing special is drawn.
"""

Cube = NDArray[np.float64]  # (32, 32, 32) zyx, 1 mm voxels


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on: the rendering's version and the annotations; `data` is unused."""
    database_path()
    return {"rendering": VERSION, "annotations_sha256": DATABASE_SHA256}


def patches(nodules: pd.DataFrame, data: Path | None = None) -> Iterator[Patch]:
    """Render every nodule of the table; `data` is unused. Those of one series come together.

    A nodule's patch depends on its own row and readers only, to the bit: not on the other rows.
    Only `COLUMNS_USED` are looked at.

    Raises:
        InputError: a row does not fit the annotation database.
    """
    for scan, lesion in lesions_by_scan(nodules[list(COLUMNS_USED)]):
        diameter_mm, ratings = lesion.row["diameter_mm"], mean_ratings(lesion.readings)
        distance = lesion_distance(scan, lesion.readings, lesion.centre_xyz, diameter_mm)
        rendered = render(lesion.name, distance, ratings, scan.slice_thickness_mm)
        yield Patch(lesion.name, rendered.with_noise_hu, rendered.mask)


def mean_ratings(readings: Sequence[Reading]) -> dict[str, float]:
    """The readers' mean of each characteristic; of kinds (`CATEGORIES`) the most frequent."""
    ratings = {}
    for name in readings[0].characteristics:
        given = [reading.characteristics[name] for reading in readings]
        if name in CATEGORIES:
            counts = Counter(given)
            most = max(counts.values())
            winner = CATEGORIES[name](kind for kind, count in counts.items() if count == most)
            ratings[name] = float(winner)
        else:
            ratings[name] = float(np.mean(given))
    return ratings


def lesion_distance(
    scan: Scan, readings: Sequence[Reading], centre_xyz: NDArray[np.float64], diameter_mm: float
) -> Cube:
    """Distance to the lesion's surface, mm, positive inside, on the patch's grid.

    The lesion is the consensus of half of the readers. Where that is empty it is what any reader
    drew, and where that is empty too, a ball of their mean diameter. The patch's centre has x and y
    in pixels and z in mm.
    """
    consensus = reference_mask(scan, readings)
    if consensus.mask.any():
        return lesion_distance_on_grid(consensus, centre_xyz, PATCH_SIZE)
    return diameter_mm / 2 - _distance_from(np.zeros(3))


@dataclass(frozen=True, eq=False)
class Rendering:
    """A rendered nodule; all arrays are (32, 32, 32) zyx, 1 mm voxels."""

    clean_hu: Cube  # what an ideal detector would give
    with_noise_hu: NDArray[np.int16]
    share: Cube  # of each voxel's intensity that is lesion: above 0.5 inside the outline
    mask: NDArray[np.bool_]


def render(
    nodule_id: str, distance: Cube, ratings: dict[str, float], slice_thickness_mm: float
) -> Rendering:
    """Render one nodule.

    Readers draw on the image, so on the already blurred nodule: the lesion is scaled such that its
    half-height surface, not that of some sharper object behind it, lies on their outline, and such
    that the inner half of a small nodule, too, has the full density that they rated.

    Args:
        nodule_id: seeds all that is random.
        distance: to the lesion's surface, mm, positive inside (`lesion_distance`).
        ratings: as `mean_ratings` gives them.
        slice_thickness_mm: the full width at half maximum of the blur along z.
    """
    mask = lesion_mask(distance)
    psf = np.array([slice_thickness_mm / 2.355, PSF_SIGMA_MM, PSF_SIGMA_MM])
    edge = np.hypot(psf, 0.35 * (5 - ratings["margin"]))
    blurred = gaussian_filter(np.clip(distance + 0.5, 0, 1), edge, mode="nearest")
    falling = np.sort(blurred, axis=None)[::-1]
    last = int(mask.sum()) - 1
    half = max(float(falling[last]), 1e-6)
    full = max(min(2 * half, float(falling[last // 2])), half + 1e-6)
    share = np.interp(blurred, [0, half, full], [0, 0.5, 1])
    lesion_hu = gaussian_filter(_lesion_hu(nodule_id, distance, mask, ratings), psf, mode="nearest")
    lung_hu = gaussian_filter(_lung_hu(nodule_id, distance), psf, mode="nearest")
    weight = share
    if ratings["spiculation"] >= 3:
        weight = np.maximum(share, gaussian_filter(_spicules(nodule_id, mask, ratings), psf))
    clean = lung_hu + weight * (lesion_hu - lung_hu)
    noisy = clean + _noise_hu(nodule_id, slice_thickness_mm)
    return Rendering(
        clean_hu=clean,
        with_noise_hu=np.clip(np.rint(noisy), -1024, 3071).astype(np.int16),
        share=share,
        mask=mask,
    )


def lesion_mask(distance: Cube) -> NDArray[np.bool_]:
    """The innermost voxels, as many as the lesion has mm^3 in the cube (at least one)."""
    count = max(1, round(float(np.clip(distance + 0.5, 0, 1).sum())))
    mask = np.zeros(distance.size, dtype=bool)
    mask[np.argsort(-distance, axis=None, kind="stable")[:count]] = True
    return mask.reshape(distance.shape)


def _generator(nodule_id: str, part: str) -> np.random.Generator:
    """Random numbers of one part of one nodule, independent of every other part and nodule."""
    digest = hashlib.sha256(f"{VERSION}/{nodule_id}/{part}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _axes_mm(origin_zyx: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Positions of the voxel centres along z, y and x, relative to a point; they broadcast."""
    return list(np.ix_(*(grid_offsets_mm(PATCH_SIZE) - origin for origin in origin_zyx)))


def _distance_from(point_zyx: NDArray[np.float64]) -> Cube:
    z, y, x = _axes_mm(point_zyx)
    return np.asarray(np.sqrt(z * z + y * y + x * x), dtype=float)


def _smooth_field(random: np.random.Generator, sigma_mm: float | NDArray[np.float64]) -> Cube:
    """Smoothed white noise with mean 0 and standard deviation 1."""
    white = random.standard_normal(3 * (PATCH_SIZE,))
    field: Cube = gaussian_filter(white, sigma_mm, mode="wrap")
    field -= field.mean()
    field /= field.std()
    return field


def _innermost(depth: Cube, mask: NDArray[np.bool_], part: float) -> Cube:
    """The deepest part (0 to 1) of a lesion as a share of each voxel, soft over 1 mm."""
    if part <= 0 or part >= 1:
        return np.full(depth.shape, float(part >= 1))
    return np.clip(depth - np.quantile(depth[mask], 1 - part) + 0.5, 0, 1)


def _lesion_hu(
    nodule_id: str, distance: Cube, mask: NDArray[np.bool_], ratings: dict[str, float]
) -> Cube:
    """Density of the lesion's tissue; outside the lesion, that of its rim."""
    random = _generator(nodule_id, "tissue")
    # Texture 1 is all ground-glass; at 3 a third of the volume is solid, from 4.5 on all of it.
    solid_part = np.clip((ratings["texture"] - 1.25) / 3.25, 0, 1) ** 1.8
    depth = distance + 0.7 * _smooth_field(random, 2.0)  # cores are seldom concentric
    core = _innermost(depth, mask, float(solid_part))
    if ratings["internal_structure"] == 4:  # what is innermost is air: the solid part is the wall
        core = np.full(depth.shape, solid_part)
    grain = _smooth_field(random, 1.5)
    ground_glass = random.normal(GROUND_GLASS_HU, 25) + 40 * grain
    solid = random.normal(SOLID_HU, 12) + 12 * grain
    density = ground_glass + core * (solid - ground_glass)
    inner, inner_hu = _internal_structure(random, depth, mask, int(ratings["internal_structure"]))
    density += inner * (inner_hu - density)
    calcium = _calcium(random, depth, mask, int(ratings["calcification"]))
    return density + calcium * (random.uniform(300, 700) - density)


def _internal_structure(
    random: np.random.Generator, depth: Cube, mask: NDArray[np.bool_], kind: int
) -> tuple[Cube, float]:
    """Share of each voxel and density of what fills a lesion that is not soft tissue."""
    part, hu = {
        1: (0.0, SOLID_HU),
        2: (0.75, random.uniform(0, 15)),
        3: (0.8, FAT_HU),
        4: (0.35, AIR_HU),
    }[kind]
    return _innermost(depth, mask, part), hu


def _calcium(
    random: np.random.Generator, depth: Cube, mask: NDArray[np.bool_], pattern: int
) -> Cube:
    """Share of each voxel that is calcified, for the pattern that the readers named."""
    deepest = float(depth[mask].max())
    if pattern == 1:  # popcorn: a few clumps
        return _innermost(_smooth_field(random, 1.3) + np.minimum(depth, 1), mask, 0.4)
    if pattern == 2:  # laminated: shells
        period = float(np.clip(deepest, 2.5, 5))
        shells: Cube = np.cos(2 * np.pi * (depth - deepest) / period)
        return np.clip(0.5 + 1.5 * shells, 0, 1)
    if pattern == 3:  # solid: all of it
        return np.ones(depth.shape)
    if pattern == 4:  # non-central: a ball beside the centre
        low, high = np.quantile(depth[mask], [0.4, 0.7])
        beside = np.argwhere(mask & (depth >= low) & (depth <= high))
        if not len(beside):  # a speck
            beside = np.argwhere(mask)
        centre = beside[random.integers(len(beside))]
        away = _distance_from(grid_offsets_mm(PATCH_SIZE)[centre])
        return np.clip(0.45 * deepest + 1 - away, 0, 1)
    if pattern == 5:  # central
        return _innermost(depth, mask, 0.3)
    return np.zeros(depth.shape)  # 6: absent


def _lung_hu(nodule_id: str, distance: Cube) -> Cube:
    """Aerated lung with vessels, as it would be without the lesion.

    No vessel comes within 3 mm of the lesion: it would be seen, and measured, as part of it.
    """
    random = _generator(nodule_id, "lung")
    lung = random.normal(LUNG_HU, 20) + 18 * _smooth_field(random, 4.0)
    lung += 22 * _smooth_field(random, 1.2)
    vessels = np.zeros(distance.shape)
    far = distance < -3
    outside = np.argwhere(far)
    if not len(outside):
        return lung
    for radius in np.exp(random.uniform(np.log(0.5), np.log(2.0), random.integers(7, 15))):
        start = grid_offsets_mm(PATCH_SIZE)[outside[random.integers(len(outside))]]
        away = _unit(start)
        direction = _unit(random.standard_normal(3))
        direction = _unit(direction - random.uniform(0, 1) * direction.dot(away) * away)
        tubes = [_tube(start, direction, 0.012 * random.standard_normal(3), radius)]
        for _ in range(random.integers(0, 3)):
            twig = _unit(direction + 0.9 * random.standard_normal(3))
            thin = max(0.4, radius * random.uniform(0.4, 0.7))
            bend = 0.015 * random.standard_normal(3)
            tubes.append(_tube(start, twig, bend, thin, one_way=True))
        for inside, filled in tubes:
            if far[inside].all():
                vessels[inside] = np.maximum(vessels[inside], filled)
    return lung + vessels * (VESSEL_HU - lung)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _tube(
    start_zyx: NDArray[np.float64],
    direction: NDArray[np.float64],
    bend: NDArray[np.float64],
    radius_mm: float,
    one_way: bool = False,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A slightly bent tube: the voxels of the cube that it meets, and its share of each.

    The tube's axis is start + t direction + t^2 bend, for t >= 0 or else for every t.
    """
    # In 32 bit, which halves the time of what takes most of it.
    across = (bend - bend.dot(direction) * direction).astype(np.float32)
    direction = direction.astype(np.float32)
    z, y, x = (axis.astype(np.float32) for axis in _axes_mm(start_zyx))
    ahead = direction[0] * z + direction[1] * y + direction[2] * x
    t = np.maximum(ahead, 0) if one_way else ahead
    t2 = t * t
    # |offset - t direction - t^2 bend|^2, multiplied out
    squared = (z * z + y * y + x * x) + t * (t - 2 * ahead)
    squared += t2 * (t2 * across.dot(across) - 2 * (across[0] * z + across[1] * y + across[2] * x))
    inside = squared < (radius_mm + 0.5) ** 2
    away = np.sqrt(np.maximum(squared[inside], 0))
    filled = min(1.0, np.pi * radius_mm**2)  # a tube thinner than a voxel cannot fill it
    return inside, filled * np.minimum(radius_mm + 0.5 - away, 1)


def _spicules(nodule_id: str, mask: NDArray[np.bool_], ratings: dict[str, float]) -> Cube:
    """Faint rays from the lesion into the lung, more of them the higher spiculation is rated.

    They stay below half of the lesion's contrast, so that they do not add to its volume.
    """
    random = _generator(nodule_id, "spicules")
    centre = grid_offsets_mm(PATCH_SIZE)[0] + np.argwhere(mask).mean(axis=0)
    length = random.uniform(3, 6)
    rays = np.zeros(mask.shape)
    for _ in range(round(4 * ratings["spiculation"]) - 4):
        bend = 0.01 * random.standard_normal(3)
        direction = _unit(random.standard_normal(3))
        inside, filled = _tube(centre, direction, bend, 0.6, one_way=True)
        rays[inside] = np.maximum(rays[inside], filled)
    outside: Cube = distance_transform_edt(~mask)
    return 0.6 * rays * np.clip(1 - outside / length, 0, 1)


def _noise_hu(nodule_id: str, slice_thickness_mm: float) -> Cube:
    """Image noise, correlated over about a voxel, and along z over the slice thickness."""
    random = _generator(nodule_id, "noise")
    sigma_mm = np.array([0.25 * slice_thickness_mm, 0.5, 0.5])
    return random.uniform(15, 40) * _smooth_field(random, sigma_mm)
