"""Training as a function of (profile, source, fold, seed)."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.core.settings import NetworkSettings, Profile, RivalSettings, TrainingSettings
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model import checkpoint, targets
from nodulebook.model import train as training
from nodulebook.patches.cube import PATCH_SIZE
from nodulebook.patches.store import PatchStore


def profile(**settings: object) -> Profile:
    return Profile(
        description="",
        seed=1,
        network=NetworkSettings(
            filters=[4, 4, 4, 4], modules=[1, 1, 1, 1], input_pooling=2,
            pool_after=["first_convolution", "stage1"],
        ),
        training=TrainingSettings.model_validate(
            {"epochs": 2, "batch_size": 8, "learning_rate": 0.05} | settings
        ),
    )  # fmt: skip


@pytest.fixture
def data() -> targets.FoldData:
    """24 patches, bright where malignant; 16 to train on."""
    generator = np.random.default_rng(0)
    label = np.arange(24) % 2
    names = [f"n{i:02d}" for i in range(24)]
    level = np.where(label == 1, 0, -700)[:, None, None, None]
    shape = (24, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    volumes = (level + generator.normal(0, 50, shape)).astype(np.int16)
    patients = [f"p{i // 2:02d}" for i in range(24)]
    table = pd.DataFrame({"nodule_id": names, "patient_id": patients, "series_uid": "1.2"})
    store = PatchStore("phantom", volumes, volumes > -300, table, "digest", {})
    folds = table[["nodule_id", "patient_id"]].assign(label=label, fold=np.arange(24) // 8)
    absent = pd.DataFrame({"nodule_id": ["n99"], "patient_id": ["p99"], "label": [1], "fold": [1]})
    return targets.split_fold(pd.concat([folds, absent], ignore_index=True), store, 1)


def test_a_fold_holds_out_its_nodules_and_lists_the_absent(data: targets.FoldData) -> None:
    assert data.test["nodule_id"].tolist() == [f"n{i:02d}" for i in range(8, 16)]
    assert len(data.train) == 16
    assert not set(data.train["nodule_id"]) & set(data.test["nodule_id"])
    assert data.absent == ["n99"]
    assert data.test_volumes.dtype == np.float32
    # n08 is benign: about -700 HU, which is (-700 + 1200) / 1800 of the window
    assert data.test_volumes[0].mean() == pytest.approx(500 / 1800, abs=0.01)


def test_hidden_patients_take_no_part(data: targets.FoldData) -> None:
    """Also where labelled nodules alone are trained on."""
    names = pd.concat([data.train, data.test])
    shape = (len(names), 4, 4, 4)
    table = names[["nodule_id", "patient_id"]].assign(series_uid="1").reset_index(drop=True)
    store = PatchStore("phantom", np.zeros(shape, np.int16), np.zeros(shape, bool), table, "", {})
    hidden = {"p00", "p05"}  # of training and test
    out = targets.split_fold(names, store, 1, hidden=hidden)
    assert not hidden & {*out.train["patient_id"], *out.test["patient_id"]}
    assert (len(out.train), len(out.test)) == (len(data.train) - 2, len(data.test) - 2)
    assert out.lesions is not None and not hidden & set(out.lesions["patient_id"])


def test_a_source_without_the_fold_is_refused(data: targets.FoldData) -> None:
    store = PatchStore(
        "phantom",
        np.zeros((1, 32, 32, 32), np.int16),
        np.zeros((1, 32, 32, 32), bool),
        pd.DataFrame({"nodule_id": ["n00"], "patient_id": ["p00"], "series_uid": ["1"]}),
        "",
        {},
    )
    folds = pd.concat([data.train, data.test])
    with pytest.raises(InputError, match="fold 1: too few"):
        targets.split_fold(folds, store, 1)


def test_the_learning_rate_falls_after_each_drop() -> None:
    rates = [training.learning_rate(profile(learning_rate_drops=[2, 3]), e) for e in range(5)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.0005, 0.0005])


def test_a_cosine_rises_for_an_epoch_and_falls_to_nothing() -> None:
    settings = profile(schedule="cosine", epochs=5, learning_rate=0.4, learning_rate_drops=[])
    rates = [training.learning_rate(settings, moment) for moment in (0, 0.5, 1, 3, 5)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0])


def test_all_lesions_but_those_of_held_out_and_hidden_patients() -> None:
    nodules, folds = read_nodules(), read_folds()
    rows = nodules.groupby("patient_id").head(2)
    volumes = np.zeros((len(rows), 4, 4, 4), np.int16)
    table = rows[["nodule_id", "patient_id", "series_uid"]].reset_index(drop=True)
    store = PatchStore("phantom", volumes, volumes > 0, table, "", {})
    settings = TrainingSettings(epochs=1, learning_rate=0.1, soft_labels=True, lesions="all")
    hidden = {"LIDC-IDRI-0002"}
    out = targets.split_fold(folds, store, 1, settings, nodules, hidden)
    held_out = set(folds.loc[folds["fold"] == 1, "patient_id"])
    assert set(out.train["patient_id"]) == set(rows["patient_id"]) - held_out - hidden
    assert "LIDC-IDRI-0002" in set(rows["patient_id"])
    assert set(out.test["patient_id"]) <= held_out
    weighed = out.train.set_index("nodule_id")["weight"]
    readers = nodules.set_index("nodule_id")["readers"]
    assert weighed.tolist() == (readers[weighed.index].clip(upper=4) / 4).tolist()
    held_rows = rows[rows["patient_id"].isin(held_out)]
    assert out.lesions is not None
    assert set(out.lesions["nodule_id"]) == set(held_rows["nodule_id"])
    labelled = out.lesions.dropna().set_index("nodule_id")["label"]
    assert labelled.to_dict() == out.test.set_index("nodule_id")["label"].to_dict()
    assert len(out.unlabelled_volumes) == len(out.lesions) - len(out.test) > 0
    leaky = folds.assign(fold=np.arange(len(folds)) % 10)  # dealt by nodule
    assert targets.split_fold(leaky, store, 1).lesions is None
    with pytest.raises(InputError, match="need the table of nodules"):
        targets.split_fold(folds, store, 1, settings)


def test_what_was_interrupted_goes_on_in_the_same_process(
    data: targets.FoldData, tmp_path: Path
) -> None:
    """As in a notebook whose cell is stopped and run again."""
    settings, path = profile(epochs=2), tmp_path / "checkpoint.npz"
    model = training.build_model(settings)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(model, settings, data, 1, path, stop)
    lines: list[str] = []
    assert len(training.train(model, settings, data, 1, path, lines.append)) == 2
    assert lines[0] == "going on after epoch 1"


RECIPES = {
    "the paper's": {},
    "honest": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "learning_rate": 0.01,
        "learning_rate_drops": [],
        "soft_labels": True,
        "characteristics_weight": 1.0,
    },
    "soft labels only": {"soft_labels": True, "batch_size": 6},  # the last batch is smaller
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_after_an_epoch_training_goes_on_exactly(
    recipe: str, data: targets.FoldData, tmp_path: Path
) -> None:
    settings = profile(epochs=3, **RECIPES[recipe])
    if RECIPES[recipe]:
        generator = np.random.default_rng(0)
        columns = ("malignancy", "weight", *targets.CHARACTERISTICS_TASK)
        made = {name: generator.random(len(data.train), dtype=np.float32) for name in columns}
        data = replace(data, train=data.train.drop(columns="label").assign(**made))

    def keep(line: str) -> None:  # what would be there, were it stopped after epoch 2
        if "epoch 2/3" in line:
            shutil.copy(tmp_path / "whole.npz", tmp_path / "halted.npz")

    whole = training.build_model(settings)
    history = training.train(whole, settings, data, 1, tmp_path / "whole.npz", keep)
    lines: list[str] = []
    resumed = training.build_model(settings)
    again = training.train(resumed, settings, data, 1, tmp_path / "halted.npz", lines.append)
    assert lines[0] == "going on after epoch 2"
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(history, again, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    np.testing.assert_array_equal(
        training.predict_malignant(whole, data.test_volumes),
        training.predict_malignant(resumed, data.test_volumes),
    )
    assert {"epoch", "loss", "cross_entropy", "accuracy", "learning_rate"} <= set(history[0])


def test_training_learns_and_the_seed_matters(data: targets.FoldData, tmp_path: Path) -> None:
    settings = profile(epochs=8)
    model = training.build_model(settings)
    history = training.train(model, settings, data, 1, tmp_path / "a.npz", lambda _: None)
    assert history[-1]["cross_entropy"] < history[0]["cross_entropy"] / 2
    p = training.predict_malignant(model, data.test_volumes)
    label = data.test["label"].to_numpy()
    assert p[label == 1].min() > p[label == 0].max()
    other = training.build_model(settings.model_copy(update={"seed": 2}))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(
            training.build_model(settings).get_weights(), other.get_weights(), strict=True
        )
    )


def test_a_network_given_again_trains_as_one_that_was_built_anew(
    data: targets.FoldData, tmp_path: Path
) -> None:
    """With dropout, whose draws must begin anew, too."""
    network = RivalSettings(rival="alexnet3d", width=4, input_pooling=2)
    settings = profile().model_copy(update={"network": network})
    p = []
    makers = (training.fresh_model, training.fresh_model, training.build_model)
    for number, make in enumerate(makers):
        model = make(settings)
        path = tmp_path / f"{number}.npz"
        training.train(model, settings, data, 1, path, lambda _: None)
        p.append(training.predict_malignant(model, data.test_volumes))
    assert p[0].tolist() == p[1].tolist() == p[2].tolist()
    assert training.fresh_model(settings) is training.fresh_model(settings)


def trained_once(data: targets.FoldData, path: Path, settings: Profile | None = None) -> str:
    """The first line that a training of one epoch reports."""
    settings = settings or profile(epochs=1)
    lines: list[str] = []
    training.train(training.fresh_model(settings), settings, data, 1, path, lines.append)
    return lines[0]


def test_a_checkpoint_of_another_experiment_is_not_used(
    data: targets.FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings; the folds dealt anew; labels turned; another test set; other code."""
    path, kept = tmp_path / "c.npz", tmp_path / "kept.npz"
    assert "epoch 1/1" in trained_once(data, path)
    shutil.copy(path, kept)
    turned = data.train.assign(label=1 - data.train["label"])
    dealt = pd.concat([data.test.drop(columns="fold"), data.train.iloc[8:]], ignore_index=True)
    others = (
        replace(data, train=turned),
        replace(data, train=dealt, test=data.train.iloc[:8].assign(fold=1)),
        replace(data, test=data.test.iloc[1:]),
        replace(data, digest="other patches"),
    )
    for other in others:
        shutil.copy(kept, path)
        assert "starting over" in trained_once(other, path)
    shutil.copy(kept, path)
    assert "starting over" in trained_once(data, path, profile(epochs=1, learning_rate=0.01))
    shutil.copy(kept, path)
    assert "going on after epoch 1" in trained_once(data, path)
    monkeypatch.setattr(checkpoint, "code_version", lambda: "of tomorrow")
    assert "starting over" in trained_once(data, path)
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    assert "starting over" in trained_once(data, path)


