"""Patches: cubes of 32 voxels at 1 mm around each nodule, their window, and their store.

Every data source (`nodulebook.patches.sources`) fills the same store, so that nothing
downstream depends on where the voxels came from.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from nodulebook.core.errors import InputError
from nodulebook.core.files import (
    folder_written_aside,
    read_csv,
    read_json,
    sha256,
    write_csv,
    write_json,
)
from nodulebook.ct.volumes import Volume, volume_of_image
from nodulebook.data.contours import ConsensusMask, grid_offsets_mm, occupancy_on_grid

PATCH_SIZE = 32
"""Edge of a patch in voxels (paper 3.1.2), at 1 mm (paper 5.1)."""

WINDOW_HU = (-1200.0, 600.0)
"""The paper prints "[1200, 600]"; DeepLung, whose protocol it follows, has [-1200, 600]."""

LUNG_HU = -860
"""Typical aerated lung; stands where a source has no image."""


@dataclass(frozen=True, eq=False)
class Patch:
    """One nodule's cube. Both arrays are (32, 32, 32) zyx, 1 mm voxels."""

    nodule_id: str
    volume_hu: NDArray[np.int16]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PatchStore:
    """A source's patches on disk, in the order of `table`'s rows."""

    source: str
    volumes_hu: NDArray[np.int16]  # (n, 32, 32, 32) zyx
    masks: NDArray[np.bool_]  # (n, 32, 32, 32) zyx; the readers' consensus
    table: pd.DataFrame  # nodule_id, patient_id, series_uid
    digest: str  # SHA-256 over volumes, masks and table
    recipe: dict[str, str]

    def rows(self, nodule_ids: Iterable[str]) -> NDArray[np.int64]:
        """Row numbers of the nodules, in the order asked for.

        Raises:
            InputError: a nodule is not in the store.
        """
        position = {name: row for row, name in enumerate(self.table["nodule_id"])}
        wanted = list(nodule_ids)
        absent = [name for name in wanted if name not in position]
        if absent:
            raise InputError(
                f"{len(absent)} nodules are not in the {self.source} patches, "
                f"the first is {absent[0]}"
            )
        return np.array([position[name] for name in wanted], dtype=np.int64)


def scale_to_unit(volume_hu: NDArray[Any]) -> NDArray[np.float32]:
    """Clip to the window [-1200, 600] HU, then scale to [0, 1] (paper 5.1, order mended)."""
    low, high = WINDOW_HU
    scaled: NDArray[np.float32] = np.clip(volume_hu, low, high).astype(np.float32)
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
    centres still belongs to the scan.

    Args:
        image: the scan.
        centre_xyz_mm: the middle of the cube in the world, between its voxels where `size` is even.
        size: voxels along an edge.
        spacing_mm: from voxel to voxel.
        background_hu: what lies outside the scan.

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
    if (np.count_nonzero(turned > 1e-9, axis=0) == 1).all():
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

    Args:
        world_axis: for each index of the scan, the axis of the world that it counts along.
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
    """A patch of a scan that lies anyhow."""
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


