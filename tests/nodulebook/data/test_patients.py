"""One spelling of a patient, wherever leakage is decided."""

from pathlib import Path

import pytest

from nodulebook.core.errors import InputError
from nodulebook.data.annotations import patients_by_series
from nodulebook.data.patients import check_spelling, lidc_patient


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


def test_a_series_within_a_name_tells_the_patient() -> None:
    uid, patient = next(iter(patients_by_series().items()))
    assert lidc_patient("cube", f"/data/{uid}_nodule-1.npy") == patient
    assert lidc_patient("cube", f"{uid}7.npy") == lidc_patient("cube", f"1.{uid}") == ""


@pytest.mark.parametrize(
    "pair",
    [("P1", "p1"), ("P-07", "p_7"), ("A 1", "a1"), ("7", "007"), ("LIDC-IDRI-3", "LIDC-IDRI-0003")],
)
def test_two_spellings_of_a_patient_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="one patient"):
        check_spelling(tmp_path / "t.csv", ["x", *pair])


def test_different_patients_are_not_taken_for_one(tmp_path: Path) -> None:
    different = ["1", "10", "100", "p1", "p10", "1.2", "1.20", "12", "0", "a", "b", "", ""]
    check_spelling(tmp_path / "t.csv", different)
