"""The network drawn from its settings: a module, and the stages."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nodulebook.core.settings import NetworkSettings
from study.figures.plots import new_figure


def network_figure(settings: NetworkSettings) -> Figure:
    """One module, and the whole network, as boxes drawn from the settings (paper's Figs 4 to 6)."""
    figure, axes = new_figure(2, 1, size=(7.0, 6.4))
    for axis in (axes[0, 0], axes[1, 0]):
        axis.set_axis_off()
    module, network = axes[0, 0], axes[1, 0]
    module.set(xlim=(0, 116), ylim=(0, 50))
    network.set(xlim=(0, 100), ylim=(0, 46))
    line = 36.0  # height of the main path

    groups = f"\n{settings.groups} groups" if settings.groups > 1 else ""
    convolutions = (
        f"1³ conv.\nC to C / {settings.bottleneck}",
        f"3³ conv.{groups}",
        "1³ conv.\nto C",
    )
    right = 3.0
    for text in convolutions:
        arrow(module, (right, line), (right + 4, line))
        right = box(module, right + 4, line - 6, 14, text, "white", size=8.5)
    if settings.squeeze_excitation:
        steps = ("squeeze:\nmeans z", f"FC, C / {settings.reduction}\nMish", "FC, C\nsigmoid: s")
        module.plot([right + 3, right + 3], [line, 14], color="0.2", lw=1)
        below = right + 3
        for text in steps:
            arrow(module, (below, 14), (below + 2, 14))
            below = box(module, below + 2, 8, 10.6, text, SE_COLOUR)
        arrow(module, (right, line), (below - 8, line))
        arrow(module, (below - 5.3, 20), (below - 5.3, line - 3.5))
        _round(module, below - 5.3, line, "×")
        module.text(below - 8, line + 4.5, "scale", ha="right", fontsize=8)
        right = below - 2.7
    if settings.block == "residual":
        arrow(module, (right, line), (right + 5, line))
        _round(module, right + 7.6, line, "+")
        module.plot([4, 4, right + 7.6], [line, 46, 46], color="0.2", lw=1)
        arrow(module, (right + 7.6, 46), (right + 7.6, line + 3.5))
        module.text(30, 47, "as it came (through a 1³ convolution where C changes)", fontsize=8)
        right += 10.2
    arrow(module, (right, line), (right + 4, line))
    name = {"relu": "ReLU", "mish": "Mish"}[settings.activation]
    module.text(right + 4.5, line, name, va="center", fontsize=8)
    module.text(
        0,
        0,
        f"One module; batch normalisation after each convolution, {name} after the first two.",
        fontsize=9,
    )

    parts: list[tuple[str, object]] = [("patch\n32³", "white")]
    edge = 32 // settings.input_pooling
    parts.append((f"3³ conv.\n{settings.filters[0]} maps", "white"))
    places = ["first_convolution", "stage1", "stage2", "stage3"]
    for stage in range(4):
        if places[stage] in settings.pool_after:
            edge //= 2
            parts.append(("average\npool 2", POOL_COLOUR))
        text = f"{settings.modules[stage]} modules\n{settings.filters[stage]} maps\n{edge}³"
        parts.append((text, SE_COLOUR if settings.squeeze_excitation else "white"))
    parts += [("global\naverage", POOL_COLOUR), ("FC 2\nsoftmax", "white")]
    per_row = (len(parts) + 1) // 2
    width = 100 / per_row - 3
    left, bottom = 1.5, 28.0
    for number, (text, colour) in enumerate(parts):
        if number == per_row:  # down and back to the left, to the second row
            network.plot([left - 3, left - 1.6, left - 1.6, 0.2, 0.2],
                         [bottom + 7, bottom + 7, 24.5, 24.5, 14], color="0.2", lw=1)  # fmt: skip
            left, bottom = 1.5, 7.0
            arrow(network, (0.2, 14), (1.5, 14))
        elif number:
            arrow(network, (left - 3, bottom + 7), (left, bottom + 7))
        left = box(network, left, bottom, width, text, colour, height=14, size=8.5) + 3
    network.text(0, 1, "The network, with the edge of its maps in voxels.", fontsize=9)
    return figure


SE_COLOUR, POOL_COLOUR = "#cfe3f2", "#fbe3c4"


def box(
    axis: Axes,
    left: float,
    bottom: float,
    width: float,
    text: str,
    colour: object,
    height: float = 12,
    size: float = 8,
) -> float:
    """A box with a text; its right edge."""
    axis.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, edgecolor="0.2"))
    axis.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size)
    return left + width


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between two points, in data coordinates."""
    style = {"arrowstyle": "->", "lw": 1, "color": "0.2", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style)


def _round(axis: Axes, x: float, y: float, text: str) -> None:
    axis.text(
        x, y, text, ha="center", va="center", bbox={"boxstyle": "circle", "fc": "w", "ec": "0.2"}
    )
