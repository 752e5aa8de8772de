"""A committed fold made again, next to it, and compared: what another machine changes."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive
from nodulebook.core.processor import processor_text
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.checkpoint import code_version
from nodulebook.patches.sources import open_source
from nodulebook.runs.contract import read_fold
from nodulebook.runs.job import AGAIN
from nodulebook.stats.metrics import roc_auc
from study.experiments.baseline import RUN as DIAMETER
from study.experiments.baseline import run_diameter
from study.experiments.folds import recorded_parameters, run_fold_without_notebook
from study.experiments.rules import RULES, run_rule
from study.experiments.trials import TRIALS, run_trial
from study.features.handcrafted import PREFIX as FEATURES
from study.features.handcrafted import run_features


@dataclass(frozen=True)
class Again:
    """A committed fold next to the same fold run again."""

    largest_difference: float
    """Of the predicted probabilities of any test nodule."""
    auc_committed: float
    auc_again: float
    processor_committed: str
    """As `processor_text` gave it then; empty in runs of before it was noted."""
    processor_again: str
    same_code: bool | None
    """Whether the code that computes a network is the same; None: it was not recorded."""

    @property
    def reason(self) -> str:
        """What of the two is known to differ; the cause itself is not known from that."""
        code = {True: "the same code", False: "other code", None: "code of which nothing is noted"}
        same = self.processor_committed == self.processor_again != ""
        if same and self.same_code:
            return "processor and code are the same, so they should be identical"
        return (
            f"made on {self.processor_committed or 'a processor not noted'} with "
            f"{code[self.same_code]}, run again on {self.processor_again or 'one not known'}: "
            "another processor or other code sums in another order, and training amplifies "
            "rounding differences (chapter reproduce)"
        )


def run_again(run: str, fold: int, data: str = "") -> Again:
    """Run a fold of `papermill_runs/` again, and compare the predictions.

    The second run is made in `papermill_runs/.again/`, out of git's sight. One that was stopped
    goes on; one that ended is of an earlier call, and is made again.

    Args:
        run: the run's name; of a trial, a rule or a repeat with its folder, as rules/as-decided.
        fold: 0 to 9; of a trial the split.
        data: the CT data, instead of NODULEBOOK_DATA.

    Raises:
        InputError: there is no such fold, its settings or patches have changed since, or Keras
            runs on another backend than it did.
    """
    committed = read_fold(paths.fold_folder(run, fold))
    made_with, here = committed.run.get("backend"), keras.backend.backend()
    # Another backend draws other first weights. Features are made with scikit-learn, whatever runs.
    if made_with in ("jax", "tensorflow", "torch") and made_with != here:
        raise InputError(
            f"run {run!r} was trained with Keras on {made_with}, and this is {here}: set "
            f"KERAS_BACKEND={made_with} and call this again"
        )
    about = committed.run
    waiting = f"fold {fold} of {run}: another process is running it again; waiting"
    with exclusive(paths.lock_file(AGAIN + run, fold, "again"), waiting):
        _make_again(run, fold, data, about)
        made = read_fold(paths.fold_folder(AGAIN + run, fold))
    for key in ("profile_hash", "data_hash"):
        if made.run[key] != about[key]:
            raise InputError(f"{run} fold {fold}: {key} differs: settings or patches have changed")
    both = committed.probabilities.merge(
        made.probabilities[["nodule_id", "p_malignant"]], on="nodule_id", suffixes=("", "_again")
    )
    if len(both) != len(committed.probabilities):
        raise InputError(f"{run} fold {fold}: run again, it has other test nodules")
    label = both["label"].to_numpy()
    return Again(
        largest_difference=float((both["p_malignant"] - both["p_malignant_again"]).abs().max()),
        auc_committed=roc_auc(label, both["p_malignant"].to_numpy()),
        auc_again=roc_auc(label, both["p_malignant_again"].to_numpy()),
        processor_committed=str(about.get("processor", "")),
        processor_again=processor_text(),
        same_code=about["code"] == code_version() if "code" in about else None,
    )


def _make_again(run: str, fold: int, data: str, about: Mapping[str, Any]) -> None:
    """Run the fold whose record is `about` again, in `AGAIN`."""
    shutil.rmtree(paths.fold_folder(AGAIN + run, fold), ignore_errors=True)
    group, _, name = run.rpartition("/")
    source = about["source"]
    where = Path(data) if data else None
    if group == TRIALS:
        run_trial(name, fold, data, AGAIN)
    elif group == RULES:
        run_rule(name, fold, data, AGAIN)
    elif run == DIAMETER:
        run_diameter(read_nodules(), read_folds(), [fold], AGAIN)
    elif run.startswith(FEATURES):
        store = open_source(source, where)
        run_features(store, read_folds(), [about["profile"]["features"]], [fold], AGAIN)
    elif "profile_name" in about:
        parameters = recorded_parameters(about, name, fold, data)
        run_fold_without_notebook(parameters, f"{AGAIN}{group}/" if group else AGAIN)
    else:
        from study.features.deep import run_feature_folds

        run_feature_folds(run.removesuffix(f"-{source}"), source, where, [fold], into=AGAIN)
