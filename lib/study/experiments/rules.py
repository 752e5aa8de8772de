"""How much do the rules of an evaluation matter? The same network and budget, one rule changed.

Each rule has ten folds of its own under the run contract, in `papermill_runs/rules/<rule>/`.
Patients whom data/folds.csv knows stay in their fold, so that rules are compared on the same
patients; only where the rule is about the dealing itself are nodules, or copies of them, dealt
anew.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.model_selection import StratifiedKFold

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv
from nodulebook.core.settings import N_FOLDS, Entry, check_fold_parameters, read_entries
from nodulebook.data.cohort import REFERENCE_READERS, read_nodules
from nodulebook.data.folds import SEED, read_folds
from nodulebook.model.augment import symmetries
from nodulebook.patches.sources import open_source
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import EACH_EPOCH, Run, read_run
from nodulebook.runs.job import FoldJob
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import THRESHOLD
from study.experiments.parallel import run_parallel

RULES = "rules"
"""The folder of `papermill_runs/` that holds them."""

BASE = "as-decided"
"""Our own rules, which the others are held against."""

COPIES = (0, 5, 10, 15)
"""Which of a patch's 16 symmetries are its copies; the first is the patch itself."""


class Rule(Entry):
    """An entry of `profiles/trials/rules.yaml`: one rule of the evaluation changed."""

    source: Literal["phantom", "lidc_slices", "lidc_exact"] = "lidc_slices"
    split: Literal["patient", "nodule", "copy"] = "patient"
    """What is dealt to folds: patients with all their nodules, nodules, or flipped and rotated
    copies of nodules."""
    rating: Literal["mean", "median"] = "mean"
    """Of the readers' ratings, which is above 3 for malignant, below 3 for benign."""
    at_3: Literal["left_out", "benign", "malignant"] = "left_out"
    min_readers: int = Field(default=3, ge=1, le=4)
    each_epoch: bool = False
    """Keep the test predictions of every epoch, too."""


def read_rules() -> dict[str, Rule]:
    """The rules that are varied, by name, in the order of `profiles/trials/rules.yaml`."""
    return read_entries(Rule, paths.RULES_YAML)


def label_by(rule: Rule, nodules: pd.DataFrame) -> pd.DataFrame:
    """The nodules that a rule labels, with `label`: 1 malignant, 0 benign."""
    kept = nodules[nodules["readers"] >= rule.min_readers]
    if rule.rating == "mean":
        rating = kept["malignancy_mean"].to_numpy()
    else:
        rating = np.array([np.median([int(n) for n in t.split(";")]) for t in kept["malignancy"]])
    malignant = rating >= 3 if rule.at_3 == "malignant" else rating > 3
    labelled = kept.assign(label=malignant.astype(int))
    return (labelled[rating != 3] if rule.at_3 == "left_out" else labelled).reset_index(drop=True)


def copy_of(nodule_id: pd.Series, copy: int) -> pd.Series:
    """What a copy of a nodule is called: the first as the nodule, the others `<nodule>~<copy>`."""
    return nodule_id if copy == 0 else nodule_id + f"~{copy}"


def deal(rule: Rule, labelled: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """The fold table of a rule.

    Returns:
        nodule_id, patient_id, label, fold. By patient: the fold that data/folds.csv gives the
        patient; patients whom it does not know go, in the order of their names, each to the fold
        with the fewest nodules. By nodule or copy: stratified by label.
    """
    table = labelled[["nodule_id", "patient_id", "label"]].reset_index(drop=True)
    if rule.split == "patient":
        known = folds.drop_duplicates("patient_id").set_index("patient_id")["fold"]
        fold = table["patient_id"].map(known)
        size = fold.value_counts().reindex(range(N_FOLDS), fill_value=0)
        for patient, n in (
            table.loc[fold.isna(), "patient_id"].value_counts(sort=False).sort_index().items()
        ):
            smallest = int(size.to_numpy().argmin())
            fold[table["patient_id"] == patient] = smallest
            size[smallest] += n
        return table.assign(fold=fold.astype(int))
    if rule.split == "copy":
        copies = range(len(COPIES))
        table = pd.concat(
            [table.assign(nodule_id=copy_of(table["nodule_id"], copy)) for copy in copies],
            ignore_index=True,
        )
    dealt = np.full(len(table), -1)
    dealer = StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEED)
    for number, (_, test) in enumerate(dealer.split(table, table["label"])):
        dealt[test] = number
    return table.assign(fold=dealt)


def with_copies(store: PatchStore) -> PatchStore:
    """The store with the copies of each patch beside it, in memory."""

    def copied(values: NDArray[Any]) -> NDArray[Any]:
        views = list(symmetries(values))
        return np.concatenate([views[view] for view in COPIES])

    table = pd.concat(
        [
            store.table.assign(nodule_id=copy_of(store.table["nodule_id"], copy))
            for copy in range(len(COPIES))
        ],
        ignore_index=True,
    )
    return replace(
        store,
        volumes_hu=copied(store.volumes_hu),
        masks=copied(store.masks),
        table=table,
        digest=sha256(f"{store.digest} copies {COPIES}".encode()).hexdigest(),
    )


