"""Files are written aside and renamed, so that none is ever seen half-written."""

import glob
import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pandas as pd
import yaml
from filelock import BaseFileLock, FileLock, Timeout

from nodulebook.core.errors import InputError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`; rename it to `path` if the block succeeds.

    The file gets the mode that the user's umask gives. What a killed process left of an earlier
    attempt is removed.

    Raises:
        InputError: there is a folder of this name.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file in it")
    aside = _aside(path, path.suffix)
    try:
        with naming_the_folder(path.parent):
            aside.touch(exist_ok=False)
            yield aside
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """The same for a folder; an older folder at `path` is replaced only at the end."""
    aside = _aside(path)
    try:
        with naming_the_folder(path.parent):
            aside.mkdir()
            yield aside
            replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path, suffix: str = "") -> Path:
    """A temporary name for `path`, `.<name>.<host>~<pid>~<random>`; clears those of the dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    host = platform.node()
    for other in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(host)}~*~*"):
        pid = other.name.rsplit("~", 2)[1]
        if pid.isdigit() and int(pid) != os.getpid() and not _is_alive(int(pid)):
            remove(other)
    return path.with_name(f".{path.name}.{host}~{os.getpid()}~{token_hex(4)}{suffix}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, where it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def naming_the_folder(folder: Path) -> Iterator[None]:
    """Give an OSError without a file's name, as on a full disk, that of the folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(folder)
        raise


def replace_folder(source: Path, target: Path) -> None:
    """Rename folder `source` to `target`, moving an older `target` out of the way first.

    Killed at any point, at least one of them is whole: the older folder is deleted only once
    `target` is in its place. Of a symbolic link, the link is replaced and not what it points to.
    """
    old = target.with_name(f".{target.name}.old")
    if target.exists() or target.is_symlink():
        remove(old)
        os.replace(target, old)
    os.replace(source, target)
    remove(old)


def wait_for_lock(path: Path, waiting: str) -> BaseFileLock:
    """Take the lock of a file, which the operating system gives back when the process ends.

    It also holds between the computers that share a file system, where that passes on flock (NFS
    and Lustre do by default or by option). `waiting` is said once, on stderr (a page of the book
    shows stdout), where another process has the lock; the file stays when it is released.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.2)
    return lock


@contextmanager
def exclusive(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock of a file (`wait_for_lock`) while the block runs."""
    lock = wait_for_lock(path, waiting)
    try:
        yield
    finally:
        lock.release()


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with `\\n` line ends, the same bytes on every platform."""
    with written_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")


def write_json(value: Any, path: Path) -> None:
    """Write a value as indented JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


class _Yaml(yaml.SafeLoader):
    """YAML as its version 1.2 has it, where 1e-3 is a number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Any:
    """Read a YAML file; InputError where it is missing or not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({error})") from None


def read_csv(
    path: Path, columns: dict[str, str], others: str | None = None, gaps: Collection[str] = ()
) -> pd.DataFrame:
    """Read a CSV file and check it against `columns` (name -> "str", "int" or "float").

    Further columns are kept as text, unless `others` says what they are. Of the columns that are
    named or said, only those in `gaps`, of kind "float", may have empty cells, which become nan.

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
    values: dict[str, Any] = {}
    for name in table.columns:
        kind, text = kinds.get(name, ""), table[name].to_numpy(object)
        values[name] = text
        if kind == "str":
            refuse_rows(path, table, name, [not one.strip() for one in text], "but must be text")
        elif kind:
            number = np.asarray(pd.to_numeric(text, errors="coerce"), float)
            bad = ~(np.abs(number) < np.inf)
            if kind == "int":
                bad |= number != np.round(number)
            if name in gaps:
                bad &= text != ""
            due = f"a finite {kind}" + ", or empty" * (name in gaps)
            refuse_rows(path, table, name, bad, f"but must be {due}")
            values[name] = number.astype(int) if kind == "int" else number
    return pd.DataFrame(values, index=table.index)


def refuse_rows(path: Path, table: pd.DataFrame, name: str, bad: Any, why: str) -> None:
    """Refuse a table of the file, all its rows in order, of which a row is marked bad.

    Raises:
        InputError: for the first such row; names file, line, column and value, and ends with `why`,
            as "but must be 0 or 1".
    """
    marked = np.asarray(bad, bool)
    if marked.any():
        row = int(marked.argmax())
        raise InputError(f"{path}: line {row + 2}: {name} is {table[name].tolist()[row]!r}, {why}")


def sha256(*paths: Path) -> str:
    """The SHA-256 of the contents of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
