"""Pages rendered again: what is changed in a built page is found, wherever it is."""

import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from bookkit.tracing import rerender
from nodulebook.core import paths
from nodulebook.core.errors import InputError

pytestmark = pytest.mark.slow

FRONT = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
"""

INDEX = """(start)=
# A book of 888 scans

Of {glue:text}`n` nodules, 95 % have a label; nine of ten folds are in {numref}`tab-one`, and
the paper says 97.08 % {cite:p}`joshua`. See {ref}`chapter` and {eq}`eq-one`.

```{code-cell} ipython3
:tags: [remove-cell]
import pandas as pd
from bookkit.tracing import tables
from bookkit.tracing.trace import glue_texts
glue_texts({"n": "1,009", "auc": "0.897 (0.873 to 0.919)"}, "data/nodules.csv")
```

```{code-cell} ipython3
rows = {"run": ["paper", "honest"], "AUC": ["0.897 (0.873 to 0.919)", "0.912*"], "p": ["−0.5", "1"]}
tables.numbered(pd.DataFrame(rows), "Two runs, n = 12; 95 % intervals.", "tab-one")
```

```{code-cell} ipython3
print("AUC", 0.5, "of 12 nodules")
1 / 4
```

The AUC is {glue:text}`auc`; below it 0.0021 and .91 and twelve.
"""

CHAPTER = """(chapter)=
# A chapter

$$ a = \\frac{1}{2} $$ (eq-one)

- At 1 mm, 32 voxels, `-1200` to 600 HU.
- {numref}`tab-one` of {ref}`start` has 2 rows[^1].

[^1]: Of 3.

| x | y |
|---|---|
| 1 | 2.5 |
"""


def build(root: Path) -> None:
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    done = subprocess.run(
        [*command, str(root)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small book as it was built, and rendered again: the folders of both."""
    root = tmp_path_factory.mktemp("book")
    shutil.copy(paths.ROOT / "_config.yml", root)
    shutil.copytree(paths.ROOT / "_static", root / "_static")
    (root / "references.bib").write_text("@misc{joshua, author={A. Joshua}, year=2021, title={T}}")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters: [{file: chapters/one}, {file: chapters/runs}]\n"
    )
    (root / "chapters").mkdir()
    (root / "index.md").write_text(FRONT + INDEX)
    (root / "chapters" / "one.md").write_text(CHAPTER)
    (root / "chapters" / "runs.md").write_text(
        "(runs-tables)=\n# Tables\n\n```{bibliography}\n```\n"
    )
    build(root)
    built = root / "_build" / "html"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        into = tmp_path_factory.mktemp("again")
        again = pool.submit(rerender.rerender, built, root, ["index"], into).result()
    return built, again


PAGES = ("index.html", "chapters/one.html", "chapters/runs.html")


def test_an_unchanged_page_has_the_same_text(book: tuple[Path, Path]) -> None:
    built, again = book
    for page in PAGES:
        assert rerender.compare_pages(built / page, again / page) == []


def changed(text: str, draw: random.Random) -> str:
    """A single random change of a digit, a sign, a star or a letter, or something added."""
    places = {
        "digit": r"\d", "add": r"\d", "star": r"(?<=\d)", "sign": r"(?<![\w.,])(?=\d)",
        "letter": "[a-z]", "drop": r"[\d*−.,%]",
    }  # fmt: skip
    kind = draw.choice(
        [kind for kind, place in places.items() if re.search(place, text)] or ["end"]
    )
    found = draw.choice([*re.finditer(places.get(kind, "$"), text)])
    by = {
        "digit": str((int(found[0]) + 1) % 10) if found[0].isdigit() else "7",
        "add": found[0] + draw.choice("0123456789.*"),
        "star": "*", "sign": draw.choice("−-+"), "letter": "q" if found[0] != "q" else "z",
        "drop": "", "end": "1",
    }[kind]  # fmt: skip
    return text[: found.start()] + by + text[found.end() :]


def test_two_hundred_random_changes_of_pages_are_found(book: tuple[Path, Path]) -> None:
    """Texts anywhere in an article: prose, captions, cells, output, references, formulas."""
    built, again = book
    draw = random.Random(1)
    found = 0
    for _ in range(200):
        page = draw.choice(PAGES)
        whole = (built / page).read_text()
        start, end = whole.index("<article"), whole.index("</article>")
        texts = [one for one in re.finditer(r">([^<>]*\w[^<>]*)<", whole[start:end])]
        one = draw.choice(texts)
        other = changed(one[1], draw)
        copy = built.parent / "changed.html"
        copy.write_text(whole[: start + one.start(1)] + other + whole[start + one.end(1) :])
        found += bool(rerender.compare_pages(copy, again / page))
    assert found >= 0.98 * 200


def test_what_is_published_with_the_pages(book: tuple[Path, Path]) -> None:
    """Notebooks to download, hover cards, the crate; how to cite on the first page only."""
    built, _ = book
    first, other = ((built / page).read_text() for page in PAGES[:2])
    assert (built / "index.ipynb").is_file() and (built / "ro-crate-metadata.json").is_file()
    assert 'name="citation_title"' in first and "@software{" in first
    assert "citation_title" not in other and "THEBE_JS_URL" not in first + other
    cards = "".join(path.read_text() for path in (built / "_static" / "tippy").rglob("*.js"))
    for target in ("#tab-one", "runs.html#id", "one.html#equation-eq-one"):
        assert target in cards
    assert "unpkg" not in first + cards


def test_a_notebook_of_another_text_is_refused(book: tuple[Path, Path], tmp_path: Path) -> None:
    built, _ = book
    page = FRONT + INDEX.replace("1 / 4", "1 / 5")
    (tmp_path / "index.md").write_text(page)
    with pytest.raises(InputError, match="make book"):
        rerender.read_notebook(built, tmp_path, "index")
    with pytest.raises(InputError, match="make book"):
        rerender.read_notebook(built / "chapters", tmp_path, "index")
