"""Scans in, patches out: every voxel where the world says, whatever the scan's own grid.

SimpleITK's own index-to-world and resampling are the independent truth. Tests on real DICOM at the
end read the folder that `NODULEBOOK_DATA` names, and are skipped
where it is absent.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom import open_dicom, read_dicom_series
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.ct.find import find_images
from nodulebook.ct.metaimage import open_metaimage
from nodulebook.ct.spacing import check_spacing
from nodulebook.ct.volume import Volume, volume_of_image
from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import cluster_readings, read_nodules
from nodulebook.data.contours import ConsensusMask, consensus_mask
from nodulebook.patches.cube import LUNG_HU, extract_patch
from nodulebook.patches.mask import mask_patch
from nodulebook.patches.sources.scans import find_luna16

# ----------------------------------------------------------------------------- made-up scans


def rotation(a: float, b: float, c: float) -> NDArray[np.float64]:
    """A turn about each axis in turn, in radians."""
    (ca, cb, cc), (sa, sb, sc) = np.cos([a, b, c]), np.sin([a, b, c])
    about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_x = np.array([[1, 0, 0], [0, cc, -sc], [0, sc, cc]])
    return about_z @ about_y @ about_x


angles = st.floats(-np.pi, np.pi)
rotated = st.builds(rotation, angles, angles, angles)
axis_swaps = st.builds(
    lambda order, signs: np.eye(3)[list(order)] * np.array(signs),
    st.permutations([0, 1, 2]),
    st.tuples(*3 * [st.sampled_from([-1, 1])]),
)
directions = st.one_of(rotated, axis_swaps)


@st.composite
def scans(draw: st.DrawFn, directions: st.SearchStrategy = directions) -> sitk.Image:
    """Non-cubic, anisotropic, shifted, turned or mirrored; voxels are all 0."""
    size = [draw(st.integers(4, 40)) for _ in range(3)]
    image = sitk.Image(size, sitk.sitkInt16)
    image.SetSpacing([draw(st.floats(0.4, 3.0)) for _ in range(3)])
    image.SetOrigin([draw(st.floats(-400, 400)) for _ in range(3)])
    image.SetDirection(draw(directions).ravel().tolist())
    # For a few turns ITK's inverse of its matrix is NaN ("suspicious return value from SVDC").
    assume(np.isfinite(image.TransformPhysicalPointToContinuousIndex(image.GetOrigin())).all())
    return image


def offset_mm(voxel_zyx: tuple[int, int, int], size: int, spacing: float) -> NDArray[np.float64]:
    """From the middle of a patch to one of its voxels, xyz."""
    return (np.array(voxel_zyx)[::-1] - (size - 1) / 2) * spacing


@settings(max_examples=250, deadline=None)
@given(
    image=scans(),
    data=st.data(),
    size=st.sampled_from([9, 16, 32]),
    spacing=st.sampled_from([0.7, 1.0, 1.5]),
)
def test_every_marker_lands_on_its_voxel(
    image: sitk.Image, data: st.DataObject, size: int, spacing: float
) -> None:
    marker = [data.draw(st.integers(0, n - 1)) for n in image.GetSize()]
    target = tuple(data.draw(st.integers(0, size - 1)) for _ in range(3))
    image[marker] = 1000
    world = np.array(image.TransformIndexToPhysicalPoint(marker))
    patch = extract_patch(image, world - offset_mm(target, size, spacing), size, spacing, 0)
    assert patch.shape == (size, size, size)
    assert patch[target] == pytest.approx(1000, abs=0.5)
    # Elsewhere it is bright only within the marker's own voxel, which the scan's edge continues.
    bright = np.argwhere(patch >= 999.5)
    reach = np.linalg.norm(image.GetSpacing()) / 2 / spacing
    assert (np.linalg.norm(bright - target, axis=1) <= reach + 0.01).all()


@settings(max_examples=100, deadline=None)
@given(image=scans(), data=st.data())
def test_a_patch_is_what_resampling_the_whole_scan_gives(
    image: sitk.Image, data: st.DataObject
) -> None:
    generator = np.random.default_rng(0)
    noise = sitk.GetImageFromArray(
        generator.integers(-1024, 3000, image.GetSize()[::-1]).astype(np.int16)
    )
    noise.CopyInformation(image)
    inside = [data.draw(st.floats(0, n - 1)) for n in image.GetSize()]
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(inside))
    whole = sitk.Resample(
        noise,
        [16] * 3,
        sitk.Transform(),
        sitk.sitkLinear,
        (centre - 7.5).tolist(),
        [1.0] * 3,
        np.eye(3).ravel().tolist(),
        -860,
        sitk.sitkFloat64,
    )
    ours, theirs = extract_patch(noise, centre, 16), sitk.GetArrayFromImage(whole)
    # A position on the very rim of the scan may fall on either side of it.
    for voxel in np.argwhere(np.abs(ours - theirs) > 0.5):
        index = np.array(
            image.TransformPhysicalPointToContinuousIndex(centre + offset_mm(voxel, 16, 1.0))
        )
        rim = np.minimum(np.abs(index + 0.5), np.abs(index - np.array(image.GetSize()) + 0.5))
        assert rim.min() < 1e-4


@settings(max_examples=100, deadline=None)
@given(image=scans(), flips=st.tuples(*3 * [st.booleans()]), data=st.data())
def test_voxels_stored_the_other_way_round_give_the_same_patch(
    image: sitk.Image, flips: tuple[bool, bool, bool], data: st.DataObject
) -> None:
    noise = sitk.GetImageFromArray(
        np.random.default_rng(1).integers(-1000, 400, image.GetSize()[::-1]).astype(np.int16)
    )
    noise.CopyInformation(image)
    inside = [data.draw(st.floats(0, n - 1)) for n in image.GetSize()]
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(inside)) + 1e-4
    flipped = sitk.Flip(noise, flips)
    assert np.allclose(extract_patch(noise, centre), extract_patch(flipped, centre), atol=0.1)


def test_a_patch_by_hand() -> None:
    """A ramp of 10 HU a mm to the left, 1 HU to the back, 0.1 HU to the head."""
    k, j, i = np.mgrid[:20, :60, :50]
    image = sitk.GetImageFromArray(10.0 * (0.5 * i - 100) + (0.8 * j + 20) + 0.1 * (2.5 * k - 300))
    image.SetSpacing([0.5, 0.8, 2.5])
    image.SetOrigin([-100, 20, -300])
    patch = extract_patch(image, (-88.0, 44.0, -276.0), 4)
    x, y, z = (c + np.array([-1.5, -0.5, 0.5, 1.5]) for c in (-88.0, 44.0, -276.0))
    expected = 10 * x + y[:, None] + 0.1 * z[:, None, None]
    assert patch.dtype == np.float32
    assert np.allclose(patch, expected, atol=1e-3)


def test_outside_is_background_and_half_a_voxel_still_is_scan() -> None:
    image = sitk.Image([10, 10, 10], sitk.sitkInt16) + 50
    # Voxels 0 to 9 reach from -0.5 to 9.5; the patch's first voxel is 4.5 - 15.5 = -11.
    patch = extract_patch(image, (4.5, 4.5, 4.5))
    assert (patch[11:21, 11:21, 11:21] == 50).all()
    assert (patch == 50).sum() == 1000 and set(np.unique(patch)) == {50, LUNG_HU}
    assert (extract_patch(image, (4.5, 4.5, 4.5), background_hu=-1000) == -1000).sum() == 31768
    near = extract_patch(image, (-0.45, 4, 4), size=1)
    assert near.shape == (1, 1, 1) and near[0, 0, 0] == 50
    assert extract_patch(image, (4, 4, 9.45), size=1)[0, 0, 0] == 50
    for beyond in ((-0.55, 4, 4), (4, 4, 9.55)):
        with pytest.raises(InputError, match="lies outside the scan"):
            extract_patch(image, beyond, size=1)


def test_a_volume_keeps_its_image_alive() -> None:
    volumes = [volume_of_image(sitk.Image([64, 64, 64], sitk.sitkFloat32) + k) for k in range(20)]
    for k, volume in enumerate(volumes):
        assert (extract_patch(volume, (32, 32, 32), 8) == k).all()


def test_slices_at_uneven_distances_are_taken_where_they_lie() -> None:
    image = sitk.Image([8, 8, 4], sitk.sitkFloat32)
    even = volume_of_image(image)
    z_mm = np.array([0.0, 1.0, 3.5, 5.0])
    geometry = type(even.geometry)(
        size_xyz=(8, 8, 4),
        origin_xyz_mm=np.zeros(3),
        spacing_xyz_mm=np.ones(3),
        direction=np.eye(3),
        slices_mm=z_mm,
    )
    hu = np.broadcast_to(100 * z_mm[:, None, None], (4, 8, 8))
    volume = Volume("uneven", geometry, lambda f, s: hu[f[2] : f[2] + s[2], : s[1], : s[0]])
    patch = extract_patch(volume, (3.5, 3.5, 2.5), size=6)
    assert np.allclose(patch[:, 0, 0], [0, 100, 200, 300, 400, 500])
    assert np.allclose(geometry.to_world(geometry.to_index(np.array([1.0, 2, 3.3]))), [1, 2, 3.3])


# --------------------------------------------------------------------------------------- masks


@settings(max_examples=60, deadline=None)
@given(
    signs=st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
    swapped=st.booleans(),
    spacing=st.tuples(st.floats(0.5, 0.9), st.floats(0.6, 2.5)),
    corner=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_a_mask_lies_on_the_voxels_of_its_nodule(
    signs: tuple[int, int],
    swapped: bool,
    spacing: tuple[float, float],
    corner: tuple[int, int],
) -> None:
    pixel_mm, slice_mm = spacing
    direction = np.diag([*signs, 1]).astype(float)[:, [1, 0, 2] if swapped else [0, 1, 2]]
    # An L with a foot: no turn or reflection of it looks the same.
    mask = np.zeros((8, 24, 22), dtype=bool)
    mask[1:7, 2:22, 3:9] = True
    mask[1:7, 16:22, 9:18] = True
    mask[5:7, 2:9, 9:20] = True
    voxels = np.full((14, 80, 80), -900, np.int16)
    y0, x0 = corner
    voxels[3:11, y0 : y0 + 24, x0 : x0 + 22][mask] = 100
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([pixel_mm, pixel_mm, slice_mm])
    image.SetOrigin([30, -50, -200])
    image.SetDirection(direction.ravel().tolist())
    consensus = ConsensusMask(mask, x0, y0, -200 + slice_mm * np.arange(3, 11), pixel_mm, slice_mm)
    middle = (x0 + 10.3, y0 + 11.7, 6.6)
    centre = image.TransformContinuousIndexToPhysicalPoint(middle)
    ours = mask_patch(consensus, np.array([*middle[:2], centre[2]]), direction)
    bright = extract_patch(image, centre) > -400
    # Cutting the interpolated image at half height rounds corners off; the mask keeps the volume.
    assert 2 * (ours & bright).sum() / (ours.sum() + bright.sum()) > 0.8


def test_the_mask_of_an_oblique_scan_is_refused() -> None:
    consensus = ConsensusMask(np.ones((1, 1, 1), bool), 0, 0, np.zeros(1), 1, 1)
    with pytest.raises(InputError, match="oblique"):
        mask_patch(consensus, np.zeros(3), rotation(0.3, 0, 0))


# ---------------------------------------------------------------------------------- .mhd files


def some_scan(number_type: type = np.int16) -> sitk.Image:
    voxels = np.random.default_rng(2).integers(-1000, 2000, (30, 50, 40)).astype(number_type)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([0.7, 0.7, 1.25])
    image.SetOrigin([-150.5, -99.25, -312.5])
    return image


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("number_type", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("axes", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_an_mhd_file_gives_the_patches_of_the_image(
    tmp_path: Path, compressed: bool, number_type: type, axes: tuple[int, int, int]
) -> None:
    image = some_scan(number_type)
    image.SetDirection(np.diag(axes).astype(float).ravel().tolist())
    path = tmp_path / "1.2.3.mhd"
    sitk.WriteImage(image, str(path), compressed)
    assert (tmp_path / f"1.2.3.{'zraw' if compressed else 'raw'}").is_file()
    volume = open_metaimage(path)
    for index in ((20.0, 30.0, 15.0), (2.2, 47.1, 0.3)):
        centre = image.TransformContinuousIndexToPhysicalPoint(index)
        assert (extract_patch(volume, centre) == extract_patch(image, centre)).all()


def test_an_mhd_file_of_either_byte_order_is_read(tmp_path: Path) -> None:
    image = some_scan()
    sitk.WriteImage(image, str(tmp_path / "1.2.mhd"))
    raw = np.fromfile(tmp_path / "1.2.raw", "<i2")
    raw.astype(">i2").tofile(tmp_path / "1.2.raw")
    header = (tmp_path / "1.2.mhd").read_text()
    (tmp_path / "1.2.mhd").write_text(header.replace("ByteOrderMSB = False", "ByteOrderMSB = True"))
    centre = (-140.0, -80.0, -300.0)
    volume = open_metaimage(tmp_path / "1.2.mhd")
    assert (extract_patch(volume, centre) == extract_patch(image, centre)).all()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_of_an_uncompressed_file_only_the_rows_of_the_patch_are_read(tmp_path: Path) -> None:
    image = sitk.Image([256, 256, 200], sitk.sitkInt16)
    sitk.WriteImage(image, str(tmp_path / "1.2.mhd"))
    volume = open_metaimage(tmp_path / "1.2.mhd")

    def read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(lines[0].split()[1])

    before = read()
    extract_patch(volume, (100.0, 100.0, 100.0))
    assert read() - before < 34 * 34 * 256 * 2 + 10_000  # of 200 x 256 rows


def test_scans_are_found_by_name_in_any_layout(tmp_path: Path) -> None:
    for name in ("subset0/1.2.3.mhd", "a/b/1.2.4.MHD", "notes.mhd", ".hidden/1.2.5.mhd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(find_images(tmp_path)) == ["1.2.3", "1.2.4", "notes"]
    assert sorted(find_luna16(tmp_path)[0]) == ["1.2.3", "1.2.4"]


# ------------------------------------------------------------------------------- DICOM series


def write_series(
    folder: Path,
    voxels_hu: NDArray[np.int16],
    uid: str = "1.2.3",
    z_mm: NDArray[np.float64] | None = None,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    slope: float = 1,
    intercept: float = -1024,
    pixel_mm: tuple[float, float] = (0.6, 0.8),
) -> list[Path]:
    """A small CT series; file names are in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    z_mm = -100 + 2.5 * np.arange(len(voxels_hu)) if z_mm is None else z_mm
    files = []
    for k, (plane, z) in enumerate(zip(voxels_hu, z_mm, strict=True)):
        header = pydicom.Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        header.SOPInstanceUID = f"1.2.3.{k + 1}"
        header.SeriesInstanceUID, header.StudyInstanceUID = uid, "1.2"
        header.Modality, header.PatientID = "CT", "x"
        header.ImagePositionPatient = [-20, -30, float(z)]
        header.ImageOrientationPatient = list(orientation)
        header.PixelSpacing, header.SliceThickness = [pixel_mm[1], pixel_mm[0]], 2.5
        header.Rows, header.Columns = plane.shape
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 1
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
        header.PixelData = np.rint((plane - intercept) / slope).astype("<i2").tobytes()
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = header.SOPClassUID
        meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.file_meta = meta
        files.append(folder / f"{(7 * k) % 997:03d}.dcm")
        header.save_as(files[-1], enforce_file_format=True)
    return files


