"""What a page says of how to run it; and that the API page has every module."""

import re
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
from papermill.models import Parameter

from bookkit.sphinx import library
from bookkit.sphinx import pages as sphinx_pages
from nodulebook.core import paths
from nodulebook.core.errors import InputError

PAGE = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Title

```{code-cell} ipython3
:tags: [parameters]

fold: int = 3  # held out, 0 < it
run: str = ""  # the run's name
data = "a b"
```

```{code-cell} ipython3
later: int = 4
```
"""
PARAMETERS = [
    Parameter("fold", "int", "3", "held out, 0 < it"),
    Parameter("run", "str", "", "the run's name"),
    Parameter("data", "None", "a b", ""),
]
ADDRESS = "https://github.com/some-one/the.book"


def test_parameters_are_those_of_the_tagged_cell():
    notebook = jupytext.reads(PAGE, fmt="md:myst")
    assert sphinx_pages.page_parameters(notebook) == PARAMETERS


def test_the_command_of_a_page():
    assert sphinx_pages.run_command("chapters/page", PARAMETERS) == (
        "jupytext --to ipynb chapters/page.md -o page.ipynb\n"
        "papermill page.ipynb page-run.ipynb --cwd chapters -p fold 3 -p data 'a b'"
    )
    assert sphinx_pages.run_command("index", []).endswith("index-run.ipynb --cwd .")


def test_the_training_chapters_command_has_its_parameters():
    notebook = jupytext.read(paths.CHAPTERS / "training.md")
    found = {p.name: p for p in sphinx_pages.page_parameters(notebook)}
    assert {"fold", "profile", "source", "run", "data", "explain"} <= set(found)
    assert found["fold"].help.startswith("the fold that is held out")


@pytest.mark.parametrize("address", ["", "https://example.org/a/b", "https://github.com/only"])
def test_no_links_without_an_address_that_they_work_with(address):
    assert sphinx_pages.launch_links("chapters/page", address, "main") == {}


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_links(ending):
    assert sphinx_pages.launch_links("chapters/page", ADDRESS + ending, "main") == {
        "Binder": "https://mybinder.org/v2/gh/some-one/the.book/main"
        "?urlpath=lab/tree/chapters/page.md",
        "Colab": "https://colab.research.google.com/github/some-one/the.book/blob/gh-pages"
        "/colab/chapters/page.ipynb",
    }


def built(tmp_path, address="", builder="html", kernelspec=True):
    source = tmp_path / "page.md"
    source.write_text(PAGE)
    app = SimpleNamespace(
        builder=SimpleNamespace(name=builder),
        outdir=tmp_path / "html",
        config=SimpleNamespace(html_theme_options={"repository_url": address}),
        env=SimpleNamespace(
            doc2path=lambda page: str(source),
            metadata={"chapters/page": {"kernelspec": {}} if kernelspec else {}},
        ),
    )
    context = {"body": "<section><h1>Title</h1><p>text</p></section>"}
    sphinx_pages.add_to_page(app, "chapters/page", "page.html", context, object())
    return context["body"]


def test_it_stands_beneath_the_title_and_is_escaped(tmp_path):
    body = built(tmp_path)
    assert body.startswith('<section><h1>Title</h1>\n<details class="run-this-page">')
    assert "held out, 0 &lt; it" in body and "papermill page.ipynb" in body
    assert body.count("href") == 1 and not (tmp_path / "html").exists()


def test_with_an_address_colab_finds_a_notebook_that_installs_the_book(tmp_path):
    body = built(tmp_path, ADDRESS)
    assert body.count("href=") == 3
    notebook = nbformat.read(tmp_path / "html" / "colab" / "chapters" / "page.ipynb", 4)
    nbformat.validate(notebook)
    setup = notebook.cells[0].source
    assert f"git clone --quiet --depth 1 --branch main {ADDRESS} " in setup
    assert "%cd /content/book/chapters" in setup
    assert "parameters" in notebook.cells[2].metadata["tags"]


def test_the_picture_of_a_figure_opens_whole():
    figure = '<figure class="a" id="b">\n<img alt="x y" src="../_images/f.png" />'
    assert sphinx_pages.linked_images(figure) == (
        '<figure class="a" id="b">\n<a class="whole-picture" href="../_images/f.png">'
        '<img alt="x y" src="../_images/f.png" /></a>'
    )
    for other in (
        '<p><img src="../_images/f.png"></p>',
        '<figure id="a"><img src="data:x"></figure>',
    ):
        assert sphinx_pages.linked_images(other) == other


@pytest.mark.parametrize("options", [{"builder": "singlehtml"}, {"kernelspec": False}])
def test_prints_and_pages_without_cells_have_none(tmp_path, options):
    assert "run-this-page" not in built(tmp_path, **options)


def test_every_public_module_is_on_one_api_page():
    pages = [page.read_text() for page in paths.CHAPTERS.glob("api_*.md")]
    packages = re.findall(r"^```\{library\} (\S+)$", "\n".join(pages), re.M)
    shown = [name for package in packages for name in library.modules(package)]
    lib = paths.ROOT / "lib"
    every = {
        ".".join(path.relative_to(lib).with_suffix("").parts).removesuffix(".__init__")
        for path in lib.rglob("*.py")
        if not path.stem.startswith("__main")
    }
    assert sorted(shown) == sorted(every - {"nodulebook"})


def test_a_package_that_is_missing_is_named():
    with pytest.raises(InputError, match="no such package"):
        library.modules("nodulebook.none")
