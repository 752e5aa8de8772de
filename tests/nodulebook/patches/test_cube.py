"""Patches of stacks whose slices do not lie straight above each other."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nodulebook.ct.volume import ASIDE_MM, Geometry, Three, Volume, box_of
from nodulebook.patches import cube
from nodulebook.patches.cube import extract_patch

CENTRE = np.array([-20.3, 11.7, -150.2])
UPRIGHT, PRONE = np.eye(3), np.diag([-1.0, -1.0, 1.0])
SAGITTAL = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])  # columns run back, rows to the feet


def ramp(world_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU that grow differently along each axis; linear interpolation gives them exactly."""
    return (world_xyz - CENTRE) @ np.array([10.0, -7.0, 3.0])


def stack(direction: NDArray[np.float64], shift_xy_mm: NDArray[np.float64]) -> Volume:
    """Slices of the ramp, 1.5 mm apart, around `CENTRE`, each so far aside of the first."""
    size, spacing = (70, 64, len(shift_xy_mm)), np.array([0.8, 0.9, 1.5])
    middle = np.array([*shift_xy_mm.mean(axis=0), 0]) + (np.array(size) - 1) / 2 * spacing
    slices_mm = 1.5 * np.arange(size[2])
    origin = CENTRE - direction @ middle
    geometry = Geometry(size, origin, spacing, direction, slices_mm, shift_xy_mm)
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    voxels = ramp(geometry.to_world(index)).transpose(2, 1, 0)

    def read(first: Three, box: Three) -> NDArray[np.float64]:
        return box_of(voxels, first, box)

    return Volume("stack", geometry, read)


@pytest.mark.parametrize("direction", [UPRIGHT, PRONE, SAGITTAL])
@pytest.mark.parametrize("per_slice_mm", [(0.0, 0.45), (-0.6, 0.03), (0.01, 0.0)])
@pytest.mark.parametrize("jitter_mm", [0.0, 0.2])
def test_a_sheared_stack_is_cut_where_its_slices_lie(
    direction: NDArray[np.float64], per_slice_mm: tuple[float, float], jitter_mm: float
) -> None:
    shift = np.outer(np.arange(40), per_slice_mm)
    shift[1:] += np.random.default_rng(0).uniform(-jitter_mm, jitter_mm, (39, 2))
    patch = extract_patch(stack(direction, shift), CENTRE)
    offsets = np.arange(32) - 15.5
    z, y, x = np.meshgrid(offsets, offsets, offsets, indexing="ij")
    assert np.abs(patch - ramp(np.stack([x, y, z], axis=-1) + CENTRE)).max() < 0.01


def test_a_straight_stack_is_cut_axis_by_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as quick, and rounding in a header is no shear."""
    monkeypatch.setattr(cube, "_oblique", None)  # would fail if it were called
    rounding = ASIDE_MM * np.random.default_rng(0).uniform(-0.5, 0.5, (40, 2))
    for shift in (np.zeros((40, 2)), rounding, rounding + 30):
        assert extract_patch(stack(UPRIGHT, shift), CENTRE).shape == (32, 32, 32)
