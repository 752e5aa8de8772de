"""CT series as DICOM: headers checked, slices put in order, pixels read on demand."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom_files import HU, UNSPECIFIED, image_type, read_header, text_of
from nodulebook.ct.folder import AGAIN, listed, reading, utf8_path
from nodulebook.ct.spacing import missing_notes
from nodulebook.ct.volume import ASIDE_MM, STRAY_MM, Box, Geometry, Three, Volume, numbers

MAX_ASIDE_MM = 0.5
"""So far may a slice lie aside of the line of the others."""

_SOURCE = ("PatientID", "FrameOfReferenceUID", "AcquisitionNumber")
_FEW = 5  # slices: fewer original ones among derived ones are no scan


# --------------------------------------------------------------------------------- headers


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What a header says of one slice: a file, or a frame of an enhanced file."""

    path: Path
    frame: int | None  # in an enhanced file
    number: int  # InstanceNumber; -1 where it does not say
    derived: bool
    position_xyz_mm: NDArray[np.float64]  # centre of the first pixel
    orientation: NDArray[np.float64]  # (2, 3): where columns and rows count to
    spacing_xy_mm: NDArray[np.float64]
    size_xy: tuple[int, int]
    thickness_mm: float  # nan where it is not said
    slope: float
    intercept: float
    unit: str  # RescaleType
    source: tuple[str, ...]  # what a single acquisition has throughout, as `_SOURCE`

    def corners(self) -> NDArray[np.float64]:
        """(3, 3): last pixels of the first row and column and the diagonal, from the first."""
        x, y = self.orientation * (self.spacing_xy_mm * np.array(self.size_xy))[:, None]
        return np.stack([x, y, x + y])


def read_dicom_slices(path: Path, series_uid: str) -> list[DicomSlice]:
    """Read and check the header of one file, without its pixels; an enhanced file has many slices.

    Raises:
        InputError: not DICOM, of another series, or a value that is needed is missing or wrong.
    """
    header = read_header(path)
    if header is None:
        raise InputError(f"{path}: no readable DICOM file; {AGAIN}")
    if (uid := text_of(header, "SeriesInstanceUID")) != series_uid:
        raise InputError(f"{path}: SeriesInstanceUID is {uid!r}, but must be {series_uid}")
    frames = int(_numbers(path, [header], "NumberOfFrames", 1, 1.0)[0])
    with reading(path, "its frames cannot be read"):
        each = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    if not each and frames == 1:
        return [_slice(path, header, [header], None)]
    if len(each) != frames:
        raise InputError(
            f"{path}: {frames} frames in one file of {UID(text_of(header, 'SOPClassUID')).name}, "
            "which does not say where each lies; export one file per slice, or enhanced CT"
        )
    with reading(path, "its frames cannot be read"):
        return [
            _slice(path, header, [*_parts(one), *_parts(*shared), header], k)
            for k, one in enumerate(each)
        ]


