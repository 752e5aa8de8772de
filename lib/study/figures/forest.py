"""Forest plots, dumbbells, and who is on which side of a split."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nodulebook.stats.bootstrap import Interval
from study.figures.plots import BLUE, ORANGE

Row = tuple[str, str, Interval]
"""Name, kind (a colour and a marker each) and interval."""

_MARKERS = "osD^v"


def forest_figure(
    panels: Mapping[str, Sequence[Row]], line: float | None = None, width: float = 7.2
) -> Figure:
    """Estimates with their intervals, one row each, from the top.

    Args:
        panels: axis label -> rows; all panels have the rows of the first, in its order.
        line: a value that is drawn as a vertical line in every panel.
        width: in inches.
    """
    first = next(iter(panels.values()))
    kinds = list(dict.fromkeys(kind for rows in panels.values() for _, kind, _ in rows))
    colours = dict(zip(kinds, sns.color_palette("colorblind"), strict=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, 1.2 + 0.27 * len(first)), layout="constrained",
        squeeze=False, sharey=True,
    )  # fmt: skip
    plt.close(figure)
    for axis, (text, rows) in zip(axes[0], panels.items(), strict=True):
        for place, (_, kind, one) in enumerate(rows):
            axis.plot([one.low, one.high], [place, place], color=colours[kind], linewidth=1.6)
            axis.plot(one.estimate, place, _MARKERS[kinds.index(kind)], color=colours[kind])
        if line is not None:
            axis.axvline(line, color="0.3", linestyle="--", linewidth=1)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set(xlabel=text, ylim=(len(rows) - 0.4, -0.6))
        axis.grid(axis="x", color="0.9")
    axes[0, 0].set_yticks(range(len(first)), [name for name, _, _ in first], fontsize="small")
    if len(kinds) > 1:
        marks = [
            Line2D([], [], color=colours[kind], marker=_MARKERS[number], label=kind)
            for number, kind in enumerate(kinds)
        ]
        figure.legend(handles=marks, frameon=False, fontsize="small", ncols=3,
                      loc="outside upper center")  # fmt: skip
    return figure


def dumbbell_figure(
    rows: Mapping[str, Mapping[str, Interval]], text: str, line: tuple[float, str] | None = None
) -> Figure:
    """Several estimates per row, joined by a grey bar, each with its interval.

    Args:
        rows: name -> series -> interval, from the top.
        text: the axis label.
        line: a value that is drawn as a vertical line, and its name.
    """
    series = list(next(iter(rows.values())))
    figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.36 * len(rows)), layout="constrained")
    plt.close(figure)
    colours = sns.color_palette("colorblind", len(series))
    for place, values in enumerate(rows.values()):
        middle = [one.estimate for one in values.values()]
        axis.plot([min(middle), max(middle)], [place, place], color="0.8", linewidth=5, zorder=1)
        for number, one in enumerate(values.values()):
            y = place + 0.2 * (number - (len(series) - 1) / 2)
            axis.plot([one.low, one.high], [y, y], color=colours[number], linewidth=1.2)
            axis.plot(one.estimate, y, _MARKERS[number], color=colours[number])
    for number, name in enumerate(series):
        axis.plot([], [], _MARKERS[number], color=colours[number], label=name)
    if line is not None:
        axis.axvline(line[0], color="0.3", linestyle="--", linewidth=1, label=line[1])
    axis.set(xlabel=text, ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), list(rows), fontsize="small")
    axis.grid(axis="x", color="0.9")
    figure.legend(frameon=False, fontsize="small", ncols=3, loc="outside upper center")
    return figure


def split_figure(
    splits: Mapping[str, pd.DataFrame], patients: Sequence[str], fold: int = 0
) -> Figure:
    """Which nodules of some patients are trained on and which are tested, under several splits.

    Args:
        splits: title -> columns patient_id, fold; one row per nodule (or copy of one).
        patients: who is drawn, from the top.
        fold: the test fold.
    """
    most = [split["patient_id"].value_counts()[list(patients)].max() for split in splits.values()]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(7.6, 0.9 + 0.24 * len(patients)), layout="constrained",
        width_ratios=[n + 2 for n in most], sharey=True, squeeze=False,
    )  # fmt: skip
    plt.close(figure)
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
    figure.legend(handles=marks, frameon=False, fontsize="small", ncols=2,
                  loc="outside lower center")  # fmt: skip
    return figure
