"""The queue, on the CPU: stacked training against one by one, and killed at three points."""

import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.core.settings import TrainingSettings
from nodulebook.model.senet import CHARACTERISTICS, MALIGNANCY
from nodulebook.model.stacked import Stack, unsupported
from study.experiments.queue import QUEUE, Entry, read_queue, work

STACK = """
import sys
from pathlib import Path
import keras
import numpy as np
import pandas as pd
from nodulebook.core.settings import NetworkSettings, Profile, TrainingSettings
from functools import partial
import jax
from nodulebook.model.cores import use_every_core
from nodulebook.model.stacked import Member, Stack
from nodulebook.model.targets import FoldData
from nodulebook.model.train import build_model, predict_malignant, train

folder = Path(sys.argv[1])
generator = np.random.default_rng(1)
label = np.arange(24) % 2
brightness = (0.4 + 0.6 * label[:, None, None, None]).astype(np.float32)
volumes = generator.random((24, 32, 32, 32), dtype=np.float32) * brightness
table = pd.DataFrame({"nodule_id": [f"n{i}" for i in range(24)], "label": label})
network = NetworkSettings(
    filters=[4, 8, 8, 8], modules=[1, 1, 1, 1], groups=2, bottleneck=2,
    input_pooling=2, pool_after=["first_convolution", "stage1"], pool_before_norm=True,
)

training = TrainingSettings(epochs=1, batch_size=4, learning_rate=0.02)
def member(seed, first, last):
    rows = slice(first, last)
    data = FoldData(
        table[rows].reset_index(drop=True), table, volumes[rows], volumes, [], "made"
    )
    profile = Profile(description="", seed=seed, network=network, training=training)
    return Member(profile, 0, data, folder / f"{seed}.npz")

# Not the same number of patches: the last batches are partly, or wholly, filled up.
use_every_core()
members = [member(0, 0, 13), member(1, 4, 24), member(2, 2, 20)]
if sys.argv[2] == "processor":
    stack = Stack(members)  # two cores for three members, where there are as many
else:
    stack = Stack(members)
    stack._many = jax.jit(jax.vmap(partial(stack._epoch, products=True), (0, 0, None, None)))
assert stack.train(members, report=lambda line: None)
for each in members:
    history = stack.load(each)
    together = predict_malignant(stack.model, volumes)
    alone = build_model(each.profile)
    before = predict_malignant(alone, volumes)
    wanted = train(alone, each.profile, each.data, 0, folder / "alone.npz", lambda line: None)
    difference = np.abs(predict_malignant(alone, volumes) - together).max()
    moved = np.abs(predict_malignant(alone, volumes) - before).max()
    assert moved > 0.01 > 1e-4 > difference, (moved, difference)
    assert len(history) == len(wanted) == training.epochs
"""


def _run(script, *words, env=None):
    env = dict(env or os.environ) | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("device", ["processor", "graphics card"])
def test_members_of_a_stack_are_trained_as_one_by_one(tmp_path, device):
    _run(STACK, tmp_path, device)


def test_the_loss_of_a_stack_is_kerass():
    """With soft targets, weights and the second task; patches that fill a batch up do not count."""
    settings = TrainingSettings(
        epochs=1, learning_rate=0.1, soft_labels=True, characteristics_weight=0.7, lesions="all"
    )
    generator = np.random.default_rng(0)
    p = generator.dirichlet([1, 1], 6).astype(np.float32)
    both = generator.dirichlet([1, 1], 6).astype(np.float32)
    rated, found = generator.normal(size=(2, 6, 8)).astype(np.float32)
    weight = generator.random(6).astype(np.float32)
    kept = np.array([1, 1, 1, 1, 0, 0], np.float32)
    stack = SimpleNamespace(profile=SimpleNamespace(training=settings))
    out = {MALIGNANCY: p, CHARACTERISTICS: found}
    total, (cross_entropy, _) = Stack._loss(stack, out, kept * weight, both, rated, 4.0)
    own = keras.losses.CategoricalCrossentropy()(both[:4], p[:4], weight[:4])
    second = keras.losses.MeanSquaredError()(rated[:4], found[:4], weight[:4])
    assert float(total) == pytest.approx(float(own + 0.7 * second), rel=1e-5)
    measure = keras.metrics.CategoricalCrossentropy()
    measure.update_state(both[:4], p[:4], weight[:4])
    assert float(cross_entropy) == pytest.approx(float(measure.result()), rel=1e-5)