def some_voxels(slices: int = 12) -> NDArray[np.int16]:
    return np.random.default_rng(3).integers(-500, 500, (slices, 40, 30)).astype(np.int16)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (1, 0), (2, -1000)])
def test_a_dicom_series_is_read_as_simpleitk_reads_it(
    tmp_path: Path, orientation: tuple[float, ...], slope: float, intercept: float
) -> None:
    voxels = some_voxels() // 2 * 2
    files = write_series(
        tmp_path, voxels, orientation=orientation, slope=slope, intercept=intercept
    )
    volume = open_dicom(files, "1.2.3")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path), "1.2.3"))
    theirs = reader.Execute()
    assert (sitk.GetArrayFromImage(theirs) == voxels).all()
    assert (volume.region_hu((0, 0, 0), (30, 40, 12)) == voxels).all()
    geometry = volume.geometry
    assert np.allclose(geometry.origin_xyz_mm, theirs.GetOrigin())
    assert np.allclose(geometry.spacing_xyz_mm, theirs.GetSpacing())
    assert np.allclose(geometry.direction.ravel(), theirs.GetDirection())
    centre = theirs.TransformContinuousIndexToPhysicalPoint([12.3, 20.1, 6.6])
    assert np.allclose(extract_patch(volume, centre), extract_patch(theirs, centre), atol=1e-3)


