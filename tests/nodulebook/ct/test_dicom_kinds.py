"""What a DICOM series is taken for: slices of CT in their places, or refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from test_volumes import write_series

from nodulebook.core.errors import InputError
from nodulebook.ct.find import FoundFolder, find_scans
from nodulebook.ct.volume import Volume
from nodulebook.patches.cube import extract_patch

CENTRE = np.array([-5.0, -10.0, -70.0])
STEP, COUNT = 1.25, 44


def series(folder: Path, uid: str = "1.2.3", shear: float = 0.0, step: float = STEP) -> list[Path]:
    """Slices with a ball of 6 mm at CENTRE, each `shear` mm aside per mm of height."""
    z = -100 + step * np.arange(COUNT)
    x, y = -20 + 0.6 * np.arange(60), -30 + 0.8 * np.arange(50)
    noise = np.random.default_rng(0).normal(0, 15, (COUNT, 50, 60))
    away = (
        (x + shear * (z[:, None, None] + 100) - CENTRE[0]) ** 2
        + (y[:, None] - CENTRE[1]) ** 2
        + (z[:, None, None] - CENTRE[2]) ** 2
    )
    files = write_series(folder, np.rint(np.where(away < 36, 40, -850) + noise), uid, z)
    for k, path in enumerate(files):
        edit(
            path,
            ImagePositionPatient=[-20 + shear * (z[k] + 100), -30, z[k]],
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            InstanceNumber=k + 1,
            SliceThickness=step,
        )
    return files


def edit(path: Path, **values: object) -> None:
    header = pydicom.dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(path)


def off_mm(volume: Volume, centre: NDArray[np.float64] = CENTRE) -> float:
    z, y, x = np.nonzero(extract_patch(volume, centre) > -400)
    return float(np.linalg.norm(np.array([x.mean(), y.mean(), z.mean()]) - 15.5))


def opened(folder: Path) -> Volume:
    return find_scans(folder).one("1.2.3").open()


def extra(folder: Path, files: list[Path], k: int, **values: object) -> None:
    """One more image in the series, made of slice k, its pixels all 500 HU."""
    header = pydicom.dcmread(files[k])
    header.SOPInstanceUID = f"1.2.3.9{k}"
    header.PixelData = np.full((header.Rows, header.Columns), 1524, "<i2").tobytes()
    for name, value in values.items():
        setattr(header, name, value)
    header.save_as(folder / f"extra{k}.dcm")


def between(k: int) -> list[float]:
    return [-20, -30, -100 + STEP * (k + 0.5)]


LEFT_OUT: dict[str, tuple[dict, str]] = {
    "a scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scout"),
    "a scout not marked": (
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImageType": None},
        "direction",
    ),
    "a dose report": (
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None},
        "Secondary Capture",
    ),
    "a mask": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "SEG"),
    "a projection": ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
    "a derived slice": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "derived"),
    "a reformatted slice": ({"ImageType": ["ORIGINAL", "SECONDARY", "MPR"]}, "derived"),
    "a thick slice": ({"SliceThickness": 10}, "thickness"),
    "other pixels": ({"PixelSpacing": [0.9, 0.9]}, "pixel spacing"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_images_that_are_no_slices_of_the_scan_are_left_out_and_said(
    tmp_path: Path, case: str
) -> None:
    values, word = LEFT_OUT[case]
    files = series(tmp_path)
    for k in (22, 24, 26):
        extra(tmp_path, files, k, **{"ImagePositionPatient": between(k)} | values)
    volume = opened(tmp_path)
    assert off_mm(volume) < 0.5
    assert extract_patch(volume, CENTRE).max() < 200
    assert len(volume.notes) == 1 and "3" in volume.notes[0] and word in volume.notes[0]


def test_series_of_other_kinds_are_no_scans_and_are_described(tmp_path: Path) -> None:
    for uid, name, values in (
        ("1.2.3", "Thorax 1.25", {}),
        ("1.2.4", "Scout", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("1.2.5", "Dose report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("1.2.6", "Abdomen", {}),
    ):
        for path in series(tmp_path / name, uid):
            edit(path, SeriesDescription=name, **values)
    found = find_scans(tmp_path)
    assert sorted(found.scans) == ["1.2.3", "1.2.6"]
    with pytest.raises(InputError, match=r"1\.2\.3 \(Thorax 1\.25, 44 slices\).*Abdomen"):
        found.one("")
    with pytest.raises(InputError, match="scout"):
        found.one("1.2.4")


def test_files_without_the_marker_are_read(tmp_path: Path) -> None:
    for k, path in enumerate(series(tmp_path)):
        if k % 3 == 1:
            header = pydicom.dcmread(path)
            del header.file_meta
            header.preamble = None
            pydicom.dcmwrite(
                path, header, implicit_vr=True, little_endian=True, enforce_file_format=False,
                force_encoding=True,
            )  # fmt: skip
    (tmp_path / "other").write_bytes(b"\x08\x00\x05\x00 by chance")
    volume = opened(tmp_path)
    assert volume.geometry.size_xyz[2] == COUNT and off_mm(volume) < 0.5


@pytest.mark.parametrize("degrees", [46.0, -60.0])
def test_a_shear_that_no_gantry_makes_is_refused_by_its_angle(
    tmp_path: Path, degrees: float
) -> None:
    series(tmp_path, shear=float(np.tan(np.radians(degrees))))
    with pytest.raises(InputError, match=f"{abs(degrees):.0f} degrees") as error:
        opened(tmp_path)
    assert "aside" not in str(error.value) and "ImagePositionPatient" in str(error.value)


@pytest.mark.parametrize("degrees", [0.5, 1.0, 12.0, -25.0])
def test_a_tilted_gantry_shears_the_stack_and_is_read_rightly(
    tmp_path: Path, degrees: float
) -> None:
    series(tmp_path, shear=float(np.tan(np.radians(degrees))))
    volume = opened(tmp_path)
    assert off_mm(volume) < 0.5
    grid = np.indices((32, 32, 32)) - 15.5
    ball, bright = (grid**2).sum(axis=0) < 36, extract_patch(volume, CENTRE) > -400
    assert 2 * (ball & bright).sum() / (ball.sum() + bright.sum()) > 0.93  # and not sheared
    index = np.array([3.3, 7.1, 20.6])
    assert np.allclose(volume.geometry.to_index(volume.geometry.to_world(index)), index)


def remove(files: list[Path], which: slice) -> None:
    for path in files[which]:
        path.unlink()


def test_missing_slices_are_said_and_a_patch_across_a_gap_is_refused(tmp_path: Path) -> None:
    remove(series(tmp_path), slice(22, 25))
    with pytest.raises(InputError, match="missing between"):
        off_mm(opened(tmp_path))
    assert "3 slices" in opened(tmp_path).notes[0]
    extract_patch(opened(tmp_path), CENTRE + np.array([0, 0, 18]), size=8)  # away from it


@pytest.mark.parametrize("keep", [lambda k: k % 2 == 0, lambda k: k % 3 != 0])
def test_slices_left_out_throughout_are_said(tmp_path: Path, keep: Callable[[int], bool]) -> None:
    for k, path in enumerate(series(tmp_path)):
        if not keep(k):
            path.unlink()
    volume = opened(tmp_path)
    assert any("missing" in note for note in volume.notes)
    assert off_mm(volume) < 0.5


@pytest.mark.parametrize("unsaid", [slice(0, 3), slice(None)])
def test_slices_left_out_are_said_where_headers_say_less(tmp_path: Path, unsaid: slice) -> None:
    """A thickness or a number that some headers lack, or a thickness that all lack."""
    files = series(tmp_path)
    remove(files, slice(1, None, 2))
    for path in files[::2][unsaid]:
        edit(path, SliceThickness=None)
    edit(files[4], InstanceNumber=None)
    assert any("missing" in note for note in opened(tmp_path).notes)


def test_overlapping_and_touching_slices_are_not_said_to_be_missing(tmp_path: Path) -> None:
    for path in series(tmp_path / "a"):
        edit(path, SliceThickness=2 * STEP)
    assert opened(tmp_path / "a").notes == ()
    for k, path in enumerate(series(tmp_path / "b")):  # numbered with another series
        edit(path, InstanceNumber=2 * k)
    assert opened(tmp_path / "b").notes == ()


@pytest.mark.parametrize("of", ["PatientID", "FrameOfReferenceUID", "AcquisitionNumber"])
def test_acquisitions_of_one_region_in_a_series_are_refused(tmp_path: Path, of: str) -> None:
    """Of two patients, or before and after a breath: slice by slice in turn, they show neither."""
    files = [*series(tmp_path / "a"), *series(tmp_path / "b")]
    for k, path in enumerate(files):
        aside = k >= COUNT
        place = (
            {"ImagePositionPatient": [-20, -30, -100 + STEP * (k - COUNT + 0.5)]} if aside else {}
        )
        edit(path, **place, **{of: "12" if aside else "11"})
    with pytest.raises(InputError, match=rf"{of}.*leave one acquisition"):
        opened(tmp_path)


@pytest.mark.parametrize("number", [lambda k: k // 22, lambda k: k % 2])
def test_acquisitions_of_neighbouring_regions_or_counted_through_are_a_scan(
    tmp_path: Path, number: Callable[[int], int]
) -> None:
    for k, path in enumerate(series(tmp_path)):
        edit(path, AcquisitionNumber=number(k))
    assert off_mm(opened(tmp_path)) < 0.5


@pytest.mark.parametrize(("aside_mm", "refused"), [(0.2, False), (2.0, True), (40.0, True)])
def test_a_slice_aside_of_the_others_is_refused(
    tmp_path: Path, aside_mm: float, refused: bool
) -> None:
    files = series(tmp_path)
    edit(files[20], ImagePositionPatient=[-20 + aside_mm, -30, -100 + 20 * STEP])
    if refused:
        with pytest.raises(InputError, match=f"{files[20].name}.*aside"):
            opened(tmp_path)
    else:
        assert off_mm(opened(tmp_path)) < 0.5


def test_directions_that_drift_do_not_add_up(tmp_path: Path) -> None:
    files = series(tmp_path)
    for k, path in enumerate(files):
        turn = np.radians(0.02 * k)  # each slice turned by little against the one below it
        edit(
            path,
            ImageOrientationPatient=[np.cos(turn), np.sin(turn), 0, -np.sin(turn), np.cos(turn), 0],
        )
    with pytest.raises(InputError, match="direction"):
        opened(tmp_path)


def enhanced(folder: Path, per_frame: bool = True, unit: str = "HU") -> None:
    files = series(folder)
    edit(files[0], RescaleType=unit)
    slices = [pydicom.dcmread(path) for path in files]
    remove(files, slice(None))
    one, places = slices[0], []
    for each in slices:
        place, item = Dataset(), Dataset()
        place.ImagePositionPatient = each.ImagePositionPatient
        item.PlanePositionSequence = Sequence([place])
        places.append(item)
    one.NumberOfFrames = len(slices)
    one.PixelData = b"".join(each.PixelData for each in slices)
    if per_frame:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        shared = Dataset()
        for sequence, names in (
            ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness")),
            ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
            (
                "PixelValueTransformationSequence",
                ("RescaleIntercept", "RescaleSlope", "RescaleType"),
            ),
        ):
            item = Dataset()
            for name in names:
                setattr(item, name, getattr(one, name))
                delattr(one, name)
            setattr(shared, sequence, Sequence([item]))
        del one.ImagePositionPatient
        one.SharedFunctionalGroupsSequence = Sequence([shared])
        one.PerFrameFunctionalGroupsSequence = Sequence(places)
    one.save_as(files[0])


def test_an_enhanced_file_is_read_frame_by_frame(tmp_path: Path) -> None:
    enhanced(tmp_path)
    volume = opened(tmp_path)
    assert volume.geometry.size_xyz[2] == COUNT and off_mm(volume) < 0.5


@pytest.mark.parametrize("unit", ["MGML", "Z_EFF", "SUV"])
def test_frames_in_another_unit_are_refused(tmp_path: Path, unit: str) -> None:
    enhanced(tmp_path, unit=unit)
    with pytest.raises(InputError, match=unit):
        opened(tmp_path)


def test_an_unspecified_unit_is_taken_for_hounsfield_and_said(tmp_path: Path) -> None:
    for path in series(tmp_path):
        edit(path, RescaleType="US")
    assert off_mm(opened(tmp_path)) < 0.5
    assert any("RescaleType US" in note for note in opened(tmp_path).notes)


def test_frames_without_places_are_called_so(tmp_path: Path) -> None:
    enhanced(tmp_path, per_frame=False)
    with pytest.raises(InputError, match="44 frames"):
        opened(tmp_path)


@pytest.mark.parametrize("value", [b"1,25", b"1.25\\1.25 ", b"1 mm", b""])
def test_a_thickness_that_cannot_be_read_costs_nothing(tmp_path: Path, value: bytes) -> None:
    for path in series(tmp_path):
        header = pydicom.dcmread(path)
        tag = Tag("SliceThickness")
        header._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
        header.save_as(path)
    assert off_mm(opened(tmp_path)) < 0.5


@pytest.mark.parametrize("length", [131, 132, 141, 154, 300, 700])
def test_a_cut_file_is_named_and_costs_no_other(tmp_path: Path, length: int) -> None:
    files = series(tmp_path)
    (tmp_path / "zz.dcm").write_bytes(files[0].read_bytes()[:length])
    found: FoundFolder = find_scans(tmp_path)
    said = " ".join(found.damaged)
    try:
        assert off_mm(found.one("1.2.3").open()) < 0.5
        assert length in (131, 700) or "zz.dcm" in said  # 700: a copy, its header is whole
    except InputError as error:  # cut behind its series' UID: of this scan, and damaged
        assert "zz.dcm" in str(error)


NO_IMAGES = {
    "DICOMDIR": "1.2.840.10008.1.3.10",
    "structured report": "1.2.840.10008.5.1.4.1.1.88.11",
    "dose report": "1.2.840.10008.5.1.4.1.1.88.67",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "key object selection": "1.2.840.10008.5.1.4.1.1.88.59",
    "encapsulated PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "hanging protocol": "1.2.840.10008.5.1.4.38.1",
    "secondary capture": "1.2.840.10008.5.1.4.1.1.7",
}


def no_image(path: Path, kind: str, uid: str) -> None:
    """A file such as hospitals burn next to a scan, with or without a SeriesInstanceUID."""
    header, item = Dataset(), Dataset()
    item.PatientID = "x"
    if kind == "1.2.840.10008.1.3.10":
        header.FileSetID = "CD"
        item.DirectoryRecordType, item.SeriesInstanceUID = "SERIES", "1.2.3"
        header.DirectoryRecordSequence = Sequence([item])
    else:
        header.SOPClassUID, header.SOPInstanceUID, header.Modality = kind, "1.2.3.77", "OT"
        header.ContentSequence = Sequence([item])
        if uid:
            header.SeriesInstanceUID, header.PatientID = uid, "x"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = kind
    header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
    header.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("kind", NO_IMAGES)
@pytest.mark.parametrize("uid", ["", "1.2.9"])
def test_what_is_no_image_on_a_hospitals_cd_is_not_called_damaged(
    tmp_path: Path, kind: str, uid: str
) -> None:
    series(tmp_path / "DICOM")
    whole = tmp_path / "whole"
    no_image(whole, NO_IMAGES[kind], uid)
    content = whole.read_bytes()
    for k, length in enumerate(range(len(content) - 40, 300, -25)):
        (tmp_path / f"cut{k}").write_bytes(content[:length])
    found = find_scans(tmp_path)
    assert list(found.scans) == ["1.2.3"] and found.damaged == []
    assert off_mm(found.one("").open()) < 0.5


def test_a_ct_image_cut_anywhere_in_its_header_is_called_damaged(tmp_path: Path) -> None:
    content = series(tmp_path)[0].read_bytes()
    series_uid = content.index(b"\x20\x00\x0e\x00")
    for length in range(132, series_uid, 5):
        (tmp_path / f"cut{length}").write_bytes(content[:length])
    said = " ".join(find_scans(tmp_path).damaged)
    assert all(f"cut{length}" in said for length in range(132, series_uid, 5))


@pytest.mark.parametrize("uid", [None, ""])
def test_a_ct_image_of_no_series_is_called_damaged(tmp_path: Path, uid: str | None) -> None:
    edit(series(tmp_path)[3], SeriesInstanceUID=uid)
    (said,) = find_scans(tmp_path).damaged
    assert "021.dcm" in said and "SeriesInstanceUID" in said


def test_an_index_that_cannot_be_written_is_no_condition(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    (tmp_path / "file").write_text("-")
    assert list(find_scans(tmp_path / "scans", tmp_path / "file" / "index.json").scans) == ["1.2.3"]


@pytest.mark.parametrize(
    "about",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MAX_IP"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR", "THICK MIP"]},
        {"ImageType": ["DERIVED", "SECONDARY", "VOLUME RENDERING"]},
        {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "MTT"]},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 IODINE"]},
        {"ImageType": ["DERIVED", "SECONDARY", "SEGMENTATION"]},
        {"RescaleType": "Z_EFF"},
        {"RescaleType": "MGML"},
        {"RescaleType": "SUV"},
    ],
)
def test_images_of_another_kind_are_no_slices(tmp_path: Path, about: dict[str, object]) -> None:
    for path in series(tmp_path / "a", "1.2.9"):
        edit(path, **about)
    with pytest.raises(InputError, match=r"1\.2\.9 is a"):
        find_scans(tmp_path)
    series(tmp_path / "b", "1.2.3")
    assert list(find_scans(tmp_path).scans) == ["1.2.3"]


@pytest.mark.parametrize("with_group", [False, True])
def test_a_large_file_of_zeros_is_not_read_to_its_end(tmp_path: Path, with_group: bool) -> None:
    """As a download client leaves it that takes the room beforehand."""
    whole = series(tmp_path)[0].read_bytes()
    end = 144 + int.from_bytes(whole[140:144], "little") if with_group else 132
    with (tmp_path / "new.dcm").open("wb") as file:
        file.write(whole[:end])
        file.truncate(1 << 40)  # a day to read
    found = find_scans(tmp_path)
    assert off_mm(found.one("").open()) < 0.5 and "new.dcm" in found.damaged[0]
