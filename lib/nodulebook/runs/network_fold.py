"""A fold of a network: trained, predicted, recorded under the run contract."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.files import exclusive, write_csv
from nodulebook.core.paths import fold_folder, lock_file
from nodulebook.core.settings import FoldParameters, Profile
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.backend import device, precision, versions
from nodulebook.model.checkpoint import (
    CHECKPOINT,
    checkpoint_key,
    code_version,
    load_checkpoint,
)
from nodulebook.model.targets import FoldData, split_fold
from nodulebook.model.train import (
    ARM,
    arm_of,
    build_model,
    fresh_model,
    predict_malignant,
    train,
)
from nodulebook.patches.sources import REAL_CT, open_for_training, open_source
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import EACH_EPOCH
from nodulebook.runs.job import FoldJob, Outcome


def probabilities_table(
    data: FoldData, p_malignant: NDArray[np.float64], fold: int, arm: str = ARM
) -> pd.DataFrame:
    """The fold's `probabilities.csv`."""
    return data.test[["nodule_id", "patient_id", "label"]].assign(
        p_malignant=p_malignant, fold=fold, arm=arm
    )


def lesions_table(
    model: keras.Model, data: FoldData, probabilities: pd.DataFrame, views: int = 1
) -> pd.DataFrame | None:
    """The fold's `lesions.csv`: its test nodules, and the other lesions of the held-out patients.

    The test nodules' predictions are those of `probabilities`; the others are made as they were.

    Returns:
        The columns of `probabilities`, or None where a held-out patient is also trained on.
    """
    if data.lesions is None or data.unlabelled_volumes is None:
        return None
    p = data.lesions["nodule_id"].map(probabilities.set_index("nodule_id")["p_malignant"])
    rest = p.isna()
    if rest.any():
        p[rest] = predict_malignant(model, data.unlabelled_volumes, views)
    same = {name: probabilities[name].iloc[0] for name in ("fold", "arm")}
    return data.lesions.assign(p_malignant=p, **same)


def open_fold(
    parameters: FoldParameters,
    profile: Profile,
    folds: pd.DataFrame | None = None,
    hidden: Collection[str] = (),
    store: PatchStore | None = None,
) -> tuple[FoldData, PatchStore]:
    """A fold's data, and the store that its patches come from.

    Args:
        parameters: source, data and fold.
        profile: which lesions are trained on, and towards what.
        folds: the fold table; data/folds.csv where None.
        hidden: patients who take no part.
        store: the patches, where they are not the source's own.

    Raises:
        InputError: the source's data is missing or damaged, or has too few nodules of the fold.
    """
    where = Path(parameters.data) if parameters.data else None
    recipe = profile.training
    # The phantom is rendered for minutes: its other lesions are worth that to nobody.
    more = store is None and recipe.lesions != "all" and parameters.source in REAL_CT
    every = open_source(parameters.source, where, "all") if more else None
    store = store or open_for_training(parameters.source, where, recipe)
    table = read_folds() if folds is None else folds
    given = (table, store, parameters.fold, recipe, read_nodules(), hidden)
    return split_fold(*given, every=every), store


def network_record(
    parameters: FoldParameters, profile: Profile, data: FoldData, recipe: dict[str, str]
) -> dict[str, Any]:
    """What `run.json` says of a network's fold, for `FoldJob.record`."""
    return {
        "run": parameters.run_name,
        "arm": arm_of(profile),
        "source": parameters.source,
        "seed": profile.seed,
        "profile_name": parameters.profile,
        "profile": profile.model_dump(mode="json"),
        "profile_hash": profile.hash(),
        **made_from(data, recipe),
    }


def made_from(data: FoldData, recipe: dict[str, str]) -> dict[str, Any]:
    """What `run.json` says of a fold's data, and of what computes."""
    return {
        "data_hash": data.digest,
        "data_recipe": recipe,
        "absent_nodules": data.absent,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "versions": versions(),
        "code": code_version(),
        "backend": keras.backend.backend(),
        "precision": precision(),
        "device": device(),
    }


def run_network_fold(
    job: FoldJob,
    parameters: FoldParameters,
    profile: Profile,
    opened: tuple[FoldData, PatchStore],
    more: Mapping[str, Any] | None = None,
    each_epoch: bool = False,
) -> Path:
    """Train and test a fold whose job was begun, as the training chapter does cell by cell.

    Args:
        job: `begin` has returned True.
        parameters: run and fold; the profile's name need not be a file's.
        profile: the settings.
        opened: from `open_fold`.
        more: further keys of run.json.
        each_epoch: keep the test predictions after each epoch, in `EACH_EPOCH`.
    """
    data, store = opened
    job.record(network_record(parameters, profile, data, store.recipe) | dict(more or {}))
    model = fresh_model(profile)
    every, views = job.partial / EACH_EPOCH, profile.training.test_views

    def report(line: str) -> None:
        print(f"{parameters.run_name}: {line}", flush=True)

    def keep(epoch: int) -> None:
        p = predict_malignant(model, data.test_volumes, views)
        kept = data.test[["nodule_id"]] if epoch == 1 else pd.read_csv(every)
        write_csv(kept.assign(**{f"epoch_{epoch}": p.round(6)}), every)

    checkpoint = job.partial / CHECKPOINT
    after = keep if each_epoch else None
    history = train(model, profile, data, job.fold, checkpoint, report, after)
    return job.finish(network_outcome(model, profile, data, job.fold, history))


def network_outcome(
    model: keras.Model, profile: Profile, data: FoldData, fold: int, history: list[dict[str, float]]
) -> Outcome:
    """What a trained network predicts of a fold, and how it was trained."""
    views = profile.training.test_views
    p = predict_malignant(model, data.test_volumes, views)
    table = probabilities_table(data, p, fold, arm_of(profile))
    return Outcome(table, pd.DataFrame(history), lesions_table(model, data, table, views))


def trained_model(
    profile: Profile,
    data: FoldData,
    parameters: FoldParameters,
    report: Callable[[str], None] = print,
    model: keras.Model | None = None,
) -> keras.Model:
    """The model of a fold: from the weights next to its artefacts, or trained again.

    Weights are not committed. Where a fold came with the repository, its model is trained once
    here and kept, out of git's sight. A model of the same profile that is given takes the weights,
    unless it must be trained.
    """
    loaded = model is not None
    model = build_model(profile) if model is None else model
    own = fold_folder(parameters.run_name, parameters.fold) / CHECKPOINT
    key = checkpoint_key(profile, data, parameters.fold)
    # A finished fold's own checkpoint is read, and never written again.
    if not own.is_file() or load_checkpoint(own, model, key, finished=True) is None:
        model = build_model(profile) if loaded else model
        again = paths.runs_folder() / ".models"
        kept = again / f"{parameters.run_name}-fold-{parameters.fold}.npz"
        waiting = f"{kept.stem}: another process is training it; waiting"
        with exclusive(lock_file(parameters.run_name, parameters.fold, "model"), waiting):
            train(model, profile, data, parameters.fold, kept, report)
    return model
