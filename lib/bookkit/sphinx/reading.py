"""Sphinx extension: which pages are read and executed again, and some at a time.

A page is read again if what it is computed from has changed: its text, the committed files (runs,
tables, profiles), or a module of ours that its cells import, directly or through others. Sphinx by
itself looks at the page's own text only.

Sphinx can read pages in several processes, but jupyter-book has no option for it, and three of the
extensions that it loads do not declare that they allow it. They do: two take no part in the reading
of pages, the third numbers sections when all are read.
"""

import ast
import hashlib
import os
import re
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from bookkit.sphinx.library import modules
from bookkit.tracing.manifest import artefact_hashes
from nodulebook.core import paths
from nodulebook.core.files import sha256

UNDECLARED = ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex", "sphinx-mathjax-offline")

MOST_AT_A_TIME = 4
"""A page that shows a network takes a GB of memory."""

CELL = re.compile(r"^```\{code-cell\}.*?\n(.*?)^```", re.S | re.M)
OPTIONS = re.compile(r"\A---\n(?:.*\n)*?---$|^(?::\w|[%!]).*$", re.M)
"""What a cell has besides Python: its options, and commands of the shell."""
ALWAYS = "bookkit.sphinx"
"""The package that shapes every page."""


@cache
def _files(packages: tuple[str, ...] = ("nodulebook", "study", "bookkit")) -> dict[str, Path]:
    """Every module of ours, name to file."""
    lib = paths.ROOT / "lib"
    found = [one for name in packages for one in sorted((lib / name).rglob("*.py"))]
    names = [".".join(path.relative_to(lib).with_suffix("").parts) for path in found]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, found, strict=True)}


@cache
def _imported(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere in its text."""
    return imports(_files()[module].read_text(encoding="utf-8"))


def imports(code: str) -> set[str]:
    """Modules of ours that code imports, with the packages that contain them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {".".join(one[: k + 1]) for one in parts for k in range(len(one))} & set(_files())


def behind(code: str) -> set[str]:
    """Modules of ours that code depends on, through others too."""
    found: set[str] = set()
    waiting = imports(code)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imported(name) - found
    return found


def page_digest(text: str, artefacts: str) -> str:
    """A hash of what a page is computed from, its own text apart."""
    cells = [re.sub(OPTIONS, "", cell) for cell in CELL.findall(text)]
    names = {name for name in _files() if name.startswith(ALWAYS)}
    for cell in cells:
        names |= behind(cell) if "import" in cell else set()
    parts = [f"{name} {sha256(_files()[name])}" for name in sorted(names)]
    if cells:
        parts.append(artefacts)
    for package in re.findall(r"^```\{library\} (\S+)", text, re.M):
        parts += modules(package)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    artefacts = hashlib.sha256(repr(sorted(artefact_hashes().items())).encode()).hexdigest()
    pages = {name: Path(env.doc2path(name)) for name in env.found_docs}
    now = {
        name: page_digest(path.read_text(encoding="utf-8"), artefacts)
        for name, path in pages.items()
        if path.suffix == ".md"
    }
    then: dict[str, str] = getattr(env, "bookkit_digests", {})
    env.bookkit_digests = now  # type: ignore[attr-defined]
    return [name for name in now if then.get(name) != now[name]]


def dealt(pages: list[str], executed: set[str], workers: int) -> list[str]:
    """The pages in an order in which those with cells are spread evenly.

    Sphinx deals consecutive pages to a process, so that in the order of their names one process
    would read the pages of the library, and the other execute all the cells.

    Args:
        executed: those with cells.
    """
    first = sorted(pages, key=lambda name: (name not in executed, name))
    return [name for worker in range(workers) for name in first[worker::workers]]


def _deal(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    files = {name: Path(env.doc2path(name)) for name in pages}
    executed = {name for name in pages if "{code-cell}" in files[name].read_text(encoding="utf-8")}
    pages[:] = dealt(pages, executed, app.parallel)


def _allow(app: Sphinx, config: Config) -> None:
    for name in UNDECLARED:
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True
    app.parallel = max(app.parallel, min(os.cpu_count() or 1, MOST_AT_A_TIME))
    # The kernels inherit this: pages at a time, each with as many threads as cores, would compete
    # for the cores, and threads that wait for others of their product spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("env-get-outdated", _outdated)
    app.connect("config-inited", _allow)
    app.connect("env-before-read-docs", _deal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
