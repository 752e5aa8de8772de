"""The identity of a patient: one spelling, wherever leakage is decided."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from nodulebook.core.errors import InputError
from nodulebook.data.annotations import patients_by_series

_SERIES = re.compile(r"(?<![0-9.])1\.3\.6\.1\.4\.1\.14519\.5\.2\.1\.6279\.6001\.[0-9]+(?![0-9])")
_LIDC = re.compile(r"(?i)(?<![a-z0-9])lidc[-_ .]*idri[-_ .]*0*([1-9][0-9]{0,3})(?![0-9])")


@cache
def _known() -> tuple[dict[str, str], frozenset[str]]:
    series = patients_by_series()
    return series, frozenset(series.values())


def lidc_patient(series_uid: str, *texts: str) -> str:
    """The patient of a scan, as LIDC-IDRI-0003; "" where that is not sure.

    Args:
        series_uid: its SeriesInstanceUID, which decides where it is one of the collection's.
        texts: what else may name the patient, in any spelling (lidc_idri_3), or contain the series:
            PatientID, the names of files and folders.

    Returns:
        "" also where two patients are named; names that the collection does not have do not count.

    Raises:
        InputError: the annotation database cannot be used.
    """
    series, patients = _known()
    if series_uid in series:
        return series[series_uid]
    named = {f"LIDC-IDRI-{int(n):04d}" for text in texts for n in _LIDC.findall(text)} & patients
    named |= {series[uid] for text in texts for uid in _SERIES.findall(text) if uid in series}
    return named.pop() if len(named) == 1 else ""


def spelling(patient: str) -> str:
    """The form in which names of patients are compared: P-07 and p_7, or 001 and 1, have the same.

    Case, leading zeros, and which of blank, point, hyphen and underscore is used make no patient.
    """
    key = re.sub(r"[\s_.-]+", "-", patient.casefold())
    return re.sub(r"(?<=[a-z])-(?=[0-9])|(?<![0-9])0+(?=[0-9])", "", key)


def check_spelling(path: Path, patients: Iterable[str]) -> None:
    """Refuse a table that spells a patient in two ways: folds and intervals would split them.

    Case, leading zeros, and which of blank, point, hyphen and underscore is used make no patient.

    Args:
        path: the table, for the message.
        patients: its column of patients.

    Raises:
        InputError: two of them are spelt like one, such as P-07 and p_7.
    """
    first: dict[str, str] = {}
    for name in patients:
        key = spelling(name)
        if first.setdefault(key, name) != name:
            raise InputError(
                f"{path}: patient_id {name!r} and {first[key]!r} seem to be one patient; write "
                "each patient in one way"
            )
