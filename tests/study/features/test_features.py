"""Hand-crafted features: right on forms worked out by hand, and blind where that is promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from nodulebook.core.errors import InputError
from nodulebook.patches.cube import LUNG_HU
from study.features import definitions as f
from study.features import texture as t

OFFSET = np.arange(32) - 15.5
Z, Y, X = np.meshgrid(OFFSET, OFFSET, OFFSET, indexing="ij")


def ball(radius: float) -> np.ndarray:
    return np.sqrt(Z**2 + Y**2 + X**2) <= radius


def box(depth: int, height: int, width: int, at: tuple[int, int, int] = (5, 6, 7)) -> np.ndarray:
    mask = np.zeros((32, 32, 32), dtype=bool)
    z, y, x = at
    mask[z : z + depth, y : y + height, x : x + width] = True
    return mask


def lump(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A patch with an irregular nodule in noise, and its mask; no symmetry."""
    generator = np.random.default_rng(seed)
    soft = gaussian_filter(generator.normal(size=(32, 32, 32)), 3)
    radius = np.sqrt(Z**2 + 1.3 * (Y - 1) ** 2 + 0.7 * (X + 2) ** 2)
    mask = radius < 7 + 1.5 * soft / soft.std()
    hu = gaussian_filter(np.where(mask, 30.0, -850.0), 0.8)
    return np.rint(hu + generator.normal(0, 40, hu.shape)), mask


# -------------------------------------------------------------------------------- size and shape


