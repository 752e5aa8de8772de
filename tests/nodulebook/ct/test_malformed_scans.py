"""Broken scans, headers, tables and disks: one clear message each, and nothing half-written.

Every case says what is wrong and what the message must name. No message is a traceback: what a
user meets is an `InputError`, or a line of the command.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from test_volumes import some_voxels, write_series

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv
from nodulebook.ct.dicom import open_dicom
from nodulebook.ct.metaimage import open_metaimage
from nodulebook.data.annotations import Scan, read_scans
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.cube import extract_patch
from nodulebook.patches.sources import open_source, scans
from nodulebook.patches.store import Patch, read_store, write_store

UID = "1.2.3"


def mhd(folder: Path, number_type: type = np.int16, compressed: bool = False) -> Path:
    """A good .mhd scan of 20 x 24 x 16 voxels."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (16, 24, 20)).astype(number_type)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([0.7, 0.7, 1.25])
    image.SetOrigin([-10, -20, -30])
    sitk.WriteImage(image, str(folder / f"{UID}.mhd"), compressed)
    return folder / f"{UID}.mhd"


def header_with(pattern: str, replacement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        old = path.read_text()
        new = re.sub(rf"(?m)^{pattern}$", replacement, old)
        assert new != old
        path.write_text(new)

    return change


def header_line(key: str, value: str) -> Callable[[Path], None]:
    return header_with(rf"{key} = .*", f"{key} = {value}")


def without(key: str) -> Callable[[Path], None]:
    return header_with(rf"{key} = .*", "")


def raw(change: Callable[[bytes], bytes], end: str = "raw") -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        voxels = path.with_suffix(f".{end}")
        voxels.write_bytes(change(voxels.read_bytes()))

    return apply


def empty_header(path: Path) -> None:
    path.write_bytes(b"")


def binary_header(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def web_page(path: Path) -> None:
    path.write_text("<html>\n<body>503 Service Unavailable</body>\n</html>\n")


def huge_header(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"Comment = " + 100_000 * b"x" + b"\n")


def no_raw(path: Path) -> None:
    path.with_suffix(".raw").unlink()


def no_header(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def raw_elsewhere(path: Path) -> None:
    shutil.move(path.with_suffix(".raw"), path.parent.parent / f"{UID}.raw")
    header_line("ElementDataFile", f"../{UID}.raw")(path)


BROKEN_HEADERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no header file": (no_header, r"1\.2\.3\.mhd: cannot be read"),
    "a folder in its place": (a_folder, r"1\.2\.3\.mhd: .*(cannot be read|directory)"),
    "empty header": (empty_header, "has no NDims"),
    "binary header": (binary_header, "not 'key = value'"),
    "a web page in its place": (web_page, "line 1: '<html>' is not 'key = value'"),
    "a header far too long": (huge_header, "no .mhd header"),
    "a key twice": (header_with("NDims = 3", "NDims = 3\nNDims = 2"), "line 3: a second NDims"),
    "another object": (header_line("ObjectType", "Tube"), "ObjectType is Tube"),
    "two axes": (header_line("NDims", "2"), "NDims is 2"),
    "no size": (without("DimSize"), "has no DimSize"),
    "size of two numbers": (header_line("DimSize", "20 24"), "DimSize is '20 24'.*3 finite"),
    "size as text": (header_line("DimSize", "20 24 many"), "DimSize is '20 24 many'"),
    "size of zero": (header_line("DimSize", "20 24 0"), "DimSize is 20 24 0"),
    "negative size": (header_line("DimSize", "20 -24 16"), "DimSize is 20 -24 16"),
    "size of a fraction": (header_line("DimSize", "20 24 15.5"), "DimSize is 20 24 15.5"),
    "size beyond all disks": (header_line("DimSize", "99999 99999 99999"), "which is no scan's"),
    "no spacing": (without("ElementSpacing"), "has no ElementSpacing"),
    "zero spacing": (header_line("ElementSpacing", "0.7 0.7 0"), "must be above 0"),
    "negative spacing": (header_line("ElementSpacing", "0.7 -0.7 1"), "must be above 0"),
    "spacing NaN": (header_line("ElementSpacing", "nan 0.7 1"), "ElementSpacing is 'nan 0.7 1'"),
    "no origin": (without("Offset"), "has no Offset"),
    "origin as text": (header_line("Offset", "left back low"), "Offset is 'left back low'"),
    "infinite origin": (header_line("Offset", "0 0 inf"), "Offset is '0 0 inf'"),
    "no directions": (without("TransformMatrix"), "has no TransformMatrix"),
    "directions not at right angles": (
        header_line("TransformMatrix", "1 0.5 0 0 1 0 0 0 1"),
        "right angles",
    ),
    "directions all zero": (
        header_line("TransformMatrix", "0 0 0 0 0 0 0 0 0"),
        "right angles",
    ),
    "unknown number type": (header_line("ElementType", "MET_STRING"), "'MET_STRING'"),
    "no number type": (without("ElementType"), "ElementType is ''"),
    "number type of another width": (
        header_line("ElementType", "MET_FLOAT"),
        "15,360 bytes, but .*MET_FLOAT: 30,720 bytes",
    ),
    "colours": (
        header_with(
            "ElementType = MET_SHORT", "ElementNumberOfChannels = 3\nElementType = MET_SHORT"
        ),
        "ElementNumberOfChannels",
    ),
    "text voxels": (header_line("BinaryData", "False"), "written as text"),
    "neither true nor false": (
        header_line("CompressedData", "perhaps"),
        "CompressedData is 'perhaps'",
    ),
    "no voxel file named": (without("ElementDataFile"), "has no ElementDataFile"),
    "voxel file absent": (no_raw, r"voxel file 1\.2\.3\.raw is missing"),
    "voxel file in another folder": (raw_elsewhere, "without a folder"),
    "absolute voxel file": (header_line("ElementDataFile", "/etc/passwd"), "without a folder"),
    "voxels in many files": (header_line("ElementDataFile", "LIST"), "LIST: .*not supported"),
    "truncated raw": (
        raw(lambda b: b[:-1000]),
        r"14,360 bytes, but .*20 x 24 x 16",
    ),
    "raw too long": (raw(lambda b: b + b"12"), "15,362 bytes, but"),
    "empty raw": (raw(lambda b: b""), "0 bytes, but"),
    "a slice fewer in the header": (header_line("DimSize", "20 24 15"), "15,360 bytes, but"),
}


@pytest.mark.parametrize("case", BROKEN_HEADERS)
def test_a_broken_mhd_is_refused_when_it_is_opened(tmp_path: Path, case: str) -> None:
    damage, message = BROKEN_HEADERS[case]
    (tmp_path / "scans").mkdir()
    path = mhd(tmp_path / "scans")
    damage(path)
    with pytest.raises(InputError, match=message) as caught:
        open_metaimage(path)
    assert UID in str(caught.value) and "\n" not in str(caught.value)


def _nan(content: bytes) -> bytes:
    voxels = np.frombuffer(content, "<f4").copy()
    voxels[5 * 24 * 20 + 3 * 20 + 2] = np.nan
    return voxels.tobytes()


BROKEN_VOXELS: dict[str, tuple[type, bool, Callable[[Path], None], str]] = {
    "NaN": (np.float32, False, raw(_nan), "x 2, y 3, slice 5 is not a finite number"),
    "numbers beyond HU": (
        np.float32,
        False,
        raw(lambda b: (np.frombuffer(b, "<f4") * 1e6).astype("<f4").tobytes()),
        "not Hounsfield units",
    ),
    "unsigned read of signed": (
        np.int16,
        False,
        header_line("ElementType", "MET_USHORT"),
        "not Hounsfield units",
    ),
    "zraw truncated": (np.int16, True, raw(lambda b: b[: len(b) // 2], "zraw"), "less than"),
    "zraw with a flipped bit": (
        np.int16,
        True,
        raw(lambda b: b[:500] + bytes([b[500] ^ 16]) + b[501:], "zraw"),
        r"1\.2\.3\.zraw: .*decompress",
    ),
    "zraw that is no zlib": (
        np.int16,
        True,
        raw(lambda b: b"PK" + b[2:], "zraw"),
        r"1\.2\.3\.zraw: .*decompress",
    ),
    "zraw that unfolds to more": (
        np.int16,
        True,
        raw(lambda b: zlib.compress(bytes(50_000_000)), "zraw"),
        "decompresses to more than the 15,360 bytes",
    ),
    "raw called compressed": (
        np.int16,
        False,
        header_line("CompressedData", "True"),
        r"1\.2\.3\.raw: .*decompress",
    ),
}


@pytest.mark.parametrize("case", BROKEN_VOXELS)
def test_broken_voxels_are_refused_when_they_are_read(tmp_path: Path, case: str) -> None:
    number_type, compressed, damage, message = BROKEN_VOXELS[case]
    path = mhd(tmp_path, number_type, compressed)
    damage(path)
    volume = open_metaimage(path)
    with pytest.raises(InputError, match=message) as caught:
        extract_patch(volume, (-4, -12, -20))
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = mhd(tmp_path)
    volume = open_metaimage(path)
    raw(lambda b: b[:3000])(path)
    with pytest.raises(InputError, match=r"1\.2\.3\.raw: ends within slice"):
        extract_patch(volume, (-4, -12, -20))


# --------------------------------------------------------------------------------------- DICOM


def tag(name: str, value: object) -> Callable[[list[Path]], None]:
    """Give the third file another value, or none."""

    def change(files: list[Path]) -> None:
        header = pydicom.dcmread(files[2])
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
        header.save_as(files[2])

    return change


def cut(length: int) -> Callable[[list[Path]], None]:
    return lambda files: files[2].write_bytes(files[2].read_bytes()[:length]) and None


def other_image_in_its_place(
    uids: tuple[str, str], number: int = 15
) -> Callable[[list[Path]], None]:
    """Two files with these SOPInstanceUIDs, the second with other pixels and this number."""

    def change(files: list[Path]) -> None:
        header = pydicom.dcmread(files[2])
        header.SOPInstanceUID, header.InstanceNumber = uids[0], 3
        header.save_as(files[2])
        header.SOPInstanceUID, header.InstanceNumber = uids[1], number
        header.PixelData = bytes(len(header.PixelData))
        files.append(files[2].with_name("other.dcm"))
        header.save_as(files[-1])

    return change


def text_file(files: list[Path]) -> None:
    files[2].write_text("not an image")


def none_left(files: list[Path]) -> None:
    files.clear()


BROKEN_SERIES: dict[str, tuple[Callable[[list[Path]], None], str]] = {
    "no file at all": (none_left, "series 1.2.3: no file of it is there"),
    "a text file": (text_file, "no readable DICOM file"),
    "a file of another series": (
        tag("SeriesInstanceUID", "1.2.9"),
        "is '1.2.9', but must be 1.2.3",
    ),
    "truncated within the header": (cut(300), r"014\.dcm: "),
    "truncated within the pixels": (cut(2000), r"014\.dcm: its pixels cannot be read"),
    "no position": (tag("ImagePositionPatient", None), "ImagePositionPatient is missing"),
    "no orientation": (tag("ImageOrientationPatient", None), "ImageOrientationPatient is missing"),
    "orientation of zeros": (tag("ImageOrientationPatient", [0] * 6), "not at right angles"),
    "zero pixel spacing": (tag("PixelSpacing", [0, 0.6]), "PixelSpacing 0 0.6 must be above 0"),
    "no rescale intercept": (tag("RescaleIntercept", None), "RescaleIntercept is missing"),
    "rescale slope of zero": (tag("RescaleSlope", 0), "RescaleSlope is 0"),
    "colours": (tag("SamplesPerPixel", 3), "no CT image"),
    "a slice aside": (tag("ImagePositionPatient", [-15, -30, -95]), "mm aside of"),
    "two images in one place": (
        other_image_in_its_place(("1.2.3.3", "1.2.3.99")),
        "another image in the same place as",
    ),
    "two images without a UID in one place": (
        other_image_in_its_place(("", "")),
        "another image in the same place as",
    ),
    "two images in one place, all of one UID": (
        other_image_in_its_place(("1.2.3.3", "1.2.3.3")),
        "another image in the same place as",
    ),
    "a processed copy under the original's UID and number": (
        other_image_in_its_place(("1.2.3.3", "1.2.3.3"), 3),
        "another image in the same place as",
    ),
}


@pytest.mark.parametrize("case", BROKEN_SERIES)
def test_a_broken_series_is_refused(tmp_path: Path, case: str) -> None:
    damage, message = BROKEN_SERIES[case]
    files = write_series(tmp_path, some_voxels())
    damage(files)
    with pytest.raises(InputError, match=message) as caught:
        extract_patch(open_dicom(files, UID), (-10, -15, -90))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ patches, tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centre_xyz_mm": (np.nan, 0, 0)}, "three finite numbers"),
        ({"centre_xyz_mm": (0, 0)}, "three finite numbers"),
        ({"centre_xyz_mm": (0, 0, 5000)}, "x, y, z = 0.0, 0.0, 5000.0 mm lies outside the scan"),
        ({"centre_xyz_mm": (5, 5, 5), "size": 0}, "must be above 0"),
        ({"centre_xyz_mm": (5, 5, 5), "spacing_mm": 0.0}, "must be above 0"),
        ({"centre_xyz_mm": (5, 5, 5), "image": sitk.Image([9, 9], sitk.sitkInt16)}, "2 axes"),
        (
            {"centre_xyz_mm": (5, 5, 5), "image": sitk.Image([9, 9, 9], sitk.sitkVectorUInt8, 3)},
            "3 numbers a voxel",
        ),
    ],
)
def test_an_impossible_patch_is_refused(arguments: dict, message: str) -> None:
    image = arguments.pop("image", sitk.Image([10, 10, 10], sitk.sitkInt16))
    with pytest.raises(InputError, match=message):
        extract_patch(image, **arguments)


def test_text_for_a_number_in_the_nodule_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nodules.csv"
    path.write_text("nodule_id,centroid_x_px\na,316.28\nb,about 300\n")
    with pytest.raises(InputError, match=r"nodules\.csv: line 3: centroid_x_px is 'about 300'"):
        read_csv(path, {"nodule_id": "str", "centroid_x_px": "float"})


# ------------------------------------------------------------------------------------ a whole pass

REAL_UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
OTHER_UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.170706757615202213033480003264"


@pytest.fixture(scope="module")
def annotated() -> Scan:
    return read_scans({REAL_UID})[0]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nodules to make patches of, in two scans, and a place for stores."""
    nodules = read_nodules()
    few = nodules[nodules["nodule_id"].isin(["LIDC-IDRI-0001-s1-n00", "LIDC-IDRI-0003-s1-n01"])]
    monkeypatch.setattr("nodulebook.patches.sources.read_nodules", lambda: few)
    monkeypatch.setattr("nodulebook.patches.sources.scans.read_nodules", lambda: few)
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    (tmp_path / "data").mkdir()
    return tmp_path


def made_up_scan(
    folder: Path, scan: Scan, pixel_mm: float | None = None, z_mm: np.ndarray | None = None
) -> Path:
    """A scan of the annotations as .mhd: noise, in the annotated places."""
    z_mm = np.unique(scan.slice_z_mm) if z_mm is None else z_mm
    plane = np.random.default_rng(0).integers(-900, 120, (512, 512)).astype(np.int16)
    pixel_mm = pixel_mm or scan.pixel_spacing_mm
    folder.mkdir(parents=True, exist_ok=True)
    np.broadcast_to(plane, (len(z_mm), 512, 512)).tofile(folder / f"{scan.series_uid}.raw")
    path = folder / f"{scan.series_uid}.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        f"Offset = -166 -171 {z_mm[0]}\n"
        f"ElementSpacing = {pixel_mm} {pixel_mm} {z_mm[1] - z_mm[0]}\n"
        f"DimSize = 512 512 {len(z_mm)}\nElementType = MET_SHORT\n"
        f"ElementDataFile = {scan.series_uid}.raw\n"
    )
    return path


def reasons(source: str) -> str:
    return scans.left_out_csv(source).read_text()


def leftovers(folder: Path) -> list[str]:
    """Files written aside, that should have been renamed or removed."""
    return [
        p.name for p in folder.rglob(".*.*") if p.name.startswith((".volumes", ".1.3", ".store"))
    ]


def test_a_good_scan_beside_a_broken_one_is_taken_and_the_broken_one_named(
    world: Path,
    annotated: Scan,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_up_scan(world / "data" / "subset0", annotated)
    (broken,) = read_scans({OTHER_UID})
    path = made_up_scan(world / "data" / "subset1", broken)
    voxels = path.with_suffix(".raw")
    os.truncate(voxels, voxels.stat().st_size - 5000)
    store = open_source("luna16", world / "data")
    assert store.table["nodule_id"].tolist() == ["LIDC-IDRI-0001-s1-n00"]
    assert "(scan)" in reasons("luna16") and "download it again" in reasons("luna16")
    assert broken.series_uid in capfd.readouterr().err
    # Mended, it is added; the other scan is not read again.
    made_up_scan(world / "data" / "subset1", broken)
    made = []
    original = scans.make_scan
    monkeypatch.setattr(
        scans, "make_scan", lambda task: made.append(task.scan.series_uid) or original(task)
    )
    store = open_source("luna16", world / "data")
    assert made == [broken.series_uid]
    assert len(store.table) == 2 and reasons("luna16").count("\n") == 1
    assert not leftovers(world)


WRONG_SCANS: dict[str, tuple[dict, str]] = {
    "another pixel size": ({"pixel_mm": 0.9}, "pixels of 0.9 x 0.9 mm, but the annotations"),
    "another place": ({"z": lambda z: z + 61.2}, "is it another scan"),
    "a missing slice": ({"z": lambda z: z[:-1]}, "only 132 of the scan's 133 slices"),
    "half the slices": ({"z": lambda z: z[::2]}, "slices are missing between"),
}


@pytest.mark.parametrize("case", WRONG_SCANS)
def test_a_scan_that_is_not_the_annotated_one_is_named(
    world: Path, annotated: Scan, case: str
) -> None:
    changes, message = WRONG_SCANS[case]
    z = changes.get("z", lambda z: z)(np.unique(annotated.slice_z_mm))
    made_up_scan(world / "data", annotated, changes.get("pixel_mm"), z)
    if case == "a missing slice":
        assert len(open_source("luna16", world / "data").table) == 1
    else:
        with pytest.raises(InputError, match="none of the 2 nodules"):
            open_source("luna16", world / "data")
        assert not (world / "patches" / "luna16").exists()
    assert re.search(message, reasons("luna16"))


def test_a_scan_under_a_wrong_uid_is_not_taken(world: Path, annotated: Scan) -> None:
    path = made_up_scan(world / "data", annotated)
    for file in (path, path.with_suffix(".raw")):
        file.rename(file.with_stem(f"{annotated.series_uid}0"))
    with pytest.raises(InputError, match=r"none of the 2 scans .*SeriesInstanceUID\.mhd"):
        open_source("luna16", world / "data")


def test_a_scan_of_one_value_throughout_gives_no_patch(world: Path, annotated: Scan) -> None:
    path = made_up_scan(world / "data", annotated)
    voxels = path.with_suffix(".raw")
    voxels.write_bytes(bytes(voxels.stat().st_size))
    with pytest.raises(InputError, match="none of the 2 nodules"):
        open_source("luna16", world / "data")
    assert "incomplete download" in reasons("luna16")


def test_a_scan_that_is_there_twice_and_not_the_same_is_named(world: Path, annotated: Scan) -> None:
    made_up_scan(world / "data" / "a", annotated)
    path = made_up_scan(world / "data" / "b", annotated)
    header_line("Offset", "1 2 3")(path)
    with pytest.raises(InputError, match="none of the 2 nodules"):
        open_source("luna16", world / "data")
    assert "is there twice and not the same" in reasons("luna16")


def test_a_dicom_series_with_a_missing_slice_is_named(world: Path, annotated: Scan) -> None:
    z = np.unique(annotated.slice_z_mm)[40:70]
    voxels = np.random.default_rng(0).integers(-900, 0, (len(z), 40, 30)).astype(np.int16)
    files = write_series(world / "data", voxels, REAL_UID, z)
    for path in files:
        header = pydicom.dcmread(path)
        header.PixelSpacing = [annotated.pixel_spacing_mm] * 2
        header.save_as(path)
    files[12].unlink()
    with pytest.raises(InputError, match="none of the 2 nodules"):
        open_source("idc", world / "data")
    assert "slices are missing between" in reasons("idc")


@pytest.mark.parametrize("source", ["luna16", "idc"])
@pytest.mark.parametrize("kind", ["empty", "absent", "zip", "unnamed"])
def test_a_data_folder_without_scans_is_named(
    world: Path, source: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODULEBOOK_DATA", raising=False)
    data: Path | None = world / "data"
    if kind == "absent":
        data = world / "elsewhere"
    elif kind == "unnamed":
        data = None
    elif kind == "zip":
        data = world / "subset0.zip"
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("../../escaped.mhd", "NDims = 3")
    message = {
        "empty": "none of the 2 scans",
        "absent": "elsewhere: no such folder",
        "zip": r"subset0\.zip: is a file; unpack it",
        "unnamed": "set NODULEBOOK_DATA",
    }[kind]
    with pytest.raises(InputError, match=message):
        open_source(source, data)
    assert not list(world.rglob("escaped*")) and not list(world.parent.rglob("escaped*"))


def test_a_damaged_memory_of_a_scan_is_made_anew(world: Path, annotated: Scan) -> None:
    made_up_scan(world / "data", annotated)
    before = open_source("luna16", world / "data").digest
    (part,) = (world / "patches" / ".luna16-scans").glob("*.npz")
    part.write_bytes(part.read_bytes()[:5000])
    assert open_source("luna16", world / "data", again=True).digest == before


def test_a_full_disk_ends_with_one_line_and_leaves_nothing(world: Path, annotated: Scan) -> None:
    """A limit on the size of files makes every long write fail, as a full disk does."""
    resource = pytest.importorskip("resource")
    made_up_scan(world / "data", annotated)
    environment = os.environ | {"NODULEBOOK_PATCHES": str(world / "full")}
    command = [sys.executable, "-m", "nodulebook", "patches", "--source", "luna16"]
    done = subprocess.run(
        [*command, "--data", str(world / "data")],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nodulebook: " in done.stderr and "File too large" in done.stderr
    left = [p.name for p in (world / "full").rglob("*") if p.is_file() and p.name != ".lock"]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_a_disk_that_fills_up_while_the_store_is_written_leaves_the_older_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodules = pd.DataFrame({"nodule_id": ["a"], "patient_id": ["A"], "series_uid": ["1.1"]})
    patch = Patch("a", np.zeros((32, 32, 32), np.int16), np.zeros((32, 32, 32), bool))
    write_store(tmp_path / "store", "trial", iter([patch]), nodules, {})
    before = read_store(tmp_path / "store").digest

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodulebook.patches.store.os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        write_store(tmp_path / "store", "trial", iter([patch]), nodules, {"new": "1"})
    assert read_store(tmp_path / "store").digest == before
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_the_command_ends_with_2_unless_missing_scans_are_allowed(
    tmp_path: Path, annotated: Scan
) -> None:
    made_up_scan(tmp_path / "data", annotated)
    environment = os.environ | {"NODULEBOOK_PATCHES": str(tmp_path / "patches")}
    command = [sys.executable, "-m", "nodulebook", "patches", "--source", "luna16"]
    command += ["--data", str(tmp_path / "data"), "--jobs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "1185 nodules have no patch" in done.stderr
    assert "luna16: scans: 100%" in done.stderr and "Traceback" not in done.stderr
    allowed = subprocess.run(
        [*command, "--allow-missing"], env=environment, capture_output=True, text=True
    )
    assert allowed.returncode == 0 and "1 patches" in allowed.stdout
    assert "luna16: scans" not in allowed.stderr
