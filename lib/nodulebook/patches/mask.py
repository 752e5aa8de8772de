"""The readers' consensus on the voxels of a patch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.data.annotations import Reading, Scan
from nodulebook.data.contours import ConsensusMask, consensus_mask, occupancy_on_grid
from nodulebook.patches.cube import PATCH_SIZE

MIN_IMAGED = 1 / 3
"""A nodule with less than this share of its consensus in the available slices has no patch."""


def mask_patch(
    consensus: ConsensusMask, centre_xyz: NDArray[np.float64], direction: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The readers' consensus on the voxels of a nodule's patch.

    Args:
        consensus: the mask on the scan's own grid; it must hold a voxel.
        centre_xyz: middle of the patch: x and y in the scan's pixels, z in mm.
        direction: (3, 3) the scan's axes (`volume.Geometry`): slices across the patient, columns
            along x or y of the world, either way round. The slices lie straight above each other,
            which `sources.placement.first_slice` checks.

    Returns:
        (32, 32, 32) zyx along the world's axes, 1 mm voxels.

    Raises:
        InputError: the scan's axes are not the world's.
    """
    x_axis, y_axis = (int(np.abs(direction[:, i]).argmax()) for i in (0, 1))
    if {x_axis, y_axis} != {0, 1} or np.abs(direction).max(axis=0).min() < 0.999:
        raise InputError("the scan's slices are oblique: its outlines cannot be laid into a patch")
    mask = occupancy_on_grid(consensus, centre_xyz, PATCH_SIZE) >= 0.5
    # The patch lies symmetric about its centre: turned axes are only counted backwards.
    if direction[x_axis, 0] < 0:
        mask = mask[:, :, ::-1]
    if direction[y_axis, 1] < 0:
        mask = mask[:, ::-1]
    return np.ascontiguousarray(mask.swapaxes(1, 2) if x_axis == 1 else mask)


def reference_mask(scan: Scan, readings: Sequence[Reading]) -> ConsensusMask:
    """What at least half of the readers include; where that is nothing, what any reader does."""
    consensus = consensus_mask(scan, readings)
    if consensus.mask.any():
        return consensus
    return consensus_mask(scan, readings, threshold=1 / len(readings))
