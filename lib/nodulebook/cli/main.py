"""The command line: commands of the library, and those that other packages register.

A package registers a command under the entry-point group `nodulebook.commands`. Its module is
imported only when the command, or the list of all of them, is asked for.

An `InputError` is printed as one message, without a traceback, and ends with exit code 2.
"""

import os
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from nodulebook.core.errors import InputError

GROUP = "nodulebook.commands"


class _Registered(click.Group):
    """The commands of the entry-point group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _commands().get(cmd_name)
        if found is None:
            return None
        command: click.Command = found.load()
        return command


def _commands() -> dict[str, EntryPoint]:
    """The registered commands; those of the checkout, where it is newer than its installation."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if not found and project.is_file():
        values = tomllib.loads(project.read_text(encoding="utf-8"))
        listed = values.get("project", {}).get("entry-points", {}).get(GROUP, {})
        found = {name: EntryPoint(name, value, GROUP) for name, value in listed.items()}
    return found


@click.group(cls=_Registered, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Cohort, patches and folds of the book."""


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
