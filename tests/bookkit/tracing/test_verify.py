"""`nodulebook verify`: a changed artefact, a changed page and a changed file are found."""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from bookkit.tracing import manifest, recompute, verify
from bookkit.tracing.recompute import Output, Recomputed
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from study.report.provenance import again_command, all_runs, folds_command, run_values

PAGE = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
# Page

```{code-cell} ipython3
:tags: [remove-cell]
import keras
from pandas import DataFrame
from study.figures import plots as figures
from bookkit.tracing import tables
from bookkit.tracing.trace import glue_texts
glue_texts({"half": f"{1 / 2}"}, "data/nodules.csv")
```

A half is {glue:text}`half`.

```{code-cell} ipython3
layer = keras.layers.Dense(3)
2 * 21
```

```{code-cell} ipython3
:tags: [hide-input]
tables.numbered(DataFrame({"a": [1, 2], "b": ["x {cite:p}`y`", "z"]}), "Caption.", "tab-it")
```

```{code-cell} ipython3
depth = layer.depth
figures.draw(layer)
!touch left-out
```
"""

BUILT = """<article><p>A half is <span class="pasted-text"><a class="traced">0.5</a></span>.</p>
<div class="cell"><div class="cell_output"><pre>42</pre></div></div>
<div class="cell"><div class="cell_output"><table id="tab-it"><tr><th>a</th><th>b</th></tr>
<tr><td>1</td><td>x (Y, 2020)</td></tr><tr><td>2</td><td>z</td></tr></table></div></div>
<div class="cell"></div></article>"""


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Recomputed:
    """The page's cells, executed as `verify` does: in a process of its own."""
    page = tmp_path_factory.mktemp("page") / "page.md"
    page.write_text(PAGE)
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=recompute.forbid_heavy
    ) as pool:
        return pool.submit(recompute.recompute, page).result()


def test_cells_are_computed_again_without_what_is_heavy(again: Recomputed) -> None:
    assert again.glued == {"half": "0.5"}
    assert [(o.cell, o.kind, o.text) for o in again.outputs[:1]] == [(1, "text/plain", "42")]
    assert again.outputs[1].kind == "text/markdown" and len(again.outputs) == 2
    # import keras and plots, the layer, what builds on it or draws, and the command
    assert (again.left_out, again.partly) == (6, {0, 1, 3})


def compare(again: Recomputed, folder: Path, built: str) -> list[str]:
    (folder / "page.html").write_text(built)
    findings, compared = verify.compare_page(folder / "page.html", PAGE, again)
    assert compared == 3
    return findings


def test_a_page_that_follows_from_its_cells(again: Recomputed, tmp_path: Path) -> None:
    assert compare(again, tmp_path, BUILT) == []


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        (">0.5<", ">0.6<", "half: shows '0.6', but the files give '0.5'"),
        (">42<", ">43<", "cell 2: does not show '42'"),
        ("<td>2<", "<td>3<", "tab-it: row 2 shows '3', but the files give '2'"),
        ("<td>x (", "<td>w (", "tab-it: row 1 shows 'w(Y,2020)'"),
        ("<tr><td>2</td><td>z</td></tr>", "", "tab-it: has 1 rows, but the files give 2"),
    ],
)
def test_a_digit_changed_in_the_page_is_found(
    again: Recomputed, tmp_path: Path, was: str, becomes: str, said: str
) -> None:
    assert was in BUILT
    findings = compare(again, tmp_path, BUILT.replace(was, becomes))
    assert len(findings) == 1 and said in findings[0]


def test_a_page_built_from_another_text_is_found(again: Recomputed, tmp_path: Path) -> None:
    for built in (BUILT.replace('<div class="cell"></div>', ""), BUILT.replace("pasted-text", "")):
        with pytest.raises(InputError, match="build it again"):
            compare(again, tmp_path, built)
    with pytest.raises(InputError, match="is not there"):
        verify.compare_page(tmp_path / "none.html", PAGE, again)


def test_the_ledger_as_html_is_compared_by_its_text() -> None:
    output = Output(0, "text/html", "<p>one <b>1,230</b></p>")
    page = verify.BeautifulSoup('<div class="cell_output"><p>one 1,230</p></div>', "html.parser")
    assert verify._compare_output(page, output) == ([], 1)
    other = verify.BeautifulSoup('<div class="cell_output"><p>one 1,231</p></div>', "html.parser")
    assert verify._compare_output(other, output)[0]


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
    assert len(found) == 1 and "fold-3/probabilities.csv: is another file" in found[0]
    path.unlink()
    assert "it is gone" in manifest.compare_with_manifest(tmp_path)[0]
    with pytest.raises(InputError, match="build the book"):
        manifest.compare_with_manifest(tmp_path / "runs")


def test_every_run_says_how_it_is_repeated() -> None:
    for name, run in all_runs().items():
        values = run_values(run)
        assert f"--run {name} " in again_command(run) or "deepfeatures" in again_command(run)
        assert folds_command(run).startswith("nodulebook ")
        for key in ("folds", "profile", "source", "n", "backend", "device", "seed", "versions",
                    "training time", "data hash"):  # fmt: skip
            assert str(values[key]).strip(), (name, key)
