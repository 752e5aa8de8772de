"""Sphinx extension: in each caption, folded, the code and the data that made the figure."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from bookkit.tracing.trace import source_of
from nodulebook.core import paths
from nodulebook.runs.contract import list_runs

GLUED = re.compile(r"\{glue:figure\} ([\w-]+)\n(?:^:(?!name).*\n)*^:name: ([\w-]+)$", re.M)
"""A figure's key and label in a chapter."""

FILE = re.compile(r"\b(?:data|profiles)/[\w/-]+\.(?:csv|yml|yaml)\b")
GROUP = re.compile(r"\bpapermill_runs/([a-z]+)\b(?![-/])")
"""A folder of runs, such as that of the rules."""

NAME = re.compile(r"[\w-]+")
QUOTED = r"""(?:["'`>]{0}["'`<]|papermill_runs/{0}\b)"""
NO_DATA = "# Made from: no data."
"""A comment in the cell of a drawing."""

CLAIMS = "data/claims.yml"
"""Every chapter shows its claims: a cell that names no file is not computed from them."""

LABEL = "code and data"
"""What opens it, in sight and for a screen reader."""

TOOLTIP = "Shows the code that made this and where its data are described"

END = r"</(?:figcaption|caption)>"
CAPTION = re.compile(
    rf'(<(?:figcaption|caption)>(?:(?!{END}).)*class="headerlink" href="#([\w-]+)".*?)({END})', re.S
)


def cells_behind(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The code that made each figure and table of a page: its label to the source of its cell.

    A cell makes a table if it names its label, and a figure if it glues the figure's key.
    """
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = {label: f'glue("{key}"' for key, label in GLUED.findall(text)}
    found |= {one: f'"{one}"' for source in code for one in re.findall(r'"(tab-[\w-]+)"', source)}
    behind = {}
    for label, sign in found.items():
        makers = [source for source in code if sign in source]
        if makers:
            behind[label] = makers[0]
    return behind


def data_behind(caption: str, cell: str, page: str) -> dict[str, str]:
    """Where the data of a figure are described: label and words, as of a traced number.

    Files and runs that caption and cell name; where they name none, those of the page's cells. A
    run whose name is a word ("diameter") is named by it only between quotation marks.
    """
    if NO_DATA in cell:
        return {"label": "", "title": "Drawn without data"}
    runs = set(list_runs())
    for text, not_of in ((f"{caption}\n{cell}", set()), (page, {CLAIMS})):
        named = {one for one in FILE.findall(text) if (paths.ROOT / one).is_file()} - not_of
        named |= {
            one
            for one in runs.intersection(NAME.findall(text))
            if not one.isalpha() or re.search(QUOTED.format(one), text)
        }
        groups = {one for one in GROUP.findall(text) if (paths.runs_folder() / one).is_dir()}
        named |= {f"{one}/" for one in groups - runs}
        if named:
            return source_of(sorted(named))
    return {"label": "runs-list", "title": "From the committed runs"}


def with_sources(body: str, notebook: nbformat.NotebookNode, address: Mapping[str, str]) -> str:
    """A page's HTML with what is behind each figure and table, folded, at the end of its caption.

    Args:
        address: label to the address of its place, as seen from the page.
    """
    behind = cells_behind(notebook)
    page = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")

    def add(found: re.Match[str]) -> str:
        start, label, end = found.groups()
        if label not in behind:
            return found[0]
        data = data_behind(start, behind[label], page)
        title = html.escape(data["title"].removesuffix(", by a cell of this page"))
        code = highlight(behind[label], PythonLexer(), HtmlFormatter(nowrap=True))
        where = (
            f'<a href="{address.get(data["label"], "")}">{title}</a>' if data["label"] else title
        )
        return (
            f'{start}<details class="made-by"><summary title="{TOOLTIP}">'
            f'<span aria-hidden="true">{{ }}</span> {LABEL}</summary>'
            f"<p>{where}, by:</p>"
            f'<div class="highlight"><pre tabindex="0">{code}</pre></div></details>{end}'
        )

    return CAPTION.sub(add, body)


def add_to_page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx's event `html-page-context`: pages that are notebooks, after the hover cards."""
    path = Path(app.env.doc2path(page)) if doctree is not None else Path()
    if path.suffix != ".md" or "kernelspec" not in app.env.metadata[page]:
        return
    labels = app.env.get_domain("std").anonlabels
    address = {
        label: f"{app.builder.get_relative_uri(page, place[0])}#{place[1]}"
        for label, place in labels.items()
        if label.startswith("run")
    }
    context["body"] = with_sources(context["body"], jupytext.read(path), address)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("html-page-context", add_to_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