def _parts(*groups: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The items of functional groups, one after the other."""
    return [item for group in groups for element in group for item in element.value or []]


def _slice(
    path: Path, header: pydicom.Dataset, places: Sequence[pydicom.Dataset], frame: int | None
) -> DicomSlice:
    position = _numbers(path, places, "ImagePositionPatient", 3)
    orientation = _numbers(path, places, "ImageOrientationPatient", 6).reshape(2, 3)
    row_mm, column_mm = _numbers(path, places, "PixelSpacing", 2)
    if not (row_mm > 0 and column_mm > 0):
        raise InputError(f"{path}: PixelSpacing {row_mm:g} {column_mm:g} must be above 0")
    rows, columns = (int(_numbers(path, [header], tag, 1)[0]) for tag in ("Rows", "Columns"))
    if min(rows, columns) < 1 or text_of(header, "SamplesPerPixel") != "1":
        raise InputError(
            f"{path}: {rows} x {columns} pixels of {text_of(header, 'SamplesPerPixel')} numbers: "
            "no CT image"
        )
    # Without these the stored numbers are not known to be Hounsfield units.
    slope = float(_numbers(path, places, "RescaleSlope", 1)[0])
    intercept = float(_numbers(path, places, "RescaleIntercept", 1)[0])
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0: every pixel would have the same value")
    unit = next(filter(None, (text_of(place, "RescaleType").upper() for place in places)), "")
    if unit not in HU + UNSPECIFIED:
        raise InputError(f"{path}: RescaleType is {unit}: no Hounsfield units; leave it out")
    one = DicomSlice(
        path=path,
        frame=frame,
        number=int(_numbers(path, [header], "InstanceNumber", 1, -1.0)[0]) if frame is None else -1,
        derived=bool(image_type(header) & {"DERIVED", "MPR"}),
        position_xyz_mm=position,
        orientation=orientation,
        spacing_xy_mm=np.array([column_mm, row_mm]),
        size_xy=(columns, rows),
        thickness_mm=float(_numbers(path, places, "SliceThickness", 1, math.nan)[0]),
        slope=slope,
        intercept=intercept,
        unit=unit,
        source=tuple(text_of(header, tag) for tag in _SOURCE),
    )
    reach_mm = max(columns * column_mm, rows * row_mm)
    error = np.abs(orientation @ orientation.T - np.eye(2)) * reach_mm
    if not error.max() <= STRAY_MM:
        raise InputError(
            f"{path}: ImageOrientationPatient {numbers(orientation)} is not at right angles"
        )
    return one


def _numbers(
    path: Path,
    places: Sequence[pydicom.Dataset],
    tag: str,
    count: int,
    default: float | None = None,
) -> NDArray[np.float64]:
    """A value's numbers from the first place that has it; a default where it is not needed."""
    value = ""
    for place in places:
        value = text_of(place, tag)
        if value:
            break
    try:
        found = np.array([float(part) for part in value.strip("[]").split(",")])
    except ValueError:
        found = np.empty(0)
    if found.shape == (count,) and np.isfinite(found).all():
        return found
    if default is not None:
        return np.array([default])
    raise InputError(
        f"{path}: {tag} is {value or 'missing'}, but must be {count} finite "
        f"number{'s' if count > 1 else ''}; export the scan from its original again"
    )


# ---------------------------------------------------------------------------------- series


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A CT series: its slices in order of position, and what was found odd about them."""

    uid: str
    slices: tuple[DicomSlice, ...]
    positions_mm: NDArray[np.float64]  # along the normal of the slices, increasing
    notes: tuple[str, ...]  # what was left out, what seems to be missing


def read_dicom_series(files: Sequence[Path], series_uid: str) -> DicomSeries:
    """Read the headers of a series' files and put its slices in order.

    Images that do not belong to the stack are left out and named in `notes`: of another size,
    pixel spacing or direction than most, and derived ones among the original ones. A slice that is
    there twice is taken once where both files hold the same image.

    Raises:
        InputError: there is no file; a header is damaged; no kind of image is the most frequent;
            two different images in one place; slices that do not lie one above the other, or those
            of several acquisitions in turn.
    """
    if not files:
        raise InputError(f"series {series_uid}: no file of it is there; download the series")
    slices = [one for path in files for one in read_dicom_slices(path, series_uid)]
    slices, notes = _one_stack(slices, series_uid)
    first = slices[0]
    normal = np.cross(*first.orientation)
    slices.sort(key=lambda s: (float(s.position_xyz_mm @ normal), s.path))
    kept = [slices[0]]
    for here in slices[1:]:
        step = here.position_xyz_mm - kept[-1].position_xyz_mm
        along = float(step @ normal)
        if along >= 1e-3:
            kept.append(here)
        elif not np.array_equal(_slice_hu(here), _slice_hu(kept[-1])):
            raise InputError(
                f"{here.path}: another image in the same place as {kept[-1].path.name}; "
                "leave one of them in the folder"
            )
    positions = np.array([float(s.position_xyz_mm @ normal) for s in kept])
    _check_straight(kept, positions)
    _check_one_acquisition(kept)
    said = [s.thickness_mm for s in kept if math.isfinite(s.thickness_mm)]
    thickness = float(np.median(said)) if said else math.nan
    notes += missing_notes(positions, thickness, [s.number for s in kept])
    if unit := next((s.unit for s in kept if s.unit in UNSPECIFIED), ""):
        notes.append(f"RescaleType {unit}: the unit is not said, Hounsfield units are assumed")
    return DicomSeries(series_uid, tuple(kept), positions, tuple(notes))


def _check_straight(slices: Sequence[DicomSlice], positions_mm: NDArray[np.float64]) -> None:
    """Refuse a stack whose slices do not lie along a line, straight above each other or sheared.

    A tilted gantry shears by at most its tilt, about 30 degrees; more than 45 is refused.
    """
    if len(slices) == 1:
        return
    places = np.array([s.position_xyz_mm for s in slices])
    aside = places @ slices[0].orientation.T
    line = np.polynomial.polynomial.polyfit(positions_mm - positions_mm[0], aside, 1)
    fitted = line[0] + np.outer(positions_mm - positions_mm[0], line[1])
    off = np.linalg.norm(aside - fitted, axis=1)
    slope = float(np.linalg.norm(line[1]))
    if slope > 1:
        raise InputError(
            f"{slices[0].path}: this slice and the {len(slices) - 1} others of its series are "
            f"sheared by {math.degrees(math.atan(slope)):.0f} degrees, more than any gantry tilts: "
            "their ImagePositionPatient or ImageOrientationPatient is wrong; export the series "
            "from its original again"
        )
    if off.max() > MAX_ASIDE_MM:
        raise InputError(
            f"{slices[int(off.argmax())].path}: lies {off.max():.1f} mm aside of the line of the "
            "other slices, so that it may be of another scan; leave one scan in the series"
        )


def _check_one_acquisition(slices: Sequence[DicomSlice]) -> None:
    """Refuse acquisitions of the same region: the patient moved, or is another one.

    Those of neighbouring regions are a scan, and so are slices whose InstanceNumber counts through.
    """
    steps = np.diff([one.number for one in slices])
    runs = [source for source, _ in groupby(one.source for one in slices)]
    if len(runs) > len(set(runs)) and not ((steps > 0).all() or (steps < 0).all()):
        other = next(one for one in slices if one.source != slices[0].source)
        what = next(k for k in range(len(_SOURCE)) if other.source[k] != slices[0].source[k])
        raise InputError(
            f"{other.path}: its slices alternate with those of another acquisition, such as "
            f"{slices[0].path.name} ({_SOURCE[what]} {other.source[what] or 'missing'} and "
            f"{slices[0].source[what] or 'missing'}); leave one acquisition in the folder"
        )


def _one_stack(slices: list[DicomSlice], uid: str) -> tuple[list[DicomSlice], list[str]]:
    """The slices of the stack, and notes on the images that were left out of it."""
    notes = []

    def leave_out(why: str, belongs: Callable[[DicomSlice], bool]) -> None:
        nonlocal slices
        out = [one for one in slices if not belongs(one)]
        if out:
            names = listed(dict.fromkeys(one.path.name for one in out))
            notes.append(f"{len(out)} images left out: {why} ({names})")
            slices = [one for one in slices if belongs(one)]

    groups: list[list[DicomSlice]] = []
    for one in slices:
        for group in groups:
            if one.size_xy == group[0].size_xy and (
                np.abs(one.corners() - group[0].corners()).max() <= STRAY_MM
            ):
                group.append(one)
                break
        else:
            groups.append([one])
    stack = max(groups, key=len)
    if 2 * len(stack) <= len(slices) and len(groups) > 1:
        raise InputError(
            f"series {uid}: its images are of {len(groups)} kinds of size, pixel spacing or "
            f"direction ({listed(group[0].path.name for group in groups)}), none of them most; "
            "leave one kind in the folder"
        )
    leave_out("of another size, pixel spacing or direction", lambda one: one in stack)
    original = [one for one in slices if not one.derived]
    if len(original) >= min(_FEW, len(slices) / 2) and original:
        leave_out("derived from others, by their ImageType", lambda one: not one.derived)
    thickness = [one.thickness_mm for one in slices if math.isfinite(one.thickness_mm)]
    if len(set(thickness)) > 1:
        usual = Counter(thickness).most_common(1)[0][0]
        normal = np.cross(*slices[0].orientation)
        among = [o.position_xyz_mm @ normal for o in slices if o.thickness_mm == usual]
        leave_out(
            f"of another thickness than the {usual:g} mm of those around them",
            lambda o: (
                not abs(o.thickness_mm - usual) > 0.1 * usual
                or not min(among) < o.position_xyz_mm @ normal < max(among)
            ),
        )
    return slices, notes


@lru_cache(maxsize=1)  # the frames of an enhanced file are asked for one after the other
def _dataset(path: Path, changed_ns: int) -> pydicom.Dataset:
    return pydicom.dcmread(path, force=True)


def _slice_hu(about: DicomSlice) -> Box:
    """One slice (rows, columns) in HU; its own rescale slope and intercept are applied."""
    with reading(about.path, "its pixels cannot be read"):
        header = _dataset(about.path, about.path.stat().st_mtime_ns)
        meta = header.file_meta
        if "TransferSyntaxUID" not in meta:  # a file without marker
            implicit = header.original_encoding[0]
            meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        if about.frame is not None or not meta.TransferSyntaxUID.is_compressed:
            stored = pixel_array(header, index=about.frame or 0, raw=True)
            hu = stored.astype(np.float32) * np.float32(about.slope) + np.float32(about.intercept)
        else:
            with utf8_path(about.path) as name:
                hu = sitk.GetArrayFromImage(sitk.ReadImage(name, imageIO="GDCMImageIO")).squeeze()
    if hu.shape != about.size_xy[::-1]:
        raise InputError(
            f"{about.path}: {hu.shape} pixels, but its header says {about.size_xy[::-1]}"
        )
    whole = float(about.slope).is_integer() and float(about.intercept).is_integer()
    return hu.astype(np.int16) if whole and hu.min() >= -32768 and hu.max() <= 32767 else hu


def open_dicom(files: Sequence[Path], series_uid: str) -> Volume:
    """Open a DICOM series; a slice's pixels are read when a box needs them.

    Slices are taken where their own positions put them, evenly spaced or not, straight one above
    the other or not.

    Raises:
        InputError: as `read_dicom_series`; or when a box is read, a slice cannot be read.
    """
    series = read_dicom_series(files, series_uid)
    first = series.slices[0]
    steps = np.diff(series.positions_mm)
    direction = np.column_stack([*first.orientation, np.cross(*first.orientation)])
    away = np.array([s.position_xyz_mm for s in series.slices]) - first.position_xyz_mm
    shift = (away @ direction)[:, :2]
    geometry = Geometry(
        size_xyz=(*first.size_xy, len(series.slices)),
        origin_xyz_mm=first.position_xyz_mm,
        spacing_xyz_mm=np.array(
            [*first.spacing_xy_mm, float(np.median(steps)) if len(steps) else 1.0]
        ),
        direction=direction,
        slices_mm=series.positions_mm - series.positions_mm[0],
        shift_xy_mm=shift if np.abs(shift).max() > ASIDE_MM else np.zeros_like(shift),
    )

    @lru_cache(maxsize=64)  # 32 MB; neighbouring nodules need the same slices
    def pixels(k: int) -> Box:
        return _slice_hu(series.slices[k])

    def read(start: Three, size: Three) -> Box:
        (x, y, z), (dx, dy, dz) = start, size
        return np.stack([pixels(k)[y : y + dy, x : x + dx] for k in range(z, z + dz)])

    return Volume(f"series {series.uid}", geometry, read, series.notes)
