"""The DICOM files of a folder: which are slices of CT, and of which series."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, write_json
from nodulebook.ct.folder import files_below, reading

_CT = "1.2.840.10008.5.1.4.1.1.2"
_CT_CLASSES = (_CT, f"{_CT}.1", f"{_CT}.2", "")  # one slice, enhanced, converted, not said
_NOT_SLICES = {
    word: what
    for what, words in {
        "a scout": "LOCALIZER SCOUT TOPOGRAM SURVIEW SCANOGRAM",
        "a projection": "MIP MINIP MAXIP MAXIMUM MINIMUM PROJECTION",
        "a rendering": "VRT VOLREN RENDERING SSD",
        "a dose report": "DOSE",
        "a screen shot": "SCREEN SCREENSHOT",
        "a segmentation": "SEGMENTATION MASK MASKED",
        "a fusion of images": "FUSION",
        "a map": "PERFUSION SUBTRACTION IODINE ZEFF EFFZ DENSITY STDDEV STDDEVIATION",
    }.items()
    for word in words.split()
}
"""Words of ImageType, or whole values without _ and spaces, whose pixels are no slice in HU."""

TWO_PATIENTS = "several"
"""In place of the PatientID where the files of a series name more than one."""

HU, UNSPECIFIED = ("", "HU", "HU_MOD"), ("US", "UNSPECIFIED")
"""RescaleType of Hounsfield units, and of values that may be such; others are other units."""

_OTHERS = (".mhd", ".mha", ".raw", ".zraw", ".xml", ".csv", ".zip", ".png", ".nii", ".gz", ".npy")
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_MAX_HEADER = 1 << 24  # bytes; a large file of something else is not read to its end
_MAY_BE_DICOM = (b"\x08\x00", b"\x02\x00", b"\x00\x08")  # group of the first element
_INDEX = "5"  # raised where the index of an older version cannot be used


# --------------------------------------------------------------------------------- finding


@dataclass(eq=False)
class DicomFiles:
    """What a folder holds of DICOM."""

    series: dict[str, list[Path]] = field(default_factory=dict)  # CT slices by SeriesInstanceUID
    others: dict[str, Counter[str]] = field(default_factory=dict)  # of a series: what, how many
    about: dict[str, tuple[str, str]] = field(default_factory=dict)  # description, PatientID
    damaged: list[str] = field(default_factory=list)  # files and what is wrong with them


def find_dicom(folder: Path, index_json: Path | None = None) -> DicomFiles:
    """The CT series in a folder and the folders in it, whatever the layout.

    A series is all files of one SeriesInstanceUID, wherever they are. Files that are not DICOM, or
    no image and of no series (a DICOMDIR), are left alone. `index_json` remembers what each folder
    held, by names, sizes and times of its files, so that only new folders are read again; where it
    cannot be written, nothing is remembered.
    """
    known = _known_folders(index_json)
    now: dict[str, Any] = {}
    by_folder: dict[Path, list[Path]] = {}
    for path in files_below(folder):
        if path.suffix.lower() not in _OTHERS:
            by_folder.setdefault(path.parent, []).append(path)
    found = DicomFiles()
    for here, files in by_folder.items():
        stamp = _stamp(files)
        entry = known.get(str(here))
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            entry = {"stamp": stamp} | _folder_entry(files)
        now[str(here)] = entry
        for name, uid, kind in entry["files"]:
            if kind:
                found.others.setdefault(uid, Counter())[kind] += 1
            else:
                found.series.setdefault(uid, []).append(here / name)
        for uid, about in entry["about"].items():
            known_about = found.about.setdefault(uid, (about[0], about[1]))
            if known_about[1] != about[1]:
                found.about[uid] = (about[0], TWO_PATIENTS)
        found.damaged += entry["damaged"]
    if index_json is not None and now != known:
        with suppress(OSError):  # it only saves time
            write_json(now, index_json)
    found.series = dict(sorted(found.series.items()))
    return found


def _known_folders(index_json: Path | None) -> dict[str, Any]:
    try:
        known = read_json(index_json) if index_json is not None else {}
    except (InputError, OSError):
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(_INDEX.encode())
    for path in files:
        with suppress(OSError):  # it has vanished, which is found when it is read
            about = path.stat()
            digest.update(os.fsencode(f"{path.name} {about.st_size} {about.st_mtime_ns}\n"))
    return digest.hexdigest()


def _folder_entry(files: Sequence[Path]) -> dict[str, Any]:
    entry: dict[str, Any] = {"files": [], "about": {}, "damaged": []}
    for path in files:
        try:
            header = read_header(path)
            if header is None:
                continue
            uid = text_of(header, "SeriesInstanceUID")
            if not uid:
                raise InputError(f"{path}: DICOM without a SeriesInstanceUID; export it again")
        except InputError as error:
            if not _says_no_ct(path):
                entry["damaged"].append(str(error))
            continue
        entry["files"].append((path.name, uid, not_ct(header)))
        about = (text_of(header, "SeriesDescription"), text_of(header, "PatientID"))
        entry["about"].setdefault(uid, about)
        if entry["about"][uid][1] != about[1]:  # whose it is decides leakage
            entry["about"][uid] = (about[0], TWO_PATIENTS)
    return entry


def _says_no_ct(path: Path) -> bool:
    """Whether a file names a kind of DICOM that is no slice of CT before its data set begins.

    As the DICOMDIR of a CD, reports, presentation states, key objects and PDF documents do: of
    these, some have no series, and a damaged one costs no scan.
    """
    try:
        kind = UID(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except Exception:  # no marker, or damaged: pydicom raises many things
        return False
    # A cut UID, or a maker's own, may be that of CT.
    return kind not in _CT_CLASSES and kind.type == "SOP Class"


_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "PatientID",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "AcquisitionNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


def read_header(path: Path) -> pydicom.Dataset | None:
    """The header of a DICOM file, also of one without the marker "DICM"; None of another file.

    Raises:
        InputError: it cannot be read, or is DICOM and damaged.
    """
    with reading(path), path.open("rb") as file:
        start = file.read(144)
        marked = start[128:132] == b"DICM"
        if not marked and start[:2] not in _MAY_BE_DICOM:
            return None
        # (0002,0000) holds the length of the file's own group, which the data set follows.
        has_group = start[132:136] == b"\2\0\0\0"
        file.seek(144 + int.from_bytes(start[140:144], "little") if has_group else 132)
        if marked and file.read(8) == bytes(8):
            # Element (0000,0000) without end: pydicom would read the zeros to the last.
            raise InputError(f"{path}: zeros follow its DICOM marker; download it again")
    with reading(path, "its DICOM header cannot be read"):
        with path.open("rb") as file:

            def at_end(tag: BaseTag, _vr: str | None, _length: int) -> bool:
                return not tag or tag in _PIXELS or file.tell() > _MAX_HEADER

            header = read_partial(file, at_end, force=True, specific_tags=[Tag(t) for t in _TAGS])
        # A file of another kind may begin with these two bytes by chance.
        return header if marked or text_of(header, "SOPClassUID").startswith("1.2.840.") else None


def text_of(header: pydicom.Dataset, tag: str) -> str:
    """A value as text; "" where it is absent or damaged."""
    try:
        value = header.get(tag)
        return "" if value is None else str(value).strip("\0 ")
    except Exception:  # pydicom converts a value when it is asked for, and raises many things
        return ""


def image_type(header: pydicom.Dataset) -> set[str]:
    """The values of ImageType, in capitals."""
    return set(re.findall(r"[A-Z][A-Z0-9_ ]*", text_of(header, "ImageType").upper()))


def not_ct(header: pydicom.Dataset) -> str:
    """What a DICOM file is instead of slices of a CT scan; "" where it is such slices."""
    modality, kind = text_of(header, "Modality").upper(), text_of(header, "SOPClassUID")
    for value in sorted(image_type(header)):
        for word in (re.sub("[_ ]", "", value), *re.split("[_ ]", value)):
            if word in _NOT_SLICES:
                return f"{_NOT_SLICES[word]} (ImageType {value})"
    if (unit := text_of(header, "RescaleType").upper()) not in HU + UNSPECIFIED:
        return f"an image whose values are no HU (RescaleType {unit})"
    if kind not in _CT_CLASSES:
        return f"{UID(kind).name} ({modality})" if modality else UID(kind).name
    return "" if modality in ("", "CT") else modality
