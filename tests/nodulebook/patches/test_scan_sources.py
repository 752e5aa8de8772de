"""The sources `luna16` and `idc`: the same patches from either, in one pass or in several.

Made-up scans lie where the annotations of real nodules say. Tests on real DICOM are skipped where
the folder that `NODULEBOOK_DATA` names is absent.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from test_volumes import REAL, lidc_dicom, real_dicom, write_series

from nodulebook.data.annotations import Scan, read_scans
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.cube import LUNG_HU
from nodulebook.patches.sources import open_source, scans
from nodulebook.patches.sources.scan_rules import check_scans
from nodulebook.patches.store import read_store

Store = dict[str, tuple[np.ndarray, np.ndarray]]
FEW = 6


@pytest.fixture(scope="module")
def nodules() -> pd.DataFrame:
    """Six reference nodules of six scans."""
    table = read_nodules()
    table = table[(table["readers"] >= 3) & (table["diameter_mm"] < 12)]
    return table.drop_duplicates("series_uid").head(FEW).reset_index(drop=True)


@pytest.fixture(scope="module")
def annotated(nodules: pd.DataFrame) -> dict[str, Scan]:
    return {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}


@pytest.fixture
def world(tmp_path: Path, nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("nodulebook.patches.sources.read_nodules", lambda: nodules)
    monkeypatch.setattr("nodulebook.patches.sources.scans.read_nodules", lambda: nodules)
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    return tmp_path


def made_up(scan: Scan, row: pd.Series) -> sitk.Image:
    """The slices around a nodule: a bright ball of its size where it is, in lung."""
    z = np.unique(scan.slice_z_mm)
    z = z[np.abs(z - row["centroid_z_mm"]) < 20]
    pixel = scan.pixel_spacing_mm
    y, x = np.mgrid[:512, :512]
    away = (((x - row["centroid_x_px"]) * pixel) ** 2 + ((y - row["centroid_y_px"]) * pixel) ** 2)[
        None
    ] + ((z - row["centroid_z_mm"]) ** 2)[:, None, None]
    voxels = np.where(
        away < (row["diameter_mm"] / 2) ** 2, 50, -850 + (x + 2 * y)[None] % 50
    ).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([pixel, pixel, scan.slice_spacing_mm])
    image.SetOrigin([-170.0, -180.0, float(z[0])])
    return image


def write_luna16(folder: Path, annotated: dict[str, Scan], nodules: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in nodules.to_dict("records"):
        scan = annotated[row["series_uid"]]
        image = made_up(scan, row)
        sitk.WriteImage(image, str(folder / f"{scan.series_uid}.mhd"))


def contents(source: str, root: Path) -> Store:
    store = read_store(root / "patches" / source)
    return {
        name: (np.array(store.volumes_hu[i]), np.array(store.masks[i]))
        for i, name in enumerate(store.table["nodule_id"])
    }


def test_every_ball_is_in_the_middle_of_its_patch(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame
) -> None:
    write_luna16(world / "data", annotated, nodules)
    store = open_source("luna16", world / "data", jobs=1)
    assert store.table["nodule_id"].tolist() == nodules["nodule_id"].tolist()
    for volume, mask in contents("luna16", world).values():
        middle = np.argwhere(volume > -400).mean(axis=0)
        assert np.abs(middle - 15.5).max() < 0.7
        assert mask[12:20, 12:20, 12:20].any()


def test_processes_side_by_side_give_the_same_store(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_luna16(world / "data", annotated, nodules)
    one = open_source("luna16", world / "data", jobs=1).digest
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(world / "again"))
    assert open_source("luna16", world / "data", jobs=2).digest == one


def test_scans_that_come_later_are_added_and_the_others_not_read_again(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_luna16(world / "data" / "subset0", annotated, nodules.head(2))
    first = open_source("luna16", world / "data", jobs=1)
    assert len(first.table) == 2
    text = scans.left_out_csv("luna16").read_text()
    assert text.count("its scan is not in the data folder") == FEW - 2
    assert all(name in text for name in nodules["nodule_id"][2:])
    write_luna16(world / "data" / "subset1", annotated, nodules.tail(FEW - 2))
    read: list[str] = []
    original = scans.make_scan
    monkeypatch.setattr(
        scans, "make_scan", lambda task: read.append(task.scan.series_uid) or original(task)
    )
    parts = open_source("luna16", world / "data", jobs=1)
    assert sorted(read) == sorted(nodules["series_uid"][2:])
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(world / "again"))
    assert open_source("luna16", world / "data", jobs=1).digest == parts.digest


def test_a_scan_that_has_changed_is_read_again(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame
) -> None:
    write_luna16(world / "data", annotated, nodules.head(2))
    before = open_source("luna16", world / "data", jobs=1).digest
    path = world / "data" / f"{nodules['series_uid'][0]}.mhd"
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(path)) + 100, sitk.sitkInt32), str(path))
    names = nodules["nodule_id"].tolist()
    old = contents("luna16", world)
    assert open_source("luna16", world / "data", jobs=1).digest != before
    new = contents("luna16", world)
    assert (new[names[0]][0][16] == old[names[0]][0][16] + 100).all()
    assert (new[names[1]][0] == old[names[1]][0]).all()


def test_a_stopped_pass_goes_on_where_it_was(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_luna16(world / "data", annotated, nodules)
    read: list[str] = []
    original = scans.make_scan

    def stops(task: scans._Task) -> scans.ScanResult:
        read.append(task.scan.series_uid)
        if len(read) == 4:
            raise KeyboardInterrupt
        return original(task)

    monkeypatch.setattr(scans, "make_scan", stops)
    with pytest.raises(KeyboardInterrupt):
        open_source("luna16", world / "data", jobs=1)
    assert not (world / "patches" / "luna16").exists()
    assert len(open_source("luna16", world / "data", jobs=1).table) == FEW
    assert len(read) == FEW + 1  # the fourth twice


@pytest.mark.parametrize("flips", [(False, False, True), (True, True, False), (True, False, True)])
def test_voxels_that_a_program_turned_give_the_same_patches(
    world: Path,
    annotated: dict[str, Scan],
    nodules: pd.DataFrame,
    flips: tuple[bool, bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_luna16(world / "data", annotated, nodules.head(2))
    open_source("luna16", world / "data")
    straight = contents("luna16", world)
    for path in (world / "data").glob("*.mhd"):
        sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(path)), flips), str(path))
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(world / "turned" / "patches"))
    open_source("luna16", world / "data")
    for name, (volume, mask) in contents("luna16", world / "turned").items():
        assert np.abs(volume - straight[name][0]).max() <= 1
        assert (mask == straight[name][1]).all()


def test_a_patient_who_lay_prone_is_laid_by_the_pixels_not_turned(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame
) -> None:
    """Negative directions as DICOM has them: columns still are the annotations' columns."""
    write_luna16(world / "data", annotated, nodules.head(2))
    for path in (world / "data").glob("*.mhd"):
        image = sitk.ReadImage(str(path))
        image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        image.SetOrigin([170, 180, image.GetOrigin()[2]])
        sitk.WriteImage(image, str(path))
    open_source("luna16", world / "data")
    for volume, _ in contents("luna16", world).values():
        assert np.abs(np.argwhere(volume > -400).mean(axis=0) - 15.5).max() < 0.7


