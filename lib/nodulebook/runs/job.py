"""A fold as a job: done or not, refused, resumed, recorded and finished, under one lock.

Every kind of run goes through `FoldJob`: networks, features, the baseline, trials, rules and
repeats. A process holds the job's lock from before it trains until the fold's folder has its name.
Another process that asks for the same fold waits, and then finds it done.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pandas as pd
from filelock import BaseFileLock

from nodulebook.core import paths
from nodulebook.core.environment import noted_environment
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, remove, replace_folder, wait_for_lock
from nodulebook.core.processor import processor_text
from nodulebook.core.settings import FoldParameters
from nodulebook.data.folds import read_folds
from nodulebook.explain.scores import Explanations
from nodulebook.patches.sources import built_digest
from nodulebook.runs.arithmetic import arithmetic
from nodulebook.runs.contract import RUN, SAME_IN_A_RUN, Fold, read_fold, write_fold
from nodulebook.runs.map_scores import write_explanations

AGAIN = ".again/"
"""Before a run's name: its folds made again, to be compared, out of git's sight."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the computation of a fold gives."""

    probabilities: pd.DataFrame
    history: pd.DataFrame
    """One row per epoch; its column `seconds`, where there is one, adds up to wall_seconds."""
    lesions: pd.DataFrame | None = None
    explanations: Explanations | None = None


class FoldJob:
    """One fold of one run.

    Attributes:
        run: the folder of the run in `papermill_runs/`, such as "paper-phantom" or "trials/wide".
        fold: its number.
        settings: keys of run.json that the fold must have, with their values: profile_hash,
            source, data_hash where the data is known, and others.
        expected: the fold table: nodule_id, patient_id, label, fold.
        mend: what the user can do about a fold that is not of these settings.
    """

    def __init__(
        self,
        run: str,
        fold: int,
        settings: Mapping[str, Any],
        expected: pd.DataFrame,
        mend: str = "",
    ) -> None:
        """Name the job; nothing is read or written yet."""
        self.run, self.fold, self.settings, self.expected = run, fold, dict(settings), expected
        self.folder = paths.fold_folder(run, fold)
        self.partial = paths.partial_folder(run, fold)
        self.mend = f"delete {self.folder} to run it again{mend}"
        self._lock: BaseFileLock | None = None
        self._record: dict[str, Any] = {}
        self._start = 0.0

    def read(self) -> Fold:
        """The fold's files; InputError where they are absent, damaged, or of other nodules."""
        return read_fold(self.folder, self.expected)

    def is_done(self) -> bool:
        """Whether the fold is there, whole, and made with these settings and this data.

        Raises:
            InputError: it is there, but damaged or made otherwise; nothing is overwritten unasked.
        """
        if not self.folder.exists():
            return False
        try:
            made = self.read().run
        except InputError as error:
            raise InputError(f"{error}\n{self.mend}") from None
        for key, value in self.settings.items():
            if made.get(key) != value:
                what = "from other patches" if key == "data_hash" else "with other settings"
                raise InputError(f"{self.folder}: made {what} ({key} differs); {self.mend}")
        return True

    def begin(self) -> bool:
        """Take the job, unless the fold is done; waits while another process has it.

        Returns:
            True: the fold is to be made, and the lock is held until `finish` or `release`. False:
            the fold is done, perhaps by the other process in the meantime.

        Raises:
            InputError: as `is_done`.
        """
        name = f"fold {self.fold} of {self.run}"
        if not self.is_done():
            lock = paths.lock_file(self.run, self.fold)
            self._lock = wait_for_lock(lock, f"{name}: another process is making it; waiting")
            try:
                if not self.is_done():
                    # What a killed process left half-written must not follow into the result.
                    for leftover in self.partial.glob(".*"):
                        remove(leftover)
                    self._start = time.monotonic()
                    return True
                self.release()
            except BaseException:
                self.release()
                raise
        print(f"{name} is done: {Path(*self.folder.parts[-3:])}", flush=True)
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """For `with job:`, which releases the lock at its end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock."""
        self.release()

    def record(self, about: Mapping[str, Any]) -> None:
        """Note what run.json says before the computation starts.

        `about` has the keys of `contract.RUN_KEYS` but fold, started, ended and wall_seconds, and
        others.

        Raises:
            InputError: another fold of the run was made with other settings, data or arm.
        """
        self._record = {
            **about,
            "fold": self.fold,
            "processor": processor_text(),
            "environment": noted_environment(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        others = set()
        for path in sorted(self.folder.parent.glob(f"fold-*/{RUN}")):
            made = read_json(path)
            if not isinstance(made, dict):
                continue
            for key in SAME_IN_A_RUN:
                theirs, ours = made.get(key), self._record.get(key)
                if theirs != ours:
                    raise InputError(
                        f"{path}: {key} is {theirs!r}, but fold {self.fold} would have {ours!r}: "
                        "one run cannot hold both; give another run name"
                    )
            others.add(arithmetic(made))
        own = arithmetic(self._record)
        if others - {own}:
            print(
                f"fold {self.fold} of {self.run} is computed with {own}, and folds that are there "
                f"with {'; '.join(sorted(others))}: the tables of the run say so",
                flush=True,
            )

    def finish(self, outcome: Outcome) -> Path:
        """Write the fold's files, then give the folder its name: done, or not at all.

        Returns:
            The fold's folder.

        Raises:
            InputError: the outcome breaks the run contract.
        """
        if self._lock is None:
            raise RuntimeError("finish without begin: the job's lock is not held")
        self.partial.mkdir(parents=True, exist_ok=True)
        history = outcome.history
        seconds = history.get("seconds")
        elapsed = time.monotonic() - self._start if seconds is None else float(seconds.sum())
        record = self._record | {
            "wall_seconds": round(elapsed, 3 if elapsed < 10 else 1),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_fold(self.partial, outcome.probabilities, history, record, outcome.lesions)
        if outcome.explanations is not None:
            written = Fold(outcome.probabilities, history, record)
            write_explanations(self.partial, outcome.explanations, written)
        replace_folder(self.partial, self.folder)
        self.release()
        return self.folder


def network_job(parameters: FoldParameters, into: str = "") -> FoldJob:
    """The job of a fold of a profile's run.

    `into` stands before the run's name: `AGAIN`, or the folder of a group and a slash.
    """
    profile = parameters.settings
    settings = {"profile_hash": profile.hash(), "source": parameters.source}
    if parameters.source != "phantom":
        where = Path(parameters.data) if parameters.data else None
        digest = built_digest(
            parameters.source, where, profile.training.lesions, profile.training.margin
        )
        if digest is not None:
            settings["data_hash"] = digest
    mend = ", or give another name with --run"
    name = into + parameters.run_name
    return FoldJob(name, parameters.fold, settings, read_folds(), mend)
