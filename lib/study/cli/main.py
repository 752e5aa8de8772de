"""The command line: `nodulebook COMMAND`, or `python -m nodulebook COMMAND`.

An `InputError` is printed as one message, without a traceback, and ends with exit code 2.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, FoldParameters, check_fold_parameters
from study.cli import scans as own

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Cohort, patches and folds of the book."""


@commands.command()
@click.option("--folder", type=click.Path(path_type=Path), default=paths.DATA, show_default=True)
def cohort(folder: Path) -> None:
    """Write scans.csv, nodules.csv and folds.csv from the readers' annotations."""
    from nodulebook.data.folds import write_cohort

    write_cohort(folder)
    click.echo(f"written: {folder}")


@commands.command()
def claims() -> None:
    """Check data/claims.yml: its fields, and that the places which it names exist."""
    from bookkit.ledger.claims import check_evidence, count_texts, read_claims

    ledger = read_claims()
    check_evidence(ledger)
    click.echo(", ".join(f"{name}: {count}" for name, count in count_texts(ledger).items()))


@commands.command()
@click.option("--source", default="phantom", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="instead of NODULEBOOK_DATA")
@click.option("--jobs", type=click.IntRange(min=1), help="luna16, idc: processes; one a core")
@click.option("--allow-missing", is_flag=True, help="luna16, idc: some scans may be left out")
def patches(source: str, data: Path | None, jobs: int | None, allow_missing: bool) -> None:
    """Build a source's patch store, or add to it what is missing.

    luna16 and idc read the scans below --data, finished ones once. Scans that are not there or
    cannot be read are named, and end the command with exit code 2 unless --allow-missing.
    """
    import pandas as pd

    from nodulebook.patches.sources import SCAN_SOURCES, open_source
    from nodulebook.patches.sources.scans import left_out_csv

    store = open_source(source, data, jobs=jobs, again=True)
    click.echo(f"{len(store.table)} patches: {paths.patch_stores() / source}")
    if source in SCAN_SOURCES:
        left_out = pd.read_csv(left_out_csv(source))
        if len(left_out) and not allow_missing:
            raise InputError(
                f"{left_out['nodule_id'].ne('(scan)').sum()} nodules have no patch "
                f"and {left_out['nodule_id'].eq('(scan)').sum()} scans are incomplete or "
                f"unreadable: see {left_out_csv(source)}; get the scans and run this again, or "
                "take the store as it is with --allow-missing"
            )


@commands.command()
@click.option("--source", default="lidc_slices", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="instead of NODULEBOOK_DATA")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    default=paths.DATA / "automatic_ruler.csv",
    show_default=True,
)
def ruler(source: str, data: Path | None, table: Path) -> None:
    """Measure the nodules' diameters from the voxels alone, without the readers' outlines."""
    from nodulebook.core.files import write_csv
    from nodulebook.patches.ruler import automatic_diameters
    from nodulebook.patches.sources import open_source

    store = open_source(source, data)
    measured = automatic_diameters(store)
    write_csv(measured, table)
    click.echo(f"{len(measured)} of {len(store.table)} nodules measured: {table}")


@commands.command()
@click.option("--source", type=click.Choice(["luna16", "idc"]), required=True)
@click.option("--data", type=click.Path(path_type=Path), help="instead of NODULEBOOK_DATA")
@click.option(
    "--max-thickness", type=float, default=2.5, show_default=True, help="mm; the paper says 3"
)
@click.option("--out", type=click.Path(path_type=Path), help="write the table, a row a scan, here")
def scans(source: str, data: Path | None, max_thickness: float, out: Path | None) -> None:
    """Check the scans' files against the paper's rules: thickness, even spacing, no gaps."""
    from nodulebook.core.files import write_csv
    from nodulebook.patches.sources.scan_rules import check_scans

    table = check_scans(source, data, max_thickness)
    if out:
        write_csv(table, out)
    bad = table[table["verdict"] != "kept"]
    for row in bad.itertuples():
        click.echo(f"{row.series_uid}: {row.verdict}")
    click.echo(f"{len(table)} scans: {len(table) - len(bad)} kept, {len(bad)} not")


def _fold_options(command: Command) -> Command:
    for option in (
        click.option("--profile", default="quick", show_default=True, help="file of profiles/"),
        click.option("--source", default="phantom", show_default=True),
        click.option("--run", default="", help="the run's name; <profile>-<source> by default"),
        click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA"),
        click.option("--explain/--no-explain", default=True, help="measure the maps at the end"),
        click.option("--seed", type=int, help="instead of the profile's own"),
    ):
        command = option(command)
    return command


