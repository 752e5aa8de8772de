"""The sources of real CT through each nodule, from the public set LIDC-IDRI-slices.

`lidc_slices`, `lidc_exact` and `lidc_grey` differ in Hounsfield units only (`slices_hu.SCALES`).

The set holds one folder a nodule, `LIDC-IDRI-slices/<patient>/nodule-<K>/`, with 8-bit PNGs of
128 x 128 pixels at the scan's own spacing: `images/slice-<i>.png`, and what up to four readers
outlined in `mask-0` ... `mask-3` (an absent reader's are empty). It says neither where in the scan
a slice lies nor how its grey values relate to Hounsfield units:

place
    A reader's masks are found again, to the pixel, among the outlines of the annotation
    database. That gives column, row and slice of the PNGs in the scan. A nodule whose masks
    are not found is left out: it would be another nodule.
HU
    Every slice was stretched to 0..255 by itself. Its Hounsfield units are an ESTIMATE, but where
    `lidc_exact` knows better; `benchmarks/slices_hu.py` measures its error (`data/slices_hu.csv`).
z
    Only the slices that a reader marked are there. Above and below is `LUNG_HU`.

The patches' masks come from the outlines in the database, all readers', as in every source: in
a few nodules a mask of the set lacks a slice or a reader.

LIDC-IDRI: Armato et al. 2011, doi 10.1118/1.3528204, CC BY 3.0.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from nodulebook.data.annotations import DATABASE_SHA256, Reading, Scan, database_path
from nodulebook.data.cohort import Lesion, lesions_by_scan
from nodulebook.data.contours import (
    ConsensusMask,
    consensus_mask,
    grid_offsets_mm,
    occupancy_on_grid,
)
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE
from nodulebook.patches.mask import MIN_IMAGED, reference_mask
from nodulebook.patches.sources.slices_files import IMAGE_SIZE, DataSet, identity, open_data
from nodulebook.patches.sources.slices_hu import ToHu, hu_recipe, to_hu_of
from nodulebook.patches.store import Patch

VERSION = "1"
"""Raised with every change that can change a voxel."""

MIN_VOTES = 0.3
"""Share of a nodule's mask pixels that must be found again, exactly, in one place of the scan.

Measured on the reference nodules: 0.44 to 1.00; against another nodule of the scan at most 0.17.
"""

SLICE_DICE, MIN_SLICES = 0.8, 0.5
"""So large a share of the slices must have a mask that overlaps so well with an outline there.

Measured: 0.50 (one nodule of two slices), then 0.875 to 1.00; the two mixed nodules of patient
LIDC-IDRI-0332 have 0.25 (see `_share_of_slices_that_fit`).
"""


def recipe(data: Path | None = None, source: str = "lidc_slices") -> dict[str, str]:
    """What the patches depend on; the first call of a process takes about a second.

    A zip is identified by its SHA-256, an unpacked folder by its files' names and sizes.

    Args:
        data: the zip, the unpacked folder, or a folder with either (the zip goes first);
            `NODULEBOOK_DATA` where None.
        source: one of `slices_hu.SCALES`.

    Raises:
        InputError: the data is missing, is damaged or has another layout.
    """
    database_path()
    return {
        "slices": VERSION,
        "data": identity(data),
        "annotations_sha256": DATABASE_SHA256,
        "outside_z_hu": str(LUNG_HU),
    } | hu_recipe(source)


def patches(
    nodules: pd.DataFrame, data: Path | None = None, margin: int = 0, source: str = "lidc_slices"
) -> Iterator[Patch]:
    """The patches of the nodules that can be placed; the others are named on stderr.

    A nodule's patch depends on its own row, readers and PNGs only. One nodule's slices are in
    memory at a time, and the patches of one series come together.

    Args:
        nodules: patient_id and the columns that `cohort.lesions_by_scan` needs.
        data: as in `recipe`.
        margin: voxels that the volumes have beyond the patch on each side, in the axial plane.
        source: as in `recipe`.

    Raises:
        InputError: the data is missing or damaged, or a row does not fit the annotations.
    """
    left_out = {}
    for nodule_id, patch in patches_or_reasons(nodules, data, margin, source):
        if isinstance(patch, Patch):
            yield patch
        else:
            left_out[nodule_id] = patch
    if left_out:
        print(f"{source}: {len(left_out)} of {len(nodules)} nodules left out:", file=sys.stderr)
        for nodule_id, reason in left_out.items():
            print(f"  {nodule_id}: {reason}", file=sys.stderr)


def patches_or_reasons(
    nodules: pd.DataFrame, data: Path | None = None, margin: int = 0, source: str = "lidc_slices"
) -> Iterator[tuple[str, Patch | str]]:
    """Every nodule's name with its patch, or with the reason why it has none (see `patches`)."""
    to_hu = to_hu_of(source)
    with open_data(data) as found:
        for scan, lesion in lesions_by_scan(nodules):
            yield lesion.name, _patch(found, scan, lesion, to_hu, margin)


