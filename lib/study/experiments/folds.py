"""Folds of a profile's run: by papermill from the training chapter, or plainly; one, or all ten."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive, naming_the_folder, written_aside
from nodulebook.core.settings import N_FOLDS, FoldParameters, check_fold_parameters
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import REAL_CT, SOURCES, open_for_training, open_source
from nodulebook.runs.contract import list_runs, read_run
from nodulebook.runs.job import FoldJob, network_job
from study.experiments.baseline import RUN, run_diameter
from study.experiments.parallel import OUT_OF_MEMORY, run_parallel

_SHOWN = ("fold ", "going on", "checkpoint", *SOURCES)
"""How the lines begin that a fold prints for the person who waits."""

TRAINING_CHAPTER = paths.CHAPTERS / "training.md"


def recorded_parameters(
    record: Mapping[str, Any], run: str, fold: int, data: str = ""
) -> FoldParameters:
    """The parameters that a fold of a network was made with.

    Args:
        record: the fold's `run.json`.
        data: the CT data, instead of NODULEBOOK_DATA.

    Raises:
        InputError: the run is not of a profile, or its profile has changed since.
    """
    if "profile_name" not in record:
        raise InputError(f"run {run!r} was made without a profile's network")
    names = {"profile": record["profile_name"], "source": record["source"], "run": run}
    parameters = check_fold_parameters(names | {"fold": fold, "data": data, "seed": record["seed"]})
    if parameters.settings.hash() != record["profile_hash"]:
        raise InputError(f"run {run!r}: profile {parameters.profile!r} has changed since")
    return parameters


def run_fold(parameters: FoldParameters) -> Path:
    """Run the training chapter for one fold, unless it is done; it goes on where it was stopped.

    Raises:
        InputError: the fold's data, settings or artefacts are wrong, or its kernel was killed.
    """
    job = network_job(parameters)
    waiting = f"fold {job.fold} of {job.run}: another process runs its notebook; waiting"
    if not job.is_done():
        # The fold itself is locked by the notebook's kernel, which may outlive this process.
        with exclusive(paths.lock_file(job.run, job.fold, "notebook"), waiting):
            if not job.is_done():
                return _run_notebook(parameters, job)
    print(f"fold {job.fold} of {job.run} is done: {job.folder}", flush=True)
    return job.folder


def _run_notebook(parameters: FoldParameters, job: FoldJob) -> Path:
    # Seconds to import, and only a fold that is really run needs them.
    import jupytext
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    from study.experiments.kernel import OwnKernel

    output = job.folder.with_name(f".fold-{job.fold}.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    _show_progress()
    try:
        with naming_the_folder(output.parent):
            papermill.execute_notebook(
                jupytext.read(TRAINING_CHAPTER),
                str(output),
                parameters=parameters.model_dump(),
                cwd=str(paths.CHAPTERS),
                kernel_name="python3",
                kernel_manager_class=OwnKernel,
                log_output=True,
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its remarks on transport
            )
    except papermill.PapermillExecutionError as error:
        if error.ename in (InputError.__name__, OSError.__name__):
            raise InputError(str(error.evalue)) from None
        text = f"the training chapter failed with {error.ename}: {error.evalue}"
        if not job.is_done():
            raise InputError(
                f"fold {job.fold}: {text}\nthe notebook with its traceback: {output}"
            ) from None
        print(f"fold {job.fold} is whole, but after it {text}", flush=True)
    except DeadKernelError:
        raise InputError(f"fold {job.fold}: its kernel {OUT_OF_MEMORY}") from None
    if not job.is_done():
        raise InputError(f"the training chapter ended, but wrote no {job.folder}")
    done = nbformat.read(output, as_version=4)  # type: ignore[no-untyped-call]
    _write_notebook(done, job.folder.with_suffix(".ipynb"))
    output.unlink(missing_ok=True)
    print(f"fold {job.fold} of {job.run}: {job.folder}", flush=True)
    return job.folder


def run_fold_without_notebook(parameters: FoldParameters, into: str = "") -> Path:
    """As `run_fold`, without notebook and maps: the same numbers, for a table of many networks.

    A process traces a network once for all the folds that it trains, which for a short budget is
    half of the time.
    """
    job = network_job(parameters, into)
    with job:
        if job.begin():
            from nodulebook.runs.network_fold import open_fold, run_network_fold

            profile = parameters.settings
            run_network_fold(job, parameters, profile, open_fold(parameters, profile))
    return job.folder


def run_folds(
    first: FoldParameters, jobs: int | None = None, notebooks: bool = True, into: str = ""
) -> None:
    """Run all folds; those that are done are skipped, those that were stopped go on.

    Args:
        first: the parameters; their `fold` is replaced by 0 to 9.
        jobs: folds at a time; `default_jobs()` where None. The numbers do not depend on it.
        notebooks: by papermill, a notebook each; else `run_fold_without_notebook`.
        into: as for `network_job`; without notebooks only.

    Raises:
        InputError: a fold failed; no further one is started.
    """
    every = [first.model_copy(update={"fold": fold}) for fold in range(N_FOLDS)]
    waiting = [one for one in every if not network_job(one, into).is_done()]
    print(f"run {into}{first.run_name}: {len(waiting)} of {N_FOLDS} folds to do", flush=True)
    if not waiting:
        return
    # Built here, once, before the folds ask for them in parallel.
    where = Path(first.data) if first.data else None
    settings = first.settings.training
    open_for_training(first.source, where, settings)
    if first.source in REAL_CT and settings.lesions != "all":
        open_source(first.source, where, "all")
    if notebooks:
        run_parallel([(run_fold, one) for one in waiting], jobs)
    else:
        run_parallel([(run_fold_without_notebook, one, into) for one in waiting], jobs)


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