def test_several_series_in_a_folder_and_one_over_folders(tmp_path: Path) -> None:
    one = write_series(tmp_path / "a", some_voxels(6), "1.2.3")
    two = write_series(tmp_path / "two", -some_voxels(6), "1.2.4")
    for path in two:
        shutil.move(path, tmp_path / "a" / f"two-{path.name}")
    (tmp_path / "b").mkdir()
    shutil.move(one[0], tmp_path / "b" / "image")
    (tmp_path / "a" / "LICENSE").write_text("text")
    found = find_dicom(tmp_path).series
    assert {uid: len(files) for uid, files in found.items()} == {"1.2.3": 6, "1.2.4": 6}
    volume = open_dicom(found["1.2.3"], "1.2.3")
    assert (volume.region_hu((0, 0, 0), (30, 40, 6)) == some_voxels(6)).all()


def test_the_index_remembers_folders_and_sees_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, data = tmp_path / "index.json", tmp_path / "data"
    write_series(data / "a", some_voxels(3), "1.2.3")
    first = find_dicom(data, index).series
    with monkeypatch.context() as patch:
        patch.setattr("nodulebook.ct.dicom_files.read_header", None)  # would fail if it were called
        assert find_dicom(data, index).series == first
    write_series(data / "b", some_voxels(3), "1.2.4")
    assert list(find_dicom(data, index).series) == ["1.2.3", "1.2.4"]
    index.write_text("damaged")
    assert list(find_dicom(data, index).series) == ["1.2.3", "1.2.4"]


