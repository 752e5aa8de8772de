"""The source `lidc_slices`: real CT through each nodule, from the public set LIDC-IDRI-slices.

The set holds one folder a nodule, `LIDC-IDRI-slices/<patient>/nodule-<K>/`, with 8-bit PNGs of
128 x 128 pixels at the scan's own spacing: `images/slice-<i>.png`, and what up to four readers
outlined in `mask-0` ... `mask-3` (an absent reader's are empty). It says neither where in the scan
a slice lies nor how its grey values relate to Hounsfield units:

place
    A reader's masks are found again, to the pixel, among the outlines of the annotation
    database. That gives column, row and slice of the PNGs in the scan. A nodule whose masks
    are not found is left out: it would be another nodule.
HU
    Every slice was stretched to 0..255 by itself. Its Hounsfield units are an ESTIMATE
    (`estimate_hu_map`). Over 2,207 slices whose true map is known, its mean error between -900
    and 50 HU is 17 HU (median slice) and 59 HU (90th percentile); of the one map
    7.9 x grey - 990 it is 82 and 555 HU.
z
    Only the slices that a reader marked are there. Above and below is `LUNG_HU`.

The patches' masks come from the outlines in the database, all readers', as in every source: in
a few nodules a mask of the set lacks a slice or a reader.

LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204, CC BY 3.0.
"""

import hashlib
import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.data.annotations import DATABASE_SHA256, Reading, Scan, database_path, read_scans
from nodulebook.data.cohort import cluster_readings
from nodulebook.data.contours import (
    ConsensusMask,
    consensus_mask,
    grid_offsets_mm,
    occupancy_on_grid,
)
from nodulebook.patches.store import LUNG_HU, PATCH_SIZE, Patch

VERSION = "1"
"""Raised with every change that can change a voxel."""

ROOT_NAME = "LIDC-IDRI-slices"
ZIP_NAME = f"{ROOT_NAME}.zip"
IMAGE_SIZE = 128
"""Edge of every PNG in pixels."""

MASK_FOLDERS = ("mask-0", "mask-1", "mask-2", "mask-3")
MAX_PNG_BYTES = 1 << 20
"""Far above what 128 x 128 pixels can take; nothing larger is read."""

MIN_VOTES = 0.3
"""Share of a nodule's mask pixels that must be found again, exactly, in one place of the scan.

Measured on the reference nodules: 0.44 to 1.00; against another nodule of the scan at most 0.17.
"""

SLICE_DICE, MIN_SLICES = 0.8, 0.5
"""So large a share of the slices must have a mask that overlaps so well with an outline there.

Measured: 0.50 (one nodule of two slices), then 0.875 to 1.00; the two mixed nodules of patient
LIDC-IDRI-0332 have 0.25 (see `_share_of_slices_that_fit`).
"""

MIN_IMAGED = 1 / 3
"""A nodule of which less than this share of the consensus has an image is left out."""

_AGAIN = f"get the public data set {ROOT_NAME} again, or unpack it again"
_MEMBER = re.compile(
    rf"{ROOT_NAME}/(LIDC-IDRI-\d{{4}})/nodule-(0|[1-9]\d{{0,2}})/"
    r"(images|mask-[0-3])/slice-(0|[1-9]\d{0,3})\.png"
)

Grey = NDArray[np.uint8]
ToHu = Callable[[Grey], NDArray[np.float32]]


def recipe(data: Path | None = None) -> dict[str, str]:
    """What the patches depend on; takes about a second.

    A zip is identified by its SHA-256, an unpacked folder by its files' names and sizes.

    Args:
        data: the zip, the unpacked folder, or a folder with either (the zip goes first);
            `NODULEBOOK_DATA` where None.

    Raises:
        InputError: the data is missing, is damaged or has another layout.
    """
    database_path()
    with _open_data(data) as found:
        identity = found.identity()
    return {
        "slices": VERSION,
        "data": identity,
        "annotations_sha256": DATABASE_SHA256,
        "outside_z_hu": str(LUNG_HU),
    }


