"""The only place that names folders of the project."""

import os
from pathlib import Path

import yaml

from nodulebook.core.errors import InputError


def typed_path(given: str) -> Path:
    """A path that a user typed, made absolute: meant from the folder where it was typed.

    A notebook runs in `chapters/`; the shell that started it leaves its own folder in PWD.
    """
    path = Path(given).expanduser()
    typed_in = os.environ.get("PWD", "")
    if not path.is_absolute() and Path.cwd().name == "chapters" and Path(typed_in).is_dir():
        path = Path(typed_in) / path
    return path.resolve()


def _find_root() -> Path:
    """The folder that holds `_toc.yml`: `NODULEBOOK_ROOT`, this checkout, or above the cwd."""
    given = os.environ.get("NODULEBOOK_ROOT")
    if given:
        return typed_path(given)
    candidates = [Path(__file__).resolve().parents[3], Path.cwd(), *Path.cwd().parents]
    for folder in candidates:
        if (folder / "_toc.yml").is_file() or (folder / "profiles").is_dir():
            return folder
    return Path.cwd()


ROOT = _find_root()
CHAPTERS = ROOT / "chapters"
PROFILES = ROOT / "profiles"
DATA = ROOT / "data"
SCANS_CSV = DATA / "scans.csv"
_COHORT = os.environ.get("NODULEBOOK_COHORT")
OWN_COHORT = typed_path(_COHORT) if _COHORT else None
"""The user's cohort (`data.own_cohort`), which takes the place of LIDC-IDRI's; None: the book's."""
NODULES_CSV = (OWN_COHORT or DATA) / "nodules.csv"
FOLDS_CSV = (OWN_COHORT or DATA) / "folds.csv"
TRIALS_YAML = PROFILES / "trials" / "trials.yaml"
RULES_YAML = PROFILES / "trials" / "rules.yaml"
CLAIMS_YAML = DATA / "claims.yml"
PATCH_STORES = (OWN_COHORT or DATA) / "patches"


def runs_folder() -> Path:
    """Where runs are kept: `papermill_runs/`, or `NODULEBOOK_RUNS` where that is set."""
    given = os.environ.get("NODULEBOOK_RUNS")
    return typed_path(given) if given else ROOT / "papermill_runs"


def lock_file(run: str, fold: int, what: str = "fold") -> Path:
    """What a process holds while it makes a fold, in the folder of runs."""
    return runs_folder() / ".locks" / f"{run.replace('/', '+')}-fold-{fold}-{what}.lock"


def fold_folder(run: str, fold: int) -> Path:
    """`papermill_runs/<run>/fold-<k>`."""
    return runs_folder() / run / f"fold-{fold}"


def partial_folder(run: str, fold: int) -> Path:
    """Where an unfinished fold keeps its checkpoint; renamed to `fold_folder` at the end."""
    return runs_folder() / run / f".fold-{fold}.partial"


def patch_stores() -> Path:
    """Where patch stores are kept: `data/patches/`, or `NODULEBOOK_PATCHES` where that is set."""
    given = os.environ.get("NODULEBOOK_PATCHES")
    return typed_path(given) if given else PATCH_STORES


def user_data_folder() -> Path:
    """The folder with the user's CT data, from the environment variable `NODULEBOOK_DATA`.

    Raises:
        InputError: the variable is unset, or names something that is no folder.
    """
    given = os.environ.get("NODULEBOOK_DATA")
    if not given:
        raise InputError(
            "this source needs CT data: set NODULEBOOK_DATA to the folder that holds it "
            "(for example NODULEBOOK_DATA=~/lidc make fold FOLD=0 SOURCE=lidc_slices); "
            "the phantom source needs none (SOURCE=phantom)"
        )
    folder = typed_path(given)
    if not folder.exists() and not Path(given).is_absolute():
        folder = ROOT / given
    if not folder.exists():
        raise InputError(
            f"NODULEBOOK_DATA={given}: there is no such folder; "
            "set it to the folder that holds your CT data"
        )
    return folder.resolve()


def page_names(root: Path | None = None) -> list[str]:
    """The book's pages as in `_toc.yml` (`chapters/results`), the landing page first."""
    toc = yaml.safe_load(((root or ROOT) / "_toc.yml").read_text(encoding="utf-8"))
    names = [str(toc["root"])]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            names += [
                chapter["file"],
                *(section["file"] for section in chapter.get("sections", [])),
            ]
    return names
