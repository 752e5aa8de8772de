"""Patients' scores against their diagnoses, by hand and on the committed table."""

import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules
from nodulebook.stats.metrics import roc_auc
from study.report import diagnoses
from study.report.diagnoses import QUESTIONS, patient_scores, read_diagnoses


def test_a_patient_counts_once_with_its_largest_score():
    scores = pd.DataFrame({"patient_id": list("aabcd"), "p_malignant": [0.2, 0.7, 0.4, 0.9, 0.3]})
    known = pd.DataFrame({"patient_id": list("abcdx"), "patient_diagnosis": [1, 2, 3, 0, 1]})
    both = patient_scores(scores, known, (2, 3))
    assert both[["patient_id", "label", "p_malignant"]].to_numpy().tolist() == [
        ["a", 0, 0.7], ["b", 1, 0.4], ["c", 1, 0.9],
    ]  # fmt: skip
    assert patient_scores(scores, known, (3,))["patient_id"].tolist() == ["a", "c"]


@pytest.mark.parametrize(
    "question, n, malignant, rating, ruler",
    [
        ("benign or malignant", 105, 80, 0.753, 0.689),
        ("benign or primary cancer", 62, 37, 0.842, 0.751),
        ("benign or metastasis", 68, 43, 0.676, 0.635),
    ],
)
def test_rating_and_diameter_of_the_reference_nodules(question, n, malignant, rating, ruler):
    reference = read_nodules().query("readers >= 3")
    for column, auc in (("malignancy_mean", rating), ("diameter_mm", ruler)):
        scores = reference[["patient_id"]].assign(p_malignant=reference[column])
        table = patient_scores(scores, read_diagnoses(), QUESTIONS[question])
        assert (len(table), table["label"].sum()) == (n, malignant)
        assert roc_auc(table["label"], table["p_malignant"]) == pytest.approx(auc, abs=6e-4)


def test_the_collections_counts():
    table = read_diagnoses()
    assert len(table) == 157 and table["patient_id"].is_unique
    assert table["patient_diagnosis"].value_counts().to_dict() == {0: 27, 1: 36, 2: 43, 3: 51}
    assert table["patient_method"].value_counts().to_dict() == {0: 28, 1: 28, 2: 46, 3: 39, 4: 16}


def test_an_unknown_code_is_named(tmp_path, monkeypatch):
    text = "patient_id,patient_diagnosis,patient_method\nLIDC-IDRI-0001,1,2\nLIDC-IDRI-0002,7,2\n"
    (tmp_path / "diagnoses.csv").write_text(text)
    monkeypatch.setattr(diagnoses, "DATA", tmp_path)
    with pytest.raises(InputError, match="line 3"):
        read_diagnoses()
