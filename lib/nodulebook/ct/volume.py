"""CT in: a scan as LUNA16's .mhd or as a DICOM series, and only the part of it that is needed.

A `Volume` knows where its voxels lie and reads a box of them on demand. Indices and world
coordinates are xyz (world: the patient's left, back and head, mm, as DICOM and SimpleITK have
it), arrays are zyx. Everything about a file is checked before its voxels are used: files come
from downloads of 120 GB, and some of them will be broken.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nodulebook.core.errors import InputError

Box = NDArray[Any]  # (z, y, x) of any number type


ORTHONORMAL = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a scan lie in the world.

    `slices_mm` is the position of each slice along the third axis, from the first one: in DICOM
    series the slices need not be evenly spaced.
    """

    size_xyz: tuple[int, int, int]
    origin_xyz_mm: NDArray[np.float64]  # centre of voxel (0, 0, 0)
    spacing_xyz_mm: NDArray[np.float64]  # of z: the median
    direction: NDArray[np.float64]  # (3, 3); column i is where index i points to in the world
    slices_mm: NDArray[np.float64]  # (size z,), increasing from 0

    def to_world(self, index_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """World positions (..., 3) in mm of voxel indices (..., 3); fractions are allowed."""
        index = np.asarray(index_xyz, dtype=float)
        along = np.stack(
            [
                index[..., 0] * self.spacing_xyz_mm[0],
                index[..., 1] * self.spacing_xyz_mm[1],
                _interpolated(index[..., 2], np.arange(self.size_xyz[2]), self.slices_mm)
                if self.size_xyz[2] > 1
                else index[..., 2] * self.spacing_xyz_mm[2],
            ],
            axis=-1,
        )
        world: NDArray[np.float64] = along @ self.direction.T + self.origin_xyz_mm
        return world

    def to_index(self, world_xyz_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel indices (..., 3), with fractions, of world positions (..., 3) in mm."""
        away = np.asarray(world_xyz_mm, dtype=float) - self.origin_xyz_mm
        index: NDArray[np.float64] = away @ np.linalg.inv(self.direction).T
        index[..., :2] /= self.spacing_xyz_mm[:2]
        if self.size_xyz[2] > 1:
            index[..., 2] = _interpolated(
                index[..., 2], self.slices_mm, np.arange(self.size_xyz[2])
            )
        else:
            index[..., 2] /= self.spacing_xyz_mm[2]
        return index

    @property
    def slice_z_mm(self) -> NDArray[np.float64]:
        """World z of voxel (0, 0) of every slice."""
        z_mm: NDArray[np.float64] = self.origin_xyz_mm[2] + self.slices_mm * self.direction[2, 2]
        return z_mm


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
    direction: Sequence[float],
) -> Geometry:
    """A geometry with evenly spaced slices; `direction` row by row, as SimpleITK gives it.

    Raises:
        InputError: not 3-D, no voxel, a spacing that is not positive, axes not at right angles.
    """
    if len(size_xyz) != 3 or min(size_xyz) < 1:
        raise InputError(f"{name}: size {tuple(size_xyz)}, but a scan has three axes of voxels")
    spacing, origin = np.array(spacing_xyz_mm, float), np.array(origin_xyz_mm, float)
    matrix = np.array(direction, float).reshape(3, 3)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(f"{name}: voxel spacing {listed(spacing)} mm must be above 0")
    if not np.isfinite(origin).all():
        raise InputError(f"{name}: origin {listed(origin)} mm must be finite")
    if not np.allclose(matrix.T @ matrix, np.eye(3), atol=ORTHONORMAL):
        raise InputError(f"{name}: the axes' directions {listed(matrix)} are not at right angles")
    return Geometry(
        size_xyz=(int(size_xyz[0]), int(size_xyz[1]), int(size_xyz[2])),
        origin_xyz_mm=origin,
        spacing_xyz_mm=spacing,
        direction=matrix,
        slices_mm=np.arange(size_xyz[2]) * spacing[2],
    )


def listed(values: NDArray[np.float64]) -> str:
    """The numbers as text, for messages."""
    return " ".join(f"{value:g}" for value in values.ravel())


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan whose voxels are read when they are asked for."""

    name: str  # file or series, for messages
    geometry: Geometry
    read_box: Callable[[tuple[int, int, int], tuple[int, int, int]], Box]
    """First index and size, both xyz, inside the scan, to voxels (z, y, x) in HU."""

    def region_hu(
        self, first_xyz: tuple[int, int, int], size_xyz: tuple[int, int, int]
    ) -> NDArray[np.float32]:
        """A box of voxels, (z, y, x) in HU.

        Args:
            first_xyz: index of its first voxel; the box must lie inside the scan.
            size_xyz: its edges in voxels.

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
                f"{self.name}: values from {box.min():g} to {box.max():g} are no Hounsfield units; "
                "is the file another image, or its number type another?"
            )
        return box.astype(np.float32)


def volume_of_image(image: sitk.Image, name: str = "image") -> Volume:
    """A SimpleITK image in memory as a volume; its voxels are not copied.

    Raises:
        InputError: not three axes, more than one number a voxel, or axes not at right angles.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name}: {image.GetDimension()} axes, {image.GetNumberOfComponentsPerPixel()} "
            "numbers a voxel; a scan has 3 axes and one number a voxel"
        )
    geometry = even_geometry(
        name, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    )

    def read(first: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        # A view does not keep its image alive: so the image is held, and viewed anew.
        return box_reader(sitk.GetArrayViewFromImage(image))(first, size)

    return Volume(name, geometry, read)


def box_reader(
    voxels: Box,
) -> Callable[[tuple[int, int, int], tuple[int, int, int]], Box]:
    """`Volume.read_box` for voxels (z, y, x) in memory."""

    def read(first: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        (x, y, z), (dx, dy, dz) = first, size
        box: Box = voxels[z : z + dz, y : y + dy, x : x + dx]
        return box

    return read


AGAIN = "download the scan again"


def last_line(error: Exception) -> str:
    """What ITK says at the end of its many lines, without the address of its object."""
    line = str(error).strip().splitlines()[-1].strip()
    return re.sub(r"^ITK ERROR: |\w+\(0x[0-9a-f]+\): ", "", line)
