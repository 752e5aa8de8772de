"""Augmentation: symmetries that keep the z axis, the same ones for the same seed, epoch and row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.model.augment import Moves, augment, augmented_epoch, moved, symmetries

CUBE = np.arange(27, dtype=np.float32).reshape(3, 3, 3)


class _Fixed:
    """A generator that gives chosen numbers."""

    def __init__(self, flips, turns):
        self.flips, self.turns = list(flips), turns

    def random(self):
        return self.flips.pop(0)

    def integers(self, n):
        assert n == 4
        return self.turns


def _volumes(n, seed=0):
    return np.random.default_rng(seed).random((n, 4, 4, 4), dtype=np.float32)


def test_hand_case():
    volume = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], dtype=np.float32)
    turned = augment(volume, _Fixed([0.9, 0.9, 0.9], 1), flips=True, quarter_turns=True)
    assert turned.tolist() == [[[2, 4], [1, 3]], [[6, 8], [5, 7]]]
    flipped_z = augment(volume, _Fixed([0.1, 0.9, 0.9], 0), flips=True, quarter_turns=True)
    assert flipped_z.tolist() == [[[5, 6], [7, 8]], [[1, 2], [3, 4]]]
    flipped_x = augment(volume, _Fixed([0.9, 0.9, 0.1], 0), flips=True, quarter_turns=True)
    assert flipped_x.tolist() == [[[2, 1], [4, 3]], [[6, 5], [8, 7]]]
    # flip x, then a quarter turn
    both = augment(volume, _Fixed([0.9, 0.9, 0.1], 1), flips=True, quarter_turns=True)
    assert both.tolist() == [[[1, 3], [2, 4]], [[5, 7], [6, 8]]]


def _axis_keeping_symmetries():
    """Every signed permutation of the axes that maps z to plus or minus z, applied to CUBE."""
    images = set()
    for swap in (False, True):
        turned = CUBE.transpose(0, 2, 1) if swap else CUBE
        for z in (1, -1):
            for y in (1, -1):
                for x in (1, -1):
                    images.add(turned[::z, ::y, ::x].tobytes())
    return images


def test_all_symmetries_that_keep_the_z_axis_occur_alike_and_no_other():
    # Eight flips times four turns are 32 draws, of which pairs coincide: 2 (z) * 8 (square).
    wanted = _axis_keeping_symmetries()
    assert len(wanted) == 16
    draws = [
        augment(CUBE, np.random.default_rng(seed), True, True).tobytes() for seed in range(3200)
    ]
    assert set(draws) == wanted
    counts = [draws.count(image) for image in wanted]
    assert min(counts) > 140 and max(counts) < 260  # 200 each, 4 standard deviations


def test_flips_alone_and_turns_alone():
    draws = {augment(CUBE, np.random.default_rng(s), True, False).tobytes() for s in range(200)}
    assert draws == {
        CUBE[::z, ::y, ::x].tobytes() for z in (1, -1) for y in (1, -1) for x in (1, -1)
    }
    draws = {augment(CUBE, np.random.default_rng(s), False, True).tobytes() for s in range(200)}
    assert draws == {np.rot90(CUBE, k, axes=(1, 2)).tobytes() for k in range(4)}


@given(seed=st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=50)
def test_axial_planes_stay_axial_planes(seed):
    volume = _volumes(1, seed)[0]
    out = augment(volume, np.random.default_rng(seed), True, True)
    before = [sorted(plane.ravel().tolist()) for plane in volume]
    after = [sorted(plane.ravel().tolist()) for plane in out]
    assert after in (before, before[::-1])


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 500), n=st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_an_epoch_has_every_row_once_and_every_voxel(seed, epoch, n):
    volumes = _volumes(n)
    out, order = augmented_epoch(volumes, seed, epoch, True, True)
    assert sorted(order.tolist()) == list(range(n))
    assert out.dtype == np.float32 and out.shape == volumes.shape
    for place, row in enumerate(order):
        assert np.array_equal(np.sort(out[place], axis=None), np.sort(volumes[row], axis=None))


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 500), n=st.integers(2, 6))
@settings(deadline=None, max_examples=50)
def test_a_row_is_augmented_alike_whatever_the_other_rows(seed, epoch, n):
    volumes = _volumes(6)
    few, few_order = augmented_epoch(volumes[:n], seed, epoch, True, True)
    changed = volumes.copy()
    changed[n:] = 0
    many, many_order = augmented_epoch(changed, seed, epoch, True, True)
    for row in range(n):
        assert np.array_equal(few[few_order == row], many[many_order == row])


def test_same_arguments_give_the_same_epoch():
    volumes = _volumes(5)
    one, two = (augmented_epoch(volumes, 3, 7, True, True) for _ in range(2))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])


def test_input_is_not_changed():
    volumes = _volumes(5)
    augmented_epoch(volumes, 3, 7, True, True)
    assert np.array_equal(volumes, _volumes(5))


@pytest.mark.parametrize("other", [(3, 8), (4, 7)])
def test_other_epochs_and_seeds_differ_in_order_and_in_symmetry(other):
    volumes = _volumes(20)
    one, one_order = augmented_epoch(volumes, 3, 7, True, True)
    two, two_order = augmented_epoch(volumes, *other, True, True)
    assert not np.array_equal(one_order, two_order)
    same = np.array_equal(one[np.argsort(one_order)], two[np.argsort(two_order)])
    assert not same


def test_rows_are_augmented_independently_of_each_other():
    volumes = np.repeat(CUBE[None], 40, axis=0)
    out, _ = augmented_epoch(volumes, 0, 0, True, True)
    assert len({patch.tobytes() for patch in out}) > 8


def test_without_flips_and_turns_patches_are_only_shuffled():
    volumes = _volumes(10)
    out, order = augmented_epoch(volumes, 0, 0, False, False)
    assert np.array_equal(out, volumes[order])
    assert order.tolist() != list(range(10))


def test_the_symmetries_are_all_that_augmentation_can_give_each_once():
    seen = {view.tobytes() for view in symmetries(CUBE[None])}
    assert len(seen) == 16
    given = {
        np.ascontiguousarray(
            augment(CUBE, np.random.default_rng(seed), flips=True, quarter_turns=True)
        ).tobytes()
        for seed in range(300)
    }
    assert given == seen
    assert next(iter(symmetries(CUBE[None]))).tolist() == CUBE[None].tolist()


# -------------------------------------------------------------------------------- shifts


def _places(size: int, margin: int) -> np.ndarray:
    """Each voxel holds its own place: 10,000 z + 100 y + x, counted from the patch's corner."""
    z, y, x = np.meshgrid(np.arange(size), *2 * [np.arange(-margin, size + margin)], indexing="ij")
    return (10_000 * z + 100 * y + x).astype(np.float32)


