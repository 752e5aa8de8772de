"""A cohort of one's own: written by hand or from scans, trained by papermill, compared."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_score import BALL, write_mhd

from nodulebook.core.errors import InputError
from nodulebook.data.cohort import label_nodules, read_own_nodules
from study.own_scans.adopt import adopt
from study.own_scans.evaluate import evaluate_scores
from study.own_scans.positions import read_positions
from study.own_scans.scans import find_scans


def made_cohort(folder: Path) -> Path:
    """The protocol in a few lines: three files, as any program can write them."""
    folder.mkdir()
    z, y, x = np.mgrid[-15.5:16, -15.5:16, -15.5:16]
    rows = [(f"n{k}", f"p{k // 2}", k % 2, k // 2 % 10) for k in range(60)]
    table = pd.DataFrame(rows, columns=["nodule_id", "patient_id", "label", "fold"])
    radius = 4 + 5 * table["label"] + np.random.default_rng(0).random(60)
    cubes = [np.where(z**2 + y**2 + x**2 < r**2, 40, -860) for r in radius]
    np.save(folder / "cubes.npy", np.array(cubes, np.int16))
    table.assign(diameter_mm=2 * radius).drop(columns="fold").to_csv(
        folder / "nodules.csv", index=False
    )
    table.to_csv(folder / "folds.csv", index=False)
    return folder


def test_a_cohort_goes_through_papermill_to_a_page(
    tmp_path: Path, world_env: dict[str, str]
) -> None:
    cohort = made_cohort(tmp_path / "cohort")
    given = ["fold", "--fold", "3", "--profile", "tiny", "--source", "own", "--no-explain"]
    done = subprocess.run(
        [sys.executable, "-m", "nodulebook", *given],
        env=world_env | {"NODULEBOOK_COHORT": str(cohort)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    fold = tmp_path / "runs" / "tiny-own" / "fold-3"
    table = pd.read_csv(fold / "probabilities.csv")
    assert set(table["nodule_id"]) == {"n6", "n7", "n26", "n27", "n46", "n47"}
    assert (cohort / "patches" / "own" / "store.json").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "nodulebook", "evaluate", "--scored", str(fold.parent), "--to",
         str(tmp_path / "ev")],
        env=world_env | {"NODULEBOOK_COHORT": str(cohort)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(pd.read_csv(tmp_path / "ev" / "nodules.csv")) == 6


def test_scans_and_labels_become_cubes_and_folds_by_patient(tmp_path: Path) -> None:
    for k in range(12):
        write_mhd(tmp_path / "scans", f"s{k}")
    x, y, z = BALL
    rows = [f"{k},s{k // 2},{x + k / 10},{y},{z},{k % 2},p{k // 2}" for k in range(24)] + [
        "lost,s99,1,2,3,1,p1",
        "none,s1,12,-7,30,,p1",
    ]
    table = tmp_path / "t.csv"
    header = "id,scan,x_mm,y_mm,z_mm,label,patient_id"
    table.write_text("\n".join([header, *rows]) + "\n")
    to = tmp_path / "cohort"
    folds, left_out = adopt(find_scans(tmp_path / "scans"), read_positions(table), to)
    assert len(folds) == 24 and left_out["id"].tolist() == ["lost"]
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    nodules = label_nodules(read_own_nodules(to / "nodules.csv"))
    assert nodules["label"].tolist() == folds["label"].tolist()
    cubes = np.load(to / "cubes.npy")
    assert cubes.shape == (24, 32, 32, 32) and cubes.dtype == np.int16
    assert (cubes[:, 15:17, 15:17, 15:17] > -100).all()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([header, *rows[:6]]) + "\n")
    with pytest.raises(InputError, match="patients"):
        adopt(find_scans(tmp_path / "scans"), read_positions(few), tmp_path / "c2")
    few.write_text("x_mm,y_mm,z_mm\n1,2,3\n")
    with pytest.raises(InputError, match="no position has a label"):
        adopt(find_scans(tmp_path / "scans"), read_positions(few), tmp_path / "c2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodule_id,label\na,1\n", "patient_id is missing"),
        ("nodule_id,patient_id\na,p\n", "label is missing"),
        ("nodule_id,patient_id,label\na,p,2\n", "line 2.*label 2"),
        ("nodule_id,patient_id,label\na,p,\n", "line 2: label"),
        ("nodule_id,patient_id,rating\na,p,6\n", "line 2.*rating 6"),
        ("nodule_id,patient_id,label\na,p,1\na,q,0\n", "line 3.*once"),
        ("nodule_id,patient_id,label,diameter_mm\na,p,1,big\n", "line 2: diameter_mm"),
    ],
)
def test_wrong_tables_of_nodules_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "nodules.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_own_nodules(tmp_path / "nodules.csv")


def made_scores(path: Path, n: int = 120, patients: int = 40) -> Path:
    """Scores and diameters that both tell the label, a little."""
    generator = np.random.default_rng(1)
    label = np.arange(n) % 3 == 0
    table = pd.DataFrame(
        {
            "id": [f"n{k}" for k in range(n)],
            "scan": [f"s{k // 2}" for k in range(n)],
            "patient_id": [f"p{k % patients}" for k in range(n)],
            "label": label.astype(int),
            "p_malignant": (0.4 + 0.2 * label + 0.15 * generator.normal(size=n)).clip(0.01, 0.99),
            "diameter_mm": np.exp(2 + 0.3 * label + 0.4 * generator.normal(size=n)),
        }
    )
    table.to_csv(path, index=False)
    return path


def test_scores_are_compared_with_a_ruler_patient_by_patient(tmp_path: Path) -> None:
    from nodulebook.stats.metrics import roc_auc

    scored = made_scores(tmp_path / "s.csv")
    said = evaluate_scores(scored, tmp_path / "ev")
    assert "40 patients" in said[0] and "the table's diameters" in said[0]
    table, rows = pd.read_csv(scored), pd.read_csv(tmp_path / "ev" / "evaluation.csv")
    value = rows.set_index("measure")["value"]
    assert value["AUC of the score"] == pytest.approx(
        roc_auc(table["label"], table["p_malignant"]), abs=1e-4
    )
    assert value["AUC of the ruler"] == pytest.approx(
        roc_auc(table["label"], table["diameter_mm"]), abs=1e-4
    )
    assert value["AUC, score minus ruler"] == pytest.approx(
        value["AUC of the score"] - value["AUC of the ruler"], abs=2e-4
    )
    assert rows["remark"].isna().all() and (rows["low"] <= rows["value"]).all()
    assert (tmp_path / "ev" / "index.html").read_text().count("<tr>") == len(rows) + 1 + 6


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    table = pd.read_csv(made_scores(tmp_path / "s.csv"))
    table.drop(columns=["patient_id", "diameter_mm"]).to_csv(tmp_path / "a.csv", index=False)
    said = evaluate_scores(tmp_path / "a.csv", tmp_path / "a")
    assert "60 scans" in said[0] and "none" in said[0]
    assert "names no patient" in (tmp_path / "a" / "index.html").read_text()
    rows = pd.read_csv(tmp_path / "a" / "evaluation.csv").set_index("measure")
    assert np.isnan(rows.loc["AUC of the ruler", "value"])
    one = table.assign(label=1, patient_in_training="yes")
    one.to_csv(tmp_path / "b.csv", index=False)
    said = evaluate_scores(tmp_path / "b.csv", tmp_path / "b")
    assert any("same label" in line for line in said) and "trained on" in said[1]
    table.groupby("label").head(5).to_csv(tmp_path / "c.csv", index=False)
    assert any(
        "fewer than 10" in line for line in evaluate_scores(tmp_path / "c.csv", tmp_path / "c")
    )


def test_labels_come_from_another_table_by_id_and_scan(tmp_path: Path) -> None:
    table = pd.read_csv(made_scores(tmp_path / "s.csv")).assign(id="1")
    table["scan"] = [f"s{k}" for k in range(len(table))]
    table.drop(columns="label").to_csv(tmp_path / "a.csv", index=False)
    table[["id", "scan", "label"]].iloc[::-1].to_csv(tmp_path / "labels.csv", index=False)
    evaluate_scores(tmp_path / "a.csv", tmp_path / "ev", tmp_path / "labels.csv")
    found = pd.read_csv(tmp_path / "ev" / "nodules.csv")
    assert found["label"].tolist() == table["label"].tolist()
    table[["id", "label"]].to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputError, match="scan"):
        evaluate_scores(tmp_path / "a.csv", tmp_path / "e2", tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,1\n", "p_malignant is missing"),
        ("id,label,p_malignant\na,1,1.5\n", "line 2: p_malignant is '1.5'"),
        ("id,label,p_malignant\na,1,\n", "line 2: p_malignant is ''"),
        ("id,p_malignant\na,0.5\n", "no nodule has a label"),
        ("id,rating,p_malignant\na,3,0.5\n", "no nodule has a label"),
        ("id,label,p_malignant\na,x,0.5\n", "line 2: label is 'x'"),
    ],
)
def test_wrong_scores_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate_scores(tmp_path / "s.csv", tmp_path / "ev")
