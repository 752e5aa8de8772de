"""Whose a scan is: which patient of those that networks hold out, under any of its names.

`adopt` names a patient as the table does, else as the files do, else as the scan is called. So each
of these names is looked up before a scan counts as one that the networks have not seen.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.ct.dicom_files import TWO_PATIENTS
from nodulebook.ct.find import FoundFolder, FoundScan
from nodulebook.data.patients import lidc_patient
from study.own_scans.networks import Networks
from study.own_scans.scans import Folder

Scans = Sequence[tuple[FoundScan, NDArray[np.int64]]]
"""Scans and the rows of their positions."""


def spelling(name: str) -> str:
    """A name as `nodulebook.data.patients.check_spelling` compares it: 001 and 1 have the same."""
    key = re.sub(r"[\s_.-]+", "-", name.casefold())
    return re.sub(r"(?<=[a-z])-(?=[0-9])|(?<![0-9])0+(?=[0-9])", "", key)


def told_patient(name: str, scan: str, here: pd.DataFrame) -> str:
    """The patient whom the positions of a scan name; "" where none does.

    Args:
        name: the table, for the message.
        scan: the scan's name.
        here: its rows of the table.

    Raises:
        InputError: they name two.
    """
    if "patient_id" not in here:
        return ""
    named = here[here["patient_id"] != ""].drop_duplicates("patient_id")
    if len(named) > 1:
        (line, other), (one, two) = named["line"].iloc[:2], named["patient_id"].iloc[:2]
        raise InputError(
            f"{name}: line {other}: patient_id is {two!r}, but {one!r} in line {line} of the same "
            f"scan ({scan}); a scan is of one patient"
        )
    return str(named["patient_id"].iloc[0]) if len(named) else ""


def with_patients(
    name: str, table: pd.DataFrame, scans: Scans, folder: FoundFolder, networks: Networks
) -> list[tuple[FoundScan, NDArray[np.int64]]]:
    """The scans with their patient: as the networks call them, else of LIDC-IDRI, else "".

    Args:
        name: the table, for messages.
        table: the positions.
        scans: scans and the rows of their positions.
        folder: what they are of.
        networks: whose `fold_of` and `nodules` say which patients they know.

    Raises:
        InputError: the table names two patients of one scan.
    """
    told = {scan.name: told_patient(name, scan.name, table.loc[rows]) for scan, rows in scans}
    given = folder.given_patients if isinstance(folder, Folder) else {}
    lidc = {scan.name: scan.patient_id or _lidc_told(table.loc[rows]) for scan, rows in scans}
    filed = {one: lidc[one] or given.get(one, "") for one in told}
    filed = {one: "" if whose == TWO_PATIENTS else whose for one, whose in filed.items()}
    # `adopt` gives a scan without a patient to the one whose other scan's files say the same.
    shared: dict[str, set[str]] = {}
    for one, patient in told.items():
        if patient and filed[one]:
            shared.setdefault(filed[one], set()).add(patient)
    lookup = _Lookup.of(networks)
    known = []
    for scan, rows in scans:
        one, whose = scan.name, shared.get(filed[scan.name], set())
        patient = told[one] or (next(iter(whose)) if len(whose) == 1 else "")
        # What files of several patients of the table have in common names none of them.
        of_files = "" if len(whose) > 1 else given.get(one, "")
        ids = table.loc[rows, "id"].tolist()
        found = (
            lookup.called(name)
            for name in lookup.names(one, ids, lidc[one], patient, of_files)
            # Files that are of a patient of LIDC-IDRI are not of another one of them.
            if lidc[one] in ("", lidc_patient("", name)) or not lidc_patient("", name)
        )
        known.append((replace(scan, patient_id=next(filter(None, found), lidc[one])), rows))
    return known


def _lidc_told(here: pd.DataFrame) -> str:
    """The patient of LIDC-IDRI that a scan's rows of the table name."""
    named = ("id", "patient_id", "scan as given", "id as given")
    told = here[[column for column in named if column in here]]
    return lidc_patient("", *np.unique(told.to_numpy(str)))


@dataclass(frozen=True)
class _Lookup:
    """The patients that networks know, by what may name them."""

    patients: Mapping[str, int]
    spelt: Mapping[str, str]  # spelling -> patient; "" where two are spelt alike
    nodules: Mapping[str, str]  # "<scan> <id>" -> patient
    scans: Mapping[str, str]  # scan of a nodule -> patient; "" where that is not sure

    @staticmethod
    def of(networks: Networks) -> "_Lookup":
        spelt: dict[str, str] = {}
        for patient in networks.fold_of:
            spelt[spelling(patient)] = "" if spelling(patient) in spelt else patient
        scans: dict[str, str] = {}
        for nodule, patient in networks.nodules.items():
            # Names of scans may have blanks: each part before one may be the scan.
            for blank in re.finditer(" ", nodule):
                scan = nodule[: blank.start()]
                scans[scan] = patient if scans.get(scan, patient) == patient else ""
        return _Lookup(networks.fold_of, spelt, networks.nodules, scans)

    def names(
        self, scan: str, ids: Sequence[str], lidc: str, told: str, of_files: str
    ) -> Iterator[str]:
        """What a scan's patient may be called, the surest first."""
        if lidc in self.patients:
            yield lidc
        if told in self.patients:
            yield told
        yield from (self.nodules.get(f"{scan} {one}", "") for one in ids)
        yield from (self.scans.get(scan, ""), told, of_files)
        # Exactly: scan 1 of any folder is not patient 001.
        yield scan if scan in self.patients else ""

    def called(self, name: str) -> str:
        """The patient of a name, in whichever spelling; "" where there is none."""
        if not name or name in self.patients:
            return name
        return self.spelt.get(spelling(name), "")
