"""Nodules without a scan, and positions without a table: cubes of voxels, and label images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, find_objects, label

from nodulebook.core.errors import InputError
from nodulebook.ct.find import FoundScan, find_images, open_image
from nodulebook.ct.folder import files_below, listed
from nodulebook.ct.volume import Volume, box_of, even_geometry, numbers
from nodulebook.data.patients import lidc_patient
from study.own_scans.positions import OURS, WORLD, given_columns, scan_name, stem
from study.own_scans.scans import Folder, check_inside

AXES = {
    "x": (0, 1), "y": (1, 1), "z": (2, 1), "l": (0, 1), "r": (0, -1),
    "p": (1, 1), "a": (1, -1), "s": (2, 1), "i": (2, -1),
}  # fmt: skip
"""What a letter of an axis order says: the axis of the world, and which way along it. x, y, z run
to the patient's left, back and head; L, R, P, A, S, I are the way in which the index counts."""

WIDEST_MM = 200
"""A cube is narrower along an axis at least; a scan of the chest is not."""


@dataclass(frozen=True, eq=False)
class Cube(FoundScan):
    """A scan that is no more than the surroundings of one nodule."""

    volume: Volume | None = None

    def open(self) -> Volume:
        """The cube's voxels."""
        assert self.volume is not None
        return self.volume


def read_cubes(
    path: Path,
    spacing_mm: tuple[float, float, float] | None = None,
    axes: str = "zyx",
    hu_range: tuple[float, float] | None = None,
) -> tuple[Folder, pd.DataFrame]:
    """Cubes of voxels as scans, and as the position in each its middle.

    Args:
        path: a file or a folder: `.npy` (one cube, or several along a first axis), `.npz` (the same
            by name), `.nii`, `.nii.gz`, `.mha`, `.mhd` (one cube).
        spacing_mm: distance of neighbouring voxels along each axis of the array, in the order of
            `axes`; needed for arrays, which do not say it.
        axes: what each axis of an array is, from the first: three letters of `AXES`, as zyx, RAS.
        hu_range: for arrays of bytes: the HU that 0 and 255 stand for.

    Returns:
        The cubes, and a table as from `positions.read_positions`; of `.npz` files that hold
        `..._labels` with `..._images` (as MedMNIST's) it has the column label.

    Raises:
        InputError: there is no cube, or one is damaged, holds objects, has another number of axes,
            no spacing or another than its header, values that are not HU, or a whole scan's size.
    """
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(files_below(path))
    scans: dict[str, FoundScan] = {}
    rows: list[dict[str, object]] = []
    lines = 0

    def add(name: str, volume: Volume, extra: dict[str, object]) -> None:
        if name in scans:
            raise InputError(f"{path}: cube {name} is there twice; rename one")
        mm = np.array(volume.geometry.size_xyz) * volume.geometry.spacing_xyz_mm
        if mm.min() > WIDEST_MM:
            raise InputError(
                f"{volume.name}: {numbers(mm)} mm are a whole scan and no cube around a nodule; "
                "give scans with --scans and --positions"
            )
        scans[name] = Cube(name, patient_id=lidc_patient(name, volume.name, name), volume=volume)
        size = np.array(volume.geometry.size_xyz, float)
        middle = volume.geometry.to_world((size - 1) / 2)
        rows.append(
            {"line": lines, "id": name, "scan": name}
            | dict(zip(WORLD, middle.tolist(), strict=True))
            | extra
        )

    for file in files:
        ending = file.suffix.lower()
        lines += 1
        if ending in (".npy", ".npz"):
            for name, voxels, extra in _arrays(file):
                add(name, _volume(file, voxels, spacing_mm, axes, hu_range), extra)
                lines += 1
    for name, images in _images(path).items():
        volume = _only(images, name).check_is_ct(whole=False)
        own_mm = volume.geometry.spacing_xyz_mm
        if spacing_mm and not np.allclose(np.sort(spacing_mm), np.sort(own_mm), atol=0.01):
            raise InputError(
                f"{volume.name}: its header says that voxels are {numbers(own_mm)} mm apart, not "
                f"{numbers(np.array(spacing_mm))}; correct the header, or leave --spacing out"
            )
        add(name, volume, {})
    if (hu_range or axes != "zyx") and not any(f.suffix.lower() in (".npy", ".npz") for f in files):
        raise InputError(f"{path}: holds no arrays, which --axes and --hu are for: leave them out")
    if not scans:
        raise InputError(f"{path}: holds no cube (.npy, .npz, .nii, .nii.gz, .mha, .mhd)")
    return Folder(path, scans, {}, [], dict.fromkeys(scans, "")), pd.DataFrame(rows)


