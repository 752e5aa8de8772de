"""The rows of Table 4 that are not one network: first features, then a classifier of its own.

DeepLung (the paper's [31]) hands the features of its trained network, the nodule's size and its
voxels to gradient boosting. Mao et al. 2018 ([32]) code small patches around superpixels with an
autoencoder, count how often each of a vocabulary of codes appears, and classify the counts.
All of it is fitted on the training patients of a fold; test patients are only looked up.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, FoldParameters, read_profile
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.rivals import build_network
from nodulebook.model.targets import FoldData, split_fold
from nodulebook.model.train import PREDICT_BATCH
from nodulebook.patches.sources import built_digest, open_source
from nodulebook.patches.store import PatchStore
from nodulebook.runs.job import FoldJob, Outcome
from nodulebook.runs.network_fold import made_from, probabilities_table, trained_model
from study.features.autoencoder import (
    SEED,
    Autoencoder,
    Fitted,
    Volumes,
    autoencoder_fold,
    build_autoencoder,
    local_patches,
)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Boosting:
    """DeepLung's second stage: gradient boosting on features of a rival's trained network.

    Kept: the three groups of features (network, size, voxels), and that the network whose features
    the trees are fitted on was trained on the same nodules. Differs: the network is our small one;
    the size is the readers' diameter, so that this row, unlike the others, is told what they
    measured; voxels are averaged to 2 mm.
    """

    network: str = "rival-dualpath3d"
    """The profile of the network."""
    trees: int = 100
    leaves: int = 8
    learning_rate: float = 0.1

    @property
    def parameters(self) -> int:
        """Numbers of the trees, at most: a value a leaf; a feature and a threshold a cut."""
        return self.trees * (self.leaves + 2 * (self.leaves - 1))


METHODS: dict[str, Boosting | Autoencoder] = {
    "rival-dualpath3d-gbm": Boosting(),
    "rival-autoencoder": Autoencoder(),
}
"""By name, which begins the name of the run: `<name>-<source>`."""


def settings_hash(settings: Boosting | Autoencoder) -> str:
    """SHA-256 of a method's settings; of Boosting with the hash of its network's profile."""
    values: dict[str, Any] = asdict(settings)
    if isinstance(settings, Boosting):
        values["network_hash"] = read_profile(settings.network).hash()
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def network_features(model: keras.Model, volumes: Volumes) -> NDArray[np.float64]:
    """What a network's global average gives for each patch.

    Args:
        model: has a layer "global_pool".
        volumes: (n, z, y, x) in [0, 1].

    Returns:
        (n, C).
    """
    inner = keras.Model(model.input, model.get_layer("global_pool").output)
    batches = [
        inner.predict_on_batch(volumes[first : first + PREDICT_BATCH, ..., None])
        for first in range(0, len(volumes), PREDICT_BATCH)
    ]
    return np.concatenate(batches).astype(np.float64)


def boosting_features(
    deep: NDArray[np.float64], diameter_mm: NDArray[np.float64], volumes: Volumes
) -> NDArray[np.float64]:
    """Features of the network, diameter, and voxels averaged over 2^3, side by side.

    Args:
        deep: (n, C).
        diameter_mm: (n,).
        volumes: (n, z, y, x), even lengths.

    Returns:
        (n, C + 1 + z y x / 8).
    """
    n, z, y, x = volumes.shape
    blocks = volumes.reshape(n, z // 2, 2, y // 2, 2, x // 2, 2).mean(axis=(2, 4, 6))
    return np.column_stack([deep, diameter_mm, blocks.reshape(n, -1)])


def boost(
    train: NDArray[np.float64],
    label: NDArray[np.int64],
    test: NDArray[np.float64],
    settings: Boosting,
) -> Fitted:
    """Fit the trees; probabilities of the test rows, and the training cross-entropy by tree."""
    model = HistGradientBoostingClassifier(
        max_iter=settings.trees,
        max_leaf_nodes=settings.leaves,
        learning_rate=settings.learning_rate,
        early_stopping=False,
        random_state=SEED,
    ).fit(train, label)
    history = [
        {"epoch": tree, "loss": float(log_loss(label, p))}
        for tree, p in enumerate(model.staged_predict_proba(train), start=1)
    ]
    return Fitted(model.predict_proba(test)[:, 1], history, settings.parameters)


def boosting_fold(
    settings: Boosting,
    data: FoldData,
    fold: int,
    source: str,
    diameter_mm: "pd.Series[float]",
    report: Report = print,
) -> Fitted:
    """One fold of DeepLung's second stage.

    The network is that of the fold's own run `<network>-<source>` where its weights are here; else
    it is trained, and kept.

    Args:
        diameter_mm: by nodule.
    """
    run = f"{settings.network}-{source}"
    parameters = FoldParameters.model_validate(
        {"fold": fold, "profile": settings.network, "source": source, "run": run}
    )
    network = trained_model(read_profile(settings.network), data, parameters, report)
    train, test = (
        boosting_features(
            network_features(network, volumes),
            diameter_mm[table["nodule_id"]].to_numpy().astype(np.float64),
            volumes,
        )
        for table, volumes in ((data.train, data.train_volumes), (data.test, data.test_volumes))
    )
    fitted = boost(train, data.train["label"].to_numpy(), test, settings)
    return Fitted(fitted.p_malignant, fitted.history, fitted.parameters + network.count_params())


def run_feature_folds(
    name: str,
    source: str,
    data: Path | None = None,
    folds: Iterable[int] = range(N_FOLDS),
    report: Report = print,
    into: str = "",
) -> None:
    """Write the folds of `<name>-<source>` under the run contract; those that are done are skipped.

    Args:
        name: of `METHODS`.
        data: the CT data; NODULEBOOK_DATA where None.
        into: before the run's name.

    Raises:
        InputError: there is no such method, or a fold that is there is of other settings.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is not one of {', '.join(METHODS)}")
    settings = METHODS[name]
    made_with = {"profile_hash": settings_hash(settings), "source": source}
    digest = None if source == "phantom" else built_digest(source, data, "labelled")
    made_with |= {"data_hash": digest} if digest else {}
    run, table = f"{name}-{source}", read_folds()
    jobs = [FoldJob(into + run, fold, made_with, table) for fold in folds]
    waiting = [job for job in jobs if not job.is_done()]
    report(f"run {run}: {len(waiting)} folds to do")
    if not waiting:
        return
    store = open_source(source, data)
    # They are the same in every fold.
    patches = _patches_by_nodule(store, settings) if isinstance(settings, Autoencoder) else {}
    for job in waiting:
        with job:
            if job.begin():
                _make_fold(job, name, store, patches, report)
                report(f"fold {job.fold} of {run}: {job.folder}")