def _parameters(
    fold: int, profile: str, source: str, run: str, data: str, explain: bool, seed: int | None
) -> FoldParameters:
    # The chapter runs in its own folder: a path typed here is meant from here.
    data = str(Path(data).expanduser().resolve()) if data else ""
    given = {"fold": fold, "profile": profile, "source": source, "run": run, "data": data}
    return check_fold_parameters(given | {"explain": explain, "seed": seed})


@commands.command()
@click.option("--fold", type=int, required=True, help="0 to 9: the fold that is held out")
@_fold_options
def fold(
    fold: int, profile: str, source: str, run: str, data: str, explain: bool, seed: int | None
) -> None:
    """Train and test one fold with papermill; skip it if done, go on if it was stopped."""
    from study.experiments.folds import run_fold

    run_fold(_parameters(fold, profile, source, run, data, explain, seed))


@commands.command()
@_fold_options
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side; by cores and memory")
@click.option(
    "--notebooks/--no-notebooks", default=True, help="without: faster, the same numbers, no maps"
)
def folds(
    profile: str,
    source: str,
    run: str,
    data: str,
    explain: bool,
    seed: int | None,
    jobs: int | None,
    notebooks: bool,
) -> None:
    """Train and test all ten folds; skip those that are done, go on where it was stopped."""
    from study.experiments.folds import run_folds

    first = _parameters(0, profile, source, run, data, explain, seed)
    run_folds(first, jobs, notebooks)
    click.echo(f"all folds: {paths.runs_folder() / first.run_name}")


@commands.command()
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
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side, where not stacked")
def queue(
    seconds: int, file: Path | None, stacked: bool, precision: str, data: str, jobs: int | None
) -> None:
    """Work through the list of runs for a limited time; the next call goes on from there."""
    from study.experiments.queue import QUEUE, read_queue, work

    ended = work(read_queue(file or QUEUE), seconds, stacked, precision, data, jobs)
    click.echo("the queue is finished" if ended else "time is up: call again to go on")


@commands.command()
def baseline() -> None:
    """Write the run `diameter`: logistic regression on the readers' diameter in each fold."""
    from nodulebook.data.cohort import read_nodules
    from nodulebook.data.folds import read_folds
    from study.experiments.baseline import RUN, run_diameter

    run_diameter(read_nodules(), read_folds())
    click.echo(f"all folds: {paths.runs_folder() / RUN}")


@commands.command()
@click.option("--source", default="lidc_slices", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="instead of NODULEBOOK_DATA")
@click.option("--group", "groups", multiple=True, help="as intensity, or all (together); each")
def features(source: str, data: Path | None, groups: tuple[str, ...]) -> None:
    """Write the runs `features-<group>-<source>`: classifiers on hand-crafted features, ten folds.

    The features are computed once and kept; folds that are done are skipped.
    """
    from nodulebook.data.folds import read_folds
    from nodulebook.patches.sources import open_source
    from study.experiments.features import GROUPS
    from study.experiments.handcrafted import ALL, run_features

    store = open_source(source, data)
    run_features(store, read_folds(), groups or (*GROUPS, ALL), say=click.echo)
    click.echo(f"all folds: {paths.runs_folder()}")


@commands.command()
@click.option("--run", required=True, help="a run of papermill_runs/")
@click.option("--fold", type=click.IntRange(0, 9), required=True)
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
def again(run: str, fold: int, data: str) -> None:
    """Run a fold of papermill_runs/ again, and compare its predictions with the committed ones."""
    from study.experiments.again import run_again

    data = str(Path(data).expanduser().resolve()) if data else ""
    result = run_again(run, fold, data)
    click.echo(
        f"{run} fold {fold}: largest difference of a probability {result.largest_difference:g}; "
        f"AUC {result.auc_committed:.4f} as committed, {result.auc_again:.4f} again"
    )
    if abs(result.auc_committed - result.auc_again) > 0.01:
        raise InputError(f"{run} fold {fold}: the AUC differs by more than 0.01; {result.reason}")


@commands.command()
@click.option("--run", required=True, help="a run of papermill_runs/, of a network")
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side")
def repeat(run: str, data: str, jobs: int | None) -> None:
    """Run all ten folds of a run again and keep them, to see what another processor changes."""
    from study.experiments.repeats import AGAIN, repeat_run

    data = str(Path(data).expanduser().resolve()) if data else ""
    repeat_run(run, data, jobs)
    click.echo(f"repeated: {paths.runs_folder() / AGAIN / run}")


