"""Label rule and threshold for the reader to move: ROC curves and counts, without a server."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bokeh.document import Document
from bokeh.embed import components
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS
from bokeh.models.widgets import Select, Slider
from bokeh.plotting import figure
from bokeh.resources import Resources
from IPython.display import HTML
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_auc_score

from nodulebook.stats.text import number, percent
from study.report.label_rules import RULES, labelled_by

LINES = (("#0173b2", "solid", "circle"), ("#de8f05", "dashed", "square"),
         ("#404040", "dotted", "triangle"))  # fmt: skip
"""Colour, line and marker of each score; the colour-blind see the difference too. The colours
are those of `study.figures.plots.METHODS`, in its order."""

CUT, CUT_MM, OURS = 0.5, 8.0, "mean"
"""The thresholds and the rule that the page begins with."""

MEASURES = {
    "auc": "AUC", "tp": "malignant, called malignant", "fn": "malignant, called benign",
    "fp": "benign, called malignant", "tn": "benign, called benign", "sensitivity": "sensitivity",
    "specificity": "specificity", "accuracy": "accuracy",
}  # fmt: skip

_whole = "{:,}".format
FORMATS = {"auc": number, "sensitivity": percent, "specificity": percent, "accuracy": percent}

Scores = NDArray[np.float64]


def scored_nodules(
    networks: Mapping[str, Sequence[pd.DataFrame]], nodules: pd.DataFrame
) -> tuple[dict[str, str], dict[str, Scores]]:
    """Every rule's labels and every score, nodule by nodule in the order of `nodules`.

    Args:
        networks: name to the predictions of its seeds, from `label_rules.every_prediction`.
        nodules: data/nodules.csv.

    Returns:
        Each rule's key to a text with "1", "0" or "-" (left out) per nodule; each network's name to
        its probabilities, (seeds, nodules), NaN where there is none; last the ruler's diameters
        in mm, (1, nodules).
    """
    labels = {}
    for rule in RULES:
        known = labelled_by(rule, nodules).set_index("nodule_id")["label"]
        labels[rule.key] = "".join(nodules["nodule_id"].map(known.astype(str)).fillna("-"))
    scores = {
        name: np.stack([
            one.set_index("nodule_id")["p_malignant"].reindex(nodules["nodule_id"]).to_numpy()
            for one in tables
        ])
        for name, tables in networks.items()
    }  # fmt: skip
    return labels, scores | {"ruler": nodules["diameter_mm"].to_numpy()[None]}


def measures(
    labels: str, scores: Mapping[str, Scores], cut: float = CUT, cut_mm: float = CUT_MM
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """What the page shows of a rule: its numbers of nodules, and each score's `MEASURES`.

    Args:
        labels: a rule's, from `scored_nodules`.
        scores: from the same; AUC is the mean over seeds, the rest is of the first seed.
        cut: an output of a network at or above it is called malignant.
        cut_mm: the same for the ruler, mm.
    """
    kept, truth = _kept(labels, scores)
    rows = {}
    for name, seeds in scores.items():
        called = seeds[0, kept] >= (cut_mm if name == "ruler" else cut)
        tn, fp, fn, tp = confusion_matrix(truth, called).ravel().tolist()
        auc = float(np.mean([roc_auc_score(truth, one[kept]) for one in seeds]))
        rows[name] = {
            "auc": auc, "tp": tp, "fn": fn, "fp": fp, "tn": tn, "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp), "accuracy": (tp + tn) / len(truth),
        }  # fmt: skip
    every = len(labels) - labels.count("-")
    return {"all": every, "kept": len(truth), "malignant": int(truth.sum())}, rows


def _kept(labels: str, scores: Mapping[str, Scores]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which nodules have a label and every score, and which of these are malignant."""
    drawn = np.array(list(labels))
    scored = np.all([np.isfinite(one).all(axis=0) for one in scores.values()], axis=0)
    kept = (drawn != "-") & scored
    return kept, drawn[kept] == "1"