def rule_folds(rule: Rule) -> pd.DataFrame:
    """The fold table of a rule, from the committed tables."""
    return deal(rule, label_by(rule, read_nodules()), read_folds())


def _record(rule: Rule) -> dict[str, Any]:
    return rule.model_dump(mode="json", exclude={"settings", "question", "title"})


def rule_job(rule: Rule, fold: int, dealt: pd.DataFrame | None = None, into: str = "") -> FoldJob:
    """The job of a fold of a rule.

    Args:
        dealt: the rule's fold table, from `rule_folds`; computed where None.
        into: before the run's name.
    """
    settings = {"profile_hash": rule.settings.hash(), "source": rule.source, "rule": _record(rule)}
    table = rule_folds(rule) if dealt is None else dealt
    return FoldJob(f"{into}{RULES}/{rule.name}", fold, settings, table)


def run_rule(name: str, fold: int, data: str = "", into: str = "") -> Path:
    """Train and test one fold of a rule, unless it is done; it goes on where it stopped.

    Args:
        name: of `profiles/trials/rules.yaml`.
        data: the CT data, instead of NODULEBOOK_DATA.
        into: before the run's name.

    Raises:
        InputError: there is no such rule, or its data or results are wrong.
    """
    rule = _rule(name)
    with rule_job(rule, fold, into=into) as job:
        if job.begin():
            # Keras takes seconds to import, and tables of rules do not need it.
            from nodulebook.runs.network_fold import open_fold, run_network_fold

            store = _store(rule, data)
            if rule.split == "copy":
                store = with_copies(store)
            values = {"fold": fold, "profile": name, "source": rule.source, "run": name}
            parameters = check_fold_parameters(values | {"data": data})
            opened = open_fold(parameters, rule.settings, job.expected, store=store)
            about = {"rule": _record(rule)}
            run_network_fold(job, parameters, rule.settings, opened, about, rule.each_epoch)
    return job.folder


def run_rules(names: Sequence[str], data: str = "", jobs: int | None = None) -> None:
    """Run all folds of the rules named, in parallel; what is done is skipped.

    Raises:
        InputError: a rule is unknown, or one failed.
    """
    rules = [_rule(name) for name in names]
    for rule in rules:
        _store(rule, data)
    todo = [
        (rule.name, fold)
        for rule in rules
        for fold in range(N_FOLDS)
        if not rule_job(rule, fold).is_done()
    ]
    print(f"{len(todo)} folds to do", flush=True)
    run_parallel([(run_rule, name, fold, data) for name, fold in todo], jobs)


def _rule(name: str) -> Rule:
    rules = read_rules()
    if name not in rules:
        raise InputError(f"rule {name!r} is not one of {', '.join(rules)}")
    return rules[name]


def _store(rule: Rule, data: str) -> PatchStore:
    folder = Path(data) if data else None
    all_lesions = rule.min_readers < REFERENCE_READERS
    return open_source(rule.source, folder, "all" if all_lesions else "labelled")


def whole_rules() -> dict[str, Run]:
    """The rules whose ten folds are there, valid, and made with the rule as it is now."""
    found = {}
    for name, rule in read_rules().items():
        if not (paths.runs_folder() / RULES / name).is_dir():
            continue
        dealt = rule_folds(rule)
        if all(rule_job(rule, fold, dealt).is_done() for fold in range(N_FOLDS)):
            found[name] = read_run(name, paths.runs_folder() / RULES, dealt)
    return found


def best_on_test(run: Run) -> pd.DataFrame:
    """A rule's predictions if each fold's epoch had been chosen on its own test nodules.

    The epoch with the highest accuracy there, of equals that with the highest AUC, then the first.

    Args:
        run: of a rule with `each_epoch`.

    Returns:
        The pooled table of the run contract, with the probabilities of those epochs.

    Raises:
        InputError: the predictions of the epochs are not there, or are not of these nodules.
    """
    parts = []
    for number, fold in run.folds.items():
        path = paths.fold_folder(f"{RULES}/{run.name}", number) / EACH_EPOCH
        epochs = [f"epoch_{epoch}" for epoch in fold.history["epoch"]]
        table = read_csv(path, {"nodule_id": "str"} | dict.fromkeys(epochs, "float"))
        if table["nodule_id"].tolist() != fold.probabilities["nodule_id"].tolist():
            raise InputError(f"{path}: other nodules than those of probabilities.csv")
        label = fold.probabilities["label"]
        right = (table[epochs] >= THRESHOLD).eq(label == 1, axis=0).sum()
        most = [epoch for epoch in epochs if right[epoch] == right.max()]
        best = max(most, key=lambda epoch: metrics.roc_auc(label, table[epoch]))
        parts.append(fold.probabilities.assign(p_malignant=table[best]))
    return pd.concat(parts, ignore_index=True)
