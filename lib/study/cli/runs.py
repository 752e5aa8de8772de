"""Commands that make runs: folds, baselines, features, trials and rules."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nodulebook.cli.options import DATA_OPTION
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, FoldParameters, check_fold_parameters

Command = TypeVar("Command", bound=Callable[..., Any])


def _fold_options(command: Command) -> Command:
    for option in (
        click.option("--profile", default="quick", show_default=True, help="file of profiles/"),
        click.option("--source", default="phantom", show_default=True),
        click.option("--run", default="", help="the run's name; <profile>-<source> by default"),
        DATA_OPTION,
        click.option("--explain/--no-explain", default=True, help="measure the maps at the end"),
        click.option("--seed", type=int, help="instead of the profile's own"),
    ):
        command = option(command)
    return command


def _parameters(data: Path | None, **given: Any) -> FoldParameters:
    return check_fold_parameters(given | {"data": str(data or "")})


@click.command()
@click.option("--fold", type=int, required=True, help="0 to 9: the fold that is held out")
@_fold_options
def fold(**given: Any) -> None:
    """Train and test one fold with papermill; skip it if done, go on if it was stopped."""
    from study.experiments.folds import run_fold

    run_fold(_parameters(**given))


@click.command()
@_fold_options
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side; by cores and memory")
@click.option(
    "--notebooks/--no-notebooks", default=True, help="without: faster, the same numbers, no maps"
)
def folds(jobs: int | None, notebooks: bool, **given: Any) -> None:
    """Train and test all ten folds; skip those that are done, go on where it was stopped."""
    from study.experiments.folds import run_folds

    first = _parameters(**given, fold=0)
    run_folds(first, jobs, notebooks)
    click.echo(f"all folds: {paths.runs_folder() / first.run_name}")


@click.command()
@click.option("--seconds", type=click.IntRange(min=1), required=True, help="stop after this long")
@click.option(
    "--file", type=click.Path(path_type=Path), help="instead of profiles/trials/queue.yaml"
)
@click.option(
    "--stacked/--one-by-one",
    default=lambda: os.environ.get("KERAS_BACKEND") == "jax",
    help="all folds in one process; the default where KERAS_BACKEND=jax",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "tensorfloat32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="of products, where stacked",
)
@DATA_OPTION
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side, where not stacked")
def queue(
    seconds: int,
    file: Path | None,
    stacked: bool,
    precision: str,
    data: Path | None,
    jobs: int | None,
) -> None:
    """Work through the list of runs for a limited time; the next call goes on from there."""
    from study.experiments.queue import QUEUE, read_queue, work

    ended = work(read_queue(file or QUEUE), seconds, stacked, precision, str(data or ""), jobs)
    click.echo("the queue is finished" if ended else "time is up: call again to go on")


@click.command()
def baseline() -> None:
    """Write the run `diameter`: logistic regression on the readers' diameter in each fold."""
    from nodulebook.data.cohort import read_nodules
    from nodulebook.data.folds import read_folds
    from study.experiments.baseline import RUN, run_diameter

    run_diameter(read_nodules(), read_folds())
    click.echo(f"all folds: {paths.runs_folder() / RUN}")


@click.command()
@click.option("--source", default="lidc_slices", show_default=True)
@DATA_OPTION
@click.option("--group", "groups", multiple=True, help="as intensity, or all (together); each")
def features(source: str, data: Path | None, groups: tuple[str, ...]) -> None:
    """Write the runs `features-<group>-<source>`: classifiers on hand-crafted features, ten folds.

    The features are computed once and kept; folds that are done are skipped.
    """
    from nodulebook.data.folds import read_folds
    from nodulebook.patches.sources import open_source
    from study.features.definitions import GROUPS
    from study.features.handcrafted import ALL, run_features

    store = open_source(source, data)
    run_features(store, read_folds(), groups or (*GROUPS, ALL), say=click.echo)
    click.echo(f"all folds: {paths.runs_folder()}")


