"""Saliency maps of finished folds: measured with the fold's own network and patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive
from nodulebook.core.settings import Profile
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.explain import gradcam
from nodulebook.explain.measure import Classes, Maps, all_maps, explain, map_correlations
from nodulebook.explain.scores import Explanations
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.targets import FoldData, split_fold
from nodulebook.model.train import ARM, build_model, predict_malignant, train
from nodulebook.patches.sources import SOURCES, open_for_training
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import Fold, read_fold
from nodulebook.runs.map_scores import read_explanations, write_explanations
from nodulebook.runs.network_fold import trained_model
from study.experiments.folds import recorded_parameters
from study.readerstudy import page as readerstudy


def with_permuted_targets(data: FoldData, seed: int) -> FoldData:
    """The fold with all that a training patch is trained towards given to another, as one."""
    targets = data.train.columns.difference(["nodule_id", "patient_id", "fold"])
    order = np.random.default_rng(seed).permutation(len(data.train))
    train = data.train.copy()
    for name in targets:
        train[name] = data.train[name].to_numpy()[order]
    return replace(data, train=train, digest=f"{data.digest} labels permuted")


def labels_check(
    model: keras.Model,
    profile: Profile,
    data: FoldData,
    fold: int,
    checkpoint: Path,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train the same network on permuted training labels; its maps beside those of `model`.

    Returns:
        Rows for `Explanations.sanity`, check "labels".
    """
    other_data = with_permuted_targets(data, profile.seed)
    p = predict_malignant(model, data.test_volumes, profile.training.test_views)
    explained = (p >= 0.5).astype(np.int64)
    own = all_maps(model, data.test_volumes, explained, fine=False)
    other = build_model(profile)
    waiting = f"{checkpoint.stem}: another process is training it; waiting"
    with exclusive(checkpoint.with_suffix(".lock"), waiting):
        train(other, profile, other_data, fold, checkpoint, report)
    maps = all_maps(other, data.test_volumes, explained, fine=False)
    names = data.test["nodule_id"].tolist()
    return map_correlations(own, maps, names).assign(check="labels", step="all")


def explain_new_fold(
    model: keras.Model,
    data: FoldData,
    store: PatchStore,
    report: Callable[[str], None] = print,
    views: int = 1,
) -> Explanations | None:
    """The explanations of a fold's test nodules; None, and why, where there can be none."""
    if keras.backend.backend() != "tensorflow":
        report("the maps are left out: they need the tensorflow backend")
        return None
    if model.name != ARM:
        report(f"the maps are left out: they are measured for our own network, not {model.name}")
        return None
    names = data.test["nodule_id"].tolist()
    return explain(model, names, data.test_volumes, store.masks[store.rows(names)], report, views)


@dataclass(frozen=True, eq=False)
class FoldWithModel:
    """A fold that is done, its patches, and its model."""

    fold: Fold
    profile: Profile
    data: FoldData
    store: PatchStore
    model: keras.Model


def fold_with_model(
    run: str,
    fold: int,
    source_data: Path | None = None,
    train_again: bool = False,
    report: Callable[[str], None] = print,
    model: keras.Model | None = None,
) -> FoldWithModel:
    """A fold of papermill_runs/ with its trained model.

    Args:
        source_data: the CT data; NODULEBOOK_DATA where None.
        train_again: where the fold's weights are not on this machine, train it again.
        model: of another fold of the run, which takes this one's weights: what was compiled for
            it is used again.

    Raises:
        InputError: there is no such fold, its weights are not here, or its settings or patches
            have changed since.
    """
    folder = paths.fold_folder(run, fold)
    folds = read_folds()
    committed = read_fold(folder, folds[folds["fold"] == fold])
    parameters = recorded_parameters(committed.run, run, fold)
    profile = parameters.settings
    if not (folder / CHECKPOINT).is_file() and not train_again:
        raise InputError(
            f"{folder / CHECKPOINT}: the fold's weights are not here; "
            f"nodulebook explain --run {run} --fold {fold} --train-again trains it again "
            f"({committed.run['wall_seconds']:.0f} s when it was made)"
        )
    store = open_for_training(parameters.source, source_data, profile.training)
    if store.digest != committed.run["data_hash"]:
        raise InputError(f"{folder}: made with other patches than those of {parameters.source} now")
    data = split_fold(folds, store, fold, profile.training, read_nodules())
    model = trained_model(profile, data, parameters, report, model)
    return FoldWithModel(committed, profile, data, store, model)