KILLED = """
import sys
from pathlib import Path
import jax
import nodulebook.model.stacked as stacked
import nodulebook.runs.stacked_run as stacked_run
import study.experiments.queue as queue

stacked.SAVE_SECONDS = 0.0
queue.N_FOLDS = 2
entries = queue.read_queue(Path(sys.argv[1]))

class Killed(BaseException):
    pass

real_outcome = stacked_run.network_outcome
def outcome(*of):
    # Predictions are computed in the precision that run.json names, as the training was.
    assert jax.config.jax_default_matmul_precision == "float32"
    return real_outcome(*of)
stacked_run.network_outcome = outcome

def killed(module, name, call):
    # Let a function work `call` times, then end in its next call.
    real, calls = getattr(module, name), []
    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) > call:
            raise Killed
        return real(*arguments, **options)
    setattr(module, name, counted)
    try:
        queue.work(entries, 600, True)
    except Killed:
        print("killed", name)
    finally:
        setattr(module, name, real)

if sys.argv[2] == "killed":
    killed(stacked, "save_checkpoint", 0)  # before anything is written
    killed(stacked, "save_checkpoint", 3)  # one member is an epoch ahead of the other
    killed(stacked_run, "network_outcome", 1)  # one fold is done
    assert not queue.work(entries, 0, True)
assert queue.work(entries, 600, True)
"""


@pytest.mark.slow
def test_a_queue_killed_at_three_points_ends_with_the_same_numbers(world_env, tmp_path):
    """On the first two folds, for the time it takes."""
    listed = tmp_path / "queue.yaml"
    listed.write_text("- {profile: tiny, source: phantom, seeds: [4], together: 2}\n")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    read = {}
    for how in ("killed", "whole"):
        runs = {"NODULEBOOK_RUNS": str(tmp_path / how)}
        said = _run(KILLED, listed, how, env=world_env | runs | cache)
        assert said.count("killed") == (3 if how == "killed" else 0)
        folders = sorted((tmp_path / how / "tiny-phantom-seed4").glob("fold-*"))
        assert len(folders) == 2
        read[how] = [pd.read_csv(folder / "probabilities.csv") for folder in folders]
        assert '"together": 2' in (folders[1] / "run.json").read_text()
    for one, other in zip(read["killed"], read["whole"], strict=True):
        np.testing.assert_allclose(one["p_malignant"], other["p_malignant"], atol=1e-5)


def test_the_queue_of_the_repository_can_be_read():
    entries = read_queue()
    assert entries[0].profile == "robust-slices"
    on_a_gpu = [entry for entry in entries if not unsupported(entry.folds("")[0].settings)]
    assert [entry.profile for entry in on_a_gpu[:2]] == ["paper-usual", "paper-usual-no-se"]
    folds = entries[0].folds("")
    assert {fold.fold for fold in folds} == set(range(10))
    assert QUEUE.is_file()


def test_what_cannot_be_stacked_is_left_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    trained, said = [], []

    def run_stacked(waiting, *_):
        trained.append(waiting[0].profile)
        return True

    monkeypatch.setattr("nodulebook.runs.stacked_run.run_stacked", run_stacked)
    names = ("robust-slices", "honest-slices", "rival-secnn", "paper")
    entries = [Entry(profile=name, source="phantom") for name in names]
    assert not work(entries, 60, stacked=True, report=said.append)
    assert trained == ["paper"]
    assert all(any(line.startswith(name) and "left" in line for line in said) for name in names[:3])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- {profile: papr, source: phantom}", "papr"),
        ("- {profile: paper, source: phantom, seed: 1}", "seed"),
        ("- {profile: paper, source: moon}", "source"),
        ("profile: paper", "list"),
        ("- [", "YAML"),
    ],
)
def test_a_wrong_queue_is_refused_with_its_file(tmp_path, text, named):
    path = tmp_path / "queue.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=named) as refused:
        read_queue(path)
    assert str(path) in str(refused.value)
