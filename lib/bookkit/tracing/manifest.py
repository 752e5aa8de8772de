"""What the book is computed from, file by file, with hashes.

Building the book leaves this list beside its pages; `nodulebook verify` compares it with the
files that are there.
"""

from pathlib import Path

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, sha256

MANIFEST = "artefacts.json"
"""In the folder of the built book: relative path to SHA-256."""

ENDINGS = (".csv", ".json", ".yml", ".yaml")


def artefact_files() -> dict[str, Path]:
    """The files that pages are computed from: name, as in the repository, to path.

    Runs (probabilities, histories, records, measured maps), the tables of `data/`, the profiles.
    """
    found: dict[str, Path] = {}
    for name, folder, pattern in (
        ("papermill_runs", paths.runs_folder(), "**/*"),
        ("data", paths.DATA, "*"),
        ("profiles", paths.PROFILES, "**/*"),
    ):
        for path in sorted(folder.glob(pattern)):
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in inside.parts)
            if path.is_file() and path.suffix in ENDINGS and not hidden:
                found[f"{name}/{inside.as_posix()}"] = path
    return found


def artefact_hashes() -> dict[str, str]:
    """The SHA-256 of each of `artefact_files`."""
    return {name: sha256(path) for name, path in artefact_files().items()}


def compare_with_manifest(book: Path) -> list[str]:
    """How the files that are there differ from those that a book was built from.

    Args:
        book: the folder of the built book, with `artefacts.json`.

    Returns:
        A line a file that was changed, or is only here or only there.

    Raises:
        InputError: the book has no such list.
    """
    if not (book / MANIFEST).is_file():
        raise InputError(f"{book / MANIFEST}: is not there; build the book: make book")
    then, now = read_json(book / MANIFEST), artefact_hashes()
    lines = []
    for name in sorted({*then, *now}):
        if name not in now:
            lines.append(f"{name}: the book was built from it, and it is gone")
        elif name not in then:
            lines.append(f"{name}: is newer than the book; build it again: make book")
        elif then[name] != now[name]:
            lines.append(f"{name}: is another file than the one that the book was built from")
    return lines
