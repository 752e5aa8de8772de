"""What the source `lidc_slices` promises.

Most tests make their own small data sets; no CT is needed. Those at the end read the real set from
the folder that `NODULEBOOK_DATA` names, and are skipped where it is
absent.
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from nodulebook.core.errors import InputError
from nodulebook.data import cohort
from nodulebook.data.annotations import Contour, Reading, Scan
from nodulebook.data.cohort import cluster_readings, luna16_scans, nodule_table
from nodulebook.data.contours import consensus_mask
from nodulebook.patches.cube import LUNG_HU
from nodulebook.patches.sources import open_source, slices_files, slices_hu
from nodulebook.patches.sources.lidc_slices import (
    Frame,
    find_frame,
    patches,
    patches_or_reasons,
    recipe,
    resample_hu,
)
from nodulebook.patches.sources.slices_hu import estimate_hu_map, slices_to_hu
from nodulebook.patches.store import Patch

PATIENT = "LIDC-IDRI-0001"
FOLDER = f"LIDC-IDRI-slices/{PATIENT}/nodule-0"
Files = dict[str, bytes]

# ------------------------------------------------------------------------- small data sets


def png(pixels: NDArray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, "PNG")
    return stream.getvalue()


def chest(seed: int, scale: float = 7.9, offset: float = -1020.0) -> NDArray[np.uint8]:
    """A grey slice: noisy lung at -880 HU, chest wall with fat (-100) and muscle (45)."""
    random = np.random.default_rng(seed)
    hu = np.full((128, 128), -880.0)
    hu[:, 80:92], hu[:, 92:] = -100, 45
    hu += random.normal(0, 25, hu.shape)
    hu[0, 0] = offset
    return np.clip(np.rint((hu - offset) / scale), 0, 255).astype(np.uint8)


def data_set(images: NDArray, masks: NDArray[np.bool_], folder: str = FOLDER) -> Files:
    files = {f"{folder}/images/slice-{i}.png": png(image) for i, image in enumerate(images)}
    for j, reader in enumerate(masks):
        for i, mask in enumerate(reader):
            files[f"{folder}/mask-{j}/slice-{i}.png"] = png(mask.astype(np.uint8) * 255)
    return files


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path / "LIDC-IDRI-slices"


@pytest.fixture(scope="module")
def scans() -> dict[str, Scan]:
    """The scans of a dozen patients, read once: the whole database takes seconds."""
    return {
        scan.series_uid: scan
        for scan in luna16_scans()
        if scan.patient_id in {PATIENT, "LIDC-IDRI-0332", *REAL_PATIENTS}
    }


@pytest.fixture(scope="module")
def table(scans: dict[str, Scan]) -> Iterator[pd.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "read_scans", lambda uids: [scans[uid] for uid in uids])
        yield nodule_table(list(scans.values()))


@pytest.fixture
def nodule(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["nodule_id"] == f"{PATIENT}-s1-n00"]


@pytest.fixture
def files(scans: dict[str, Scan]) -> Files:
    """The first patient's nodule as the data set would hold it: its real outlines, made-up CT."""
    scan = next(s for s in scans.values() if s.patient_id == PATIENT)
    readings = cluster_readings(scan)[0]
    whole = consensus_mask(scan, readings)
    masks = np.zeros((4, len(whole.z_mm), 128, 128), dtype=bool)
    for mask, reading in zip(masks, readings, strict=False):
        own = consensus_mask(scan, [reading])
        first = int(np.searchsorted(whole.z_mm, own.z_mm[0]))
        y, x = 40 + own.y0_px - whole.y0_px, 50 + own.x0_px - whole.x0_px
        depth, height, width = own.mask.shape
        mask[first : first + depth, y : y + height, x : x + width] = own.mask
    return data_set(np.stack([chest(i) for i in range(masks.shape[1])]), masks)


def only(nodules: pd.DataFrame, data: Path) -> Patch:
    (patch,) = patches(nodules, data)
    return patch


# -------------------------------------------------------------------- the four forms of the data


