"""Cubes and label images: where things lie, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.patches.cube import extract_patch
from study.own_scans.cubes import positions_of_labels, read_cubes, with_table
from study.own_scans.positions import read_positions
from study.own_scans.scans import find_scans

ONE = (1.0, 1.0, 1.0)


def marked(shape: tuple[int, int, int] = (40, 44, 48)) -> NDArray[np.int16]:
    """Lung (zyx) with a bright block 5 mm to the head, 7 to the back and 9 to the left."""
    cube = np.full(shape, -850, np.int16)
    z, y, x = (n // 2 for n in shape)
    cube[z + 4 : z + 6, y + 6 : y + 8, x + 8 : x + 10] = 300
    return cube


def block(path: Path, *given: Any) -> NDArray[np.float64]:
    """Position of the block in the patch of a file's only cube: zyx from the middle, in mm."""
    folder, table = read_cubes(path, *given)
    (row,) = table.to_dict("records")
    patch = extract_patch(folder.one(row["scan"]).open(), [row["x_mm"], row["y_mm"], row["z_mm"]])
    return np.argwhere(patch > 0).mean(axis=0) - 15.5


@pytest.mark.parametrize("axes", ["zyx", "xyz", "yxz", "SPL", "RAS", "LPS", "ial"])
def test_a_cube_lies_as_its_axes_say(tmp_path: Path, axes: str) -> None:
    world = {"z": 0, "s": 0, "i": 0, "y": 1, "p": 1, "a": 1, "x": 2, "l": 2, "r": 2}
    stored = marked().transpose([world[c] for c in axes.lower()])
    flipped = tuple(slice(None, None, -1 if c in "iar" else 1) for c in axes.lower())
    np.save(tmp_path / "one.npy", stored[flipped])
    assert block(tmp_path / "one.npy", ONE, axes) == pytest.approx([4.5, 6.5, 8.5], abs=0.51)


def test_spacing_is_in_the_order_of_the_axes(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", marked()[::2].transpose(1, 2, 0))  # y, x, z; z in steps of 2 mm
    assert block(tmp_path, (1.0, 1.0, 2.0), "yxz") == pytest.approx([4.5, 6.5, 8.5], abs=0.6)


def test_image_files_bring_their_spacing(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(marked())
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin([100, -50, 7])
    sitk.WriteImage(image, str(tmp_path / "one.nii.gz"))
    assert block(tmp_path / "one.nii.gz") == pytest.approx([4.5, -6.5, -8.5], abs=0.51)


def test_medmnist_has_labels_and_bytes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 28, 28, 28)).astype(np.uint8)
    labels = np.array([[1], [0], [1]])
    np.savez(tmp_path / "nodule.npz", test_images=images, test_labels=labels)
    folder, table = read_cubes(tmp_path / "nodule.npz", ONE, "zyx", (-1024, 1024))
    assert table["label"].tolist() == [1, 0, 1]
    assert table["id"].tolist() == [f"nodule-test_images-{k}" for k in range(3)]
    hu = folder.one(table["id"][1]).open().region_hu((0, 0, 0), (28, 28, 28))
    assert hu == pytest.approx(-1024 + images[1] * (2048 / 255), abs=0.01)


def told(
    folder: Path, names: Sequence[str], table: str, said: list[str] | None = None
) -> pd.DataFrame:
    """What a table tells of cubes of these names."""
    for name in names:
        np.save(folder / f"{name}.npy", marked((4, 5, 6)))
    (folder / "t.csv").write_text(table)
    _, cubes = read_cubes(folder, ONE)
    given = read_positions(folder / "t.csv", coordinates=False)
    report = print if said is None else said.append
    return with_table(cubes, given, folder / "t.csv", report)


def cells(table: pd.DataFrame, *names: str) -> list[list[object]]:
    return table[list(names)].to_numpy().tolist()


def test_a_single_cube_keeps_its_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", a_images=marked((4, 5, 6)), a_labels=np.array([1]))
    _, table = read_cubes(tmp_path, ONE)
    assert cells(table, "id", "label") == [["one-a_images", 1]]


