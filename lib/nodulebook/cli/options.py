"""Options that several commands have."""

from pathlib import Path

import click


def _expanded(_context: click.Context, _option: click.Parameter, given: str | None) -> Path | None:
    return Path(given).expanduser().resolve() if given else None


DATA_OPTION = click.option(
    "--data", callback=_expanded, help="the CT data, instead of NODULEBOOK_DATA"
)
"""The folder or file with the user's CT data, absolute; a chapter runs in a folder of its own."""
