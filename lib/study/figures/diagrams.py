"""Drawings of the book: counterparts of the paper's Figs 2, 3 and 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from nodulebook.core import paths
from nodulebook.core.files import read_csv, refuse_rows
from study.figures.network import POOL_COLOUR, SE_COLOUR, arrow, box
from study.figures.plots import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    new_figure,
    show_slice,
)

PLACES = ("data", "introduction", "related work", "Table 3", "Table 4", "not cited")
"""Where the paper cites a work: the rows of the literature graph, from the top."""

LONG_NAME = 13
"""Letters of a work's label that have room in a column of the graph."""

JOINED = 0.2
"""The `title_similarity` from which the graph joins two works."""


def read_references(path: Path | None = None) -> pd.DataFrame:
    """The paper's 34 references, and four works that it uses and does not cite.

    Args:
        path: `data/references.csv` where None.

    Returns:
        Columns number (as "[17]"; empty where it is not cited), author, year (int), title, place
        (one of `PLACES`) and passages (the paper's sections that match the work, ";" between).

    Raises:
        InputError: the file is not there, or a row has an unknown place.
    """
    path = path or paths.DATA / "references.csv"
    table = read_csv(path, {"author": "str", "year": "int", "title": "str", "place": "str"})
    due = f"but must be one of {', '.join(PLACES)}"
    refuse_rows(path, table, "place", ~table["place"].isin(PLACES), due)
    return table


def title_similarity(titles: pd.Series) -> NDArray[np.float64]:
    """How much two titles have in common: cosine of their words, weighted by rarity (tf-idf).

    Returns:
        (n, n), 0 (no word in common) to 1 (the same words).
    """
    weights = TfidfVectorizer(stop_words="english", token_pattern=r"[a-z0-9]{2,}").fit_transform(
        titles
    )
    return np.asarray((weights @ weights.T).todense(), dtype=np.float64)


def literature_figure(references: pd.DataFrame) -> Figure:
    """The works that the paper cites, by year and place, joined where their titles are alike."""
    figure, axes = new_figure(size=(8.0, 7.6))
    axis = axes[0, 0]
    places = _graph_places(references)
    similar = title_similarity(references["title"])
    np.fill_diagonal(similar, 0)
    for i, j in np.argwhere(np.triu(similar) >= JOINED):
        _curve(axis, places[i].tolist(), places[j].tolist(), "0.72", 4 * similar[i, j])
    paper = (max(x for x, _ in places) + 1.0, -9.0)
    retold = references["passages"] != ""
    for place in places[retold.to_numpy()].tolist():
        _curve(axis, place, paper, ORANGE, 2.2)
    degree = (similar >= JOINED).sum(axis=1)
    kinds = {
        "passages match it": (ORANGE, "s"),
        "used, not cited": (RED, "D"),
        "cited": (BLUE, "o"),
    }
    drawn = dict.fromkeys(kinds, 0)
    taken = {tuple(place) for place in places.tolist()}
    for (x, y), n, told, row in zip(places, degree, retold, references.itertuples(), strict=True):
        kind = "passages match it" if told else "cited" if row.number else "used, not cited"
        drawn[kind] += 1
        colour, marker = kinds[kind]
        axis.scatter(x, y, s=20 + 12 * n, c=[colour], marker=marker, edgecolor="w", zorder=3)
        text = f"{row.number} {row.author}".strip()
        # A long name is to the left of its dot where it would run into the next year's.
        side = -1 if len(text) > LONG_NAME and (x + 1, y) in taken else 1
        axis.text(
            x + 0.1 * side, y + 0.1, text, fontsize=8, ha="left" if side > 0 else "right",
            va="bottom", zorder=4, bbox={"fc": "w", "ec": "none", "alpha": 0.7, "pad": 0.4},
        )  # fmt: skip
    axis.scatter(*paper, s=320, color=GREEN, marker="*", zorder=3)
    axis.text(paper[0], paper[1] + 0.8, "the paper", fontsize=9, ha="center")
    for text, (colour, marker) in kinds.items():
        axis.scatter([], [], c=[colour], marker=marker, label=f"{text} ({drawn[text]})")
    axis.legend(loc="lower right", fontsize=8.5, frameon=False)
    _graph_frame(axis, references, places)
    return figure


def _graph_places(references: pd.DataFrame) -> NDArray[np.float64]:
    """x: the year's column; y: the place's rows from the top down, works of one year beneath."""
    below = references.groupby(["place", "year"]).cumcount()
    heights = below.groupby(references["place"]).max().reindex(PLACES, fill_value=-1) + 1.7
    top = heights.cumsum().shift(fill_value=0.0)
    column = references["year"].rank(method="dense") - 1
    return np.column_stack([column, -references["place"].map(top) - below])


