"""Sphinx extension: each page's notebook with its outputs is written beside the page.

A reader downloads it; `nodulebook verify` renders the pages again from it.
"""

import json
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx


def with_glued(notebook: nbformat.NotebookNode, glued: dict[str, Any]) -> nbformat.NotebookNode:
    """A notebook with its glued outputs, which myst-nb keeps apart, in its first code cell.

    Args:
        notebook: as myst-nb leaves it after execution; changed in place.
        glued: name to output.
    """
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for output in glued.values():
        prefix = output["metadata"]["scrapbook"].get("mime_prefix", "")
        data = {prefix + kind.removeprefix(prefix): value for kind, value in output["data"].items()}
        first.outputs.append(nbformat.from_dict(output | {"data": data}))  # type: ignore[no-untyped-call]
    return notebook


def _write(app: Sphinx, failed: Exception | None) -> None:
    executed = Path(app.outdir).parent / "jupyter_execute"
    if failed is not None or app.builder.name != "html":
        return
    for name in sorted(app.env.found_docs):
        path = executed / f"{name}.ipynb"
        if not path.is_file() or not Path(app.env.doc2path(name)).is_file():
            continue
        notebook = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
        glued = path.with_name(f"{path.stem}.glue.json")
        if glued.is_file():
            notebook = with_glued(notebook, json.loads(glued.read_text(encoding="utf-8")))
        nbformat.write(notebook, Path(app.outdir) / f"{name}.ipynb")  # type: ignore[no-untyped-call]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


