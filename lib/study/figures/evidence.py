"""Forest plots and dumbbells: estimates with intervals, one row per comparison."""

from collections.abc import Mapping, Sequence

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nodulebook.stats.bootstrap import Interval
from study.figures.plots import new_figure

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
    figure, axes = new_figure(size=(4.6, 1.1 + 0.44 * len(rows)))
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
        figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside upper center")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set(xlabel=text)
    _name_rows(axis, [name for name, _, _ in rows])
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
    names = list(dict.fromkeys(name for _, _, networks in rows for name in networks))
    figure, axes = new_figure(size=(4.6, 1.5 + 0.46 * len(rows)))
    axis = axes[0, 0]
    colours = sns.color_palette("colorblind", len(names) + 1)
    for place, (_, value, networks) in enumerate(rows):
        ends = [value, *networks.values()]
        axis.plot([min(ends), max(ends)], [place, place], color="0.75", linewidth=2, zorder=1)
        axis.plot(value, place, "|", color="black", markersize=13, markeredgewidth=2.5)
        for number, name in enumerate(names):
            if name in networks:
                axis.plot(
                    networks[name], place, MARKERS[number], color=colours[number], markersize=6
                )
    axis.plot([], [], "|", color="black", markersize=11, markeredgewidth=2.5, label=ruler)
    for number, name in enumerate(names):
        axis.plot([], [], MARKERS[number], color=colours[number], label=name)
    axis.axvline(claim[0], color="0.35", linestyle="--", linewidth=1.2, label=claim[1])
    axis.set(xlabel=text)
    _name_rows(axis, [name for name, _, _ in rows])
    figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside upper center")
    return figure


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Each row's name above its marks, so that a narrow figure keeps its full width for them."""
    for place, name in enumerate(names):
        where = axis.get_yaxis_transform()
        axis.text(0.01, place - 0.16, name, transform=where, fontsize=8.5, va="bottom")
    axis.set(yticks=[], ylim=(len(names) - 0.6, -0.75))
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="0.9")
