"""Table 3 on our folds: classical classifiers on hand-crafted features, tuned inside each fold.

A run `features-<group>-<source>` for each group of `features.GROUPS`, and `features-all-<source>`
for all of them together, under the run contract (`artefacts`). In every fold the candidates are
compared by their mean AUC in a second cross-validation, patient-grouped too, within the fold's
training patients; the best is fitted to all of these and predicts the fold that was held out.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from sklearn.svm import SVC

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv, write_csv
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.folds import absent_nodules
from nodulebook.patches.store import PatchStore
from nodulebook.runs.job import FoldJob, Outcome
from study.features.definitions import GROUPS, VERSION, all_features

PREFIX = "features-"
ALL = "all"
EVERY_GROUP = (*GROUPS, ALL)
SEED = 0
INNER_FOLDS = 5

Array = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A classifier and its settings."""

    classifier: str
    parameters: dict[str, float]


CANDIDATES = (
    *(Candidate("logistic regression", {"C": c}) for c in (0.001, 0.01, 0.1, 1.0, 10.0)),
    *(
        # gamma as a multiple of 1 / number of features
        Candidate("SVM (RBF)", {"C": c, "gamma_times_features": gamma})
        for c in (1.0, 10.0, 100.0, 1000.0)
        for gamma in (0.03, 0.1, 0.3)
    ),
    *(Candidate("random forest", {"trees": 100, "min_samples_leaf": leaf}) for leaf in (2, 8)),
)
"""Of equal ones the first is taken."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """One fold predicted."""

    probabilities: Array  # of the test nodules
    chosen: Candidate
    inner_auc: list[float]  # of each of `CANDIDATES`
    loss: float  # cross-entropy on the training nodules


def run_name(group: str, source: str) -> str:
    """`features-<group>-<source>`."""
    return f"{PREFIX}{group}-{source}"


def settings(group: str) -> dict[str, Any]:
    """What a run of this group depends on beside the patches; goes into `run.json`."""
    return {
        "features": group,
        "features_version": VERSION,
        "candidates": [{"classifier": one.classifier} | one.parameters for one in CANDIDATES],
        "inner_folds": INNER_FOLDS,
        "chosen_by": "mean AUC over inner patient-grouped folds of the training patients",
    }


def settings_hash(group: str) -> str:
    """SHA-256 of `settings`."""
    return hashlib.sha256(json.dumps(settings(group), sort_keys=True).encode()).hexdigest()


def feature_table(store: PatchStore, nodule_ids: Sequence[str], say: Say = print) -> pd.DataFrame:
    """The features of nodules; computed once a store and kept in `data/features/`.

    Args:
        say: told of the progress, a line a hundred nodules.

    Returns:
        A row a nodule in the order asked for, index nodule_id, columns `<group>:<feature>`.

    Raises:
        InputError: a nodule is not in the store, or its patch is no good (it is named).
    """
    rows = store.rows(nodule_ids)
    path = paths.DATA / "features" / f"{store.source}-v{VERSION}-{store.digest[:12]}.csv"
    kept = _read_features(path)
    if kept is None or not set(nodule_ids) <= set(kept.index):
        found = {}
        start = time.monotonic()
        for done, (name, row) in enumerate(zip(nodule_ids, rows, strict=True), start=1):
            try:
                groups = all_features(store.volumes_hu[row], store.masks[row])
            except InputError as error:
                raise InputError(f"nodule {name} of {store.source}: {error}") from None
            found[name] = {
                f"{group}:{feature}": value
                for group in GROUPS
                for feature, value in groups[group].items()
            }
            if done % 100 == 0:
                left = (time.monotonic() - start) / done * (len(rows) - done)
                say(f"features of {store.source}: {done} of {len(rows)} nodules, {left:.0f} s left")
        table = pd.DataFrame.from_dict(found, orient="index")
        write_csv(table.rename_axis("nodule_id").reset_index(), path)
        kept = _read_features(path)  # the numbers of a later run, which reads them
        assert kept is not None
    return kept.loc[list(nodule_ids)]


def _read_features(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    names = pd.read_csv(path, nrows=0).columns
    if not len(names) or names[0] != "nodule_id":
        raise InputError(f"{path}: not a table of features; delete it")
    table = read_csv(path, dict.fromkeys(names, "float") | {"nodule_id": "str"})
    return table.set_index("nodule_id")


def columns_of(table: pd.DataFrame, group: str) -> list[str]:
    """The columns of a group, or of all.

    Raises:
        InputError: there is no such group.
    """
    if group not in EVERY_GROUP:
        raise InputError(f"feature group {group!r} is not one of {', '.join(EVERY_GROUP)}")
    return [name for name in table.columns if group == ALL or name.startswith(f"{group}:")]


def _classifier(candidate: Candidate, training: Array, seed: int) -> Any:
    """The candidate, not fitted yet: a forest on raw features, any other on their ranks.

    Features are as skewed as sizes are; forests do not mind. The ranks are those of the training
    nodules, on a normal scale.
    """
    p = candidate.parameters
    if candidate.classifier == "random forest":
        return RandomForestClassifier(
            n_estimators=int(p["trees"]),
            min_samples_leaf=int(p["min_samples_leaf"]),
            random_state=seed,
        )
    ranks = QuantileTransformer(
        n_quantiles=min(100, len(training)), output_distribution="normal", random_state=seed
    )
    if candidate.classifier == "SVM (RBF)":
        gamma = p["gamma_times_features"] / training.shape[1]
        return make_pipeline(ranks, SVC(C=p["C"], gamma=gamma, cache_size=500))
    return make_pipeline(ranks, LogisticRegression(C=p["C"], max_iter=5000))


def _scores(model: Any, values: Array) -> Array:
    """Probabilities of a fitted classifier, or an SVM's decision values."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(values)[:, 1])
    return np.asarray(model.decision_function(values))


