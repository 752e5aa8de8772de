"""Numbers in prose lead to where they come from, and none without a source is built."""

import json
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes
from sphinx.application import Sphinx

from bookkit.tracing import trace
from bookkit.tracing.trace import SOURCE_MIME, parts, source_of
from nodulebook.core.errors import InputError


def test_numbers_are_cut_out_with_their_intervals() -> None:
    text = "the run quick-3 reaches AUC 0.829 (0.794 to 0.861) on 1,009 nodules of LUNA16, −0.02."
    numbers = [part for part, is_number in parts(text) if is_number]
    assert numbers == ["0.829 (0.794 to 0.861)", "1,009", "−0.02"]
    assert "".join(part for part, _ in parts(text)) == text


@pytest.mark.parametrize("text", ["888", "12.5 %", "3"])
def test_a_number_alone_is_a_number(text: str) -> None:
    assert parts(text) == [(text, True)]


@pytest.mark.parametrize("text", ["95 % intervals", "the claimed AUC of 0.9664 lies above"])
def test_a_level_and_the_papers_claim_are_no_results(text: str) -> None:
    assert "".join(part for part, is_number in parts(text) if not is_number) == text


def test_sources_are_named_and_must_exist() -> None:
    where = source_of("data/nodules.csv", by=parts)
    assert where["label"] == "runs-tables"
    assert "data/nodules.csv" in where["title"] and "bookkit.tracing.trace.parts" in where["title"]
    assert source_of("diameter")["label"] == "run-diameter"
    assert source_of(trace.ANNOTATIONS)["label"] == "runs-annotations"
    assert source_of(["diameter"] * 4)["label"] == "runs-list"
    trial = source_of("trials/honest-all")
    assert trial["label"] == "runs-list" and "papermill_runs/trials/honest-all" in trial["title"]
    for wrong in ("data/nowhere.csv", "no-such-run", []):
        with pytest.raises(InputError):
            source_of(wrong)


def _book(folder: Path, glued: dict[str, str], prose: str) -> tuple[str, str]:
    """Build a page that was executed before: its HTML, and Sphinx's warnings."""
    prefix = trace.GLUE_PREFIX
    output = new_output(
        "display_data",
        data={prefix + kind: value for kind, value in glued.items()},
        metadata={"scrapbook": {"name": "key", "mime_prefix": prefix}},
    )
    page = new_notebook(
        cells=[
            new_markdown_cell(f"# Page\n\n{prose}\n\n(run-diameter)=\n## Run\n"),
            new_code_cell("", outputs=[output], metadata={"tags": ["remove-cell"]}),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    source = folder / "source"
    source.mkdir()
    (source / "index.ipynb").write_text(writes(page))
    warnings = (folder / "warnings").open("w+")
    with warnings:
        app = Sphinx(
            source, None, folder / "out", folder / "trees", "html", status=None, warning=warnings,
            confoverrides={
                "extensions": ["myst_nb", "bookkit.sphinx.trace"], "nb_execution_mode": "off",
            },
        )  # fmt: skip
        app.build()
        warnings.seek(0)
        return (folder / "out" / "index.html").read_text(), warnings.read()


def test_a_glued_number_is_a_link_to_its_source(tmp_path: Path) -> None:
    text = "AUC 0.905 (0.881 to 0.924)"
    glued = {"text/plain": repr(text), SOURCE_MIME: source_of("diameter")}
    page, warnings = _book(tmp_path, glued, "It has {glue:text}`key`.")
    found = re.search(
        r'AUC <a class="traced[^"]*" href="([^"]*)" title="([^"]*)">([^<]*)</a>', page
    )
    assert found, page[page.find("It has") :][:400]
    assert found.groups() == (
        "#run-diameter",
        "From papermill_runs/diameter, by a cell of this page",
        "0.905 (0.881 to 0.924)",
    )
    assert "without a source" not in warnings
    manifest = json.loads((tmp_path / "out" / "artefacts.json").read_text())
    assert {"data/nodules.csv", "papermill_runs/diameter/fold-0/run.json"} <= set(manifest)


def test_a_number_that_is_glued_without_a_source_is_a_warning(tmp_path: Path) -> None:
    _, warnings = _book(tmp_path, {"text/plain": "'0.905'"}, "It has {glue:text}`key`.")
    assert "'key' is glued without a source" in warnings
