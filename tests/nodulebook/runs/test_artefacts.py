"""A fold's files read as they were written, and a broken one is refused by file, row and value."""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.runs.contract import (
    RUN_KEYS,
    Fold,
    list_runs,
    read_fold,
    read_run,
    write_fold,
)


def _fold(k=3, n=4, run="trial", arm="headline"):
    probabilities = pd.DataFrame(
        {
            "nodule_id": [f"P{k}-{i}" for i in range(n)],
            "patient_id": [f"P{k}-{i // 2}" for i in range(n)],
            "label": [i % 2 for i in range(n)],
            "p_malignant": np.random.default_rng(k).random(n),
            "fold": k,
            "arm": arm,
        }
    )
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [0.7, 0.5, 0.4], "lr": [0.1, 0.1, 0.01]})
    about = {
        "run": run,
        "arm": arm,
        "source": "phantom",
        "fold": k,
        "seed": 0,
        "profile": {"name": "quick", "epochs": 3},
        "profile_hash": "aa",
        "data_hash": "bb",
        "n_train": 20,
        "n_test": n,
        "absent_nodules": [],
        "versions": {"numpy": "2"},
        "backend": "tensorflow",
        "device": "cpu",
        "wall_seconds": 1.5,
        "started": "2024-01-01T00:00:00+00:00",
        "ended": "2024-01-01T00:00:01+00:00",
    }
    return Fold(probabilities, history, about)


def _write(folder, fold):
    folder.mkdir(parents=True, exist_ok=True)
    write_fold(folder, fold.probabilities, fold.history, fold.run)
    return folder


def _expected(*folds):
    columns = ["nodule_id", "patient_id", "label", "fold"]
    return pd.concat([fold.probabilities[columns] for fold in folds], ignore_index=True)


@pytest.fixture
def folder(tmp_path):
    """A valid fold 3."""
    return _write(tmp_path / "trial" / "fold-3", _fold())


def test_round_trip(folder):
    fold, wanted = read_fold(folder, _expected(_fold())), _fold()
    pd.testing.assert_frame_equal(fold.probabilities, wanted.probabilities, check_exact=True)
    pd.testing.assert_frame_equal(fold.history, wanted.history, check_exact=True)
    assert fold.run == wanted.run
    assert sorted(p.name for p in folder.iterdir()) == [
        "history.csv",
        "probabilities.csv",
        "run.json",
    ]


def _lesions(fold):
    """Its test nodules, and a lesion without a label of the first of them's patient."""
    table = fold.probabilities
    other = table.iloc[[0]].assign(nodule_id="other", label=np.nan, p_malignant=0.25)
    return pd.concat([table, other], ignore_index=True)


def test_lesions_are_written_and_read(tmp_path):
    fold = _fold()
    folder = tmp_path / "fold-3"
    folder.mkdir()
    write_fold(folder, fold.probabilities, fold.history, fold.run, _lesions(fold))
    assert ",,0.25," in (folder / "lesions.csv").read_text()  # no label: an empty cell
    read = read_fold(folder, _expected(fold)).lesions
    wanted = _lesions(fold).astype({"label": float})
    pd.testing.assert_frame_equal(read, wanted, check_exact=True)


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("label", 1, 0),  # probabilities.csv says 1
        ("label", -1, 1),  # not a test nodule, so the rule gives it none
        ("label", -1, "x"),
        ("p_malignant", -1, 1.5),
        ("p_malignant", 0, 0.5),  # another than in probabilities.csv
        ("patient_id", -1, "p-of-the-training"),
        ("nodule_id", 0, "gone"),  # a test nodule is missing
        ("fold", -1, 4),
        ("arm", -1, "other"),
        ("nodule_id", -1, "n3-0"),
    ],
)
def test_wrong_lesions_are_refused(tmp_path, column, row, value):
    fold = _fold()
    folder = _write(tmp_path / "fold-3", fold)
    lesions = _lesions(fold).astype(object)
    if value == "n3-0":
        value = fold.probabilities["nodule_id"].iloc[0]
    lesions.loc[lesions.index[row], column] = value
    lesions.to_csv(folder / "lesions.csv", index=False)
    with pytest.raises(InputError, match=r"lesions\.csv"):
        read_fold(folder, _expected(fold))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_probabilities_survive_to_the_last_bit(tmp_path, p):
    fold = _fold(n=len(p))
    written = fold.probabilities.assign(p_malignant=p)
    folder = _write(tmp_path / "fold-3", replace(fold, probabilities=written))
    assert read_fold(folder).probabilities["p_malignant"].tolist() == p