def test_an_index_that_cannot_be_written_is_no_condition(tmp_path: Path) -> None:
    write_series(tmp_path / "data", some_voxels(3), "1.2.3")
    (tmp_path / "taken").write_text("a file, so no folder of this name can be made")
    assert list(find_dicom(tmp_path / "data", tmp_path / "taken" / "index.json").series) == [
        "1.2.3"
    ]


@pytest.mark.parametrize("uid", ["1.2.3.3", "", "1.2.3.99"])
def test_a_slice_that_is_there_twice_is_taken_once(tmp_path: Path, uid: str) -> None:
    files = write_series(tmp_path, some_voxels(5))
    header = pydicom.dcmread(files[2])
    header.SOPInstanceUID = uid
    header.save_as(tmp_path / "copy.dcm")
    series = read_dicom_series([*files, tmp_path / "copy.dcm"], "1.2.3")
    assert len(series.slices) == 5


@pytest.mark.parametrize(
    ("z_mm", "missing", "even"),
    [
        ([0, 2.5, 5, 7.5, 10], (), True),
        ([0, 2.5, 7.5, 10, 12.5], (5.0,), False),
        ([0, 1, 2, 6, 7, 8, 9], (3.0, 4.0, 5.0), False),
        ([0, 1.25, 2.5, 4.5, 5.75, 7], (), False),
        ([0, 1.25, 2.5, 3.8, 5.0, 6.25], (), True),
        ([3], (), True),
    ],
)
def test_uneven_spacing_and_missing_slices_are_told_apart(
    z_mm: list[float], missing: tuple[float, ...], even: bool
) -> None:
    check = check_spacing(np.array(z_mm, dtype=float))
    assert check.missing == pytest.approx(missing) and check.even == even
    assert check.slices == len(z_mm)


