"""The files of the public set LIDC-IDRI-slices, zipped or unpacked; every PNG is checked."""

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.patches.sources.slices_hu import Grey

ROOT_NAME = "LIDC-IDRI-slices"

ZIP_NAME = f"{ROOT_NAME}.zip"

IMAGE_SIZE = 128
"""Edge of every PNG in pixels."""

MASK_FOLDERS = ("mask-0", "mask-1", "mask-2", "mask-3")

MAX_PNG_BYTES = 1 << 20
"""Far above what 128 x 128 pixels can take; nothing larger is read."""

_AGAIN = f"get the public data set {ROOT_NAME} again, or unpack it again"

_MEMBER = re.compile(
    rf"{ROOT_NAME}/(LIDC-IDRI-\d{{4}})/nodule-(0|[1-9]\d{{0,2}})/"
    r"(images|mask-[0-3])/slice-(0|[1-9]\d{0,3})\.png"
)


@dataclass(frozen=True, eq=False)
class DataSet:
    """An open data set. The files are the user's, so nothing about them is taken for granted."""

    where: Path
    sizes: dict[str, int]  # of each recognised file, in bytes
    nodules: dict[tuple[str, int], dict[str, dict[int, str]]]  # folder -> slice number -> file
    read_bytes: Callable[[str], bytes]

    def slices(self, nodule: tuple[str, int]) -> tuple[Grey, NDArray[np.bool_]]:
        """A nodule's images (n, 128, 128) and masks (4, n, 128, 128).

        Raises:
            InputError: a file is missing or unreadable.
        """
        folders = self.nodules[nodule]
        name = f"{ROOT_NAME}/{nodule[0]}/nodule-{nodule[1]}"
        count = len(folders.get("images", {}))
        for folder in ("images", *MASK_FOLDERS):
            numbers = folders.get(folder, {})
            missing = next((i for i in range(count) if i not in numbers), None)
            if count == 0 or missing is not None:
                raise InputError(
                    f"{self.where}: {name}/{folder}/slice-{missing or 0}.png is missing; {_AGAIN}"
                )
            if len(numbers) != count:
                raise InputError(
                    f"{self.where}: {name}/{folder} has {len(numbers)} slices, "
                    f"but images has {count}; {_AGAIN}"
                )
        images = np.stack([self._grey(folders["images"][i]) for i in range(count)])
        masks = np.stack(
            [[self._grey(folders[f][i]) > 127 for i in range(count)] for f in MASK_FOLDERS]
        )
        return images, masks

    def _grey(self, name: str) -> Grey:
        if self.sizes[name] > MAX_PNG_BYTES:
            raise InputError(
                f"{self.where}: {name} has {self.sizes[name]:,} bytes, too many for a PNG of "
                f"{IMAGE_SIZE} x {IMAGE_SIZE}; {_AGAIN}"
            )
        try:
            return _decode_png(self.read_bytes(name))
        except _BadPngError as error:
            raise InputError(f"{self.where}: {name} {error}; {_AGAIN}") from None
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            # RuntimeError: encrypted; NotImplementedError, one of its kinds: unknown compression
            raise InputError(f"{self.where}: {name} cannot be read ({error}); {_AGAIN}") from None


class _BadPngError(Exception):
    """What is wrong with a PNG, as the rest of a sentence that begins with its name."""


