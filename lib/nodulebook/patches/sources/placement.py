"""Position of an annotated point in a scan's own file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from nodulebook.core.errors import InputError
from nodulebook.ct.volume import Volume
from nodulebook.data.annotations import Scan
from nodulebook.data.cohort import lesions_of
from nodulebook.data.contours import ConsensusMask
from nodulebook.patches.cube import extract_patch
from nodulebook.patches.mask import MIN_IMAGED, mask_patch, reference_mask
from nodulebook.patches.store import Patch

MAX_ASIDE_MM = 0.5
"""So far may slices lie aside of each other where outlines in pixels are laid into a patch."""

MIRROR_MARGIN_HU = 100.0
"""By so much must a nodule stand out more from its surroundings where a scan is read mirrored."""


def first_slice(volume: Volume, scan: Scan) -> int:
    """Check that a volume is the annotated scan; the number of its lowest slice in the annotations.

    Raises:
        InputError: the slices are oblique, lie elsewhere, have gaps or another pixel size.
    """
    geometry = volume.geometry
    if np.abs(geometry.direction[2, 2]) < 0.999:
        raise InputError(f"{volume.name}: its slices do not lie across the patient")
    if (aside_mm := np.ptp(geometry.shift_xy_mm, axis=0).max()) > MAX_ASIDE_MM:
        raise InputError(
            f"{volume.name}: its slices lie up to {aside_mm:.1f} mm aside of each other (a tilted "
            "gantry?), so that outlines in pixels do not fit; no scan of LIDC-IDRI does"
        )
    pixel_mm = geometry.spacing_xyz_mm[:2]
    if np.abs(pixel_mm / scan.pixel_spacing_mm - 1).max() > 0.01:
        raise InputError(
            f"{volume.name}: pixels of {pixel_mm[0]:g} x {pixel_mm[1]:g} mm, but the annotations "
            f"of this series have {scan.pixel_spacing_mm:g} mm; is it another scan?"
        )
    known = np.unique(scan.slice_z_mm)
    z_mm = np.sort(geometry.slice_z_mm)
    close = scan.slice_spacing_mm / 2
    # All slices of the scan: in an .mhd file they are numbered evenly even where they are not.
    if len(z_mm) == len(known) and min(abs(z_mm[0] - known[0]), abs(z_mm[-1] - known[-1])) < close:
        return 0
    nearest = np.abs(known - z_mm[:, None]).argmin(axis=1)
    away = np.abs(known[nearest] - z_mm)
    if away.max() > 0.1 * scan.slice_spacing_mm + 0.02:
        raise InputError(
            f"{volume.name}: {len(z_mm)} slices from z {z_mm[0]:g} to {z_mm[-1]:g} mm, but the "
            f"annotated scan has {len(known)} from {known[0]:g} to {known[-1]:g} mm, and they do "
            "not lie in the same places; is it another scan, or incomplete?"
        )
    gaps = np.flatnonzero(np.diff(nearest) != 1)
    if len(gaps):
        low, high = z_mm[gaps[0]], z_mm[gaps[0] + 1]
        raise InputError(
            f"{volume.name}: slices are missing between z {low:g} and {high:g} mm"
            + (f" and in {len(gaps) - 1} more places" if len(gaps) > 1 else "")
            + "; download the scan again"
        )
    return int(nearest[0])


def nodule_world(
    volume: Volume,
    scan: Scan,
    first: int,
    centre_xyz: NDArray[np.float64],
    flips: tuple[bool, bool] = (False, False),
) -> NDArray[np.float64]:
    """World position, xyz in mm, of a point of the annotations.

    Args:
        volume: the scan.
        scan: its annotations.
        first: from `first_slice`.
        centre_xyz: column and row in pixels, table position in mm.
        flips: columns, rows are stored backwards (`placement`).
    """
    known = np.unique(scan.slice_z_mm)
    size_x, size_y, size_z = volume.geometry.size_xyz
    slice_number = float(np.interp(centre_xyz[2], known, np.arange(len(known)))) - first
    if volume.geometry.direction[2, 2] < 0:
        slice_number = size_z - 1 - slice_number
    column = size_x - 1 - centre_xyz[0] if flips[0] else centre_xyz[0]
    row = size_y - 1 - centre_xyz[1] if flips[1] else centre_xyz[1]
    return volume.geometry.to_world(np.array([column, row, slice_number]))


def _pixel_axes(volume: Volume, flips: tuple[bool, bool]) -> NDArray[np.float64]:
    """Where the annotations' columns and rows count to in the world, and the slices upwards."""
    axes = volume.geometry.direction.copy()
    axes[:, :2] *= np.where(flips, -1, 1)
    return axes


