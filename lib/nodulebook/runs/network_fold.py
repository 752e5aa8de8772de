"""A fold of a network: trained, predicted, recorded under the run contract."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.files import replace_folder, write_csv
from nodulebook.core.paths import fold_folder, partial_folder
from nodulebook.core.processor import processor_text
from nodulebook.core.settings import FoldParameters, Profile
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.explain.scores import Explanations
from nodulebook.model.backend import device, versions
from nodulebook.model.checkpoint import CHECKPOINT, checkpoint_key, load_checkpoint
from nodulebook.model.targets import FoldData, split_fold
from nodulebook.model.train import (
    ARM,
    arm_of,
    build_model,
    fresh_model,
    predict_malignant,
    train,
)
from nodulebook.patches.sources import REAL_CT, open_source
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import EACH_EPOCH, Fold, write_fold
from nodulebook.runs.map_scores import write_explanations


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

    Args:
        model: the fold's trained network.
        data: from `split_fold`.
        probabilities: from `probabilities_table`; these are not predicted again.
        views: as the test nodules were predicted.

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
    parameters: FoldParameters, profile: Profile, folds: pd.DataFrame | None = None
) -> tuple[FoldData, PatchStore]:
    """A fold's data, and the store that its patches come from.

    Args:
        parameters: source, data and fold.
        profile: which lesions are trained on, and towards what.
        folds: the fold table; data/folds.csv where None.

    Raises:
        InputError: the source's data is missing or damaged, or has too few nodules of the fold.
    """
    where = Path(parameters.data) if parameters.data else None
    recipe = profile.training
    store = open_source(parameters.source, where, recipe.lesions)
    # The phantom is rendered for minutes: its other lesions are worth that to nobody.
    more = recipe.lesions != "all" and parameters.source in REAL_CT
    every = open_source(parameters.source, where, "all") if more else store
    table = read_folds() if folds is None else folds
    nodules = read_nodules()
    return split_fold(table, store, parameters.fold, recipe, nodules, every=every), store


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
    lesions: pd.DataFrame | None = None,
) -> Path:
    """Write the fold's files beside its checkpoint, then rename the folder: done, or not at all.

    Args:
        run: the run's name.
        fold: the fold's number.
        probabilities: from `probabilities_table`.
        history: a dict an epoch.
        record: from `run_record`.
        explanations: what the maps were worth, where they were measured.
        lesions: from `lesions_table`.

    Returns:
        The fold's folder.
    """
    partial = partial_folder(run, fold)
    partial.mkdir(parents=True, exist_ok=True)
    record = record | {
        "wall_seconds": round(sum(row["seconds"] for row in history), 1),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_fold(partial, probabilities, pd.DataFrame(history), record, lesions)
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
    views = profile.training.test_views
    p = predict_malignant(model, data.test_volumes, views)
    table = probabilities_table(data, p, fold, record["arm"])
    lesions = lesions_table(model, data, table, views)
    return finish_fold(name, fold, table, history, record, lesions=lesions)


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
    key = checkpoint_key(profile, data, parameters.fold)
    # A finished fold's own checkpoint is read, and never written again.
    if not own.is_file() or load_checkpoint(own, model, key, finished=True) is None:
        model = build_model(profile) if loaded else model
        again = paths.runs_folder() / ".models"
        kept = again / f"{parameters.run_name}-fold-{parameters.fold}.npz"
        train(model, profile, data, parameters.fold, kept, report)
    return model