def test_a_table_tells_of_cubes_by_id(tmp_path: Path) -> None:
    """Not by the patient, whose number may be that of another cube."""
    rows = "id,patient_id,label\n1,1,1\n2,1,0\n3,2,1\n4,2,0\n5,3,1\n6,3,0\n"
    said: list[str] = []
    found = told(tmp_path, "123456", rows, said)
    patients, labels = "112233", [1, 0, 1, 0, 1, 0]
    assert cells(found, "id", "patient_id", "label") == [
        list(row) for row in zip("123456", patients, labels, strict=True)
    ]
    assert found["scan"].tolist() == list("123456") and not said
    assert found["line"].tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "rows",
    [
        "id,label\nb.npy,1\na.NPY,0\n",
        "id,label\nblocks/b.npy,1\na,0\n",
        "id,label\n/data/b.nii.gz,1\nblocks\\a.mha,0\n",
        "scan,label\nb.npy,1\na,0\n",
        "id,scan,label\n1,b,1\n1,a,0\n",
        "file,label\nb.npy,1\na.npy,0\n",
        "id,file name,label\n7,b.npy,1\n8,a.npy,0\n",
    ],
)
def test_a_table_names_cubes_with_or_without_the_files_ending(tmp_path: Path, rows: str) -> None:
    assert cells(told(tmp_path, "ab", rows), "id", "label") == [["a", 0], ["b", 1]]


def test_a_scan_may_be_a_path_without_an_ending(tmp_path: Path) -> None:
    assert told(tmp_path, "ab", "scan,label\nblocks/b,1\nblocks/a,0\n")["label"].tolist() == [0, 1]


def test_an_id_that_is_no_path_keeps_its_strokes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the cubes"):
        told(tmp_path, "17", "id,label\n2019/1,1\n2020/7,0\n")


@pytest.mark.parametrize(
    "rows", ["label\n1\n0\n", "patient_id,label\n1,1\n2,0\n", "subject,label\n1,1\n2,0\n"]
)
def test_numbers_of_rows_and_patients_name_no_cube(tmp_path: Path, rows: str) -> None:
    with pytest.raises(InputError, match=r"t\.csv: names none of the cubes; .* such as 1"):
        told(tmp_path, "12", rows)


@pytest.mark.parametrize(
    "rows",
    [
        "scan,id,label\n1,a,0\n1,b,1\n2,a,1\n",
        "id,label\n1,0\n1.npy,1\n2,1\n",
        "id,patient_id,label\n1,p,0\nx/1.npy,p,0\n2,q,1\n",
    ],
)
def test_several_rows_for_a_cube_are_refused(tmp_path: Path, rows: str) -> None:
    with pytest.raises(InputError, match=r"t\.csv: lines 2, 3 .* cube 1"):
        told(tmp_path, "12", rows)


def test_a_table_whose_ids_number_the_nodules_of_a_scan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 4: its id is cube 1, its scan cube 3"):
        told(tmp_path, "123", "scan,id,label\n1,1,1\n2,2,0\n3,1,1\n")


def test_cubes_without_a_row_and_rows_without_a_cube_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    found = told(tmp_path, "abcde", "id,label\nb,1\nx,0\ny,0\nz,1\nw,1\nd,0\n", said)
    assert cells(found, "id", "label") == [["b", 1], ["d", 0]]
    assert len(said) == 2 and all("t.csv" in line for line in said)
    assert "3 cubes" in said[0] and "a, c, e" in said[0]
    assert "4 rows" in said[1] and "lines 3, 4, 5 and 1 more" in said[1]


def test_a_table_tells_whose_cubes_are_by_any_of_its_names(tmp_path: Path) -> None:
    """A patient of LIDC-IDRI must be known, or networks score what they learnt from."""
    uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
    by_id = told(tmp_path, "ab", f"id,seriesuid,label\na,{uid},1\nb,1.2.3,0\n")
    assert cells(by_id, "id", "patient_id", "scan as given") == [
        ["a", "LIDC-IDRI-0001", uid], ["b", "", "1.2.3"],
    ]  # fmt: skip
    by_scan = told(tmp_path, "ab", "id,scan,label\nlidc_idri_3 n1,a,1\nx,b,0\n")
    assert cells(by_scan, "id", "patient_id", "id as given") == [
        ["a", "LIDC-IDRI-0003", "lidc_idri_3 n1"], ["b", "", "x"],
    ]  # fmt: skip
    given = told(tmp_path, "ab", f"id,seriesuid,patient_id\na,{uid},\nb,1.2.3,p\n")
    assert given["patient_id"].tolist() == ["LIDC-IDRI-0001", "p"]