# ------------------------------------------------------------------------------- real DICOM


def lidc_dicom() -> Path | None:
    folder = Path(os.environ.get("NODULEBOOK_DATA", "/nowhere")) / "lidc-dicom"
    return folder if folder.is_dir() else None


REAL = {
    "LIDC-IDRI-0001-s1-n00": "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192",
    "LIDC-IDRI-0003-s1-n01": "1.3.6.1.4.1.14519.5.2.1.6279.6001.170706757615202213033480003264",
}
real_dicom = pytest.mark.skipif(lidc_dicom() is None, reason="lidc-dicom is not there")


@pytest.fixture(scope="module")
def real() -> Callable[[str], tuple[Volume, pd.Series, sitk.Image]]:
    """A nodule's scan as we read it, its row, and the scan as SimpleITK reads it whole."""
    folder = lidc_dicom()
    assert folder is not None
    found = find_dicom(folder).series
    nodules = read_nodules().set_index("nodule_id")

    def of(nodule: str) -> tuple[Volume, pd.Series, sitk.Image]:
        uid = REAL[nodule]
        files = sorted(found[uid], key=lambda p: float(p.stem[1:]))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in files])
        return open_dicom(found[uid], uid), nodules.loc[nodule], reader.Execute()

    return of


def world_centre(volume: Volume, row: pd.Series) -> NDArray[np.float64]:
    k = np.interp(
        row["centroid_z_mm"], volume.geometry.slice_z_mm, range(len(volume.geometry.slices_mm))
    )
    return volume.geometry.to_world(np.array([row["centroid_x_px"], row["centroid_y_px"], k]))


