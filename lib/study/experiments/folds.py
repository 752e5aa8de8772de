"""Folds as papermill runs of the training chapter: one, or all ten; skip, resume, record."""

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import written_aside
from nodulebook.core.processor import processor_text
from nodulebook.core.settings import N_FOLDS, FoldParameters
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import REAL_CT, SOURCES, open_source
from nodulebook.runs.contract import is_done, list_runs, read_fold, read_run
from nodulebook.stats.metrics import roc_auc
from study.experiments.baseline import RUN, diameter_fold, run_diameter
from study.experiments.handcrafted import PREFIX as FEATURES
from study.experiments.handcrafted import predict_again
from study.experiments.parallel import run_side_by_side

_SHOWN = ("fold ", "going on", *SOURCES)
"""How the lines begin that a fold prints for the person who waits."""

TRAINING_CHAPTER = paths.CHAPTERS / "training.md"


def expected_rows(folds: pd.DataFrame, fold: int) -> pd.DataFrame:
    """The labelled nodules of one fold."""
    return folds[folds["fold"] == fold]


def fold_is_done(parameters: FoldParameters) -> bool:
    """Whether the fold's artefacts are there, whole, and made with the profile as it is now.

    Raises:
        InputError: artefacts are there but are damaged, or were made with other settings;
            nothing is overwritten unasked.
    """
    folder = paths.fold_folder(parameters.run_name, parameters.fold)
    if not folder.exists():
        return False
    mend = f"delete {folder} to run it again, or give another name with --run"
    try:
        fold = read_fold(folder, expected_rows(read_folds(), parameters.fold))
    except InputError as error:
        raise InputError(f"{error}\n{mend}") from None
    made = (fold.run["profile_hash"], fold.run["source"])
    if made != (parameters.settings.hash(), parameters.source):
        raise InputError(
            f"{folder}: made with other settings than profile {parameters.profile!r}, source "
            f"{parameters.source!r} and this seed; {mend}"
        )
    return True