class _Runs:
    """Would run code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize(
    ("name", "content", "given", "message"),
    [
        ("a.npy", np.array([_Runs()], object), (ONE,), "Python objects"),
        ("a.npz", {"x": np.array([_Runs()], object)}, (ONE,), "Python objects"),
        ("a.npy", b"", (ONE,), "cannot be read"),
        ("a.npy", b"\x93NUMPY\x01\x00", (ONE,), "cannot be read"),
        ("a.npz", b"PK\x03\x04 broken", (ONE,), "a.npz"),
        ("a.npy", b"plain text", (ONE,), "a.npy"),
        ("a.npy", np.zeros((4, 4)), (ONE,), "2 axes"),
        ("a.npy", np.zeros((1, 1, 4, 4, 4)), (ONE,), "5 axes"),
        ("a.npy", np.array(["lung"] * 8).reshape(2, 2, 2), (ONE,), "axes of <U4"),
        ("a.npy", np.zeros((4, 4, 4), complex), (ONE,), "complex"),
        ("a.npy", np.zeros((1, 4, 4)), (ONE,), "at least 2"),
        ("a.npy", np.zeros((0, 4, 4)), (ONE,), "at least 2"),
        ("a.npy", marked(), (None,), "--spacing"),
        ("a.npy", marked(), ((1.0, 0.0, 1.0),), "above 0"),
        ("a.npy", marked(), ((1.0, -1.0, 1.0),), "above 0"),
        ("a.npy", marked(), ((1.0, float("nan"), 1.0),), "above 0"),
        ("a.npy", marked(), ((9.0, 8.0, 9.0),), "whole scan"),
        ("a.npy", marked(), (ONE, "zyz"), "axes 'zyz'"),
        ("a.npy", marked(), (ONE, "zy"), "axes 'zy'"),
        ("a.npy", marked(), (ONE, "abc"), "axes 'abc'"),
        ("a.npy", marked(), (ONE, "RLS"), "axes 'RLS'"),
        ("a.npy", np.arange(64, dtype=np.uint8).reshape(4, 4, 4), (ONE,), "--hu"),
        ("a.npy", np.arange(64, dtype=np.uint8).reshape(4, 4, 4), (ONE, "zyx", (5.0, 5.0)), "--hu"),
        ("a.npy", marked(), (ONE, "zyx", (-1024.0, 1024.0)), "--hu"),
        ("a.npy", (marked() > 0).astype(np.int16), (ONE,), "mask"),
        ("a.npz", {"x": marked(), "y": np.zeros(3)}, (ONE,), "y has 1 axes"),
        ("a.npz", {"a_images": np.zeros((2, 4, 4, 4)), "a_labels": np.array([0, 1, 1])}, (ONE,),
         "labels must"),
        ("a.npz", {"a_images": np.zeros((2, 4, 4, 4)), "a_labels": np.array([0, 2])}, (ONE,),
         "labels must"),
        ("a.npz", {"a_images": np.zeros((9, 4, 4)), "a_labels": np.ones(9)}, (ONE,),
         "for each of 1 cubes"),  # pictures
        ("a.npz", {}, (ONE,), "no cube"),
        ("a.txt", b"text", (ONE,), "no cube"),
        ("a.nii.gz", b"text", (), "a.nii.gz"),
        ("a.mha", b"ObjectType = Image", (), "a.mha"),
    ],
)  # fmt: skip
def test_wrong_cubes_are_refused(
    tmp_path: Path, name: str, content: Any, given: tuple[Any, ...], message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        read_cubes(path, *given)


def test_a_spacing_that_an_image_contradicts_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(marked())
    image.SetSpacing([0.7, 0.7, 1.25])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    for given in (None, (1.25, 0.7, 0.7)):
        assert len(read_cubes(tmp_path, given)[1]) == 1
    with pytest.raises(InputError, match=r"a\.nii\.gz.*0\.7 0\.7 1\.25 mm.*--spacing"):
        read_cubes(tmp_path, ONE)


def test_a_cube_of_no_hu_is_refused_when_it_is_read(tmp_path: Path) -> None:
    voxels = marked().astype(np.float64)
    voxels[20, 22, 24] = np.nan
    np.save(tmp_path / "a.npy", voxels)
    with pytest.raises(InputError, match="not a finite number"):
        block(tmp_path / "a.npy", ONE)


def test_no_cubes_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        read_cubes(tmp_path / "absent", ONE)
    with pytest.raises(InputError, match="holds no cube"):
        read_cubes(tmp_path, ONE)
    np.save(tmp_path / "a.npy", marked())
    np.savez(tmp_path / "b.npz", marked())
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "a.npy", marked())
    with pytest.raises(InputError, match="a is there twice"):
        read_cubes(tmp_path, ONE)


# --------------------------------------------------------------------------------- label images


@pytest.mark.parametrize("turned", ["plain", "mirrored", "oblique"])
def test_positions_of_labels_are_their_parts_centres_in_the_world(
    tmp_path: Path, turned: str
) -> None:
    mask = np.zeros((30, 40, 50), np.uint8)
    mask[5:8, 10:13, 20:23] = 1  # centre: x 21, y 11, z 6
    mask[20:22, 30:32, 40:42] = 1
    mask[8:10, 13:15, 23:25] = 2  # touches the first, another label
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing([0.7, 0.8, 2.0])
    image.SetOrigin([-30, 12, 100])
    c, s = np.cos(0.2), np.sin(0.2)
    direction = {
        "plain": np.eye(3), "mirrored": np.diag([-1.0, -1, 1]),
        "oblique": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
    }[turned]  # fmt: skip
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "case_1.nii.gz"))
    table, left_out = positions_of_labels(tmp_path)
    assert not left_out and table["scan"].tolist() == 3 * ["case_1"]
    assert table["mask_value"].tolist() == [1, 1, 2] and table["id"].tolist() == ["1", "2", "3"]
    expected = [
        image.TransformContinuousIndexToPhysicalPoint(p)
        for p in ([21.0, 11.0, 6.0], [40.5, 30.5, 20.5], [23.5, 13.5, 8.5])
    ]
    assert table[["x_mm", "y_mm", "z_mm"]].to_numpy() == pytest.approx(np.array(expected), abs=0.02)
    volume = 27 * 0.7 * 0.8 * 2
    assert table["diameter_mm"][0] == pytest.approx((6 * volume / np.pi) ** (1 / 3), abs=0.01)


def test_two_label_images_of_a_scan_are_refused(tmp_path: Path) -> None:
    """Their parts would have the same ids."""
    for name in ("scans/case_1_0000", "masks/case_1", "masks/case_1_0000"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        voxels = marked() if name.startswith("scans") else (marked() > 0).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"{name}.nii"))
    with pytest.raises(InputError, match=r"_0000\.nii and case_1\.nii .* case_1_0000"):
        positions_of_labels(tmp_path / "masks", find_scans(tmp_path / "scans"))


def test_label_images_belong_to_scans_of_their_name(tmp_path: Path) -> None:
    for folder, name, voxels in (
        ("scans", "case_1_0000", marked()),
        ("masks", "case_1", (marked() > 0).astype(np.uint8)),
        ("masks", "case_2", (marked() > 0).astype(np.uint8)),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / folder / f"{name}.nii"))
    table, left_out = positions_of_labels(tmp_path / "masks", find_scans(tmp_path / "scans"))
    assert table["scan"].tolist() == ["case_1_0000"]
    assert len(left_out) == 1 and "case_2" in left_out[0]


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "no part"),
        (np.ones((4, 4, 4), np.uint8), "lowest value"),
        (marked((4, 6, 8)) // 300, "lowest value"),  # as CT has them, below 0
        (np.where(marked() > 0, 0.5, 0).astype(np.float32), "whole numbers"),
        (np.where(marked() > 0, np.nan, 0).astype(np.float32), "whole numbers"),
        (np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32), "whole numbers"),
        (np.arange(2000).reshape(20, 10, 10).astype(np.int16), "few"),
        (np.zeros((2, 4, 4, 4), np.uint8), "3-D"),
    ],
)
def test_what_is_no_label_image_is_refused(
    tmp_path: Path, voxels: NDArray[Any], message: str
) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=False), str(path))
    with pytest.raises(InputError, match=message):
        positions_of_labels(path)


def test_label_images_that_are_absent_damaged_or_elsewhere_are_refused(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir()
    masks.mkdir()
    with pytest.raises(InputError, match="no such"):
        positions_of_labels(tmp_path / "none" / "a.nii")
    with pytest.raises(InputError, match="no label image"):
        positions_of_labels(masks)
    sitk.WriteImage(sitk.GetImageFromArray(marked()), str(scans / "a.nii.gz"))
    image = sitk.GetImageFromArray((marked() > 0).astype(np.uint8))
    image.SetOrigin([500, 0, 0])
    sitk.WriteImage(image, str(masks / "a.nii.gz"))
    with pytest.raises(InputError, match="outside the scan"):
        positions_of_labels(masks, find_scans(scans))
    whole = (masks / "a.nii.gz").read_bytes()
    (masks / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        positions_of_labels(masks)


def test_a_label_image_of_another_grid_marks_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(marked()), str(tmp_path / "scans" / "a.nii.gz"))
    mask = np.zeros((10, 11, 12), np.uint8)
    mask[6, 7, 8] = 1
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing([4, 4, 4])
    image.SetOrigin([1.5, 1.5, 1.5])  # the middle of the scan's first four voxels
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    table, _ = positions_of_labels(tmp_path / "a.nii.gz", find_scans(tmp_path / "scans"))
    assert table[["x_mm", "y_mm", "z_mm"]].to_numpy().tolist() == [[33.5, 29.5, 25.5]]
