"""Augmentation: symmetries that keep the z axis, the same ones for the same seed, epoch and row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.model.augment import augment, augmented_epoch, symmetries

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
