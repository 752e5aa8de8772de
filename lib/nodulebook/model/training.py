"""One fold, from patches to probabilities: a function of (profile, source, fold, seed).

Stopped at any moment and started again, it goes on from the last finished epoch and ends with the
same numbers, bit for bit, on the same machine.
"""

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import replace_folder, write_csv, written_aside
from nodulebook.core.paths import fold_folder, partial_folder
from nodulebook.core.processor import processor_text
from nodulebook.core.settings import FoldParameters, Profile, RivalSettings, TrainingSettings
from nodulebook.data.annotations import CHARACTERISTICS as CHARACTERISTICS_RATED
from nodulebook.data.folds import check_fold
from nodulebook.explain.scores import Explanations
from nodulebook.model.augment import augmented_epoch, symmetries
from nodulebook.model.losses import DynamicCrossEntropy
from nodulebook.model.rivals import build_network
from nodulebook.model.senet import (
    CHARACTERISTICS,
    MALIGNANCY,
    MALIGNANT,
    with_characteristics,
)
from nodulebook.patches.cube import central_slab, scale_to_unit
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import EACH_EPOCH, Fold, write_fold
from nodulebook.runs.map_scores import write_explanations

ARM = "senet"
CHECKPOINT = "checkpoint.npz"

PREDICT_BATCH = 24

LOCK_SECONDS = 15.0
"""How long to wait for a fold that another process trains: one that was killed needs a moment."""


@dataclass(frozen=True, eq=False)
class FoldData:
    """A fold's patches, scaled to [0, 1], (n, 32, 32, 32) zyx, and its tables."""

    train: pd.DataFrame  # nodule_id, patient_id; label, or what `lesion_targets` gives
    test: pd.DataFrame  # nodule_id, patient_id, label, fold
    train_volumes: NDArray[np.float32]
    test_volumes: NDArray[np.float32]
    absent: list[str]  # nodules of the fold table that the source does not have
    digest: str


def split_fold(
    folds: pd.DataFrame,
    store: PatchStore,
    fold: int,
    settings: TrainingSettings | None = None,
    nodules: pd.DataFrame | None = None,
    hidden: Collection[str] = (),
) -> FoldData:
    """Training and test patches of one fold.

    Args:
        folds: columns nodule_id, patient_id, label, fold.
        store: the source's patches; labelled nodules that it lacks are left out and listed.
        fold: the fold that is held out.
        settings: which lesions are trained on, with which targets, and the slab that is shown;
            None: the labelled nodules, whole.
        nodules: `data/nodules.csv`; needed where the settings want more than labels.
        hidden: patients who take no part.

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
    if settings and settings.lesions == "all":
        held_out = {*folds.loc[folds["fold"] == fold, "patient_id"], *hidden}
        kept = ~store.table["patient_id"].isin(held_out)
        train = store.table.loc[kept, ["nodule_id", "patient_id"]].reset_index(drop=True)
    if settings and settings.beyond_labels:
        if nodules is None:
            raise InputError("targets beyond the label need the table of nodules")
        targets = lesion_targets(nodules, train["nodule_id"], settings)
        train = train.drop(columns="label", errors="ignore").join(targets)

    def volumes(table: pd.DataFrame) -> NDArray[np.float32]:
        volumes_hu = store.volumes_hu[store.rows(table["nodule_id"])]
        slab = settings.central_slab_mm if settings else 0
        return scale_to_unit(central_slab(volumes_hu, slab) if slab else volumes_hu)

    return FoldData(
        train=train,
        test=test,
        train_volumes=volumes(train),
        test_volumes=volumes(test),
        absent=sorted(folds.loc[~here, "nodule_id"]),
        digest=store.digest,
    )


RATED = tuple(name for name in CHARACTERISTICS_RATED if name != "internal_structure")
"""The readers' characteristics of the second task; internal structure hardly varies."""

CHARACTERISTICS_TASK = (*RATED, "log_diameter")

FULL_READERS = 4
"""Readers of a scan; a lesion that all of them marked has weight 1."""


def lesion_targets(
    nodules: pd.DataFrame, nodule_ids: Iterable[str], settings: TrainingSettings
) -> pd.DataFrame:
    """What lesions are trained on, beyond a label.

    Args:
        nodules: `data/nodules.csv`.
        nodule_ids: the lesions, in the order wanted.
        settings: soft_labels, lesions.

    Returns:
        Columns malignancy (target in [0, 1]: the mean rating from 1 to 5, or its side of 3, with
        0.5 at 3), weight (share of the readers who marked it; 1 where only labelled nodules are
        trained on), and those of `CHARACTERISTICS_TASK`, each with mean 0 and standard deviation
        1 here.
    """
    rows = nodules.set_index("nodule_id").loc[list(nodule_ids)]
    mean = rows["malignancy_mean"].to_numpy()
    side = (1 + np.sign(mean - 3)) / 2
    out = pd.DataFrame({"malignancy": (mean - 1) / 4 if settings.soft_labels else side})
    share = rows["readers"].to_numpy().clip(max=FULL_READERS) / FULL_READERS
    out["weight"] = share if settings.lesions == "all" else 1.0
    for name in RATED:
        out[name] = [np.mean([int(n) for n in text.split(";")]) for text in rows[name]]
    # A single contour point has diameter 0.
    out["log_diameter"] = np.log(rows["diameter_mm"].to_numpy().clip(min=2))
    for name in CHARACTERISTICS_TASK:
        deviation = out[name].std(ddof=0)
        out[name] = (out[name] - out[name].mean()) / (deviation if deviation > 0 else 1.0)
    return out.astype(np.float32)


