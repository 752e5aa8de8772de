"""Cubes of 32 voxels at 1 mm around a point of a scan, and their window of Hounsfield units."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from nodulebook.core.errors import InputError
from nodulebook.ct.spacing import first_gap
from nodulebook.ct.volume import Volume, volume_of_image
from nodulebook.data.contours import grid_offsets_mm

PATCH_SIZE = 32
"""Edge of a patch in voxels (paper 3.1.2), at 1 mm (paper 5.1)."""


WINDOW_HU = (-1200.0, 600.0)
"""The paper prints "[1200, 600]"; DeepLung, whose protocol it follows, has [-1200, 600]."""


LUNG_HU = -860
"""Typical aerated lung; used where a source has no image."""


def scale_to_unit(volume_hu: NDArray[Any]) -> NDArray[np.float32]:
    """Clip to the window [-1200, 600] HU, then scale to [0, 1] (paper 5.1, order mended)."""
    low, high = WINDOW_HU
    scaled = np.array(volume_hu, dtype=np.float32)  # a copy, on which the rest works in place
    np.clip(scaled, low, high, out=scaled)
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return scaled


def extract_patch(
    image: sitk.Image | Volume,
    centre_xyz_mm: Sequence[float] | NDArray[np.float64],
    size: int = PATCH_SIZE,
    spacing_mm: float = 1.0,
    background_hu: float = LUNG_HU,
) -> NDArray[np.float32]:
    """Cut a cube out of a scan, resampled linearly (paper 3.1.2 and 5.1).

    Its axes are those of the world, whatever the scan's: along them it runs to the patient's head,
    back and left. Only the voxels around the cube are touched, so the scan is never resampled, and
    of a `Volume` on disk not even read. As in SimpleITK, half a voxel beyond the outermost voxel
    centres still belongs to the scan; what lies beyond is `background_hu`.

    Returns:
        (size, size, size) zyx in HU; voxel i of an axis lies at centre + (i - (size - 1) / 2) x
        spacing.

    Raises:
        InputError: the centre is not three finite numbers, the cube lies wholly outside the scan,
            or the scan cannot be read there.
    """
    volume = image if isinstance(image, Volume) else volume_of_image(image)
    centre = np.array(centre_xyz_mm, dtype=float)
    if centre.shape != (3,) or not np.isfinite(centre).all():
        raise InputError(
            f"{volume.name}: centre {centre_xyz_mm} must be three finite numbers in mm"
        )
    if size < 1 or not 0 < spacing_mm < float("inf"):
        raise InputError(f"a patch of {size} voxels of {spacing_mm} mm: both must be above 0")
    offsets_mm = grid_offsets_mm(size, spacing_mm)
    turned = np.abs(volume.geometry.direction)
    along_axes = bool((np.count_nonzero(turned > 1e-9, axis=0) == 1).all())
    if along_axes and not volume.geometry.sheared:
        patch = _along_axes(volume, centre, offsets_mm, turned.argmax(axis=0), background_hu)
    else:
        patch = _oblique(volume, centre, offsets_mm, background_hu)
    if patch is None:
        away = ", ".join(f"{value:.1f}" for value in centre)
        raise InputError(f"{volume.name}: the patch at x, y, z = {away} mm lies outside the scan")
    return patch


def _region(
    volume: Volume, low_xyz: NDArray[np.float64], high_xyz: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The voxels (z, y, x) that positions between two indices need, and the first one's index."""
    last = np.array(volume.geometry.size_xyz) - 1
    first = np.floor(np.clip(low_xyz, 0, last) + 1e-6).astype(np.int64)
    size = np.ceil(np.clip(high_xyz, 0, last) - 1e-6).astype(np.int64) + 1 - first
    size = np.maximum(size, 1)
    gap = first_gap(volume.geometry.slices_mm, int(first[2]), int(size[2]))
    if gap is not None:
        z_mm = volume.geometry.slice_z_mm
        raise InputError(
            f"{volume.name}: slices are missing between z {z_mm[gap]:g} and {z_mm[gap + 1]:g} mm, "
            "within the patch; get the missing slices"
        )
    return volume.region_hu(_three(first), _three(size)), first