@commands.command()
@click.option("--run", required=True, help="a run of papermill_runs/")
@click.option("--fold", type=click.IntRange(0, 9), multiple=True, help="all ten by default")
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--permuted-labels", is_flag=True, help="train once more, on permuted labels")
@click.option("--train-again", is_flag=True, help="where the fold's weights are not here")
def explain(
    run: str, fold: tuple[int, ...], data: str, permuted_labels: bool, train_again: bool
) -> None:
    """Measure the maps of folds that are done; write their explanations.csv and sanity.csv."""
    from study.experiments.maps import explain_folds

    source_data = Path(data).expanduser().resolve() if data else None
    folds = fold or tuple(range(N_FOLDS))
    explain_folds(run, folds, source_data, permuted_labels, train_again, click.echo)


@commands.command()
@click.option("--run", default="quick-phantom", show_default=True, help="a run with weights here")
@click.option("--other-run", default="", help="a second network, for the question of trust")
@click.option("--fold", type=click.IntRange(0, 9), default=0, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=90, show_default=True)
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("readerstudy.html"), show_default=True
)
def readerstudy(run: str, other_run: str, fold: int, pairs: int, data: str, out: Path) -> None:
    """Write the page of a reader study: the paper's questions, asked of a fold's test nodules."""
    from study.experiments.maps import write_reader_study

    source_data = Path(data).expanduser().resolve() if data else None
    n = write_reader_study(out, run, fold, pairs, other_run, source_data)
    click.echo(f"{n} questions: {out.resolve()}")


@commands.command()
@click.argument("answers", nargs=-1, type=click.Path(path_type=Path))
def readeranswers(answers: tuple[Path, ...]) -> None:
    """Print the percentages, with 95 % intervals, of the CSV files that readers exported."""
    from study.readerstudy.page import answer_table, read_answers

    click.echo(answer_table(read_answers(answers)).to_string(index=False))


@commands.command()
@click.option("--run", required=True, help="a run of papermill_runs/ that has all ten folds")
def pooled(run: str) -> None:
    """Print a run's pooled metrics, with 95 % patient-bootstrap intervals, from its files."""
    from study.report.pooled import complete_runs, pooled_table

    runs = complete_runs(compared=True)
    if run not in runs:
        raise InputError(f"run {run!r} is not one of those with all folds: {', '.join(runs)}")
    for name, text in pooled_table({run: runs[run]}).iloc[0].items():
        click.echo(f"{name}: {text}")


for _of_scans in (own.positions, own.score, own.evaluate, own.adopt, own.release):
    commands.add_command(_of_scans)


@commands.command()
@click.argument("names", nargs=-1)
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--jobs", type=click.IntRange(min=1), help="splits side by side")
def trials(names: tuple[str, ...], data: str, jobs: int | None) -> None:
    """Run recipes of profiles/trials/trials.yaml on validation patients; all if none is named."""
    from nodulebook.core.settings import read_trials
    from study.experiments.trials import TRIALS, run_trials

    data = str(Path(data).expanduser().resolve()) if data else ""
    run_trials(names or list(read_trials()), data, jobs)
    click.echo(f"trials: {paths.runs_folder() / TRIALS}")


@commands.command()
@click.argument("names", nargs=-1)
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
@click.option("--jobs", type=click.IntRange(min=1), help="folds side by side")
def rules(names: tuple[str, ...], data: str, jobs: int | None) -> None:
    """Run the rules of profiles/trials/rules.yaml, ten folds each; all if none is named."""
    from nodulebook.core.settings import read_rules
    from study.experiments.rules import RULES, run_rules

    data = str(Path(data).expanduser().resolve()) if data else ""
    run_rules(names or list(read_rules()), data, jobs)
    click.echo(f"rules: {paths.runs_folder() / RULES}")


@commands.command()
@click.argument("name")
@click.option("--source", default="lidc_slices", show_default=True)
@click.option("--fold", type=click.IntRange(0, 9), multiple=True, help="all ten by default")
@click.option("--data", default="", help="the CT data, instead of NODULEBOOK_DATA")
def deepfeatures(name: str, source: str, fold: tuple[int, ...], data: str) -> None:
    """Run a rival that is features and a classifier: rival-dualpath3d-gbm or rival-autoencoder.

    Folds that are done are skipped. The first takes the networks of the run
    rival-dualpath3d-SOURCE where their weights are here, and trains them where they are not.
    """
    from study.experiments.deep_features import run_feature_folds

    source_data = Path(data).expanduser().resolve() if data else None
    run_feature_folds(name, source, source_data, fold or range(N_FOLDS), click.echo)


