"""Code and data behind each figure and table, in its caption."""

import re

import jupytext

from bookkit.sphinx import captions
from nodulebook.core import paths

PAGE = """# Title

```{code-cell} ipython3
table = read("data/nodules.csv")
```

```{code-cell} ipython3
glue("bars", draw(1 < 2))
```

:::{glue:figure} bars
:alt: Bars.
:name: fig-bars

Caption.
:::

```{code-cell} ipython3
display(tables.numbered(rows, "Caption.", "tab-rows"))
```
"""
BODY = (
    '<figure id="fig-bars"><figcaption>\n<p>Bars.<a class="headerlink" href="#fig-bars">#</a></p>'
    '</figcaption></figure><table><caption>Rows of data/folds.csv.<a class="headerlink"'
    ' href="#tab-rows">#</a></caption></table><table><caption>Typed.<a class="headerlink"'
    ' href="#tab-typed">#</a></caption></table>'
)


def test_a_caption_leads_to_its_cell_and_its_data() -> None:
    notebook = jupytext.reads(PAGE, fmt="md:myst")
    page = captions.with_sources(BODY, notebook, {"runs-tables": "runs.html#runs-tables"})
    figure, rows, typed = re.findall(
        r"<(?:figcaption|caption)>.*?</(?:figcaption|caption)>", page, re.S
    )
    label = re.search(r"<summary title=\"([^\"]+)\">(.*?)</summary>", figure)
    assert label and "code" in label[1] and re.sub(r"<span aria-hidden.*?</span>", "", label[2])
    assert "visually-hidden" not in figure and "&lt;" in figure and "read(" not in figure
    assert '<a href="runs.html#runs-tables">From data/nodules.csv</a>' in figure
    assert "From data/folds.csv" in rows and "tab-rows" in rows and "made-by" not in typed
    assert re.sub(r"<details.*?</details>", "", page, flags=re.S) == BODY


def test_the_data_behind_a_cell() -> None:
    page = 'read("data/nodules.csv")\nclaims_of("a", "data/claims.yml")'
    data = captions.data_behind
    assert data("", "plot(x)", page)["title"].startswith("From data/nodules.csv, by")
    assert data("", "show('data/claims.yml')", page)["title"].startswith("From data/claims.yml, by")
    title = data("", "plot(x)  # papermill_runs/rules and data/folds.csv", page)["title"]
    assert title.startswith("From data/folds.csv, papermill_runs/rules/, by")
    run = data("", "read('papermill_runs/diameter/fold-0')", page)["title"]
    assert run.startswith("From papermill_runs/diameter, by")
    assert data("", "plot(x)", "x = 1")["title"] == "From the committed runs"


def test_a_word_names_a_run_only_in_quotation_marks_and_a_drawing_has_no_data() -> None:
    def title(cell: str) -> str:
        return captions.data_behind("AUC of diameter alone.", cell, "data/folds.csv")["title"]

    assert "papermill_runs/diameter" in title('draw(runs["diameter"])')
    assert "papermill_runs" not in title('draw("ruler (diameter alone)")')
    named = title('assert PAPER == "paper-usual-lidc_slices"  # and data/nodules.csv')
    assert "paper-usual-lidc_slices" in named and "data/nodules.csv" in named
    drawing = f'{captions.NO_DATA}\nglue("strip-figure", strip_figure())'
    assert captions.data_behind("diameter", drawing, "data/folds.csv") == {
        "label": "", "title": "Drawn without data"
    }  # fmt: skip


def test_every_figure_and_table_of_the_book_has_its_cell() -> None:
    missing = []
    for path in (paths.ROOT / "index.md", *sorted((paths.ROOT / "chapters").glob("*.md"))):
        text = path.read_text()
        if "{code-cell}" not in text:
            continue
        behind = captions.cells_behind(jupytext.read(path))
        missing += [f"{path.name}: {label}" for _, label in captions.GLUED.findall(text)
                    if label not in behind]  # fmt: skip
        assert text.count("{glue:figure}") == len(captions.GLUED.findall(text)), path.name
    assert not missing
