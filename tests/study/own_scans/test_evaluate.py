"""`nodulebook evaluate`: which labels count for which nodules, and its sums on few patients."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data import cohort as cohorts
from study.own_scans import evaluate
from study.own_scans.evaluate import evaluate_scores
from study.own_scans.positions import WORLD

RUN = paths.runs_folder() / "diameter"
N = 60
PATHOLOGY = np.arange(N) % 2
SCORED = pd.DataFrame(
    {
        "id": [f"n{k}" for k in range(N)],
        "scan": [f"ct{k}" for k in range(N)],
        "patient_id": [f"P{k // 2}" for k in range(N)],
        "p_malignant": np.random.default_rng(0).random(N).round(3),
        "diameter_mm": np.random.default_rng(1).uniform(4, 20, N).round(1),
    }
)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "DRAWS", 50)


def evaluated(tmp_path: Path, scored: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    scored.to_csv(tmp_path / "s.csv", index=False)
    labels.to_csv(tmp_path / "l.csv", index=False)
    evaluate_scores(tmp_path / "s.csv", tmp_path / "ev", tmp_path / "l.csv")
    return pd.read_csv(tmp_path / "ev" / "nodules.csv")


@pytest.mark.parametrize("before", [{"label": 1 - PATHOLOGY}, {"rating": 5 - 4 * PATHOLOGY}])
@pytest.mark.parametrize("given", [{"label": PATHOLOGY}, {"rating": 1 + 4 * PATHOLOGY}])
@pytest.mark.parametrize("more", [["scan"], ["scan", "patient_id"], ["patient_id"], []])
def test_labels_of_a_table_replace_those_of_the_scores(tmp_path, before, given, more) -> None:
    labels = SCORED[["id", *more]].assign(**given)
    part = labels.sample(frac=0.5, random_state=1)
    found = evaluated(tmp_path, SCORED.assign(**before), part)
    number = found["nodule_id"].str.extract(r"n(\d+)$")[0].astype(int)
    assert number.tolist() == sorted(part.index)  # no other nodule counts
    assert found["label"].tolist() == PATHOLOGY[number].tolist()
    assert found["patient_id"].tolist() == SCORED["patient_id"][number].tolist()


def test_what_a_table_of_labels_does_not_say_is_that_of_the_scores(tmp_path: Path) -> None:
    labels = SCORED[["id"]].assign(label=PATHOLOGY, diameter_mm="", patient_id="")
    labels.loc[3, ["diameter_mm", "patient_id"]] = ["77", "P99"]
    found = evaluated(
        tmp_path, SCORED.drop(columns="patient_id"), labels.drop(columns="patient_id")
    )
    assert found["diameter_mm"].drop(3).tolist() == SCORED["diameter_mm"].drop(3).tolist()
    assert found["diameter_mm"][3] == 77
    found = evaluated(tmp_path, SCORED.drop(columns="patient_id"), labels.assign(patient_id="P99"))
    assert set(found["patient_id"]) == {"P99"}


@pytest.mark.parametrize("scan", ["ct{}.nii.gz", "/data/ct{}.mhd", "export/ct{}/", "export/ct{}"])
def test_labels_by_scan_alone_may_name_its_file(tmp_path: Path, scan: str) -> None:
    labels = pd.DataFrame({"scan": [scan.format(k) for k in range(N)], "label": PATHOLOGY})
    found = evaluated(tmp_path, SCORED.assign(id="1"), labels.iloc[::-1])
    assert found["label"].tolist() == PATHOLOGY.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pd.DataFrame({"nodule": range(N), "label": PATHOLOGY}), "needs a column id"),
        (SCORED[["scan"]].assign(id="x", label=1), "none of its rows"),
        (SCORED[["id", "scan"]], "no row has a label"),
        (SCORED[["id"]].assign(rating=3), "no row has a label"),
        (pd.concat([SCORED[["id"]]] * 2).assign(label=1), "line 62: id 'n0'"),
        (SCORED[["scan"]].assign(label=1, scan="ct1"), "several nodules"),
        (SCORED[["id"]].assign(file="other.nii.gz", label=1), "none of its rows"),
    ],
)
def test_labels_that_fit_no_or_several_nodules_are_refused(tmp_path, labels, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluated(tmp_path, SCORED, labels)
    assert not (tmp_path / "ev").exists()


def test_a_column_of_files_is_the_scan_of_labels(tmp_path: Path) -> None:
    """Numbers of rows say nothing where another column names the scan."""
    scored = SCORED.assign(id=[str(k) for k in range(N)])
    labels = pd.DataFrame({"id": range(N), "file": [f"ct{k}.nii.gz" for k in range(N)]})
    labels = labels.assign(id=labels["id"].to_numpy()[::-1], label=PATHOLOGY)
    with pytest.raises(InputError, match="none of its rows"):
        evaluated(tmp_path, scored, labels)
    found = evaluated(tmp_path, scored.assign(id="1"), labels.assign(id="1"))
    assert found["label"].tolist() == PATHOLOGY.tolist()


def test_scans_are_met_as_written_before_their_names(tmp_path: Path) -> None:
    scored = SCORED.assign(scan=[f"{k % 2}/ct{k // 2}" for k in range(N)], id="1")
    labels = scored[["scan", "id"]].assign(label=PATHOLOGY)
    found = evaluated(tmp_path, scored, labels.iloc[::-1])
    assert found["label"].tolist() == PATHOLOGY.tolist()
    labels.loc[0, "label"] = np.nan  # its namesake's label is not its own
    assert len(evaluated(tmp_path, scored, labels)) == N - 1


def test_a_scored_table_without_ids_may_come_again_with_labels(tmp_path: Path) -> None:
    """The rows of a scan are met by their places, in any order."""
    places = np.random.default_rng(2).uniform(-100, 100, (N, 3))
    scored = SCORED.assign(scan="ct", **dict(zip(WORLD, places.T.round(3), strict=True)))
    labels = pd.DataFrame(places, columns=list(WORLD)).assign(scan="ct", label=PATHOLOGY)
    found = evaluated(tmp_path, scored, labels.sample(frac=1, random_state=3))
    assert found["label"].tolist() == PATHOLOGY.tolist()


def test_labels_by_id_need_no_patients(tmp_path: Path) -> None:
    scored = SCORED.assign(patient_id=SCORED["patient_id"].where(np.arange(N) % 3 > 0, ""))
    for patient in (SCORED["patient_id"], SCORED["patient_id"].str.replace("P", "Q-")):
        labels = SCORED[["id"]].assign(patient_id=patient, label=PATHOLOGY)
        found = evaluated(tmp_path, scored, labels)
        assert found["label"].tolist() == PATHOLOGY.tolist()
        assert found["patient_id"].tolist() == patient.tolist()
    same = SCORED.assign(id=[str(k % 2) for k in range(N)]).drop(columns="scan")
    labels = same[["id", "patient_id"]].assign(label=PATHOLOGY)
    found = evaluated(tmp_path, same, labels.iloc[::-1])  # ids repeat from patient to patient
    assert found["label"].tolist() == PATHOLOGY.tolist()


def test_labels_without_a_scored_nodule_are_counted(tmp_path: Path) -> None:
    SCORED.iloc[:40].to_csv(tmp_path / "s.csv", index=False)
    SCORED[["id"]].assign(label=PATHOLOGY).to_csv(tmp_path / "l.csv", index=False)
    said = evaluate_scores(tmp_path / "s.csv", tmp_path / "ev", tmp_path / "l.csv")
    assert any("20 more rows" in line for line in said)


def test_labels_of_a_table_replace_those_of_a_run(tmp_path: Path) -> None:
    evaluate_scores(RUN, tmp_path / "own")
    own = pd.read_csv(tmp_path / "own" / "nodules.csv")
    own["nodule_id"] = own["nodule_id"].str.strip()
    labels = own[["nodule_id"]].assign(label=1 - own["label"]).iloc[100:400]
    labels.to_csv(tmp_path / "l.csv", index=False)
    evaluate_scores(RUN, tmp_path / "ev", tmp_path / "l.csv")
    found = pd.read_csv(tmp_path / "ev" / "nodules.csv")
    assert found["label"].tolist() == labels["label"].tolist()
    with pytest.raises(InputError, match=r"absent\.csv"):
        evaluate_scores(RUN, tmp_path / "ev", tmp_path / "absent.csv")


def test_a_run_of_another_cohort_is_refused(tmp_path: Path, monkeypatch) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "nodules.csv").write_text("nodule_id,patient_id,label\na 1,P1,1\n")
    for module in (paths, cohorts):  # as where NODULEBOOK_COHORT names the folder
        monkeypatch.setattr(module, "OWN_COHORT", cohort)
        monkeypatch.setattr(module, "NODULES_CSV", cohort / "nodules.csv")
    with pytest.raises(InputError, match="NODULEBOOK_COHORT"):
        evaluate_scores(RUN, tmp_path / "ev")


def test_few_patients_with_labels_of_one_kind_lose_no_measure(tmp_path: Path) -> None:
    """Their ten folds cannot all hold both labels, but no measure needs that."""
    label = np.repeat([1, 0], [24, 40])
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": range(64),
            "patient_id": [*np.repeat(range(8), 3), *np.repeat(range(8, 28), 2)],
            "p_malignant": (0.3 + 0.3 * label + 0.2 * generator.normal(size=64)).clip(0.01, 0.99),
            "diameter_mm": 8 + 3 * label + 4 * generator.random(64),
            "label": label,
        }
    )
    table.to_csv(tmp_path / "s.csv", index=False)
    evaluate_scores(tmp_path / "s.csv", tmp_path / "ev")
    rows = pd.read_csv(tmp_path / "ev" / "evaluation.csv").set_index("measure")
    assert rows["remark"].isna().all()
    value = rows["value"]
    assert value["AUC, score minus ruler"] == pytest.approx(
        value["AUC of the score"] - value["AUC of the ruler"], abs=2e-4
    )
    assert value["AUC, both minus fitted ruler"] == pytest.approx(
        value["AUC of both together"] - value["AUC of the ruler, fitted"], abs=2e-4
    )


def said_of(tmp_path: Path, table: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    table.to_csv(tmp_path / "s.csv", index=False)
    said = evaluate_scores(tmp_path / "s.csv", tmp_path / "ev")
    return said, pd.read_csv(tmp_path / "ev" / "evaluation.csv").set_index("measure")


@pytest.mark.parametrize("given", ["--scored", "--labels"])
def test_what_is_evaluated_is_not_replaced(tmp_path: Path, given: str) -> None:
    table = tmp_path / "own" / "nodules.csv"
    table.parent.mkdir()
    SCORED.assign(label=PATHOLOGY).to_csv(table, index=False)
    SCORED.to_csv(tmp_path / "s.csv", index=False)
    scored = table if given == "--scored" else tmp_path / "s.csv"
    with pytest.raises(InputError, match=f"{given} .*nodules.csv: is inside"):
        evaluate_scores(scored, table.parent, table)
    assert "diameter_mm" in table.read_text()


@pytest.mark.parametrize("patients", [1, 4])
def test_a_label_of_few_patients_has_no_interval(tmp_path: Path, patients: int) -> None:
    """Draws without any of them would be dropped: the interval would be too narrow."""
    whose = [f"M{k % patients}" if one else f"B{k}" for k, one in enumerate(PATHOLOGY)]
    _, rows = said_of(tmp_path, SCORED.assign(patient_id=whose, label=PATHOLOGY))
    assert rows.drop("mean score")["value"].isna().all()
    assert rows.drop("mean score")["remark"].str.contains("fewer than 5 patients").all()


def test_the_mean_score_of_few_patients_has_no_interval(tmp_path: Path) -> None:
    _, rows = said_of(tmp_path, SCORED.head(6).assign(label=PATHOLOGY[:6]))
    assert rows["value"].isna().all()
    _, rows = said_of(tmp_path, SCORED.assign(label=1))
    assert rows["value"].notna().tolist() == [True] + [False] * (len(rows) - 1)


def test_rows_without_a_place_are_evaluated(tmp_path: Path) -> None:
    places = pd.DataFrame({name: ["", *map(str, range(1, N))] for name in WORLD})
    placed = pd.concat([SCORED, places], axis=1).assign(label=PATHOLOGY)
    said, _ = said_of(tmp_path, placed)
    assert said[0].startswith("60 nodules")
    found = evaluated(tmp_path, SCORED, placed.drop(columns="p_malignant"))
    assert found["label"].tolist() == PATHOLOGY.tolist()


def test_labels_that_are_of_ratings_are_counted(tmp_path: Path) -> None:
    label = pd.Series(PATHOLOGY, dtype=object).where(np.arange(N) < 40, "unknown")
    said, _ = said_of(tmp_path, SCORED.assign(label=label, rating=1 + 4 * PATHOLOGY))
    assert any("20 nodules without a label" in line for line in said)
    assert "20 nodules without a label" in (tmp_path / "ev" / "index.html").read_text()
    for whole in (SCORED.assign(label=PATHOLOGY, rating=2), SCORED.assign(rating=5)):
        said, _ = said_of(tmp_path, whole)
        assert not any("rating" in line for line in said)


def test_row_numbers_of_tables_in_another_order_do_not_meet(tmp_path: Path) -> None:
    scored = SCORED.assign(id=range(N))
    labels = SCORED[["patient_id"]].assign(label=PATHOLOGY).iloc[::-1]
    with pytest.raises(InputError, match=r"l\.csv: line 2: patient_id is 'P29', but 'P0'"):
        evaluated(tmp_path, scored, labels.assign(id=range(N)))


def test_ids_that_differ_in_part_are_shown(tmp_path: Path) -> None:
    scored = SCORED.assign(id=[f"{k:03d}" for k in range(60, 60 + N)])
    scored.to_csv(tmp_path / "s.csv", index=False)
    labels = scored[["id"]].assign(label=PATHOLOGY, id=range(60, 60 + N))
    labels.to_csv(tmp_path / "l.csv", index=False)
    said = evaluate_scores(tmp_path / "s.csv", tmp_path / "ev", tmp_path / "l.csv")
    assert any("40 more rows" in line and "'60'" in line and "'060'" in line for line in said)


def test_folds_that_a_run_lacks_are_said(tmp_path: Path) -> None:
    for k in (2, 5):
        shutil.copytree(RUN / f"fold-{k}", tmp_path / RUN.name / f"fold-{k}")
    said = evaluate_scores(tmp_path / RUN.name, tmp_path / "ev")
    assert any("folds 0, 1, 3, 4, 6, 7, 8, 9 are not there" in line for line in said)


def test_nodules_of_other_patients_are_another_cohort(tmp_path: Path, monkeypatch) -> None:
    nodules = cohorts.read_nodules()
    monkeypatch.setattr(evaluate, "read_nodules", lambda: nodules.assign(patient_id="P1"))
    with pytest.raises(InputError, match="NODULEBOOK_COHORT"):
        evaluate_scores(RUN, tmp_path / "ev")