def test_zip_folder_and_what_holds_them_give_the_same_patch(
    tmp_path: Path, nodule: pd.DataFrame, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "in-zip.zip", files)
    holder = tmp_path / "holder"
    holder.mkdir()
    write_zip(holder / "LIDC-IDRI-slices.zip", files)
    unpacked = write_folder(tmp_path / "unpacked", files)
    first = only(nodule, archive)
    assert first.nodule_id == f"{PATIENT}-s1-n00"
    assert first.volume_hu.dtype == np.int16 and first.volume_hu.shape == (32, 32, 32)
    assert first.mask.dtype == np.bool_ and first.mask.shape == (32, 32, 32)
    for data in (holder, unpacked, unpacked.parent):
        other = only(nodule, data)
        assert (other.volume_hu == first.volume_hu).all() and (other.mask == first.mask).all()
    monkeypatch.setenv("NODULEBOOK_DATA", str(holder))
    (other,) = patches(nodule)
    assert (other.volume_hu == first.volume_hu).all()


def test_recipe_tells_data_sets_apart_and_the_same_one_stays_the_same(
    tmp_path: Path, files: Files
) -> None:
    archive = write_zip(tmp_path / "a.zip", files)
    unpacked = write_folder(tmp_path / "a", files)
    assert recipe(archive) == recipe(archive) and recipe(unpacked) == recipe(unpacked)
    changed = files | {f"{FOLDER}/images/slice-0.png": png(chest(99))}
    assert recipe(write_zip(tmp_path / "b.zip", changed)) != recipe(archive)
    assert recipe(write_folder(tmp_path / "b", changed)) != recipe(unpacked)
    # Where the data lies does not matter.
    assert recipe(write_folder(tmp_path / "c", files)) == recipe(unpacked)


