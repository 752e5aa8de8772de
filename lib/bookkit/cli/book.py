"""Commands that check the book: its ledger of claims, its pages, its numbers."""

from pathlib import Path

import click

from nodulebook.core import paths
from nodulebook.core.errors import InputError


@click.command()
def claims() -> None:
    """Check data/claims.yml: its fields, and that the places which it names exist."""
    from bookkit.ledger.claims import check_evidence, read_claims, verdict_table

    ledger = read_claims()
    check_evidence(ledger)
    table = verdict_table(ledger).drop(columns="meaning")
    click.echo(f"{len(ledger)} claims\n{table.to_string(index=False)}")


@click.command(name="check")
@click.option("--only", multiple=True, help="a check by name, as links; may be given again")
@click.option("--ask", is_flag=True, help="also ask addresses outside the book; needs a network")
def check_book(only: tuple[str, ...], ask: bool) -> None:
    """Everything that a release of the book must pass: build, links, spelling, looks, numbers.

    Exit code 2 where a check fails. Pictures are left in _build/check/.
    """
    from bookkit.checks.run import run_all, run_steps, steps

    every = steps(ask, whole=bool(only))
    unknown = set(only) - {step.name for step in every}
    if unknown:
        names = ", ".join(step.name for step in every)
        raise InputError(f"--only {', '.join(sorted(unknown))}: is not one of {names}")
    chosen = [step for step in every if step.name in only]
    well = run_steps(chosen, click.echo) if only else run_all(every, click.echo)
    if not well:
        raise InputError("not everything is well: see FAILED above")


@click.command()
@click.option(
    "--book",
    type=click.Path(path_type=Path, file_okay=False),
    default=paths.ROOT / "_build" / "html",
    show_default=True,
)
def verify(book: Path) -> None:
    """Check the committed runs, and that the built book's numbers follow from them."""
    from bookkit.tracing.verify import MEANING
    from bookkit.tracing.verify import verify as verify_book

    questions = ("runs", "files", "pages")
    failed = False
    for name, (findings, looked_at) in zip(questions, verify_book(book), strict=True):
        click.echo(f"{'FAILED' if findings else 'ok':8}{name}: {looked_at}")
        for text in findings:
            click.echo(f"        {text}")
        failed |= bool(findings)
    click.echo(MEANING)
    if failed:
        raise InputError("the book does not follow from the files: see FAILED above")