@commands.command(name="check")
@click.option("--only", multiple=True, help="a check by name, as links; may be given again")
@click.option("--ask", is_flag=True, help="also ask addresses outside the book; needs a network")
def check_book(only: tuple[str, ...], ask: bool) -> None:
    """Everything that a release of the book must pass: build, links, spelling, looks, numbers.

    Exit code 2 where a check fails. Pictures are left in _build/check/.
    """
    from bookkit.checks.run import run_all, run_steps, steps

    every = steps(ask)
    unknown = set(only) - {step.name for step in every}
    if unknown:
        names = ", ".join(step.name for step in every)
        raise InputError(f"--only {', '.join(sorted(unknown))}: is not one of {names}")
    chosen = [step for step in every if step.name in only]
    well = run_steps(chosen, click.echo) if only else run_all(every, click.echo, ask)
    if not well:
        raise InputError("not everything is well: see FAILED above")


@commands.command()
@click.option(
    "--book",
    type=click.Path(path_type=Path, file_okay=False),
    default=paths.ROOT / "_build" / "html",
    show_default=True,
)
@click.option("--jobs", type=click.IntRange(min=1), help="processes; one a core by default")
def verify(book: Path, jobs: int | None) -> None:
    """Check the committed runs, and that the built book's numbers follow from them."""
    from bookkit.tracing.verify import MEANING
    from bookkit.tracing.verify import verify as verify_book

    questions = ("runs", "files", "pages")
    failed = False
    for name, (findings, looked_at) in zip(questions, verify_book(book, jobs), strict=True):
        click.echo(f"{'FAILED' if findings else 'ok':8}{name}: {looked_at}")
        for text in findings:
            click.echo(f"        {text}")
        failed |= bool(findings)
    click.echo(MEANING)
    if failed:
        raise InputError("the book does not follow from the files: see FAILED above")


@commands.command()
def prepare() -> None:
    """Run what the book shows and is not there yet (what `make book` does before it builds)."""
    from study.experiments.folds import prepare_book

    prepare_book()


@commands.group()
def get() -> None:
    """Get the CT data, all or in part; a stopped download goes on with the same command."""


_to = click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="NODULEBOOK_DATA",
    required=True,
    help="the data folder; NODULEBOOK_DATA where not given",
)
_only_say = click.option(
    "--dry-run", "only_say", is_flag=True, help="say sizes and disk space; download nothing"
)


@get.command()
@click.option("--subsets", required=True, help="0 to 9: 0,1 or 2-5; or all (12 GB each, about)")
@click.option("--also", multiple=True, help="a further file of the records, as candidates.csv")
@click.option("--delete-zips", is_flag=True, help="delete each zip once its subset is unpacked")
@_to
@_only_say
def luna16(
    subsets: str, also: tuple[str, ...], delete_zips: bool, folder: Path, only_say: bool
) -> None:
    """Subsets of LUNA16 from Zenodo (doi 10.5281/zenodo.3723295 and 10.5281/zenodo.4121926)."""
    from nodulebook.download.datasets import get_luna16, parse_subsets
    from nodulebook.patches.sources.presence import report_presence

    folder, wanted = folder.expanduser(), parse_subsets(subsets)
    get_luna16(folder, wanted, also=also, keep_zips=not delete_zips, only_say=only_say)
    if not only_say:
        report_presence(folder)


@get.command()
@click.option("--series", multiple=True, help="a SeriesInstanceUID; may be given again")
@click.option("--patients", default="", help="as LIDC-IDRI-0001,LIDC-IDRI-0003")
@click.option("--all-888", is_flag=True, help="the scans of LUNA16, 120 GB")
@_to
@_only_say
def lidc(
    series: tuple[str, ...], patients: str, all_888: bool, folder: Path, only_say: bool
) -> None:
    """Series of LIDC-IDRI as DICOM from the Imaging Data Commons (needs the extra `idc`)."""
    from nodulebook.download.datasets import get_lidc, select_series
    from nodulebook.patches.sources.presence import presence, report_presence

    named = [name.strip() for name in patients.split(",") if name.strip()]
    folder, wanted = folder.expanduser(), select_series(series, named, all_888)
    scans = presence(folder).scans
    present = list(scans.loc[scans["present"], "series_uid"])
    get_lidc(folder, wanted, present=present, only_say=only_say)
    if not only_say:
        report_presence(folder)


@get.command()
@_to
def check(folder: Path) -> None:
    """Say which scans and nodules of the cohort are in a folder; list those that are not."""
    from nodulebook.patches.sources.presence import report_presence

    report_presence(folder.expanduser())


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's remarks about the machine
    try:
        commands(standalone_mode=True)
    except InputError as error:
        click.echo(f"nodulebook: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # A full disk, a folder that may not be written: nothing of the project is wrong.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"nodulebook: {where}{error.strerror or error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