@real_dicom
@pytest.mark.parametrize("nodule", REAL)
def test_real_patch_equals_resampling_the_whole_scan(nodule: str, real: Callable) -> None:
    volume, row, image = real(nodule)
    centre = world_centre(volume, row)
    patch = extract_patch(volume, centre)
    low = np.array(image.GetOrigin())
    high = np.array(image.TransformIndexToPhysicalPoint([n - 1 for n in image.GetSize()]))
    # The whole scan to 1 mm, on a grid that has a voxel where the patch has its first.
    first = centre - 15.5
    start = first - np.floor(first - low)
    size = (np.floor(high - start) + 1).astype(int)
    whole = sitk.Resample(
        image, size.tolist(), sitk.Transform(), sitk.sitkLinear, start.tolist(), [1.0] * 3,
        np.eye(3).ravel().tolist(), LUNG_HU, sitk.sitkFloat32,
    )  # fmt: skip
    corner = np.rint(first - start).astype(int)
    voxels = sitk.GetArrayFromImage(whole)
    z0 = max(0, corner[2])
    cut = voxels[z0 : corner[2] + 32, corner[1] : corner[1] + 32, corner[0] : corner[0] + 32]
    ours = patch[z0 - corner[2] : z0 - corner[2] + len(cut)]
    assert len(cut) >= 24
    assert np.abs(ours - cut).max() <= 1


@real_dicom
@pytest.mark.parametrize("nodule", REAL)
@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 0, 1)])
@pytest.mark.parametrize("compressed", [False, True])
def test_real_voxels_as_mhd_give_the_same_patch(
    nodule: str, flips: tuple[int, ...], compressed: bool, real: Callable, tmp_path: Path
) -> None:
    volume, row, image = real(nodule)
    centre = world_centre(volume, row)
    sitk.WriteImage(
        sitk.Cast(sitk.Flip(image, [bool(f) for f in flips]), sitk.sitkInt16),
        str(tmp_path / "1.2.mhd"),
        compressed,
    )
    other = extract_patch(open_metaimage(tmp_path / "1.2.mhd"), centre)
    assert np.allclose(other, extract_patch(volume, centre), atol=0.2)


@real_dicom
@pytest.mark.parametrize("nodule", REAL)
def test_real_centre_is_where_the_outlines_are(nodule: str, real: Callable) -> None:
    """Each reader's outlines as polygons in the world by SimpleITK, their areas' mean: by hand."""
    volume, row, image = real(nodule)
    (scan,) = read_scans({row["series_uid"]})
    centres = []
    for reading in cluster_readings(scan)[row["cluster"]]:
        weights, points = [], []
        for contour in reading.contours:
            x, y = contour.points_xy.T.astype(float)
            mid_x, mid_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
            k = (contour.z_mm - image.GetOrigin()[2]) / image.GetSpacing()[2]
            points.append(image.TransformContinuousIndexToPhysicalPoint([mid_x, mid_y, k]))
            weights.append(np.ptp(x) * np.ptp(y))
        centres.append(np.average(points, axis=0, weights=weights))
    assert np.linalg.norm(np.mean(centres, axis=0) - world_centre(volume, row)) < 2


@real_dicom
@pytest.mark.parametrize("nodule", REAL)
def test_real_mask_lies_on_the_nodule(nodule: str, real: Callable) -> None:
    volume, row, _ = real(nodule)
    (scan,) = read_scans({row["series_uid"]})
    consensus = consensus_mask(scan, cluster_readings(scan)[row["cluster"]])
    centre_px = row[["centroid_x_px", "centroid_y_px", "centroid_z_mm"]].to_numpy(float)
    mask = mask_patch(consensus, centre_px, volume.geometry.direction)
    patch = extract_patch(volume, world_centre(volume, row))
    assert mask.sum() == pytest.approx(consensus.volume_mm3, rel=0.05)
    # Soft tissue inside, and no shift or reflection finds brighter voxels.
    assert np.median(patch[mask]) > -200
    here = patch[mask].mean()
    for axis in range(3):
        for shift in (-4, 4):
            assert patch[np.roll(mask, shift, axis)].mean() < here
