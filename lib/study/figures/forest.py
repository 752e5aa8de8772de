"""Forest plots, dumbbells, and who is on which side of a split."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nodulebook.stats.bootstrap import Interval
from study.figures.plots import BLUE, ORANGE, RULER, method_colours, new_figure
from study.report.contrasts import HIGHER, LOWER, NO_DIFFERENCE

Row = tuple[str, str, Interval]
"""Name, kind (a colour and a marker each) and interval."""

_MARKERS = "osD^vPX"

VERDICTS = (HIGHER, NO_DIFFERENCE, LOWER)
"""Kinds with the same colour and marker in every figure, whichever of them it shows."""


def forest_figure(
    panels: Mapping[str, Sequence[Row]],
    line: float | None = None,
    width: float | None = None,
    seeds: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Estimates with their intervals, one row each, from the top.

    A single panel is narrow enough for a telephone. Rows have their names above their marks, in
    every panel, since on a telephone one is seen at a time.

    Args:
        panels: axis label -> rows; all panels have the rows of the first, in its order.
        line: a value that is drawn as a vertical line in every panel.
        width: in inches; 4.6 for one panel, else 7.2, if None.
        seeds: row's name -> the estimate of each of its seeds, drawn as small dots in the first
            panel; rows of one seed have none.
    """
    seeds = {name: values for name, values in (seeds or {}).items() if len(values) > 1}
    first = next(iter(panels.values()))
    names = [name for name, _, _ in first]
    single = len(panels) == 1
    kinds = list(dict.fromkeys(kind for rows in panels.values() for _, kind, _ in rows))
    order = list(VERDICTS) if set(kinds) <= set(VERDICTS) else kinds
    styles = dict(
        zip(order, zip(_MARKERS, sns.color_palette("colorblind"), strict=False), strict=False)
    )
    if "ruler" in styles:
        styles["ruler"] = (styles["ruler"][0], RULER)
    # Many rows are set closer, so that the figure fits on a page with its caption.
    row = (0.44 if len(first) < 15 else 0.37 if len(first) <= 20 else 0.26) if single else 0.3
    height = 1.1 + row * len(first)
    width = width or (4.6 if single else 7.2)
    figure, axes = new_figure(1, len(panels), (width, height), sharey=True)
    for axis, (text, rows) in zip(axes[0], panels.items(), strict=True):
        for place, (name, kind, one) in enumerate(rows):
            _mark(axis, place, one, *styles[kind], 1.8)
            if axis is axes[0, 0] and name in seeds:
                values = seeds[name]
                axis.plot(values, [place + 0.2] * len(values), ".", color="0.35", markersize=4)
        if line is not None:
            axis.axvline(line, color="0.3", linestyle="--", linewidth=1, zorder=1)
        axis.xaxis.set_major_locator(MaxNLocator(5 if single else 4))
        axis.set(xlabel=text)
        _name_rows(axis, names)
    marks = [
        Line2D([], [], color=styles[kind][1], marker=styles[kind][0], label=kind)
        for kind in sorted(kinds, key=order.index)
        if len(kinds) > 1 or kind in VERDICTS
    ]
    if seeds:
        dot = Line2D([], [], color="0.35", marker=".", markersize=4, linestyle="", label="one seed")
        marks.append(dot)
    if marks:
        _legend(figure, 2 if single else 3, handles=marks)
    return figure


def dumbbell_figure(
    rows: Mapping[str, Mapping[str, Interval]], text: str, line: tuple[float, str] | None = None
) -> Figure:
    """Several estimates per row, joined by a grey bar, each with its interval.

    Args:
        rows: name -> series -> interval, from the top.
        line: a value that is drawn as a vertical line, and its name.
    """
    series = list(next(iter(rows.values())))
    figure, axes = new_figure(size=(4.6, 1.5 + 0.5 * len(rows)))
    axis = axes[0, 0]
    colours = sns.color_palette("colorblind", len(series))
    for place, values in enumerate(rows.values()):
        middle = [one.estimate for one in values.values()]
        axis.plot([min(middle), max(middle)], [place, place], color="0.8", linewidth=5, zorder=1)
        for number, one in enumerate(values.values()):
            y = place + 0.16 * (number - (len(series) - 1) / 2)
            _mark(axis, y, one, _MARKERS[number], colours[number], 1.2)
    for number, name in enumerate(series):
        axis.plot([], [], _MARKERS[number], color=colours[number], label=name)
    if line is not None:
        axis.axvline(line[0], color="0.3", linestyle="--", linewidth=1, zorder=1, label=line[1])
    axis.set(xlabel=text)
    _name_rows(axis, list(rows), above=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, 2)
    return figure