def patches(
    nodules: pd.DataFrame, data: Path | None = None, to_hu: ToHu | None = None
) -> Iterator[Patch]:
    """The patches of the nodules that can be placed; the others are named on stderr.

    A nodule's patch depends on its own row, readers and PNGs only. One nodule's slices are in
    memory at a time.

    Args:
        nodules: columns nodule_id, patient_id, series_uid, cluster, readers, centroid_x_px,
            centroid_y_px, centroid_z_mm (see `cohort.COLUMNS`); others are not looked at.
        data: as in `recipe`.
        to_hu: turns (n, 128, 128) grey values into HU; `slices_to_hu` where None.

    Yields:
        The patches, those of one series together.

    Raises:
        InputError: the data is missing or damaged, or a row does not fit the annotations.
    """
    left_out = {}
    for nodule_id, patch in patches_or_reasons(nodules, data, to_hu):
        if isinstance(patch, Patch):
            yield patch
        else:
            left_out[nodule_id] = patch
    if left_out:
        print(f"lidc_slices: {len(left_out)} of {len(nodules)} nodules left out:", file=sys.stderr)
        for nodule_id, reason in left_out.items():
            print(f"  {nodule_id}: {reason}", file=sys.stderr)


def patches_or_reasons(
    nodules: pd.DataFrame, data: Path | None = None, to_hu: ToHu | None = None
) -> Iterator[tuple[str, Patch | str]]:
    """Every nodule's name with its patch, or with the reason why it has none (see `patches`)."""
    with _open_data(data) as found:
        scans = {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}
        for series_uid, rows in nodules.groupby("series_uid", sort=False):
            scan = scans[str(series_uid)]
            lesions = cluster_readings(scan)
            for row in rows.to_dict("records"):
                name, cluster = str(row["nodule_id"]), int(row["cluster"])
                if not 0 <= cluster < len(lesions) or len(lesions[cluster]) != row["readers"]:
                    raise InputError(
                        f"nodule {name}: cluster {cluster} with {row['readers']} readers is not "
                        "what the annotations of its scan give; make the nodule table anew"
                    )
                yield name, _patch(found, scan, lesions[cluster], row, to_hu or slices_to_hu)


def _patch(
    found: "_DataSet",
    scan: Scan,
    readings: Sequence[Reading],
    row: dict[Any, Any],
    to_hu: ToHu,
) -> Patch | str:
    folder = (str(row["patient_id"]), int(row["cluster"]))
    if folder not in found.nodules:
        return f"the data has no folder {folder[0]}/nodule-{folder[1]}"
    images, masks = found.slices(folder)
    frame = find_frame(masks, scan, readings)
    if frame is None:
        return f"the masks in {folder[0]}/nodule-{folder[1]} are those of another nodule"
    consensus = consensus_mask(scan, readings)
    if not consensus.mask.any():  # no voxel has the votes of half of the readers
        consensus = consensus_mask(scan, readings, threshold=1 / len(readings))
    imaged = _imaged_share(consensus, frame)
    if imaged < MIN_IMAGED:
        return f"only {imaged:.0%} of the nodule lies in slices that have an image"
    centre_xyz = np.array(
        [row["centroid_x_px"], row["centroid_y_px"], row["centroid_z_mm"]], dtype=float
    )
    return Patch(
        nodule_id=str(row["nodule_id"]),
        volume_hu=resample_hu(to_hu(images), frame, centre_xyz),
        mask=occupancy_on_grid(consensus, centre_xyz, PATCH_SIZE) >= 0.5,
    )