@click.command()
@click.option("--run", required=True, help="a run of papermill_runs/")
@click.option("--fold", type=click.IntRange(0, 9), required=True)
@DATA_OPTION
def again(run: str, fold: int, data: Path | None) -> None:
    """Run a fold of papermill_runs/ again, and compare its predictions with the committed ones."""
    from study.experiments.again import run_again

    result = run_again(run, fold, str(data or ""))
    click.echo(
        f"{run} fold {fold}: largest difference of a probability {result.largest_difference:g}; "
        f"AUC {result.auc_committed:.4f} as committed, {result.auc_again:.4f} again"
    )
    if abs(result.auc_committed - result.auc_again) > 0.01:
        raise InputError(f"{run} fold {fold}: the AUC differs by more than 0.01; {result.reason}")


@click.command()
@click.option("--run", required=True, help="a run of papermill_runs/, of a network")
@DATA_OPTION
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side")
def repeat(run: str, data: Path | None, jobs: int | None) -> None:
    """Run all ten folds of a run again and keep them, to see what another processor changes."""
    from study.experiments.repeats import AGAIN, repeat_run

    repeat_run(run, str(data or ""), jobs)
    click.echo(f"repeated: {paths.runs_folder() / AGAIN / run}")


@click.command()
@click.option("--run", required=True, help="a whole run of a network, with its weights here")
@DATA_OPTION
def shifts(run: str, data: Path | None) -> None:
    """Score a run's held-out nodules at positions off their middle; write its shifts.csv."""
    from study.experiments.shifts import write_shifts

    click.echo(write_shifts(run, str(data or "")))


@click.command()
@click.option("--run", required=True, help="a run of papermill_runs/ that has all ten folds")
def pooled(run: str) -> None:
    """Print a run's pooled metrics, with 95 % patient-bootstrap intervals, from its files."""
    from nodulebook.data.folds import read_folds
    from nodulebook.runs.arithmetic import arithmetics
    from nodulebook.runs.contract import read_run
    from study.report.pooled import pooled_table

    found = read_run(run, folds=read_folds())
    if found.missing_folds:
        missing = ", ".join(map(str, found.missing_folds))
        raise InputError(f"run {run!r} lacks the folds {missing}: `nodulebook folds` trains them")
    for name, text in pooled_table({run: found}).iloc[0].items():
        click.echo(f"{name}: {text}")
    click.echo(f"computed with: {arithmetics(fold.run for fold in found.folds.values())}")


@click.command()
@click.argument("names", nargs=-1)
@DATA_OPTION
@click.option("--jobs", type=click.IntRange(min=1), help="splits side by side")
def trials(names: tuple[str, ...], data: Path | None, jobs: int | None) -> None:
    """Run recipes of profiles/trials/trials.yaml on validation patients; all if none is named."""
    from study.experiments.trials import TRIALS, read_trials, run_trials

    run_trials(names or list(read_trials()), str(data or ""), jobs)
    click.echo(f"trials: {paths.runs_folder() / TRIALS}")


@click.command()
@click.argument("names", nargs=-1)
@DATA_OPTION
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side")
def rules(names: tuple[str, ...], data: Path | None, jobs: int | None) -> None:
    """Run the rules of profiles/trials/rules.yaml, ten folds each; all if none is named."""
    from study.experiments.rules import RULES, read_rules, run_rules

    run_rules(names or list(read_rules()), str(data or ""), jobs)
    click.echo(f"rules: {paths.runs_folder() / RULES}")


@click.command()
@click.argument("name")
@click.option("--source", default="lidc_slices", show_default=True)
@click.option("--fold", type=click.IntRange(0, 9), multiple=True, help="all ten by default")
@DATA_OPTION
def deepfeatures(name: str, source: str, fold: tuple[int, ...], data: Path | None) -> None:
    """Run a rival that is features and a classifier: rival-dualpath3d-gbm or rival-autoencoder.

    Folds that are done are skipped. The first takes the networks of the run
    rival-dualpath3d-SOURCE where their weights are here, and trains them where they are not.
    """
    from study.features.deep import run_feature_folds

    run_feature_folds(name, source, data, fold or range(N_FOLDS), click.echo)


@click.command()
def prepare() -> None:
    """Run what the book shows and is not there yet (what `make book` does before it builds)."""
    from study.experiments.folds import prepare_book

    prepare_book()