def write_reader_study(
    path: Path,
    run: str,
    fold: int,
    pairs: int,
    other_run: str = "",
    source_data: Path | None = None,
) -> int:
    """Write the page of a reader study from a fold's test nodules; how many questions it has.

    Args:
        pairs: nodules; every other one is explained for benign, the rest for malignant.
        other_run: a second run; the question of trust is asked where both are right.
        source_data: the CT data; NODULEBOOK_DATA where None.

    Raises:
        InputError: as `fold_with_model`; the runs have other patches; or fewer nodules than pairs.
    """
    here = fold_with_model(run, fold, source_data)
    names = here.data.test["nodule_id"].tolist()
    if pairs > len(names):
        raise InputError(f"--pairs {pairs}: fold {fold} of {run} has {len(names)} test nodules")
    chosen = np.random.default_rng(0).permutation(len(names))[:pairs]
    volumes = here.data.test_volumes[chosen]
    volumes_hu = here.store.volumes_hu[here.store.rows([names[k] for k in chosen])]
    classes = np.arange(pairs) % 2
    given = (here.model, volumes[..., None], classes)
    where = gradcam.grad_cam_plus_plus(*given)
    maps: dict[str, Maps] = {
        "deconvolution": gradcam.deconvolution(*given),
        "guided_backpropagation": gradcam.guided_backpropagation(*given),
    }
    for method in tuple(maps):
        product = where * maps[method]
        top = product.max(axis=(1, 2, 3), keepdims=True)
        name = {"guided_backpropagation": "guided"}.get(method, method) + "_grad_cam_plus_plus"
        maps[name] = product / np.where(top > 0, top, 1)
    questions = readerstudy.class_questions(
        [names[k] for k in chosen], volumes_hu, maps, classes.tolist()
    )
    if other_run:
        questions += _trust(here, fold_with_model(other_run, fold, source_data), chosen)
    about = f"Source: {SOURCES[here.store.source]}. Networks: {run} {other_run} fold {fold}."
    readerstudy.write_page(path, questions, f"{run}-fold-{fold}", about)
    return len(questions)


def _trust(
    one: FoldWithModel, other: FoldWithModel, chosen: Classes
) -> list["readerstudy.Question"]:
    if one.store.digest != other.store.digest or one.data.test_volumes.shape != (
        other.data.test_volumes.shape
    ):
        raise InputError("the two runs have other patches: a reader could tell them apart")
    tables = [here.fold.probabilities for here in (one, other)]
    right = [((t["p_malignant"] >= 0.5) == t["label"]).to_numpy() for t in tables]
    both = np.array([k for k in chosen if right[0][k] and right[1][k]], dtype=int)
    names = [one.data.test["nodule_id"].iloc[k] for k in both]
    labels = one.data.test["label"].to_numpy()[both].astype(np.int64)
    maps = tuple(
        gradcam.guided_grad_cam_plus_plus(
            here.model, here.data.test_volumes[both][..., None], labels
        )
        for here in (one, other)
    )
    better = int(right[1].mean() > right[0].mean())
    volumes_hu = one.store.volumes_hu[one.store.rows(names)]
    return readerstudy.trust_questions(names, volumes_hu, (maps[0], maps[1]), better)


def explain_folds(
    run: str,
    folds: Sequence[int],
    source_data: Path | None = None,
    permuted_labels: bool = False,
    train_again: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Write explanations.csv and sanity.csv of folds that are done, from the weights beside them.

    Args:
        source_data: the CT data; NODULEBOOK_DATA where None.
        permuted_labels: train the network once more, on permuted labels, for sanity.csv. Where
            not, what sanity.csv has of it is kept.
        train_again: where a fold's weights are not on this machine, train it again.

    Raises:
        InputError: as `fold_with_model`, or the weights give other predictions than the fold's.
    """
    model = None
    for fold in folds:
        here = fold_with_model(run, fold, source_data, train_again, report, model)
        model = here.model
        folder = paths.fold_folder(run, fold)
        names, volumes = here.data.test["nodule_id"].tolist(), here.data.test_volumes
        masks = here.store.masks[here.store.rows(names)]
        views = here.profile.training.test_views
        given = explain(model, names, volumes, masks, report, views)
        before = read_explanations(folder, here.fold)
        labels = [] if before is None else [before.sanity[before.sanity["check"] == "labels"]]
        if permuted_labels:
            kept = paths.runs_folder() / ".models" / f"{run}-fold-{fold}-permuted.npz"
            labels = [labels_check(model, here.profile, here.data, fold, kept, report)]
        sanity = pd.concat([given.sanity, *labels], ignore_index=True)
        write_explanations(folder, Explanations(given.measures, sanity), here.fold)
        report(f"explained: {folder}")