def placement(
    volume: Volume,
    scan: Scan,
    first: int,
    nodules: Sequence[tuple[ConsensusMask, NDArray[np.float64]]],
) -> tuple[bool, bool]:
    """Whether columns and rows are stored backwards, against the annotations.

    Outlines are in pixels of the DICOM images. LUNA16 stores these as they are: where the patient
    lay otherwise, its directions are negative and the pixels still fit. A program that turned the
    voxels also leaves negative directions, and then they do not fit. What a file is shows in the
    image: rightly laid, outlines hold tissue and have lung around them. Files without negative
    directions are taken as they are.
    """
    choices: list[tuple[bool, ...]] = [
        (False, True) if volume.geometry.direction[:, axis].sum() < 0 else (False,)
        for axis in (0, 1)
    ]
    options = [(bool(x), bool(y)) for x, y in product(*choices)]
    if len(options) == 1 or not nodules:
        return (False, False)

    def contrast_hu(flips: tuple[bool, bool]) -> float:
        differences = []
        for consensus, centre_xyz in nodules:
            world = nodule_world(volume, scan, first, centre_xyz, flips)
            try:
                patch = extract_patch(volume, world)
            except InputError:
                return -np.inf
            mask = mask_patch(consensus, centre_xyz, _pixel_axes(volume, flips))
            around = binary_dilation(mask, iterations=5) & ~binary_dilation(mask)
            if mask.any() and around.any():
                differences.append(patch[mask].mean() - patch[around].mean())
        return float(np.mean(differences)) if differences else -np.inf

    contrasts = {flips: contrast_hu(flips) for flips in options}
    best = max(contrasts, key=lambda flips: contrasts[flips])
    stored = (False, False)
    return best if contrasts[best] > contrasts[stored] + MIRROR_MARGIN_HU else stored


@dataclass(frozen=True)
class ScanResult:
    """What came of one scan."""

    series_uid: str
    made: list[str]  # nodule_ids
    left_out: dict[str, str]  # nodule_id -> reason
    problem: str  # with the scan as a whole; "" where there is none
    note: str = ""  # worth knowing, but nothing is wrong


def scan_patches(
    volume: Volume, scan: Scan, rows: Sequence[dict[str, Any]]
) -> tuple[list[Patch], ScanResult]:
    """The patches of one scan's nodules (rows as `cohort.lesions_of` needs), and what came of each.

    Raises:
        InputError: the scan cannot be read, or is not the one that was annotated.
    """
    first = first_slice(volume, scan)
    known_z_mm = np.unique(scan.slice_z_mm)
    count = volume.geometry.size_xyz[2]
    there = known_z_mm[first : first + count]
    left_out: dict[str, str] = {}
    wanted: list[tuple[str, ConsensusMask, NDArray[np.float64]]] = []
    for lesion in lesions_of(scan, rows):
        consensus = reference_mask(scan, lesion.readings)
        if (imaged := consensus.share_in(there)) < MIN_IMAGED:
            left_out[lesion.name] = f"only {imaged:.0%} of the nodule is in the available slices"
        else:
            wanted.append((lesion.name, consensus, lesion.centre_xyz))
    flips = placement(volume, scan, first, [(c, centre) for _, c, centre in wanted])
    made = []
    for name, consensus, centre_xyz in wanted:
        world = nodule_world(volume, scan, first, centre_xyz, flips)
        volume_hu = extract_patch(volume, world)
        if volume_hu.min() == volume_hu.max():
            left_out[name] = "its voxels all have one value: an incomplete download?"
            continue
        mask = mask_patch(consensus, centre_xyz, _pixel_axes(volume, flips))
        made.append(Patch(name, np.rint(volume_hu).astype(np.int16), mask))
    problem = ""
    if count < len(known_z_mm):
        problem = (
            f"only {count} of the scan's {len(known_z_mm)} slices are there (z "
            f"{there[0]:g} to {there[-1]:g} mm): patches that reach beyond them are filled up"
        )
    note = ""
    if any(flips):
        note = "its voxels are stored mirrored against the annotations; laid by contrast"
    names = [patch.nodule_id for patch in made]
    return made, ScanResult(scan.series_uid, names, left_out, problem, note)
