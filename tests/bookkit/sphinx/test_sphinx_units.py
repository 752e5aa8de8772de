"""A number and what belongs to it stay on one line wherever a reader reads, and nowhere else."""

import html
import re
from pathlib import Path

import pytest
from sphinx.application import Sphinx

from bookkit.sphinx.units import joined, joined_html

PAGE = """(place)=
# Nodules of 4 mm

The lines before
it end as they are. An accuracy of 97.08 % at −600
HU, **12** mm, **13**
mm, $32$ mm and [20 %](https://example.org) of them.
The words `0.5 mm` are code. See {ref}`place`.

:::{table} Within 3 mm

| part | size |
|---|---|
| a tube | 16 mm² |
:::

```
x = 7 mm
```

<p title="8 mm">8 mm<code>9 mm</code></p>

The 9 mmol, the 5 states, 2

mm
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("95 % of 3 mm", "95\u00a0% of 3\u00a0mm"),
        ("16 to 18 mm, 2 GB", "16~to~18~mm, 2~GB"),
        ("from −1200 to\n600 HU", "from −1200~to~600~HU"),
        ("AUC 0.897 (0.875 to 0.918).", "AUC 0.897 (0.875~to~0.918)."),
        ("by −0.003 (95 % interval −0.018 to 0.012)", "by −0.003 (95~% interval −0.018~to~0.012)"),
        ("93.3 % (91.0 % to 95.1 %)", "93.3~% (91.0~%~to~95.1~%)"),
        ("the folds 2 to 5 and 0.1 to 0.2", "the folds 2 to 5 and 0.1 to 0.2"),
        ("32 × 32 ×\n32 mm, 3 ± 1", "32~×~32~×~32~mm, 3~±~1"),
        ("n = 1,010; p < 0.001; an = 3", "n~=~1,010; p~<~0.001; an = 3"),
        (
            "Fig. 12, Table 42, Eq. 9, fold 0, tenfold 3",
            "Fig.~12, Table~42, Eq.~9, fold~0, tenfold 3",
        ),
        ("10\n%", "10\u00a0%"),
        ("3 minutes, 5 states, 7 mmol, n mm", "3 minutes, 5 states, 7 mmol, n mm"),
    ],
)
def test_quantities_are_joined(text: str, words: str) -> None:
    assert joined(text) == words.replace("~", "\u00a0")


def test_words_of_html_are_joined_and_scripts_and_tags_are_not() -> None:
    tags = '<td title="5 mm">{}</td><script>x = "5 mm"</script><pre class="a">5 mm</pre>'
    assert joined_html(tags.format("5 mm")) == tags.format("5\u00a0mm")


def test_a_page_has_them_in_its_words_and_not_in_its_code(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text(PAGE)
    settings = {
        "extensions": ["sphinx.ext.mathjax", "myst_parser", "bookkit.sphinx.units"],
        "myst_enable_extensions": ["colon_fence", "dollarmath"],
    }
    out = tmp_path / "out"
    Sphinx(tmp_path, None, out, tmp_path / "trees", "html", settings, status=None).build()
    body = (out / "index.html").read_text().partition('role="main"')[2].partition("</body>")[0]
    words = html.unescape(re.sub(r"<[^>]+>", "", body.partition('class="clearer"')[0]))
    for pair in ("4 mm", "97.08 %", "600 HU", "12 mm", "13 mm", "20 %", "3 mm", "16 mm²", "8 mm"):
        assert pair.replace(" ", "\u00a0") in words and pair not in words, pair
    assert "\\(32\\)\u00a0mm" in words and "before\nit" in words
    assert "0.5 mm" in words and "x = 7 mm" in words
    assert "9 mmol" in words and "5 states" in words and re.search(r"2\s+mm", words)
