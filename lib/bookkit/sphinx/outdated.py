"""Sphinx extension: a page is read and executed again if what it is computed from has changed.

That is the committed files (runs, tables, profiles) and every module of ours that its cells
import, directly or through others. Sphinx by itself looks at the page's own text only.
"""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from bookkit.sphinx.library import modules
from bookkit.tracing.manifest import artefact_hashes
from nodulebook.core import paths
from nodulebook.core.files import sha256

CELL = re.compile(r"^```\{code-cell\}.*?\n(.*?)^```", re.S | re.M)
OPTIONS = re.compile(r"\A---\n(?:.*\n)*?---$|^(?::\w|[%!]).*$", re.M)
"""What a cell has besides Python: its options, and commands of the shell."""
ALWAYS = ("bookkit.sphinx", "bookkit.tracing", "bookkit.ledger")
"""Packages that shape every page."""


@cache
def _files(packages: tuple[str, ...] = ("nodulebook", "study", "bookkit")) -> dict[str, Path]:
    """Every module of ours, name to file."""
    lib = paths.ROOT / "lib"
    found = {}
    for path in sorted(one for name in packages for one in (lib / name).rglob("*.py")):
        name = ".".join(path.relative_to(lib).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def _imported(module: str) -> frozenset[str]:
    """Modules of ours that a module imports anywhere in its text."""
    return frozenset(imports(_files()[module].read_text(encoding="utf-8")))


def imports(code: str) -> set[str]:
    """Modules of ours that code imports, with the packages that they lie in."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            found |= {".".join(parts[: k + 1]) for k in range(len(parts))} & set(_files())
    return found


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
    """A hash of what a page is computed from, its own text apart.

    Args:
        text: the page's markdown.
        artefacts: a hash of the committed files.
    """
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
    hashes = artefact_hashes()
    artefacts = hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()
    now = {}
    for name in env.found_docs:
        path = Path(env.doc2path(name))
        if path.suffix == ".md":
            now[name] = page_digest(path.read_text(encoding="utf-8"), artefacts)
    then: dict[str, str] = getattr(env, "bookkit_digests", {})
    env.bookkit_digests = now  # type: ignore[attr-defined]
    return [name for name in now if then.get(name) != now[name]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