def test_float32_bool_and_column_order_do_not_matter(tmp_path):
    fold = _fold()
    p = fold.probabilities["p_malignant"].astype("float32")
    table = fold.probabilities.assign(p_malignant=p, label=fold.probabilities["label"] == 1)
    history = fold.history.astype("float32")
    folder = _write(
        tmp_path / "fold-3", Fold(table[list(reversed(table.columns))], history, fold.run)
    )
    got = read_fold(folder)
    assert got.probabilities["p_malignant"].tolist() == p.astype(float).tolist()
    assert got.probabilities["label"].tolist() == fold.probabilities["label"].tolist()
    assert list(got.probabilities.columns) == list(fold.probabilities.columns)
    assert got.history["loss"].tolist() == history["loss"].astype(float).tolist()


def test_a_fold_may_be_written_aside_and_renamed(tmp_path):
    aside = _write(tmp_path / "trial" / ".fold-3.x1", _fold())
    aside.rename(aside.with_name("fold-3"))
    assert read_fold(tmp_path / "trial" / "fold-3").run["fold"] == 3
    with pytest.raises(InputError, match="fold is 3, but the folder's is 4"):
        _write(tmp_path / "trial" / ".fold-4.x1", _fold())


@dataclass
class Broken:
    """One way to break a fold's files: a file's text, before and after, and what is said."""

    file: str
    old: str
    new: str
    says: str


