"""Sphinx extension: how to run a page, its notebook, and figures that open whole.

"Run this page" beneath a title shows the page's own papermill command, with the parameters that it
has, the notebook with its outputs, and, where the repository's address is set in `_config.yml`
(`repository: url:`), links to Binder and Colab. A figure is a link to its picture, since on a phone
it is seen small.
"""

import ast
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from papermill.models import Parameter
from papermill.translators import PythonTranslator
from sphinx.application import Sphinx

from bookkit.tracing.trace import GLUE_PREFIX

PAGES_BRANCH = "gh-pages"
"""The branch that the built book is published from (`ghp-import -n -p -f _build/html`)."""


def page_parameters(notebook: nbformat.NotebookNode) -> list[Parameter]:
    """The parameters of a notebook's cell tagged `parameters`; defaults without quotation marks."""
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    found = [one for cell in tagged for one in PythonTranslator.inspect(cell)]
    return [one._replace(default=str(ast.literal_eval(one.default))) for one in found]


def run_command(page: str, parameters: list[Parameter]) -> str:
    """The lines that run a page, typed in the book's folder.

    Args:
        page: without ending, as "chapters/training".
        parameters: those with a default are written out, to be changed.
    """
    name, folder = page.rpartition("/")[2], page.rpartition("/")[0] or "."
    values = "".join(f" -p {p.name} {shlex.quote(p.default)}" for p in parameters if p.default)
    return (
        f"jupytext --to ipynb {page}.md -o {name}.ipynb\n"
        f"papermill {name}.ipynb {name}-run.ipynb --cwd {folder}{values}"
    )


def launch_links(page: str, repository: str, branch: str) -> dict[str, str]:
    """Where a page can be run without installing anything: name to address.

    Binder opens the markdown as a notebook (`postBuild` sees to that); Colab knows notebooks only
    and opens the one that is written beside the published book.

    Args:
        page: without ending.
        repository: its address, on GitHub; empty where there is none.
    """
    address = repository.rstrip("/").removesuffix(".git")
    _, on_github, name = address.partition("github.com/")
    if not on_github or name.count("/") != 1:
        return {}
    return {
        "Binder": f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{page}.md",
        "Colab": f"https://colab.research.google.com/github/{name}/blob/{PAGES_BRANCH}"
        f"/colab/{page}.ipynb",
    }


def colab_notebook(
    notebook: nbformat.NotebookNode, page: str, repository: str, branch: str
) -> nbformat.NotebookNode:
    """The page as a notebook whose first cell fetches the book and installs its library."""
    setup = (
        "# Fetches the book and installs its library: some minutes, once.\n"
        f"!git clone --quiet --depth 1 --branch {branch} {repository} /content/book\n"
        "%pip install --quiet /content/book\n"
        f"%cd /content/book/{page.rpartition('/')[0]}"
    )
    metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    whole: nbformat.NotebookNode = nbformat.v4.new_notebook(metadata=metadata)  # type: ignore[no-untyped-call]
    whole.cells = [nbformat.v4.new_code_cell(setup), *notebook.cells]  # type: ignore[no-untyped-call]
    return whole


def run_html(page: str, parameters: list[Parameter], links: dict[str, str]) -> str:
    """What is put beneath the title, folded up."""
    words = "".join(
        f"<li><code>{html.escape(p.name)}</code>: {html.escape(p.help)}</li>" for p in parameters
    )
    elsewhere = ", ".join(
        f'<a href="{html.escape(address)}">{name}</a>' for name, address in links.items()
    )
    name = f"{html.escape(page.rpartition('/')[2])}.ipynb"
    return (
        '<details class="run-this-page"><summary>Run this page</summary>'
        "<p>In the folder of the book, with its environment active:</p>"
        '<div class="highlight-bash notranslate"><div class="highlight"><pre>'
        f"{html.escape(run_command(page, parameters))}\n</pre></div></div>"
        + (f"<p>Its parameters:</p><ul>{words}</ul>" if words else "")
        + f'<p>The page as a notebook with its outputs: <a href="{name}" download>{name}</a></p>'
        + (f"<p>Without installing anything: {elsewhere}.</p>" if elsewhere else "")
        + "</details>"
    )


def linked_images(body: str) -> str:
    """A page's HTML with each picture of a figure as a link to the picture itself."""
    return re.sub(
        r'(<figure [^>]*>\s*)(<img [^>]*\bsrc="((?:\.\./)*_images/[^"]+)"[^>]*>)',
        r'\1<a class="whole-picture" href="\3">\2</a>',
        body,
    )


def add_to_page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx's event `html-page-context`: add it to pages that are notebooks."""
    if doctree is None or app.builder.name != "html":
        return
    path = Path(app.env.doc2path(page))
    if path.suffix != ".md" or "kernelspec" not in app.env.metadata[page]:
        return
    notebook = jupytext.read(path)
    options = app.config.html_theme_options
    repository = options.get("repository_url") or ""
    branch = options.get("repository_branch") or "main"
    links = launch_links(page, repository, branch)
    if links:
        target = Path(app.outdir) / "colab" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(colab_notebook(notebook, page, repository, branch), target)  # type: ignore[no-untyped-call]
    shown = run_html(page, page_parameters(notebook), links)
    context["body"] = linked_images(context["body"]).replace("</h1>", f"</h1>\n{shown}", 1)


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


def write_notebooks(app: Sphinx, failed: Exception | None) -> None:
    """Sphinx's event `build-finished`: write each page's notebook with outputs next to the page."""
    executed = Path(app.outdir).parent / "jupyter_execute"
    if failed is not None or app.builder.name != "html":
        return
    for name in sorted(app.env.found_docs):
        path = executed / f"{name}.ipynb"
        if not path.is_file() or not Path(app.env.doc2path(name)).is_file():
            continue
        notebook = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
        path = path.with_name(f"{path.stem}.glue.json")
        glued = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if any(cell.cell_type == "code" for cell in notebook.cells):
            notebook = with_glued(notebook, glued)
        nbformat.write(notebook, Path(app.outdir) / f"{name}.ipynb")  # type: ignore[no-untyped-call]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", add_to_page)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