@lru_cache(maxsize=16)  # most masks are the same empty image
def _decode_png(data: bytes) -> Grey:
    """A grey PNG of 128 x 128 pixels; its header is looked at before anything is decoded."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        raise _BadPngError("is not a PNG")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (width, height) != (IMAGE_SIZE, IMAGE_SIZE):
        raise _BadPngError(f"is {width} x {height} pixels, but must be {IMAGE_SIZE} x {IMAGE_SIZE}")
    if depth != 8 or colour not in (0, 2, 6):  # grey, RGB, RGBA
        raise _BadPngError(f"is not 8-bit grey (bit depth {depth}, colour type {colour})")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        raise _BadPngError(f"is a damaged PNG ({error})") from None
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise _BadPngError("has colours, but must be grey")
        pixels = pixels[..., 0]
    return pixels


def _locate(data: Path | None) -> Path:
    """The zip or the unpacked folder."""
    given = paths.user_data_folder() if data is None else Path(data).expanduser()
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(
            f"{given}: there is no such file or folder; give {ZIP_NAME}, or a folder that holds it"
        )
    if (given / ZIP_NAME).is_file():
        return given / ZIP_NAME
    if (given / ROOT_NAME).is_dir():
        return given / ROOT_NAME
    if given.name == ROOT_NAME or any(given.glob("LIDC-IDRI-[0-9][0-9][0-9][0-9]/nodule-*")):
        return given
    raise InputError(
        f"{given}: holds neither {ZIP_NAME} nor the folder {ROOT_NAME}; "
        f"get the public data set {ROOT_NAME} and name its folder"
    )


@contextmanager
def open_data(data: Path | None) -> Iterator[DataSet]:
    """Open the zip or the unpacked folder, and sort its files into nodules."""
    where = _locate(data)
    if where.is_dir():
        sizes = _folder_sizes(where)
        yield _sorted_into_nodules(
            where, sizes, lambda name: (where / name.removeprefix(f"{ROOT_NAME}/")).read_bytes()
        )
        return
    try:
        archive = zipfile.ZipFile(where)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{where}: not a whole zip file ({error}); {_AGAIN}") from None
    with archive:
        yield _sorted_into_nodules(where, _zip_sizes(where, archive), archive.read)


def identity(data: Path | None) -> str:
    """The zip's SHA-256, or the hash of the unpacked folder's names and sizes.

    A process reads a zip only once, unless it changes.

    Raises:
        InputError: as for `open_data`.
    """
    where = _locate(data)
    if where.is_file():
        about = where.stat()
        return _zip_identity(where.resolve(), about.st_size, about.st_mtime_ns)
    with open_data(where) as found:
        listing = "".join(f"{name} {found.sizes[name]}\n" for name in sorted(found.sizes))
    return f"folder sha256 {hashlib.sha256(listing.encode()).hexdigest()}"


@lru_cache(maxsize=4)
def _zip_identity(where: Path, _size: int, _mtime_ns: int) -> str:
    with open_data(where):  # refuses what is not the data set
        return f"zip sha256 {sha256(where)}"


def _folder_sizes(folder: Path) -> dict[str, int]:
    """Every PNG below, named as in the zip."""
    every = ((path, path.relative_to(folder).as_posix()) for path in folder.rglob("*.png"))
    return {f"{ROOT_NAME}/{name}": path.stat().st_size for path, name in every}


def _zip_sizes(where: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Every file of the zip. None is ever extracted, but a name that would escape is refused."""
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        name = info.filename
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise InputError(f"{where}: member {name!r} points outside of the zip; do not use it")
        if name in sizes:
            raise InputError(f"{where}: member {name} is there twice; {_AGAIN}")
        sizes[name] = info.file_size
    return sizes


def _sorted_into_nodules(
    where: Path, sizes: dict[str, int], read_bytes: Callable[[str], bytes]
) -> DataSet:
    """Keep the files whose names are of the set's layout; others (`__MACOSX`) do not matter."""
    nodules: dict[tuple[str, int], dict[str, dict[int, str]]] = {}
    for name in sizes:
        if match := _MEMBER.fullmatch(name):
            patient_id, cluster, folder, number = match.groups()
            files = nodules.setdefault((patient_id, int(cluster)), {}).setdefault(folder, {})
            files[int(number)] = name
    if not any("images" in folders for folders in nodules.values()):
        seen = f"the first of {len(sizes)} files is {min(sizes)}" if sizes else "it holds no files"
        raise InputError(
            f"{where}: not the layout {ROOT_NAME}/<patient>/nodule-<K>/images/slice-<i>.png "
            f"({seen}); get the public data set {ROOT_NAME}"
        )
    known = {name: size for name, size in sizes.items() if _MEMBER.fullmatch(name)}
    return DataSet(where, known, nodules, read_bytes)