def test_dicom_and_mhd_of_the_same_voxels_give_the_same_patches(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame
) -> None:
    some = nodules.head(2)
    write_luna16(world / "data", annotated, some)
    open_source("luna16", world / "data")
    for row in some.to_dict("records"):
        scan = annotated[row["series_uid"]]
        image = made_up(scan, row)
        z = image.GetOrigin()[2] + scan.slice_spacing_mm * np.arange(image.GetSize()[2])
        voxels = sitk.GetArrayFromImage(image)
        folder = world / "data" / "dicom" / row["patient_id"]
        write_series(folder, voxels, scan.series_uid, z, pixel_mm=2 * (scan.pixel_spacing_mm,))
    open_source("idc", world / "data")
    luna, idc = contents("luna16", world), contents("idc", world)
    assert luna.keys() == idc.keys() and len(luna) == 2
    for name in luna:
        assert np.abs(luna[name][0] - idc[name][0]).max() <= 1
        assert (luna[name][1] == idc[name][1]).all()


def test_the_rules_are_checked_on_the_files(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = list(annotated.values())
    monkeypatch.setattr("nodulebook.patches.sources.scan_rules.read_scans", lambda: every)
    uid = nodules["series_uid"][0]
    z = np.unique(annotated[uid].slice_z_mm)
    voxels = np.zeros((len(z), 8, 8), np.int16)
    files = write_series(world / "data", voxels, uid, z)

    def verdict(limit: float = 2.5) -> str:
        (row,) = check_scans("idc", world / "data", limit).to_dict("records")
        return str(row["verdict"])

    assert verdict() == "kept"
    assert verdict(2.0) == "slices of 2.5 mm, the limit is 2 mm"
    tag = pydicom.tag.Tag("SliceThickness")
    known = annotated[uid].slice_thickness_mm
    # Some, then all unreadable.
    for value, those, mm in ((b"2,5 ", files[:3], 2.5), (b"2.5\\2.5 ", files, known)):
        for path in those:
            header = pydicom.dcmread(path)
            header._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
            header.save_as(path)
        assert verdict() == "kept"
        assert verdict(0.1) == f"slices of {mm:g} mm, the limit is 0.1 mm"
    files[5].unlink()
    assert verdict() == "1 slices missing"
    uneven = z.copy()
    uneven[5] += 0.3
    write_series(world / "data", voxels, uid, uneven)
    assert verdict() == "uneven spacing, by up to 0.30 mm"
    files[7].write_bytes(files[7].read_bytes()[:400])
    assert verdict() != "kept"


@real_dicom
def test_real_dicom_through_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From DICOM and, written as .mhd and turned, from luna16: the same patches and masks."""
    folder = lidc_dicom()
    assert folder is not None
    real = read_nodules().set_index("nodule_id", drop=False).loc[list(REAL)]
    monkeypatch.setattr("nodulebook.patches.sources.read_nodules", lambda: real)
    monkeypatch.setattr("nodulebook.patches.sources.scans.read_nodules", lambda: real)
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    open_source("idc", folder)
    for uid, scan in scans.find("idc", folder, set(REAL.values())).items():
        volume = scan.open()
        geometry = volume.geometry
        image = sitk.GetImageFromArray(
            volume.region_hu((0, 0, 0), geometry.size_xyz).astype(np.int16)
        )
        image.SetSpacing(geometry.spacing_xyz_mm.tolist())
        image.SetOrigin(geometry.origin_xyz_mm.tolist())
        (tmp_path / "mhd").mkdir(exist_ok=True)
        turned = sitk.Flip(image, [True, True, False])
        sitk.WriteImage(turned, str(tmp_path / "mhd" / f"{uid}.mhd"), True)
    open_source("luna16", tmp_path / "mhd")
    idc, luna = contents("idc", tmp_path), contents("luna16", tmp_path)
    assert idc.keys() == luna.keys() == set(REAL)
    for name in REAL:
        assert np.abs(idc[name][0] - luna[name][0]).max() <= 1
        assert (idc[name][1] == luna[name][1]).all()
        assert np.median(idc[name][0][idc[name][1]]) > -200
    # All of the first cube lies in the slices that are there. The second has its first voxel at
    # z -206.2 and its last at -175.2 mm, the slices reach from -205.25 to -177.75.
    assert not (idc["LIDC-IDRI-0001-s1-n00"][0] == LUNG_HU).all(axis=(1, 2)).any()
    below = (idc["LIDC-IDRI-0003-s1-n01"][0] == LUNG_HU).all(axis=(1, 2))
    assert below.tolist() == [True] + 28 * [False] + 3 * [True]


def test_a_store_of_all_lesions_grows_with_scans_that_have_no_reference_nodule(
    world: Path, annotated: dict[str, Scan], nodules: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = read_nodules()
    most = every.groupby("series_uid")["readers"].transform("max")
    doubtful = every[(most < 3) & every["diameter_mm"].between(6, 12)].head(1)
    name = doubtful["nodule_id"].item()
    table = pd.concat([nodules.head(2), doubtful], ignore_index=True)
    for module in ("nodulebook.patches.sources", "nodulebook.patches.sources.scans"):
        monkeypatch.setattr(f"{module}.read_nodules", lambda: table)
    data = world / "data"
    write_luna16(data / "subset0", annotated, nodules.head(2))
    before = open_source("luna16", data, "all", jobs=1)
    assert before.table["nodule_id"].tolist() == nodules["nodule_id"].head(2).tolist()
    scan = {scan.series_uid: scan for scan in read_scans(set(doubtful["series_uid"]))}
    write_luna16(data / "subset1", scan, doubtful)
    after = open_source("luna16", data, "all", jobs=1)
    assert after.table["nodule_id"].tolist() == table["nodule_id"].tolist()
    assert name not in open_source("luna16", data, jobs=1).table["nodule_id"].tolist()
