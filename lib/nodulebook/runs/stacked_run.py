"""Folds and seeds of one profile, trained in one process with JAX, under the run contract."""

import gc
from collections.abc import Callable, Sequence

from nodulebook.core.paths import partial_folder
from nodulebook.core.settings import FoldParameters
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.stacked import Member, Precision, Stack
from nodulebook.model.targets import FoldData
from nodulebook.model.train import predict_malignant
from nodulebook.runs.network_fold import (
    finish_fold,
    lesions_table,
    open_fold,
    probabilities_table,
    run_record,
)


def run_stacked(
    waiting: Sequence[FoldParameters],
    together: int,
    precision: Precision = "float32",
    until: float = float("inf"),
    report: Callable[[str], None] = print,
) -> bool:
    """Train and test folds and seeds of one profile, and write the folder of each that ends.

    `run.json` says `stacked`: how many were trained at once, and in which precision. Maps are not
    measured; `nodulebook explain` does that afterwards, from the weights.

    Args:
        waiting: folds that are not done; they share profile and source.
        together: how many train at once; the others follow.
        precision: of products, see `nodulebook.model.stacked.Precision`.
        until: moment of `time.monotonic` by which to stop between two epochs.
        report: gets a line an epoch.

    Returns:
        Whether all of them are done. Where not, their checkpoints let a later call go on.

    Raises:
        InputError: the data or settings are wrong, or the loss of a training is not finite.
    """
    opened: dict[int, tuple[FoldData, dict[str, str]]] = {}
    members, records = [], []
    for parameters in waiting:
        fold, profile = parameters.fold, parameters.settings
        if fold not in opened:
            data, store = open_fold(parameters, profile)
            opened[fold] = data, store.recipe
        data, recipe = opened[fold]
        partial = partial_folder(parameters.run_name, fold)
        partial.mkdir(parents=True, exist_ok=True)
        members.append(Member(profile, fold, data, partial / CHECKPOINT))
        records.append(run_record(parameters, profile, data, recipe))
    stack = Stack(members, precision)
    gc.collect()  # building leaves copies of the patches behind
    for first in range(0, len(members), together):
        chosen = range(first, min(first + together, len(members)))
        if not stack.train([members[i] for i in chosen], until, report):
            return False
        for i in chosen:
            _finish(stack, members[i], waiting[i].run_name, records[i], len(chosen))
            report(f"fold {members[i].fold} of {waiting[i].run_name}: done")
    return True


def _finish(
    stack: Stack, member: Member, run: str, record: dict[str, object], together: int
) -> None:
    """Predict with a member's last weights and write its fold."""
    history = stack.load(member)
    views = member.profile.training.test_views
    p = predict_malignant(stack.model, member.data.test_volumes, views)
    table = probabilities_table(member.data, p, member.fold, str(record["arm"]))
    lesions = lesions_table(stack.model, member.data, table, views)
    how = {"stacked": {"together": together, "precision": stack.precision}}
    finish_fold(run, member.fold, table, history, record | how, lesions=lesions)
