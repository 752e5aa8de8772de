"""Classifiers on features: honest folds, the run contract, skip, and the same numbers again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import lidc_slices
from nodulebook.patches.store import read_store
from nodulebook.runs.contract import list_runs, read_run
from nodulebook.stats.metrics import roc_auc
from study.experiments import again as run_commands
from study.features import handcrafted as h
from study.features.definitions import GROUPS

FEW = (
    h.Candidate("logistic regression", {"C": 0.1}),
    h.Candidate("SVM (RBF)", {"C": 1.0, "gamma_times_features": 0.1}),
    h.Candidate("random forest", {"trees": 10, "min_samples_leaf": 5}),
)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Three of them, and two inner folds, to be quick."""
    monkeypatch.setattr(h, "CANDIDATES", FEW)
    monkeypatch.setattr(h, "INNER_FOLDS", 2)


@pytest.fixture(scope="module")
def folds():
    return read_folds().iloc[:300]


@pytest.fixture(scope="module")
def table(folds):
    """Made-up features: three say something of the label, three nothing."""
    generator = np.random.default_rng(0)
    label = folds["label"].to_numpy()[:, None]
    numbers = generator.normal(size=(len(folds), 6))
    numbers[:, :3] += 0.8 * label
    columns = [f"{group}:{k}" for group in ("size", "random") for k in range(3)]
    return pd.DataFrame(numbers, index=folds["nodule_id"].tolist(), columns=columns)


def test_a_fold_is_predicted_from_the_others(table, folds):
    out, prediction = h.predict_group(table, folds, "size", 3)
    assert sorted(out["nodule_id"]) == sorted(folds["nodule_id"][folds["fold"] == 3])
    assert out["p_malignant"].between(0, 1).all() and set(out["fold"]) == {3}
    assert roc_auc(out["label"], out["p_malignant"]) > 0.75
    assert prediction.chosen in FEW
    assert prediction.inner_auc[FEW.index(prediction.chosen)] == max(prediction.inner_auc)


@pytest.mark.parametrize("only", FEW, ids=lambda one: one.classifier)
def test_every_classifier_gives_sound_probabilities_twice_the_same(table, folds, only, monkeypatch):
    monkeypatch.setattr(h, "CANDIDATES", (only,))
    out, _ = h.predict_group(table, folds, "size", 0)
    again, _ = h.predict_group(table, folds.sample(frac=1, random_state=1), "size", 0)
    pd.testing.assert_frame_equal(out, again)  # to the last digit, whatever the order
    assert roc_auc(out["label"], out["p_malignant"]) > 0.7
    assert 0.3 < out["p_malignant"].mean() < 0.6


def test_neither_labels_nor_features_of_the_test_fold_take_part(table, folds):
    wanted, before = h.predict_group(table, folds, "size", 2)
    inside = folds["fold"] == 2
    flipped = folds.assign(label=folds["label"].where(~inside, 1 - folds["label"]))
    got, after = h.predict_group(table, flipped, "size", 2)
    assert got["p_malignant"].tolist() == wanted["p_malignant"].tolist()
    assert (after.chosen, after.inner_auc, after.loss) == (
        before.chosen, before.inner_auc, before.loss,
    )  # fmt: skip
    some = folds["nodule_id"][inside].iloc[::2].tolist()
    changed = table.copy()
    changed.loc[some] += 100
    got, _ = h.predict_group(changed, folds, "size", 2)
    kept = ~got["nodule_id"].isin(some)
    assert got["p_malignant"][kept].tolist() == wanted["p_malignant"][kept].tolist()


def test_inner_folds_never_split_a_patient(table, folds, monkeypatch):
    seen = []

    class Spy(h.StratifiedGroupKFold):
        def split(self, x, y, groups):
            for fit, hold in super().split(x, y, groups):
                names = np.array(groups)
                seen.append(set(names[fit]) & set(names[hold]))
                yield fit, hold

    monkeypatch.setattr(h, "StratifiedGroupKFold", Spy)
    h.predict_group(table, folds, "size", 1)
    assert len(seen) == h.INNER_FOLDS and not any(seen)


def test_groups_keep_to_their_columns(table):
    assert h.columns_of(table, "size") == ["size:0", "size:1", "size:2"]
    assert h.columns_of(table, "all") == list(table.columns)
    with pytest.raises(InputError, match="'volume' is not one of intensity, shape"):
        h.columns_of(table, "volume")


# ------------------------------------------------------------------------- runs, from made patches


def quick_features(volume, mask):
    """In place of `all_features`, which takes too long for 150 patches here."""
    return {group: {} for group in GROUPS} | {
        "size": {"volume_mm3": float(mask.sum())},
        "intensity": {"mean": float(np.float64(volume.mean()) / 3)},
    }


