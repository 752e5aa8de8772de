"""Zip archives that came from elsewhere: unpacked whole or not at all, and only into their folder.

Refused before anything is written: names that lead out of the folder (`..`, absolute, a drive),
links and other special files, two entries of one name, encryption. No entry grows beyond the size
that the archive lists for it, and its checksum (CRC-32) must be right.
"""

import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import inflate64
from tqdm import tqdm

from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, read_json, write_json
from nodulebook.download.transfer import ensure_space

MARKER = "unpacked.json"
"""Written into an unpacked folder: the archive, its checksum, and the size of each file."""

_BLOCK = 1 << 20  # bytes
_PACKED_BLOCK = 1 << 13  # bytes at a time: a hostile one may grow a lot in memory
_DEFLATE64 = 9  # some packers use it for files above 2 GB; the module zipfile does not read it


@dataclass(frozen=True)
class Entry:
    """A file of an archive and the path, below the target folder, that it goes to."""

    info: zipfile.ZipInfo
    target: PurePosixPath


def list_entries(archive: zipfile.ZipFile) -> list[Entry]:
    """The files of an archive; a first folder of the archive's own name is dropped.

    Raises:
        InputError: an entry is unsafe, or there is none; the message names archive and entry.
    """
    where = Path(archive.filename or "archive")
    files = [info for info in archive.infolist() if not info.is_dir()]
    if not files:
        raise InputError(f"{where}: holds no files")
    paths = [_safe_path(where, info) for info in files]
    paths = [
        PurePosixPath(*path.parts[1:])
        if len(path.parts) > 1 and path.parts[0] == where.stem
        else path
        for path in paths
    ]
    # Some disks do not tell A from a. In this order, a file comes before what is "in" it.
    seen: set[tuple[str, ...]] = {(MARKER,)}
    for parts in sorted(tuple(part.casefold() for part in path.parts) for path in paths):
        if any(parts[:n] in seen for n in range(1, len(parts) + 1)):
            raise InputError(
                f"{where}: entry {'/'.join(parts)!r} would be written over another file"
            )
        seen.add(parts)
    return [Entry(info, path) for info, path in zip(files, paths, strict=True)]


def _safe_path(where: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    # orig_filename: Python cuts a name at a NUL byte and turns the platform's separators.
    name = info.orig_filename
    if name.startswith("/") or re.search(r"[\\\x00]|^[A-Za-z]:", name):
        raise InputError(f"{where}: entry {name!r} is an absolute path or no path; not unpacked")
    if ".." in name.split("/"):
        raise InputError(f"{where}: entry {name!r} leads out of the folder; not unpacked")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InputError(f"{where}: entry {name!r} is a link or a special file; not unpacked")
    if info.header_offset < 0:
        raise zipfile.BadZipFile(f"{name} lies before the beginning")
    if info.flag_bits & 1:
        raise InputError(f"{where}: entry {name!r} is encrypted; not unpacked")
    path = PurePosixPath(name)
    if not path.parts:
        raise InputError(f"{where}: entry {name!r} has no name; not unpacked")
    return path


def unpack(path: Path, folder: Path, checksum: str) -> None:
    """Unpack a zip archive as `folder`, which appears when all of it is there.

    Args:
        path: the archive.
        folder: an older folder of this name is replaced at the end.
        checksum: of the archive, kept in the folder's `unpacked.json`.

    Raises:
        InputError: the archive is damaged or unsafe, or the disk has no room for it.
        OSError: the disk is full or may not be written.
    """
    for stale in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = list_entries(archive)
            total = sum(entry.info.file_size for entry in entries)
            ensure_space(folder.parent, total, f"unpacking {path.name}")
            with (
                folder_written_aside(folder) as aside,
                tqdm(
                    desc=f"{path.name}: unpacking",
                    total=total,
                    unit="B",
                    unit_scale=True,
                    disable=None,
                ) as bar,
            ):
                for entry in entries:
                    _write_entry(archive, path, entry, aside, bar)
                sizes = {str(entry.target): entry.info.file_size for entry in entries}
                about = {"archive": path.name, "checksum": checksum, "files": sizes}
                write_json(about, aside / MARKER)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise InputError(
            f"{path}: a damaged archive ({error}); delete it and download it again"
        ) from None
    except NotImplementedError as error:
        raise InputError(f"{path}: packed in a way that cannot be read ({error})") from None


def is_unpacked(folder: Path) -> bool:
    """Whether the folder was written by `unpack` and still has all its files, by their sizes."""
    try:
        sizes = read_json(folder / MARKER)["files"].items()
    except (InputError, AttributeError, KeyError, TypeError):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes
    )


def _write_entry(
    archive: zipfile.ZipFile, path: Path, entry: Entry, aside: Path, bar: "tqdm[None]"
) -> None:
    target = aside / entry.target
    target.parent.mkdir(parents=True, exist_ok=True)
    deflate64 = entry.info.compress_type == _DEFLATE64
    blocks = _deflate64_blocks(path, entry.info) if deflate64 else _blocks(archive, entry.info)
    written = 0
    with target.open("xb") as stream:
        for block in blocks:
            written += len(block)
            if written > entry.info.file_size:
                break
            stream.write(block)
            bar.update(len(block))
    if written != entry.info.file_size:
        raise zipfile.BadZipFile(
            f"{entry.info.filename} does not have the {entry.info.file_size} bytes listed"
        )


def _blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as stream:
        while block := stream.read(_BLOCK):
            yield block


def _deflate64_blocks(path: Path, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The contents of an entry in Deflate64 (APPNOTE.TXT of the zip format, 4.4.5, method 9)."""
    inflater = inflate64.Inflater()
    crc, left = 0, info.compress_size
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(30)  # the entry's own header, then its name and extra fields
        signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"{info.filename} has no header")
        stream.seek(name_length + extra_length, 1)
        while left:
            packed = stream.read(min(left, _PACKED_BLOCK))
            if not packed:
                raise zipfile.BadZipFile(f"{info.filename} is cut off")
            left -= len(packed)
            try:
                block = inflater.inflate(packed)
            except ValueError as error:
                raise zipfile.BadZipFile(f"{info.filename}: {error}") from None
            crc = zlib.crc32(block, crc)
            yield block
    if crc != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
