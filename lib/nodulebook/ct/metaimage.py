"""MetaImage scans: `.mhd` with a voxel file next to it (`.raw`, `.zraw`, `.raw.gz`), or `.mha`.

A header is checked against itself and its voxel file before any voxel is used. Of uncompressed
voxels only the rows that a box meets are read; compressed ones are decompressed whole, once.
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.ct.folder import AGAIN, reading
from nodulebook.ct.volume import Box, Geometry, Three, Volume, box_of, even_geometry

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


@dataclass(frozen=True, eq=False)
class MetaHeader:
    """The header of a MetaImage file, checked against the file that holds its voxels."""

    geometry: Geometry
    voxel_type: np.dtype[Any]
    compressed: bool
    data: Path
    offset: int  # bytes before the voxels

    @property
    def voxel_bytes(self) -> int:
        """Size of the voxels in memory."""
        return math.prod(self.geometry.size_xyz) * self.voxel_type.itemsize


def read_header(path: Path) -> MetaHeader:
    """Read and check the header of an `.mhd` or `.mha` file; no voxel is read.

    Raises:
        InputError: the header lacks something or disagrees with itself or with its voxel file.
    """
    values, end = _values(path)

    def given(*names: str) -> str:
        for name in names:
            if name in values:
                return values[name]
        raise InputError(f"{path}: the header has no {names[0]}; {AGAIN}")

    def floats(count: int, *names: str) -> NDArray[np.float64]:
        return _numbers(path, names[0], given(*names), count)

    def flag(default: str, *names: str) -> bool:
        text = next((values[name] for name in names if name in values), default)
        if text.lower() not in ("true", "false"):
            raise InputError(f"{path}: {names[0]} is {text[:60]!r}, but must be True or False")
        return text.lower() == "true"

    if values.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path}: ObjectType is {values['ObjectType']}, but must be Image")
    if floats(1, "NDims") != [3]:
        raise InputError(f"{path}: NDims is {values['NDims']}, but a scan has 3 axes")
    size = floats(3, "DimSize")
    if any(n < 1 or n != int(n) for n in size) or math.prod(size) > _MAX_VOXELS:
        raise InputError(f"{path}: DimSize is {values['DimSize']}, which is no scan's; {AGAIN}")
    geometry = even_geometry(
        str(path),
        [int(n) for n in size],
        list(floats(3, "Offset", "Position", "Origin")),
        list(floats(3, "ElementSpacing", "ElementSize")),
        floats(9, "TransformMatrix", "Rotation", "Orientation").reshape(3, 3).T,
    )
    for name, due in (
        ("ElementNumberOfChannels", 1),
        ("HeaderSize", 0),
        ("ElementToIntensityFunctionSlope", 1),
        ("ElementToIntensityFunctionOffset", 0),
    ):
        if _numbers(path, name, values.get(name, str(due)), 1) != [due]:
            raise InputError(f"{path}: {name} is {values[name]}, but only {due} can be read")
    number_type = values.get("ElementType", "")
    if number_type not in _NUMPY:
        raise InputError(
            f"{path}: ElementType is {number_type!r}, but must be one of {', '.join(_NUMPY)}"
        )
    if not flag("True", "BinaryData"):
        raise InputError(f"{path}: voxels written as text are not supported; write them binary")
    big_endian = flag("False", "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    data = _data_file(path, given("ElementDataFile"))
    header = MetaHeader(
        geometry=geometry,
        voxel_type=np.dtype((">" if big_endian else "<") + _NUMPY[number_type]),
        compressed=flag("False", "CompressedData"),
        data=data,
        offset=end if data == path else 0,
    )
    there, due = data.stat().st_size - header.offset, header.voxel_bytes
    times = " x ".join(map(str, geometry.size_xyz))
    if there == 0 or (not header.compressed and there != due):
        raise InputError(
            f"{data}: {there:,} bytes, but {path.name} says {times} voxels of "
            f"{number_type}: {due:,} bytes; {AGAIN}"
        )
    return header


def _values(path: Path) -> tuple[dict[str, str], int]:
    """The header's keys and values, and the number of its bytes."""
    with reading(path), path.open("rb") as file:
        content = file.read(_MAX_HEADER + 1)
        at = content.find(b"ElementDataFile")
        end = content.find(b"\n", at) + 1 if at >= 0 else 0
        size = path.stat().st_size
    if size > _MAX_HEADER and not (end and path.suffix.lower() == ".mha"):
        raise InputError(f"{path}: {size:,} bytes are no .mhd header; {AGAIN}")
    text = content[: end or None].decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or key == "Comment":
            continue
        if not equals or "\0" in line:
            raise InputError(f"{path}: line {number}: {line[:60]!r} is not 'key = value'; {AGAIN}")
        if values.setdefault(key, value) != value:
            raise InputError(f"{path}: line {number}: a second {key}, another one; {AGAIN}")
    return values, end


