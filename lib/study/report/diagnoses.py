"""Scores against diagnoses: the patient is the unit, the largest score of its nodules counts."""

from collections.abc import Sequence

import pandas as pd

from nodulebook.core.files import read_csv, refuse_rows
from nodulebook.core.paths import DATA

BENIGN, PRIMARY, METASTATIC = 1, 2, 3
"""Codes of `patient_diagnosis`; 0 is unknown."""

QUESTIONS = {
    "benign or malignant": (PRIMARY, METASTATIC),
    "benign or primary cancer": (PRIMARY,),
    "benign or metastasis": (METASTATIC,),
}
"""What is asked, and the diagnoses that count as malignant in it."""


def read_diagnoses() -> pd.DataFrame:
    """`data/diagnoses.csv`: patient_id, patient_diagnosis, patient_method and others.

    Raises:
        InputError: it is missing, or a code is not 0 to 3 (diagnosis) or 0 to 4 (method).
    """
    path = DATA / "diagnoses.csv"
    columns = {"patient_id": "str", "patient_diagnosis": "int", "patient_method": "int"}
    table = read_csv(path, columns)
    for name, most in (("patient_diagnosis", 3), ("patient_method", 4)):
        refuse_rows(path, table, name, ~table[name].between(0, most), f"but must be 0 to {most}")
    return table


def patient_scores(
    scores: pd.DataFrame, diagnoses: pd.DataFrame, malignant: Sequence[int]
) -> pd.DataFrame:
    """One row per patient with a benign diagnosis or one of those that count as malignant.

    Args:
        scores: patient_id and p_malignant, one row per nodule; any scale.

    Returns:
        patient_id, nodule_id (the patient again), label, p_malignant (the largest of the patient's
        nodules) and fold (0), as the functions of `nodulebook.stats` take them.
    """
    largest = scores.groupby("patient_id", as_index=False)["p_malignant"].max()
    table = largest.merge(diagnoses[["patient_id", "patient_diagnosis"]], on="patient_id")
    table = table[table["patient_diagnosis"].isin((BENIGN, *malignant))].reset_index(drop=True)
    label = table["patient_diagnosis"].isin(malignant).astype(int)
    table = table.assign(nodule_id=table["patient_id"], label=label, fold=0)
    columns = ["nodule_id", "patient_id", "label", "p_malignant", "fold"]
    return pd.DataFrame(table[columns])
