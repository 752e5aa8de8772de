"""CT in: a scan as LUNA16's .mhd or as a DICOM series, and only the part of it that is needed.

A `Volume` knows where its voxels lie and reads a box of them on demand. Indices and world
coordinates are xyz (world: the patient's left, back and head, mm, as DICOM and SimpleITK have
it), arrays are zyx. Everything about a file is checked before its voxels are used: files come
from downloads of 120 GB, and some of them will be broken.
"""

import hashlib
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, sha256, write_json

# ITK writes warnings past Python; what matters of them is checked here and said in full.
sitk.ProcessObject.SetGlobalWarningDisplay(False)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Box = NDArray[Any]  # (z, y, x) of any number type

UNEVEN_MM = 0.1
"""Slices are evenly spaced where no distance between neighbours is further from the median.

The 888 scans of LUNA16, by the slice positions in the annotation database: one has a larger
deviation (LIDC-IDRI-0123, 0.75 mm), in the others it is below 2 % of the spacing.
"""

_ORTHONORMAL = 1e-3
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


# -------------------------------------------------------------------------------- geometry


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


def _even_geometry(
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
        raise InputError(f"{name}: voxel spacing {_listed(spacing)} mm must be above 0")
    if not np.isfinite(origin).all():
        raise InputError(f"{name}: origin {_listed(origin)} mm must be finite")
    if not np.allclose(matrix.T @ matrix, np.eye(3), atol=_ORTHONORMAL):
        raise InputError(f"{name}: the axes' directions {_listed(matrix)} are not at right angles")
    return Geometry(
        size_xyz=(int(size_xyz[0]), int(size_xyz[1]), int(size_xyz[2])),
        origin_xyz_mm=origin,
        spacing_xyz_mm=spacing,
        direction=matrix,
        slices_mm=np.arange(size_xyz[2]) * spacing[2],
    )


def _listed(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:g}" for value in values.ravel())


# ---------------------------------------------------------------------------------- volumes


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
    geometry = _even_geometry(
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


# --------------------------------------------------------------------------------- .mhd files

_NUMPY = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MAX_HEADER = 1 << 16
_MAX_VOXELS = 1 << 31  # 512 x 512 x 8192
_AGAIN = "download the scan again"


def find_mhd(folder: Path, any_name: bool = False) -> dict[str, list[Path]]:
    """The `.mhd` files of a folder and the folders in it, by their name without the ending.

    LUNA16 names each file by its SeriesInstanceUID. Other `.mhd` files are left alone.

    Args:
        folder: where to look.
        any_name: take those others, too.
    """
    found: dict[str, list[Path]] = {}
    for path in _files(folder):
        if path.suffix.lower() == ".mhd" and (any_name or _UID.fullmatch(path.stem)):
            found.setdefault(path.stem, []).append(path)
    return dict(sorted(found.items()))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; hidden ones and those of other systems left out."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(here, name)


@dataclass(frozen=True)
class MhdHeader:
    """What the text of an `.mhd` file says, checked against the file that it names."""

    size_xyz: tuple[int, int, int]
    number_type: str  # MET_SHORT, ...
    compressed: bool
    big_endian: bool
    data: Path

    @property
    def voxel_type(self) -> np.dtype[Any]:
        """The numbers of the voxel file."""
        return np.dtype((">" if self.big_endian else "<") + _NUMPY[self.number_type])


def read_mhd_header(path: Path) -> MhdHeader:
    """Read and check an `.mhd` header; no voxel is read.

    Raises:
        InputError: the header lacks something or disagrees with itself or with its voxel file.
    """
    values = _mhd_values(path)

    def numbers(key: str, count: int, *others: str) -> list[float]:
        for name in (key, *others):
            if name in values:
                return _numbers(path, name, values[name], count)
        raise InputError(f"{path}: the header has no {key}; {_AGAIN}")

    if values.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path}: ObjectType is {values['ObjectType']}, but must be Image")
    if numbers("NDims", 1) != [3]:
        raise InputError(f"{path}: NDims is {values['NDims']}, but a scan has 3 axes")
    size = numbers("DimSize", 3)
    if any(n < 1 or n != int(n) for n in size) or math.prod(size) > _MAX_VOXELS:
        raise InputError(f"{path}: DimSize is {values['DimSize']}, which is no scan's; {_AGAIN}")
    spacing = numbers("ElementSpacing", 3, "ElementSize")
    if min(spacing) <= 0:
        raise InputError(f"{path}: ElementSpacing {_listed(np.array(spacing))} must be above 0")
    numbers("Offset", 3, "Position", "Origin")
    matrix = np.array(numbers("TransformMatrix", 9, "Rotation", "Orientation")).reshape(3, 3)
    if not np.allclose(matrix.T @ matrix, np.eye(3), atol=_ORTHONORMAL):
        raise InputError(
            f"{path}: TransformMatrix {_listed(matrix)}: the axes are not at right angles"
        )
    if int(numbers("ElementNumberOfChannels", 1)[0]) != 1:
        raise InputError(f"{path}: ElementNumberOfChannels must be 1: a scan has one number")
    number_type = values.get("ElementType", "")
    if number_type not in _NUMPY:
        raise InputError(
            f"{path}: ElementType is {number_type!r}, but must be one of {', '.join(_NUMPY)}"
        )
    if values.get("BinaryData", "True").lower() != "true" or _numbers(
        path, "HeaderSize", values.get("HeaderSize", "0"), 1
    ) != [0]:
        raise InputError(f"{path}: text or skipped bytes in the voxel file are not supported")
    order = values.get("BinaryDataByteOrderMSB", values.get("ElementByteOrderMSB", "False"))
    header = MhdHeader(
        size_xyz=(int(size[0]), int(size[1]), int(size[2])),
        number_type=number_type,
        compressed=_flag(path, "CompressedData", values.get("CompressedData", "False")),
        big_endian=_flag(path, "BinaryDataByteOrderMSB", order),
        data=_data_file(path, values.get("ElementDataFile", "")),
    )
    _check_data_size(path, header)
    return header


def _mhd_values(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > _MAX_HEADER:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes are no .mhd header; {_AGAIN}")
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text, so no .mhd header; {_AGAIN}") from None
    # The defaults are those of the format for what LUNA16's files may leave out.
    values = {"ElementNumberOfChannels": "1"}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition("=")
        if not line.strip():
            continue
        if not equals or "\0" in line:
            raise InputError(f"{path}: line {number}: {line[:60]!r} is not 'key = value'; {_AGAIN}")
        key, value = key.strip(), value.strip()
        if values.get(key, value) != value and key != "ElementNumberOfChannels":
            raise InputError(f"{path}: line {number}: a second {key}, another one; {_AGAIN}")
        values[key] = value
    return values


def _numbers(path: Path, key: str, text: str, count: int) -> list[float]:
    try:
        found = [float(part) for part in text.split()]
    except ValueError:
        found = []
    if len(found) != count or not np.isfinite(found).all():
        raise InputError(
            f"{path}: {key} is {text[:60]!r}, but must be {count} finite "
            f"number{'s' if count > 1 else ''}; {_AGAIN}"
        )
    return found


def _flag(path: Path, key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InputError(f"{path}: {key} is {text[:60]!r}, but must be True or False")
    return text.lower() == "true"


def _data_file(path: Path, name: str) -> Path:
    if not name:
        raise InputError(f"{path}: the header has no ElementDataFile; {_AGAIN}")
    if name in ("LIST", "LOCAL") or "%" in name:
        raise InputError(
            f"{path}: ElementDataFile = {name} is not supported; write the scan with one .raw file"
        )
    # Only the folder that the user named is read.
    if Path(name).name != name or "\\" in name or name in (".", ".."):
        raise InputError(
            f"{path}: ElementDataFile {name!r} must be a file beside the header, without a folder"
        )
    data = path.with_name(name)
    if not data.is_file():
        raise InputError(f"{path}: its voxel file {name} is missing; {_AGAIN}")
    return data


def _check_data_size(path: Path, header: MhdHeader) -> None:
    there, due = header.data.stat().st_size, _voxel_bytes(header)
    if header.compressed:
        if there == 0:
            raise InputError(f"{header.data}: is empty; {_AGAIN}")
    elif there != due:
        size = " x ".join(str(n) for n in header.size_xyz)
        raise InputError(
            f"{header.data}: {there:,} bytes, but {path.name} says {size} voxels of "
            f"{header.number_type}: {due:,} bytes; {_AGAIN}"
        )


def _voxel_bytes(header: MhdHeader) -> int:
    return math.prod(header.size_xyz) * header.voxel_type.itemsize


def open_mhd(path: Path) -> Volume:
    """Open an `.mhd` scan.

    Where the voxels lie comes from SimpleITK. Of an uncompressed voxel file only the rows that a
    box meets are read: SimpleITK's own reading of a box is fifteen times slower. A compressed one
    is decompressed whole, once, when the first box is asked for.

    Raises:
        InputError: as `read_mhd_header`; or when a box is read, the voxels cannot be had.
    """
    header = read_mhd_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: {_last_line(error)}") from None
    geometry = _even_geometry(
        str(path),
        reader.GetSize(),
        reader.GetOrigin(),
        reader.GetSpacing(),
        reader.GetDirection(),
    )
    if geometry.size_xyz != header.size_xyz:
        raise InputError(f"{path}: DimSize {header.size_xyz} is read as {geometry.size_xyz}")

    @cache
    def inflated() -> Callable[[tuple[int, int, int], tuple[int, int, int]], Box]:
        return box_reader(_inflate(header))

    def read(first: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        if header.compressed:
            return inflated()(first, size)
        return _read_rows(header, first, size)

    return Volume(str(path), geometry, read)


def _read_rows(
    header: MhdHeader, first_xyz: tuple[int, int, int], size_xyz: tuple[int, int, int]
) -> Box:
    """A box of an uncompressed voxel file: in each slice, the rows that it meets."""
    (x, y, z), (dx, dy, dz) = first_xyz, size_xyz
    columns, rows, _ = header.size_xyz
    row_bytes = columns * header.voxel_type.itemsize
    box = np.empty((dz, dy, columns), dtype=header.voxel_type)
    try:
        with header.data.open("rb", buffering=0) as file:
            for k in range(dz):
                file.seek(((z + k) * rows + y) * row_bytes)
                view = memoryview(box[k]).cast("B")
                while len(view) and (count := file.readinto(view)):
                    view = view[count:]
                if len(view):
                    raise InputError(f"{header.data}: ends within slice {z + k}; {_AGAIN}")
    except OSError as error:
        raise InputError(f"{header.data}: cannot be read ({error.strerror})") from None
    return box[:, :, x : x + dx]


def _inflate(header: MhdHeader) -> Box:
    """The voxels of a `.zraw` file; exactly as many bytes as the header says, or an error."""
    due = _voxel_bytes(header)
    voxels = bytearray()
    stream = zlib.decompressobj()
    try:
        with header.data.open("rb") as file:
            while (block := file.read(1 << 20)) and len(voxels) <= due and not stream.eof:
                # One byte too many is enough to know, however much the file would unfold to.
                voxels += stream.decompress(block, due + 1 - len(voxels))
                while stream.unconsumed_tail and len(voxels) <= due:
                    voxels += stream.decompress(stream.unconsumed_tail, due + 1 - len(voxels))
    except zlib.error as error:
        raise InputError(
            f"{header.data}: damaged, does not decompress ({error}); {_AGAIN}"
        ) from None
    except OSError as error:
        raise InputError(f"{header.data}: cannot be read ({error.strerror})") from None
    if len(voxels) != due or not stream.eof:
        raise InputError(
            f"{header.data}: decompresses to {'more' if len(voxels) > due else 'less'} than the "
            f"{due:,} bytes that its header says; {_AGAIN}"
        )
    return np.frombuffer(voxels, dtype=header.voxel_type).reshape(header.size_xyz[::-1])


def _last_line(error: Exception) -> str:
    """What ITK says at the end of its many lines, without the address of its object."""
    line = str(error).strip().splitlines()[-1].strip()
    return re.sub(r"^ITK ERROR: |\w+\(0x[0-9a-f]+\): ", "", line)


# ------------------------------------------------------------------------------ DICOM series


def find_dicom(
    folder: Path, wanted: Collection[str] | None = None, index_json: Path | None = None
) -> dict[str, list[Path]]:
    """The files of DICOM series in a folder and the folders in it, whatever the layout.

    A series is what has the same SeriesInstanceUID, wherever its files lie. Files that are no
    DICOM are left alone.

    Args:
        folder: where to look.
        wanted: SeriesInstanceUIDs; other series are left out. All series where None.
        index_json: remembers what each folder held, by names, sizes and times of its files, so
            that only new folders are read again.
    """
    known = _known_folders(index_json)
    now: dict[str, dict[str, Any]] = {}
    by_folder: dict[Path, list[Path]] = {}
    for path in _files(folder):
        if path.suffix.lower() not in (".mhd", ".raw", ".zraw", ".xml", ".csv", ".zip", ".png"):
            by_folder.setdefault(path.parent, []).append(path)
    found: dict[str, list[Path]] = {}
    for here, files in by_folder.items():
        stamp = _stamp(files)
        entry = known.get(str(here))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            series: dict[str, list[str]] = {}
            for path in files:
                series.setdefault(_series_uid(path), []).append(path.name)
            series.pop("", None)
            entry = {"stamp": stamp, "series": series}
        now[str(here)] = entry
        for uid, names in entry["series"].items():
            if wanted is None or uid in wanted:
                found.setdefault(uid, []).extend(here / name for name in names)
    if index_json is not None and now != known:
        write_json(now, index_json)
    return dict(sorted(found.items()))


def _known_folders(index_json: Path | None) -> dict[str, Any]:
    if index_json is None or not index_json.is_file():
        return {}
    try:
        known = read_json(index_json)
    except InputError:  # only a memory: it is made anew
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        about = path.stat()
        digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _series_uid(path: Path) -> str:
    """A file's SeriesInstanceUID; "" where it is no DICOM file, or too damaged to say."""
    try:
        with pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
        ) as d:
            return str(d.get("SeriesInstanceUID", ""))
    except (InvalidDicomError, EOFError, ValueError, OSError, KeyError, AttributeError):
        return ""


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What the header of one file of a CT series says."""

    path: Path
    sop_uid: str
    position_xyz_mm: NDArray[np.float64]  # centre of the first pixel
    orientation: NDArray[np.float64]  # (2, 3): where columns and rows count to
    spacing_xy_mm: tuple[float, float]
    size_xy: tuple[int, int]
    thickness_mm: float  # nan where it is not said


_TAGS = [
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
]


def read_dicom_slice(path: Path, series_uid: str) -> DicomSlice:
    """Read and check the header of one file; its pixels are not read.

    Raises:
        InputError: not DICOM, of another series, or something in it is missing or impossible.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)  # type: ignore[arg-type]
        uid = str(header.get("SeriesInstanceUID", ""))
        values = {tag: header.get(tag) for tag in _TAGS}
    except (InvalidDicomError, EOFError) as error:
        raise InputError(f"{path}: no readable DICOM file ({error}); {_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{path}: its DICOM header is damaged ({error}); {_AGAIN}") from None
    if uid != series_uid:
        raise InputError(f"{path}: SeriesInstanceUID is {uid!r}, but must be {series_uid}")
    position = _dicom_numbers(path, values, "ImagePositionPatient", 3)
    orientation = _dicom_numbers(path, values, "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(orientation @ orientation.T, np.eye(2), atol=_ORTHONORMAL):
        raise InputError(
            f"{path}: ImageOrientationPatient {_listed(orientation)} is not at right angles"
        )
    row_mm, column_mm = _dicom_numbers(path, values, "PixelSpacing", 2)
    if not (row_mm > 0 and column_mm > 0):
        raise InputError(f"{path}: PixelSpacing {row_mm:g} {column_mm:g} must be above 0")
    rows, columns = (int(_dicom_numbers(path, values, tag, 1)[0]) for tag in ("Rows", "Columns"))
    if min(rows, columns) < 1 or values["SamplesPerPixel"] != 1:
        raise InputError(
            f"{path}: {rows} x {columns} pixels of {values['SamplesPerPixel']} numbers: no CT image"
        )
    # Without these the stored numbers are not known to be Hounsfield units.
    slope = _dicom_numbers(path, values, "RescaleSlope", 1)[0]
    _dicom_numbers(path, values, "RescaleIntercept", 1)
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0: every pixel would have the same value")
    thickness = values["SliceThickness"]
    return DicomSlice(
        path=path,
        sop_uid=str(values["SOPInstanceUID"]),
        position_xyz_mm=position,
        orientation=orientation,
        spacing_xy_mm=(float(column_mm), float(row_mm)),
        size_xy=(columns, rows),
        thickness_mm=float(thickness) if thickness else math.nan,
    )


def _dicom_numbers(
    path: Path, values: Mapping[str, Any], tag: str, count: int
) -> NDArray[np.float64]:
    value = values[tag]
    try:
        numbers = np.atleast_1d(np.array(value, dtype=float))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if value is None or numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(
            f"{path}: {tag} is {value!r}, but must be {count} finite "
            f"number{'s' if count > 1 else ''}; {_AGAIN}"
        )
    return numbers


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A CT series: its slices in order of position, and what was found odd about them."""

    uid: str
    slices: tuple[DicomSlice, ...]
    positions_mm: NDArray[np.float64]  # along the normal of the slices, increasing
    duplicates: int  # files left out because another holds the same slice


def read_dicom_series(files: Sequence[Path], series_uid: str) -> DicomSeries:
    """Read the headers of a series' files and put its slices in order.

    A slice that is there twice is taken once where both files hold the same image.

    Raises:
        InputError: there is no file; a header is damaged; files differ in size, pixel spacing or
            orientation, do not lie one above the other, or two different images in one place.
    """
    if not files:
        raise InputError(f"series {series_uid}: no file of it is there; download the series")
    slices = [read_dicom_slice(path, series_uid) for path in files]
    first = slices[0]
    for other in slices[1:]:
        for what, same in (
            ("size", other.size_xy == first.size_xy),
            ("PixelSpacing", np.allclose(other.spacing_xy_mm, first.spacing_xy_mm, atol=1e-4)),
            ("orientation", np.allclose(other.orientation, first.orientation, atol=1e-3)),
        ):
            if not same:
                raise InputError(
                    f"{other.path}: another {what} than {first.path.name}, in one series; {_AGAIN}"
                )
    normal = np.cross(*first.orientation)
    slices.sort(key=lambda s: (float(s.position_xyz_mm @ normal), s.path))
    kept, duplicates = [slices[0]], 0
    for here in slices[1:]:
        step = here.position_xyz_mm - kept[-1].position_xyz_mm
        along = float(step @ normal)
        if along < 1e-3:
            if here.sop_uid != kept[-1].sop_uid and not _same_pixels(here, kept[-1]):
                raise InputError(
                    f"{here.path}: another image in the same place as {kept[-1].path.name}; "
                    "leave one of them in the folder"
                )
            duplicates += 1
        elif np.linalg.norm(step - along * normal) > 0.02 * along + 1e-3:
            raise InputError(
                f"{here.path}: does not lie straight above {kept[-1].path.name} (tilted gantry?); "
                "such a scan is not supported"
            )
        else:
            kept.append(here)
    positions = np.array([float(s.position_xyz_mm @ normal) for s in kept])
    return DicomSeries(series_uid, tuple(kept), positions, duplicates)


def _same_pixels(a: DicomSlice, b: DicomSlice) -> bool:
    return bool(np.array_equal(_read_slice_hu(a), _read_slice_hu(b)))


def _read_slice_hu(about: DicomSlice) -> Box:
    """One slice (rows, columns) in HU; its own rescale slope and intercept are applied."""
    try:
        image = sitk.ReadImage(str(about.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(
            f"{about.path}: its pixels cannot be read ({_last_line(error)}); {_AGAIN}"
        ) from None
    pixels = sitk.GetArrayFromImage(image).squeeze()
    if pixels.shape != about.size_xy[::-1]:
        raise InputError(
            f"{about.path}: {pixels.shape} pixels, but its header says {about.size_xy[::-1]}"
        )
    if np.issubdtype(pixels.dtype, np.floating) or pixels.max() > 32767 or pixels.min() < -32768:
        return pixels
    return pixels.astype(np.int16)


def open_dicom(files: Sequence[Path], series_uid: str, spacing_mm: float = 1.0) -> Volume:
    """Open a DICOM series; a slice's pixels are read when a box needs them.

    Slices need not be evenly spaced: their own positions are used (see `check_spacing`).

    Args:
        files: all files of the series, in any order (`find_dicom`).
        series_uid: its SeriesInstanceUID.
        spacing_mm: of the slices, where there is one only.

    Raises:
        InputError: as `read_dicom_series`; or when a box is read, a slice cannot be read.
    """
    return volume_of_series(read_dicom_series(files, series_uid), spacing_mm)


def volume_of_series(series: DicomSeries, spacing_mm: float = 1.0) -> Volume:
    """A volume of a series whose headers are read already (see `open_dicom`)."""
    first = series.slices[0]
    steps = np.diff(series.positions_mm)
    geometry = Geometry(
        size_xyz=(*first.size_xy, len(series.slices)),
        origin_xyz_mm=first.position_xyz_mm,
        spacing_xyz_mm=np.array(
            [*first.spacing_xy_mm, float(np.median(steps)) if len(steps) else spacing_mm]
        ),
        direction=np.column_stack([*first.orientation, np.cross(*first.orientation)]),
        slices_mm=series.positions_mm - series.positions_mm[0],
    )

    @lru_cache(maxsize=64)  # 32 MB; neighbouring nodules need the same slices
    def pixels(k: int) -> Box:
        return _read_slice_hu(series.slices[k])

    def read(start: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        (x, y, z), (dx, dy, dz) = start, size
        return np.stack([pixels(k)[y : y + dy, x : x + dx] for k in range(z, z + dz)])

    return Volume(f"series {series.uid}", geometry, read)


# ------------------------------------------------------------------------------- scan rules


@dataclass(frozen=True)
class SpacingCheck:
    """How evenly a scan's slices lie. Lengths in mm."""

    slices: int
    spacing_mm: float  # median; nan for a single slice
    largest_deviation_mm: float  # of a distance between neighbours from it
    missing: tuple[float, ...]  # positions along the third axis at which slices seem to be missing

    @property
    def even(self) -> bool:
        """Whether no distance deviates by more than `UNEVEN_MM`."""
        return self.largest_deviation_mm <= UNEVEN_MM


def check_spacing(positions_mm: NDArray[np.float64]) -> SpacingCheck:
    """Look for uneven spacing and missing slices (paper 3.1.1).

    A distance of about a whole number of spacings is taken for missing slices; any other that
    deviates is uneven spacing.

    Args:
        positions_mm: of the slices, increasing.
    """
    steps = np.diff(positions_mm)
    if not len(steps):
        return SpacingCheck(len(positions_mm), math.nan, 0.0, ())
    spacing = float(np.median(steps))
    missing: list[float] = []
    for low, high in pairwise(positions_mm.tolist()):
        count = round((high - low) / spacing)
        if count >= 2 and abs((high - low) - count * spacing) <= UNEVEN_MM * count:
            missing += [low + k * spacing for k in range(1, count)]
    return SpacingCheck(
        slices=len(positions_mm),
        spacing_mm=spacing,
        largest_deviation_mm=float(np.abs(steps - spacing).max()),
        missing=tuple(missing),
    )


def scan_identity(files: Sequence[Path]) -> str:
    """A scan's identity without reading all of it: its files' names and sizes, headers' contents.

    A hash of 120 GB would take longer than the patches.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix.lower() == ".mhd":
            digest.update(sha256(path).encode())
    return digest.hexdigest()
