"""Folds and seeds of one profile, trained in one process with JAX, under the run contract."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from nodulebook.core.settings import FoldParameters
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.cores import use_every_core
from nodulebook.model.stacked import Member, Precision, Stack
from nodulebook.model.targets import FoldData
from nodulebook.patches.store import PatchStore
from nodulebook.runs.job import FoldJob, network_job
from nodulebook.runs.network_fold import network_outcome, network_record, open_fold


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
        report: gets one line per epoch.

    Returns:
        Whether all of them are done. Where not, their checkpoints let a later call go on.

    Raises:
        InputError: the data or settings are wrong, or the loss of a training is not finite.
    """
    use_every_core()
    opened: dict[int, tuple[FoldData, PatchStore]] = {}
    members: list[tuple[Member, FoldJob]] = []
    with ExitStack() as held:
        for parameters in waiting:
            job, profile = network_job(parameters), parameters.settings
            held.enter_context(job)
            if not job.begin():
                continue
            if job.fold not in opened:
                opened[job.fold] = open_fold(parameters, profile)
            data, store = opened[job.fold]
            stacked = {"together": together, "precision": precision}
            about = {"precision": precision, "stacked": stacked}
            job.record(network_record(parameters, profile, data, store.recipe) | about)
            job.partial.mkdir(parents=True, exist_ok=True)
            members.append((Member(profile, job.fold, data, job.partial / CHECKPOINT), job))
        if not members:
            return True
        stack = Stack([member for member, _ in members], precision)
        held.enter_context(stack.products())
        for first in range(0, len(members), together):
            chosen = members[first : first + together]
            if not stack.train([member for member, _ in chosen], until, report):
                return False
            for member, job in chosen:
                history = stack.load(member)
                of = (stack.model, member.profile, member.data, member.fold, history)
                job.finish(network_outcome(*of))
    return True