def _patch(found: DataSet, scan: Scan, lesion: Lesion, to_hu: ToHu, margin: int) -> Patch | str:
    folder = (str(lesion.row["patient_id"]), int(lesion.row["cluster"]))
    if folder not in found.nodules:
        return f"the data has no folder {folder[0]}/nodule-{folder[1]}"
    images, masks = found.slices(folder)
    frame = find_frame(masks, scan, lesion.readings)
    if frame is None:
        return f"the masks in {folder[0]}/nodule-{folder[1]} are those of another nodule"
    consensus = reference_mask(scan, lesion.readings)
    if (imaged := consensus.share_in(frame.z_mm)) < MIN_IMAGED:
        return f"only {imaged:.0%} of the nodule is in slices that have an image"
    return Patch(
        nodule_id=lesion.name,
        volume_hu=resample_hu(to_hu(images, folder), frame, lesion.centre_xyz, margin),
        mask=occupancy_on_grid(consensus, lesion.centre_xyz, PATCH_SIZE) >= 0.5,
    )


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a nodule's PNGs lie in the scan."""

    x0_px: int  # the scan's column that is column 0 of the PNGs
    y0_px: int  # the scan's row that is row 0 of the PNGs
    z_mm: NDArray[np.float64]  # of each PNG, increasing
    pixel_spacing_mm: float
    slice_spacing_mm: float

    def index(self, centre_xyz: NDArray[np.float64], margin: int = 0) -> list[NDArray[np.float64]]:
        """Positions of a patch's voxels along z, y and x of the PNGs, in slices and pixels.

        Args:
            centre_xyz: centre of the patch: x and y in the scan's pixels, z in mm.
            margin: further voxels on each side, along y and x.
        """
        offsets_mm = grid_offsets_mm(PATCH_SIZE)
        offsets_px = grid_offsets_mm(PATCH_SIZE + 2 * margin) / self.pixel_spacing_mm
        return [
            np.interp(centre_xyz[2] + offsets_mm, self.z_mm, np.arange(len(self.z_mm))),
            centre_xyz[1] - self.y0_px + offsets_px,
            centre_xyz[0] - self.x0_px + offsets_px,
        ]


def find_frame(masks: NDArray[np.bool_], scan: Scan, readings: Sequence[Reading]) -> Frame | None:
    """Find the masks (4, n, 128, 128) again among the readers' outlines; None: of another lesion.

    Every mask slice that has exactly the shape of what a reader outlined in some slice votes,
    with its pixels, for the shift that lays it there; the shift with most votes wins. Shapes of
    dozens of pixels are as good as fingerprints, so it does not matter that a few masks of the
    set lack a reader or have an end slice in the wrong place.
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


def resample_hu(
    volume_hu: NDArray[np.float32],
    frame: Frame,
    centre_xyz: NDArray[np.float64],
    margin: int = 0,
) -> NDArray[np.int16]:
    """Interpolate a nodule's slices (n, 128, 128) linearly to a patch; off the PNGs is `LUNG_HU`.

    Half a slice spacing, or half a pixel, beyond the outermost voxel centres still counts as
    imaged. PNGs end short of 32 mm in x or y only where the scan itself ends. Arguments as in
    `Frame.index`.

    Returns:
        (32, 32 + 2 margin, 32 + 2 margin) zyx, 1 mm voxels.
    """
    z, y, x = frame.index(centre_xyz, margin)
    patch: NDArray[np.float32] = map_coordinates(
        volume_hu, np.meshgrid(z, y, x, indexing="ij"), order=1, mode="nearest"
    )
    z_mm = centre_xyz[2] + grid_offsets_mm(PATCH_SIZE)
    reach_mm = frame.slice_spacing_mm / 2 + 1e-6
    patch[(z_mm < frame.z_mm[0] - reach_mm) | (z_mm > frame.z_mm[-1] + reach_mm)] = LUNG_HU
    patch[:, np.abs(y - (IMAGE_SIZE - 1) / 2) > IMAGE_SIZE / 2] = LUNG_HU
    patch[:, :, np.abs(x - (IMAGE_SIZE - 1) / 2) > IMAGE_SIZE / 2] = LUNG_HU
    return np.rint(patch).astype(np.int16)
