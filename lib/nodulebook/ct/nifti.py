"""NIfTI scans (`.nii`, `.nii.gz`).

NIfTI's world is RAS: x increases to the patient's right, y to the front, z to the head. The world
of DICOM, of SimpleITK and of this library is LPS: x increases to the left, y to the back. A voxel
that a NIfTI affine puts at (x, y, z) therefore lies at (-x, -y, z) here.
"""

import gzip
import math
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.ct.folder import reading
from nodulebook.ct.volume import STRAY_MM, Box, Three, Volume, even_geometry

_MAX_VOXELS = 1 << 31
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def open_nifti(path: Path) -> Volume:
    """Open a NIfTI scan. Of an uncompressed file only the box that is asked for is read.

    Raises:
        InputError: it is damaged; not one 3-D image of numbers; in another unit than mm; or its
            header does not say where its voxels lie, or says so twice and differently.
    """
    with reading(path):
        image: Any = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise InputError(f"{path}: is {type(image).__name__}, not NIfTI")
        header = image.header
        shape = tuple(int(n) for n in image.shape)
        kind = image.get_data_dtype()
        forms = [
            np.asarray(form, float)
            for form, code in (image.get_sform(coded=True), image.get_qform(coded=True))
            if code
        ]
        unit = header.get_xyzt_units()[0]
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or kind.fields is not None:
        raise InputError(f"{path}: {shape} voxels of {kind}: not one 3-D image of numbers")
    if math.prod(shape) > _MAX_VOXELS:
        raise InputError(f"{path}: {shape} voxels, which is no scan's")
    if unit not in ("mm", "unknown"):
        raise InputError(f"{path}: its lengths are in {unit}; write it in mm")
    if not forms:
        raise InputError(
            f"{path}: neither its sform nor its qform is set, so the header does not say where the "
            "voxels lie; convert the scan from its DICOM files again"
        )
    _check_same(path, forms, shape[:3])
    affine = _RAS_TO_LPS @ forms[0][:3]
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = affine[:, :3] / spacing
    geometry = even_geometry(
        str(path), shape[:3], list(affine[:, 3]), list(spacing), np.nan_to_num(direction)
    )

    voxels: Any = image.dataobj
    due = int(voxels.offset) + math.prod(shape) * kind.itemsize
    packed = path.suffix.lower() == ".gz"
    if not packed and path.stat().st_size != due:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes, but its header says {due:,}")

    @cache
    def unpacked() -> Box:
        with reading(path), gzip.open(path) as file:
            content = file.read(due + 1)  # beyond the end, so that the checksum is compared
            if len(content) != due:
                raise InputError(f"{path}: does not unpack to the {due:,} bytes of its header")
            return np.asanyarray(type(image).from_bytes(content).dataobj).reshape(shape[:3])

    def read(first: Three, size: Three) -> Box:
        x, y, z = (slice(a, a + n) for a, n in zip(first, size, strict=True))
        if packed:
            return np.asanyarray(unpacked()[x, y, z].T)
        rest = (0,) * (len(shape) - 3)
        with reading(path):
            box: Box = np.asanyarray(voxels[(x, y, z, *rest)])
            return box.T

    return Volume(str(path), geometry, read)


def _check_same(path: Path, forms: list[NDArray[np.float64]], shape: tuple[int, ...]) -> None:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    first, *others = [(form @ corners)[:3] for form in forms]
    if any(not np.abs(first - other).max() <= STRAY_MM for other in others):
        raise InputError(
            f"{path}: its sform and its qform put the voxels in different places; convert the scan "
            "from its DICOM files again"
        )
