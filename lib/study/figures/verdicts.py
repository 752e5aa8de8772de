"""How many of the paper's claims have which verdict, as stacked bars."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from study.figures.plots import new_figure

ROOM = 0.05
"""Share of the longest bar that a number needs; narrower parts have none."""


def verdict_figure(counts: pd.DataFrame, shares: bool = False) -> Figure:
    """One stacked bar per row, from the top, with the numbers in its parts.

    Args:
        counts: rows by name, a column per verdict.
        shares: stretch every bar to its row's total, which is added to its name.
    """
    names = [f"{name} ({counts.loc[name].sum()})" if shares else str(name) for name in counts.index]
    widths = counts.div(counts.sum(axis=1), axis=0) if shares else counts
    occurring = [verdict for verdict in counts if counts[verdict].any()]
    legend = 0.23 * -(-len(occurring) // 2)
    figure, axes = new_figure(size=(4.8, 0.95 + legend + 0.32 * len(counts)))
    axis = axes[0, 0]
    left = pd.Series(0.0, counts.index)
    longest = widths.sum(axis=1).max()
    for verdict, colour in zip(counts, sns.color_palette("colorblind", 8), strict=False):
        if verdict not in occurring:
            continue  # it keeps its colour, which is the same in every figure
        axis.barh(names, widths[verdict], 0.8, left, color=colour, label=verdict, edgecolor="w")
        parts = zip(left, widths[verdict], counts[verdict], strict=True)
        for place, (start, width, count) in enumerate(parts):
            if width >= ROOM * longest:
                axis.text(
                    start + width / 2, place, count, fontsize=10.5, ha="center", va="center",
                    color=_readable_on(colour),
                )  # fmt: skip
        left += widths[verdict]
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize="small", length=0)
    axis.set(xlim=(0, longest), xlabel="share of the claims" if shares else "claims")
    if shares:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside lower center")
    return figure


def _readable_on(colour: tuple[float, float, float]) -> str:
    """White or black, whichever has the larger contrast (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "w" if luminance < 0.179 else "k"
