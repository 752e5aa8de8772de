# ruff: noqa: F811
"""Patients of a user's own cohort are recognised by networks that saw them, under any name."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from test_score import (  # noqa: F401
    THIRD,
    Lab,
    _patches_aside,
    edit,
    lab,
    quiet,
    score,
    tiny,
    write_dicom,
    write_mhd,
    write_positions,
)

from nodulebook.core.errors import InputError
from nodulebook.data.patients import check_spelling, spelling
from study.own_scans import networks as sources
from study.own_scans.evaluate import evaluate_scores
from study.own_scans.networks import Network, Networks

WITH_PATIENT = "id,scan,x_mm,y_mm,z_mm,patient_id"
OWN = "a cohort of the user's"


@dataclass
class Cohort:
    """Networks of folds 0 to 9, each trained on the patients that it does not hold out."""

    lab: Lab

    def networks(self, fold_of: dict[str, int], *nodules: str) -> Networks:
        """`nodules`: scan, id and patient, with blanks between."""

        def load(fold: int) -> Network:
            patients = frozenset(name for name, k in fold_of.items() if k != fold)
            return Network(self.lab.model, self.lab.profile, "made", fold, "own", patients)

        named = dict(one.rsplit(" ", 1) for one in nodules)
        return Networks(load, range(10), fold_of, nodules=named)


@pytest.fixture
def cohort(lab: Lab) -> Cohort:
    return Cohort(lab)


def told(table: pd.DataFrame) -> list[str]:
    return [f"{fold} {seen}" for fold, seen in table[["fold", "patient_in_training"]].to_numpy()]


def test_a_scan_of_lidc_is_known_by_the_name_that_an_own_cohort_has_for_it(
    cohort: Cohort, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans", THIRD)
    rows = write_positions(tmp_path / "p.csv", f"1,{THIRD},12,-7,30,H13", header=WITH_PATIENT)
    out, own = tmp_path / "out", cohort.networks({"H1": 0, "H13": 4})
    assert told(score(tmp_path / "scans", rows, out, own, 0).table) == ["4 no"]
    own.usable = (0,)
    assert told(score(tmp_path / "scans", rows, out, own, 0).table) == ["0 yes"]


def test_a_scan_of_lidc_that_an_own_cohort_does_not_name_may_be_in_it(
    cohort: Cohort, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans", THIRD)
    rows = write_positions(tmp_path / "p.csv", f"1,{THIRD},12,-7,30")
    own = cohort.networks({"H1": 0, "H13": 4})
    assert told(score(tmp_path / "scans", rows, tmp_path / "out", own, 0).table) == ["0 unknown"]
    own = cohort.networks({"H1": 0, "LIDC-IDRI-0003": 4})  # named by its files
    assert told(score(tmp_path / "scans", rows, tmp_path / "out", own, 0).table) == ["4 no"]


def test_a_scan_of_lidc_is_not_given_to_another_patient_of_lidc_by_its_table(
    lab: Lab, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans", THIRD)
    rows = write_positions(
        tmp_path / "p.csv", f"1,{THIRD},12,-7,30,LIDC-IDRI-0001", header=WITH_PATIENT
    )
    networks = lab.networks
    assert told(score(tmp_path / "scans", rows, tmp_path / "out", networks, 0).table) == ["3 no"]
    networks.fold_of = {"LIDC-IDRI-0001": 5}  # 0003 has no labelled nodule, say
    assert told(score(tmp_path / "scans", rows, tmp_path / "out", networks, 0).table) == ["0 no"]


@pytest.mark.parametrize("written", ["1", "01", "001"])
def test_a_patient_is_recognised_without_the_zeros_that_a_spreadsheet_drops(
    cohort: Cohort, tmp_path: Path, written: str
) -> None:
    write_mhd(tmp_path / "scans", "a")
    rows = write_positions(tmp_path / "p.csv", f"1,a,12,-7,30,{written}", header=WITH_PATIENT)
    own = cohort.networks({"010": 0, "001": 4})
    assert told(score(tmp_path / "scans", rows, tmp_path / "out", own, 0).table) == ["4 no"]


def test_names_are_spelt_alike_where_check_spelling_refuses_them() -> None:
    names = [
        "1",
        "001",
        "10",
        "P-07",
        "p_7",
        "P7",
        "p 70",
        "7",
        "a.b",
        "A-B",
        "ab",
        "x1-02",
        "X1 2",
    ]
    for one, other in combinations(names, 2):
        try:
            check_spelling(Path("t.csv"), (one, other))
            alike = False
        except InputError:
            alike = True
        assert (spelling(one) == spelling(other)) is alike, (one, other)


def test_a_scan_is_recognised_by_the_nodules_of_the_cohort(cohort: Cohort, tmp_path: Path) -> None:
    for name in ("scan00a", "left lung", "left", "new"):
        write_mhd(tmp_path / "scans", name)
    rows = write_positions(
        tmp_path / "p.csv", "n1,scan00a,12,-7,30", "other,left lung,12,-7,30", "n1,left,12,-7,30",
        "n1,new,12,-7,30",
    )  # fmt: skip
    own = cohort.networks(
        {"P0": 0, "P3": 3, "P5": 5}, "scan00a n1 P3", "left lung n1 P5", "left n9 P0"
    )
    said: list[str] = []
    done = score(tmp_path / "scans", rows, tmp_path / "out", own, 0, said.append).table
    # "left" may be the scan of either: not guessed.
    assert told(done) == ["3 no", "5 no", "0 unknown", "0 unknown"]
    (line,) = (one for one in said if "not recognised" in one)
    assert line.startswith("2 of 4 scans are not recognised as patients of the cohort that the ")
    assert "patient_id" in line


def test_the_networks_of_a_run_know_the_nodules_of_its_cohort() -> None:
    networks = sources.networks_of_profile("quick", "phantom")
    assert networks.nodules["LIDC-IDRI-0003-s1-n01"] == "LIDC-IDRI-0003"


def test_a_row_without_a_patient_is_of_the_patient_whose_files_say_the_same(
    cohort: Cohort, tmp_path: Path
) -> None:
    for uid in ("1.2.97", "1.2.98"):
        write_dicom(tmp_path / "scans" / uid, uid)
        for path in (tmp_path / "scans" / uid).iterdir():
            edit(path, PatientID="MRN5")
    rows = ["n,1.2.97,12,-7,30,Q1", "n,1.2.98,12,-7,30,"]
    path = write_positions(tmp_path / "p.csv", *rows, header=WITH_PATIENT)
    own = cohort.networks({"Q0": 0, "Q1": 6})
    said: list[str] = []
    done = score(tmp_path / "scans", path, tmp_path / "out", own, 0, said.append).table
    assert told(done) == ["6 no", "6 no"]
    assert not any("not recognised" in line for line in said)


def test_networks_that_were_not_trained_on_an_own_cohort_ask_for_no_patients(
    lab: Lab, tmp_path: Path
) -> None:
    write_mhd(tmp_path / "scans", "a")
    rows = write_positions(tmp_path / "p.csv", "1,a,12,-7,30")
    said: list[str] = []
    score(tmp_path / "scans", rows, tmp_path / "out", lab.networks, 0, said.append)
    assert not any("not recognised" in line for line in said)


def test_a_scan_of_two_patients_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    write_mhd(tmp_path / "scans", "a")
    path = write_positions(
        tmp_path / "p.csv", "1,a,12,-7,30,P1", "2,a,12,-7,30,P2", header=WITH_PATIENT
    )
    own = cohort.networks({"P1": 0, "P2": 4})
    said = r"p\.csv: line 3: patient_id is 'P2', but 'P1' in line 2 of the same scan \(a\)"
    with pytest.raises(InputError, match=said):
        score(tmp_path / "scans", path, tmp_path / "out", own, 0)
    assert not (tmp_path / "out").exists()


def scores_and_labels() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sixty scores of thirty scans, a patient each, and labels that call the patients otherwise."""
    rows = [(f"n{k % 2}", f"s{k // 2}", k // 2) for k in range(60)]
    table = pd.DataFrame(rows, columns=["id", "scan", "patient_id"])
    scores = table.assign(
        p_malignant=[0.3 + 0.1 * (k % 4) for k in range(60)],
        patient_id="HOSP" + table["patient_id"].astype(str),
    )
    labels = table.assign(
        label=[k % 3 % 2 for k in range(60)], patient_id="STUDY" + table["patient_id"].astype(str)
    )
    return scores, labels


def compared(folder: Path, scores: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    scores.to_csv(folder / "s.csv", index=False)
    labels.to_csv(folder / "l.csv", index=False)
    evaluate_scores(folder / "s.csv", folder / "ev", folder / "l.csv")
    return pd.read_csv(folder / "ev" / "nodules.csv", dtype=str)


@pytest.mark.parametrize("kind", ["scan", "patient", "unscored", "both"])
def test_a_patient_whom_labels_name_in_one_row_only_is_not_split(tmp_path: Path, kind: str) -> None:
    scores, labels = scores_and_labels()
    labels.loc[1::2, "patient_id"] = ""
    if kind == "patient":  # the second nodule is in another scan of the same patient
        scores.loc[1::2, "scan"] += "b"
        labels.loc[1::2, "scan"] += "b"
    if kind == "unscored":  # the row that names the patient is of a nodule without a score
        scores = scores.drop(index=[0, 2])
    if kind == "both":  # merged cells in both tables
        scores.loc[0::2, "patient_id"] = ""
    nodules = compared(tmp_path, scores, labels)
    assert nodules["patient_id"].nunique() == 30
    assert nodules["patient_id"].str.startswith("STUDY").all()


def test_patients_whom_labels_do_not_name_are_those_of_the_scores(tmp_path: Path) -> None:
    scores, labels = scores_and_labels()
    labels.loc[10:, "patient_id"] = ""
    named = compared(tmp_path, scores, labels)["patient_id"]
    assert named.nunique() == 30 and (named.str[:5] == "STUDY").sum() == 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("labels", r"line 3: scan 's0' is of patient 'X' here, but of 'STUDY0'"),
        ("scans", r"line 4: patient of the scores 'HOSP0' is of patient 'STUDY1' here, but of"),
    ],
)
def test_a_scan_or_patient_under_two_names_is_refused(
    tmp_path: Path, changed: str, message: str
) -> None:
    scores, labels = scores_and_labels()
    if changed == "labels":
        labels.loc[1, "patient_id"] = "X"
    else:
        scores.loc[2:3, "patient_id"] = "HOSP0"
        labels.loc[2, "patient_id"] = ""
    with pytest.raises(InputError, match=message):
        compared(tmp_path, scores, labels)


def test_evaluate_says_how_many_patients_are_unknown_to_networks_of_an_own_cohort(
    tmp_path: Path,
) -> None:
    scores, labels = scores_and_labels()
    seen = ["unknown"] * 7 + ["no"] * 53
    scores = scores.assign(label=labels["label"], patient_in_training=seen)
    for trained_on, said in ((OWN, True), ("CT scans from LIDC-IDRI", False)):
        scores.assign(trained_on=trained_on).to_csv(tmp_path / "s.csv", index=False)
        lines = evaluate_scores(tmp_path / "s.csv", tmp_path / "ev")
        text = "7 of 60 nodules are of patients of whom it is unknown"
        assert any(line.startswith(text) for line in lines) is said
        assert (text in (tmp_path / "ev" / "index.html").read_text()) is said


def test_scores_are_found_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, labels = scores_and_labels()
    (tmp_path / "o1").mkdir()
    scores.assign(label=labels["label"]).to_csv(tmp_path / "o1" / "probabilities.csv", index=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "60 nodules" in evaluate_scores(Path("~/o1"), tmp_path / "ev")[0]
