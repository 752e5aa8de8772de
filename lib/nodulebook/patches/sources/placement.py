"""Where a point of the annotations lies in a scan's own file."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from nodulebook.core.errors import InputError
from nodulebook.ct.volume import Volume
from nodulebook.data.annotations import Scan
from nodulebook.data.contours import ConsensusMask
from nodulebook.patches.cube import extract_patch
from nodulebook.patches.mask import mask_patch

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


def pixel_axes(volume: Volume, flips: tuple[bool, bool]) -> NDArray[np.float64]:
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
            mask = mask_patch(consensus, centre_xyz, pixel_axes(volume, flips))
            around = binary_dilation(mask, iterations=5) & ~binary_dilation(mask)
            if mask.any() and around.any():
                differences.append(patch[mask].mean() - patch[around].mean())
        return float(np.mean(differences)) if differences else -np.inf

    contrasts = {flips: contrast_hu(flips) for flips in options}
    best = max(contrasts, key=lambda flips: contrasts[flips])
    stored = (False, False)
    return best if contrasts[best] > contrasts[stored] + MIRROR_MARGIN_HU else stored
