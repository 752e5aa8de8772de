"""One fold, from patches to probabilities: a function of (profile, source, fold, seed).

Stopped at any moment and started again, it goes on from the last finished epoch and ends with the
same numbers, bit for bit, on the same machine.
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One thread an operation: the sums are then added in the same order whatever the number of cores,
# and ten folds side by side (`nodulebook folds`) use the cores better than one fold with them all.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from nodulebook import paths
from nodulebook.artefacts import Fold, write_fold
from nodulebook.augment import augmented_epoch
from nodulebook.errors import InputError
from nodulebook.explanations import Explanations, write_explanations
from nodulebook.files import replace_folder, written_aside
from nodulebook.folds import check_fold
from nodulebook.network import MALIGNANT, senet
from nodulebook.patches import PatchStore, central_slab, scale_to_unit
from nodulebook.paths import fold_folder, partial_folder
from nodulebook.settings import FoldParameters, Profile

ARM = "senet"
CHECKPOINT = "checkpoint.npz"

PREDICT_BATCH = 24

LOCK_SECONDS = 15.0
"""How long to wait for a fold that another process trains: one that was killed needs a moment."""


@dataclass(frozen=True, eq=False)
class FoldData:
    """A fold's patches, scaled to [0, 1], (n, 32, 32, 32) zyx, and its tables."""

    train: pd.DataFrame  # nodule_id, patient_id, label, fold
    test: pd.DataFrame
    train_volumes: NDArray[np.float32]
    test_volumes: NDArray[np.float32]
    absent: list[str]  # nodules of the fold table that the source does not have
    digest: str


def split_fold(
    folds: pd.DataFrame, store: PatchStore, fold: int, central_slab_mm: int = 0
) -> FoldData:
    """Training and test patches of one fold.

    Args:
        folds: columns nodule_id, patient_id, label, fold.
        store: the source's patches; labelled nodules that it lacks are left out and listed.
        fold: the fold that is held out.
        central_slab_mm: show only this much along z of each patch; 0: all.

    Raises:
        InputError: the fold is out of range, or the store has no nodule to train or test on.
    """
    check_fold(fold)
    here = folds["nodule_id"].isin(set(store.table["nodule_id"]))
    present = folds[here].reset_index(drop=True)
    test = present[present["fold"] == fold].reset_index(drop=True)
    train = present[present["fold"] != fold].reset_index(drop=True)
    if test.empty or train["label"].nunique() < 2:
        raise InputError(
            f"the {store.source} patches hold {len(test)} test and {len(train)} training nodules "
            f"of fold {fold}: too few to train and test on"
        )

    def volumes(table: pd.DataFrame) -> NDArray[np.float32]:
        volumes_hu = store.volumes_hu[store.rows(table["nodule_id"])]
        return scale_to_unit(
            central_slab(volumes_hu, central_slab_mm) if central_slab_mm else volumes_hu
        )

    return FoldData(
        train=train,
        test=test,
        train_volumes=volumes(train),
        test_volumes=volumes(test),
        absent=sorted(folds.loc[~here, "nodule_id"]),
        digest=store.digest,
    )