def run_fold(parameters: FoldParameters) -> Path:
    """Run the training chapter for one fold, unless it is done; it goes on where it was stopped.

    Returns:
        The fold's folder.

    Raises:
        InputError: the fold's data, settings or artefacts are wrong.
    """
    folder = paths.fold_folder(parameters.run_name, parameters.fold)
    _ = parameters.settings  # refused before anything is opened
    if fold_is_done(parameters):
        print(f"fold {parameters.fold} of {parameters.run_name} is done: {folder}", flush=True)
        return folder
    # Seconds to import, and only a fold that is really run needs them.
    import jupytext
    import papermill

    notebook = jupytext.read(TRAINING_CHAPTER)
    output = folder.with_name(f".fold-{parameters.fold}.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    _show_progress()
    try:
        done = papermill.execute_notebook(
            notebook,
            str(output),
            parameters=parameters.model_dump(),
            cwd=str(paths.CHAPTERS),
            kernel_name="python3",
            log_output=True,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # its remarks on transport
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == InputError.__name__:
            raise InputError(str(error.evalue)) from None
        raise InputError(
            f"the training chapter failed in fold {parameters.fold} with {error.ename}: "
            f"{error.evalue}\nthe notebook with its traceback: {output}"
        ) from None
    if not is_done(folder):
        raise InputError(f"the training chapter ended, but wrote no {folder}")
    _write_notebook(done, folder.with_suffix(".ipynb"))
    output.unlink(missing_ok=True)
    print(f"fold {parameters.fold} of {parameters.run_name}: {folder}", flush=True)
    return folder


def run_fold_without_notebook(parameters: FoldParameters) -> Path:
    """As `run_fold`, without notebook and maps: the same numbers, for a table of many networks.

    A process traces a network once for all the folds that it trains, which for a short budget is
    half of the time.
    """
    folder = paths.fold_folder(parameters.run_name, parameters.fold)
    if fold_is_done(parameters):
        print(f"fold {parameters.fold} of {parameters.run_name} is done: {folder}", flush=True)
        return folder
    from nodulebook.runs.network_fold import open_fold, run_without_notebook

    profile = parameters.settings
    data, store = open_fold(parameters, profile)
    return run_without_notebook(None, parameters, profile, data, store.recipe)


def run_folds(first: FoldParameters, jobs: int | None = None, notebooks: bool = True) -> None:
    """Run all folds; those that are done are skipped, those that were stopped go on.

    Args:
        first: the parameters; their `fold` is replaced by 0 to 9.
        jobs: folds side by side; `default_jobs()` where None. The numbers do not depend on it.
        notebooks: by papermill, a notebook each; else `run_fold_without_notebook`.

    Raises:
        InputError: a fold failed; the others that were under way are finished first.
    """
    every = [first.model_copy(update={"fold": fold}) for fold in range(N_FOLDS)]
    waiting = [parameters for parameters in every if not fold_is_done(parameters)]
    print(f"run {first.run_name}: {len(waiting)} of {N_FOLDS} folds to do", flush=True)
    if not waiting:
        return
    # Built here, once, and not by the first folds side by side.
    where = Path(first.data) if first.data else None
    open_source(first.source, where, first.settings.training.lesions)
    if first.source in REAL_CT:
        open_source(first.source, where, "all")
    run = run_fold if notebooks else run_fold_without_notebook
    run_side_by_side([(run, parameters) for parameters in waiting], jobs)


@dataclass(frozen=True)
class Again:
    """A committed fold beside the same fold run again."""

    largest_difference: float
    """Of the predicted probabilities of any test nodule."""
    auc_committed: float
    auc_again: float
    processor_committed: str
    """As `training.processor` had it then; empty in runs of before it was noted."""
    processor_again: str

    @property
    def reason(self) -> str:
        """Why the two may differ, as far as the processors tell."""
        if self.processor_committed == self.processor_again != "":
            return "the processor is the same, so they should be identical"
        return (
            f"made on {self.processor_committed or 'a processor not noted'}, run again on "
            f"{self.processor_again or 'one not known'}: another processor adds in another order, "
            "and training makes much of the last digit (chapter reproduce)"
        )


def run_again(run: str, fold: int, data: str = "") -> Again:
    """Run a fold of `papermill_runs/` again, beside it, and compare the predictions.

    The second run is made in `papermill_runs/.again/`, out of git's sight. One that was stopped
    goes on; one that ended is of an earlier call, and is made anew.

    Args:
        run: the run's name.
        fold: 0 to 9.
        data: the CT data, instead of NODULEBOOK_DATA.

    Raises:
        InputError: there is no such fold, or the profile has changed since.
    """
    nodules, folds = read_nodules(), read_folds()
    committed = read_fold(paths.fold_folder(run, fold), expected_rows(folds, fold))
    processor = str(committed.run.get("processor", ""))
    if run == RUN:
        probabilities, _ = diameter_fold(nodules, folds, fold)
    elif run.startswith(FEATURES):
        store = open_source(committed.run["source"], Path(data) if data else None)
        probabilities = predict_again(store, folds, committed.run)
    else:
        parameters = FoldParameters(
            fold=fold,
            profile=committed.run["profile_name"],
            source=committed.run["source"],
            run=run,
            data=data,
            explain=False,
            seed=committed.run["seed"],
        )
        fold_is_done(parameters)  # refuses where the profile is another by now
        before = os.environ.get("NODULEBOOK_RUNS")
        os.environ["NODULEBOOK_RUNS"] = str(paths.runs_folder() / ".again")
        try:
            shutil.rmtree(paths.fold_folder(run, fold), ignore_errors=True)
            probabilities = read_fold(
                run_fold(parameters), expected_rows(folds, fold)
            ).probabilities
        finally:
            os.environ.pop("NODULEBOOK_RUNS")
            if before is not None:
                os.environ["NODULEBOOK_RUNS"] = before
    both = committed.probabilities.merge(
        probabilities[["nodule_id", "p_malignant"]], on="nodule_id", suffixes=("", "_again")
    )
    if len(both) != len(committed.probabilities):
        raise InputError(f"{run} fold {fold}: run again, it has other test nodules")
    return Again(
        largest_difference=float((both["p_malignant"] - both["p_malignant_again"]).abs().max()),
        auc_committed=roc_auc(both["label"].to_numpy(), both["p_malignant"].to_numpy()),
        auc_again=roc_auc(both["label"].to_numpy(), both["p_malignant_again"].to_numpy()),
        processor_committed=processor,
        processor_again=processor_text(),
    )


def prepare_book() -> None:
    """Run what the book's chapters show, where it is not there: the quick profile on the phantom,
    and the diameter baseline. Folds that are done are skipped."""
    if RUN not in list_runs() or read_run(RUN, folds=read_folds()).missing_folds:
        run_diameter(read_nodules(), read_folds())
    run_folds(FoldParameters())


def _show_progress() -> None:
    """Let papermill's log, which carries the notebook's printed lines, through to the terminal."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logger = logging.getLogger("papermill")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.getMessage().startswith(_SHOWN))
        handler.terminator = ""  # the messages are the notebook's own lines
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _write_notebook(notebook: Any, path: Path) -> None:
    """Keep what a reader wants of an executed notebook; drop the times that change each run."""
    import nbformat

    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "papermill": {"parameters": dict(notebook.metadata["papermill"]["parameters"])},
    }
    for cell in notebook.cells:
        if "outputs" in cell:  # stderr holds TensorFlow's remarks about the machine
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
    with written_aside(path) as aside:
        text = nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call]
        aside.write_text(text, encoding="utf-8")
