"""A Sphinx extension: pages load what they need, once, and a screen reader is not misled.

MathJax is left out of pages without formulas, Thebe (cells that run on a server, which the book
does not offer) of all, and of the theme's two thousand icons (1.5 MB) those that no page uses.
Hover cards need pages to be written in one process.
"""

import pickle
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx_tippy import get_tippy_data

from nodulebook.core.files import written_aside

LIST_OF_ENTRIES = '<div role="list" class="citation-list">'
LIST_OF_ENTRIES_PLAIN = '<div class="citation-list">'


ICONS = "_static/scripts/fontawesome.js"

ICON = re.compile(
    r"""(?:"([\w-]+)"|([\w$]+)):\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\]"""
)
"""An icon in the theme's script: name, size, other names, code, outline."""

USED = re.compile(r"\bfa-([a-z0-9-]+)")

ALWAYS = {"circle-half-stroke", "sun", "moon", "bars", "angle-left", "angle-right", "question"}
"""Put in by the theme's scripts, so that no page names them."""


def fewer_icons(script: str, used: set[str]) -> str:
    """The icon script with the outlines of the icons in use only.

    Args:
        script: the theme's `fontawesome.js`.
        used: names of icons, without `fa-`.
    """
    names = used | ALWAYS

    def kept(found: re.Match[str]) -> str:
        aliases = re.findall(r'"([\w-]+)"', found[0].split("],", 1)[0])
        name = found[1] or found[2]
        return found[0] if names & {name, *aliases} else ""

    # An icon that goes leaves its comma behind: `{,a:[...],,b:[...]}`.
    thinned = ICON.sub(lambda found: kept(found) or "\0", script)
    thinned = re.sub(r"\0(?:,\0)*,", "", thinned)
    return re.sub(r",?\0", "", thinned)


def _write_icons(app: Sphinx, failed: Exception | None) -> None:
    target = Path(app.outdir) / ICONS
    if failed is not None or not target.is_file():
        return
    # From the theme's own file: what is in the book may have been thinned for other pages.
    theme = next(
        Path(str(file.locate()))
        for file in distribution("pydata-sphinx-theme").files or ()
        if str(file).endswith("static/scripts/fontawesome.js")
    )
    used: set[str] = set()
    for page in Path(app.outdir).rglob("*.html"):
        used |= set(USED.findall(page.read_text(encoding="utf-8")))
    target.write_text(fewer_icons(theme.read_text(encoding="utf-8"), used), encoding="utf-8")


def _formulas_only_where_used(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    formulas = doctree is not None and next(iter(doctree.findall(_is_math)), None) is not None
    unneeded = ["thebe"]
    if not formulas and "#equation-" not in context.get("body", ""):
        unneeded.append("mathjax")
    context["script_files"] = [
        file
        for file in context.get("script_files", [])
        if not any(word in f"{file} {getattr(file, 'attributes', '')}".lower() for word in unneeded)
    ]


def _plain_bibliography(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Sphinx calls the bibliography a list, and its entries something else than a list's items."""
    if "body" in context:
        context["body"] = context["body"].replace(LIST_OF_ENTRIES, LIST_OF_ENTRIES_PLAIN)


def _write_in_one_process(app: Sphinx, env: BuildEnvironment) -> None:
    """sphinx-tippy collects the cards of all pages while they are written."""
    app.parallel = 1


def _cards_file(app: Sphinx) -> Path:
    return Path(app.doctreedir) / f"cards-{app.builder.name}.pickle"


def _remember_cards(app: Sphinx, env: BuildEnvironment) -> None:
    """Give sphinx-tippy the cards of pages that this build does not write again.

    It keeps them in the environment, which Sphinx stores before the pages are written. Without
    them, a page that is written again would lose its cards of places on other pages.
    """
    path = _cards_file(app)
    if app.builder.format != "html" or not path.is_file():
        return
    with path.open("rb") as stream:  # written by ourselves, next to Sphinx's own
        known = pickle.load(stream)
    folder = Path(app.outdir)
    kept = {
        page: data
        for page, data in known.items()
        if page in env.all_docs and data["js_path"].is_relative_to(folder)
    }
    get_tippy_data(app)["pages"] = kept


def _store_cards(app: Sphinx, failed: Exception | None) -> None:
    """Store the cards for the next build; remove the files of older ones, whose names differ."""
    if failed or app.builder.format != "html":
        return
    pages = get_tippy_data(app)["pages"]
    with written_aside(_cards_file(app)) as aside, aside.open("wb") as stream:
        pickle.dump(pages, stream)
    kept = {Path(page["js_path"]) for page in pages.values()}
    folder = Path(app.outdir) / "_static" / "tippy"
    for path in [one for one in folder.rglob("*.js") if one not in kept]:
        path.unlink()


def _is_math(node: nodes.Node) -> bool:
    return isinstance(node, nodes.math | nodes.math_block)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", _formulas_only_where_used, priority=900)
    app.connect("html-page-context", _plain_bibliography)
    app.connect("env-updated", _write_in_one_process)
    app.connect("env-updated", _remember_cards)
    app.connect("build-finished", _store_cards, priority=900)  # after sphinx-tippy
    app.connect("build-finished", _write_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
