"""Sphinx extension: each page's notebook with its outputs is written beside the page.

A reader downloads it; `nodulebook verify` renders the pages again from it.
"""

import json
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx

from bookkit.tracing.trace import GLUE_PREFIX


def with_glued(notebook: nbformat.NotebookNode, glued: dict[str, Any]) -> nbformat.NotebookNode:
    """A notebook with its glued outputs, which myst-nb keeps apart, in its first code cell.

    What the machine says of itself (stderr) is left out.

    Args:
        notebook: as myst-nb leaves it after execution; changed in place.
        glued: name to output.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        # Of a stream the first output holds everything (myst-nb has merged them in place).
        seen = {"stderr"}
        cell.outputs = [
            one for one in cell.outputs
            if (name := one.get("name")) is None or not (name in seen or seen.add(name))  # type: ignore[func-returns-value]
        ]  # fmt: skip
    first = cells[0]
    for output in glued.values():
        about = {"name": output["metadata"]["scrapbook"]["name"], "mime_prefix": GLUE_PREFIX}
        data = {
            GLUE_PREFIX + kind.removeprefix(GLUE_PREFIX): value
            for kind, value in output["data"].items()
        }
        kept = output | {"data": data, "metadata": {"scrapbook": about}}
        first.outputs.append(nbformat.from_dict(kept))  # type: ignore[no-untyped-call]
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
