"""The phantom shows each nodule as its readers drew and rated it, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.data import cohort
from nodulebook.data.annotations import CHARACTERISTICS, Contour, Reading, Scan, read_scans
from nodulebook.data.cohort import REFERENCE_READERS, cluster_readings, read_nodules
from nodulebook.data.contours import consensus_mask, grid_offsets_mm, lesion_distance_on_grid
from nodulebook.patches.sources import phantom

PLAIN = {
    "subtlety": 4.0,
    "internal_structure": 1.0,
    "calcification": 6.0,
    "sphericity": 4.0,
    "margin": 4.0,
    "lobulation": 1.0,
    "spiculation": 1.0,
    "texture": 5.0,
}
RATING_RANGES = dict.fromkeys(CHARACTERISTICS, 5) | {"internal_structure": 4, "calcification": 6}


@pytest.fixture(scope="module")
def nodules():
    table = read_nodules()
    return table[table["readers"] >= REFERENCE_READERS].reset_index(drop=True)


@pytest.fixture(scope="module")
def few(nodules):
    """Twelve nodules of twelve sizes."""
    order = nodules["diameter_mm"].argsort()
    return nodules.loc[order.iloc[:: len(order) // 11]].reset_index(drop=True)


@pytest.fixture(scope="module")
def few_patches(few):
    return {patch.nodule_id: patch for patch in phantom.patches(few)}


@pytest.fixture(scope="module")
def measured(nodules):
    """Of every reference nodule: the consensus's volume and reach, the phantom's volumes, mm."""
    rows = []
    scans = {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}
    lesions = {uid: cluster_readings(scan) for uid, scan in scans.items()}
    for nodule in nodules.itertuples():
        scan = scans[nodule.series_uid]
        readings = lesions[nodule.series_uid][nodule.cluster]
        centre = np.array([nodule.centroid_x_px, nodule.centroid_y_px, nodule.centroid_z_mm])
        consensus = consensus_mask(scan, readings)
        distance = lesion_distance_on_grid(consensus, centre, 32)
        mask = phantom.lesion_mask(distance)
        off_centre = np.argwhere(mask).mean(axis=0) + grid_offsets_mm(32)[0]
        faces = [mask[side] for side in (0, -1)]
        faces += [mask[:, side] for side in (0, -1)] + [mask[:, :, side] for side in (0, -1)]
        rows.append(
            {
                "nodule_id": nodule.nodule_id,
                "diameter_mm": nodule.diameter_mm,
                "consensus_mm3": consensus.volume_mm3,
                "mask_mm3": mask.sum(),
                "occupancy_mm3": np.clip(distance + 0.5, 0, 1).sum(),
                "mask": mask,
                "cut_off": any(face.any() for face in faces),
                "off_centre_mm": np.linalg.norm(off_centre),
            }
        )
    return pd.DataFrame(rows)


def ball(radius_mm):
    """Distance to the surface of a ball, positive inside, a little beside the cube's centre.

    In the very centre many voxels would be equally far from it, and change sides together.
    """
    offsets = grid_offsets_mm(32)
    z, y, x = np.meshgrid(offsets - 0.13, offsets + 0.27, offsets - 0.21, indexing="ij")
    return radius_mm - np.sqrt(z * z + y * y + x * x)


def rendered(radius_mm=6.0, nodule_id="test", slice_thickness_mm=1.25, **ratings):
    return phantom.render(nodule_id, ball(radius_mm), PLAIN | ratings, slice_thickness_mm)


def mean_inside(**ratings):
    result = rendered(**ratings)
    return result.clean_hu[result.mask].mean()


# As the readers drew it


def test_there_are_1186_reference_nodules_and_each_has_a_consensus(measured):
    assert len(measured) == 1186
    assert (measured["consensus_mm3"] > 0).all()


@pytest.mark.parametrize("measure", ["mask_mm3", "occupancy_mm3"])
def test_volume_is_within_a_tenth_for_95_percent_of_nodules_above_5_mm(measured, measure):
    above = measured[measured["diameter_mm"] > 5]
    ratio = above[measure] / above["consensus_mm3"]
    assert len(above) > 1100
    assert (ratio.sub(1).abs() <= 0.10).mean() >= 0.95


def test_volume_is_within_a_voxel_wherever_the_cube_holds_the_nodule(measured):
    whole = measured[~measured["cut_off"]]
    assert len(whole) > 1100
    assert (whole["mask_mm3"] - whole["consensus_mm3"]).abs().max() <= 1
    assert (whole["occupancy_mm3"] / whole["consensus_mm3"] - 1).abs().max() < 1e-3


def test_the_patches_have_these_masks(measured, few_patches):
    expected = measured.set_index("nodule_id")["mask"]
    assert all((patch.mask == expected[name]).all() for name, patch in few_patches.items())


def test_the_nodule_lies_in_the_middle_of_its_cube(measured):
    whole = measured[~measured["cut_off"]]
    assert whole["off_centre_mm"].median() < 0.5
    # Readers who disagree leave a few consensus masks beside the mean of their centroids.
    assert (whole["off_centre_mm"] < 2).mean() > 0.98


@pytest.mark.parametrize("radius_mm", [2.5, 4.0, 8.0])
@pytest.mark.parametrize("slice_thickness_mm", [0.6, 2.5])
@pytest.mark.parametrize("margin", [1.0, 5.0])
def test_the_visible_edge_lies_on_the_outline(radius_mm, slice_thickness_mm, margin):
    result = rendered(radius_mm, slice_thickness_mm=slice_thickness_mm, margin=margin)
    volume = 4 / 3 * np.pi * radius_mm**3
    assert result.mask.sum() == pytest.approx(volume, rel=0.05)
    near = ball(radius_mm) > -3
    half_way = (result.clean_hu[15:17, 15:17, 15:17].mean() - 860) / 2
    for image in (result.clean_hu, result.with_noise_hu):
        assert (image[near] > half_way).sum() == pytest.approx(result.mask.sum(), rel=0.10)


# As the readers rated it


def test_texture_goes_from_ground_glass_to_solid():
    inside = [mean_inside(texture=t) for t in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert inside == sorted(inside)
    assert -760 < inside[0] < -580
    assert -120 < inside[-1] < 50


def test_part_solid_is_a_solid_core_in_ground_glass():
    clean = rendered(10.0, texture=3.0).clean_hu
    assert clean[15:17, 15:17, 15:17].mean() > -60
    rim = (ball(10.0) > 1) & (ball(10.0) < 2)
    assert -780 < np.median(clean[rim]) < -450


@pytest.mark.parametrize("pattern", [1, 2, 3, 4, 5])
def test_every_calcification_is_brighter_than_none_and_dense(pattern):
    none, calcified = rendered(7.0), rendered(7.0, calcification=float(pattern))
    assert calcified.clean_hu[none.mask].mean() > none.clean_hu[none.mask].mean() + 20
    assert calcified.clean_hu.max() > 200
    assert none.clean_hu[none.mask].max() < 120


def test_calcium_lies_where_the_pattern_says():
    far_in, far_out = ball(8.0) > 5, (ball(8.0) > 0.5) & (ball(8.0) < 2)
    solid, central = (rendered(8.0, calcification=c).clean_hu for c in (3.0, 5.0))
    assert min(solid[far_in].mean(), solid[far_out].mean(), central[far_in].mean()) > 200
    assert central[far_out].mean() < 100
    beside = rendered(8.0, calcification=4.0).clean_hu
    bright = np.argwhere(beside > 200).mean(axis=0) - 15.5
    assert np.linalg.norm(bright) > 2


def test_internal_structure_sets_the_density_inside():
    inner = ball(9.0) > 6
    soft, fluid, fat, air = (
        rendered(9.0, internal_structure=s).clean_hu[inner].mean() for s in (1.0, 2.0, 3.0, 4.0)
    )
    assert -5 < fluid < 20 < soft < 60
    assert -90 < fat < -60
    assert air < -850


def test_a_poor_margin_is_a_wide_one():
    def width(margin):
        share = rendered(9.0, margin=margin).share
        return ((share > 0.2) & (share < 0.8)).sum()

    widths = [width(m) for m in (5.0, 4.0, 3.0, 2.0, 1.0)]
    assert widths == sorted(widths)
    assert widths[-1] > 1.5 * widths[0]


def test_spicules_reach_into_the_lung_below_half_height():
    smooth, spiculated = rendered(6.0), rendered(6.0, spiculation=5.0)
    added = spiculated.clean_hu - smooth.clean_hu
    assert (added > 60).sum() > 20
    assert ball(6.0)[added > 60].max() < 0.5
    assert added[ball(6.0) < -0.5].max() < 445
    assert (spiculated.share == smooth.share).all()


def test_a_kind_is_voted_for_and_a_degree_is_averaged():
    def one(**given):
        return Reading(1, 3, {name: int(PLAIN[name]) for name in PLAIN} | given, ())

    ratings = phantom.mean_ratings(
        [one(texture=1, calcification=3), one(texture=4, calcification=3), one(texture=4)]
    )
    assert ratings["texture"] == 3.0
    assert ratings["calcification"] == 3
    tied = phantom.mean_ratings([one(calcification=3, internal_structure=4), one()])
    assert (tied["calcification"], tied["internal_structure"]) == (6, 1)


def test_every_rating_a_reader_can_give_is_rendered():
    for name, highest in RATING_RANGES.items():
        for value in range(1, highest + 1):
            result = rendered(3.0, **{name: float(value)})
            assert np.isfinite(result.clean_hu).all(), (name, value)


@pytest.mark.parametrize("radius_mm", [0.3, 30.0])
def test_a_speck_and_a_mass_are_rendered_too(radius_mm):
    ratings = {"spiculation": 5.0, "calcification": 4.0, "texture": 3.0}
    result = rendered(radius_mm, **ratings)
    assert np.isfinite(result.clean_hu).all()
    assert result.mask.sum() == (1 if radius_mm < 1 else 32**3)


# And nothing else


def test_a_patch_has_the_promised_shape_type_and_range(few_patches):
    assert len(few_patches) == 12
    for patch in few_patches.values():
        assert patch.volume_hu.shape == patch.mask.shape == (32, 32, 32)
        assert (patch.volume_hu.dtype, patch.mask.dtype) == (np.int16, np.bool_)
        assert -1024 <= patch.volume_hu.min() < -800
        assert patch.volume_hu.max() < 1000
        assert patch.mask.any()


def test_lung_lies_around_the_nodule(few_patches):
    for patch in few_patches.values():
        outside = patch.volume_hu[~patch.mask]
        assert -950 < np.percentile(outside, 40) < -750


def test_a_patch_is_the_same_alone_in_company_and_in_another_order(few, few_patches):
    for row in (2, 7):
        (alone,) = phantom.patches(few.iloc[[row]])
        assert alone.volume_hu.tobytes() == few_patches[alone.nodule_id].volume_hu.tobytes()
        assert alone.mask.tobytes() == few_patches[alone.nodule_id].mask.tobytes()
    for patch in phantom.patches(few.iloc[::-1]):
        assert patch.volume_hu.tobytes() == few_patches[patch.nodule_id].volume_hu.tobytes()


def test_malignancy_takes_no_part(few, few_patches, monkeypatch):
    def with_other_malignancy(series_uids):
        return [
            replace(
                scan, readings=tuple(replace(r, malignancy=6 - r.malignancy) for r in scan.readings)
            )
            for scan in read_scans(series_uids)
        ]

    monkeypatch.setattr(cohort, "read_scans", with_other_malignancy)
    blind = few.drop(columns=["malignancy", "malignancy_mean"]).assign(label=1)
    for patch in phantom.patches(blind):
        assert patch.volume_hu.tobytes() == few_patches[patch.nodule_id].volume_hu.tobytes()
        assert patch.mask.tobytes() == few_patches[patch.nodule_id].mask.tobytes()


def test_two_nodules_of_one_shape_differ_in_lung_and_noise():
    assert (rendered(nodule_id="a").with_noise_hu != rendered(nodule_id="b").with_noise_hu).any()


def test_the_ratings_do_not_change_the_lung():
    far = ball(6.0) < -6
    plain = rendered().with_noise_hu[far]
    for ratings in ({"texture": 1.0}, {"calcification": 1.0}, {"internal_structure": 4.0}):
        assert (rendered(**ratings).with_noise_hu[far] == plain).all()


def test_readers_who_agree_on_no_voxel_get_what_any_of_them_drew():
    outline = np.array([(x, 0) for x in range(4)] + [(4, y) for y in range(4)])
    outline = np.concatenate([outline, 4 - outline])  # around the square of 5 x 5 pixels

    def one(number, shift):
        return Reading(number, 3, {}, (Contour(1.0, True, outline + np.array([shift, 0])),))

    apart = [one(1, 0), one(2, 20), one(3, 40)]
    scan = Scan(1, "P", 1, "1.2", 1.0, 0.5, np.arange(3.0), tuple(apart))
    assert not consensus_mask(scan, apart).mask.any()
    distance = phantom.lesion_distance(scan, apart, np.array([22.0, 2.0, 1.0]), 7.0)
    # 3 x 3 pixels of 0.5 mm in one slice of 1 mm: 10 mm left, in the middle, 10 mm right.
    along_x = np.clip(distance + 0.5, 0, 1).sum(axis=(0, 1))
    parts = [along_x[:10].sum(), along_x[10:22].sum(), along_x[22:].sum()]
    assert parts == pytest.approx([2.25, 2.25, 2.25], rel=0.05)


def test_outlines_without_inside_become_a_ball_of_the_mean_diameter():
    speck = Reading(1, 3, {}, (Contour(1.0, True, np.array([(4, 4)])),))
    scan = Scan(1, "P", 1, "1.2", 1.0, 0.5, np.arange(3.0), (speck,))
    distance = phantom.lesion_distance(scan, [speck], np.array([4.0, 4.0, 1.0]), 7.0)
    assert phantom.lesion_mask(distance).sum() == pytest.approx(np.pi / 6 * 7**3, rel=0.05)


def test_a_row_that_does_not_fit_the_annotations_is_refused_by_name(few):
    for column, value in (("cluster", 99), ("readers", 17)):
        wrong = few.iloc[[0]].assign(**{column: value})
        with pytest.raises(InputError, match=few["nodule_id"].iloc[0]):
            list(phantom.patches(wrong))


def test_the_recipe_is_text_and_names_the_annotations():
    recipe = phantom.recipe()
    assert recipe["rendering"] == phantom.VERSION
    assert all(isinstance(value, str) for value in recipe.values())
