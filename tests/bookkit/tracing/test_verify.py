"""`nodulebook verify`: a changed artefact, a changed page and a changed file are found."""

import json
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from bookkit.tracing import manifest, recompute, trace, verify
from bookkit.tracing.recompute import Recomputed
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
tables.numbered(DataFrame({"a": [1, 2], "b": ["0.2*", "z"]}), "Caption, n = 12.", "tab-it")
```

```{code-cell} ipython3
depth = layer.depth
figures.draw(layer)
!touch left-out
```
"""

TABLE = """:::{table} Caption, n = 12.
:name: tab-it

| a | b |
|:---|:---|
| 1 | 0.2* |
| 2 | z |
:::"""


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


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    """The page's notebook, as it was built."""
    notebook = jupytext.reads(PAGE, "md:myst")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def shows(kind: str, text: str, **about: Any) -> nbformat.NotebookNode:
        return nbformat.v4.new_output("display_data", {kind: text}, metadata=about)  # type: ignore[no-untyped-call]

    glued = {"name": "half", "mime_prefix": trace.GLUE_PREFIX}
    cells[0].outputs = [shows(f"{trace.GLUE_PREFIX}text/plain", "'0.5'", scrapbook=glued)]
    cells[1].outputs = [shows("text/plain", "42")]
    cells[2].outputs = [shows("text/markdown", TABLE)]
    cells[3].outputs = [shows("image/png", "")]
    return notebook


def test_outputs_that_follow_from_the_cells(
    again: Recomputed, notebook: nbformat.NotebookNode
) -> None:
    assert verify.compare_outputs(notebook, again) == ([], 3)


@pytest.mark.parametrize(
    ("cell", "was", "becomes"),
    [(0, "0.5", "0.6"), (0, "0.5", "0.51"), (1, "42", "421"), (1, "42", "43"),
     (2, "n = 12", "n = 999"), (2, "0.2*", "0.2"), (2, "| z", "| -z"), (2, "z |", "z | 1 |")],
)  # fmt: skip
def test_a_changed_output_is_found(
    again: Recomputed, notebook: nbformat.NotebookNode, cell: int, was: str, becomes: str
) -> None:
    """Digits, signs, stars, captions and what is added."""
    output = [one for one in notebook.cells if one.cell_type == "code"][cell].outputs[0]
    for kind, text in output.data.items():
        assert was in text
        output.data[kind] = text.replace(was, becomes)
    assert len(verify.compare_outputs(notebook, again)[0]) == 1


def test_an_output_too_many_is_found(again: Recomputed, notebook: nbformat.NotebookNode) -> None:
    cells = [one for one in notebook.cells if one.cell_type == "code"]
    cells[2].outputs.append(cells[1].outputs[0])
    assert len(verify.compare_outputs(notebook, again)[0]) == 1


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