def test_weights_of_a_finished_fold_still_load(data: targets.FoldData, tmp_path: Path) -> None:
    """With later code, and from a file that does not know its split yet; not of another split."""
    settings, path = profile(epochs=1), tmp_path / "c.npz"
    model = training.build_model(settings)
    key = checkpoint.checkpoint_key(settings, data, 1)
    old = {name: value for name, value in key.items() if name not in ("split", "code")}
    for stored in (old, key | {"code": "of yesterday"}):
        checkpoint.save_checkpoint(path, model, [], stored)
        assert checkpoint.load_checkpoint(path, model, key, finished=True) == []
        assert checkpoint.load_checkpoint(path, model, key) is None
    checkpoint.save_checkpoint(path, model, [], key | {"split": "another"})
    assert checkpoint.load_checkpoint(path, model, key, finished=True) is None


def test_a_loss_that_diverges_is_said(data: targets.FoldData, tmp_path: Path) -> None:
    settings = profile(epochs=5, learning_rate=1e30)
    model = training.build_model(settings)
    with pytest.raises(InputError, match="lower learning_rate"):
        training.train(model, settings, data, 1, tmp_path / "d.npz", lambda _: None)


def test_a_damaged_checkpoint_is_named(data: targets.FoldData, tmp_path: Path) -> None:
    settings = profile(epochs=1)
    model = training.build_model(settings)
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"c\.npz: not a checkpoint .* delete it"):
        training.train(model, settings, data, 1, tmp_path / "c.npz", lambda _: None)
