"""Each labelled nodule is in one fold, no patient is in two, and a damaged table is named."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.core.paths import FOLDS_CSV
from nodulebook.data.cohort import label_nodules, read_nodules
from nodulebook.data.folds import N_FOLDS, check_fold, make_folds, read_folds


@pytest.fixture(scope="module")
def folds():
    return read_folds()


def test_the_committed_folds_hold_every_labelled_nodule_once(folds):
    labelled = label_nodules(read_nodules())
    pd.testing.assert_frame_equal(
        folds[["nodule_id", "patient_id", "label"]],
        labelled[["nodule_id", "patient_id", "label"]],
    )
    assert len(folds) == 1010
    assert folds["nodule_id"].is_unique


def test_no_patient_is_in_two_of_the_committed_folds(folds):
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()


def test_the_committed_folds_are_alike(folds):
    by_fold = folds.groupby("fold")["label"]
    assert by_fold.size().between(99, 103).all()
    assert (by_fold.mean() - folds["label"].mean()).abs().max() < 0.01
    assert sorted(set(folds["fold"])) == list(range(N_FOLDS))


@st.composite
def labelled_tables(draw):
    """Patients with one to four nodules each, of any labels."""
    labels = draw(
        st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=2, max_size=25)
    )
    rows = [(f"P{p}-n{n}", f"P{p}", y) for p, ys in enumerate(labels) for n, y in enumerate(ys)]
    return pd.DataFrame(rows, columns=["nodule_id", "patient_id", "label"])


@pytest.mark.filterwarnings("ignore:The least populated class")
@settings(max_examples=25, deadline=None)
@given(labelled_tables(), st.integers(2, 6), st.integers(0, 2**32 - 1), st.randoms())
def test_folds_of_any_table(table, n_folds, seed, random):
    assume(n_folds <= table["patient_id"].nunique())
    assume(n_folds <= table["label"].value_counts().max())
    folds = make_folds(table, n_folds, seed)
    pd.testing.assert_frame_equal(folds.drop(columns="fold"), table)
    assert folds["fold"].between(0, n_folds - 1).all()
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    # the order of the rows does not matter
    shuffled = table.iloc[random.sample(range(len(table)), len(table))]
    again = make_folds(shuffled, n_folds, seed).sort_values("nodule_id", ignore_index=True)
    pd.testing.assert_frame_equal(again, folds.sort_values("nodule_id", ignore_index=True))


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 4])
def test_more_folds_than_patients_are_refused(n_folds):
    table = pd.DataFrame({"nodule_id": list("abcd"), "patient_id": list("PPQR"), "label": 1})
    with pytest.raises(InputError, match=f"n_folds is {n_folds}"):
        make_folds(table, n_folds)


def test_an_empty_table_is_refused():
    table = pd.DataFrame({"nodule_id": [], "patient_id": [], "label": []})
    with pytest.raises(InputError, match="number of patients"):
        make_folds(table)


@pytest.mark.parametrize("fold", [0, 9, np.int64(3)])
def test_the_number_of_a_fold_passes(fold):
    check_fold(fold)


@pytest.mark.parametrize("fold", [-1, 10, True, np.True_, 1.0, np.float64(1), "1", None])
def test_what_is_no_number_of_a_fold_is_refused(fold):
    with pytest.raises(InputError, match=r"must be a whole number from 0 to 9"):
        check_fold(fold)


def edited(folds, row, **cells):
    table = folds.copy()
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


def tampered(folds):
    """Damaged tables, each with what the message must say. Lines count from 1, with the header."""
    of_many = folds.index[folds["patient_id"].duplicated()][0]  # a patient's second nodule
    second = folds.loc[of_many]
    name = folds["nodule_id"]
    return {
        "patient in two folds": (
            edited(folds, of_many, fold=(second["fold"] + 1) % N_FOLDS),
            f"line {of_many + 2}: patient {second['patient_id']} is in fold",
        ),
        "missing nodule": (
            folds.drop(5),
            f"1 labelled nodules are missing, the first is {name[5]}",
        ),
        "fold 10": (edited(folds, 7, fold=10), "line 9: fold 10 is not 0 to 9"),
        "fold -1": (edited(folds, 7, fold=-1), "line 9: fold -1 is not 0 to 9"),
        "nodule twice": (
            pd.concat([folds, folds.iloc[[3]]], ignore_index=True),
            f"line {len(folds) + 2}: nodule {name[3]} is listed twice",
        ),
        "unlabelled nodule": (
            edited(folds, 0, nodule_id="LIDC-IDRI-0002-s1-n00"),
            "line 2: nodule LIDC-IDRI-0002-s1-n00 is not a labelled nodule",
        ),
        "other patient": (
            edited(folds, 0, patient_id="LIDC-IDRI-0002"),
            f"line 2: nodule {name[0]} is not of patient LIDC-IDRI-0002",
        ),
        "other label": (
            edited(folds, 2, label=1 - folds.loc[2, "label"]),
            f"line 4: nodule {name[2]} has label {1 - folds.loc[2, 'label']}",
        ),
        "empty fold": (folds.assign(fold=folds["fold"].replace(9, 8)), "fold 9 has no nodule"),
        "no number": (
            edited(folds.astype({"fold": object}), 4, fold="x"),
            "line 6: fold is 'x', but must be a finite int",
        ),
        "no column": (folds.drop(columns="label"), "column label is missing"),
    }


@pytest.mark.parametrize("damage", tampered(pd.read_csv(FOLDS_CSV)))
def test_a_tampered_table_is_named(tmp_path, folds, damage):
    table, part = tampered(folds)[damage]
    path = tmp_path / "folds.csv"
    table.to_csv(path, index=False)
    with pytest.raises(InputError) as error:
        read_folds(path)
    assert str(path) in str(error.value)
    assert part in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"folds\.csv: there is no such file"):
        read_folds(tmp_path / "folds.csv")
