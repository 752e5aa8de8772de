"""The training loop of a fold: a function of (profile, patches, fold, seed).

Stopped at any moment and started again, it goes on from the last finished epoch and ends with the
same numbers, bit for bit, on the same machine.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.settings import Profile, RivalSettings, TrainingSettings
from nodulebook.model.augment import Moves, augmented_epoch, symmetries
from nodulebook.model.backend import brief_compilation, make_deterministic
from nodulebook.model.checkpoint import (
    checkpoint_key,
    load_checkpoint,
    model_state,
    save_checkpoint,
    state_values,
)
from nodulebook.model.losses import DynamicCrossEntropy
from nodulebook.model.pretrained import load_imagenet
from nodulebook.model.rivals import build_network
from nodulebook.model.senet import CHARACTERISTICS, MALIGNANCY, MALIGNANT, with_characteristics
from nodulebook.model.targets import CHARACTERISTICS_TASK, FoldData
from nodulebook.patches.cube import WINDOW_HU

ARM = "senet"


PREDICT_BATCH = 24


def learning_rate(profile: Profile, epoch: float) -> float:
    """The rate at a moment of the training, counted in epochs from 0.

    With drops: a tenth for each that lies behind. With a cosine: a straight rise over the first
    epoch, then half a cosine down to 0 at the end (Loshchilov and Hutter 2017, Eq. 5, one period).
    """
    settings = profile.training
    if settings.schedule == "cosine":
        if epoch < 1:
            return settings.learning_rate * epoch
        done = (epoch - 1) / max(1, settings.epochs - 1)
        return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
    drops = sum(epoch >= after for after in settings.learning_rate_drops)
    return settings.learning_rate / float(10**drops)


def build_model(profile: Profile) -> keras.Model:
    """The network of a profile, compiled with its optimiser and softmax cross-entropy (Eq. 10)."""
    make_deterministic(profile.seed)
    with brief_compilation():
        return _build_model(profile)


def _build_model(profile: Profile) -> keras.Model:
    settings = profile.training
    adam = settings.optimizer == "adamw"
    model = build_network(profile.network, 0.0 if adam else settings.weight_decay)
    kind = "Categorical" if settings.beyond_labels else "SparseCategorical"
    cross_entropy = (
        DynamicCrossEntropy()
        if settings.loss == "dynamic"
        else getattr(keras.losses, f"{kind}Crossentropy")()
    )
    measures = [
        getattr(keras.metrics, f"{kind}Crossentropy")(name="cross_entropy"),
        getattr(keras.metrics, f"{kind}Accuracy")(name="accuracy"),
    ]
    if settings.characteristics_weight:
        model = with_characteristics(model, len(CHARACTERISTICS_TASK))
    more = settings.characteristics_weight > 0
    model.compile(
        optimizer=(
            keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
            if adam
            else keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum)
        ),
        loss={MALIGNANCY: cross_entropy, CHARACTERISTICS: "mse"} if more else cross_entropy,
        loss_weights=(
            {MALIGNANCY: 1.0, CHARACTERISTICS: settings.characteristics_weight} if more else None
        ),
        weighted_metrics={MALIGNANCY: measures} if more else None,
        metrics=None if more else measures,
        # JAX is nothing without it. TensorFlow gains nothing on a CPU, and compiles for minutes.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    return model


_built: dict[str, tuple[keras.Model, list[NDArray[Any]]]] = {}


def fresh_model(profile: Profile) -> keras.Model:
    """As `build_model`; the network that this process built last is not built and traced again.

    TensorFlow traces the sixteen modules of the paper's network for as long as ten epochs of
    `laptop` take. The same model is given again with its first weights: one is in use at a time.
    """
    key = profile.hash()
    if key not in _built:
        _built.clear()
        model = build_model(profile)
        _built[key] = (model, state_values(model))
    model, first = _built[key]
    # What is random in a network (dropout) is drawn from states that are among its variables.
    # Seeding anew here would have TensorFlow compile the traced step again.
    for variable, value in zip(model_state(model), first, strict=True):
        variable.assign(value)
    return model


def train(
    model: keras.Model,
    profile: Profile,
    data: FoldData,
    fold: int,
    checkpoint: Path,
    report: Callable[[str], None] = print,
    after_epoch: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train `build_model(profile)` to the last epoch, from the checkpoint where there is one.

    Args:
        model: the network.
        profile: the run's settings.
        data: the fold's patches; only the training part is used.
        fold: the fold's number.
        checkpoint: file that is rewritten after each epoch.
        report: gets one line per epoch.
        after_epoch: called with the number of each epoch, from 1, before its checkpoint is
            written: again for the same epoch where the training is stopped in between.

    Returns:
        One dict per epoch: epoch (from 1), loss, cross_entropy, accuracy, learning_rate, seconds.

    Raises:
        InputError: the checkpoint is damaged, the loss is not finite, or the profile starts from
            ImageNet weights that are not here.
    """
    key = checkpoint_key(profile, data, fold)
    history: list[dict[str, float]] = []
    if checkpoint.is_file():
        stored = load_checkpoint(checkpoint, model, key)
        if stored is None:
            report(f"{checkpoint.name} is of other settings, data or versions: starting over")
        else:
            history = stored
            report(f"going on after epoch {len(history)}")
    network = profile.network
    if not history and isinstance(network, RivalSettings) and network.pretrained != "no":
        load_imagenet(model)
    settings = profile.training
    for epoch in range(len(history), settings.epochs):
        start = time.monotonic()
        volumes, order = augmented_epoch(
            data.train_volumes,
            profile.seed,
            epoch,
            settings.flips,
            settings.quarter_turns,
            moves_of(settings),
        )
        # Batch by batch: `fit` goes through a data pipeline that, on a CPU, was seen to wait up to
        # five seconds at each epoch's end, and has nothing to do here, the patches being in memory.
        sums: dict[str, float] = {}
        for first in range(0, len(order), settings.batch_size):
            rows = order[first : first + settings.batch_size]
            batch = volumes[first : first + settings.batch_size, ..., None]
            model.optimizer.learning_rate = learning_rate(profile, epoch + first / len(order))
            logs = model.train_on_batch(
                batch, *_targets(data.train, rows, settings), return_dict=True
            )
            for name, value in logs.items():
                name = name.removeprefix(f"{MALIGNANCY}_")
                sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
        means = {name: value / len(order) for name, value in sums.items()}
        if not np.isfinite(means["loss"]):
            raise InputError(
                f"fold {fold}: the loss is {means['loss']} in epoch {epoch + 1}; "
                "lower learning_rate in the profile"
            )
        history.append(
            {"epoch": epoch + 1}
            | means
            | {
                "learning_rate": learning_rate(profile, epoch),
                "seconds": round(time.monotonic() - start, 3),
            }
        )
        if after_epoch is not None:
            after_epoch(epoch + 1)
        save_checkpoint(checkpoint, model, history, key)
        left = np.mean([row["seconds"] for row in history]) * (settings.epochs - epoch - 1)
        report(
            f"fold {fold} epoch {epoch + 1}/{settings.epochs} "
            f"cross-entropy {history[-1]['cross_entropy']:.4f} "
            f"accuracy {history[-1]['accuracy']:.3f} ({left:.0f} s left)"
        )
    return history