def predict_fold(
    training: Array, label: NDArray[np.int64], patient_id: Sequence[str], test: Array, seed: int = 0
) -> Prediction:
    """Choose a candidate within the training patients, fit it to them, predict the test nodules.

    An SVM's decision values become probabilities by a logistic curve, fitted to the values that
    the inner folds' held-out nodules got (Platt 1999).

    Args:
        training: (n, features).
        label: (n,) 0 or 1.
        patient_id: (n,) whose nodules they are; never split between inner folds.
        test: (m, features).
    """
    splitter = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    held_out = np.empty((len(CANDIDATES), len(label)))
    aucs = []
    for fit, hold in splitter.split(training, label, patient_id):
        for k, candidate in enumerate(CANDIDATES):
            model = _classifier(candidate, training[fit], seed).fit(training[fit], label[fit])
            held_out[k, hold] = _scores(model, training[hold])
        aucs.append([float(roc_auc_score(label[hold], one[hold])) for one in held_out])
    inner_auc = np.mean(aucs, axis=0).tolist()
    best = int(np.argmax(inner_auc))
    chosen = CANDIDATES[best]
    model = _classifier(chosen, training, seed).fit(training, label)
    p_training, p = _scores(model, training), _scores(model, test)
    if chosen.classifier == "SVM (RBF)":
        curve = LogisticRegression(C=1e6).fit(held_out[best][:, None], label)
        p, p_training = (curve.predict_proba(x[:, None])[:, 1] for x in (p, p_training))
    return Prediction(p, chosen, inner_auc, float(log_loss(label, p_training)))


def predict_group(
    table: pd.DataFrame, folds: pd.DataFrame, group: str, fold: int
) -> tuple[pd.DataFrame, Prediction]:
    """Predict one fold from one group's features.

    Args:
        folds: nodule_id, patient_id, label, fold; nodules without features are left out.
        group: of `features.GROUPS`, or `ALL`.

    Returns:
        nodule_id, patient_id, label, p_malignant, fold; and what was chosen.
    """
    # The order of the rows must not matter to inner folds and forests.
    known = folds[folds["nodule_id"].isin(table.index)].sort_values("nodule_id")
    values = table.loc[known["nodule_id"], columns_of(table, group)].to_numpy()
    inside = (known["fold"] == fold).to_numpy()
    label = known["label"].to_numpy()
    patients = known["patient_id"].to_numpy()
    prediction = predict_fold(
        values[~inside], label[~inside], patients[~inside].tolist(), values[inside], SEED
    )
    out = known.loc[inside, ["nodule_id", "patient_id", "label"]].reset_index(drop=True)
    return out.assign(p_malignant=prediction.probabilities, fold=fold), prediction


def run_features(
    store: PatchStore,
    folds: pd.DataFrame,
    groups: Sequence[str] = EVERY_GROUP,
    which: Iterable[int] = range(N_FOLDS),
    into: str = "",
    say: Say = print,
) -> None:
    """Write the runs of feature groups; folds that are done are skipped.

    Args:
        folds: data/folds.csv.
        groups: of `features.GROUPS`, and `ALL`.
        into: before the runs' names.
        say: told of the progress, one line per fold.

    Raises:
        InputError: an unknown group, or a fold is there that is damaged or made otherwise.
    """
    table = feature_table(store, present(store, folds), say)
    for group in groups:
        columns_of(table, group)
    for group in groups:
        made_with = {"profile_hash": settings_hash(group), "data_hash": store.digest}
        for fold in which:
            name = run_name(group, store.source)
            with FoldJob(into + name, fold, made_with, folds) as job:
                if job.begin():
                    chosen = _make_fold(job, table, store, folds, group)
                    say(f"fold {fold} of {name}: {chosen.classifier} {chosen.parameters}")


def present(store: PatchStore, folds: pd.DataFrame) -> list[str]:
    """The labelled nodules that the store holds, in the order of `folds`."""
    return folds["nodule_id"][folds["nodule_id"].isin(store.table["nodule_id"])].tolist()


def _make_fold(
    job: FoldJob, table: pd.DataFrame, store: PatchStore, folds: pd.DataFrame, group: str
) -> Candidate:
    start = time.monotonic()
    probabilities, prediction = predict_group(table, folds, group, job.fold)
    chosen, arm = prediction.chosen, f"{PREFIX}{group}"
    packages = ("numpy", "scipy", "scikit-image", "scikit-learn", "PyWavelets", "nodulebook")
    job.record(
        {
            "run": run_name(group, store.source),
            "arm": arm,
            "source": store.source,
            "seed": SEED,
            "profile": settings(group),
            "profile_hash": settings_hash(group),
            "n_features": len(columns_of(table, group)),
            "chosen": {"classifier": chosen.classifier} | chosen.parameters,
            "inner_auc": [round(value, 6) for value in prediction.inner_auc],
            "data_hash": store.digest,
            "data_recipe": store.recipe,
            "absent_nodules": absent_nodules(folds, job.fold, table.index),
            "n_train": int(table.index.isin(folds["nodule_id"]).sum()) - len(probabilities),
            "n_test": len(probabilities),
            "versions": {package: version(package) for package in packages},
            "backend": "scikit-learn",
            "device": "CPU",
        }
    )
    numbers = {"inner_auc": max(prediction.inner_auc)}
    numbers["seconds"] = round(time.monotonic() - start, 3)
    history = pd.DataFrame([{"epoch": 1, "loss": prediction.loss} | numbers])
    job.finish(Outcome(probabilities.assign(arm=arm), history))
    return chosen
