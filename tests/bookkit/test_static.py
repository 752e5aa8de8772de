"""What the book's style and script promise: hints, print and phones, in a browser."""

from pathlib import Path

from browser import opened
from nodulebook.core import paths

WIDE = "<th>a head with</th>" * 12
PAGE = f"""<!doctype html><html lang="en"><title>t</title>
<link rel="stylesheet" href="{{static}}/book.css"><script defer src="{{static}}/tips.js"></script>
<style>th {{{{ white-space: nowrap }}}}
.pst-scrollable-table-container {{{{ width: 300px }}}}</style>
<main class="bd-article"><article>
<div class="pst-scrollable-table-container" id="wide"><table class="table"><caption>w</caption>
<thead><tr>{WIDE}</tr></thead></table></div>
<div class="pst-scrollable-table-container" id="narrow"><table class="table"><caption>n</caption>
<thead><tr><th>a</th></tr></thead></table></div>
<details><summary>s</summary><div class="pst-scrollable-table-container" id="folded">
<table class="table"><thead><tr>{WIDE}</tr></thead></table></div></details>
<figure id="picture"><a class="whole-picture" href="#">
<img alt="p" src="{{picture}}">
</a></figure>
<div class="cell tag_hide-cell"><details class="hide above-input"><summary>Solution 1</summary>
<div class="cell_output" id="solution">(13, 15)</div></details></div>
<div class="cell"><details class="hide above-input"><summary>Show code</summary>
<div id="code">x = 1</div></details></div>
<details class="sd-dropdown"><summary>Solution 1, in words</summary><p id="words">w</p></details>
</article></main>"""


PICTURE = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='900' height='9'/>"


def page(folder: Path) -> Path:
    static = (paths.ROOT / "_static").as_uri()
    (folder / "page.html").write_text(PAGE.format(static=static, picture=PICTURE))
    return folder / "page.html"


def hint(of: str, part: str) -> str:
    return f"""(() => {{ const one = getComputedStyle(document.querySelector("{of}"), "::{part}");
        return one.display == "none" || one.content == "none" ? "" : one.content; }})()"""


def test_what_goes_on_beyond_its_edge_says_so(tmp_path: Path) -> None:
    with opened(page(tmp_path)) as tab:
        tab.set_viewport_size({"width": 390, "height": 800})
        tab.reload()
        tab.wait_for_selector("#wide.scrolls", timeout=5000)
        tab.wait_for_selector("#picture .scrolls", timeout=5000)
        assert "Scroll" in tab.evaluate(hint("#wide caption", "after"))
        assert "Scroll" in tab.evaluate(hint("#picture a", "after"))
        assert not tab.evaluate(hint("#narrow caption", "after"))
        assert not tab.evaluate(hint("#wide", "before"))  # the caption has said it
        tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        tab.wait_for_selector("#folded.scrolls", timeout=5000)
        assert "Scroll" in tab.evaluate(hint("#folded", "before"))
        tab.emulate_media(media="print")
        assert not tab.evaluate(hint("#wide caption", "after"))
        tab.emulate_media(media="screen")
        tab.set_viewport_size({"width": 1280, "height": 800})
        assert not tab.evaluate(hint("#picture a", "after"))


def test_print_has_solutions_with_their_output_and_no_other_folded_code(tmp_path: Path) -> None:
    seen = "document.querySelector('#{}').checkVisibility()"
    with opened(page(tmp_path)) as tab:
        parts = ("solution", "words", "code")
        assert [tab.evaluate(seen.format(one)) for one in parts] == [False, False, False]
        tab.emulate_media(media="print")
        assert [tab.evaluate(seen.format(one)) for one in parts] == [True, True, False]


def test_print_has_no_empty_cell_below_a_heading(tmp_path: Path) -> None:
    cell = "getComputedStyle(document.querySelector('#code').closest('.cell')).display"
    with opened(page(tmp_path)) as tab:
        assert tab.evaluate(cell) == "block"
        tab.emulate_media(media="print")
        assert tab.evaluate(cell) == "none"
