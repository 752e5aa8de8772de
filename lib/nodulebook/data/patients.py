"""The identity of a LIDC-IDRI patient: one spelling, wherever leakage is decided."""

import re
from functools import cache

from nodulebook.data.annotations import patients_by_series

_LIDC = re.compile(r"(?i)(?<![a-z0-9])lidc[-_ .]*idri[-_ .]*0*([1-9][0-9]{0,3})(?![0-9])")


@cache
def _known() -> tuple[dict[str, str], frozenset[str]]:
    series = patients_by_series()
    return series, frozenset(series.values())


def lidc_patient(series_uid: str, *texts: str) -> str:
    """The patient of a scan, as LIDC-IDRI-0003; "" where that is not sure.

    Args:
        series_uid: its SeriesInstanceUID, which decides where it is one of the collection's.
        texts: what else may name the patient, in any spelling (lidc_idri_3): PatientID, the names
            of files and folders.

    Returns:
        "" also where two patients are named; names that the collection does not have do not count.

    Raises:
        InputError: the annotation database cannot be used.
    """
    series, patients = _known()
    if series_uid in series:
        return series[series_uid]
    named = {f"LIDC-IDRI-{int(n):04d}" for text in texts for n in _LIDC.findall(text)} & patients
    return named.pop() if len(named) == 1 else ""