P = "probabilities.csv"
BROKEN = {
    "column": Broken(P, "p_malignant,fold", "prob,fold", "column p_malignant is missing"),
    "unknown column": Broken(P, "arm\n", "arm,x\n", "x is unknown"),
    "empty file": Broken(P, r"(?s).*", "", "not a readable CSV"),
    "header only": Broken(P, r"(?s)arm\n.*", "arm\n", "has no nodule"),
    "p nan": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,nan", "line 3: p_malignant is 'nan'"),
    "p empty": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,", "line 3: p_malignant is ''"),
    "p inf": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,inf", "line 3: p_malignant is 'inf'"),
    "p text": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,high", "line 3: p_malignant is 'high'"),
    "p above 1": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,1.0001", "line 3: p_malignant is 1.0001"),
    "p below 0": Broken(P, r"(P3-1,P3-0,1),[^,]*", r"\1,-0.1", "line 3: p_malignant is -0.1"),
    "label 2": Broken(P, "P3-2,P3-1,0", "P3-2,P3-1,2", "line 4: label is 2, must be 0 or 1"),
    "label 0.5": Broken(P, "P3-2,P3-1,0", "P3-2,P3-1,0.5", "line 4: label is '0.5'"),
    "nodule twice": Broken(P, "P3-3,", "P3-2,", "line 5: nodule_id is 'P3-2', is there twice"),
    "no patient": Broken(P, "P3-3,P3-1", "P3-3,", "line 5: patient_id is ''"),
    "nodule missing": Broken(P, "P3-2,.*\n", "", "n_test is 4"),
    "fold of a row": Broken(P, "(P3-2.*),3,", r"\1,2,", "line 4: fold is 2, but run.json says 3"),
    "two arms": Broken(P, "(P3-2.*),headline", r"\1,other", "line 4: arm is 'other'"),
    "history empty": Broken("history.csv", r"(?s)\n.*", "\n", "has no epoch"),
    "no loss": Broken("history.csv", "loss", "cost", "column loss is missing"),
    "loss nan": Broken("history.csv", "2,0.5", "2,nan", "line 3: loss is 'nan'"),
    "other nan": Broken("history.csv", "2,0.5,0.1", "2,0.5,", "line 3: lr is ''"),
    "epoch from 0": Broken("history.csv", "\n1,", "\n0,", "line 2: epoch is 0"),
    "epoch skipped": Broken("history.csv", "2,0.5,0.1\n", "", "line 3: epoch is 3"),
    "not json": Broken("run.json", "{", "", "not a JSON file"),
    "not an object": Broken("run.json", r"(?s).*", "[1]\n", "but is a list"),
    "key": Broken("run.json", '"seed"', '"seeds"', "seed is missing"),
    "fold of run.json": Broken("run.json", '"fold": 3', '"fold": 2', "the folder's is 3"),
    "fold as text": Broken("run.json", '"fold": 3', '"fold": "3"', "fold is '3', but must be a"),
    "seed true": Broken("run.json", '"seed": 0', '"seed": true', "seed is True"),
    "seconds nan": Broken("run.json", "1.5", "NaN", "wall_seconds is nan"),
    "arm of run.json": Broken("run.json", '"headline"', '"other"', "line 2: arm is 'headline'"),
    "absent": Broken("run.json", r'"absent_nodules": \[\]', '"absent_nodules": [7]', "has 7"),
    "absent but there": Broken(
        "run.json", r'(absent_nodules": \[)', r'\1"P3-1"', "line 3: nodule_id is 'P3-1', but run"
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(folder, broken):
    path = folder / broken.file
    before = path.read_text()
    after = re.sub(broken.old, broken.new, before, count=1)
    assert after != before
    path.write_text(after)
    with pytest.raises(InputError, match=re.escape(broken.says)) as caught:
        read_fold(folder)
    assert str(folder) in str(caught.value)
    assert broken.file in str(caught.value)


@pytest.mark.parametrize("name", [P, "history.csv", "run.json"])
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        read_fold(folder)


@pytest.mark.parametrize("key", RUN_KEYS)
def test_every_key_of_run_json_is_needed(folder, key):
    about = _fold().run
    del about[key]
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=f"{key} is missing"):
        read_fold(folder)


def test_a_folder_of_another_name_is_not_a_fold(folder):
    for name in ("fold-03", "fold-x", "3", ".fold-3"):
        folder = folder.rename(folder.with_name(name))
        with pytest.raises(InputError, match="fold-<number>"):
            read_fold(folder)


def test_missing_and_extra_nodules(folder):
    table = _expected(_fold(), _fold(k=4))
    read_fold(folder, table)  # those of fold 4 are not asked for
    with pytest.raises(InputError, match=r"probabilities.csv: 2 nodules are missing.*P3-4"):
        read_fold(folder, _expected(_fold(n=6)))
    with pytest.raises(InputError, match="line 4: nodule_id is 'P3-2', which is none of fold 3's"):
        read_fold(folder, _expected(_fold(n=2)))
    with pytest.raises(InputError, match="line 3: label of P3-1 is 1, but must be 0"):
        read_fold(folder, table.assign(label=0))
    with pytest.raises(InputError, match="line 2: patient_id of P3-0 is 'P3-0', but must be 'Q'"):
        read_fold(folder, table.assign(patient_id="Q"))


def test_nodules_that_the_source_lacks_are_not_missed(tmp_path):
    fold = _fold()
    fold.run["absent_nodules"] = ["P3-4", "P3-5", "of another fold"]
    folder = _write(tmp_path / "fold-3", fold)
    assert read_fold(folder, _expected(_fold(n=6)))
    assert read_fold(folder, _expected(_fold(n=4)))  # already taken off
    with pytest.raises(InputError, match="1 nodules are missing, the first is P3-6"):
        read_fold(folder, _expected(_fold(n=7)))


def test_the_order_of_rows_is_free(tmp_path):
    fold = _fold()
    folder = _write(tmp_path / "fold-3", replace(fold, probabilities=fold.probabilities[::-1]))
    assert read_fold(folder, _expected(fold)).probabilities["nodule_id"].iloc[0] == "P3-3"


WRONG = {
    "p": (lambda f: f.probabilities.__setitem__("p_malignant", 1.5), "line 2: p_malignant is 1.5"),
    "nan": (lambda f: f.probabilities.__setitem__("p_malignant", np.nan), "p_malignant is nan"),
    "text": (lambda f: f.probabilities.__setitem__("p_malignant", "high"), "cannot be written"),
    "label": (lambda f: f.probabilities.__setitem__("label", 0.5), "label is 0.5"),
    "fold": (lambda f: f.probabilities.__setitem__("fold", 1), "fold is 1"),
    "id": (lambda f: f.probabilities.__setitem__("patient_id", 7), "patient_id is 7, must be text"),
    "column": (lambda f: f.probabilities.pop("arm"), "column arm is missing"),
    "loss": (lambda f: f.history.__setitem__("loss", np.inf), "loss is inf"),
    "epoch": (lambda f: f.history.__setitem__("epoch", [0, 1, 2]), "epoch is 0"),
    "key": (lambda f: f.run.pop("profile"), "profile is missing"),
    "json": (lambda f: f.run.__setitem__("profile", {"x": np.float32(1)}), "cannot be written"),
    "json nan": (lambda f: f.run.__setitem__("profile", {"x": np.nan}), "cannot be written"),
    "n": (lambda f: f.run.__setitem__("n_test", 5), "n_test is 5"),
}


@pytest.mark.parametrize(("spoil", "says"), WRONG.values(), ids=WRONG)
def test_nothing_wrong_is_written(tmp_path, spoil, says):
    fold = _fold()
    spoil(fold)
    with pytest.raises(InputError, match=says):
        _write(tmp_path / "fold-3", fold)
    assert list((tmp_path / "fold-3").iterdir()) == []


def test_the_folder_must_be_there(tmp_path):
    fold = _fold()
    with pytest.raises(InputError, match="no such folder"):
        write_fold(tmp_path / "fold-3", fold.probabilities, fold.history, fold.run)
    assert not (tmp_path / "fold-3").exists()


def test_an_empty_folder_is_not_done_silently(tmp_path):
    (tmp_path / "fold-3").mkdir()
    with pytest.raises(InputError, match=r"probabilities.csv: there is no such file"):
        read_fold(tmp_path / "fold-3")


def test_a_run_pools_its_folds(tmp_path):
    for k in (10, 9, 0):
        _write(tmp_path / "trial" / f"fold-{k}", _fold(k, n=k % 4 + 1))
    (tmp_path / "trial" / "fold-1.ipynb").touch()
    (tmp_path / "trial" / ".fold-2.x").mkdir()
    run = read_run("trial", tmp_path)
    assert run.name == "trial"
    assert list(run.folds) == [0, 9, 10]
    assert run.probabilities["fold"].tolist() == [0, 9, 9, 10, 10, 10]
    assert run.probabilities.index.tolist() == list(range(6))
    assert run.missing_folds == (1, 2, 3, 4, 5, 6, 7, 8)


def test_a_run_is_checked_against_the_folds_table(tmp_path):
    for k in (0, 2):
        _write(tmp_path / "trial" / f"fold-{k}", _fold(k))
    table = _expected(*(_fold(k) for k in range(4)))
    assert read_run("trial", tmp_path, table).missing_folds == (1, 3)
    with pytest.raises(InputError, match=r"fold-2.*1 nodules are missing, the first is P2-4"):
        read_run("trial", tmp_path, _expected(_fold(0), _fold(2, n=5)))


def test_runs_are_found_where_paths_says(tmp_path, monkeypatch):
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    assert list_runs() == []
    _write(tmp_path / "runs" / "b" / "fold-0", _fold(0, run="b"))
    _write(tmp_path / "runs" / "a" / "fold-0", _fold(0, run="a"))
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "README.md").touch()
    assert list_runs() == ["a", "b"]
    assert read_run("a").name == "a"


