"""`nodulebook verify`: do the book's numbers follow from the committed files?

Three questions, each with findings of its own:

1. Are all committed runs valid, and are their hashes those of what they name?
2. Are the files the ones that the built book was made from, byte for byte?
3. Built once more from these files, in another folder, do the pages show the same text, and do
   their notebooks have the same outputs?

What that proves, and what not, is `MEANING`.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString

from bookkit.tracing.manifest import artefact_hashes, compare_with_manifest
from bookkit.tracing.project import hook, setting
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.core.settings import Profile
from nodulebook.data.annotations import DATABASE_SHA256
from nodulebook.data.folds import read_folds
from nodulebook.runs.arithmetic import arithmetic, arithmetics
from nodulebook.runs.contract import Fold, list_runs, read_run
from nodulebook.runs.map_scores import read_explanations

MEANING = """\
It proves that the pages show what the committed files give, by the code that is here: no number
was typed, none is left over from older files. It does not prove that the files came from the
training that they describe (`nodulebook again --run RUN --fold K` trains a fold again and compares)
or that the code computes the right thing (the tests do)."""

VARIES = "tag_varies"
"""Class of a cell tagged `varies`: it shows times or the like, which no two builds share."""

UNIQUE = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
"""The ids of a figure that moves, which bokeh draws at random."""

ATTRIBUTES = ("title", "alt", "href", "src", "value", "data-verdict", "data-section", "start")
MOST_SHOWN = 120


def verify(book: Path, options: Sequence[str] = ()) -> list[tuple[list[str], str]]:
    """All three questions: for each the findings, and what was looked at.

    Args:
        book: the folder of its HTML files.
        options: of Sphinx, for the pages' second build.
    """
    changed = compare_with_manifest(book)
    return [
        check_runs(),
        (changed, f"{len(artefact_hashes())} files as when the book was built"),
        check_pages(book, options=options),
    ]


# ------------------------------------------------------------------------------------- 1. runs


def check_runs() -> tuple[list[str], str]:
    """All committed runs, those in groups (trials, rules, repeats) too: findings, and a summary."""
    folds, findings, mixed, n_folds, n_runs = read_folds(), [], [], 0, 0
    nodules_csv = sha256(paths.NODULES_CSV)
    top = paths.runs_folder()
    groups = sorted(path for path in top.iterdir() if path.is_dir() and list_runs(path))
    for folder in (top, *groups):
        for name in list_runs(folder):
            n_runs += 1
            try:
                # Rules and trials deal and label nodules in other ways; their pages check that.
                run = read_run(name, folder, folds if folder == top else None)
            except InputError as error:
                findings.append(str(error))
                continue
            n_folds += len(run.folds)
            records = [fold.run for fold in run.folds.values()]
            if len({arithmetic(record) for record in records}) > 1:
                mixed.append(f"; {folder / name} pools folds of {arithmetics(records)}")
            for k, fold in run.folds.items():
                place = folder / name / f"fold-{k}"
                findings += [f"{place}: {text}" for text in _hash_findings(fold, nodules_csv)]
                try:
                    read_explanations(place, fold)
                except InputError as error:
                    findings.append(str(error))
    if not findings:
        findings = [text for address in setting("recheck") for text in hook(address)()]
    return findings, f"{n_runs} runs with {n_folds} folds{''.join(mixed)}"


def _hash_findings(fold: Fold, nodules_csv: str) -> Iterable[str]:
    """Hashes of a fold's record that are not those of what they stand for."""
    about = fold.run
    if "profile_name" in about:
        try:
            wanted = Profile.model_validate(about["profile"]).hash()
        except ValueError as error:
            yield f"run.json: profile is invalid ({error})"
            return
        if about["profile_hash"] != wanted:
            yield "run.json: profile_hash is not that of the profile in the same record"
    recipe = about.get("data_recipe", {})
    for key, value in (("nodules_csv", nodules_csv), ("annotations_sha256", DATABASE_SHA256)):
        if recipe.get(key, value) != value:
            yield f"run.json: data_recipe: {key} is not that of the committed cohort"
    if about["source"] == "annotations" and about["data_hash"] != sha256(
        paths.NODULES_CSV, paths.FOLDS_CSV
    ):
        yield "run.json: data_hash is not that of data/nodules.csv and data/folds.csv"


