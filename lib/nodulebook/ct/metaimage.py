"""MetaImage scans: `.mhd` headers with a `.raw` or `.zraw` voxel file, as LUNA16 has them."""

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nodulebook.core.errors import InputError
from nodulebook.ct.folder import files_below
from nodulebook.ct.volume import (
    AGAIN,
    ORTHONORMAL,
    Box,
    Volume,
    box_reader,
    even_geometry,
    last_line,
    listed,
)

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


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


def find_mhd(folder: Path, any_name: bool = False) -> dict[str, list[Path]]:
    """The `.mhd` files of a folder and the folders in it, by their name without the ending.

    LUNA16 names each file by its SeriesInstanceUID. Other `.mhd` files are left alone.

    Args:
        folder: where to look.
        any_name: take those others, too.
    """
    found: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if path.suffix.lower() == ".mhd" and (any_name or _UID.fullmatch(path.stem)):
            found.setdefault(path.stem, []).append(path)
    return dict(sorted(found.items()))


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
        raise InputError(f"{path}: the header has no {key}; {AGAIN}")

    if values.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path}: ObjectType is {values['ObjectType']}, but must be Image")
    if numbers("NDims", 1) != [3]:
        raise InputError(f"{path}: NDims is {values['NDims']}, but a scan has 3 axes")
    size = numbers("DimSize", 3)
    if any(n < 1 or n != int(n) for n in size) or math.prod(size) > _MAX_VOXELS:
        raise InputError(f"{path}: DimSize is {values['DimSize']}, which is no scan's; {AGAIN}")
    spacing = numbers("ElementSpacing", 3, "ElementSize")
    if min(spacing) <= 0:
        raise InputError(f"{path}: ElementSpacing {listed(np.array(spacing))} must be above 0")
    numbers("Offset", 3, "Position", "Origin")
    matrix = np.array(numbers("TransformMatrix", 9, "Rotation", "Orientation")).reshape(3, 3)
    if not np.allclose(matrix.T @ matrix, np.eye(3), atol=ORTHONORMAL):
        raise InputError(
            f"{path}: TransformMatrix {listed(matrix)}: the axes are not at right angles"
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
            raise InputError(f"{path}: {path.stat().st_size:,} bytes are no .mhd header; {AGAIN}")
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text, so no .mhd header; {AGAIN}") from None
    # The defaults are those of the format for what LUNA16's files may leave out.
    values = {"ElementNumberOfChannels": "1"}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition("=")
        if not line.strip():
            continue
        if not equals or "\0" in line:
            raise InputError(f"{path}: line {number}: {line[:60]!r} is not 'key = value'; {AGAIN}")
        key, value = key.strip(), value.strip()
        if values.get(key, value) != value and key != "ElementNumberOfChannels":
            raise InputError(f"{path}: line {number}: a second {key}, another one; {AGAIN}")
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
            f"number{'s' if count > 1 else ''}; {AGAIN}"
        )
    return found


def _flag(path: Path, key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InputError(f"{path}: {key} is {text[:60]!r}, but must be True or False")
    return text.lower() == "true"


def _data_file(path: Path, name: str) -> Path:
    if not name:
        raise InputError(f"{path}: the header has no ElementDataFile; {AGAIN}")
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
        raise InputError(f"{path}: its voxel file {name} is missing; {AGAIN}")
    return data


def _check_data_size(path: Path, header: MhdHeader) -> None:
    there, due = header.data.stat().st_size, _voxel_bytes(header)
    if header.compressed:
        if there == 0:
            raise InputError(f"{header.data}: is empty; {AGAIN}")
    elif there != due:
        size = " x ".join(str(n) for n in header.size_xyz)
        raise InputError(
            f"{header.data}: {there:,} bytes, but {path.name} says {size} voxels of "
            f"{header.number_type}: {due:,} bytes; {AGAIN}"
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
        raise InputError(f"{path}: {last_line(error)}") from None
    geometry = even_geometry(
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
                    raise InputError(f"{header.data}: ends within slice {z + k}; {AGAIN}")
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
            f"{header.data}: damaged, does not decompress ({error}); {AGAIN}"
        ) from None
    except OSError as error:
        raise InputError(f"{header.data}: cannot be read ({error.strerror})") from None
    if len(voxels) != due or not stream.eof:
        raise InputError(
            f"{header.data}: decompresses to {'more' if len(voxels) > due else 'less'} than the "
            f"{due:,} bytes that its header says; {AGAIN}"
        )
    return np.frombuffer(voxels, dtype=header.voxel_type).reshape(header.size_xyz[::-1])