@pytest.fixture(scope="module")
def made(small_world, tmp_path_factory):
    """The run of sizes of 150 made patches, and their features."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h, "CANDIDATES", FEW)
        patch.setattr(h, "INNER_FOLDS", 2)
        patch.setattr(h, "all_features", quick_features)
        patch.setattr(paths, "DATA", root / "data")
        patch.setenv("NODULEBOOK_RUNS", str(root / "runs"))
        made = read_store(small_world / "data" / "patches" / "phantom")
        h.run_features(made, read_folds(), ["size"], say=lambda line: None)
    return root


@pytest.fixture
def store(small_world, tmp_path, monkeypatch):
    """The 150 patches; runs and features go to a folder of the test."""
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    return read_store(small_world / "data" / "patches" / "phantom")


@pytest.fixture
def runs(store, made, tmp_path, monkeypatch):
    """The store, the run of sizes and the features made from it."""
    monkeypatch.setattr(h, "all_features", quick_features)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return store


def test_ten_valid_folds_say_what_was_chosen(runs):
    run = read_run("features-size-phantom", folds=read_folds())
    assert run.missing_folds == () and len(run.probabilities) == 150
    assert set(run.probabilities["arm"]) == {"features-size"}
    for fold in run.folds.values():
        about = fold.run
        assert about["chosen"]["classifier"] in {one.classifier for one in FEW}
        assert len(about["chosen"]) > 1 and len(about["inner_auc"]) == len(FEW)
        assert about["n_features"] == 1 and about["n_train"] + about["n_test"] == 150
        assert about["data_hash"] == runs.digest and about["data_recipe"] == runs.recipe
        assert about["profile_hash"] == h.settings_hash("size")
    assert roc_auc(run.probabilities["label"], run.probabilities["p_malignant"]) > 0.8


def test_run_again_the_probabilities_are_the_same_to_the_last_digit(runs):
    """Two folds, from features computed anew."""
    folders = [paths.fold_folder("features-size-phantom", k) for k in (0, 7)]
    before = [sha256(folder / "probabilities.csv") for folder in folders]
    for folder in (*folders, paths.DATA):
        shutil.rmtree(folder)
    h.run_features(runs, read_folds(), ["size"], say=lambda line: None)
    assert [sha256(folder / "probabilities.csv") for folder in folders] == before


def test_the_command_again_finds_the_same_numbers(runs, monkeypatch):
    monkeypatch.setattr(run_commands, "open_source", lambda *_: runs)
    again = run_commands.run_again("features-size-phantom", 3)
    assert again.largest_difference == 0 and again.auc_again == again.auc_committed
    monkeypatch.setattr(run_commands, "open_source", lambda *_: replace(runs, digest="other"))
    with pytest.raises(InputError, match="data_hash"):
        run_commands.run_again("features-size-phantom", 3)


def test_what_is_done_is_skipped_and_what_is_missing_made(runs, monkeypatch, capsys):
    shutil.rmtree(paths.fold_folder("features-size-phantom", 4))
    monkeypatch.setattr(h, "all_features", None)  # the features are kept, too
    said = []
    h.run_features(runs, read_folds(), ["size"], say=said.append)
    assert capsys.readouterr().out.count("is done") == 9
    assert sum(line.startswith("fold 4 of features-size-phantom: ") for line in said) == 1
    assert list_runs() == ["features-size-phantom"]


def test_a_fold_of_other_settings_is_not_overwritten(runs, monkeypatch):
    monkeypatch.setattr(h, "CANDIDATES", FEW[:2])
    with pytest.raises(InputError, match=r"fold-0: made with other settings.*delete"):
        h.run_features(runs, read_folds(), ["size"])
    monkeypatch.setattr(h, "CANDIDATES", FEW)
    path = paths.fold_folder("features-size-phantom", 0) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "none"}))
    with pytest.raises(InputError, match=r"seed is 'none'.*\n?delete"):
        h.run_features(runs, read_folds(), ["size"])


def test_an_unknown_group_is_refused_before_any_run(runs):
    with pytest.raises(InputError, match="feature group 'colour'"):
        h.run_features(runs, read_folds(), ["intensity", "colour"])
    assert list_runs() == ["features-size-phantom"]


def test_a_patch_that_is_no_good_is_named(store):
    masks = np.array(store.masks)
    masks[7] = False
    name = store.table["nodule_id"].iloc[7]
    bad = replace(store, masks=masks)
    with pytest.raises(InputError, match=f"nodule {name} of phantom: the mask has no voxel"):
        h.feature_table(bad, [name])


def test_features_read_again_are_the_same(store):
    names = store.table["nodule_id"].tolist()[:3]
    first = h.feature_table(store, names)
    pd.testing.assert_frame_equal(h.feature_table(store, names), first)
    assert first.shape[1] > 250 and not first.isna().any().any()


def test_the_committed_runs_are_of_the_present_settings_and_data(monkeypatch):
    monkeypatch.undo()
    found = [name for name in list_runs() if name.startswith(h.PREFIX)]
    assert {h.run_name(group, "lidc_slices") for group in (*GROUPS, h.ALL)} <= set(found)
    for name in found:
        run = read_run(name, folds=read_folds())
        assert run.missing_folds == ()
        for fold in run.folds.values():
            about = fold.run
            group = about["profile"]["features"]
            assert about["profile_hash"] == h.settings_hash(group)
            assert about["data_recipe"]["nodules_csv"] == sha256(paths.NODULES_CSV)
            if about["source"] == "lidc_slices":
                assert about["data_recipe"]["slices"] == lidc_slices.VERSION