def _three(values: NDArray[np.int64]) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


def _along_axes(
    volume: Volume,
    centre: NDArray[np.float64],
    offsets_mm: NDArray[np.float64],
    world_axis: NDArray[np.int64],
    background_hu: float,
) -> NDArray[np.float32] | None:
    """A patch of a scan whose axes are the world's, in some order and sense: axis by axis.

    Its slices lie straight above each other, so that each index depends on one axis alone.
    `world_axis` is, for each index of the scan, the axis of the world that it counts along.
    """
    index = []
    for axis in range(3):
        world_xyz = np.tile(centre, (len(offsets_mm), 1))
        world_xyz[:, world_axis[axis]] += offsets_mm
        index.append(volume.geometry.to_index(world_xyz)[:, axis])
    size_xyz = volume.geometry.size_xyz
    inside = [
        (i >= -0.5 - 1e-6) & (i <= n - 0.5 + 1e-6) for i, n in zip(index, size_xyz, strict=True)
    ]
    if not all(axis.any() for axis in inside):
        return None
    low, high = (
        np.array([edge(i[there]) for i, there in zip(index, inside, strict=True)])
        for edge in (np.min, np.max)
    )
    patch, first = _region(volume, low, high)
    for axis in range(3):
        length = patch.shape[2 - axis]
        here = np.clip(index[axis] - first[axis], 0, length - 1)
        below = np.minimum(here.astype(np.int64), max(0, length - 2))
        shape = [1, 1, 1]
        shape[2 - axis] = len(here)
        weight = (here - below).astype(np.float32).reshape(shape)
        above = patch.take(np.minimum(below + 1, length - 1), 2 - axis)
        patch = patch.take(below, 2 - axis)
        patch += weight * (above - patch)
    for axis in range(3):
        np.moveaxis(patch, 2 - axis, 0)[~inside[axis]] = background_hu
    order = np.argsort(2 - world_axis[::-1])
    return np.ascontiguousarray(patch.transpose(order))


def _oblique(
    volume: Volume,
    centre: NDArray[np.float64],
    offsets_mm: NDArray[np.float64],
    background_hu: float,
) -> NDArray[np.float32] | None:
    """A patch of a scan whose axes are not those of the world, or whose slices are sheared."""
    z, y, x = np.meshgrid(offsets_mm, offsets_mm, offsets_mm, indexing="ij")
    index_xyz = volume.geometry.to_index(np.stack([x, y, z], axis=-1) + centre)
    last = np.array(volume.geometry.size_xyz) - 1
    inside = ((index_xyz >= -0.5 - 1e-6) & (index_xyz <= last + 0.5 + 1e-6)).all(axis=-1)
    if not inside.any():
        return None
    there = index_xyz[inside]
    region, first = _region(volume, there.min(axis=0), there.max(axis=0))
    patch: NDArray[np.float32] = map_coordinates(
        region,
        np.moveaxis(index_xyz - first, -1, 0)[::-1],
        order=1,
        mode="nearest",
        prefilter=False,
    )
    patch[~inside] = background_hu
    return patch


def central_slab(volumes_hu: NDArray[np.int16], thickness: int) -> NDArray[np.int16]:
    """Show every patch over the same extent along z: its central planes, and nothing beyond.

    A plane of the slab that the source left empty (`LUNG_HU` throughout) repeats the nearest plane
    that it has, so that the number of planes says nothing of the nodule.

    Args:
        volumes_hu: (n, z, y, x).
        thickness: planes to show.

    Returns:
        (n, z, y, x), `LUNG_HU` outside the slab.

    Raises:
        InputError: a patch has no plane at all.
    """
    depth = volumes_hu.shape[1]
    first = (depth - thickness) // 2
    out = np.full_like(volumes_hu, LUNG_HU)
    for row, volume in enumerate(volumes_hu):
        (there,) = np.nonzero((volume != LUNG_HU).any(axis=(1, 2)))
        if not len(there):
            raise InputError(f"patch {row} has no image in any plane: nothing to show in a slab")
        for z in range(first, first + thickness):
            out[row, z] = volume[there[np.argmin(np.abs(there - z))]]
    return out
