"""A CT scan whose voxels are read on demand, and where they lie in the world.

Indices and world coordinates are xyz (world: the patient's left, back and head, mm, as DICOM and
SimpleITK have it), arrays are zyx.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nodulebook.core.errors import InputError

Box = NDArray[Any]  # (z, y, x) of any number type
Three = tuple[int, int, int]

AIR_HU = -500
"""A CT scan of the chest has voxels below this, in the lung and around the body."""

STRAY_MM = 0.2
"""So far may a voxel lie from where a scan's geometry puts it, anywhere in the scan."""

ASIDE_MM = 1e-3
"""Slices that lie less aside are straight above each other: rounding in headers moves them as far.

At an edge of 1000 HU a mm it changes a voxel by 1 HU, to which patches are rounded.
"""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a scan lie in the world.

    Slices are parallel; they need not be evenly spaced (`slices_mm`), nor lie straight one above
    the other (`shift_xy_mm`, as with a tilted gantry).
    """

    size_xyz: Three
    origin_xyz_mm: NDArray[np.float64]  # centre of voxel (0, 0, 0)
    spacing_xyz_mm: NDArray[np.float64]  # of z: the median
    direction: NDArray[np.float64]  # (3, 3); column i: where index i points to, z: the normal
    slices_mm: NDArray[np.float64]  # (size z,), along the normal, increasing from 0
    shift_xy_mm: NDArray[np.float64] = field(default_factory=lambda: np.zeros((1, 2)))
    """(size z, 2): how far voxel (0, 0) of each slice lies aside along the x and y axes."""

    def to_world(self, index_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """World positions (..., 3) in mm of voxel indices (..., 3); fractions are allowed."""
        index = np.asarray(index_xyz, dtype=float)
        z_mm = self._slice_mm(index[..., 2])
        along = np.stack([*self._shift(z_mm), z_mm], axis=-1)
        along[..., :2] += index[..., :2] * self.spacing_xyz_mm[:2]
        world: NDArray[np.float64] = along @ self.direction.T + self.origin_xyz_mm
        return world

    def to_index(self, world_xyz_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel indices (..., 3), with fractions, of world positions (..., 3) in mm."""
        away = np.asarray(world_xyz_mm, dtype=float) - self.origin_xyz_mm
        index: NDArray[np.float64] = away @ np.linalg.inv(self.direction).T
        index[..., :2] -= np.stack(self._shift(index[..., 2]), axis=-1)
        index[..., :2] /= self.spacing_xyz_mm[:2]
        count = self.size_xyz[2]
        if count == 1:
            index[..., 2] /= self.spacing_xyz_mm[2]
        else:
            index[..., 2] = _interpolated(index[..., 2], self.slices_mm, np.arange(count))
        return index

    def _slice_mm(self, index_z: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.size_xyz[2] == 1:
            return np.asarray(index_z * self.spacing_xyz_mm[2])
        return _interpolated(index_z, np.arange(self.size_xyz[2]), self.slices_mm)

    def _shift(self, z_mm: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        if not self.shift_xy_mm.any():
            return [np.zeros_like(z_mm)] * 2
        return [_interpolated(z_mm, self.slices_mm, shift) for shift in self.shift_xy_mm.T]

    @property
    def sheared(self) -> bool:
        """Whether slices do not lie straight above each other: x and y indices depend on z."""
        return bool(np.abs(self.shift_xy_mm - self.shift_xy_mm[0]).max() > ASIDE_MM)

    @property
    def slice_z_mm(self) -> NDArray[np.float64]:
        """World z of voxel (0, 0) of every slice."""
        corners = np.zeros((self.size_xyz[2], 3))
        corners[:, 2] = np.arange(self.size_xyz[2])
        return self.to_world(corners)[:, 2]


def _interpolated(
    x: NDArray[np.float64], known_x: NDArray[Any], known_y: NDArray[Any]
) -> NDArray[np.float64]:
    """Piecewise linear through the known points, continued straight beyond the ends."""
    y: NDArray[np.float64] = np.interp(x, known_x, known_y)
    first = (known_y[1] - known_y[0]) / (known_x[1] - known_x[0])
    last = (known_y[-1] - known_y[-2]) / (known_x[-1] - known_x[-2])
    y += np.minimum(x - known_x[0], 0) * first + np.maximum(x - known_x[-1], 0) * last
    return y


def even_geometry(
    name: str,
    size_xyz: Sequence[int],
    origin_xyz_mm: Sequence[float],
    spacing_xyz_mm: Sequence[float],
    direction: NDArray[np.float64],
) -> Geometry:
    """A geometry with evenly spaced slices; column i of `direction` is where index i points to.

    Raises:
        InputError: not 3-D, no voxel, a spacing that is not positive, or axes so far from right
            angles or unit length that a voxel of the scan would lie elsewhere (`STRAY_MM`).
    """
    if len(size_xyz) != 3 or min(size_xyz) < 1:
        raise InputError(f"{name}: size {tuple(size_xyz)}, but a scan has three axes of voxels")
    spacing, origin = np.array(spacing_xyz_mm, float), np.array(origin_xyz_mm, float)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(f"{name}: voxel spacing {numbers(spacing)} mm must be above 0")
    if not np.isfinite(origin).all():
        raise InputError(f"{name}: origin {numbers(origin)} mm must be finite")
    reach_mm = np.array(size_xyz) * spacing
    error_mm = np.abs(direction.T @ direction - np.eye(3)) * reach_mm
    if not error_mm.max() <= STRAY_MM:
        raise InputError(
            f"{name}: the axes' directions {numbers(direction)} are not at right angles; "
            "resample the scan to straight axes"
        )
    x, y, z = (int(n) for n in size_xyz)
    return Geometry((x, y, z), origin, spacing, direction, np.arange(z) * spacing[2])


def numbers(values: NDArray[np.float64]) -> str:
    """The numbers as text, for messages."""
    return " ".join(f"{value:g}" for value in values.ravel())


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan whose voxels are read when they are asked for."""

    name: str  # file or series, for messages
    geometry: Geometry
    read_box: Callable[[Three, Three], Box]
    """First index and size, both xyz, inside the scan, to voxels (z, y, x) in HU."""
    notes: tuple[str, ...] = ()
    """What the user of a patch should know: files left out, slices that seem to be missing."""

    def region_hu(self, first_xyz: Three, size_xyz: Three) -> NDArray[np.float32]:
        """A box of voxels inside the scan, first index and size in xyz: (z, y, x) in HU.

        Raises:
            InputError: the file cannot be read there, or holds what cannot be HU.
        """
        box = self.read_box(first_xyz, size_xyz)
        if np.issubdtype(box.dtype, np.floating) and not np.isfinite(box).all():
            z, y, x = (int(i) for i in np.argwhere(~np.isfinite(box))[0])
            x, y, z = x + first_xyz[0], y + first_xyz[1], z + first_xyz[2]
            raise InputError(f"{self.name}: voxel x {x}, y {y}, slice {z} is not a finite number")
        if box.size and not (float(box.min()) >= -32768 and float(box.max()) <= 32767):
            raise InputError(
                f"{self.name}: values from {box.min():g} to {box.max():g} are not Hounsfield "
                "units; is the file another image, or its number type another?"
            )
        return box.astype(np.float32)

    def sample_hu(self) -> NDArray[np.float32]:
        """Three whole slices (3, y, x), at a quarter, a half and three quarters of the scan."""
        x, y, z = self.geometry.size_xyz
        return np.concatenate(
            [self.region_hu((0, 0, k * (z - 1) // 4), (x, y, 1)) for k in (1, 2, 3)]
        )

    def check_is_ct(self, whole: bool = True) -> "Volume":
        """The volume itself, where its values can be CT of a `whole` chest, which has air in it.

        Raises:
            InputError: it is a mask, a label map, a picture of 8 bits, a map of distances or doses.
        """
        sample = np.unique(self.sample_hu())
        low, high = float(sample[0]), float(sample[-1])
        # Lung and the air around a body are below -500 HU. Without the rescaling of DICOM, CT
        # counts from 0 and reaches beyond bone's 1024; a patch of it is scored with a warning.
        few = len(sample) <= 64
        stored = low >= -1 and high > 1024 and not few
        picture = low >= -1 and (high <= 255 or few) and (whole or low < high)
        # Labels rescaled as if they were CT count from -1024, or are -1000 and 0: none is lung.
        no_lung = few and not ((sample > -960) & (sample < AIR_HU)).any()
        if picture or (whole and (no_lung or (low >= AIR_HU and not stored))):
            raise InputError(
                f"{self.name}: values from {low:g} to {high:g} are not Hounsfield units of a "
                "chest: a mask, a label map, another image, or an incomplete download? Name the "
                "CT scan itself"
            )
        if few:
            note = f"{len(sample)} different values only: is it a mask?"
            return replace(self, notes=(*self.notes, note))
        return self


def volume_of_image(image: sitk.Image, name: str = "image") -> Volume:
    """A SimpleITK image in memory as a volume; its voxels are not copied.

    Raises:
        InputError: not three axes, more than one number per voxel, or axes not at right angles.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name}: {image.GetDimension()} axes, {image.GetNumberOfComponentsPerPixel()} "
            "numbers a voxel; a scan has 3 axes and one number a voxel"
        )
    direction = np.array(image.GetDirection()).reshape(3, 3)
    geometry = even_geometry(
        name, image.GetSize(), image.GetOrigin(), image.GetSpacing(), direction
    )

    def read(first: Three, size: Three) -> Box:
        # The view does not keep its image alive, so `image` is held here and viewed each time.
        return box_of(sitk.GetArrayViewFromImage(image), first, size)

    return Volume(name, geometry, read)


def box_of(voxels: Box, first_xyz: Three, size_xyz: Three) -> Box:
    """A box of voxels (z, y, x) in memory."""
    (x, y, z), (dx, dy, dz) = first_xyz, size_xyz
    box: Box = voxels[z : z + dz, y : y + dy, x : x + dx]
    return box
