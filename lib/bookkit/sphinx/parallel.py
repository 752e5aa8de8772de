"""A Sphinx extension: pages are read, and their cells executed, some at a time.

Sphinx can do it, but jupyter-book has no option for it, and three of the extensions that it loads
do not say whether they allow it. They do: two take no part in the reading of pages, the third
numbers sections when all are read.
"""

import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

UNDECLARED = ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex", "sphinx-mathjax-offline")

MOST_AT_A_TIME = 4
"""A page that shows a network takes a GB of memory."""


def dealt(pages: list[str], executed: set[str], hands: int) -> list[str]:
    """The pages in an order in which those with cells are spread evenly.

    Sphinx deals consecutive pages to a process, so that in the order of their names one process
    would read the pages of the library, and the other execute all the cells.

    Args:
        pages: names of pages.
        executed: those with cells.
        hands: how many processes there are.
    """
    first = sorted(pages, key=lambda name: (name not in executed, name))
    return [name for hand in range(hands) for name in first[hand::hands]]


def _deal(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    files = {name: Path(env.doc2path(name)) for name in pages}
    executed = {name for name in pages if "{code-cell}" in files[name].read_text(encoding="utf-8")}
    pages[:] = dealt(pages, executed, app.parallel)


def _allow(app: Sphinx, config: Config) -> None:
    for name in UNDECLARED:
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True
    app.parallel = max(app.parallel, min(os.cpu_count() or 1, MOST_AT_A_TIME))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _allow)
    app.connect("env-before-read-docs", _deal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