def moves_of(settings: TrainingSettings) -> Moves | None:
    """What training patches are shifted by, or None where they stay in their places."""
    if not (settings.shift_mm or settings.shift_z_mm or settings.hu_jitter):
        return None
    low, high = WINDOW_HU
    return Moves(
        shift=settings.shift_mm,
        shift_z=settings.shift_z_mm,
        add=settings.hu_jitter / (high - low),
        slab=settings.central_slab_mm,
    )


def _targets(
    train: pd.DataFrame, rows: NDArray[np.int64], settings: TrainingSettings
) -> tuple[Any, ...]:
    """What `train_on_batch` takes after the batch: targets, and weights where there are any."""
    if "malignancy" not in train:
        return (train["label"].to_numpy()[rows],)
    batch = train.iloc[rows]
    malignant = batch["malignancy"].to_numpy()
    two_way = np.column_stack([1 - malignant, malignant])
    weight = batch["weight"].to_numpy()
    if not settings.characteristics_weight:
        return two_way, weight
    rated = batch[list(CHARACTERISTICS_TASK)].to_numpy()
    return (
        {MALIGNANCY: two_way, CHARACTERISTICS: rated},
        {MALIGNANCY: weight, CHARACTERISTICS: weight},
    )


def predict_malignant(
    model: keras.Model, volumes: NDArray[np.float32], views: int = 1
) -> NDArray[np.float64]:
    """The predicted malignant probability of each patch, (n, z, y, x) in [0, 1] to (n,).

    With 16 `views` it is the mean over the symmetries that training patches are shown under.
    """
    seen = [volumes] if views == 1 else symmetries(volumes)
    p: NDArray[np.float64] = np.mean([_predict(model, view) for view in seen], axis=0)
    return p


def _predict(model: keras.Model, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    batches = []
    for first in range(0, len(volumes), PREDICT_BATCH):
        batch = volumes[first : first + PREDICT_BATCH, ..., None]
        n = len(batch)
        if keras.backend.backend() == "jax" and n < PREDICT_BATCH:
            # JAX compiles the network once for each size of a batch: the last batch is filled up.
            batch = np.concatenate(
                [batch, np.zeros_like(batch, shape=(PREDICT_BATCH - n, *batch.shape[1:]))]
            )
        out = model.predict_on_batch(batch)
        batches.append((out[MALIGNANCY] if isinstance(out, dict) else out)[:n])
    return np.concatenate(batches).astype(np.float64)[:, MALIGNANT]


def arm_of(profile: Profile) -> str:
    """What the run contract calls the classifier: `senet`, or the rival's name."""
    return profile.network.rival if isinstance(profile.network, RivalSettings) else ARM
