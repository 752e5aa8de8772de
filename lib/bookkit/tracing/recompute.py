"""A chapter's numbers, computed again from the committed files, without TensorFlow.

The statements of a chapter's cells are executed as they stand, in a fresh IPython shell. Left out
are those that need a deep-learning library, draw a picture or read patches, and whatever builds
on them: a statement that names what a left-out one would have made is left out too.
"""

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import jupytext
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from bookkit.tracing.project import setting
from bookkit.tracing.trace import GLUE_PREFIX
from nodulebook.core.errors import InputError

HEAVY = ("keras", "tensorflow", "torch", "jax", "tf_keras_vis")
"""Not imported: they take long, and a reader who verifies need not have them."""

LEFT_OUT = (*setting("left_out"), "subprocess", "tempfile")
"""Pictures are not compared, patches are not committed, and neither commands nor files that a page
writes for itself are made again."""


@dataclass(frozen=True)
class Output:
    """What a cell displays: `kind` is text/plain, text/markdown or text/html."""

    cell: int
    """The number of the cell among the page's code cells, from 0 on."""
    kind: str
    text: str


@dataclass
class Recomputed:
    """What came out of a page's cells."""

    glued: dict[str, str] = field(default_factory=dict)
    """Name to text, those left out missing."""
    outputs: list[Output] = field(default_factory=list)
    """In order."""
    partly: set[int] = field(default_factory=set)
    """Cells of which a statement was left out."""
    statements: int = 0
    left_out: int = 0


def recompute(page: Path) -> Recomputed:
    """Execute a chapter's cells, but for what is left out.

    To be called in a process of its own: it changes the working directory and forbids the
    import of `HEAVY`.

    Raises:
        InputError: the page is not there, or a cell fails.
    """
    if not page.is_file():
        raise InputError(f"{page}: there is no such page")
    os.chdir(page.parent)
    os.environ.setdefault("MPLBACKEND", "agg")
    shell = InteractiveShell.instance()  # type: ignore[no-untyped-call]
    shell.reset(new_session=False)  # type: ignore[no-untyped-call]
    values: list[Any] = []
    formatter = shell.display_formatter
    assert formatter is not None
    shell.display_trap.hook = lambda value: None if value is None else values.append(value)
    unavailable = {"get_ipython"}  # commands of the shell are not run
    out = Recomputed()
    notebook = jupytext.read(page)
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        tags = set(cell.metadata.get("tags", []))
        source = shell.transform_cell(cell.source)  # type: ignore[no-untyped-call]
        try:
            statements = ast.parse(source).body
        except SyntaxError as error:
            raise InputError(f"{page}: a cell is no Python: {error}\n{cell.source[:300]}") from None
        kept = [one for one in statements if _is_kept(one, unavailable)]
        out.statements += len(statements)
        out.left_out += len(statements) - len(kept)
        if len(kept) < len(statements):
            out.partly.add(number)
        if not kept:
            continue
        last = [] if kept[-1] is statements[-1] else ["pass"]  # or an earlier value would be shown
        code = "\n".join([*(ast.unparse(one) for one in kept), *last])
        values.clear()
        with capture_output() as captured:
            result = shell.run_cell(  # type: ignore[no-untyped-call]
                code, store_history=False
            )
        failed = result.error_before_exec or result.error_in_exec
        if failed is not None and "raises-exception" not in tags:
            raise InputError(f"{page}: a cell fails: {failed!r}\n{code[:300]}")
        displayed = [(one.data, one.metadata or {}) for one in captured.outputs]
        displayed += [formatter.format(value) for value in values]  # type: ignore[no-untyped-call]
        if captured.stdout.strip():
            out.outputs.append(Output(number, "text/plain", captured.stdout))
        _collect(out, number, displayed)
    return out


def _collect(out: Recomputed, number: int, displayed: Iterable[tuple[Any, Any]]) -> None:
    """Sort what a cell displays, pairs of data by kind and metadata, into texts and outputs."""
    for data, metadata in displayed:
        if "scrapbook" in metadata:
            text = data.get(f"{GLUE_PREFIX}text/plain", data.get("text/plain", ""))
            out.glued[metadata["scrapbook"]["name"]] = unquoted(text)
            continue
        for kind in ("text/html", "text/markdown", "text/plain"):
            if kind in data:
                out.outputs.append(Output(number, kind, data[kind]))
                break


def unquoted(text: str) -> str:
    """The string that a `repr` stands for; the text itself where it is none."""
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text


def _is_kept(statement: ast.stmt, unavailable: set[str]) -> bool:
    """Whether a statement can be executed; what it makes becomes available or unavailable."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return _import_is_kept(statement, unavailable)
    made = _made(statement)
    if _needed(statement) & unavailable or (_imports(statement) - {""} and _heavy(statement)):
        unavailable |= made
        return False
    unavailable -= made
    return True


def _import_is_kept(statement: ast.Import | ast.ImportFrom, unavailable: set[str]) -> bool:
    """Whether an import is executed; only the names that cannot be had are taken off it."""
    kept = []
    for alias in statement.names:
        name = alias.asname or alias.name.split(".")[0]
        module = alias.name
        if isinstance(statement, ast.ImportFrom):
            module = f"{statement.module}.{alias.name}"
        if _is_available(module):
            kept.append(alias)
            unavailable.discard(name)
        else:
            unavailable.add(name)
    statement.names = kept or statement.names
    return bool(kept)


def _is_available(module: str) -> bool:
    """Whether a module, or a name of one, is there without what is left out."""
    if any(module == name or module.startswith(f"{name}.") for name in (*HEAVY, *LEFT_OUT)):
        return False
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in HEAVY:  # `forbid_heavy`
            return False
        parent, _, _ = module.rpartition(".")
        return bool(parent) and _is_available(parent)
    return True


class _Forbidden(MetaPathFinder):
    """Finds `HEAVY` first, and refuses."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Refuse a module of `HEAVY`."""
        name = fullname.partition(".")[0]
        if name in HEAVY:
            raise ModuleNotFoundError(f"{name} is left out here", name=name)


def forbid_heavy() -> None:
    """Make every import of `HEAVY` in this process fail, also within other modules."""
    # scipy and others ask sys.modules for them by name, so there must be no entry.
    sys.meta_path.insert(0, _Forbidden())


def _imports(statement: ast.stmt) -> set[str]:
    """Modules that a compound statement imports within."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _heavy(statement: ast.stmt) -> bool:
    return any(not _is_available(module) for module in _imports(statement) - {""})


def _names(nodes: Iterable[ast.AST], context: type[ast.expr_context]) -> set[str]:
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


def _needed(statement: ast.stmt) -> set[str]:
    """Names that a statement uses and does not bind itself in a loop, a function or a `with`."""
    own: set[str] = set()
    for node in ast.walk(statement):
        targets: Sequence[ast.AST] = ()
        if isinstance(node, ast.For | ast.comprehension):
            targets = [node.target]
        elif isinstance(node, ast.With):
            targets = [item.optional_vars for item in node.items if item.optional_vars]
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        for target in targets:
            own |= _names(ast.walk(target), ast.Store)
    return _names(ast.walk(statement), ast.Load) - own


def _made(statement: ast.stmt) -> set[str]:
    """Names that a statement binds, or whose object it changes by an assignment to a part."""
    made = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add(node.asname or re.split(r"\.", node.name)[0])
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            made |= _names(ast.walk(node.value), ast.Load)
    return made
