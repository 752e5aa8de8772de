"""CT series as DICOM: files found, headers checked, slices put in order, pixels read on demand."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, write_json
from nodulebook.ct.folder import files_below
from nodulebook.ct.volume import (
    AGAIN,
    ORTHONORMAL,
    Box,
    Geometry,
    Volume,
    last_line,
    listed,
)

# ITK writes warnings past Python; what matters of them is checked here and said in full.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def find_dicom(
    folder: Path, wanted: Collection[str] | None = None, index_json: Path | None = None
) -> dict[str, list[Path]]:
    """The files of DICOM series in a folder and the folders in it, whatever the layout.

    A series is what has the same SeriesInstanceUID, wherever its files lie. Files that are no
    DICOM are left alone.

    Args:
        folder: where to look.
        wanted: SeriesInstanceUIDs; other series are left out. All series where None.
        index_json: remembers what each folder held, by names, sizes and times of its files, so
            that only new folders are read again.
    """
    known = _known_folders(index_json)
    now: dict[str, dict[str, Any]] = {}
    by_folder: dict[Path, list[Path]] = {}
    for path in files_below(folder):
        if path.suffix.lower() not in (".mhd", ".raw", ".zraw", ".xml", ".csv", ".zip", ".png"):
            by_folder.setdefault(path.parent, []).append(path)
    found: dict[str, list[Path]] = {}
    for here, files in by_folder.items():
        stamp = _stamp(files)
        entry = known.get(str(here))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            series: dict[str, list[str]] = {}
            for path in files:
                series.setdefault(_series_uid(path), []).append(path.name)
            series.pop("", None)
            entry = {"stamp": stamp, "series": series}
        now[str(here)] = entry
        for uid, names in entry["series"].items():
            if wanted is None or uid in wanted:
                found.setdefault(uid, []).extend(here / name for name in names)
    if index_json is not None and now != known:
        write_json(now, index_json)
    return dict(sorted(found.items()))


def _known_folders(index_json: Path | None) -> dict[str, Any]:
    if index_json is None or not index_json.is_file():
        return {}
    try:
        known = read_json(index_json)
    except InputError:  # only a memory: it is made anew
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        about = path.stat()
        digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _series_uid(path: Path) -> str:
    """A file's SeriesInstanceUID; "" where it is no DICOM file, or too damaged to say."""
    try:
        with pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
        ) as d:
            return str(d.get("SeriesInstanceUID", ""))
    except (InvalidDicomError, EOFError, ValueError, OSError, KeyError, AttributeError):
        return ""


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What the header of one file of a CT series says."""

    path: Path
    sop_uid: str
    position_xyz_mm: NDArray[np.float64]  # centre of the first pixel
    orientation: NDArray[np.float64]  # (2, 3): where columns and rows count to
    spacing_xy_mm: tuple[float, float]
    size_xy: tuple[int, int]
    thickness_mm: float  # nan where it is not said


_TAGS = [
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
]


def read_dicom_slice(path: Path, series_uid: str) -> DicomSlice:
    """Read and check the header of one file; its pixels are not read.

    Raises:
        InputError: not DICOM, of another series, or something in it is missing or impossible.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)  # type: ignore[arg-type]
        uid = str(header.get("SeriesInstanceUID", ""))
        values = {tag: header.get(tag) for tag in _TAGS}
    except (InvalidDicomError, EOFError) as error:
        raise InputError(f"{path}: no readable DICOM file ({error}); {AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{path}: its DICOM header is damaged ({error}); {AGAIN}") from None
    if uid != series_uid:
        raise InputError(f"{path}: SeriesInstanceUID is {uid!r}, but must be {series_uid}")
    position = _dicom_numbers(path, values, "ImagePositionPatient", 3)
    orientation = _dicom_numbers(path, values, "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(orientation @ orientation.T, np.eye(2), atol=ORTHONORMAL):
        raise InputError(
            f"{path}: ImageOrientationPatient {listed(orientation)} is not at right angles"
        )
    row_mm, column_mm = _dicom_numbers(path, values, "PixelSpacing", 2)
    if not (row_mm > 0 and column_mm > 0):
        raise InputError(f"{path}: PixelSpacing {row_mm:g} {column_mm:g} must be above 0")
    rows, columns = (int(_dicom_numbers(path, values, tag, 1)[0]) for tag in ("Rows", "Columns"))
    if min(rows, columns) < 1 or values["SamplesPerPixel"] != 1:
        raise InputError(
            f"{path}: {rows} x {columns} pixels of {values['SamplesPerPixel']} numbers: no CT image"
        )
    # Without these the stored numbers are not known to be Hounsfield units.
    slope = _dicom_numbers(path, values, "RescaleSlope", 1)[0]
    _dicom_numbers(path, values, "RescaleIntercept", 1)
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0: every pixel would have the same value")
    thickness = values["SliceThickness"]
    return DicomSlice(
        path=path,
        sop_uid=str(values["SOPInstanceUID"]),
        position_xyz_mm=position,
        orientation=orientation,
        spacing_xy_mm=(float(column_mm), float(row_mm)),
        size_xy=(columns, rows),
        thickness_mm=float(thickness) if thickness else math.nan,
    )


def _dicom_numbers(
    path: Path, values: Mapping[str, Any], tag: str, count: int
) -> NDArray[np.float64]:
    value = values[tag]
    try:
        numbers = np.atleast_1d(np.array(value, dtype=float))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if value is None or numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(
            f"{path}: {tag} is {value!r}, but must be {count} finite "
            f"number{'s' if count > 1 else ''}; {AGAIN}"
        )
    return numbers


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A CT series: its slices in order of position, and what was found odd about them."""

    uid: str
    slices: tuple[DicomSlice, ...]
    positions_mm: NDArray[np.float64]  # along the normal of the slices, increasing
    duplicates: int  # files left out because another holds the same slice


def read_dicom_series(files: Sequence[Path], series_uid: str) -> DicomSeries:
    """Read the headers of a series' files and put its slices in order.

    A slice that is there twice is taken once where both files hold the same image.

    Raises:
        InputError: there is no file; a header is damaged; files differ in size, pixel spacing or
            orientation, do not lie one above the other, or two different images in one place.
    """
    if not files:
        raise InputError(f"series {series_uid}: no file of it is there; download the series")
    slices = [read_dicom_slice(path, series_uid) for path in files]
    first = slices[0]
    for other in slices[1:]:
        for what, same in (
            ("size", other.size_xy == first.size_xy),
            ("PixelSpacing", np.allclose(other.spacing_xy_mm, first.spacing_xy_mm, atol=1e-4)),
            ("orientation", np.allclose(other.orientation, first.orientation, atol=1e-3)),
        ):
            if not same:
                raise InputError(
                    f"{other.path}: another {what} than {first.path.name}, in one series; {AGAIN}"
                )
    normal = np.cross(*first.orientation)
    slices.sort(key=lambda s: (float(s.position_xyz_mm @ normal), s.path))
    kept, duplicates = [slices[0]], 0
    for here in slices[1:]:
        step = here.position_xyz_mm - kept[-1].position_xyz_mm
        along = float(step @ normal)
        if along < 1e-3:
            if here.sop_uid != kept[-1].sop_uid and not _same_pixels(here, kept[-1]):
                raise InputError(
                    f"{here.path}: another image in the same place as {kept[-1].path.name}; "
                    "leave one of them in the folder"
                )
            duplicates += 1
        elif np.linalg.norm(step - along * normal) > 0.02 * along + 1e-3:
            raise InputError(
                f"{here.path}: does not lie straight above {kept[-1].path.name} (tilted gantry?); "
                "such a scan is not supported"
            )
        else:
            kept.append(here)
    positions = np.array([float(s.position_xyz_mm @ normal) for s in kept])
    return DicomSeries(series_uid, tuple(kept), positions, duplicates)


def _same_pixels(a: DicomSlice, b: DicomSlice) -> bool:
    return bool(np.array_equal(_read_slice_hu(a), _read_slice_hu(b)))


def _read_slice_hu(about: DicomSlice) -> Box:
    """One slice (rows, columns) in HU; its own rescale slope and intercept are applied."""
    try:
        image = sitk.ReadImage(str(about.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(
            f"{about.path}: its pixels cannot be read ({last_line(error)}); {AGAIN}"
        ) from None
    pixels = sitk.GetArrayFromImage(image).squeeze()
    if pixels.shape != about.size_xy[::-1]:
        raise InputError(
            f"{about.path}: {pixels.shape} pixels, but its header says {about.size_xy[::-1]}"
        )
    if np.issubdtype(pixels.dtype, np.floating) or pixels.max() > 32767 or pixels.min() < -32768:
        return pixels
    return pixels.astype(np.int16)


def open_dicom(files: Sequence[Path], series_uid: str, spacing_mm: float = 1.0) -> Volume:
    """Open a DICOM series; a slice's pixels are read when a box needs them.

    Slices need not be evenly spaced: their own positions are used (see `check_spacing`).

    Args:
        files: all files of the series, in any order (`find_dicom`).
        series_uid: its SeriesInstanceUID.
        spacing_mm: of the slices, where there is one only.

    Raises:
        InputError: as `read_dicom_series`; or when a box is read, a slice cannot be read.
    """
    return volume_of_series(read_dicom_series(files, series_uid), spacing_mm)


def volume_of_series(series: DicomSeries, spacing_mm: float = 1.0) -> Volume:
    """A volume of a series whose headers are read already (see `open_dicom`)."""
    first = series.slices[0]
    steps = np.diff(series.positions_mm)
    geometry = Geometry(
        size_xyz=(*first.size_xy, len(series.slices)),
        origin_xyz_mm=first.position_xyz_mm,
        spacing_xyz_mm=np.array(
            [*first.spacing_xy_mm, float(np.median(steps)) if len(steps) else spacing_mm]
        ),
        direction=np.column_stack([*first.orientation, np.cross(*first.orientation)]),
        slices_mm=series.positions_mm - series.positions_mm[0],
    )

    @lru_cache(maxsize=64)  # 32 MB; neighbouring nodules need the same slices
    def pixels(k: int) -> Box:
        return _read_slice_hu(series.slices[k])

    def read(start: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
        (x, y, z), (dx, dy, dz) = start, size
        return np.stack([pixels(k)[y : y + dy, x : x + dx] for k in range(z, z + dz)])

    return Volume(f"series {series.uid}", geometry, read)
