"""Diameter alone: what any network has to beat. A logistic regression in each fold."""

import time
from collections.abc import Iterable
from importlib.metadata import version

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from nodulebook.core import paths
from nodulebook.core.files import sha256
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import list_runs, read_run
from nodulebook.runs.job import FoldJob, Outcome

RUN = "diameter"


def diameter_fold(
    nodules: pd.DataFrame, folds: pd.DataFrame, fold: int
) -> tuple[pd.DataFrame, float]:
    """Predict one fold from the logarithm of the readers' mean diameter.

    Args:
        nodules: nodule_id and diameter_mm.
        folds: nodule_id, patient_id, label, fold.
        fold: the fold that is held out.

    Returns:
        The fold's probabilities table, and the cross-entropy on the training folds.
    """
    table = folds.merge(nodules[["nodule_id", "diameter_mm"]], on="nodule_id", validate="1:1")
    feature = np.log(table[["diameter_mm"]].to_numpy())
    test = (table["fold"] == fold).to_numpy()
    label = table["label"].to_numpy()
    model = LogisticRegression(C=1e6).fit(feature[~test], label[~test])
    loss = float(log_loss(label[~test], model.predict_proba(feature[~test])[:, 1]))
    out = table.loc[test, ["nodule_id", "patient_id", "label"]].reset_index(drop=True)
    return out.assign(
        p_malignant=model.predict_proba(feature[test])[:, 1], fold=fold, arm=RUN
    ), loss


def run_diameter(
    nodules: pd.DataFrame,
    folds: pd.DataFrame,
    which: Iterable[int] = range(N_FOLDS),
    into: str = "",
) -> None:
    """Write folds of the run `diameter` under the run contract; those that are done are skipped.

    Args:
        nodules: nodule_id and diameter_mm.
        folds: nodule_id, patient_id, label, fold.
        into: before the run's name.
    """
    data_hash = sha256(paths.NODULES_CSV, paths.FOLDS_CSV)
    for fold in which:
        with FoldJob(into + RUN, fold, {"data_hash": data_hash}, folds) as job:
            if not job.begin():
                continue
            start = time.monotonic()
            probabilities, loss = diameter_fold(nodules, folds, fold)
            packages = ("scikit-learn", "numpy", "nodulebook")
            job.record(
                {
                    "run": RUN,
                    "arm": RUN,
                    "source": "annotations",
                    "seed": 0,
                    "profile": {"model": "logistic regression on log(diameter_mm)", "C": 1e6},
                    "profile_hash": "",
                    "data_hash": data_hash,
                    "absent_nodules": [],
                    "n_train": len(folds) - len(probabilities),
                    "n_test": len(probabilities),
                    "versions": {name: version(name) for name in packages},
                    "backend": "scikit-learn",
                    "device": "CPU",
                }
            )
            seconds = round(time.monotonic() - start, 3)
            history = pd.DataFrame([{"epoch": 1, "loss": loss, "seconds": seconds}])
            job.finish(Outcome(probabilities, history))


def recheck() -> list[str]:
    """Findings of running the committed baseline again, all folds; it is cheap enough."""
    if RUN not in list_runs():
        return []
    nodules, folds = read_nodules(), read_folds()
    findings = []
    for k, fold in read_run(RUN, folds=folds).folds.items():
        again, _ = diameter_fold(nodules, folds, k)
        p = fold.probabilities.set_index("nodule_id")["p_malignant"]
        q = again.set_index("nodule_id")["p_malignant"].loc[p.index]
        off = float(np.abs(p - q).max())
        if off > 1e-6:
            findings.append(
                f"{paths.fold_folder(RUN, k)}: run again, a probability differs by {off:.2g}"
            )
    return findings
