"""Every figure and table of the paper has its counterpart, and says so."""

import re

import numpy as np
import pandas as pd
import pytest

from bookkit.ledger import counterparts
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.patches import sources
from study.figures import diagrams


def blocks(root):
    """Every figure's directive and every cell of the chapters, with its strings joined."""
    for page in sorted((root / "chapters").glob("*.md")):
        text = page.read_text()
        yield from re.findall(r"^:::\{glue:figure\}.*?^:::$", text, flags=re.M | re.S)
        for cell in re.findall(r"^```\{code-cell\}.*?^```$", text, flags=re.M | re.S):
            for call in cell.split("tables.numbered(")[1:]:
                yield re.sub(r'"\n\s*f?"', "", call)


@pytest.mark.parametrize("original", counterparts.ORIGINALS)
def test_the_caption_of_each_counterpart_names_the_original(original):
    table = counterparts.read_counterparts().set_index("original")
    label = table.loc[original, "labels"].split()[0]
    (block,) = [b for b in blocks(paths.ROOT) if re.search(rf"[ \"]{label}(?![\w-])", b)
                and not re.search(rf"numref.{{2}}{label}", b)]  # fmt: skip
    caption = " ".join(block.split())
    assert "paper's" in caption
    assert re.search(rf"\b{original.split()[1]}(?!\d)", caption)


def test_every_figure_of_the_book_has_an_alternative_text_of_its_own():
    figures = [b for b in blocks(paths.ROOT) if b.startswith(":::")]
    texts = [re.search(r"^:alt: (.{30,})$", b, flags=re.M) for b in figures]
    assert len(figures) >= 16 and all(texts)
    assert len({text[1] for text in texts}) == len(figures)


def test_the_table_links_every_original():
    table = counterparts.counterpart_table(counterparts.read_counterparts())
    assert len(table) == 16
    assert table.loc[6, "our figure or table"] == "{numref}`fig-network`, {numref}`fig-nodules`"
    assert table.loc[12, "chapter"] == "{ref}`data-selection`"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(3), "must have a row for each"),
        (lambda t: t.rename(columns={"missing": "gone"}), "the columns must be"),
        (lambda t: t.replace("fig-roc", "fig-rock"), "Fig. 10: results has no label 'fig-rock'"),
        (lambda t: t.replace("fig-network fig-nodules", "fig-network fig-x"), "no page .*'fig-x'"),
        (lambda t: t.replace("tab-sizes tab-paper-sizes", ""), "line 14: labels is ''"),
    ],
)
def test_a_missing_counterpart_is_named(tmp_path, change, message):
    table = pd.read_csv(paths.DATA / "counterparts.csv", dtype=str, keep_default_na=False)
    change(table).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(InputError, match=message):
        counterparts.read_counterparts(tmp_path / "c.csv")


def test_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        counterparts.read_counterparts(tmp_path / "c.csv")
    with pytest.raises(InputError, match="there is no such file"):
        diagrams.read_references(tmp_path / "r.csv")


def test_the_references_are_the_papers_34_and_four_that_it_does_not_cite():
    references = diagrams.read_references()
    cited = references[references["number"] != ""]
    assert list(cited["number"]) == [f"[{n}]" for n in range(1, 35)]
    assert set(references.loc[references["number"] == "", "place"]) == {"not cited"}
    assert references["year"].between(2010, 2021).all()


def test_an_unknown_place_is_named(tmp_path):
    table = pd.read_csv(paths.DATA / "references.csv", dtype=str, keep_default_na=False)
    table.loc[1, "place"] = "Table 5"
    table.to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(InputError, match="line 3: place is 'Table 5'"):
        diagrams.read_references(tmp_path / "r.csv")


def test_similarity_of_titles():
    titles = pd.Series(["Lung nodules", "NODULES: of the lung", "lung maps", "Wholly other words"])
    similar = diagrams.title_similarity(titles)
    assert np.allclose(np.diag(similar), 1) and np.allclose(similar, similar.T)
    assert similar[0, 1] == pytest.approx(1)  # order, case and small words do not count
    assert 0 < similar[0, 2] < 1
    assert similar[0, 3] == 0


REFERENCES = pd.DataFrame(
    {
        "number": ["[1]", "[2]", ""],
        "author": ["A", "B", "C"],
        "year": [2018, 2018, 2020],
        "title": ["lung nodules", "lung nodules in CT", "other"],
        "place": ["data", "data", "not cited"],
        "passages": ["", "2", ""],
    }
)


def test_the_graph_joins_what_is_alike_and_what_is_retold():
    figure = diagrams.literature_figure(REFERENCES)
    figure.canvas.draw()
    axis = figure.axes[0]
    lines = [t for t in axis.texts if getattr(t, "arrow_patch", None) is not None]
    assert len(lines) == 2  # [1] with [2]; [2] with the paper
    assert {"[1] A", "[2] B", "C", "the paper"} <= {t.get_text() for t in axis.texts}


def test_no_label_of_the_graph_runs_into_another():
    figure = diagrams.literature_figure(diagrams.read_references())
    figure.canvas.draw()
    labels = [t for t in figure.axes[0].texts if t.get_fontsize() == 8]
    boxes = [t.get_window_extent().padded(-1) for t in labels]
    assert len(boxes) == 38
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k]), labels[k].get_text()


def test_the_pipeline_shows_the_counts_it_is_given():
    names = ("scans", "kept", "lesions", "reference", "benign", "malignant")
    figure = diagrams.pipeline_figure({name: f"n{k}" for k, name in enumerate(names)})
    figure.canvas.draw()
    text = " ".join(t.get_text() for axis in figure.axes for t in axis.texts)
    assert all(f"n{k}" in text for k in range(6))


def test_the_explained_network_shows_the_patch_and_its_map():
    image, heat = np.full((8, 8), -500.0), np.eye(8)
    figure = diagrams.explained_network_figure(image, heat, "64 of 2³ voxels")
    figure.canvas.draw()
    (axis,) = figure.axes
    patch, under_map = axis.child_axes
    assert len(patch.images) == 1 and len(under_map.images) == 2
    assert np.array_equal(under_map.images[1].get_array(), heat)
    assert any("64 of 2³ voxels" in t.get_text() for t in axis.texts)


@pytest.mark.parametrize(
    ("built", "with_data", "opened"),
    [
        ((), (), "phantom"),
        (("idc", "lidc_slices"), ("idc", "lidc_slices"), "idc"),
        (("idc", "lidc_slices"), ("lidc_slices",), "lidc_slices"),
        (("luna16",), (), "phantom"),
    ],
)
def test_real_ct_is_shown_where_its_store_and_its_data_are(
    tmp_path, monkeypatch, built, with_data, opened
):
    def open_source(source):
        if source not in (*with_data, "phantom"):
            raise InputError("no data")
        return source

    for source in built:
        (tmp_path / source).mkdir()
        (tmp_path / source / "store.json").write_text("{}")
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path))
    monkeypatch.setattr(sources, "open_source", open_source)
    assert sources.closest_store() == opened