@pytest.mark.parametrize("name", ["other", "", "..", "trial/fold-3"])
def test_an_unknown_run_names_the_runs_there_are(folder, name):
    with pytest.raises(InputError, match="there is trial"):
        read_run(name, folder.parent.parent)
    with pytest.raises(InputError, match="none at all"):
        read_run(name, folder / "nowhere")


@pytest.mark.parametrize(
    "key", ["arm", "seed", "rule", "source", "profile_hash", "data_hash", "run"]
)
def test_folds_of_two_experiments_are_not_pooled(tmp_path, key):
    _write(tmp_path / "trial" / "fold-0", _fold(0))
    other = _fold(1)
    other.run[key] = value = 7 if key == "seed" else "different"
    if key == "arm":
        other = replace(other, probabilities=other.probabilities.assign(arm="different"))
    _write(tmp_path / "trial" / "fold-1", other)
    with pytest.raises(InputError, match=rf"fold-1.*{key} is {value!r}, but"):
        read_run("trial", tmp_path)


def test_a_nodule_is_tested_once(tmp_path):
    _write(tmp_path / "trial" / "fold-0", _fold(0))
    twice = _fold(1)
    twice.probabilities.loc[2, "nodule_id"] = "P0-1"
    _write(tmp_path / "trial" / "fold-1", twice)
    with pytest.raises(InputError, match=r"nodule P0-1 is tested in folds \[0, 1\]"):
        read_run("trial", tmp_path)
