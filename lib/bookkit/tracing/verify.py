"""`nodulebook verify`: do the book's numbers follow from the committed files?

Three questions, each with findings of its own:

1. Are all committed runs valid, and are their hashes those of what they name?
2. Are the files the ones that the built book was made from, byte for byte?
3. Computed again from these files, do the texts, tables and printed values of the chapters come
   out as the built pages show them?

What that proves, and what not, is `MEANING`.
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

from bookkit.tracing.manifest import artefact_hashes, compare_with_manifest
from bookkit.tracing.project import hook, setting
from bookkit.tracing.recompute import Output, Recomputed, forbid_heavy, recompute
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.core.settings import Profile
from nodulebook.data.annotations import DATABASE_SHA256
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Fold, list_runs, read_run
from nodulebook.runs.map_scores import read_explanations

MEANING = """\
It proves that the pages show what the committed files give, by the code that is here: no number
was typed, none is left over from older files. It does not prove that the files came from the
training that they describe (`nodulebook again --run RUN --fold K` trains a fold anew and compares),
that the code computes the right thing (the tests do), or anything about pictures and about what
needs a deep-learning library or patches: those are counted as left out."""


def verify(book: Path, jobs: int | None = None) -> list[tuple[list[str], str]]:
    """All three questions: for each the findings, and what was looked at.

    Args:
        book: the folder of the built book.
        jobs: processes; one a core where None.
    """
    changed = compare_with_manifest(book)
    return [
        check_runs(),
        (changed, f"{len(artefact_hashes())} files as when the book was built"),
        check_pages(book, jobs=jobs),
    ]


# ------------------------------------------------------------------------------------- 1. runs


def check_runs() -> tuple[list[str], str]:
    """The committed runs: findings, and a sentence on what was looked at."""
    folds, findings, n_folds = read_folds(), [], 0
    nodules_csv = sha256(paths.NODULES_CSV)
    for name in list_runs():
        try:
            run = read_run(name, folds=folds)
        except InputError as error:
            findings.append(str(error))
            continue
        n_folds += len(run.folds)
        for k, fold in run.folds.items():
            folder = paths.fold_folder(name, k)
            findings += [f"{folder}: {text}" for text in _hash_findings(fold, nodules_csv)]
            try:
                read_explanations(folder, fold)
            except InputError as error:
                findings.append(str(error))
    if not findings:
        findings = [text for address in setting("recheck") for text in hook(address)()]
    return findings, f"{len(list_runs())} runs with {n_folds} folds"


def _hash_findings(fold: Fold, nodules_csv: str) -> Iterable[str]:
    """Hashes of a fold's record that are not those of what they stand for."""
    about = fold.run
    if "profile_name" in about:
        try:
            wanted = Profile.model_validate(about["profile"]).hash()
        except ValueError as error:
            yield f"run.json: profile is none ({error})"
            return
        if about["profile_hash"] != wanted:
            yield "run.json: profile_hash is not that of the profile beside it"
    recipe = about.get("data_recipe", {})
    for key, value in (("nodules_csv", nodules_csv), ("annotations_sha256", DATABASE_SHA256)):
        if recipe.get(key, value) != value:
            yield f"run.json: data_recipe: {key} is not that of the committed cohort"
    if about["source"] == "annotations" and about["data_hash"] != sha256(
        paths.NODULES_CSV, paths.FOLDS_CSV
    ):
        yield "run.json: data_hash is not that of data/nodules.csv and data/folds.csv"


# ------------------------------------------------------------------------------------- 3. pages


def pages(root: Path | None = None) -> list[str]:
    """The pages of the book that have cells, as `index` and `chapters/results`."""
    root = root or paths.ROOT
    names = paths.page_names(root)
    return [n for n in names if "{code-cell}" in (root / f"{n}.md").read_text(encoding="utf-8")]


def check_pages(
    book: Path,
    names: Sequence[str] | None = None,
    jobs: int | None = None,
    root: Path | None = None,
) -> tuple[list[str], str]:
    """Compute the pages' numbers again and compare them with the built book.

    Args:
        book: the folder of the built book.
        names: of `pages`; all of them where None.
        jobs: processes; one a core where None.
        root: the folder with `index.md` and `chapters/`.
    """
    root = root or paths.ROOT
    findings: list[str] = []
    compared = left_out = 0
    names = pages(root) if names is None else names
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=forbid_heavy
    ) as pool:
        # The longest first, or the others would be done long before it.
        files = {name: root / f"{name}.md" for name in names}
        size = {name: file.stat().st_size if file.is_file() else 0 for name, file in files.items()}
        longest = sorted(names, key=lambda name: -size[name])
        results = {name: pool.submit(recompute, files[name]) for name in longest}
        for name in names:
            future = results[name]
            try:
                again = future.result()
                found, n = compare_page(
                    book / f"{name}.html", (root / f"{name}.md").read_text("utf-8"), again
                )
            except InputError as error:
                findings.append(str(error))
                continue
            findings += [f"{name}.html: {text}" for text in found]
            compared, left_out = compared + n, left_out + again.left_out
    return findings, (
        f"{compared} glued texts, tables and printed values of {len(names)} pages; "
        f"{left_out} statements left out (pictures, patches, deep learning)"
    )


