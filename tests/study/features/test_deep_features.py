"""Features first, then a classifier: by hand, blind to the test fold, under the run contract."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import RivalSettings, read_profile
from nodulebook.data.folds import read_folds
from nodulebook.model.rivals import build_network
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import read_run
from study.features import autoencoder
from study.features import deep as deep_features
from study.features.autoencoder import (
    autoencoder_fold,
    build_autoencoder,
    local_patches,
    word_shares,
)
from study.features.deep import (
    METHODS,
    Autoencoder,
    Boosting,
    boost,
    boosting_features,
    count_parameters,
    network_features,
    run_feature_folds,
    settings_hash,
)

SMALL = Autoencoder(slices_z=(15, 17), superpixels=6, units=(8, 4), epochs=3, words=4)


def test_features_of_the_network_size_and_voxels_lie_side_by_side():
    volumes = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    out = boosting_features(np.array([[7.0, 8], [9, 10]]), np.array([5.0, 6]), volumes)
    assert out.tolist() == [[7, 8, 5, 3.5], [9, 10, 6, 11.5]]


def test_features_of_the_network_are_its_global_average():
    settings = RivalSettings(rival="secnn", width=4, input_pooling=2)
    model = build_network(settings)
    volumes = np.random.default_rng(0).random((3, 32, 32, 32), dtype=np.float32)
    deep = network_features(model, volumes)
    assert deep.shape == (3, 4 * 8)
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in model.get_layer("logits").weights)
    scores = np.exp(deep @ kernel + bias)
    p = keras.ops.convert_to_numpy(model(volumes[..., None], training=False))
    np.testing.assert_allclose(scores / scores.sum(axis=1, keepdims=True), p, atol=1e-5)


def test_boosting_learns_and_repeats():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5))
    label = (x[:, 0] > 0).astype(int)
    one, other = (boost(x[:150], label[:150], x[150:], Boosting(trees=20)) for _ in range(2))
    assert ((one.p_malignant > 0.5) == label[150:]).mean() > 0.9
    assert one.p_malignant.tolist() == other.p_malignant.tolist()
    assert [row["epoch"] for row in one.history] == list(range(1, 21))
    losses = [row["loss"] for row in one.history]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1


def test_patches_lie_around_the_superpixels():
    # A dark and a bright half, two superpixels in each.
    volume = np.zeros((32, 32, 32), np.float32)
    volume[:, :, 16:] = 1
    settings = replace(SMALL, slices_z=(15,), superpixels=4, patch_px=4)
    out = local_patches(volume, settings)
    assert out.shape == (4, 16)
    assert sorted(out.mean(axis=1)) == [0, 0, 1, 1]


def test_a_patch_has_the_superpixels_centre_in_its_middle(monkeypatch):
    y, x = np.mgrid[:32, :32]
    volume = np.broadcast_to((100 * y + x).astype(np.float32), (32, 32, 32))
    segments = np.ones((32, 32), int)
    segments[8:13, 20:23] = 2  # its centre is (10, 21)
    segments[0, 0] = 3  # and this one's the corner
    monkeypatch.setattr(autoencoder, "slic", lambda *_, **__: segments)
    out = local_patches(volume, replace(SMALL, slices_z=(15,), patch_px=4)).reshape(-1, 4, 4)
    assert out[1, 0].tolist() == [819, 820, 821, 822] and out[1, 2, 2] == 1021
    assert out[2, :, 0].tolist() == [0, 0, 0, 100]  # beyond the border, what is at the border


def test_word_shares_by_hand():
    shares = word_shares([np.array([0, 0, 2, 1]), np.array([2])], 4)
    assert shares.tolist() == [[0.5, 0.25, 0.25, 0], [0, 0, 1, 0]]


def test_the_autoencoder_narrows_to_the_code():
    model, encoder = build_autoencoder(Autoencoder())
    assert [layer.units for layer in model.layers[1:]] == [32, 16, 32, 64]
    assert encoder.output_shape == (None, 16)


@pytest.fixture(scope="module")
def nodules():
    """Patches of 24 nodules, 10 each; the bright are malignant."""
    generator = np.random.default_rng(1)
    label = np.arange(24) % 2
    level = np.where(label == 1, 0.7, 0.2)
    patches = [(at + 0.1 * generator.random((10, 64))).astype(np.float32) for at in level]
    return patches, label


@pytest.fixture(scope="module")
def fitted(nodules):
    patches, label = nodules
    return autoencoder_fold(SMALL, patches[:16], label[:16], patches[16:])


def test_the_pipeline_learns_repeats_and_does_not_look_at_its_test(nodules, fitted):
    patches, label = nodules
    one = fitted
    assert one.p_malignant[label[16:] == 1].min() > one.p_malignant[label[16:] == 0].max()
    assert [row["epoch"] for row in one.history] == [1, 2, 3]
    assert one.history[-1]["loss"] < one.history[0]["loss"]
    other = autoencoder_fold(SMALL, patches[:16], label[:16], [patches[16], patches[23] * 0])
    assert other.history == one.history
    assert other.p_malignant[0] == one.p_malignant[0]


def test_parameters_are_counted_from_the_models(fitted, monkeypatch):
    # 64-8-4-8-64 with biases, 4 words of 4 numbers, a weight a word and a bias.
    own = (64 + 1) * 8 + (8 + 1) * 4 + (4 + 1) * 8 + (8 + 1) * 64
    assert fitted.parameters == own + 4 * 4 + 4 + 1
    trees = Boosting(network="rival-secnn", trees=10, leaves=3)
    monkeypatch.setitem(METHODS, "rival-dualpath3d-gbm", trees)
    network = count_parameters("rival-secnn")
    assert network == build_network(read_profile("rival-secnn").network).count_params()
    # A tree: three values and two cuts, of a feature and a threshold each.
    assert count_parameters("rival-dualpath3d-gbm") == network + 10 * (3 + 2 * 2)
    monkeypatch.setitem(METHODS, "rival-autoencoder", SMALL)
    assert count_parameters("rival-autoencoder") == fitted.parameters


def test_folds_keep_the_run_contract_and_are_skipped_when_done(tmp_path, monkeypatch):
    folds = read_folds().groupby("fold").head(4).reset_index(drop=True)
    bright = (folds["label"].to_numpy() * 800 - 700)[:, None, None, None]
    noise = np.random.default_rng(0).normal(0, 60, (len(folds), 32, 32, 32))
    volumes = (bright + noise).astype(np.int16)
    table = folds[["nodule_id", "patient_id"]].assign(series_uid="1")
    store = PatchStore("phantom", volumes, volumes > 0, table, "digest", {"made": "here"})
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(deep_features, "open_source", lambda *_: store)
    monkeypatch.setitem(deep_features.METHODS, "rival-autoencoder", SMALL)
    said: list[str] = []
    run_feature_folds("rival-autoencoder", "phantom", folds=(0, 3), report=said.append)
    run = read_run("rival-autoencoder-phantom", folds=read_folds())
    assert set(run.folds) == {0, 3}
    for fold in run.folds.values():
        assert fold.run["arm"] == "autoencoder" and fold.run["source"] == "phantom"
        assert len(fold.history) == SMALL.epochs
        assert fold.run["profile_hash"] == settings_hash(SMALL)
        right = (fold.probabilities["p_malignant"] > 0.5) == (fold.probabilities["label"] == 1)
        assert right.all()
    written = (tmp_path / "rival-autoencoder-phantom" / "fold-3" / "run.json").read_bytes()
    run_feature_folds("rival-autoencoder", "phantom", folds=(3,), report=said.append)
    assert said[-1].endswith("0 folds to do")
    again = (tmp_path / "rival-autoencoder-phantom" / "fold-3" / "run.json").read_bytes()
    assert again == written
    changed = replace(SMALL, words=5)
    monkeypatch.setitem(deep_features.METHODS, "rival-autoencoder", changed)
    with pytest.raises(InputError, match="made with other settings"):
        run_feature_folds("rival-autoencoder", "phantom", folds=(3,))


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match="'rival-x' is not one of rival-dualpath3d-gbm"):
        run_feature_folds("rival-x", "phantom")


def test_boosting_takes_the_network_of_the_run(monkeypatch):
    """Size, voxels and the features of the network, of training nodules for the fit only."""
    asked = []
    model = build_network(RivalSettings(rival="secnn", width=4, input_pooling=2))

    def trained(profile, data, parameters, report):
        asked.append((profile.network.rival, parameters.run_name, parameters.fold))
        return model

    monkeypatch.setattr(deep_features, "trained_model", trained)
    generator = np.random.default_rng(0)
    label = np.arange(60) % 2
    names = [f"n{i}" for i in range(60)]
    table = pd.DataFrame({"nodule_id": names, "patient_id": names, "label": label})
    volumes = generator.random((60, 32, 32, 32), dtype=np.float32)
    data = deep_features.FoldData(table[:50], table[50:], volumes[:50], volumes[50:], [], "digest")
    diameter = pd.Series(5.0 + 10 * label + generator.random(60), index=names)
    fitted = deep_features.boosting_fold(Boosting(trees=10), data, 4, "phantom", diameter)
    assert asked == [("dualpath3d", "rival-dualpath3d-phantom", 4)]
    assert ((fitted.p_malignant > 0.5) == label[50:]).all()
    assert paths.PROFILES.joinpath("rival-dualpath3d.yaml").is_file()
