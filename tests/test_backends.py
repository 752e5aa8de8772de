"""The same network on Keras's other backends: same predictions, and they train."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
import numpy as np
from nodulebook.settings import NetworkSettings, Profile, TrainingSettings
from nodulebook.training import build_model, device, predict_malignant
import keras

weights, out = sys.argv[1:]
profile = Profile(
    description="",
    network=NetworkSettings(
        filters=[4, 8, 8, 8], modules=[1, 1, 1, 1], groups=2, bottleneck=2,
        input_pooling=2, pool_after=["first_convolution", "stage1"], pool_before_norm=True,
    ),
    training=TrainingSettings(epochs=1, learning_rate=0.05),
)
model = build_model(profile)
generator = np.random.default_rng(0)
model.set_weights([generator.random(w.shape) * 0.3 + 0.1 for w in model.get_weights()])
volumes = generator.random((4, 32, 32, 32), dtype=np.float32)
before = predict_malignant(model, volumes)
label = np.array([0, 1, 0, 1])
losses = [float(model.train_on_batch(volumes[..., None], label)[0]) for _ in range(3)]
np.savez(out, before=before, losses=losses, after=predict_malignant(model, volumes))
print(keras.backend.backend(), device())
"""


def _run(backend, folder):
    out = folder / f"{backend}.npz"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-", str(out)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == backend
    assert done.stdout.split()[1] in ("CPU:", "GPU:")
    with np.load(out) as numbers:
        return {name: numbers[name] for name in numbers.files}


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    return _run("tensorflow", tmp_path_factory.mktemp("backends"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_predictions_and_training_agree(backend, on_tensorflow, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: make backends")
    there = _run(backend, tmp_path)
    np.testing.assert_allclose(there["before"], on_tensorflow["before"], atol=1e-4)
    np.testing.assert_allclose(there["losses"], on_tensorflow["losses"], rtol=1e-2)
    assert np.ptp(on_tensorflow["losses"]) > 1e-3
    np.testing.assert_allclose(there["after"], on_tensorflow["after"], atol=0.02)