def test_a_zip_is_read_once_and_again_where_it_was_replaced(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, opened = write_zip(tmp_path / "a.zip", files), []
    real = slices_files.sha256
    monkeypatch.setattr(slices_files, "sha256", lambda path: opened.append(path) or real(path))
    first = recipe(archive)
    assert recipe(archive) == recipe(tmp_path / "." / "a.zip") == first and len(opened) == 1
    write_zip(archive, files | {f"{FOLDER}/images/slice-0.png": png(chest(99))})
    assert recipe(archive) != first and len(opened) == 2


def test_a_store_made_from_other_data_is_not_used_again(
    tmp_path: Path, nodule: pd.DataFrame, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    monkeypatch.setattr("nodulebook.patches.sources.read_nodules", lambda: nodule)
    before = open_source("lidc_slices", write_zip(tmp_path / "a.zip", files))
    brighter = files | {f"{FOLDER}/images/slice-4.png": png(np.full((128, 128), 200, np.uint8))}
    after = open_source("lidc_slices", write_zip(tmp_path / "b.zip", brighter))
    assert before.digest != after.digest
    assert after.table["nodule_id"].tolist() == [f"{PATIENT}-s1-n00"]


def test_files_that_systems_add_do_not_matter_and_nothing_is_unpacked(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    clean = only(nodule, write_zip(tmp_path / "a.zip", files))
    added = {
        "__MACOSX/LIDC-IDRI-slices/._x": b"?",
        f"{FOLDER}/images/.DS_Store": b"?",
        f"{FOLDER}/images/._slice-0.png": b"?",
        "LIDC-IDRI-slices/": b"",
    }
    littered = only(nodule, write_zip(tmp_path / "b.zip", added | files))
    assert (clean.volume_hu == littered.volume_hu).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_grey_values_as_they_are_differ_from_the_estimate_in_the_slices_only(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    flat = {name: png(np.full((128, 128), 100, np.uint8)) for name in files if "/images/" in name}
    archive = write_zip(tmp_path / "a.zip", files | flat)
    (grey,) = patches(nodule, archive, source="lidc_grey")
    estimated = only(nodule, archive)
    assert set(np.unique(grey.volume_hu)) == {-200, LUNG_HU}  # 7.9 x 100 - 990
    assert -200 not in estimated.volume_hu
    assert ((grey.volume_hu == LUNG_HU) == (estimated.volume_hu == LUNG_HU)).all()
    assert (grey.mask == estimated.mask).all()
    assert recipe(archive, "lidc_grey") != recipe(archive)


def test_slices_with_a_known_line_are_exact_and_the_others_estimated(
    tmp_path: Path, nodule: pd.DataFrame, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", files)
    csv = tmp_path / "exact.csv"
    csv.write_text(
        "patient_id,nodule,slice,hu_scale,hu_offset\n"
        f"{PATIENT},0,3,2,100\n{PATIENT},1,4,5,500\nLIDC-IDRI-0003,0,4,5,500\n"
    )
    monkeypatch.setattr(slices_hu, "EXACT_LINES", csv)
    lines = slices_hu.read_lines(csv)[PATIENT, 0]
    assert lines == {3: (2.0, 100.0)}
    images = np.stack([chest(0), chest(1), chest(2), chest(3)])
    known, estimate = slices_hu.exact_where_known(images, lines), slices_to_hu(images)
    assert (known[:3] == estimate[:3]).all()
    assert (known[3] == 2.0 * images[3] + 100).all() and (known[3] != estimate[3]).any()
    (exact,), old = patches(nodule, archive, source="lidc_exact"), only(nodule, archive)
    assert (exact.volume_hu != old.volume_hu).any() and (exact.mask == old.mask).all()
    before = recipe(archive, "lidc_exact")
    csv.write_text(csv.read_text().replace("2,100", "2,101"))
    assert recipe(archive, "lidc_exact") != before


def test_a_line_of_a_slice_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="slice 4"):
        slices_hu.exact_where_known(np.zeros((4, 128, 128), np.uint8), {4: (1.0, 0.0)})


def test_the_committed_lines_are_those_of_a_ct() -> None:
    lines = [
        line for of in slices_hu.read_lines(slices_hu.EXACT_LINES).values() for line in of.values()
    ]
    scale, offset = np.array(lines).T
    assert len(lines) == 7243
    # A stretched slice runs from air or padding up to soft tissue at the least, metal at the most.
    assert (scale > 0).all() and (offset < -500).all() and (offset > -3072).all()


def test_a_margin_continues_the_patch_to_all_sides_in_the_plane(
    tmp_path: Path, nodule: pd.DataFrame, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    monkeypatch.setattr("nodulebook.patches.sources.read_nodules", lambda: nodule)
    archive = write_zip(tmp_path / "a.zip", files)
    narrow = open_source("lidc_slices", archive)
    wide = open_source("lidc_slices", archive, margin=3)
    assert wide.volumes_hu.shape == (1, 32, 38, 38) and (narrow.margin, wide.margin) == (0, 3)
    assert (wide.volumes_hu[:, :, 3:-3, 3:-3] == narrow.volumes_hu).all()
    assert (wide.masks == narrow.masks).all() and wide.digest != narrow.digest
    # The patch 3 mm further along x, cut by itself.
    pixel_mm = 0.703125
    further = nodule.assign(centroid_x_px=nodule["centroid_x_px"] + 3 / pixel_mm)
    assert (only(further, archive).volume_hu == wide.volumes_hu[0, :, 3:-3, 6:]).all()
    with pytest.raises(InputError, match="phantom"):
        open_source("phantom", margin=3)


# ----------------------------------------------------------------------------------- geometry


def ring(x0: int, y0: int, width: int, height: int) -> NDArray[np.int64]:
    """A rectangular outline whose inside is `width` x `height` pixels from (x0, y0) on."""
    x, y = np.arange(x0 - 1, x0 + width + 1), np.arange(y0 - 1, y0 + height + 1)
    top, bottom = ([(int(i), row) for i in x] for row in (y0 - 1, y0 + height))
    right, left = ([(column, int(i)) for i in y] for column in (x0 + width, x0 - 1))
    return np.array(top + right + bottom[::-1] + left[::-1])


def made_up(
    pixel_mm: float, slice_mm: float, x: int, y: int, first: int, count: int
) -> tuple[Scan, NDArray[np.bool_]]:
    """A scan with a lesion of two readers, rectangles from pixel (x, y); and its masks.

    The masks lie on PNGs whose pixel (60, 57) is the scan's (x, y).
    """
    z_mm = -300 + slice_mm * np.arange(40)
    masks = np.zeros((4, count, 128, 128), dtype=bool)
    readings = []
    for r in range(2):
        contours = []
        for k in range(count):
            width, height = 5 + k % 4 + r, 7 + (k + r) % 3
            outline = ring(x, y, width, height)
            contours.append(Contour(float(z_mm[first + k]), True, outline))
            masks[2 * r, k, 57 : 57 + height, 60 : 60 + width] = True
        readings.append(Reading(r, 3, {}, tuple(contours)))
    scan = Scan(1, "LIDC-IDRI-0001", 1, "1.2", slice_mm, pixel_mm, z_mm, tuple(readings))
    return scan, masks


geometries = st.tuples(
    st.floats(0.46, 0.98),
    st.floats(0.6, 2.5),
    st.integers(62, 440),
    st.integers(62, 440),
    st.integers(0, 28),
    st.integers(2, 12),
)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries, target=st.tuples(*3 * [st.integers(6, 25)]), data=st.data())
def test_a_bright_voxel_lands_on_the_right_voxel_of_the_patch(
    geometry: tuple[float, float, int, int, int, int],
    target: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    pixel_mm, slice_mm, x, y, first, count = geometry
    scan, masks = made_up(*geometry)
    frame = find_frame(masks, scan, scan.readings)
    assert frame is not None
    assert (frame.x0_px, frame.y0_px) == (x - 60, y - 57)
    assert frame.z_mm[0] == scan.slice_z_mm[first] and len(frame.z_mm) == count
    k = data.draw(st.integers(0, count - 1))
    row, column = data.draw(st.integers(55, 70)), data.draw(st.integers(55, 70))
    volume_hu = np.zeros((count, 128, 128), dtype=np.float32)
    volume_hu[k, row, column] = 1000
    # The centre of the patch is 15.5 voxels of 1 mm from its first voxel.
    centre_xyz = np.array(
        [
            x - 60 + column - (target[2] - 15.5) / pixel_mm,
            y - 57 + row - (target[1] - 15.5) / pixel_mm,
            -300 + (first + k) * slice_mm - (target[0] - 15.5),
        ]
    )
    patch = resample_hu(volume_hu, frame, centre_xyz)
    assert patch[target] in (999, 1000)
    # No further than half a slice away may be as bright: only an end slice is continued so far.
    bright = np.argwhere(patch >= 999)
    reach = slice_mm / 2 + 1e-6 if k in (0, count - 1) else 0.01
    assert (np.abs(bright - target) <= [reach, 0, 0]).all()


@settings(max_examples=25, deadline=None)
@given(geometry=geometries)
def test_voxels_are_interpolated_linearly(
    geometry: tuple[float, float, int, int, int, int],
) -> None:
    pixel_mm, slice_mm, x, y, first, count = geometry
    scan, masks = made_up(*geometry)
    frame = find_frame(masks, scan, scan.readings)
    assert frame is not None
    k, row, column = np.mgrid[:count, :128, :128]
    # A ramp in mm from pixel (60, 57) of the first slice on.
    ramp = 20 * slice_mm * k + 5 * pixel_mm * (row - 57) - 3 * pixel_mm * (column - 60)
    z_centre = float(scan.slice_z_mm[first]) + slice_mm * (count - 1) / 2
    patch = resample_hu(ramp.astype(np.float32), frame, np.array([x + 2.0, y + 3.0, z_centre]))
    mm = np.arange(32) - 15.5
    z = mm + slice_mm * (count - 1) / 2
    expected = (
        20 * z[:, None, None]
        + 5 * (mm + 3 * pixel_mm)[None, :, None]
        - 3 * (mm + 2 * pixel_mm)[None, None, :]
    )
    inside = (z >= 0) & (z <= slice_mm * (count - 1))
    assert np.abs(patch[inside] - expected[inside]).max(initial=0) <= 0.51
    away = (z < -slice_mm / 2 - 1e-3) | (z > slice_mm * (count - 0.5) + 1e-3)
    assert (patch[away] == LUNG_HU).all()


def test_above_and_below_the_slices_is_lung_and_half_a_slice_is_image() -> None:
    # Two slices 2 mm apart at z 0 and 2, centre at z 1: voxels at ... -1.5 -0.5 0.5 ... from it,
    # so z -0.5 ... 2.5 is imaged (up to -1 and 3), 6 voxels -1.5 + 1 = -0.5 to 2.5: four.
    frame = Frame(0, 0, np.array([0.0, 2.0]), 1.0, 2.0)
    volume_hu = np.full((2, 128, 128), 50, dtype=np.float32)
    patch = resample_hu(volume_hu, frame, np.array([64.0, 64.0, 1.0]))
    assert (patch[14:18] == 50).all()
    assert (patch[:14] == LUNG_HU).all() and (patch[18:] == LUNG_HU).all()


def test_one_slice_alone_is_as_thick_as_the_spacing() -> None:
    frame = Frame(0, 0, np.array([5.0]), 1.0, 3.0)
    volume_hu = np.full((1, 128, 128), 50, dtype=np.float32)
    patch = resample_hu(volume_hu, frame, np.array([64.0, 64.0, 5.5]))
    # z of the voxels: 4, 5, 6 lie within 3.5 ... 6.5, and they are voxels 14, 15, 16.
    assert np.flatnonzero((patch == 50).all(axis=(1, 2))).tolist() == [14, 15, 16]


def test_beyond_the_edge_of_the_scan_is_lung() -> None:
    frame = Frame(0, 0, np.array([0.0, 1.0]), 1.0, 1.0)
    volume_hu = np.full((2, 128, 128), 50, dtype=np.float32)
    patch = resample_hu(volume_hu, frame, np.array([5.5, 64.5, 0.5]))
    # Voxel i lies at column i - 10.
    assert (patch[16, :, :10] == LUNG_HU).all() and (patch[16, :, 10:] == 50).all()


# --------------------------------------------------------- the place in the scan, and the nodule


def test_the_place_is_found_without_one_reader_and_with_a_slice_in_the_wrong_place() -> None:
    scan, masks = made_up(0.7, 1.0, 200, 180, 5, 8)
    masks[2] = False
    masks[0, 7], masks[0, 0] = masks[0, 0].copy(), False  # as where a first slice is missing
    frame = find_frame(masks, scan, scan.readings)
    assert frame is not None
    assert (frame.x0_px, frame.y0_px, frame.z_mm[0]) == (140, 123, scan.slice_z_mm[5])


def test_the_place_is_found_where_the_first_slices_have_no_png() -> None:
    scan, masks = made_up(0.7, 1.0, 200, 180, 5, 8)
    frame = find_frame(masks[:, 3:], scan, scan.readings)
    assert frame is not None
    assert frame.z_mm.tolist() == scan.slice_z_mm[8:13].tolist()


def test_the_masks_of_another_nodule_are_not_taken() -> None:
    scan, _ = made_up(0.7, 1.0, 200, 180, 5, 8)
    other = np.zeros((4, 8, 128, 128), dtype=bool)
    other[:, :, 40:80, 50:71] = True
    assert find_frame(other, scan, scan.readings) is None
    assert find_frame(np.zeros_like(other), scan, scan.readings) is None


def test_a_folder_with_slices_of_two_nodules_is_not_taken() -> None:
    scan, masks = made_up(0.7, 1.0, 200, 180, 5, 8)
    masks[:, :5] = False
    masks[:, :5, 40:44, 50:56] = True  # few pixels, but most of the slices
    assert find_frame(masks, scan, scan.readings) is None


def test_nodules_without_a_patch_are_named_with_the_reason(
    tmp_path: Path,
    table: pd.DataFrame,
    nodule: pd.DataFrame,
    files: Files,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The folder nodule-0 of patient 0332 is given the first patient's files.
    strange = {name.replace(PATIENT, "LIDC-IDRI-0332"): data for name, data in files.items()}
    data = write_zip(tmp_path / "a.zip", files | strange)
    wanted = table[table["patient_id"].isin([PATIENT, "LIDC-IDRI-0332"])]
    reasons = dict(patches_or_reasons(wanted, data))
    assert isinstance(reasons[f"{PATIENT}-s1-n00"], Patch)
    assert "those of another nodule" in str(reasons["LIDC-IDRI-0332-s1-n00"])
    assert "no folder LIDC-IDRI-0332/nodule-1" in str(reasons["LIDC-IDRI-0332-s1-n01"])
    made = list(patches(wanted, data))
    assert [p.nodule_id for p in made] == [f"{PATIENT}-s1-n00"]
    # A patch does not depend on what else is asked for.
    assert (made[0].volume_hu == only(nodule, data).volume_hu).all()
    assert "LIDC-IDRI-0332-s1-n00" in capsys.readouterr().err


def test_a_nodule_with_hardly_any_slice_is_left_out(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    first = {name: data for name, data in files.items() if name.endswith("slice-0.png")}
    ((_, reason),) = patches_or_reasons(nodule, write_zip(tmp_path / "a.zip", first))
    assert "slices that have an image" in str(reason)


def test_a_table_that_does_not_fit_the_annotations_is_refused(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    data = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(InputError, match="LIDC-IDRI-0001-s1-n00: cluster 7"):
        only(nodule.assign(cluster=7), data)


# ------------------------------------------------------------------------------ Hounsfield units


@pytest.mark.parametrize(("scale", "offset"), [(5.5, -1024), (7.9, -1010), (11.0, -1024)])
def test_a_slice_is_recalibrated_whatever_its_stretch(scale: float, offset: float) -> None:
    estimate = np.array(estimate_hu_map(chest(1, scale, offset)))
    for hu in (-880.0, -400.0, 45.0):
        grey = (hu - offset) / scale
        assert abs(estimate @ [grey, 1] - hu) < 40


def test_what_lies_outside_the_field_of_view_does_not_count_as_air() -> None:
    # Stored as -2048 and below; the stretch then starts there, and air is far from grey 0.
    grey = chest(2, 12.0, -2048.0)
    grey[:30, :20] = 0
    scale, offset = estimate_hu_map(grey)
    assert abs(scale * (45 + 2048) / 12 + offset - 45) < 40
    assert slices_to_hu(grey[None]).min() == -1024


def test_a_slice_without_contrast_becomes_lung() -> None:
    assert (slices_to_hu(np.zeros((1, 128, 128), np.uint8)) == LUNG_HU).all()


def test_estimates_do_not_depend_on_the_other_slices() -> None:
    both = np.stack([chest(1), chest(2, 11.0, -1000.0)])
    assert (slices_to_hu(both)[1] == slices_to_hu(both[1:])[0]).all()


# ------------------------------------------------------------------------------------- bad inputs


def change(name: str, content: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {f"{FOLDER}/{name}": content}


def without(part: str) -> Callable[[Files], Files]:
    return lambda files: {name: data for name, data in files.items() if part not in name}


GREY = np.zeros((128, 128), np.uint8)
COLOURED = np.zeros((128, 128, 3), np.uint8)
COLOURED[5, 5, 0] = 200
BOMB = png(GREY)[:16] + (60000).to_bytes(4, "big") * 2 + png(GREY)[24:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("images/slice-3.png", b"hello"), r"images/slice-3\.png is not a PNG"),
        (change("images/slice-3.png", b""), r"images/slice-3\.png is not a PNG"),
        (change("images/slice-3.png", png(GREY[:100])), "128 x 100 pixels, but must be 128 x 128"),
        (change("images/slice-3.png", BOMB), "60000 x 60000 pixels"),
        (change("images/slice-3.png", png(chest(1))[:-900]), "slice-3.png is a damaged PNG"),
        (change("images/slice-3.png", png(GREY, "1")), "not 8-bit grey"),
        (change("images/slice-3.png", png(GREY, "P")), "not 8-bit grey"),
        (change("images/slice-3.png", png(GREY.astype(np.uint16))), "not 8-bit grey"),
        (change("images/slice-3.png", png(COLOURED, "RGB")), "has colours"),
        (change("mask-1/slice-3.png", png(COLOURED, "RGBA")), r"mask-1/slice-3\.png has colours"),
        (change("mask-1/slice-3.png", bytes(1 << 20) + b"0"), "too many for a PNG"),
        (change("mask-2/slice-9.png", png(GREY)), "mask-2 has 10 slices, but images has 9"),
        (change("images/slice-11.png", png(GREY)), r"images/slice-9\.png is missing"),
        (without("images/slice-3"), r"images/slice-3\.png is missing"),
        (without("mask-1/slice-8"), r"mask-1/slice-8\.png is missing"),
        (without("mask-3"), r"mask-3/slice-0\.png is missing"),
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_spoilt_file_is_named(
    tmp_path: Path,
    nodule: pd.DataFrame,
    files: Files,
    spoil: Callable[[Files], Files],
    message: str,
    write: Callable[[Path, Files], Path],
) -> None:
    data = write(tmp_path / "data", spoil(files))
    with pytest.raises(InputError, match=message) as caught:
        only(nodule, data)
    assert "LIDC-IDRI-slices" in str(caught.value) and "again" in str(caught.value)


def test_grey_pictures_saved_in_colour_are_taken(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    name = f"{FOLDER}/images/slice-3.png"
    grey = only(nodule, write_zip(tmp_path / "a.zip", files))
    for mode in ("RGB", "RGBA"):
        coloured = files | {name: png(chest(3), mode)}
        patch = only(nodule, write_zip(tmp_path / f"{mode}.zip", coloured))
        assert (patch.volume_hu == grey.volume_hu).all()


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", f"{FOLDER}/../../x.png", "C:/x.png"])
def test_a_zip_whose_names_point_elsewhere_is_refused(
    tmp_path: Path, files: Files, name: str
) -> None:
    data = write_zip(tmp_path / "a.zip", files | {name: b"x"})
    with pytest.raises(InputError, match="points outside of the zip"):
        recipe(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(tmp_path: Path, files: Files) -> None:
    data = write_zip(tmp_path / "a.zip", files)
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr(f"{FOLDER}/images/slice-0.png", png(GREY))
    with pytest.raises(InputError, match=r"slice-0\.png is there twice"):
        recipe(data)


def test_other_layouts_are_refused_and_the_right_one_is_told(tmp_path: Path, files: Files) -> None:
    flat = {name.replace("/images/", "/"): data for name, data in files.items()}
    for i, wrong in enumerate(({}, flat, {"notes.txt": b"x"}, without("images")(files))):
        data = write_zip(tmp_path / f"{i}.zip", wrong)
        with pytest.raises(InputError, match=r"not the layout LIDC-IDRI-slices/<patient>"):
            recipe(data)
    (tmp_path / "empty" / "LIDC-IDRI-slices").mkdir(parents=True)
    with pytest.raises(InputError, match="not the layout"):
        recipe(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"neither LIDC-IDRI-slices\.zip nor the folder"):
        recipe(tmp_path / "other")


def test_missing_data_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        recipe(tmp_path / "nowhere.zip")
    monkeypatch.delenv("NODULEBOOK_DATA", raising=False)
    with pytest.raises(InputError, match="set NODULEBOOK_DATA"):
        recipe()


def test_a_zip_cut_short_or_no_zip_at_all_is_told(tmp_path: Path, files: Files) -> None:
    whole = write_zip(tmp_path / "a.zip", files).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>please log in</html>"):
        data = tmp_path / "b.zip"
        data.write_bytes(content)
        with pytest.raises(InputError, match=r"b\.zip: not a whole zip file"):
            recipe(data)


def test_flipped_bits_in_a_zip_are_found(
    tmp_path: Path, nodule: pd.DataFrame, files: Files
) -> None:
    data = write_zip(tmp_path / "a.zip", files)
    content = bytearray(data.read_bytes())
    content[content.index(b"IDAT") + 200] ^= 0xFF
    data.write_bytes(content)
    with pytest.raises(InputError, match=r"images/slice-0\.png cannot be read \(Bad CRC"):
        only(nodule, data)


def test_an_encrypted_zip_is_told(tmp_path: Path, nodule: pd.DataFrame, files: Files) -> None:
    data = write_zip(tmp_path / "a.zip", files)
    content = bytearray(data.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # file heads, then the list
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 4)
    data.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        only(nodule, data)


# -------------------------------------------------------------------------------- the real data

REAL_PATIENTS = {
    f"LIDC-IDRI-{number}"
    for number in ("0003", "0041", "0072", "0463", "0507", "0753", "0850", "1012")
}
"""Among them: a slice missing, readers missing, a nodule at the edge of the scan."""

REAL_DATA = Path(os.environ.get("NODULEBOOK_DATA", "/nowhere"))
REAL_ZIP = REAL_DATA / "LIDC-IDRI-slices.zip"
INDEX_CSV = REAL_DATA / "LIDC-IDRI-slices-index.csv"
DICOM = REAL_DATA / "lidc-dicom"

needs_zip = pytest.mark.skipif(
    not REAL_ZIP.is_file(), reason=f"the data set {REAL_ZIP.name} is not there"
)
needs_index = pytest.mark.skipif(
    not INDEX_CSV.is_file(), reason=f"the table {INDEX_CSV.name} is not there"
)
needs_dicom = pytest.mark.skipif(not DICOM.is_dir(), reason="the DICOM slices are not there")


@pytest.fixture(scope="module")
def real(table: pd.DataFrame) -> dict[str, Patch | str]:
    return dict(patches_or_reasons(table[table["readers"] >= 3], REAL_ZIP))


@pytest.fixture(scope="module")
def real_slices() -> Iterator[Callable[[str, int], tuple[NDArray, NDArray]]]:
    with slices_files.open_data(REAL_ZIP) as found:
        yield lambda patient_id, cluster: found.slices((patient_id, cluster))


@needs_zip
def test_real_nodules_are_placed_and_the_two_that_are_not_there_left_out(
    real: dict[str, Patch | str],
) -> None:
    reasons = {name for name, patch in real.items() if isinstance(patch, str)}
    # The set holds the second scan of this patient; one of its folders has slices of both.
    assert reasons == {"LIDC-IDRI-0332-s1-n00", "LIDC-IDRI-0332-s1-n01"}
    assert len(real) >= 14


@needs_zip
def test_masks_from_the_outlines_and_from_the_pngs_agree(
    real: dict[str, Patch | str],
    table: pd.DataFrame,
    scans: dict[str, Scan],
    real_slices: Callable[[str, int], tuple[NDArray, NDArray]],
) -> None:
    dice = {}
    for row in table.to_dict("records"):
        patch = real.get(row["nodule_id"])
        if not isinstance(patch, Patch):
            continue
        _, masks = real_slices(row["patient_id"], row["cluster"])
        present = int(masks.any(axis=(1, 2, 3)).sum())
        if present != row["readers"] or row["nodule_id"] == "LIDC-IDRI-0850-s1-n02":
            continue  # the set lacks a reader, or a slice of three: its consensus is another one
        scan = scans[row["series_uid"]]
        frame = find_frame(masks, scan, cluster_readings(scan)[row["cluster"]])
        assert frame is not None
        centre_xyz = row["centroid_x_px"], row["centroid_y_px"], row["centroid_z_mm"]
        votes = (masks.sum(axis=0) * 2 >= present) * np.float32(1000)
        drawn = resample_hu(votes, frame, np.array(centre_xyz)) >= 500
        both = (drawn & patch.mask).sum()
        dice[row["nodule_id"]] = 2 * both / (drawn.sum() + patch.mask.sum())
    assert dice["LIDC-IDRI-0001-s1-n00"] > 0.95
    assert len(dice) >= 10 and min(dice.values()) > 0.8, dice
    assert np.median(list(dice.values())) > 0.95


@needs_zip
@needs_index
def test_slices_lie_where_the_measured_table_says(
    table: pd.DataFrame,
    scans: dict[str, Scan],
    real_slices: Callable[[str, int], tuple[NDArray, NDArray]],
) -> None:
    index = pd.read_csv(INDEX_CSV).set_index(["patient_id", "nodule"])
    checked = 0
    for row in table.to_dict("records"):
        about = index.loc[(row["patient_id"], f"nodule-{row['cluster']}")]
        if about["match"] == "exact" and about["series_uid"] == row["series_uid"]:
            scan = scans[row["series_uid"]]
            _, masks = real_slices(row["patient_id"], row["cluster"])
            frame = find_frame(masks, scan, cluster_readings(scan)[row["cluster"]])
            assert frame is not None
            z_mm = [float(z) for z in about["slice_z_mm"].split()]
            assert frame.z_mm == pytest.approx(z_mm, abs=0.01), row["nodule_id"]
            checked += 1
    assert checked >= 16


@needs_zip
@needs_dicom
@pytest.mark.parametrize(
    ("nodule_id", "bound_hu"), [("LIDC-IDRI-0001-s1-n00", 15), ("LIDC-IDRI-0003-s1-n01", 35)]
)
def test_hounsfield_units_against_the_dicom_slices(
    table: pd.DataFrame,
    scans: dict[str, Scan],
    real: dict[str, Patch | str],
    nodule_id: str,
    bound_hu: float,
) -> None:
    """Measured: median 10 and 24 HU, nine in ten voxels within 19 and 35 HU.

    The one map HU = 7.9 x grey - 990 has medians of 24 and 16 HU on these two nodules, whose slices
    happen to be stretched much like that.
    """
    sitk = pytest.importorskip("SimpleITK")
    row = table[table["nodule_id"] == nodule_id].iloc[0]
    planes = {}
    for path in (DICOM / row["patient_id"]).glob("*.dcm"):
        image = sitk.ReadImage(str(path))
        planes[round(image.GetOrigin()[2], 2)] = sitk.GetArrayFromImage(image)[0]
    patch = real[nodule_id]
    assert isinstance(patch, Patch)
    scan = scans[row["series_uid"]]
    consensus = consensus_mask(scan, cluster_readings(scan)[row["cluster"]])
    z_mm = [z for z in consensus.z_mm if round(z, 2) in planes]
    truth = np.stack([planes[round(z, 2)] for z in z_mm]).astype(np.float32)
    # The whole scan as one frame: its own geometry, no place to be found.
    frame = Frame(0, 0, np.array(z_mm), scan.pixel_spacing_mm, scan.slice_spacing_mm)
    z, y, x = frame.index(row[["centroid_x_px", "centroid_y_px", "centroid_z_mm"]].to_numpy(float))
    truth_hu = map_coordinates(truth, np.meshgrid(z, y, x, indexing="ij"), order=1)
    compared = (truth_hu > -950) & (truth_hu < 100) & (patch.volume_hu != LUNG_HU)
    error_hu = np.abs(patch.volume_hu - truth_hu)[compared]
    assert compared.sum() > 5000
    assert np.median(error_hu) < bound_hu
    assert np.quantile(error_hu, 0.9) < 2.5 * bound_hu


@needs_zip
def test_the_real_zip_is_recognised_within_seconds() -> None:
    assert recipe(REAL_ZIP)["data"].startswith("zip sha256 ")