def threshold_page(networks: Mapping[str, Sequence[pd.DataFrame]], nodules: pd.DataFrame) -> HTML:
    """Controls, curves and numbers as one piece of HTML that carries its own scripts.

    Args:
        networks: two, as for `scored_nodules`.
    """
    labels, scores = scored_nodules(networks, nodules)
    plot = figure(
        height=360, sizing_mode="stretch_width", toolbar_location=None,
        x_axis_label="1 − specificity", y_axis_label="sensitivity",
    )  # fmt: skip
    plot.line([0, 1], [0, 1], color="#bbbbbb")
    curves = [ColumnDataSource({"x": [], "y": []}) for _ in scores]
    for name, curve, (colour, dash, _) in zip(scores, curves, LINES, strict=True):
        plot.line(source=curve, color=colour, line_dash=dash, line_width=2, legend_label=name)
    colours, _, markers = zip(*LINES, strict=True)
    points = ColumnDataSource({"x": [0] * 3, "y": [0] * 3, "colour": colours, "marker": markers})
    plot.scatter("x", "y", source=points, size=11, color="colour", marker="marker")
    plot.legend.location = "bottom_right"
    choices: list[str | tuple[Any, str]] = [(one.key, one.text) for one in RULES]
    # In the dark theme the words would be as white as their field.
    dark_on_white = ".bk-input { color: #222; background-color: #fff; }"
    rule = Select(
        title="Label rule", value=OURS, options=choices, stylesheets=[dark_on_white]
    )  # fmt: skip
    cut = Slider(title="Networks: malignant from", start=0, end=1, step=0.01, value=CUT)
    millimetres = Slider(
        title="Ruler: malignant from (mm)", start=3, end=30, step=0.5, value=CUT_MM
    )
    script = (Path(__file__).parent / "try_it.js").read_text(encoding="utf-8")
    # Nine digits distinguish all float32 numbers, so no order changes and the page stays light.
    values = [[[float(f"{v:.9g}") if np.isfinite(v) else None for v in one]
               for one in seeds.tolist()] for seeds in scores.values()]  # fmt: skip
    moved = CustomJS(
        args={"rule": rule, "cut": cut, "millimetres": millimetres, "curves": curves,
              "points": points},
        code=f"const labels = {json.dumps(labels)}, scores = {json.dumps(values)};\n{script}",
    )  # fmt: skip
    for widget in (rule, cut, millimetres):
        widget.sizing_mode = "stretch_width"
        widget.js_on_change("value", moved)
    controls, whole = column(rule, cut, millimetres, sizing_mode="stretch_width"), Document()
    whole.add_root(controls)
    whole.add_root(plot)
    whole.js_on_event("document_ready", moved)
    code, (moving, drawn) = components((controls, plot))
    resources = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render_js()
    numbers = _numbers(*measures(labels[OURS], scores))
    return HTML(  # type: ignore[no-untyped-call]
        f'<div class="try-it">{moving}<noscript><p>Controls and curves need JavaScript; the '
        f"numbers are those of our rule.</p></noscript>{drawn}{numbers}{resources}{code}</div>"
    )


def _numbers(n: Mapping[str, int], rows: Mapping[str, Mapping[str, float]]) -> str:
    """The table that the callback fills in again, with the numbers of the page's beginning."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows)
    body = "".join(
        f'<tr><th scope="row">{text}</th>'
        + "".join(f'<td data-{key}="{row}">{FORMATS.get(key, _whole)(one[key])}</td>'
                  for row, one in enumerate(rows.values()))
        + "</tr>"
        for key, text in MEASURES.items()
    )  # fmt: skip
    shown = {key: f'<b data-n="{key}">{value:,}</b>' for key, value in n.items()}
    return (
        f'<div id="try-it-numbers" role="status"><p>{shown["all"]} nodules have a label. '
        f"Both networks predicted {shown['kept']} of them, of which "
        f'{shown["malignant"]} are malignant.</p><table class="table"><thead><tr><td></td>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
