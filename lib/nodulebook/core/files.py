"""Files are written aside and renamed, so that none is ever seen half-written."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from nodulebook.core.errors import InputError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)  # mkstemp makes 0600, which would follow the file to its readers
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """The same for a folder; an older folder at `path` is replaced only at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield aside
        aside.chmod(0o755)
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename folder `source` to `target`, moving an older `target` out of the way first."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with `\\n` line ends, the same bytes on every platform."""
    with written_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")


def write_json(value: Any, path: Path) -> None:
    """Write a value as indented JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


def read_csv(path: Path, columns: dict[str, str], others: str | None = None) -> pd.DataFrame:
    """Read a CSV file and check it against `columns` (name -> "str", "int" or "float").

    Further columns are kept as text, unless `others` says what they are. Empty cells are allowed
    in none of the columns that are named or said.

    Raises:
        InputError: the file is missing or empty, a column is missing, or a cell is empty,
            not finite or no number where one is due; the message names file, row and value.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing")
    kinds = columns if others is None else dict.fromkeys(table.columns, others) | columns
    for name, kind in kinds.items():
        if kind == "str":
            bad = table[name].str.strip() == ""
        else:
            number = pd.to_numeric(table[name], errors="coerce")
            bad = ~number.abs().lt(float("inf"))
            if kind == "int":
                bad |= number != number.round()
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise InputError(
                f"{path}: line {row + 2}: {name} is {table[name].iloc[row]!r}, "
                f"but must be {'text' if kind == 'str' else f'a finite {kind}'}"
            )
        if kind != "str":
            table[name] = number.astype(int if kind == "int" else float)
    return table


def sha256(*paths: Path) -> str:
    """The SHA-256 of the contents of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