@pytest.mark.parametrize("radius", [6.0, 8.0, 12.0])
def test_a_ball(radius):
    size, shape = f.size(ball(radius)), f.shape(ball(radius))
    assert size["volume_mm3"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    assert size["equivalent_diameter_mm"] == pytest.approx(2 * radius, rel=0.01)
    assert size["surface_mm2"] == pytest.approx(4 * np.pi * radius**2, rel=0.05)
    assert size["largest_plane_area_mm2"] == pytest.approx(np.pi * radius**2, rel=0.05)
    assert shape["sphericity"] == pytest.approx(1, abs=0.02)
    assert shape["elongation"] == pytest.approx(1) and shape["flatness"] == pytest.approx(1)
    assert shape["asymmetry"] == 0
    assert shape["spread"] == pytest.approx(0.75, abs=0.01)  # mean distance in a ball: 3/4 r


def test_a_box_by_hand():
    size, shape = f.size(box(4, 6, 8)), f.shape(box(4, 6, 8))
    assert size["volume_mm3"] == 192
    assert size["largest_diameter_mm"] == pytest.approx(np.sqrt(16 + 36 + 64))
    assert size["largest_plane_diameter_mm"] == pytest.approx(10)
    assert size["mean_plane_diameter_mm"] == pytest.approx(10)
    assert size["largest_plane_area_mm2"] == 48
    extents = [size[f"extent_{name}_mm"] for name in ("z", "narrow", "wide")]
    assert extents == [4, 6, 8]
    assert size["surface_mm2"] == pytest.approx(
        2 * (24 + 32 + 48), rel=0.15
    )  # edges are rounded off
    assert shape["solidity"] == pytest.approx(1) and shape["share_of_box"] == 1
    assert shape["plane_solidity"] == pytest.approx(1)
    # Variance along an axis of n voxels, each a box: n^2 / 12.
    assert shape["elongation"] == pytest.approx(6 / 8)
    assert shape["flatness"] == pytest.approx(4 / 8)
    assert shape["height_over_width"] == pytest.approx(4 / 7)


def test_two_arms_are_less_solid_and_round_than_a_box():
    arms = box(4, 12, 4) | box(4, 4, 12)
    assert arms.sum() == 4 * (48 + 48 - 16)
    # Hull of the L: a square of 12 less the triangle between the arms, of legs 8.
    assert f.shape(arms)["solidity"] == pytest.approx(80 / (144 - 32))
    assert f.shape(arms)["share_of_box"] == pytest.approx(80 / 144)
    assert f.shape(arms)["sphericity"] < f.shape(box(4, 9, 9))["sphericity"]
    assert f.shape(arms)["asymmetry"] > 0.3


def test_one_voxel_has_a_size_and_a_shape():
    mask = box(1, 1, 1)
    assert f.size(mask)["volume_mm3"] == 1
    assert f.size(mask)["largest_diameter_mm"] == pytest.approx(np.sqrt(3))
    assert all(np.isfinite(value) for value in f.shape(mask).values())


@settings(max_examples=4, deadline=None)
@given(st.tuples(*[st.integers(-4, 4)] * 3))
def test_moved_within_the_patch_a_nodule_keeps_size_and_shape(shift):
    _, mask = lump()
    moved = np.roll(mask, shift, (0, 1, 2))
    for measure in (f.size, f.shape):
        before, after = measure(mask), measure(moved)
        assert after == pytest.approx(before, rel=1e-4, abs=1e-6)


# ------------------------------------------------------------------------------------- intensity


def test_intensity_by_hand():
    hu = np.array([-400.0, -200.0, 0.0, 200.0, 400.0])
    got = f.intensity(hu)
    assert got["mean_hu"] == 0 and got["median_hu"] == 0 and got["max_hu"] == 400
    assert got["sd_hu"] == pytest.approx(np.sqrt(80000)) and got["mean_deviation_hu"] == 240
    assert got["p25_hu"] == -200 and got["p5_hu"] == pytest.approx(-360)
    assert got["skewness"] == 0
    assert got["share_above_-300_hu"] == 0.8 and got["share_above_200_hu"] == 0.2
    assert got["entropy_bits"] == pytest.approx(np.log2(5))  # five bins
    assert got["uniformity"] == pytest.approx(0.2)


def test_a_constant_has_no_spread():
    got = f.intensity(np.full(9, 50.0))
    for name in ("sd_hu", "skewness", "kurtosis", "entropy_bits"):
        assert got[name] == 0


# --------------------------------------------------------------------------------------- texture


def checkerboard(n: int = 8) -> np.ndarray:
    levels = (np.indices((n, n)).sum(axis=0) % 2) * (t.GREY_LEVELS - 1)
    return levels[None]


def test_co_occurrence_of_a_checkerboard():
    """Neighbours along rows and columns always differ, on the diagonals never."""
    whole = np.ones((1, 8, 8), dtype=bool)
    pairs = t.co_occurrence(checkerboard(), whole, 1)
    differ = 8 * 7 / (8 * 7 + 7 * 7)  # pairs along an axis, of these and those along a diagonal
    last = t.GREY_LEVELS - 1
    assert pairs.sum() == pytest.approx(1)
    assert pairs[0, last] == pytest.approx(differ / 2) == pairs[last, 0]
    assert pairs[0, 0] + pairs[last, last] == pytest.approx(1 - differ)
    got = t.haralick(pairs)
    assert got["contrast"] == pytest.approx(last**2 * differ)
    assert got["dissimilarity"] == pytest.approx(last * differ)
    two_apart = t.haralick(t.co_occurrence(checkerboard(), whole, 2))
    assert two_apart["contrast"] == 0 and two_apart["correlation"] == pytest.approx(1)


def test_pairs_that_leave_the_region_do_not_count():
    region = np.zeros((1, 8, 8), dtype=bool)
    region[0, 2:5, 3:6] = True
    inside = t.co_occurrence(checkerboard(), region, 1)
    other = np.where(region, checkerboard(), 7)
    np.testing.assert_array_equal(t.co_occurrence(other, region, 1), inside)
    assert inside[7].sum() == 0


def test_a_plain_region_has_no_texture():
    volume, mask = np.full((3, 32, 32), -100.0), np.stack([ball(5)[15]] * 3)
    got = t.texture(volume, mask)
    for distance in t.DISTANCES_MM:
        assert got[f"contrast_{distance}_mm"] == 0 and got[f"entropy_bits_{distance}_mm"] == 0
        assert got[f"homogeneity_{distance}_mm"] == pytest.approx(1)
    assert got["pattern_8"] == 1  # all eight neighbours at least as bright


# ------------------------------------------------------------------------------------ morphology


def test_a_blurred_margin_is_less_sharp():
    mask = ball(7)
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    hu = np.where(mask, 50.0, -850.0)
    sharp, soft = (
        t.morphology(volume[planes], mask[planes]) for volume in (hu, gaussian_filter(hu, 2))
    )
    for name in ("sharpness_per_mm", "gradient_p90_hu_per_mm", "across_mean_hu_per_mm"):
        assert sharp[name] > 1.3 * soft[name] > 0
    assert sharp["step_hu"] == pytest.approx(900)
    assert sharp["across_share"] == pytest.approx(1, abs=0.08)


def test_a_vessel_beside_the_nodule_is_seen_around_it():
    mask = ball(5)
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    hu = np.where(mask, 50.0, -850.0)
    with_vessel = np.where((np.abs(Y) < 2) & (X > 0), 50.0, hu)
    without, there = (t.morphology(v[planes], mask[planes]) for v in (hu, with_vessel))
    assert without["around_share_above_-500_hu"] == 0 < there["around_share_above_-500_hu"]
    assert there["around_mean_hu"] > without["around_mean_hu"] == -850


def _blob(waves: int, height: float) -> np.ndarray:
    """A plane with an outline that goes in and out `waves` times."""
    y, x = np.meshgrid(OFFSET, OFFSET, indexing="ij")
    return np.hypot(y, x) <= 10 * (1 + height * np.cos(waves * np.arctan2(y, x)))


def test_lobes_and_spikes_are_told_apart():
    circle, lobes, spikes = (t.outline(_blob(*a)) for a in ((0, 0), (3, 0.25), (8, 0.2)))
    assert lobes["outline_lobes"] > 5 * max(circle["outline_lobes"], 0.01)
    assert spikes["outline_spikes"] > 3 * max(circle["outline_spikes"], lobes["outline_spikes"] / 3)
    assert spikes["outline_roughness"] > lobes["outline_roughness"] > circle["outline_roughness"]


def test_an_ellipse_is_elongated_and_nothing_else():
    y, x = np.meshgrid(OFFSET, OFFSET, indexing="ij")
    got = t.outline((y / 12) ** 2 + (x / 6) ** 2 <= 1)
    # Of an ellipse with half-axes a and b, the two senses have (a + b) / 2 and (a - b) / 2, if it
    # is passed through at an even angle; evenly along its length they differ a little.
    assert got["outline_elongation"] == pytest.approx((12 - 6) / (12 + 6), abs=0.09)
    assert got["outline_spikes"] < 0.05


# ---------------------------------------------------------------------------- random and wavelet


def test_random_kernels_answer_to_change_only():
    got = f.random_responses(np.full((32, 32, 32), -300.0))
    assert len(got) == 3 * f.N_KERNELS
    assert max(abs(value) for value in got.values()) < 1e-4
    assert all(value == 0 for name, value in got.items() if name.endswith("share"))


def test_random_kernels_are_the_same_each_time():
    volume, _ = lump()
    first = f.random_responses(volume)
    f._kernels.cache_clear()
    assert f.random_responses(volume) == first


def test_wavelets_of_a_constant_and_of_stripes():
    mask = np.stack([ball(6)[15]] * 2)
    plain = f.wavelet(np.full((2, 32, 32), -100.0), mask)
    assert plain["level_1_smooth_mean_hu"] == pytest.approx(-100)
    assert plain["level_1_edge_rms_hu"] == pytest.approx(0, abs=1e-9)
    fine = np.broadcast_to(np.where(np.arange(32) % 2, 100.0, -100.0), (2, 32, 32))
    got = f.wavelet(fine, mask)
    assert got["level_1_edge_rms_hu"] > 20 * max(got["level_3_edge_rms_hu"], 0.1)
    turned = f.wavelet(fine.swapaxes(1, 2).copy(), mask)
    assert turned["level_1_edge_rms_hu"] == pytest.approx(got["level_1_edge_rms_hu"])


# -------------------------------------------------------------------------------- all together


def test_groups_names_and_numbers():
    groups = f.all_features(*lump())
    assert tuple(groups) == f.GROUPS
    assert all(np.isfinite(value) for group in groups.values() for value in group.values())
    assert sum(map(len, groups.values())) > 250


TURNS = {
    "flip z": lambda a: a[::-1],
    "flip y": lambda a: a[:, ::-1],
    "flip x": lambda a: a[:, :, ::-1],
    "quarter turn": lambda a: np.rot90(a, 1, (1, 2)),
}


@pytest.mark.parametrize("name", TURNS)
def test_flipped_and_turned_a_nodule_is_the_same(name):
    """But for random kernels and wavelets, which have a direction."""
    volume, mask = lump(3)
    wanted = f.all_features(volume, mask)
    got = f.all_features(TURNS[name](volume).copy(), TURNS[name](mask).copy())
    for group in ("intensity", "shape", "texture", "morphology", "size"):
        assert got[group] == pytest.approx(wanted[group], rel=1e-3, abs=1e-3), group


def test_planes_without_an_image_do_not_enter():
    """What is read from voxels is the same, however far the mask goes into the filling."""
    volume, mask = lump(1)
    volume[:11] = volume[21:] = LUNG_HU
    cut = mask.copy()
    cut[:11] = cut[21:] = False
    assert cut.sum() < mask.sum()
    whole, less = f.all_features(volume, mask), f.all_features(volume, cut)
    for group in ("intensity", "texture", "morphology", "wavelet"):
        assert whole[group] == less[group], group
    assert whole["size"] != less["size"]


def test_random_kernels_do_see_the_filling():
    volume, mask = lump(1)
    filled = volume.copy()
    filled[:11] = filled[21:] = LUNG_HU
    assert f.all_features(filled, mask)["random"] != f.all_features(volume, mask)["random"]


def test_what_lies_beyond_the_window_is_clipped():
    volume, mask = lump(1)
    bright = np.where(volume > 30, 3000.0, volume)
    less = np.where(volume > 30, 600.0, volume)
    assert f.all_features(bright, mask) == f.all_features(less, mask)


@pytest.mark.parametrize(
    ("volume", "mask", "why"),
    [
        (np.zeros((32, 32, 31)), np.ones((32, 32, 31), bool), "cubes of one size"),
        (np.zeros((32, 32, 32)), np.ones((16, 16, 16), bool), "cubes of one size"),
        (np.full((32, 32, 32), np.nan), np.ones((32, 32, 32), bool), "not finite"),
        (np.zeros((32, 32, 32)), np.zeros((32, 32, 32), bool), "no voxel"),
        (np.full((32, 32, 32), LUNG_HU), np.ones((32, 32, 32), bool), "no voxel in a plane"),
    ],
)
def test_what_is_no_patch_is_refused(volume, mask, why):
    with pytest.raises(InputError, match=why):
        f.all_features(volume, mask)
