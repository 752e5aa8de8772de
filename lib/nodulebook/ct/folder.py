"""The files of a folder of scans."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nodulebook.core.files import sha256


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; hidden ones and those of other systems left out."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(here, name)


def scan_identity(files: Sequence[Path]) -> str:
    """A scan's identity without reading all of it: its files' names and sizes, headers' contents.

    A hash of 120 GB would take longer than the patches.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix.lower() == ".mhd":
            digest.update(sha256(path).encode())
    return digest.hexdigest()
