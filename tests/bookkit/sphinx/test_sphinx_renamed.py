"""Links to a heading on pages that are not themselves changed, over real builds."""

from pathlib import Path

from sphinx.application import Sphinx


def test_links_show_a_heading_as_it_is_now(tmp_path: Path) -> None:
    trees, out = tmp_path / "trees", tmp_path / "out"
    settings = {"extensions": ["bookkit.sphinx.renamed"]}
    (tmp_path / "index.rst").write_text("Front\n=====\n\n.. toctree::\n   a\n   b\n")
    (tmp_path / "a.rst").write_text("A\n=\n\nSee :ref:`place`.\n")

    def build(heading: str, words: str) -> tuple[str, int]:
        """The page that links to the heading, and when it was written."""
        text = f"B\n=\n\n.. _place:\n\n{heading}\n---------\n\n{words}\n"
        (tmp_path / "b.rst").write_text(text)
        Sphinx(tmp_path, None, out, trees, "html", settings, status=None, warning=None).build()
        page = out / "a.html"
        return page.read_text(encoding="utf-8"), page.stat().st_mtime_ns

    first, at_first = build("Old words", "One.")
    assert "Old words" in first
    _, unchanged = build("Old words", "Two.")
    assert unchanged == at_first  # only the page that has changed is written
    page, _ = build("New words", "Two.")
    assert "New words" in page and "Old words" not in page
