"""Forest plots and dumbbells: estimates with intervals, one row per comparison."""

from collections.abc import Mapping, Sequence

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nodulebook.stats.bootstrap import Interval
from study.figures.plots import _figure

MARKERS = "osD^vPX"


def forest_figure(
    rows: Sequence[tuple[str, str, Interval]], text: str, zero: float | None = 0.0
) -> Figure:
    """Estimates with intervals, one row each; narrow enough for a telephone.

    Args:
        rows: name, kind (a colour and a marker each) and interval, from the top.
        text: the axis label.
        zero: where a line marks "no difference"; None: no line.
    """
    figure, axes = _figure(size=(5.2, 1.1 + 0.36 * len(rows)))
    axis = axes[0, 0]
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    colours = dict(zip(kinds, sns.color_palette("colorblind", len(kinds)), strict=True))
    for place, (_, kind, one) in enumerate(rows):
        axis.plot([one.low, one.high], [place, place], color=colours[kind], linewidth=2)
        axis.plot(one.estimate, place, MARKERS[kinds.index(kind)], color=colours[kind])
    if zero is not None:
        axis.axvline(zero, color="0.4", linewidth=1, linestyle="--")
    if len(kinds) > 1:
        for kind in kinds:
            axis.plot([], [], MARKERS[kinds.index(kind)], color=colours[kind], label=kind)
        axis.legend(frameon=False, fontsize="small", ncols=2, loc="lower center",
                    bbox_to_anchor=(0.3, 1.0))  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set(xlabel=text, yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", color="0.9")
    return figure


def dumbbell_figure(
    rows: Sequence[tuple[str, float, Mapping[str, float]]],
    ruler: str,
    text: str,
    claim: tuple[float, str],
) -> Figure:
    """A ruler and several networks per row, joined by a line.

    Args:
        rows: name, the ruler's value, and the networks' values by name, from the top.
        ruler: what the ruler is called.
        text: the axis label.
        claim: a value that is drawn as a vertical line, and its name.
    """
    names = list(rows[0][2])
    figure, axes = _figure(size=(5.6, 1.6 + 0.42 * len(rows)))
    axis = axes[0, 0]
    colours = sns.color_palette("colorblind", len(names) + 1)
    for place, (_, value, networks) in enumerate(rows):
        ends = [value, *networks.values()]
        axis.plot([min(ends), max(ends)], [place, place], color="0.75", linewidth=2, zorder=1)
        axis.plot(value, place, "|", color="black", markersize=13, markeredgewidth=2.5)
        for number, name in enumerate(names):
            axis.plot(networks[name], place, MARKERS[number], color=colours[number], markersize=6)
    axis.plot([], [], "|", color="black", markersize=11, markeredgewidth=2.5, label=ruler)
    for number, name in enumerate(names):
        axis.plot([], [], MARKERS[number], color=colours[number], label=name)
    axis.axvline(claim[0], color="0.35", linestyle="--", linewidth=1.2, label=claim[1])
    axis.set(xlabel=text, yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", color="0.9")
    figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside upper center")
    return figure
