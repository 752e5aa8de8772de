"""Random changes of training patches, each a function of a seed.

Flips and turns are the paper's (5.1); shifts and a change of all HU are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def augment(
    volume: NDArray[np.float32], generator: np.random.Generator, flips: bool, quarter_turns: bool
) -> NDArray[np.float32]:
    """One random symmetry of a patch (z, y, x), a view of it; no voxel is interpolated.

    `flips` flip each axis with probability 1/2. `quarter_turns` turn by 0, 90, 180 or 270 degrees
    in the axial plane, where voxels are alike and y as long as x; z, along which the scanner's
    slices are thicker, stays z.
    """
    if flips:
        axes = [axis for axis in range(3) if generator.random() < 0.5]
        volume = np.flip(volume, tuple(axes))
    if quarter_turns:
        volume = np.rot90(volume, int(generator.integers(4)), axes=(1, 2))
    return volume


def symmetries(volumes: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Patches (n, z, y, x) under each of the 16 flips and quarter turns that `augment` draws from.

    Yields:
        (n, z, y, x), views of the input; the first is the input itself.
    """
    for over_z in (volumes, np.flip(volumes, 1)):
        for turns in range(4):
            turned = np.rot90(over_z, turns, axes=(2, 3))
            yield turned
            yield np.flip(turned, 3)


@dataclass(frozen=True)
class Moves:
    """How far a patch is moved out of its place, and its values are changed, at random."""

    shift: int = 0  # voxels in the axial plane: anywhere in a disc of this radius
    shift_z: int = 0  # voxels along z, up or down
    add: float = 0.0  # standard deviation of a number added to all voxels, in the patch's units
    slab: int = 0  # planes that are shown; the others hold the first plane's first value


def moved(
    volume: NDArray[np.float32], generator: np.random.Generator, moves: Moves, size: int = 32
) -> NDArray[np.float32]:
    """A patch (size, size, size) cut out of one with a margin, moved by whole voxels.

    Args:
        volume: (size, size + 2 margin, size + 2 margin) zyx, where the margin is at least
            `moves.shift`; where `moves.slab` is given, shown over `slab + 2 shift_z` planes.
        generator: where the randomness comes from.
        moves: how far.
        size: edge of the patch.
    """
    margin = (volume.shape[-1] - size) // 2
    # A radius with the square root's distribution fills the disc evenly.
    radius = moves.shift * np.sqrt(generator.random())
    angle = 2 * np.pi * generator.random()
    y, x = (margin + int(np.rint(radius * f(angle))) for f in (np.sin, np.cos))
    up = int(generator.integers(-moves.shift_z, moves.shift_z + 1))
    out = volume[:, y : y + size, x : x + size]
    if moves.shift_z:
        first = (size - moves.slab) // 2
        planes = out[first - up : first - up + moves.slab]
        out = np.full((size, size, size), volume[0, 0, 0])
        out[first : first + moves.slab] = planes
    if moves.add:
        out = np.clip(out + np.float32(moves.add * generator.standard_normal()), 0, 1)
    return out


def augmented_epoch(
    volumes: NDArray[np.float32],
    seed: int,
    epoch: int,
    flips: bool,
    quarter_turns: bool,
    moves: Moves | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One epoch's training patches, each augmented afresh, in a random order.

    What happens to patch i in an epoch depends on (seed, epoch, i) alone, so that a run that
    was stopped goes on with the very same patches.

    Args:
        volumes: (n, z, y, x); with moves (n, z, y + 2 margin, x + 2 margin).
        seed: the run's seed.
        epoch: from 0.
        flips: see `augment`.
        quarter_turns: see `augment`.
        moves: see `moved`; None: patches stay in their places.

    Returns:
        The patches (n, z, y, x), shuffled, and the row of `volumes` that each came from.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(volumes))
    depth = volumes.shape[1]
    out = np.empty((len(volumes), depth, depth, depth) if moves else volumes.shape, np.float32)
    for place, row in enumerate(order):
        generator = np.random.default_rng([seed, epoch, int(row)])
        volume = augment(volumes[row], generator, flips, quarter_turns)
        out[place] = moved(volume, generator, moves, depth) if moves else volume
    return out, order
