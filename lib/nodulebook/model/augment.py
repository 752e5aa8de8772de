"""Random flips and turns of training patches (paper 5.1), each a function of a seed."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def augment(
    volume: NDArray[np.float32], generator: np.random.Generator, flips: bool, quarter_turns: bool
) -> NDArray[np.float32]:
    """One random symmetry of a patch; no voxel is interpolated.

    Args:
        volume: (z, y, x) with y and x of the same length.
        generator: where the randomness comes from.
        flips: flip each axis with probability 1/2.
        quarter_turns: turn by 0, 90, 180 or 270 degrees in the axial plane, where voxels are
            alike; z, along which the scanner's slices are thicker, stays z.

    Returns:
        (z, y, x), a view of the input.
    """
    if flips:
        axes = [axis for axis in range(3) if generator.random() < 0.5]
        volume = np.flip(volume, tuple(axes))
    if quarter_turns:
        volume = np.rot90(volume, int(generator.integers(4)), axes=(1, 2))
    return volume


def symmetries(volumes: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Patches under each of the 16 flips and quarter turns that `augment` draws from.

    Args:
        volumes: (n, z, y, x), y and x of the same length.

    Yields:
        (n, z, y, x), views of the input; the first is the input itself.
    """
    for over_z in (volumes, np.flip(volumes, 1)):
        for turns in range(4):
            turned = np.rot90(over_z, turns, axes=(2, 3))
            yield turned
            yield np.flip(turned, 3)


def augmented_epoch(
    volumes: NDArray[np.float32], seed: int, epoch: int, flips: bool, quarter_turns: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One epoch's training patches, each augmented afresh, in a random order.

    What happens to patch i in an epoch depends on (seed, epoch, i) alone, so that a run that
    was stopped goes on with the very same patches.

    Args:
        volumes: (n, z, y, x).
        seed: the run's seed.
        epoch: the epoch, from 0.
        flips: see `augment`.
        quarter_turns: see `augment`.

    Returns:
        The patches (n, z, y, x), shuffled, and the row of `volumes` that each came from.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(volumes))
    out = np.empty_like(volumes)
    for place, row in enumerate(order):
        generator = np.random.default_rng([seed, epoch, int(row)])
        out[place] = augment(volumes[row], generator, flips, quarter_turns)
    return out, order