# ---------------------------------------------------------------------------- place in the scan


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a nodule's PNGs lie in the scan."""

    x0_px: int  # the scan's column that is column 0 of the PNGs
    y0_px: int  # the scan's row that is row 0 of the PNGs
    z_mm: NDArray[np.float64]  # of each PNG, increasing
    pixel_spacing_mm: float
    slice_spacing_mm: float

    def index(self, centre_xyz: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Positions of a patch's voxels along z, y and x of the PNGs, in slices and pixels.

        Args:
            centre_xyz: centre of the patch: x and y in the scan's pixels, z in mm.
        """
        offsets_mm = grid_offsets_mm(PATCH_SIZE)
        offsets_px = offsets_mm / self.pixel_spacing_mm
        return [
            np.interp(centre_xyz[2] + offsets_mm, self.z_mm, np.arange(len(self.z_mm))),
            centre_xyz[1] - self.y0_px + offsets_px,
            centre_xyz[0] - self.x0_px + offsets_px,
        ]


def find_frame(masks: NDArray[np.bool_], scan: Scan, readings: Sequence[Reading]) -> Frame | None:
    """Find the masks again among the readers' outlines.

    Every mask slice that has exactly the shape of what a reader outlined in some slice votes,
    with its pixels, for the shift that lays it there; the shift with most votes wins. Shapes of
    dozens of pixels are as good as fingerprints, so it does not matter that a few masks of the
    set lack a reader or have an end slice in the wrong place.

    Args:
        masks: (4, n, 128, 128) reader, slice, row, column.
        scan: the scan of the readings.
        readings: the lesion's readings.

    Returns:
        The frame, or None where the masks are not those of this lesion.
    """
    slice_z_mm = np.unique(scan.slice_z_mm)
    drawn = [consensus_mask(scan, [reading]) for reading in readings]
    places: dict[_Shape, set[tuple[int, int, int]]] = defaultdict(set)
    for one in drawn:
        first = int(np.searchsorted(slice_z_mm, one.z_mm[0]))
        for k in np.flatnonzero(one.mask.any(axis=(1, 2))).tolist():
            shape, x, y = _shape_and_corner(one.mask[k])
            places[shape].add((x + one.x0_px, y + one.y0_px, k + first))
    votes: Counter[tuple[int, int, int]] = Counter()
    for mask in masks:
        for i in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
            shape, x, y = _shape_and_corner(mask[i])
            for there_x, there_y, there in places.get(shape, ()):
                votes[there_x - x, there_y - y, there - i] += int(mask[i].sum())
    (x0, y0, first), best = min(
        votes.items(), key=lambda item: (-item[1], item[0]), default=((0, 0, 0), 0)
    )
    last = first + masks.shape[1] - 1
    if best == 0 or best < MIN_VOTES * masks.sum() or first < 0 or last >= len(slice_z_mm):
        return None
    frame = Frame(
        x0_px=x0,
        y0_px=y0,
        z_mm=slice_z_mm[first : last + 1],
        pixel_spacing_mm=scan.pixel_spacing_mm,
        slice_spacing_mm=scan.slice_spacing_mm,
    )
    return frame if _share_of_slices_that_fit(masks, drawn, frame) >= MIN_SLICES else None


def _share_of_slices_that_fit(
    masks: NDArray[np.bool_], drawn: Sequence[ConsensusMask], frame: Frame
) -> float:
    """Share of the masked slices in which some mask has a Dice of `SLICE_DICE` with an outline.

    One folder of the set (LIDC-IDRI-0332/nodule-1) was written twice, for two scans of the patient,
    and holds slices of two nodules: a few votes for the right place are not enough.
    """
    laid = np.stack([_laid_into(frame, one) for one in drawn])
    fitting = marked = 0
    for i in np.flatnonzero(masks.any(axis=(0, 2, 3))):
        mask, outline = (a[:, i].reshape(len(a), -1).astype(np.float32) for a in (masks, laid))
        both = mask.sum(axis=1)[:, None] + outline.sum(axis=1)
        dice = 2 * (mask @ outline.T) / np.maximum(both, 1)
        marked += 1
        fitting += int(dice.max() >= SLICE_DICE)
    return fitting / marked if marked else 0.0


def _laid_into(frame: Frame, drawn: ConsensusMask) -> NDArray[np.bool_]:
    """A mask on the PNGs' grid, (n, 128, 128); what lies outside is cut off."""
    laid = np.zeros((len(frame.z_mm), IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    _, rows, columns = drawn.mask.shape
    y, x = drawn.y0_px - frame.y0_px, drawn.x0_px - frame.x0_px
    y_there, x_there = (slice(max(0, c), max(0, c + n)) for c, n in ((y, rows), (x, columns)))
    inside = laid[0, y_there, x_there].shape
    y_here, x_here = (
        slice(max(0, -c), max(0, -c) + n) for c, n in zip((y, x), inside, strict=True)
    )
    for i, k in zip(*np.nonzero(frame.z_mm[:, None] == drawn.z_mm), strict=True):
        laid[i, y_there, x_there] = drawn.mask[k, y_here, x_here]
    return laid


_Shape = tuple[tuple[int, ...], bytes]


def _shape_and_corner(mask: NDArray[np.bool_]) -> tuple[_Shape, int, int]:
    """The mask cut to its bounding box, as a key; and the box's first column and row."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (cut.shape, cut.tobytes()), int(columns[0]), int(rows[0])


def _imaged_share(consensus: ConsensusMask, frame: Frame) -> float:
    """The share of the consensus' voxels whose slice is among the PNGs."""
    voxels = consensus.mask.sum(axis=(1, 2))
    return float(voxels[np.isin(consensus.z_mm, frame.z_mm)].sum() / max(1, voxels.sum()))


def resample_hu(
    volume_hu: NDArray[np.float32], frame: Frame, centre_xyz: NDArray[np.float64]
) -> NDArray[np.int16]:
    """Interpolate linearly to a patch; what lies off the PNGs is `LUNG_HU`.

    Half a slice spacing, or half a pixel, beyond the outermost voxel centres still counts as
    imaged. PNGs end short of 32 mm in x or y only where the scan itself ends.

    Args:
        volume_hu: (n, 128, 128) the nodule's slices, in increasing z.
        frame: where they lie.
        centre_xyz: centre of the patch: x and y in the scan's pixels, z in mm.

    Returns:
        (32, 32, 32) zyx, 1 mm voxels.
    """
    z, y, x = frame.index(centre_xyz)
    patch: NDArray[np.float32] = map_coordinates(
        volume_hu, np.meshgrid(z, y, x, indexing="ij"), order=1, mode="nearest"
    )
    z_mm = centre_xyz[2] + grid_offsets_mm(PATCH_SIZE)
    reach_mm = frame.slice_spacing_mm / 2 + 1e-6
    patch[(z_mm < frame.z_mm[0] - reach_mm) | (z_mm > frame.z_mm[-1] + reach_mm)] = LUNG_HU
    patch[:, np.abs(y - (IMAGE_SIZE - 1) / 2) > IMAGE_SIZE / 2] = LUNG_HU
    patch[:, :, np.abs(x - (IMAGE_SIZE - 1) / 2) > IMAGE_SIZE / 2] = LUNG_HU
    return np.rint(patch).astype(np.int16)


# -------------------------------------------------------------------------- grey values to HU

_TEMPLATE_HU = (
    # share, mean, standard deviation: what 90 mm around a nodule are made of
    (0.40, -880.0, 50.0),  # lung
    (0.15, -800.0, 110.0),  # dependent lung, edges
    (0.11, -100.0, 30.0),  # fat
    (0.22, 40.0, 35.0),  # muscle, blood, nodule
    (0.05, 140.0, 60.0),  # blood with contrast medium
)
_AIR_HU, _AIR_SD_HU = -1018.0, 10.0
"""The darkest pixel of a slice through the lung, which the stretch has made 0."""

_TEMPLATE_WEIGHT = 100.0
"""How many independent pixels a slice's histogram counts for, against the prior on air."""

_PADDING_GAP = 20
"""Grey values 1 to 20 all unused: 0 is not air, but the filling outside the field of view."""

_HU_RANGE = (-1024.0, 3071.0)


def slices_to_hu(images: Grey) -> NDArray[np.float32]:
    """Estimated Hounsfield units of slices, each by its own `estimate_hu_map`; same shape."""
    volume_hu = np.empty(images.shape, np.float32)
    for grey, plane in zip(images, volume_hu, strict=True):
        scale, offset = estimate_hu_map(grey)
        plane[...] = np.clip(scale * grey + offset, *_HU_RANGE)
    return volume_hu


def estimate_hu_map(grey: Grey) -> tuple[float, float]:
    """Estimate scale and offset in HU = scale x grey + offset, for one stretched slice.

    The likeliest pair under a fixed picture of what a slice through the chest holds (lung, fat,
    soft tissue, contrast: `_TEMPLATE_HU`) and of its darkest pixel (air). The picture's few
    numbers hold for all slices; none was fitted to a nodule. A slice of one grey value has no
    histogram to speak of; it becomes the lung.

    Args:
        grey: (128, 128).

    Returns:
        Scale in HU a grey value and offset in HU.
    """
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    used = np.flatnonzero(counts[1:]) + 1
    if len(used) == 0:
        return 0.0, float(LUNG_HU)
    darkest = int(used[0]) if used[0] > _PADDING_GAP else 0
    histogram = np.zeros(256)
    histogram[: 256 - darkest] = counts[darkest:]
    if darkest == 0:
        histogram[0] = 0  # may be padding, too
    scales, offsets, log_density, log_prior = _hu_grid()
    fit = _TEMPLATE_WEIGHT * (log_density @ (histogram / histogram.sum())) + log_prior
    at_offset, at_scale = np.unravel_index(int(fit.argmax()), fit.shape)
    scale = float(scales[at_scale])
    return scale, float(offsets[at_offset]) - scale * darkest


@cache
def _hu_grid() -> tuple[NDArray[np.float64], ...]:
    """Candidate scales (s) and offsets (o), log density (o, s, grey) and log prior (o, 1)."""
    scales, offsets = np.geomspace(4, 21, 120), np.arange(-1060.0, -900.0, 5.0)
    hu = scales[:, None] * np.arange(256) + offsets[:, None, None]
    density = np.full(hu.shape, 1e-6)
    for share, mean, sd in _TEMPLATE_HU:
        density += share / (sd * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((hu - mean) / sd) ** 2)
    density += 0.08 * ((hu > -700) & (hu < 0)) / 700  # edges, ground-glass
    density += 0.03 * ((hu > 0) & (hu < 1000)) / 1000  # bone, calcium
    log_density = np.log(density * scales[:, None])
    log_prior = -0.5 * ((offsets[:, None] - _AIR_HU) / _AIR_SD_HU) ** 2
    return scales, offsets, log_density, log_prior


# -------------------------------------------------------------------------------- the user's data


@dataclass(frozen=True, eq=False)
class _DataSet:
    """An open data set. The files are the user's, so nothing about them is taken for granted."""

    where: Path
    sizes: dict[str, int]  # of each recognised file, in bytes
    nodules: dict[tuple[str, int], dict[str, dict[int, str]]]  # folder -> slice number -> file
    read_bytes: Callable[[str], bytes]

    def identity(self) -> str:
        if self.where.is_file():
            return f"zip sha256 {sha256(self.where)}"
        listing = "".join(f"{name} {self.sizes[name]}\n" for name in sorted(self.sizes))
        return f"folder sha256 {hashlib.sha256(listing.encode()).hexdigest()}"

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
        f"get the public data set {ROOT_NAME} and name the folder that it lies in"
    )


@contextmanager
def _open_data(data: Path | None) -> Iterator[_DataSet]:
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


def _folder_sizes(folder: Path) -> dict[str, int]:
    """Every file below, named as in the zip."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        here = Path(parent)
        prefix = f"{ROOT_NAME}/{here.relative_to(folder).as_posix()}"
        for name in names:
            if name.endswith(".png"):
                sizes[f"{prefix}/{name}"] = (here / name).stat().st_size
    return sizes


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
) -> _DataSet:
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
    return _DataSet(where, known, nodules, read_bytes)