def split_figure(
    splits: Mapping[str, pd.DataFrame], patients: Sequence[str], fold: int = 0
) -> Figure:
    """Which nodules of some patients are trained on and which are tested, under several splits.

    Args:
        splits: title -> columns patient_id, fold; one row per nodule (or copy of one).
        patients: who is drawn, from the top.
    """
    most = [split["patient_id"].value_counts()[list(patients)].max() for split in splits.values()]
    size, widths = (6.6, 0.9 + 0.24 * len(patients)), [n + 2 for n in most]
    figure, axes = new_figure(1, len(splits), size, width_ratios=widths, sharey=True)
    for axis, (text, split) in zip(axes[0], splits.items(), strict=True):
        for place, patient in enumerate(patients):
            tested = split.loc[split["patient_id"] == patient, "fold"].eq(fold).to_numpy()
            if tested.any() and not tested.all():
                axis.axhspan(place - 0.45, place + 0.45, color="0.88", linewidth=0)
            for x, test in enumerate(sorted(tested)):
                axis.plot(x, place, "D" if test else "o", color=ORANGE if test else BLUE, ms=4)
        axis.set_title(text, fontsize="small")
        axis.set(xticks=[], ylim=(len(patients) - 0.5, -0.5), xlim=(-1, axis.get_xlim()[1] + 0.5))
    axes[0, 0].set_yticks(range(len(patients)), [p.removeprefix("LIDC-IDRI-") for p in patients])
    axes[0, 0].tick_params(labelsize=7)
    axes[0, 0].set_ylabel("patient")
    marks = [
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="trained on"),
        Line2D([], [], color=ORANGE, marker="D", linestyle="", label="tested"),
    ]
    _legend(figure, 2, "lower", handles=marks)
    return figure


def ruler_figure(
    rows: Sequence[tuple[str, float, Mapping[str, float]]],
    ruler: str,
    text: str,
    claim: tuple[float, str],
) -> Figure:
    """A ruler and several networks per row, joined by a line.

    Args:
        rows: name, the ruler's value, and the networks' values by name, from the top.
        claim: a value that is drawn as a vertical line, and its name.
    """
    names = list(dict.fromkeys(name for _, _, networks in rows for name in networks))
    figure, axes = new_figure(size=(4.6, 1.5 + 0.46 * len(rows)))
    axis = axes[0, 0]
    colours = method_colours(names)
    for place, (_, value, networks) in enumerate(rows):
        ends = [value, *networks.values()]
        axis.plot([min(ends), max(ends)], [place, place], color="0.75", linewidth=2, zorder=1)
        axis.plot(value, place, "|", color="black", markersize=13, markeredgewidth=2.5)
        for number, name in enumerate(names):
            if name in networks:
                axis.plot(
                    networks[name], place, _MARKERS[number], color=colours[number], markersize=6
                )
    axis.plot([], [], "|", color="black", markersize=11, markeredgewidth=2.5, label=ruler)
    for number, name in enumerate(names):
        axis.plot([], [], _MARKERS[number], color=colours[number], label=name)
    axis.axvline(claim[0], color="0.35", linestyle="--", linewidth=1.2, zorder=1, label=claim[1])
    axis.set(xlabel=text)
    _name_rows(axis, [name for name, _, _ in rows])
    _legend(figure, 2)
    return figure


def _mark(
    axis: Axes, place: float, one: Interval, marker: str, colour: object, width: float
) -> None:
    """An interval as a line, its estimate as a marker."""
    axis.plot([one.low, one.high], [place, place], color=colour, linewidth=width)
    axis.plot(one.estimate, place, marker, color=colour)


def _legend(figure: Figure, columns: int, side: str = "upper", **given: Any) -> None:
    place: Any = f"outside {side} center"
    figure.legend(frameon=False, fontsize="small", ncols=columns, loc=place, **given)


def _name_rows(axis: Axes, names: Sequence[str], above: float = 0.16) -> None:
    """Each row's name above its marks, so that a narrow figure keeps its full width for them."""
    size = 9.5 if max(map(len, names)) <= 56 else 8.8  # or a long name sticks out
    for place, name in enumerate(names):
        where = axis.get_yaxis_transform()
        axis.text(
            0.01, place - above, name, transform=where, fontsize=size, va="bottom",
            zorder=1.2, bbox={"fc": "w", "ec": "none", "pad": 0.6},  # over lines, under marks
        )  # fmt: skip
    axis.set(yticks=[], ylim=(len(names) - 0.45, -0.59 - above), axisbelow=True)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="0.9")