def compare_page(built: Path, source: str, again: Recomputed) -> tuple[list[str], int]:
    """A built page beside what came out of its cells: findings, and how much was compared.

    Args:
        built: the HTML file.
        source: the page's markdown.
        again: from `recompute`.

    Raises:
        InputError: the page was not built, or from another text.
    """
    if not built.is_file():
        raise InputError(f"{built}: is not there; build the book: make book")
    page = BeautifulSoup(built.read_text(encoding="utf-8"), "html.parser")
    findings: list[str] = []
    compared = 0
    for key, shown, wanted in _glued(page, source, again, built):
        compared += 1
        if shown != wanted:
            findings.append(f"{key}: shows {shown!r}, but the files give {wanted!r}")
    cells = [cell for cell in page.select("div.cell") if isinstance(cell, Tag)]
    visible = [k for k, tags in enumerate(again.tags) if not tags & {"remove-cell", "remove_cell"}]
    if len(cells) != len(visible):
        raise InputError(
            f"{built}: has {len(cells)} cells, but its text {len(visible)}; build it again"
        )
    where = dict(zip(visible, cells, strict=True))
    for output in again.outputs:
        found, n = _compare_output(where[output.cell], output)
        findings, compared = findings + found, compared + n
    return findings, compared


def _glued(
    page: BeautifulSoup, source: str, again: Recomputed, built: Path
) -> list[tuple[str, str, str]]:
    """Each `{glue:text}` of a page whose text came out again: key, shown, wanted."""
    prose = re.sub(r"^```\{code-cell\}.*?^```$", "", source, flags=re.S | re.M)
    keys = re.findall(r"\{glue:text\}`([^`]+)`", prose)
    shown = [span for span in page.select("article span.pasted-text") if not _in_title(span)]
    if len(keys) != len(shown):
        raise InputError(
            f"{built}: shows {len(shown)} glued texts, but its text has {len(keys)}; build it again"
        )
    return [
        (key, _plain(span.get_text()), _plain(again.glued[key]))
        for key, span in zip(keys, shown, strict=True)
        if key in again.glued
    ]


def _in_title(span: Tag) -> bool:
    """Whether a text is a copy, as in a figure's alternative text or the page's contents."""
    return span.find_parent(["nav", "title"]) is not None


def _compare_output(cell: Tag, output: Output) -> tuple[list[str], int]:
    table = re.match(r":::\{table\}.*\n:name: (\S+)\n", output.text)
    if output.kind == "text/markdown" and table:
        return _compare_table(cell, table[1], output.text), 1
    shown = _squeezed(cell.select_one("div.cell_output") or cell)
    if output.kind == "text/html":
        wanted = [_squeezed(BeautifulSoup(output.text, "html.parser"))]
    elif output.kind == "text/markdown":
        wanted = _literal_parts(output.text)
    else:
        wanted = [_squeeze(output.text)]
    missing = [text for text in wanted if text not in shown]
    return [f"cell {output.cell + 1}: does not show {text[:120]!r}" for text in missing], 1


def _compare_table(cell: Tag, name: str, markdown: str) -> list[str]:
    """A table of `tables.numbered` beside the built one, cell by cell."""
    ident = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    built = cell.find("table", id=ident)
    if not isinstance(built, Tag):
        return [f"the table {name} is not there"]
    lines = [line for line in markdown.split("\n") if line.startswith("| ")]
    findings = []
    rows = built.find_all("tr")
    if len(rows) != len(lines):
        return [f"{name}: has {len(rows) - 1} rows, but the files give {len(lines) - 1}"]
    for number, (line, row) in enumerate(zip(lines, rows, strict=True)):
        wanted = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        shown = [_squeezed(c) for c in row.find_all(["td", "th"])]
        if len(wanted) != len(shown):
            findings.append(f"{name}: row {number} has {len(shown)} cells, not {len(wanted)}")
            continue
        for text, there in zip(wanted, shown, strict=True):
            parts = _literal_parts(text)
            exact = len(parts) == 1 and "{" not in text
            if (there != parts[0]) if exact else not all(part in there for part in parts):
                findings.append(
                    f"{name}: row {number} shows {there!r}, but the files give {text!r}"
                )
    return findings


def _literal_parts(markdown: str) -> list[str]:
    """What markdown shows as it stands, without its roles, squeezed."""
    text = re.sub(r"\\([\\`*_{}\[\]<>$#~|])", r"\1", markdown)
    pieces = re.split(r"\{[\w:-]+\}`[^`]*`|\]\([^)]*\)|<[^<>]*>", text)
    parts = [squeezed for piece in pieces if (squeezed := _squeeze(re.sub(r"^#+ ", "", piece)))]
    return parts or [""]


def _squeezed(element: Any) -> str:
    """An element's text, squeezed."""
    return _squeeze(element.get_text())


def _squeeze(text: str) -> str:
    """Without white space and what marks text up, quotes made plain: the same on both sides."""
    return re.sub(r"[`*\[\]\s]", "", _plain(text))


def _plain(text: str) -> str:
    """Without what Sphinx's typography changes."""
    for typographic, plain in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("…", "..."),
                               ("—", "---"), ("–", "--")):  # fmt: skip
        text = text.replace(typographic, plain)
    return text.strip()
