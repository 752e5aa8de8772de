"""The files below a folder, and the one place that catches what reading one of them raises."""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256

AGAIN = "download it again"
"""The advice for a file that is cut or damaged; it mends nothing else."""


def files_below(folder: Path) -> Iterator[Path]:
    """All regular files below a folder, in order, without hidden ones.

    Links to folders and files are followed, each folder once; links that lead nowhere or in a
    circle are left out, and so are pipes, sockets and devices: opening one could wait for ever.
    """
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        try:
            about = os.stat(here)
        except OSError:  # it has vanished
            folders.clear()
            continue
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(here, name)
            try:
                if not name.startswith(".") and stat.S_ISREG(path.stat().st_mode):
                    yield path
            except OSError:  # a link that leads nowhere or in a circle
                continue


@contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Name the file in an InputError in place of whatever reading it raises."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {what} ({error.strerror or error})") from None
    except Exception as error:  # readers raise anything at all on damaged files
        raise InputError(f"{path}: {what}: damaged? ({last_line(error)}); {AGAIN}") from None


def last_line(error: Exception) -> str:
    """The end of an exception's text, without ITK's address of its object."""
    lines = str(error).strip().splitlines() or [""]
    line = re.sub(r"^ITK ERROR: |\w+\(0x[0-9a-f]+\): ", "", lines[-1].strip())
    return f"{type(error).__name__}: {line}"


def printable(text: str) -> str:
    """The text with what cannot be written as UTF-8, odd bytes of a file's name, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """The path, or a link to it for readers in C++, which end the process at other names."""
    if printable(str(path)) == str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"link{printable(path.suffix)}")
        link.symlink_to(path.absolute())
        yield str(link)


def listed(names: Iterable[object]) -> str:
    """The first three names, and how many more there are."""
    every = [printable(str(name)) for name in names]
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(every[:3]) + more


def scan_identity(files: Sequence[Path]) -> str:
    """A hash of a scan's file names and sizes, and of the contents of small headers.

    Hashing the 120 GB of all scans would take longer than making their patches.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        digest.update(os.fsencode(f"{path.name} {path.stat().st_size}\n"))
        if path.suffix.lower() == ".mhd":
            digest.update(sha256(path).encode())
    return digest.hexdigest()
