"""What the book's pages load, and what they are called, is what a reader needs."""

import json
from pathlib import Path

import pytest
from sphinx.application import Sphinx

from bookkit.sphinx.light import fewer_icons

INDEX = """Front
=====

Words, and :cite:`one`.

.. toctree::

   formula

.. bibliography::
"""
FORMULA = """Formula
=======

.. math:: a = b
"""
ENTRY = "@book{one, author = {A. Writer}, title = {T}, publisher = {P}, year = {2001}}\n"


def test_icons_that_no_page_uses_are_left_out() -> None:
    script = (
        'x={a1:[1,2,[],"f1","M0"],sun:[1,2,[97],"f2","M1"],"b-c":[1,2,["d"],"f3",["p","q"]]};y=1'
    )
    assert fewer_icons(script, set()) == 'x={sun:[1,2,[97],"f2","M1"]};y=1'
    assert '"b-c"' in fewer_icons(script, {"d"}), "by its other name"
    assert fewer_icons(script, {"a1", "b-c"}) == script


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A book of two pages; only the second has a formula."""
    folder: Path = tmp_path_factory.mktemp("light")
    for name, text in (("index.rst", INDEX), ("formula.rst", FORMULA), ("all.bib", ENTRY)):
        (folder / name).write_text(text)
    settings = {
        "extensions": ["sphinx.ext.mathjax", "sphinxcontrib.bibtex", "bookkit.sphinx.light"],
        "bibtex_bibfiles": ["all.bib"],
        "mathjax3_config": {"tex": {}},
    }
    out = folder / "html"
    Sphinx(folder, None, out, folder / "trees", "html", settings, status=None).build()
    return {path.stem: path.read_text() for path in out.glob("*.html")}


def test_formulas_are_set_only_where_there_are_some(pages: dict[str, str]) -> None:
    assert "mathjax" in pages["formula"].lower()
    assert "mathjax" not in pages["index"].lower()


def test_the_bibliography_is_no_list_without_items(pages: dict[str, str]) -> None:
    assert '<div class="citation-list">' in pages["index"]
    assert 'role="list"' not in pages["index"]


def test_cards_outlive_builds_that_write_few_pages_or_none(tmp_path: Path) -> None:
    """Every page's file of cards is there, and a changed page keeps those of other pages."""
    first = "First\n=====\n\n.. _here:\n\nPlace\n-----\n\nA card of {} words.\n"
    second = "Second\n======\n\n{}, see :ref:`here`.\n"
    index = "Book\n====\n\n.. toctree::\n\n   first\n   second\n"
    settings = {"extensions": ["sphinx_tippy", "bookkit.sphinx.light"]}
    out = tmp_path / "html"

    def build() -> dict[str, dict[str, str]]:
        trees = tmp_path / "trees"
        Sphinx(tmp_path, None, out, trees, "html", settings, status=None, warning=None).build()
        found = {}
        for path in (out / "_static" / "tippy").rglob("*.js"):
            name = path.name.split(".")[0]
            assert path.name in (out / f"{name}.html").read_text(encoding="utf-8")
            line = path.read_text(encoding="utf-8").splitlines()[0]
            found[name] = json.loads(line.removeprefix("selector_to_html = "))
        return found

    def has(cards: dict[str, dict[str, str]], word: str) -> bool:
        return any(f"A card of {word} words" in card for card in cards["second"].values())

    for name, text in (("index", index), ("first", first.format("many")), ("second", second)):
        (tmp_path / f"{name}.rst").write_text(text.format("Words"))
    built = build()
    assert set(built) == {"index", "first", "second"} and has(built, "many")
    assert build() == built  # nothing changed
    (tmp_path / "second.rst").write_text(second.format("Other words"))
    assert has(build(), "many")
    (tmp_path / "first.rst").write_text(first.format("few"))
    again = build()
    assert has(again, "few") and set(again) == set(built)