def _numbers(path: Path, key: str, text: str, count: int) -> NDArray[np.float64]:
    try:
        found = np.array([float(part) for part in text.replace("_", "x").split()])
    except ValueError:
        found = np.empty(0)
    if len(found) != count or not np.isfinite(found).all():
        raise InputError(
            f"{path}: {key} is {text[:60]!r}, but must be {count} finite "
            f"number{'s' if count > 1 else ''}; {AGAIN}"
        )
    return found


def _data_file(path: Path, name: str) -> Path:
    if name == "LOCAL":
        return path
    if name.startswith("LIST") or ("%" in name and not path.with_name(name).is_file()):
        raise InputError(
            f"{path}: ElementDataFile = {name}: one file per slice is not supported; write the "
            "scan with one voxel file, or as .mha"
        )
    # Only the folder that the user named is read.
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise InputError(
            f"{path}: ElementDataFile {name!r} must be a file next to the header, without a folder"
        )
    if not path.with_name(name).is_file():
        raise InputError(f"{path}: its voxel file {name} is missing; {AGAIN}")
    return path.with_name(name)


def open_metaimage(path: Path) -> Volume:
    """Open an `.mhd` or `.mha` scan.

    Raises:
        InputError: as `read_header`; or the voxels cannot be read when a box is asked for.
    """
    header = read_header(path)

    @cache
    def inflated() -> Box:
        return _inflate(header)

    def read(first: Three, size: Three) -> Box:
        return box_of(inflated(), first, size) if header.compressed else _rows(header, first, size)

    return Volume(str(path), header.geometry, read)


def _rows(header: MetaHeader, first_xyz: Three, size_xyz: Three) -> Box:
    """A box of uncompressed voxels: in each slice, the rows that it meets."""
    (x, y, z), (dx, dy, dz) = first_xyz, size_xyz
    columns, rows, _ = header.geometry.size_xyz
    box = np.empty((dz, dy, columns), dtype=header.voxel_type)
    with reading(header.data), header.data.open("rb", buffering=0) as file:
        for k in range(dz):
            skipped = ((z + k) * rows + y) * columns * header.voxel_type.itemsize
            file.seek(header.offset + skipped)
            part = file.read(box[k].nbytes)
            if len(part) < box[k].nbytes:
                raise InputError(f"{header.data}: ends within slice {z + k}; {AGAIN}")
            box[k] = np.frombuffer(part, header.voxel_type).reshape(dy, columns)
    return box[:, :, x : x + dx]


def _inflate(header: MetaHeader) -> Box:
    """All voxels of a compressed file, zlib or gzip; exactly as many bytes as the header says."""
    due = header.voxel_bytes
    voxels = bytearray()
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either kind of head
    with reading(header.data, "its voxels do not decompress"), header.data.open("rb") as file:
        file.seek(header.offset)
        while (block := file.read(1 << 20)) and len(voxels) <= due and not stream.eof:
            # One byte too many is enough to know, however much the file would unfold to.
            voxels += stream.decompress(block, due + 1 - len(voxels))
            while stream.unconsumed_tail and len(voxels) <= due:
                voxels += stream.decompress(stream.unconsumed_tail, due + 1 - len(voxels))
    if len(voxels) != due or not stream.eof:
        raise InputError(
            f"{header.data}: decompresses to {'more' if len(voxels) > due else 'less'} than the "
            f"{due:,} bytes that its header says; {AGAIN}"
        )
    return np.frombuffer(voxels, dtype=header.voxel_type).reshape(header.geometry.size_xyz[::-1])
