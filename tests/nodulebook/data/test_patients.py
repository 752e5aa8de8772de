"""One spelling of a patient, wherever leakage is decided."""

import pytest

from nodulebook.data.annotations import patients_by_series
from nodulebook.data.patients import lidc_patient


@pytest.mark.parametrize(
    ("texts", "patient"),
    [
        (["LIDC-IDRI-3"], "LIDC-IDRI-0003"),
        (["LIDC-IDRI-0003"], "LIDC-IDRI-0003"),
        (["lidc_idri_03"], "LIDC-IDRI-0003"),
        (["", "/home/me/scans/LIDC-IDRI-0003.mhd"], "LIDC-IDRI-0003"),
        (["x", "LIDC-IDRI-1012/1.2.3/1-01.dcm", "LIDC-IDRI-1012/1.2.3/1-02.dcm"], "LIDC-IDRI-1012"),
        (["LIDC-IDRI-0003", "LIDC-IDRI-0004.nii.gz"], ""),
        (["LIDC-IDRI-9999"], ""),
        (["LIDC-IDRI-00031"], "LIDC-IDRI-0031"),
        (["LIDC-IDRI-0000"], ""),
        (["MYLIDC-IDRI-0003"], ""),
        (["MADE-UP-1", "LIDC-IDRI/scans/003.mhd"], ""),
        ([""], ""),
    ],
)
def test_a_patient_has_one_spelling_or_is_not_known(texts: list[str], patient: str) -> None:
    assert lidc_patient("1.2.3", *texts) == patient


def test_the_series_decides() -> None:
    uid, patient = next(iter(patients_by_series().items()))
    assert lidc_patient(uid, "MADE-UP-1", "a.dcm") == patient
