"""The same network on Keras's other backends: same predictions, and they train."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import shutil
import sys
import keras
import numpy as np
import pandas as pd
from pathlib import Path
from nodulebook.core.settings import NetworkSettings, Profile, TrainingSettings
from nodulebook.model.backend import device
from nodulebook.model.targets import FoldData
from nodulebook.model.train import build_model, predict_malignant, train

folder = Path(sys.argv[1])

def profile(epochs):
    return Profile(
        description="",
        network=NetworkSettings(
            filters=[4, 8, 8, 8], modules=[1, 1, 1, 1], groups=2, bottleneck=2,
            input_pooling=2, pool_after=["first_convolution", "stage1"], pool_before_norm=True,
        ),
        training=TrainingSettings(epochs=epochs, batch_size=4, learning_rate=0.05),
    )

def model_of(epochs):
    model = build_model(profile(epochs))
    generator = np.random.default_rng(0)
    model.set_weights([
        1 + 0.1 * generator.random(w.shape) if w.ndim == 1
        else generator.normal(0, 0.4, w.shape) for w in model.get_weights()
    ])
    return model

generator = np.random.default_rng(1)
label = np.array([0, 1] * 4)
brightness = (0.4 + 0.6 * label[:, None, None, None]).astype(np.float32)
volumes = generator.random((8, 32, 32, 32), dtype=np.float32) * brightness
table = pd.DataFrame({"nodule_id": [f"n{k}" for k in range(8)], "label": label})
data = FoldData(table, table, volumes, volumes, [], "made")
drawn = [w.ravel() for w in build_model(profile(3)).get_weights()]
model = model_of(3)
before = predict_malignant(model, volumes)

def keep(line):
    if "epoch 1/" in line:
        shutil.copy(folder / "whole.npz", folder / "parts.npz")

history = train(model, profile(3), data, 0, folder / "whole.npz", keep)
after = predict_malignant(model, volumes)

# What was there after the first epoch, gone on with by another model.
resumed = model_of(3)
said = []
train(resumed, profile(3), data, 0, folder / "parts.npz", said.append)
assert said[0] == "going on after epoch 1", said
np.savez(
    folder / "out.npz", drawn=np.concatenate(drawn), before=before, after=after,
    losses=[row["loss"] for row in history],
    resumed=predict_malignant(resumed, volumes),
)
print(keras.backend.backend(), device())
"""


def _run(backend, folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == backend
    assert done.stdout.split()[1] in ("CPU:", "GPU:")
    with np.load(folder / "out.npz") as numbers:
        return {name: numbers[name] for name in numbers.files}


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    return _run("tensorflow", tmp_path_factory.mktemp("backends"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_predictions_and_training_agree(backend, on_tensorflow, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: make backends")
    there = _run(backend, tmp_path)
    # The same seed is another network at first; from the same weights on they go alike.
    assert there["drawn"].shape == on_tensorflow["drawn"].shape
    assert np.abs(there["drawn"] - on_tensorflow["drawn"]).max() > 0.1
    assert np.ptp(on_tensorflow["before"]) > 0.01  # or any network would agree
    np.testing.assert_allclose(there["before"], on_tensorflow["before"], atol=1e-4)
    assert np.ptp(on_tensorflow["losses"]) > 0.01
    np.testing.assert_allclose(there["losses"], on_tensorflow["losses"], rtol=1e-3)
    np.testing.assert_allclose(there["after"], on_tensorflow["after"], atol=1e-3)
    np.testing.assert_allclose(there["resumed"], there["after"], atol=1e-5)


def test_stopped_and_gone_on_with_is_the_same_on_tensorflow(on_tensorflow):
    np.testing.assert_array_equal(on_tensorflow["resumed"], on_tensorflow["after"])