def make_deterministic(seed: int) -> None:
    """Seed every generator, and have TensorFlow use only operations that repeat exactly."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


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
        first = [keras.ops.convert_to_numpy(v.value).copy() for v in _state(model)]
        _built[key] = (model, first)
    model, first = _built[key]
    # What is random in a network (dropout) is drawn from states that are among its variables.
    # Seeding anew here would have TensorFlow compile the traced step again.
    for variable, value in zip(_state(model), first, strict=True):
        variable.assign(value)
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
    after_epoch: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train to the profile's last epoch, from the checkpoint where there is one.

    Args:
        model: from `build_model(profile)`.
        profile: the run's settings.
        data: the fold's patches; only the training part is used.
        fold: the fold's number.
        checkpoint: file that is rewritten after each epoch.
        report: gets a line an epoch.
        after_epoch: called with the number of each epoch, from 1, before its checkpoint is
            written: again for the same epoch where the training is stopped in between.

    Returns:
        A dict an epoch: epoch (from 1), loss, cross_entropy, accuracy, learning_rate, seconds.

    Raises:
        InputError: another process trains with this checkpoint, or the loss is not finite.
    """
    with _claimed(checkpoint):
        return _train(model, profile, data, fold, checkpoint, report, after_epoch)


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
    after_epoch: Callable[[int], None] | None,
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
    for epoch in range(len(history), settings.epochs):
        start = time.monotonic()
        volumes, order = augmented_epoch(
            data.train_volumes, profile.seed, epoch, settings.flips, settings.quarter_turns
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
    """The predicted malignant probability of each patch.

    Args:
        model: from `build_model`, or of `nodulebook.model.senet`.
        volumes: (n, z, y, x), scaled to [0, 1].
        views: 1; or 16, the mean over the symmetries that training patches are shown under.

    Returns:
        (n,) in [0, 1].
    """
    seen = [volumes] if views == 1 else symmetries(volumes)
    p: NDArray[np.float64] = np.mean([_predict(model, view) for view in seen], axis=0)
    return p


def _predict(model: keras.Model, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
    batches = []
    for first in range(0, len(volumes), PREDICT_BATCH):
        out = model.predict_on_batch(volumes[first : first + PREDICT_BATCH, ..., None])
        batches.append(out[MALIGNANCY] if isinstance(out, dict) else out)
    return np.concatenate(batches).astype(np.float64)[:, MALIGNANT]


def probabilities_table(
    data: FoldData, p_malignant: NDArray[np.float64], fold: int, arm: str = ARM
) -> pd.DataFrame:
    """The fold's `probabilities.csv`."""
    return data.test[["nodule_id", "patient_id", "label"]].assign(
        p_malignant=p_malignant, fold=fold, arm=arm
    )


def arm_of(profile: Profile) -> str:
    """What the run contract calls the classifier: `senet`, or the rival's name."""
    return profile.network.rival if isinstance(profile.network, RivalSettings) else ARM


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
        "arm": arm_of(profile),
        "source": parameters.source,
        "fold": parameters.fold,
        "seed": profile.seed,
        "profile_name": parameters.profile,
        "profile": profile.model_dump(mode="json"),
        "profile_hash": profile.hash(),
        **made_from(data, recipe),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def made_from(data: FoldData, recipe: dict[str, str]) -> dict[str, Any]:
    """What `run.json` says of a fold's data, and of what it is made with."""
    return {
        "data_hash": data.digest,
        "data_recipe": recipe,
        "absent_nodules": data.absent,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "versions": versions(),
        "backend": keras.backend.backend(),
        "device": device(),
        "processor": processor_text(),
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


def run_without_notebook(
    group: str | None,
    parameters: FoldParameters,
    profile: Profile,
    data: FoldData,
    recipe: dict[str, str],
    more: Mapping[str, Any] | None = None,
    each_epoch: bool = False,
) -> Path:
    """Train and test a fold and write its files, as the training chapter does cell by cell.

    Args:
        group: the folder of `papermill_runs/` that the run's folder goes into, if any.
        parameters: run and fold; the profile's name need not be a file's.
        profile: the settings.
        data: from `split_fold`.
        recipe: of the patches.
        more: further keys of run.json.
        each_epoch: keep the test predictions after each epoch, in `EACH_EPOCH`.

    Returns:
        The fold's folder.
    """
    model = fresh_model(profile)
    record = run_record(parameters, profile, data, recipe) | dict(more or {})
    name = f"{group}/{parameters.run_name}" if group else parameters.run_name
    fold = parameters.fold
    partial = partial_folder(name, fold)
    every = partial / EACH_EPOCH

    def report(line: str) -> None:
        print(f"{parameters.run_name}: {line}", flush=True)

    def keep(epoch: int) -> None:
        p = predict_malignant(model, data.test_volumes, profile.training.test_views)
        kept = data.test[["nodule_id"]] if epoch == 1 else pd.read_csv(every)
        write_csv(kept.assign(**{f"epoch_{epoch}": p.round(6)}), every)

    history = train(
        model, profile, data, fold, partial / CHECKPOINT, report, keep if each_epoch else None
    )
    p = predict_malignant(model, data.test_volumes, profile.training.test_views)
    table = probabilities_table(data, p, fold, record["arm"])
    return finish_fold(name, fold, table, history, record)


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
