"""The baseline: diameter alone, under the run contract, without a look at the test fold."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nodulebook.core import paths
from nodulebook.core.files import sha256
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import read_run
from nodulebook.stats.metrics import roc_auc
from study.experiments import baseline
from study.experiments.baseline import diameter_fold, run_diameter


@pytest.fixture(scope="module")
def nodules():
    return read_nodules()


@pytest.fixture(scope="module")
def folds():
    return read_folds()


@pytest.fixture(scope="module")
def run(nodules, folds, tmp_path_factory):
    """The run `diameter`, written and read."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODULEBOOK_RUNS", str(folder))
        run_diameter(nodules, folds)
        return read_run("diameter", folds=folds)


def test_ten_valid_folds_of_every_nodule(run, folds):
    assert run.missing_folds == () and sorted(run.folds) == list(range(10))
    assert sorted(run.probabilities["nodule_id"]) == sorted(folds["nodule_id"])
    for fold in run.folds.values():
        assert fold.run["n_train"] + fold.run["n_test"] == len(folds)
        assert fold.run["source"] == "annotations" and fold.run["absent_nodules"] == []
        assert fold.run["data_hash"] == sha256(paths.NODULES_CSV, paths.FOLDS_CSV)


def test_prediction_rises_with_diameter(run, nodules):
    diameter = nodules.set_index("nodule_id")["diameter_mm"]
    for fold in run.folds.values():
        table = fold.probabilities
        size = diameter.loc[table["nodule_id"]].to_numpy()
        order = np.argsort(size)
        p = table["p_malignant"].to_numpy()[order]
        assert (np.diff(p)[np.diff(size[order]) > 0] > 0).all()


def test_training_loss_beats_the_base_rate(run, folds):
    share = folds["label"].mean()
    blind = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    losses = [fold.history["loss"].iloc[-1] for fold in run.folds.values()]
    assert 0 < max(losses) < blind


def test_labels_of_the_test_fold_take_no_part(nodules, folds):
    wanted, loss = diameter_fold(nodules, folds, 4)
    inside = folds["fold"] == 4
    flipped = folds.assign(label=folds["label"].where(~inside, 1 - folds["label"]))
    got, other_loss = diameter_fold(nodules, flipped, 4)
    assert got["p_malignant"].tolist() == wanted["p_malignant"].tolist() and other_loss == loss
    assert got["label"].tolist() == (1 - wanted["label"]).tolist()


def test_diameters_of_the_test_fold_take_no_part(nodules, folds):
    wanted, loss = diameter_fold(nodules, folds, 4)
    some = set(folds["nodule_id"][folds["fold"] == 4].iloc[::2])
    changed = nodules["diameter_mm"].where(~nodules["nodule_id"].isin(some), 100.0)
    got, other_loss = diameter_fold(nodules.assign(diameter_mm=changed), folds, 4)
    kept = ~got["nodule_id"].isin(some)
    assert other_loss == loss
    assert got["p_malignant"][kept].tolist() == wanted["p_malignant"][kept].tolist()
    assert got["p_malignant"][~kept].nunique() == 1


def test_labels_of_the_other_folds_do_take_part(nodules, folds):
    wanted, _ = diameter_fold(nodules, folds, 4)
    flipped = folds.assign(label=folds["label"].where(folds["fold"] == 4, 1 - folds["label"]))
    got, _ = diameter_fold(nodules, flipped, 4)
    np.testing.assert_allclose(got["p_malignant"], 1 - wanted["p_malignant"], atol=1e-3)


def test_order_of_the_nodule_table_does_not_matter(nodules, folds):
    wanted, _ = diameter_fold(nodules, folds, 0)
    got, _ = diameter_fold(nodules.iloc[::-1], folds, 0)
    assert got.equals(wanted)


def test_pooled_auc_is_that_of_diameter(run, nodules, folds):
    diameter = nodules.set_index("nodule_id")["diameter_mm"].loc[folds["nodule_id"]]
    plain = roc_auc(folds["label"], diameter)
    pooled = roc_auc(run.probabilities["label"], run.probabilities["p_malignant"])
    # Ten fits hardly differ, so that pooling their probabilities changes few ranks.
    assert plain > 0.8
    assert pooled == pytest.approx(plain, abs=0.005)


def test_a_changed_probability_of_the_diameter_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(paths.runs_folder() / "diameter", tmp_path / "diameter")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    assert baseline.recheck() == []
    path = tmp_path / "diameter" / "fold-2" / "probabilities.csv"
    first = path.read_text().splitlines()[1].split(",")
    p = float(first[3])
    path.write_text(path.read_text().replace(first[3], repr(round(1 - p, 6)), 1))
    assert "fold-2: run again" in baseline.recheck()[0]
