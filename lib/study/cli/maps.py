"""Commands that use the networks of runs: maps and reader studies."""

from pathlib import Path

import click

from nodulebook.cli.options import DATA_OPTION
from nodulebook.core.settings import N_FOLDS


@click.command()
@click.option("--run", required=True, help="a run of papermill_runs/")
@click.option("--fold", type=click.IntRange(0, 9), multiple=True, help="all ten by default")
@DATA_OPTION
@click.option("--permuted-labels", is_flag=True, help="train once more, on permuted labels")
@click.option("--train-again", is_flag=True, help="where the fold's weights are not here")
def explain(
    run: str, fold: tuple[int, ...], data: Path | None, permuted_labels: bool, train_again: bool
) -> None:
    """Measure the maps of folds that are done; write their explanations.csv and sanity.csv."""
    from study.experiments.maps import explain_folds

    folds = fold or tuple(range(N_FOLDS))
    explain_folds(run, folds, data, permuted_labels, train_again, click.echo)


@click.command()
@click.option("--run", default="quick-phantom", show_default=True, help="a run with weights here")
@click.option("--other-run", default="", help="a second network, for the question of trust")
@click.option("--fold", type=click.IntRange(0, 9), default=0, show_default=True)
@click.option("--pairs", type=click.IntRange(1), default=90, show_default=True)
@DATA_OPTION
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("readerstudy.html"), show_default=True
)
def readerstudy(
    run: str,
    other_run: str,
    fold: int,
    pairs: int,
    data: Path | None,
    out: Path,
) -> None:
    """Write the page of a reader study: the paper's questions, asked of a fold's test nodules."""
    from study.experiments.maps import write_reader_study

    n = write_reader_study(out, run, fold, pairs, other_run, data)
    click.echo(f"{n} questions: {out.resolve()}")


@click.command()
@click.argument("answers", nargs=-1, type=click.Path(path_type=Path))
def readeranswers(answers: tuple[Path, ...]) -> None:
    """Print the percentages, with 95 % intervals, of the CSV files that readers exported."""
    from study.readerstudy.page import answer_table, read_answers

    click.echo(answer_table(read_answers(answers)).to_string(index=False))
