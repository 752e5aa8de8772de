"""The built pages once more, from their notebooks' outputs; no cell is executed.

Beside each page of the built book lies its notebook with the outputs that the page shows
(`bookkit.sphinx.notebooks`). Rendered again from the markdown and these outputs, a page must have
the text that the built one has: prose, tables, captions, numbers of figures, sources of numbers.
"""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import jupytext
import nbformat
from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString

from nodulebook.core.errors import InputError

ATTRIBUTES = ("title", "alt", "href", "src", "value", "data-verdict", "data-section", "start")
MOST_SHOWN = 120


def read_notebook(book: Path, root: Path, name: str) -> nbformat.NotebookNode:
    """A page's notebook with outputs, from the built book.

    Raises:
        InputError: the book has none, or it is of another text than the page is now.
    """
    path = book / f"{name}.ipynb"
    if not path.is_file():
        raise InputError(f"{path}: is missing; build the book: make book")
    notebook: nbformat.NotebookNode = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    built, now = (
        [cell.source for cell in one.cells if cell.cell_type == "code"]
        for one in (notebook, jupytext.read(root / f"{name}.md"))
    )
    if built != now:
        raise InputError(f"{path}: is of another text than {name}.md; build the book: make book")
    return notebook


def rerender(book: Path, root: Path, names: list[str], into: Path) -> Path:
    """Build all pages from the notebooks; returns the folder of the HTML files.

    Args:
        book: the folder of the built book.
        root: the folder with `_config.yml`, `_toc.yml` and the pages.
        names: the pages that have cells.
        into: an empty folder.

    Raises:
        InputError: Sphinx fails, or a page has no notebook.
    """
    from jupyter_book.sphinx import build_sphinx
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache = get_cache(into / "cache")
    for name in names:
        notebook = read_notebook(book, root, name)
        bundle = CacheBundleIn(notebook, str(root / f"{name}.md"), data={"execution_seconds": 0})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    settings = {
        "latex_individualpages": False,
        "nb_execution_mode": "cache",
        "nb_execution_cache_path": str(into / "cache"),
        "bookkit_library_pages": False,
    }
    html = into / "_build" / "html"
    failed = build_sphinx(
        root, html, noconfig=True, path_config=root / "_config.yml", confoverrides=settings,
        doctreedir=into / "doctrees", quiet=True, really_quiet=True,
    )  # fmt: skip
    if failed:
        raise InputError(f"the pages cannot be rendered again: {failed!r}")
    return html


def compare_pages(built: Path, again: Path) -> list[str]:
    """Where two HTML files differ in what a reader reads or follows; one line per place."""
    if not built.is_file():
        raise InputError(f"{built}: is missing; build the book: make book")
    shown, wanted = ([*_pieces(path)] for path in (built, again))
    findings = []
    shown, wanted = _between(shown, wanted)
    for kind, a, b, c, d in SequenceMatcher(None, shown, wanted, autojunk=False).get_opcodes():
        if kind != "equal":
            first, second = "".join(shown[a:b]), "".join(wanted[c:d])
            findings.append(
                f"shows {first[:MOST_SHOWN]!r}, but the files give {second[:MOST_SHOWN]!r}"
            )
    return findings


def _between(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Both lists without what they have in common at their beginning and end."""
    least = min(len(one), len(other))
    start = next((k for k in range(least) if one[k] != other[k]), least)
    end = next((k for k in range(least - start) if one[-1 - k] != other[-1 - k]), least - start)
    return one[start : len(one) - end], other[start : len(other) - end]


def _pieces(path: Path) -> Iterator[str]:
    """An article's texts, tokens of text and values of attributes, in their order."""
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    article = page.find("article")
    if not isinstance(article, Tag):
        raise InputError(f"{path}: has no article")
    for part in article.descendants:
        if isinstance(part, Tag):
            for name in ATTRIBUTES:
                if name in part.attrs:
                    yield f" {name}={part.attrs[name]}"
        elif isinstance(part, NavigableString):
            # A blank within a number counts; how many blanks there are does not.
            text = re.sub(r"\s+", " ", str(part)).strip()
            yield from re.findall(r"\w+|[^\w\s]|\s", text)