def _images(path: Path) -> dict[str, list[Path]]:
    """The image files of a folder by name, or the one that is named."""
    found = find_images(path if path.is_dir() else path.parent)
    return found if path.is_dir() else {n: [path] for n, files in found.items() if path in files}


def _only(files: Sequence[Path], name: str) -> Volume:
    if len(files) > 1:
        raise InputError(f"{name} is there twice: {files[0]} and {files[1]}; remove one")
    return open_image(files[0])


def _arrays(file: Path) -> Iterator[tuple[str, NDArray[np.generic], dict[str, object]]]:
    """Name, voxels and what is known of each cube of a file."""
    try:
        loaded = np.load(file, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded}
    except Exception as error:
        why = "holds Python objects, which are not opened: they can run code" if "allow_pickle" in (
            str(error)
        ) else f"cannot be read ({error})"  # fmt: skip
        raise InputError(f"{file}: {why}; save plain arrays with numpy.save") from None
    for key, array in arrays.items():
        if key.endswith("_labels") and key.replace("_labels", "_images") in arrays:
            continue
        name = f"{file.stem}-{key}" if key else file.stem
        if array.ndim not in (3, 4) or array.dtype.kind not in "iuf":
            raise InputError(
                f"{file}: {key or 'the array'} has {array.ndim} axes of {array.dtype}; a cube has "
                "3 axes of numbers, several cubes 4"
            )
        labels = arrays.get(key.replace("_images", "_labels")) if "_images" in key else None
        cubes = array[None] if array.ndim == 3 else array
        if labels is not None and (labels.size != len(cubes) or not np.isin(labels, (0, 1)).all()):
            raise InputError(
                f"{file}: its labels must be one 0 or 1 for each of {len(cubes)} cubes"
            )
        for k, voxels in enumerate(cubes):
            known: dict[str, object] = {} if labels is None else {"label": float(labels.ravel()[k])}
            yield (name if array.ndim == 3 else f"{name}-{k}"), voxels, known


def _volume(
    file: Path,
    voxels: NDArray[np.generic],
    spacing_mm: tuple[float, float, float] | None,
    axes: str,
    hu_range: tuple[float, float] | None,
) -> Volume:
    """Voxels of an array as a volume whose axes are the world's and whose middle is at 0, 0, 0."""
    letters = axes.lower()
    if len(letters) != 3 or {AXES.get(c, (3, 0))[0] for c in letters} != {0, 1, 2}:
        raise InputError(f"axes {axes!r}: name each of the three once, such as zyx, xyz or RAS")
    if spacing_mm is None:
        raise InputError(f"{file}: an array does not say its spacing: give it with --spacing")
    if min(voxels.shape) < 2:
        raise InputError(f"{file}: a cube of {voxels.shape} voxels: at least 2 along each axis")
    if voxels.min() >= 0 and len(np.unique(voxels)) <= 2:  # type: ignore[operator]
        raise InputError(f"{file}: its voxels have one or two values: a mask? HU are needed")
    if voxels.dtype != np.uint8 and hu_range is not None:
        raise InputError(f"{file}: {voxels.dtype} and not bytes: leave --hu out")
    if voxels.dtype == np.uint8:
        if hu_range is None or not hu_range[0] < hu_range[1]:
            raise InputError(f"{file}: bytes are not HU: say what 0 and 255 are with --hu LOW,HIGH")
        low, high = hu_range
        voxels = low + voxels.astype(np.float32) * ((high - low) / 255)
    turned = voxels[tuple(slice(None, None, AXES[c][1]) for c in letters)]
    order = [[AXES[c][0] for c in letters].index(axis) for axis in (2, 1, 0)]
    zyx = turned.transpose(order)
    spacing_xyz = [spacing_mm[k] for k in order[::-1]]
    size_xyz = zyx.shape[::-1]
    origin = [-(n - 1) / 2 * mm for n, mm in zip(size_xyz, spacing_xyz, strict=True)]
    geometry = even_geometry(str(file), size_xyz, origin, spacing_xyz, np.eye(3))
    return Volume(str(file), geometry, partial(box_of, zyx)).check_is_ct(whole=False)