def mask_patch(
    consensus: ConsensusMask, centre_xyz: NDArray[np.float64], direction: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The readers' consensus on the voxels of a nodule's patch.

    Args:
        consensus: the mask on the scan's own grid; it must hold a voxel.
        centre_xyz: middle of the patch: x and y in the scan's pixels, z in mm.
        direction: (3, 3) the scan's axes (`volumes.Geometry`): slices across the patient, columns
            along x or y of the world, either way round.

    Returns:
        (32, 32, 32) zyx along the world's axes, 1 mm voxels.

    Raises:
        InputError: the scan's axes are not the world's.
    """
    x_axis, y_axis = (int(np.abs(direction[:, i]).argmax()) for i in (0, 1))
    if {x_axis, y_axis} != {0, 1} or np.abs(direction).max(axis=0).min() < 0.999:
        raise InputError("the scan's slices are oblique: its outlines cannot be laid into a patch")
    mask = occupancy_on_grid(consensus, centre_xyz, PATCH_SIZE) >= 0.5
    # The patch lies symmetric about its centre: turned axes are only counted backwards.
    if direction[x_axis, 0] < 0:
        mask = mask[:, :, ::-1]
    if direction[y_axis, 1] < 0:
        mask = mask[:, ::-1]
    return np.ascontiguousarray(mask.swapaxes(1, 2) if x_axis == 1 else mask)


def central_slab(volumes_hu: NDArray[np.int16], thickness: int) -> NDArray[np.int16]:
    """Show every patch over the same extent along z: its central planes, and nothing beyond.

    A plane of the slab that the source left empty repeats the nearest plane that it has, so that
    the number of planes says nothing of the nodule.

    Args:
        volumes_hu: (n, z, y, x); a plane that is `LUNG_HU` throughout counts as empty.
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


def write_store(
    folder: Path,
    source: str,
    patches: Iterator[Patch],
    nodules: pd.DataFrame,
    recipe: dict[str, str],
) -> None:
    """Write a source's patches as a store; nothing is left behind if it is interrupted.

    Args:
        folder: the store's folder; an older one is replaced at the end.
        source: the source's name.
        patches: the source's patches, at most one a row of `nodules`, in any order.
        nodules: columns nodule_id, patient_id, series_uid; the nodules that may come.
        recipe: what the patches depend on, as text; a store is used again while it is equal.
    """
    with folder_written_aside(folder) as aside:
        wanted = nodules.set_index("nodule_id")
        shape = (len(nodules), PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
        volumes = _new_array(aside / "volumes_hu.npy", np.int16, shape)
        masks = _new_array(aside / "masks.npy", np.bool_, shape)
        names: list[str] = []
        start = time.monotonic()
        for patch in patches:
            volumes[len(names)], masks[len(names)] = patch.volume_hu, patch.mask
            names.append(patch.nodule_id)
            if len(names) % 100 == 0:
                rate = (time.monotonic() - start) / len(names)
                left = rate * (len(nodules) - len(names))
                print(
                    f"{source}: {len(names)} of {len(nodules)} patches, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
        if not names:
            raise InputError(f"source {source}: none of the {len(nodules)} nodules was found")
        volumes.flush()
        masks.flush()
        del volumes, masks
        if len(names) < len(nodules):
            for name in ("volumes_hu.npy", "masks.npy"):
                full = np.load(aside / name, mmap_mode="r")
                np.save(aside / f"short-{name}", full[: len(names)])
                del full
                shutil.move(aside / f"short-{name}", aside / name)
        table = wanted.loc[names, ["patient_id", "series_uid"]].reset_index()
        write_csv(table, aside / "table.csv")
        digest = sha256(*(aside / name for name in ("volumes_hu.npy", "masks.npy", "table.csv")))
        write_json({"source": source, "digest": digest, "recipe": recipe}, aside / "store.json")


def _new_array(path: Path, kind: Any, shape: tuple[int, ...]) -> Any:
    """A new .npy file as an array in memory, its place on the disk already taken.

    On a full disk, writing to an array whose place is not taken ends the process with SIGBUS.
    """
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                    raise  # other errors: this kind of disk cannot say beforehand
    return array


def read_store(folder: Path) -> PatchStore:
    """Open a store (its arrays stay on disk until used).

    Raises:
        InputError: a file of it is missing or does not fit the others.
    """
    about = read_json(folder / "store.json")
    if not isinstance(about, dict) or not {"source", "digest", "recipe"} <= set(about):
        raise InputError(
            f"{folder / 'store.json'}: source, digest or recipe is missing; delete {folder}"
        )
    table = read_csv(
        folder / "table.csv", {"nodule_id": "str", "patient_id": "str", "series_uid": "str"}
    )
    shape = (len(table), PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    arrays = {}
    for name, dtype in (("volumes_hu.npy", np.int16), ("masks.npy", np.bool_)):
        try:
            # Unlike np.load, this takes a .npy file only, and no pickle.
            arrays[name] = np.lib.format.open_memmap(folder / name, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder / name}: cannot be read ({error}); delete {folder}"
            ) from None
        if arrays[name].shape != shape:
            raise InputError(
                f"{folder / name}: shape {arrays[name].shape}, but table.csv needs {shape}; "
                f"delete {folder}"
            )
        if arrays[name].dtype != dtype:
            raise InputError(
                f"{folder / name}: holds {arrays[name].dtype}, but must hold "
                f"{np.dtype(dtype)}; delete {folder}"
            )
    return PatchStore(
        source=about["source"],
        volumes_hu=arrays["volumes_hu.npy"],
        masks=arrays["masks.npy"],
        table=table,
        digest=about["digest"],
        recipe=about["recipe"],
    )
