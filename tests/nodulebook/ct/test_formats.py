"""The same scan in every format gives the same patch, or is refused by name."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from nodulebook.core.errors import InputError
from nodulebook.ct.find import find_scans, open_image
from nodulebook.patches.cube import extract_patch

SPACING, ORIGIN, SIZE = np.array([0.7, 0.8, 2.0]), np.array([-25.0, -40.0, -10.0]), (60, 56, 30)
GEOMETRIES = {
    "straight": np.eye(3),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "feet first": np.diag([1.0, -1.0, -1.0]),
    "axes exchanged": np.eye(3)[[1, 0, 2]],
    "oblique": Rotation.from_euler("xyz", [0.3, -0.2, 0.5]).as_matrix(),
}


def ball(direction: NDArray[np.float64]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Voxels (z, y, x) of lung with a ball of 6 mm, and its centre in the LPS world."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SIZE], indexing="ij"), axis=-1)
    world = index * SPACING @ direction.T + ORIGIN
    centre = (np.array(SIZE) / 2 + [2, -3, 1.5]) * SPACING @ direction.T + ORIGIN
    noise = np.random.default_rng(0).normal(0, 15, SIZE)
    hu = np.where(np.linalg.norm(world - centre, axis=-1) < 6, 40, -850) + noise
    return np.rint(hu).astype(np.int16).T, centre


def image_of(voxels: NDArray, direction: NDArray[np.float64]) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING.tolist())
    image.SetOrigin(ORIGIN.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def ras(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine that NIfTI has for the scan: x and y of its world run the other way."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * SPACING, ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def off_mm(patch: NDArray[np.float32]) -> float:
    z, y, x = np.nonzero(patch > -400)
    return float(np.linalg.norm(np.array([z.mean(), y.mean(), x.mean()]) - 15.5))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("ending", [".mhd", ".mha", ".nii", ".nii.gz"])
def test_every_format_shows_the_ball_in_its_place(tmp_path: Path, ending: str, name: str) -> None:
    voxels, centre = ball(GEOMETRIES[name])
    image = image_of(voxels, GEOMETRIES[name])
    for packed in (False, True):
        path = tmp_path / f"{packed}{ending}"
        sitk.WriteImage(image, str(path), packed)
        patch = extract_patch(open_image(path).check_is_ct(), centre)
        assert off_mm(patch) < 0.5
        assert np.allclose(patch, extract_patch(image, centre), atol=0.01)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("forms", ["sform", "qform", "both"])
def test_a_nifti_affine_is_ras(tmp_path: Path, name: str, forms: str) -> None:
    voxels, centre = ball(GEOMETRIES[name])
    image = nib.Nifti1Image(voxels.T, ras(GEOMETRIES[name]))
    image.set_sform(ras(GEOMETRIES[name]), 0 if forms == "qform" else 1)
    image.set_qform(ras(GEOMETRIES[name]), 0 if forms == "sform" else 1)
    nib.save(image, tmp_path / "a.nii.gz")
    patch = extract_patch(open_image(tmp_path / "a.nii.gz"), centre)
    assert off_mm(patch) < 0.5
    # Mistaken for LPS, the same position shows no ball.
    assert extract_patch(open_image(tmp_path / "a.nii.gz"), centre, size=2).min() > -200


def test_scaled_and_float_nifti_is_in_hu(tmp_path: Path) -> None:
    voxels, centre = ball(np.eye(3))
    expected = extract_patch(image_of(voxels, np.eye(3)), centre)
    scaled = nib.Nifti1Image(2 * (voxels.T + 1024), ras(np.eye(3)))
    scaled.header.set_slope_inter(0.5, -1024)
    nib.save(scaled, tmp_path / "b.nii")
    scaled = nib.Nifti1Image(voxels.T.astype(np.float32)[..., None], ras(np.eye(3)))
    nib.save(scaled, tmp_path / "c.nii.gz")
    for name in ("b.nii", "c.nii.gz"):
        patch = extract_patch(open_image(tmp_path / name), centre)
        assert np.allclose(patch, expected, atol=0.6)


Write = Callable[[Path], None]


def nifti(change: Callable[[nib.Nifti1Image], None] = lambda _: None, voxels=None) -> Write:
    def write(folder: Path) -> None:
        image = nib.Nifti1Image(ball(np.eye(3))[0].T if voxels is None else voxels, ras(np.eye(3)))
        image.header.set_xyzt_units("mm")
        change(image)
        nib.save(image, folder / "a.nii.gz")

    return write


def no_form(image: nib.Nifti1Image) -> None:
    image.set_sform(None, 0)
    image.set_qform(None, 0)


def two_forms(image: nib.Nifti1Image) -> None:
    image.set_sform(ras(np.eye(3)), 1)
    image.set_qform(np.diag([1.0, 1, 1, 1]) @ ras(GEOMETRIES["flipped"]), 1)


def sheared(image: nib.Nifti1Image) -> None:
    affine = ras(np.eye(3))
    affine[0, 2] += 0.5
    image.set_sform(affine, 1)
    image.set_qform(None, 0)


def cut_to(size: int, name: str = "a.nii.gz") -> Write:
    def write(folder: Path) -> None:
        nifti()(folder)
        whole = (folder / "a.nii.gz").read_bytes()
        if name == "a.nii":
            whole = gzip.decompress(whole)
            (folder / "a.nii.gz").unlink()
        (folder / name).write_bytes(whole[:size])

    return write


def flipped_bit(folder: Path) -> None:
    nifti()(folder)
    content = bytearray((folder / "a.nii.gz").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "a.nii.gz").write_bytes(content)


def longer(folder: Path) -> None:
    cut_to(10**9, "a.nii")(folder)
    with (folder / "a.nii").open("ab") as file:
        file.write(b"12")


def mha_lines(old: bytes, new: bytes) -> Write:
    def write(folder: Path) -> None:
        sitk.WriteImage(image_of(ball(np.eye(3))[0], np.eye(3)), str(folder / "a.mha"))
        content = (folder / "a.mha").read_bytes()
        assert old in content
        (folder / "a.mha").write_bytes(content.replace(old, new, 1))

    return write


def mask(kind: type, ending: str, labels: int = 1) -> Write:
    def write(folder: Path) -> None:
        voxels = (ball(np.eye(3))[0] > -400) * np.array(labels)
        sitk.WriteImage(image_of(voxels.astype(kind), np.eye(3)), str(folder / f"a{ending}"))

    return write


REFUSED: dict[str, tuple[Write, str]] = {
    "no form": (nifti(no_form), "sform"),
    "two forms that differ": (nifti(two_forms), "different places"),
    "sheared": (nifti(sheared), "right angles"),
    "in metres": (nifti(lambda i: i.header.set_xyzt_units("meter")), "meter"),
    "four volumes": (nifti(voxels=np.zeros((9, 9, 9, 4), np.int16)), "3-D"),
    "one slice without a third axis": (nifti(voxels=np.zeros((9, 9), np.int16)), "3-D"),
    "not finite": (nifti(voxels=np.full(SIZE, np.nan, np.float32)), "finite"),
    "nii.gz cut in its header": (cut_to(60), "a.nii.gz"),
    "nii.gz cut in its voxels": (cut_to(9000), "a.nii.gz"),
    "nii cut in its header": (cut_to(200, "a.nii"), "a.nii"),
    "nii cut in its voxels": (cut_to(9000, "a.nii"), "bytes"),
    "nii longer than its header says": (longer, "bytes"),
    "a flipped bit": (flipped_bit, "a.nii.gz"),
    "an empty nii": (lambda folder: (folder / "a.nii").touch(), "a.nii"),
    "text as nii": (lambda folder: (folder / "a.nii").write_text("x" * 999) and None, "a.nii"),
    "mha without directions": (mha_lines(b"TransformMatrix", b"Transformmatrix"), "Transform"),
    "mha of another size": (mha_lines(b"DimSize = 60", b"DimSize = 50"), "bytes"),
    "mha of another type": (mha_lines(b"MET_SHORT", b"MET_FLOAT"), "bytes"),
    "mha scaled": (
        mha_lines(b"NDims = 3", b"NDims = 3\nElementToIntensityFunctionSlope = 2"),
        "Slope",
    ),
    "a mask": (mask(np.uint8, ".mha"), "mask"),
    "a mask of integers": (mask(np.int16, ".nii.gz"), "mask"),
    "a label map of large numbers": (mask(np.int32, ".nii.gz", 3000), "label map"),
    "probabilities": (mask(np.float32, ".mhd"), "mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_scan_is_refused_by_name(tmp_path: Path, case: str) -> None:
    write, word = REFUSED[case]
    write(tmp_path)
    with pytest.raises(InputError, match=word) as caught:
        extract_patch(find_scans(tmp_path).one("").open(), ball(np.eye(3))[1])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_mask_under_the_scans_name_is_left_out_and_said(tmp_path: Path) -> None:
    voxels, centre = ball(np.eye(3))
    for name, image in (
        ("a/1.2.3.mhd", image_of(voxels, np.eye(3))),
        ("b/1.2.3.mha", image_of((voxels > -500).astype(np.uint8), np.eye(3))),
        ("c/1.2.3.nii.gz", image_of(voxels, np.eye(3))),  # the same scan once more
    ):
        (tmp_path / name).parent.mkdir()
        sitk.WriteImage(image, str(tmp_path / name))
    volume = find_scans(tmp_path).one("1.2.3").open()
    assert off_mm(extract_patch(volume, centre)) < 0.5
    assert len(volume.notes) == 1 and "b/1.2.3.mha" in volume.notes[0]
    # Another scan of the same name: nobody knows which one is meant.
    sitk.WriteImage(image_of(voxels[::-1], np.eye(3)), str(tmp_path / "c" / "1.2.3.mha"))
    with pytest.raises(InputError, match="twice"):
        find_scans(tmp_path).one("1.2.3").open()


@pytest.mark.parametrize("name", ["Größe 77 %.mhd", "LIDC, 3.mha"])
def test_names_and_comments_need_not_be_ascii(tmp_path: Path, name: str) -> None:
    voxels, centre = ball(np.eye(3))
    path = tmp_path / name
    plain = tmp_path / f"plain{path.suffix}"
    sitk.WriteImage(image_of(voxels, np.eye(3)), str(plain))
    content = plain.read_bytes().replace(b"plain.raw", path.with_suffix(".raw").name.encode())
    if path.suffix == ".mhd":
        plain.with_suffix(".raw").rename(path.with_suffix(".raw"))
    path.write_bytes(
        b"\xef\xbb\xbf" + content.replace(b"NDims", b"Comment = Gr\xc3\xb6\xdf\nNDims", 1)
    )
    assert off_mm(extract_patch(open_image(path), centre)) < 0.5


def test_voxels_packed_by_gzip_are_read(tmp_path: Path) -> None:
    voxels, centre = ball(np.eye(3))
    sitk.WriteImage(image_of(voxels, np.eye(3)), str(tmp_path / "a.mhd"))
    raw = tmp_path / "a.raw"
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(raw.read_bytes()))
    raw.unlink()
    text = (tmp_path / "a.mhd").read_text()
    text = text.replace("CompressedData = False", "CompressedData = True")
    (tmp_path / "a.mhd").write_text(text.replace("a.raw", "a.raw.gz"))
    assert off_mm(extract_patch(open_image(tmp_path / "a.mhd"), centre)) < 0.5


def test_links_pipes_and_odd_names_cost_nothing(tmp_path: Path) -> None:
    voxels, centre = ball(np.eye(3))
    (tmp_path / "elsewhere").mkdir()
    sitk.WriteImage(image_of(voxels, np.eye(3)), str(tmp_path / "elsewhere" / "a.nii.gz"))
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "case1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(scans)
    (scans / "nowhere.nii").symlink_to("/nowhere/x")
    (scans / "itself").symlink_to(scans / "itself")
    os.mkfifo(scans / "pipe.nii")
    os.mkfifo(scans / "pipe")
    latin1 = os.fsdecode(os.fsencode(scans) + b"/L\xfcnge")
    os.mkdir(latin1)
    shutil.copy(tmp_path / "elsewhere" / "a.nii.gz", latin1 + os.fsdecode(b"/B\xe4r.nii.gz"))
    found = find_scans(scans)
    assert len(found.scans) == 2
    for scan in found.scans.values():
        str(scan).encode()
        assert off_mm(extract_patch(scan.open(), centre)) < 0.5


def test_an_empty_search_says_what_the_folder_holds(tmp_path: Path) -> None:
    for name in ("a.nrrd", "b.nrrd", "notes.txt"):
        (tmp_path / name).write_text("-")
    with pytest.raises(InputError, match=r"2 \.nrrd"):
        find_scans(tmp_path)


def _kinds(hu: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    far = np.zeros(hu.shape, np.uint8)
    far[1, 2:5, 2:5] = 1
    return {
        "a mask of a nodule far from the middle": far,
        "a mask of air": np.where(far, 0, -1000).astype(np.int16),
        "labels rescaled as CT": (far - np.int16(1024)).astype(np.int16),
        "nothing": np.zeros(hu.shape, np.int16),
        "a map of distances": (np.indices(hu.shape).sum(0) - 40).astype(np.float32),
        "standard scores": ((hu - hu.mean()) / hu.std() * 3).astype(np.float32),
        "a label map of many": (np.indices(hu.shape).sum(0) % 200).astype(np.int16),
        "probabilities": (1 / (1 + np.exp(-hu / 100))).astype(np.float32),
    }


@pytest.mark.parametrize("kind", _kinds(np.random.default_rng(0).normal(0, 1, (9, 9, 9))))
def test_an_image_of_another_kind_is_not_taken_for_the_scan_of_its_name(
    tmp_path: Path, kind: str
) -> None:
    hu = np.random.default_rng(0).normal(-700, 200, (40, 30, 30))
    for folder, voxels in (("a", _kinds(hu)[kind]), ("b", hu.astype(np.int16))):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / folder / "one.mhd"))
    scan = find_scans(tmp_path).one("").open()
    assert scan.name.endswith("b/one.mhd") and any("a/one.mhd" in note for note in scan.notes)
    with pytest.raises(InputError, match="Hounsfield"):
        find_scans(tmp_path / "a").one("").open()
