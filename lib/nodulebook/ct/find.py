"""The CT scans of a folder, whatever their format and layout."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom import open_dicom
from nodulebook.ct.dicom_files import find_dicom
from nodulebook.ct.folder import files_below, listed, printable, scan_identity
from nodulebook.ct.metaimage import open_metaimage
from nodulebook.ct.nifti import open_nifti
from nodulebook.ct.volume import Volume

_OPENERS = {
    ".mhd": open_metaimage,
    ".mha": open_metaimage,
    ".nii": open_nifti,
    ".nii.gz": open_nifti,
}
"""File endings of scans other than DICOM."""

_CONVERT = "SimpleITK, 3D Slicer and dcm2niix write DICOM, .mha and .nii.gz"


@dataclass(frozen=True, eq=False)
class FoundScan:
    """A scan in a folder. Nothing of it is read but, in DICOM, the headers of its files."""

    name: str  # SeriesInstanceUID, or the file's name without its ending
    dicom: tuple[Path, ...] = ()  # the slices of the series
    images: tuple[Path, ...] = ()  # image files of this name
    description: str = ""  # SeriesDescription
    patient_id: str = ""  # PatientID, as it is written
    notes: tuple[str, ...] = ()  # what else the series holds

    def __str__(self) -> str:
        """Name, description and number of slices, for a list to choose from."""
        what = [f"{len(self.dicom)} slices"] if self.dicom else []
        what += [printable(path.name) for path in self.images]
        return f"{self.name} ({', '.join([self.description] * bool(self.description) + what)})"

    def identity(self) -> str:
        """A hash of the scan's file names and sizes and its headers (`scan_identity`)."""
        voxels = [path.with_suffix(e) for path in self.images for e in (".raw", ".zraw", ".raw.gz")]
        return scan_identity([*self.dicom, *self.images, *(p for p in voxels if p.is_file())])

    def open(self) -> Volume:
        """Open the scan; its voxels are read when they are asked for.

        Masks, label maps and pictures under the scan's name are left out, and noted.

        Raises:
            InputError: nothing of this name can be read as CT, or two different scans have it.
        """
        volumes: list[Volume] = []
        refused: list[str] = []
        if self.dicom:
            volumes.append(open_dicom(self.dicom, self.name).check_is_ct())
        for path in self.images:
            try:
                volume = open_image(path).check_is_ct()
            except InputError as error:
                refused.append(str(error))
                continue
            if not any(_same(volume, other) for other in volumes):
                volumes.append(volume)
        if not volumes:
            raise InputError("; ".join(refused))
        if len(volumes) > 1:
            raise InputError(
                f"scan {self.name} is there twice and not the same: {volumes[0].name} and "
                f"{volumes[1].name}; leave one of them in the folder"
            )
        (one,) = volumes
        notes = (*self.notes, *one.notes, *(f"left out: {reason}" for reason in refused))
        return Volume(one.name, one.geometry, one.read_box, notes)


def _same(a: Volume, b: Volume) -> bool:
    (one, other) = (volume.geometry for volume in (a, b))
    corners = [np.zeros(3), np.array(one.size_xyz) - 1]
    return (
        one.size_xyz == other.size_xyz
        and all(np.allclose(one.to_world(c), other.to_world(c), atol=1e-3) for c in corners)
        and np.allclose(a.sample_hu(), b.sample_hu(), atol=0.51)
    )


def open_image(path: Path) -> Volume:
    """Open a scan of one file, by its ending: `.mhd`, `.mha`, `.nii` or `.nii.gz`.

    Raises:
        InputError: the ending is another, or the file cannot be read.
    """
    for ending, opener in _OPENERS.items():
        if path.name.lower().endswith(ending):
            return opener(path)
    raise InputError(f"{path}: scans are read from {', '.join(_OPENERS)} and DICOM; {_CONVERT}")


def find_images(folder: Path) -> dict[str, list[Path]]:
    """The image files below a folder, by name without ending."""
    found: dict[str, list[Path]] = {}
    for path in files_below(folder):
        ending = next((e for e in _OPENERS if path.name.lower().endswith(e)), "")
        if ending:
            found.setdefault(printable(path.name[: -len(ending)]), []).append(path)
    return found


class AbsentScanError(InputError):
    """A folder has no scan of a name."""


@dataclass(frozen=True, eq=False)
class FoundFolder:
    """What was found in a folder."""

    path: Path
    scans: dict[str, FoundScan]
    others: dict[str, str]  # what is no CT scan, by SeriesInstanceUID or name -> what it is
    damaged: list[str]  # files that cannot be read, and why

    def one(self, name: str) -> FoundScan:
        """A scan by its name; by "" the only scan in the folder.

        Raises:
            AbsentScanError: there is no such scan.
            InputError: it is no CT scan, or without a name there are several.
        """
        if not name and len(self.scans) == 1:
            return next(iter(self.scans.values()))
        known = listed(self.scans.values())
        if not name:
            raise InputError(
                f"names no scan, but {self.path} holds {len(self.scans)}: say which in the column "
                f"scan ({known})"
            )
        if name in self.scans:
            return self.scans[name]
        if name in self.others:
            raise InputError(f"scan {name} is {self.others[name]}; not a usable CT scan")
        raise AbsentScanError(f"scan {name!r} is not in {self.path}, which holds {known}")


def find_scans(folder: Path, index_json: Path | None = None) -> FoundFolder:
    """The CT scans of a folder and the folders in it: DICOM series in any layout, image files.

    `index_json` is as in `find_dicom`.

    Raises:
        InputError: there is no such folder, or no CT scan in it.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        what = "is a file: name the folder that it is in" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}")
    folder = folder.resolve()
    dicom, images = find_dicom(folder, index_json), find_images(folder)
    scans: dict[str, FoundScan] = {}
    others: dict[str, str] = {}
    damaged = list(dicom.damaged)
    for name in list(images):
        reasons = []
        for path in images[name]:
            try:
                open_image(path)
            except InputError as error:
                reasons.append(str(error))
        damaged += reasons
        if len(reasons) == len(images[name]):
            del images[name]
            if name not in dicom.series:
                others[name] = f"damaged: {'; '.join(reasons)}"
    for name in sorted({*dicom.series, *images, *dicom.others}):
        kinds = dicom.others.get(name, Counter())
        description, patient = dicom.about.get(name, ("", ""))
        left_out = [f"{count} files left out: {kind}" for kind, count in kinds.items()]
        if name in dicom.series or name in images:
            scans[name] = FoundScan(
                name=name,
                dicom=tuple(dicom.series.get(name, ())),
                images=tuple(images.get(name, ())),
                description=description,
                patient_id=patient,
                notes=tuple(left_out),
            )
        else:
            others[name] = f"{', '.join(kinds)} of {description or 'no description'}"
    if not scans:
        raise InputError(_nothing(folder, others, dicom.damaged))
    return FoundFolder(folder, scans, others, damaged)


def _nothing(folder: Path, others: dict[str, str], damaged: list[str]) -> str:
    endings = Counter(path.suffix.lower() or "(no ending)" for path in files_below(folder))
    seen = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    reasons = [f"{name} is {what}" for name, what in others.items()] + damaged
    return (
        f"{folder}: must hold CT as DICOM, {', '.join(_OPENERS)}, but holds {seen or 'no file'}"
        + (f" ({listed(reasons)})" if reasons else "")
        + f"; {_CONVERT}"
    )