def positions_of_labels(
    masks: Path, folder: Folder | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The centres of the connected parts of label images, as a table of positions.

    Args:
        masks: a label image or a folder of them (`.nii`, `.nii.gz`, `.mha`, `.mhd`), each named as
            its scan; nnU-Net's `_0000` at the end of a scan's name may be absent.
        folder: the scans; parts that lie outside their scan are left out.

    Returns:
        Columns id, scan, x_mm, y_mm, z_mm, diameter_mm (of the sphere of the same volume), label
        value as `mask_value`; and what was left out.

    Raises:
        InputError: there is no label image, one is not of whole numbers, two are of one scan, or
            none has a part.
    """
    masks = masks.expanduser()
    if not masks.exists():
        raise InputError(f"{masks}: no such file or folder")
    images = _images(masks)
    if not images:
        raise InputError(f"{masks}: holds no label image (.nii, .nii.gz, .mha, .mhd)")
    rows: list[dict[str, object]] = []
    left_out: list[str] = []
    taken: dict[str, Path] = {}
    for name, files in images.items():
        volume = _only(files, name)
        voxels = volume.read_box((0, 0, 0), volume.geometry.size_xyz)
        if not np.array_equal(voxels, np.rint(voxels)) or len(np.unique(voxels)) > 1000:
            raise InputError(f"{files[0]}: not a label image: its values are not few whole numbers")
        if voxels.min() != 0:
            raise InputError(f"{files[0]}: not a label image: its lowest value is not 0")
        scan, count = name, 0
        if folder is not None:
            scan = next((n for n in (name, f"{name}_0000") if n in folder.scans), name)
        if taken.setdefault(scan, files[0]) != files[0]:
            raise InputError(
                f"{files[0]} and {taken[scan].name} are both label images of scan {scan}; join "
                "them or remove one"
            )
        for value in np.unique(voxels[voxels > 0]):
            parts, _ = label(voxels == value, structure=np.ones((3, 3, 3)))
            for number, box in enumerate(find_objects(parts), start=1):
                own = parts[box] == number
                start = [axis.start for axis in box]
                index_xyz = (np.array(center_of_mass(own)) + start)[::-1]
                world = volume.geometry.to_world(index_xyz)
                count += 1
                try:
                    if folder is not None:
                        check_inside(folder.one(scan).open().geometry, world)
                except InputError as error:
                    left_out.append(f"{name} part {count}: {error}")
                    continue
                mm3 = own.sum() * float(np.prod(volume.geometry.spacing_xyz_mm))
                rows.append(
                    {"id": str(count), "scan": scan}
                    | dict(zip(WORLD, world.round(2).tolist(), strict=True))
                    | {"diameter_mm": round(float((6 * mm3 / np.pi) ** (1 / 3)), 2)}
                    | {"mask_value": int(value)}
                )
    if not rows:
        raise InputError(
            f"{masks}: no part of a label image is inside a scan; "
            f"{'; '.join(left_out) or 'no voxel is above 0'}"
        )
    return pd.DataFrame(rows), left_out


# ---------------------------------------------------------------------------- tables for cubes


def with_table(
    cubes: pd.DataFrame, given: pd.DataFrame, path: Path, report: Callable[[str], None] = print
) -> pd.DataFrame:
    """Cubes with what a table says of them.

    Args:
        cubes: from `read_cubes`.
        given: the table, from `positions.read_positions`; its coordinates are not used.
        path: the table's file.
        report: is told which cubes have no row, and which rows no cube.

    Returns:
        The cubes that have a row, in their order, with the row's line and further columns. Of id
        and scan, the one that does not name the cubes is `... as given`. A patient that the table
        does not name is the one of LIDC-IDRI that its id or scan tells.

    Raises:
        InputError: the table names none of the cubes, or one of them in several rows, or its id and
            its scan name different ones.
    """
    names, by = _named_cubes(set(cubes["id"]), given, path)
    ours = names.isin(cubes["id"])
    twice = names[ours & names.duplicated()]
    if len(twice):
        one = twice.iloc[0]
        raise InputError(
            f"{path}: lines {listed(given['line'][names == one])} are all of cube {one}; leave one "
            "row for each cube"
        )
    found = cubes["id"].isin(names)
    if not found.all():
        absent = cubes["id"][~found]
        report(f"{path}: {len(absent)} cubes left out that have no row ({listed(absent)})")
    if not ours.all():
        lines = given["line"][~ours]
        report(f"{path}: {len(lines)} rows have no cube (lines {listed(lines)})")
    known = given.drop(columns=["id", "scan", *WORLD])
    other = "scan" if by == "id" else "id"
    if other in given_columns(path) and not given[other].equals(given[by]):
        known[f"{other} as given"] = given[other]
    # Else networks would score what they learnt from.
    patients = pd.Series(map(partial(lidc_patient, ""), given["id"], given["scan"]), given.index)
    if (patients != "").any():
        own = given.get("patient_id", pd.Series("", given.index))
        known["patient_id"] = own.where(own != "", patients)
    told = cubes[found].reset_index(drop=True)
    further = known.set_index(names).loc[told["id"]].reset_index(drop=True)
    return pd.concat(
        [told.drop(columns=[name for name in further if name in told]), further], axis=1
    )


_OF_FILES = ("file", "image", "img", "path", "scan", "series", "volume", "nifti")


def _named_cubes(cubes: set[str], given: pd.DataFrame, path: Path) -> "tuple[pd.Series[str], str]":
    """The cube that each row of a table names, and by which column: its id, or else its scan.

    Numbers of rows, and patients, which `read_positions` takes where there is no id or scan, name
    no cube.
    """

    def cube(cell: str) -> str:
        """A cube's name from that of its file."""
        return cell if cell in cubes else scan_name(cell)

    has = given_columns(path)
    # Under a name that no layout knows, such as `file`; `scan` is made of it.
    files = [
        header
        for header in map(str, given)
        if header not in (*OURS, "line") and any(word in header.lower() for word in _OF_FILES)
    ]
    named = {"id": given["id"].map(cube)} if "id" in has else {}
    if "scan" in has or any(
        (given[file].map(cube) == given["scan"].map(cube)).all() for file in files
    ):
        named["scan"] = given["scan"].map(lambda one: one if one in cubes else stem(one))
    if len(named) == 2:
        both = named["id"].isin(cubes) & named["scan"].isin(cubes)
        if (differ := both & (named["id"] != named["scan"])).any():
            row = int(differ.to_numpy().argmax())
            raise InputError(
                f"{path}: line {given['line'].iloc[row]}: its id is cube {named['id'].iloc[row]}, "
                f"its scan cube {named['scan'].iloc[row]}; leave out the column that numbers rows"
            )
    counts = {by: len(cubes & set(names)) for by, names in named.items()}
    by = max(counts, key=lambda name: counts[name], default="id")  # the id where both name as many
    if not counts.get(by):
        raise InputError(
            f"{path}: names none of the cubes; its column id must hold their files' names, such as "
            f"{min(cubes)}"
        )
    if by == "scan" and counts.get("id"):
        raise InputError(
            f"{path}: its column id names {counts['id']} cubes, scan {counts['scan']}; leave out "
            "the column that holds other names"
        )
    return named[by], by