def _graph_frame(axis: Axes, references: pd.DataFrame, places: NDArray[np.float64]) -> None:
    years = sorted(references["year"].unique())
    edges = []
    for place in PLACES:
        y = places[(references["place"] == place).to_numpy(), 1]
        if len(y):
            edges.append(y.min() - 0.6)
            text = place.replace("Table", "paper's\nTable")
            axis.text(-0.75, y.max(), text, fontsize=8.5, weight="bold", va="center", ha="right")
    for edge in edges[:-1]:
        axis.axhline(edge, color="0.85", linewidth=0.8)
    axis.set(
        xlim=(-0.6, len(years) + 0.6),
        ylim=(edges[-1] - 0.4, 1.0),
        xticks=range(len(years)),
        xticklabels=years,
        yticks=[],
    )
    axis.xaxis.tick_top()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _curve(
    axis: Axes,
    start: Sequence[float],
    end: Sequence[float],
    colour: object,
    width: float,
) -> None:
    style = {
        "arrowstyle": "-", "connectionstyle": "arc3,rad=0.18", "color": colour, "lw": width,
        "shrinkA": 0, "shrinkB": 0,
    }  # fmt: skip
    axis.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops=style, zorder=1)


def pipeline_figure(counts: Mapping[str, str]) -> Figure:
    """The way from scans to maps, in the paper's three stages.

    Args:
        counts: the numbers, as text: scans, kept, lesions, reference, benign, malignant.
    """
    figure, axes = new_figure(3, 1, size=(7.0, 5.0))
    stages: list[tuple[str, list[tuple[str, object]]]] = [
        (
            "1  Data",
            [
                (f"LIDC-IDRI\n{counts['scans']} scans", "white"),
                (f"LUNA16\n{counts['kept']} scans", "white"),
                (f"readers' marks,\njoined:\n{counts['lesions']} lesions", "white"),
                (f"3 readers or more:\n{counts['reference']} nodules", "white"),
                (f"mean rating not 3:\n{counts['benign']} benign\n{counts['malignant']} malignant",
                 POOL_COLOUR),
            ],
        ),
        (
            "2  Extraction and classification",
            [
                ("cube of 32 mm\naround the nodule,\n1 mm voxels", "white"),
                ("−1200 to 600 HU,\nscaled 0 to 1", "white"),
                ("ten folds\nby patient", "white"),
                ("network of\nsqueeze-and-\nexcitation modules", SE_COLOUR),
                ("probability of\nmalignant", POOL_COLOUR),
            ],
        ),
        (
            "3  Explanation, after training",
            [
                ("the trained network,\na test nodule", "white"),
                ("gradients at the\nlast feature maps", "white"),
                ("Grad-CAM++ map", SE_COLOUR),
                ("measured against\nthe readers' outlines", POOL_COLOUR),
            ],
        ),
    ]  # fmt: skip
    for axis, (title, boxes) in zip(axes[:, 0], stages, strict=True):
        axis.set_axis_off()
        axis.set(xlim=(0, 100), ylim=(0, 20))
        axis.text(0, 18, title, fontsize=9.5, weight="bold", va="center")
        left = 0.5
        for number, (text, colour) in enumerate(boxes):
            if number:
                arrow(axis, (left - 3, 8), (left, 8))
            left = box(axis, left, 1, 17, text, colour, height=14, size=7.6) + 3
    return figure


def explained_network_figure(
    image_hu: NDArray[np.number], heat: NDArray[np.floating], maps: str
) -> Figure:
    """The network with the way of Grad-CAM++ beneath it, from a patch to its map.

    Args:
        image_hu: (rows, columns), HU: the middle plane of a patch.
        heat: (rows, columns), 0 to 1: the map's plane.
        maps: what the last feature maps are, as "64 maps of 2³ voxels".
    """
    figure, axes = new_figure(size=(7.8, 4.0))
    axis = axes[0, 0]
    axis.set(xlim=(0, 106), ylim=(0, 48))
    axis.set_axis_off()
    top, low = 27.5, 2.5
    for bottom, title, layer in ((top, "patch", None), (low, "map", heat)):
        inset = axis.inset_axes((0.0, bottom / 48, 0.15, 15 / 48))
        show_slice(inset, image_hu, heat=layer)
        axis.text(8, bottom + 16.5, title, ha="center", fontsize=10)
    forward = (
        ("first\nconvolution,\npooling", "white"),
        ("four stages of\nSE modules,\nwith pooling", SE_COLOUR),
        ("last feature\nmaps $A_k$:\n" + fill(maps, 16), "white"),
        ("global\naverage, FC 2:\nscores $S_c$", POOL_COLOUR),
        ("softmax:\nprobability", "white"),
    )
    left, edges = 19.0, []
    for text, colour in forward:
        arrow(axis, (left - 2, top + 8), (left, top + 8))
        edges.append(left)
        left = box(axis, left, top, 15.4, text, colour, height=16, size=9.6) + 2
    backward = (
        ("gradients of\n$S_c$ by every\n$A_k(i,j,l)$", "white"),
        ("weights $w_k$\nwith $\\alpha_k$\n(Grad-CAM++)", SE_COLOUR),
        ("ReLU of\n$\\sum_k w_k A_k$", "white"),
        ("to 32³,\nlinear", "white"),
    )
    arrow(axis, (edges[3] + 7.7, top), (edges[3] + 7.7, low + 16))
    for (text, colour), left in zip(backward, edges[3::-1], strict=True):
        box(axis, left, low, 15.4, text, colour, height=16, size=9.6)
        arrow(axis, (left, low + 8), (left - 2, low + 8))
    # The maps themselves are summed, with the weights.
    arrow(axis, (edges[2] + 4, top), (edges[1] + 12, low + 16))
    axis.text(19, 45.6, "forward: the prediction", fontsize=10.5, weight="bold")
    axis.text(19, 21, "backward: Grad-CAM++", fontsize=10.5, weight="bold")
    return figure