def _patches_by_nodule(store: PatchStore, settings: Autoencoder) -> dict[str, NDArray[np.float32]]:
    labelled = read_folds()
    everything = split_fold(labelled, store, 0)
    parts = (
        (everything.train, everything.train_volumes),
        (everything.test, everything.test_volumes),
    )
    return {
        name: local_patches(volume, settings)
        for table, volumes in parts
        for name, volume in zip(table["nodule_id"], volumes, strict=True)
    }


def _make_fold(
    job: FoldJob,
    name: str,
    store: PatchStore,
    patches: dict[str, NDArray[np.float32]],
    report: Report,
) -> None:
    settings, fold, arm = METHODS[name], job.fold, name.removeprefix("rival-")
    data = split_fold(job.expected, store, fold)
    about = {
        "run": f"{name}-{store.source}",
        "arm": arm,
        "source": store.source,
        "seed": SEED,
        "profile": asdict(settings),
        "profile_hash": settings_hash(settings),
    }
    if isinstance(settings, Boosting):
        diameter = read_nodules().set_index("nodule_id")["diameter_mm"]
        fitted = boosting_fold(settings, data, fold, store.source, diameter, report)
    else:
        train, test = ([patches[i] for i in t["nodule_id"]] for t in (data.train, data.test))
        fitted = autoencoder_fold(settings, train, data.train["label"].to_numpy(), test)
    job.record(about | made_from(data, store.recipe) | {"parameters": fitted.parameters})
    probabilities = probabilities_table(data, fitted.p_malignant, fold, arm)
    job.finish(Outcome(probabilities, pd.DataFrame(fitted.history)))


def count_parameters(name: str) -> int:
    """Numbers that a row of `data/rivals.csv` fits, from the model itself.

    Args:
        name: a profile, or one of `METHODS`.
    """
    method = METHODS.get(name)
    if method is None:
        return int(build_network(read_profile(name).network).count_params())
    if isinstance(method, Boosting):
        return count_parameters(method.network) + method.parameters
    own = build_autoencoder(method)[0].count_params()
    return int(own) + method.words * (method.units[-1] + 1) + 1
