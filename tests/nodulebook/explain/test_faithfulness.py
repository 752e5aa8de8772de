"""Measures of maps: each against cases worked out by hand."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nodulebook.core.settings import NetworkSettings
from nodulebook.explain import faithfulness as f
from nodulebook.model.senet import senet
from nodulebook.patches.cube import scale_to_unit

SHAPE = (4, 4, 4)


def empty(n=1, dtype=float):
    return np.zeros((n, *SHAPE), dtype)


def box(*corner, size=1):
    """A mask: a cube of voxels from a corner on."""
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(c, c + size) for c in corner)] = True
    return mask


def test_the_peak_is_the_middle_of_a_plateau():
    maps = empty(3)
    maps[0, 1, 2, 3] = 1
    maps[1, 0:2, 0:2, 2:4] = 0.5
    np.testing.assert_allclose(f.peaks_zyx(maps)[:2], [[1, 2, 3], [0.5, 0.5, 2.5]])
    assert np.isnan(f.peaks_zyx(maps)[2]).all()


def test_pointing_takes_a_voxel_beside_the_outline_and_not_two():
    maps = empty(4)
    for row, x in enumerate((0, 1, 2)):
        maps[row, 0, 0, x] = 1
    masks = np.stack([box(0, 0, 0)] * 4)
    assert f.pointing_hits(maps, masks).tolist() == [1, 1, 0, 0]  # the last map is empty: a miss


def test_localisation_error_in_mm():
    maps = empty(2)
    maps[0, 3, 3, 0] = 1
    masks = np.stack([box(0, 0, 0, size=2)] * 2)  # centre of mass at (0.5, 0.5, 0.5)
    errors = f.localisation_errors_mm(maps, masks)
    assert errors[0] == pytest.approx(np.sqrt(2.5**2 + 2.5**2 + 0.5**2))
    assert np.isnan(errors[1])


def test_energy_is_the_share_inside():
    maps = empty(2)
    maps[0, 0, 0] = [1, 2, 3, 4]
    masks = np.stack([box(0, 0, 0), box(0, 0, 0)])
    assert f.energy_inside(maps, masks).tolist() == [0.1, 0]


def test_best_dice_by_hand():
    # Values 4 (inside), 3 (outside), 2 (inside); mask of two voxels. Thresholds: 4: 2 / (1 + 2);
    # 3: 2 / (2 + 2); 2: 4 / (3 + 2) = 0.8, the best.
    maps = empty()
    maps[0, 0, 0, :3] = [4, 3, 2]
    mask = box(0, 0, 0) | box(0, 0, 2)
    assert f.best_dice(maps, mask[None])[0] == pytest.approx(0.8)


def test_a_threshold_cannot_split_equal_values():
    # All 64 voxels equal, two of them inside: only {all} can be asked for.
    assert f.best_dice(np.ones((1, *SHAPE)), (box(0, 0, 0) | box(1, 1, 1))[None])[
        0
    ] == pytest.approx(4 / 66)
    assert f.best_dice(empty(), box(0, 0, 0)[None])[0] == 0


def test_without_an_outline_nothing_is_measured():
    nothing = empty(dtype=bool)
    for measure in (f.pointing_hits, f.localisation_errors_mm, f.energy_inside, f.best_dice):
        assert np.isnan(measure(np.ones((1, *SHAPE)), nothing)).all()


@given(arrays(float, (1, *SHAPE), elements=st.floats(0, 1)), st.tuples(*[st.integers(0, 2)] * 3))
def test_measures_are_shares_and_follow_a_flip(maps, corner):
    masks = box(*corner, size=2)[None]
    for measure in (f.energy_inside, f.best_dice, f.pointing_hits):
        value = measure(maps, masks)[0]
        assert 0 <= value <= 1 + 1e-12
        flipped = measure(maps[:, ::-1, :, ::-1], masks[:, ::-1, :, ::-1])[0]
        assert flipped == pytest.approx(value)


def test_the_mask_as_a_map_is_perfect():
    mask = box(1, 1, 1, size=2)[None]
    maps = mask.astype(float)
    assert (
        f.energy_inside(maps, mask) == f.best_dice(maps, mask) == f.pointing_hits(maps, mask) == 1
    )
    assert f.localisation_errors_mm(maps, mask) == 0


def test_the_gaussian_is_centred_and_as_wide_as_said():
    blob = f.centred_gaussian((32, 32, 32), sigma_mm=4)
    np.testing.assert_allclose(f.peaks_zyx(blob[None])[0], [15.5] * 3)
    # From 0.5 mm to 4.5 mm beside the centre along x: exp(-(4.5^2 - 0.5^2) / 32).
    assert blob[15, 15, 20] / blob[15, 15, 16] == pytest.approx(np.exp(-(20.25 - 0.25) / 32))
    np.testing.assert_allclose(blob, blob[::-1, ::-1, ::-1])


def test_deletion_and_insertion_by_hand():
    """A network that only counts bright voxels: p = the mean of (v > TISSUE)."""

    def predict(volumes):
        return (volumes > f.TISSUE).mean(axis=(1, 2, 3)).astype(float)

    volumes = np.full((2, *SHAPE), f.LUNG, np.float32)
    volumes[:, 0] = 1  # 16 of 64 voxels bright
    maps = empty(2)
    maps[:, 0] = 1  # the map ranks just these first
    deletion, insertion = f.deletion_and_insertion(
        predict, volumes, maps, np.array([1, 0]), (0, 0.125, 0.25, 1)
    )
    np.testing.assert_allclose(deletion[0], [0.25, 0.125, 0, 0])
    np.testing.assert_allclose(insertion[0], [0, 0.125, 0.25, 0.25])
    np.testing.assert_allclose(deletion[1], 1 - deletion[0])  # the other class is explained
    # Trapezia: (0.25 + 0.125) / 2 / 8 + 0.125 / 2 / 8.
    assert f.area(deletion, (0, 0.125, 0.25, 1))[0] == pytest.approx(0.03125)


def test_ranking_breaks_ties_by_no_place():
    order = f.ranking(np.ones((2, *SHAPE)))
    assert sorted(order[0]) == list(range(64))
    assert order[0].tolist() == order[1].tolist() != list(range(64))
    maps = np.arange(64.0).reshape(1, *SHAPE)
    assert f.ranking(maps)[0].tolist() == list(range(63, -1, -1))


def test_the_judge_sees_only_what_the_map_keeps():
    volumes = np.full((1, *SHAPE), f.LUNG, np.float32)
    volumes[0, 0] = scale_to_unit(np.array(40.0))
    maps = empty()
    maps[0, 0] = 1
    assert f.kept_tissue_mm3(volumes, maps, share=0.25) == 16
    assert f.kept_tissue_mm3(volumes, 1 - maps, share=0.25) == 0
    assert f.kept_tissue_mm3(volumes, maps, share=0.125) == 8


def test_a_shift_moves_the_nodule_and_fills_with_what_is_said():
    values = np.arange(64.0).reshape(1, *SHAPE)
    moved = f.shifted(values, np.array([[1, -2, 0]]), -1)
    np.testing.assert_array_equal(moved[0, 1:, :2], values[0, :3, 2:])
    assert (moved[0, 0] == -1).all() and (moved[0, :, 2:] == -1).all()
    back = f.shifted(moved, np.array([[-1, 2, 0]]), -1)
    np.testing.assert_array_equal(back[0, :3, 2:], values[0, :3, 2:])


def test_shifts_are_fixed_by_the_name_and_go_every_way():
    names = [f"nodule-{k}" for k in range(200)]
    shifts = f.shifts_zyx(names)
    assert set(np.abs(shifts).ravel()) == {f.SHIFT_MM}
    assert len(np.unique(shifts, axis=0)) == 8
    np.testing.assert_array_equal(f.shifts_zyx(names[::-1])[::-1], shifts)


def test_rank_correlation():
    maps = np.random.default_rng(0).random((3, 8, 8, 8))
    others = np.stack([maps[0] ** 3, -maps[1], np.zeros((8, 8, 8))])
    correlations = f.rank_correlations(maps, others)
    np.testing.assert_allclose(correlations[:2], [1, -1])
    assert np.isnan(correlations[2])


def test_weights_are_made_random_from_the_output_on_and_put_back():
    settings = NetworkSettings(filters=[4, 4, 4, 4], modules=[1, 1, 1, 1], input_pooling=2)
    keras.utils.set_random_seed(0)
    model = senet(settings)
    own = [w.copy() for w in model.get_weights()]
    changed, parts = {}, []
    for part in f.randomised_step_by_step(model):
        parts.append(part)
        changed[part] = {
            weight.path.split("_")[0].split("/")[0]
            for weight, old in zip(model.weights, own, strict=True)
            if not np.array_equal(weight.numpy(), old)
        }
    assert parts == ["logits", "stage4", "stage3", "stage2", "stage1", "first"]
    for step, part in enumerate(parts):
        assert changed[part] == set(parts[: step + 1])
    for now, old in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(now, old)


def test_rivals_are_maps():
    volumes = np.array([f.LUNG - 0.1, f.LUNG, 1.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(f.image_map(volumes).ravel(), [0, 0, 1 - f.LUNG], atol=1e-6)
    maps = f.random_maps(2, (8, 8, 8))
    np.testing.assert_allclose(maps.min(axis=(1, 2, 3)), 0)
    np.testing.assert_allclose(maps.max(axis=(1, 2, 3)), 1)
    np.testing.assert_array_equal(f.random_maps(2, (8, 8, 8)), maps)