def test_shifts_fill_a_disc_of_their_radius_and_voxels_keep_their_neighbours() -> None:
    volume = _places(6, 3)
    seen = set()
    for seed in range(400):
        out = moved(volume, np.random.default_rng(seed), Moves(shift=3), size=6)
        corner = out[0, 0, 0]
        y = round(corner / 100)
        seen.add((y, int(corner - 100 * y)))
        assert (out - corner == _places(6, 0)).all()
    assert all(y * y + x * x <= 3.6**2 for y, x in seen)  # rounded from within 3
    assert {(3, 0), (-3, 0), (0, 3), (0, -3), (2, 2), (0, 0)} <= seen


def test_a_shift_along_z_moves_the_slab_and_leaves_its_place() -> None:
    # A slab of 2 of 8 planes with room for 1 more on each side; outside is lung, 0.5 here.
    volume = np.full((8, 8, 8), 0.5, np.float32)
    volume[2:6] = np.arange(2, 6)[:, None, None] / 10
    planes = set()
    for seed in range(40):
        out = moved(volume, np.random.default_rng(seed), Moves(shift_z=1, slab=2), size=8)
        assert (np.delete(out, [3, 4], axis=0) == 0.5).all()
        planes.add(tuple((10 * out[3:5, 0, 0]).round().astype(int)))
    assert planes == {(2, 3), (3, 4), (4, 5)}


def test_one_number_is_added_to_a_whole_patch_and_values_stay_in_the_window() -> None:
    volume = np.full((500, 4, 4, 4), 0.5, np.float32)
    out, _ = augmented_epoch(volume, 0, 0, False, False, Moves(add=0.1))
    assert np.ptp(out, axis=(1, 2, 3)).max() == 0
    assert out[:, 0, 0, 0].std() == pytest.approx(0.1, rel=0.1)
    out, _ = augmented_epoch(volume, 0, 0, False, False, Moves(add=10))
    assert out.min() == 0 and out.max() == 1


def test_moves_do_not_change_the_flips_and_turns_of_an_epoch() -> None:
    volumes = _volumes(9)
    plain, order = augmented_epoch(volumes, 3, 7, True, True)
    still, same = augmented_epoch(volumes, 3, 7, True, True, Moves())
    assert (plain == still).all() and (order == same).all()
