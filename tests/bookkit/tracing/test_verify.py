"""`nodulebook verify`: a changed artefact, a changed page and a changed file are found."""

import json
import random
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from bookkit.tracing import manifest, verify
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import read_profile
from study.report.provenance import again_command, all_runs, folds_command, run_values

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

```{code-cell} ipython3
:tags: [varies]
import time
print("It is", time.time_ns())
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


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small book, built twice: the folders of both."""
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
    return verify.build(root, root), verify.build(root, tmp_path_factory.mktemp("again"))


PAGES = ("index.html", "chapters/one.html", "chapters/runs.html")


@pytest.mark.slow
def test_an_unchanged_page_has_the_same_text(book: tuple[Path, Path]) -> None:
    built, again = book
    for page in PAGES:
        assert verify.compare_pages(built / page, again / page) == []
    notebooks = built / "index.ipynb", again / "index.ipynb"
    assert verify.compare_notebooks(*notebooks) == []
    texts = [path.read_text() for path in notebooks]
    assert "It is" in texts[0] and texts[0] != texts[1]


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


@pytest.mark.slow
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
        found += bool(verify.compare_pages(copy, again / page))
    assert found >= 0.98 * 200


@pytest.mark.slow
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


@pytest.mark.slow
def test_changes_of_a_notebook_are_found(book: tuple[Path, Path], tmp_path: Path) -> None:
    """Glued texts, tables, printed values and sources; outputs lost or doubled."""
    built, again = book
    for was, becomes in (("1,009", "1,008"), ("0.912*", "0.912"), ("n = 12", "n = 99"),
                         ("12 nodules", "112 nodules"), ("1 / 4", "1 / 5")):  # fmt: skip
        text = (built / "index.ipynb").read_text()
        assert was in text
        (tmp_path / "index.ipynb").write_text(text.replace(was, becomes, 1))
        assert verify.compare_notebooks(tmp_path / "index.ipynb", again / "index.ipynb"), was
    for times in (0, 2):
        notebook = nbformat.read(built / "index.ipynb", 4)  # type: ignore[no-untyped-call]
        cell = next(one for one in notebook.cells if "1 / 4" in one.source)
        cell.outputs = cell.outputs[:1] * times + cell.outputs[1:]
        nbformat.write(notebook, tmp_path / "index.ipynb")  # type: ignore[no-untyped-call]
        assert verify.compare_notebooks(tmp_path / "index.ipynb", again / "index.ipynb"), times


def test_ids_drawn_at_random_do_not_count(tmp_path: Path) -> None:
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    text = '<article><script>{"docid": "%s", "at": %d}</script></article>'
    first.write_text(text % ("8f2ab0c1-0a1b-4c2d-8e3f-0123456789ab", 5))
    second.write_text(text % ("a02ab0c1-0a1b-4c2d-8e3f-ba9876543210", 5))
    assert verify.compare_pages(first, second) == []
    second.write_text(text % ("a02ab0c1-0a1b-4c2d-8e3f-ba9876543210", 6))
    assert len(verify.compare_pages(first, second)) == 1


def test_a_page_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make book"):
        verify.compare_pages(tmp_path / "a.html", tmp_path / "b.html")


# ----------------------------------------------------------------------------------- files, runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one small run, as the only one."""
    shutil.copytree(paths.runs_folder() / "quick-phantom", tmp_path / "runs" / "quick-phantom")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_the_committed_run_is_valid(runs: Path) -> None:
    assert verify.check_runs() == ([], "1 runs with 10 folds")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["profile"]["training"].update(epochs=9), "profile_hash is not that of"),
        (lambda r: r.update(profile_hash="0" * 64), "profile_hash"),
        (lambda r: r["data_recipe"].update(nodules_csv="0" * 64), "not that of the committed"),
        (lambda r: r.update(n_test=7), "n_test is 7"),
    ],
)
def test_a_changed_record_is_found(runs: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    path = runs / "quick-phantom" / "fold-3" / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    findings, _ = verify.check_runs()
    assert findings and any(said in text for text in findings)


def test_a_changed_fold_of_a_group_is_found(runs: Path) -> None:
    shutil.copytree(runs / "quick-phantom", runs / "rules" / "quick")
    for record in (runs / "rules" / "quick").glob("fold-*/run.json"):
        record.write_text(record.read_text().replace('"quick-phantom"', '"quick"'))
    assert verify.check_runs() == ([], "2 runs with 20 folds")
    path = runs / "rules" / "quick" / "fold-3" / "run.json"
    path.write_text(path.read_text().replace('"n_test": ', '"n_test": 1'))
    findings, _ = verify.check_runs()
    assert len(findings) == 1 and "n_test" in findings[0]


def test_fifty_changes_of_artefacts_are_found(runs: Path, tmp_path: Path) -> None:
    """Single characters of the runs' files, at random places."""
    draw = random.Random(3)
    (tmp_path / manifest.MANIFEST).write_text(json.dumps(manifest.artefact_hashes()))
    files = sorted(path for path in runs.rglob("fold-*/*") if path.suffix in manifest.ENDINGS)
    for _ in range(50):
        path = draw.choice(files)
        text = path.read_text()
        place = draw.randrange(len(text))
        other = draw.choice([c for c in "0123456789.-," if c != text[place]])
        path.write_text(text[:place] + other + text[place + 1 :])
        assert len(manifest.compare_with_manifest(tmp_path)) == 1
        path.write_text(text)
    assert manifest.compare_with_manifest(tmp_path) == []


def test_a_digit_changed_in_an_artefact_is_found(runs: Path, tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST).write_text(json.dumps(manifest.artefact_hashes()))
    assert manifest.compare_with_manifest(tmp_path) == []
    path = runs / "quick-phantom" / "fold-3" / "probabilities.csv"
    lines = path.read_text().splitlines()
    digit = lines[1].index("0.") + 4
    other = "1" if lines[1][digit] != "1" else "2"
    lines[1] = lines[1][:digit] + other + lines[1][digit + 1 :]
    path.write_text("\n".join(lines) + "\n")
    found = manifest.compare_with_manifest(tmp_path)
    assert len(found) == 1 and "fold-3/probabilities.csv: is changed" in found[0]
    path.unlink()
    assert "is gone" in manifest.compare_with_manifest(tmp_path)[0]
    with pytest.raises(InputError, match="build the book"):
        manifest.compare_with_manifest(tmp_path / "runs")


def test_every_run_says_how_it_is_repeated() -> None:
    for name, run in all_runs().items():
        values = run_values(run)
        assert f"--run {name} " in again_command(run) or "deepfeatures" in again_command(run)
        command = folds_command(run)
        assert command.startswith("nodulebook ")
        if values["profile"] and "nodulebook folds" in command:  # a run of another seed asks for it
            asked = re.search(r" --seed (\d+)", command)
            own = read_profile(run.folds[min(run.folds)].run["profile_name"]).seed
            assert int(asked[1] if asked else own) == int(values["seed"]), name
        for key in ("folds", "profile", "source", "n", "computed with", "device", "seed",
                    "versions", "training time", "data hash"):  # fmt: skip
            assert str(values[key]).strip(), (name, key)