# ------------------------------------------------------------------------------------- 3. pages


def check_pages(
    book: Path, root: Path = paths.ROOT, options: Sequence[str] = ()
) -> tuple[list[str], str]:
    """Build the book once more and compare all pages and notebooks.

    Args:
        book: the folder of its HTML files.
        root: the folder with `_config.yml`, `_toc.yml` and the pages.
        options: of Sphinx.
    """
    with TemporaryDirectory() as into:
        try:
            again = build(root, Path(into), options)
        except InputError as error:
            return [str(error)], ""
        names = paths.page_names(root)
        findings = [
            f"{name}: {text}"
            for page in names
            for name, compare in (
                (f"{page}.html", compare_pages),
                (f"{page}.ipynb", compare_notebooks),
            )
            if name.endswith(".html") or (again / name).is_file()  # not every page is a notebook
            for text in compare(book / name, again / name)
        ]
    return findings, f"{len(names)} pages, built once more"


def build(root: Path, into: Path, options: Sequence[str] = ()) -> Path:
    """Build the book of `root` into an empty folder; returns the folder of the HTML files.

    Raises:
        InputError: the build fails.
    """
    command = ["-c", "from jupyter_book.cli.main import main; main()", "build", str(root)]
    done = subprocess.run(
        [sys.executable, *command, "--path-output", str(into), "--quiet", *options],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        wrong = "\n".join(what_is_wrong(done.stdout + done.stderr))
        raise InputError(f"the book cannot be built again:\n{wrong}")
    return into / "_build" / "html"


def what_is_wrong(output: str) -> list[str]:
    """The warnings and errors in what a build said, or its last lines where there are none."""
    lines = output.splitlines()
    wrong = [x for x in lines if any(w in x for w in ("WARNING:", "ERROR:", "Error", "error:"))]
    return wrong or lines[-20:]


def compare_pages(shown: Path, wanted: Path) -> list[str]:
    """Where two HTML files differ in what a reader reads or follows; one line per place."""
    return _differences([*_pieces(shown)], [*_pieces(wanted)])


def compare_notebooks(shown: Path, wanted: Path) -> list[str]:
    """Where two notebooks differ in what their cells hold or give as text."""
    return _differences([*_texts(shown)], [*_texts(wanted)])


def _differences(shown: list[str], wanted: list[str]) -> list[str]:
    least = min(len(shown), len(wanted))
    start = next((k for k in range(least) if shown[k] != wanted[k]), least)
    end = next(
        (k for k in range(least - start) if shown[-1 - k] != wanted[-1 - k]), least - start
    )  # what they share at the beginning and end is left out: the comparison is slow
    shown, wanted = shown[start : len(shown) - end], wanted[start : len(wanted) - end]
    return [
        f"shows {''.join(shown[a:b])[:MOST_SHOWN]!r}, "
        f"but the files give {''.join(wanted[c:d])[:MOST_SHOWN]!r}"
        for kind, a, b, c, d in SequenceMatcher(None, shown, wanted, autojunk=False).get_opcodes()
        if kind != "equal"
    ]


def _read(path: Path) -> str:
    try:
        return UNIQUE.sub("id", path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: is missing; build the book: make book") from None


def _pieces(path: Path) -> Iterator[str]:
    """An article's texts, tokens of text and values of attributes, in their order."""
    article = BeautifulSoup(_read(path), "html.parser").find("article")
    if not isinstance(article, Tag):
        raise InputError(f"{path}: has no article")
    for cell in article.find_all(class_=VARIES):
        for output in cell.find_all(class_="cell_output"):
            output.clear()
    for part in article.descendants:
        if isinstance(part, Tag):
            for name in ATTRIBUTES:
                if name in part.attrs:
                    yield f" {name}={part.attrs[name]}"
        elif isinstance(part, NavigableString):
            # A blank within a number counts; how many blanks there are does not.
            text = re.sub(r"\s+", " ", str(part)).strip()
            yield from re.findall(r"\w+|[^\w\s]|\s", text)


def _texts(path: Path) -> Iterator[str]:
    """Source and text outputs of a notebook's cells, in their order."""
    notebook = nbformat.reads(_read(path), 4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        yield cell.source
        if "varies" not in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                data = output.get("data", {"text": output.get("text", "")})
                yield from (str(data[kind]) for kind in sorted(data) if "image" not in kind)
