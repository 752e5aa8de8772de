"""Runs in order of importance, worked through for a limited time, on one machine after another."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_yaml
from nodulebook.core.settings import N_FOLDS, FoldParameters, check_fold_parameters
from nodulebook.runs.job import network_job

QUEUE = paths.PROFILES / "trials" / "queue.yaml"


class Entry(BaseModel):
    """The folds of one profile, for one seed or several."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    profile: str
    source: str
    seeds: list[int] = Field(default=[0], min_length=1)
    together: int = Field(default=10, ge=1)
    """Trainings that a GPU computes at once; fewer where the network is wide."""

    def folds(self, data: str) -> list[FoldParameters]:
        """All folds of all seeds, seed after seed."""
        shared = {"profile": self.profile, "source": self.source, "data": data, "explain": False}
        return [
            check_fold_parameters(shared | {"fold": fold, "seed": seed})
            for seed in self.seeds
            for fold in range(N_FOLDS)
        ]


def read_queue(path: Path = QUEUE) -> list[Entry]:
    """The runs to make, the most important first.

    Raises:
        InputError: no such file, not YAML, an unknown key, a wrong value, or no such profile.
    """
    try:
        entries = TypeAdapter(list[Entry]).validate_python(read_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "(all)"
        raise InputError(f"{path}: {where}: {problem['msg']}") from None
    for number, entry in enumerate(entries):
        try:
            _ = entry.folds("")[0].settings
        except InputError as error:
            raise InputError(f"{path}: entry {number}: {error}") from None
    return entries


def work(
    entries: list[Entry],
    seconds: float,
    stacked: bool,
    precision: str = "float32",
    data: str = "",
    jobs: int | None = None,
    report: Callable[[str], None] = print,
) -> bool:
    """Work through a queue for a limited time; called again, it goes on where it was stopped.

    Folds that are done are skipped, and those that were begun go on from their checkpoints, which
    lie next to them: the folder of runs is all that another machine needs.

    Args:
        entries: from `read_queue`.
        seconds: no longer than this; the training of an epoch is not begun if it would take longer.
        stacked: all folds in this process, with JAX; else side by side, as `nodulebook folds`.
            Entries that cannot be trained so are reported and left for the other way.
        data: the CT data, instead of NODULEBOOK_DATA.

    Returns:
        Whether the queue is finished.

    Raises:
        InputError: data, settings or artefacts are wrong.
    """
    until = time.monotonic() + seconds
    finished = True
    for entry in entries:
        waiting = [fold for fold in entry.folds(data) if not network_job(fold).is_done()]
        total = N_FOLDS * len(entry.seeds)
        report(f"{entry.profile}, {entry.source}: {total - len(waiting)} of {total} folds are done")
        if not waiting:
            continue
        if time.monotonic() >= until:
            return False
        if stacked:
            from nodulebook.model.stacked import unsupported
            from nodulebook.runs.stacked_run import run_stacked

            if why := unsupported(waiting[0].settings):
                report(f"{entry.profile}, {entry.source}: left for --one-by-one: {why}")
                finished = False
                continue
            if not run_stacked(waiting, entry.together, precision, until, report):  # type: ignore[arg-type]
                return False
            continue
        for seed in dict.fromkeys(fold.seed for fold in waiting):
            if not _side_by_side(entry, seed, data, jobs, until):
                return False
    return finished


def _side_by_side(
    entry: Entry, seed: int | None, data: str, jobs: int | None, until: float
) -> bool:
    """A run as a process of its own, ended when the time is up: each epoch leaves a checkpoint."""
    words = {"profile": entry.profile, "source": entry.source, "seed": seed, "data": data}
    words |= {"jobs": jobs}
    options = [f"--{name}={value}" for name, value in words.items() if value not in (None, "")]
    command = [sys.executable, "-m", "nodulebook", "folds", "--no-notebooks", *options]
    try:
        done = subprocess.run(command, timeout=max(0, until - time.monotonic()), env=os.environ)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        raise InputError(f"{entry.profile}, {entry.source}, seed {seed}: a fold failed, see above")
    return True