def make_deterministic(seed: int) -> None:
    """Seed every generator, and have TensorFlow use only operations that repeat exactly."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


def learning_rate(profile: Profile, epoch: int) -> float:
    """The rate in an epoch (from 0): a tenth for each drop that lies behind."""
    drops = sum(epoch >= after for after in profile.training.learning_rate_drops)
    return profile.training.learning_rate / float(10**drops)


def build_model(profile: Profile) -> keras.Model:
    """The network of a profile, compiled: SGD with momentum, softmax cross-entropy (Eq. 10)."""
    make_deterministic(profile.seed)
    model = senet(profile.network, profile.training.weight_decay)
    model.compile(
        optimizer=keras.optimizers.SGD(
            profile.training.learning_rate, momentum=profile.training.momentum
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[
            keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy"),
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        ],
        # JAX is nothing without it. TensorFlow gains nothing on a CPU, and compiles for minutes.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _state(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def _checkpoint_key(profile: Profile, data: FoldData, fold: int) -> dict[str, Any]:
    return {
        "profile_hash": profile.hash(),
        "data_hash": data.digest,
        "fold": fold,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }


def save_checkpoint(
    path: Path, model: keras.Model, history: list[dict[str, float]], key: dict[str, Any]
) -> None:
    """All of a model's and its optimizer's numbers, and what they belong to."""
    about = json.dumps({"history": history, "key": key})
    arrays = {f"v{i:04d}": keras.ops.convert_to_numpy(v.value) for i, v in enumerate(_state(model))}
    with written_aside(path) as aside:
        np.savez(aside, about=np.array(about), **arrays)


def load_checkpoint(
    path: Path, model: keras.Model, key: dict[str, Any]
) -> list[dict[str, float]] | None:
    """Put a checkpoint into the model; its history, or None where it is of another run.

    Raises:
        InputError: the file is damaged, or holds another network's numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["key"] != key:
                return None
            for i, variable in enumerate(_state(model)):
                variable.assign(stored[f"v{i:04d}"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint of this network ({error}); delete it") from None
    history: list[dict[str, float]] = about["history"]
    return history


def train(
    model: keras.Model,
    profile: Profile,
    data: FoldData,
    fold: int,
    checkpoint: Path,
    report: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train to the profile's last epoch, from the checkpoint where there is one.

    Args:
        model: from `build_model(profile)`.
        profile: the run's settings.
        data: the fold's patches; only the training part is used.
        fold: the fold's number.
        checkpoint: file that is rewritten after each epoch.
        report: gets a line an epoch.

    Returns:
        A dict an epoch: epoch (from 1), loss, cross_entropy, accuracy, learning_rate, seconds.

    Raises:
        InputError: another process trains with this checkpoint, or the loss is not finite.
    """
    with _claimed(checkpoint):
        return _train(model, profile, data, fold, checkpoint, report)


@contextmanager
def _claimed(checkpoint: Path) -> Iterator[None]:
    """Keep a second process of this machine from the same checkpoint."""
    # Not beside the checkpoint, whose folder is renamed at the end.
    name = hashlib.sha256(str(checkpoint.resolve()).encode()).hexdigest()[:24]
    lock = FileLock(Path(tempfile.gettempdir()) / f"nodulebook-{name}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{checkpoint.parent}: another process is training this fold; wait for it or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _train(
    model: keras.Model,
    profile: Profile,
    data: FoldData,
    fold: int,
    checkpoint: Path,
    report: Callable[[str], None],
) -> list[dict[str, float]]:
    key = _checkpoint_key(profile, data, fold)
    history: list[dict[str, float]] = []
    if checkpoint.is_file():
        stored = load_checkpoint(checkpoint, model, key)
        if stored is None:
            report(f"{checkpoint.name} is of other settings, data or versions: starting over")
        else:
            history = stored
            report(f"going on after epoch {len(history)}")
    settings = profile.training
    label = data.train["label"].to_numpy()
    for epoch in range(len(history), settings.epochs):
        start = time.monotonic()
        model.optimizer.learning_rate = learning_rate(profile, epoch)
        volumes, order = augmented_epoch(
            data.train_volumes, profile.seed, epoch, settings.flips, settings.quarter_turns
        )
        # Batch by batch: `fit` goes through a data pipeline that, on a CPU, was seen to wait up to
        # five seconds at each epoch's end, and has nothing to do here, the patches being in memory.
        sums: dict[str, float] = {}
        for first in range(0, len(order), settings.batch_size):
            rows = order[first : first + settings.batch_size]
            batch = volumes[first : first + settings.batch_size, ..., None]
            logs = model.train_on_batch(batch, label[rows], return_dict=True)
            for name, value in logs.items():
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
        save_checkpoint(checkpoint, model, history, key)
        left = np.mean([row["seconds"] for row in history]) * (settings.epochs - epoch - 1)
        report(
            f"fold {fold} epoch {epoch + 1}/{settings.epochs} "
            f"cross-entropy {history[-1]['cross_entropy']:.4f} "
            f"accuracy {history[-1]['accuracy']:.3f} ({left:.0f} s left)"
        )
    return history


def predict_malignant(model: keras.Model, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The predicted malignant probability of each patch.

    Args:
        model: a network of `nodulebook.network`.
        volumes: (n, z, y, x), scaled to [0, 1].

    Returns:
        (n,) in [0, 1].
    """
    batches = [
        model.predict_on_batch(volumes[first : first + PREDICT_BATCH, ..., None])
        for first in range(0, len(volumes), PREDICT_BATCH)
    ]
    return np.concatenate(batches).astype(np.float64)[:, MALIGNANT]


def probabilities_table(
    data: FoldData, p_malignant: NDArray[np.float64], fold: int, arm: str = ARM
) -> pd.DataFrame:
    """The fold's `probabilities.csv`."""
    return data.test[["nodule_id", "patient_id", "label"]].assign(
        p_malignant=p_malignant, fold=fold, arm=arm
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    backend = keras.backend.backend()
    packages = ("keras", backend, "numpy", "scipy", "pandas", "scikit-learn", "nodulebook")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def device() -> str:
    """What the backend computes on: a graphics processor or the processor, by name."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        first = jax.devices()[0]
        if first.platform != "cpu":
            return f"GPU: {first.device_kind}"
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return f"GPU: {torch.cuda.get_device_name(0)}"
    if backend == "tensorflow":
        import tensorflow

        for found in tensorflow.config.list_physical_devices("GPU"):
            details = tensorflow.config.experimental.get_device_details(found)
            return f"GPU: {details.get('device_name', found.name)}"
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:  # not Linux
        pass
    threads = os.environ["TF_NUM_INTRAOP_THREADS"] if backend == "tensorflow" else os.cpu_count()
    return f"CPU: {name}, {threads} of {os.cpu_count()} cores"


def run_record(
    parameters: FoldParameters, profile: Profile, data: FoldData, recipe: dict[str, str]
) -> dict[str, Any]:
    """What `run.json` says of a fold before it starts."""
    return {
        "run": parameters.run_name,
        "arm": ARM,
        "source": parameters.source,
        "fold": parameters.fold,
        "seed": profile.seed,
        "profile_name": parameters.profile,
        "profile": profile.model_dump(mode="json"),
        "profile_hash": profile.hash(),
        "data_hash": data.digest,
        "data_recipe": recipe,
        "absent_nodules": data.absent,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "versions": versions(),
        "backend": keras.backend.backend(),
        "device": device(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def finish_fold(
    run: str,
    fold: int,
    probabilities: pd.DataFrame,
    history: list[dict[str, float]],
    record: dict[str, Any],
    explanations: Explanations | None = None,
) -> Path:
    """Write the fold's files beside its checkpoint, then rename the folder: done, or not at all.

    Args:
        run: the run's name.
        fold: the fold's number.
        probabilities: from `probabilities_table`.
        history: a dict an epoch.
        record: from `run_record`.
        explanations: what the maps were worth, where they were measured.

    Returns:
        The fold's folder.
    """
    partial = partial_folder(run, fold)
    partial.mkdir(parents=True, exist_ok=True)
    record = record | {
        "wall_seconds": round(sum(row["seconds"] for row in history), 1),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_fold(partial, probabilities, pd.DataFrame(history), record)
    if explanations is not None:
        written = Fold(probabilities, pd.DataFrame(history), record)
        write_explanations(partial, explanations, written)
    folder = fold_folder(run, fold)
    replace_folder(partial, folder)
    return folder


def trained_model(
    profile: Profile,
    data: FoldData,
    parameters: FoldParameters,
    report: Callable[[str], None] = print,
    model: keras.Model | None = None,
) -> keras.Model:
    """The model of a fold: from the weights beside its artefacts, or trained again.

    Weights are not committed. Where a fold came with the repository, its model is trained once
    here and kept, out of git's sight. A model of the same profile that is given takes the weights,
    unless it must be trained.
    """
    loaded = model is not None
    model = build_model(profile) if model is None else model
    own = fold_folder(parameters.run_name, parameters.fold) / CHECKPOINT
    key = _checkpoint_key(profile, data, parameters.fold)
    # A finished fold's own checkpoint is read, and never written again.
    if not own.is_file() or load_checkpoint(own, model, key) is None:
        model = build_model(profile) if loaded else model
        again = paths.runs_folder() / ".models"
        kept = again / f"{parameters.run_name}-fold-{parameters.fold}.npz"
        train(model, profile, data, parameters.fold, kept, report)
    return model
