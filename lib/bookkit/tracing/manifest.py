"""What the book is computed from, file by file, with hashes.

Building the book leaves this list beside its pages; `nodulebook verify` compares it with the
present files.
"""

from pathlib import Path

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_json, sha256

MANIFEST = "artefacts.json"
"""In the folder of the built book: relative path to SHA-256."""

RUNS = "papermill_runs"
ENDINGS = (".csv", ".json", ".yml", ".yaml")


def artefact_files() -> dict[str, Path]:
    """The files that pages are computed from: name, as in the repository, to path.

    Runs (probabilities, histories, records, measured maps), the tables of `data/`, the profiles.
    """
    return {
        **_files(RUNS, paths.runs_folder(), "**/*"),
        **_files("data", paths.DATA, "*"),
        **_files("profiles", paths.PROFILES, "**/*"),
    }


def run_files(run: str) -> dict[str, Path]:
    """Those of `artefact_files` that belong to a run."""
    return _files(f"{RUNS}/{run}", paths.runs_folder() / run, "**/*")


def _files(name: str, folder: Path, pattern: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
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
    """One line for each file that a book was not built from as it is now, or that is gone.

    Args:
        book: the folder of the built book, with `artefacts.json`.

    Raises:
        InputError: the book has no such list.
    """
    if not (book / MANIFEST).is_file():
        raise InputError(f"{book / MANIFEST}: is missing; build the book: make book")
    then, now = read_json(book / MANIFEST), artefact_hashes()
    return [
        f"{name}: is {'gone' if name not in now else 'new' if name not in then else 'changed'} "
        "since the book was built; build it again: make book"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
