"""Consensus masks and their way onto the patch grid: volumes are kept, positions are right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.data.annotations import Contour, Reading, Scan, read_scans
from nodulebook.data.cohort import cluster_readings
from nodulebook.data.contours import (
    ConsensusMask,
    consensus_mask,
    lesion_distance_on_grid,
    occupancy_on_grid,
    signed_distance_on_grid,
)


def rectangle(x0, y0, x1, y1):
    """The closed outline of a rectangle, every pixel of it, as LIDC stores outlines."""
    top = [(x, y0) for x in range(x0, x1)]
    right = [(x1, y) for y in range(y0, y1)]
    bottom = [(x, y1) for x in range(x1, x0, -1)]
    left = [(x0, y) for y in range(y1, y0, -1)]
    return np.array(top + right + bottom + left)


def reading(*contours, number=1):
    return Reading(number, 3, {}, tuple(contours))


def scan(*readings, z_mm=(0.0, 2.0, 4.0)):
    return Scan(1, "LIDC-IDRI-0001", 1, "1.2", 2.0, 0.5, np.array(z_mm), tuple(readings))


def ellipsoid(radii_mm, spacing_mm, slice_mm):
    """The voxels with centres inside an ellipsoid around CENTRE_XYZ."""
    spacing_zyx = (slice_mm, spacing_mm, spacing_mm)
    half = [int(np.ceil(r / s)) + 1 for r, s in zip(radii_mm, spacing_zyx, strict=True)]
    z, y, x = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1, -half[2] : half[2] + 1]
    inside = (
        (z * slice_mm / radii_mm[0]) ** 2
        + (y * spacing_mm / radii_mm[1]) ** 2
        + (x * spacing_mm / radii_mm[2]) ** 2
    ) <= 1
    return ConsensusMask(
        mask=inside,
        x0_px=100 - half[2],
        y0_px=200 - half[1],
        z_mm=50 + slice_mm * np.arange(-half[0], half[0] + 1),
        pixel_spacing_mm=spacing_mm,
        slice_spacing_mm=slice_mm,
    )


CENTRE_XYZ = np.array([100.0, 200.0, 50.0])  # of `ellipsoid`: pixel, pixel, mm


def test_the_outline_itself_is_outside_the_nodule():
    one = reading(Contour(2.0, True, rectangle(10, 20, 14, 25)))
    found = consensus_mask(scan(one), [one])
    assert found.mask.sum() == 3 * 4  # columns 11-13, rows 21-24
    assert (found.x0_px, found.y0_px, found.z_mm.tolist()) == (10, 20, [2.0])
    assert found.volume_mm3 == pytest.approx(12 * 0.5 * 0.5 * 2.0)


def test_a_hole_is_taken_out_together_with_its_outline_whatever_the_order():
    outer = Contour(2.0, True, rectangle(10, 20, 20, 30))
    hole = Contour(2.0, False, rectangle(13, 23, 16, 26))
    for contours in ((outer, hole), (hole, outer)):
        one = reading(*contours)
        assert consensus_mask(scan(one), [one]).mask.sum() == 9 * 9 - 4 * 4


def test_half_of_the_readers_decide():
    wide = rectangle(10, 20, 16, 26)
    narrow = rectangle(12, 22, 15, 25)
    marks = [wide, wide, narrow, narrow]
    readings = [reading(Contour(2.0, True, m), number=i) for i, m in enumerate(marks)]
    whole = scan(*readings)
    assert consensus_mask(whole, readings).mask.sum() == 25  # two of four suffice
    assert consensus_mask(whole, readings[:3]).mask.sum() == 25  # two of three
    assert consensus_mask(whole, readings[1:]).mask.sum() == 4  # one of three does not
    assert consensus_mask(whole, readings[1:], 1 / 3).mask.sum() == 25


def test_a_slice_that_nobody_marked_is_empty_and_counts_in_the_box():
    mark = rectangle(10, 20, 14, 24)
    one = reading(Contour(0.0, True, mark), Contour(4.0, True, mark))
    assert consensus_mask(scan(one), [one]).mask.sum(axis=(1, 2)).tolist() == [9, 0, 9]


# Voxels counted by pylidc 0.2.3's own `consensus(clevel=0.5)`; the first has a hole.
PYLIDC_COUNTS = {
    ("LIDC-IDRI-0058", 0): 4339,
    ("LIDC-IDRI-0058", 2): 3101,
    ("LIDC-IDRI-0128", 0): 33,
    ("LIDC-IDRI-0181", 2): 1237,
    ("LIDC-IDRI-0402", 6): 29,
    ("LIDC-IDRI-0775", 1): 17900,
    ("LIDC-IDRI-1004", 2): 10644,
}


def test_masks_of_real_readers_have_the_voxels_that_pylidc_gives():
    patients = {patient for patient, _ in PYLIDC_COUNTS}
    scans = {s.patient_id: s for s in read_scans() if s.patient_id in patients}
    lesions = {patient: cluster_readings(s) for patient, s in scans.items()}
    found = {
        (patient, cluster): int(
            consensus_mask(scans[patient], lesions[patient][cluster]).mask.sum()
        )
        for patient, cluster in PYLIDC_COUNTS
    }
    assert found == PYLIDC_COUNTS


def test_a_box_on_the_patch_grid_is_reproduced():
    box = ConsensusMask(np.ones((4, 6, 8), dtype=bool), 0, 0, np.arange(4.0), 1.0, 1.0)
    found = occupancy_on_grid(box, np.array([3.5, 2.5, 1.5]), 16)
    expected = np.zeros((16, 16, 16))
    expected[6:10, 5:11, 4:12] = 1
    assert ((found > 0.5) == (expected > 0.5)).all()
    assert found.sum() == pytest.approx(4 * 6 * 8)


def test_axes_are_zyx_and_the_lesion_lies_where_the_scan_has_it():
    lesion = ellipsoid((3.0, 3.0, 3.0), 0.7, 1.25)
    shifted = CENTRE_XYZ + np.array([-4 / 0.7, 3 / 0.7, -2.0])  # 4 mm less x, 3 more y, 2 less z
    found = occupancy_on_grid(lesion, shifted, 32)
    centre = np.array([(np.indices(found.shape)[i] * found).sum() / found.sum() for i in range(3)])
    assert centre - 15.5 == pytest.approx([2, -3, 4], abs=0.1)


def test_the_distance_is_positive_inside_and_grows_by_a_millimetre_a_millimetre():
    lesion = ellipsoid((8.0, 8.0, 8.0), 0.6, 1.0)
    distance = signed_distance_on_grid(lesion, CENTRE_XYZ, 31)  # odd: a voxel at the centre
    assert distance[15, 15, 15] == pytest.approx(8, abs=0.8)
    assert distance[15, 15, 18] - distance[15, 15, 21] == pytest.approx(3, abs=0.5)
    assert distance[0, 0, 0] < -3


sizes = st.floats(2.5, 9.0)


@settings(max_examples=40, deadline=None)
@given(
    radii=st.tuples(sizes, sizes, sizes),
    spacing=st.floats(0.46, 0.98),
    slice_mm=st.floats(0.6, 2.5),
    offset=st.tuples(*3 * [st.floats(-3, 3)]),
)
def test_the_filled_volume_is_the_masks_wherever_the_grid_lies(radii, spacing, slice_mm, offset):
    lesion = ellipsoid(radii, spacing, slice_mm)
    found = occupancy_on_grid(lesion, CENTRE_XYZ + np.array(offset), 32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.sum() == pytest.approx(lesion.volume_mm3, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(radii=st.tuples(sizes, sizes, sizes), offset=st.tuples(*3 * [st.floats(-12, 12)]))
def test_a_small_cube_is_cut_out_of_a_large_one(radii, offset):
    lesion = ellipsoid(radii, 0.7, 1.25)
    centre = CENTRE_XYZ + np.array(offset)
    large = occupancy_on_grid(lesion, centre, 60)
    small = occupancy_on_grid(lesion, centre, 16)
    assert small == pytest.approx(large[22:38, 22:38, 22:38], abs=1e-5)


def test_a_mask_without_voxels_is_refused():
    empty = ConsensusMask(np.zeros((3, 3, 3), dtype=bool), 0, 0, np.arange(3.0), 1.0, 1.0)
    with pytest.raises(ValueError, match="empty"):
        lesion_distance_on_grid(empty, np.zeros(3), 32)
