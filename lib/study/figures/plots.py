"""Figures of the book. Each function returns a closed figure, to be displayed or glued."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nodulebook.patches.cube import WINDOW_HU
from nodulebook.stats.bootstrap import RocBand

Scalar = TypeVar("Scalar", bound=np.generic)

BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind")[:4]
"""Benign is blue, malignant is orange, in every figure; told apart by the colour-blind too."""

RULER = "0.25"
METHODS = (("Paper's network", BLUE), ("Best recipe", ORANGE), ("Ruler", RULER))
"""Beginning of a method's name, and its colour in every figure that compares methods."""

sns.set_theme(context="notebook", style="ticks", palette="colorblind")
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0), **options: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure, closed for the notebook, and its axes (rows, columns); options of `subplots`."""
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )
    plt.close(figure)  # or the notebook shows it a second time
    return figure, axes


def method_colours(names: Iterable[str]) -> list[object]:
    """The colour of each method: that of `METHODS` for the first that a line is of, else another.

    Args:
        names: methods, or texts that begin with them.
    """
    others = cycle(sns.color_palette("colorblind")[2:])
    free = dict(METHODS)
    begins = [next((one for one in free if name.startswith(one)), "") for name in names]
    return [free.pop(one) if one in free else next(others) for one in begins]


def calls_by_size(predictions: pd.DataFrame, threshold: float = 0.5) -> Figure:
    """Diameters of benign (above) and malignant nodules (below), by right and wrong calls.

    Args:
        predictions: columns diameter_mm, label and p_malignant.
        threshold: of p_malignant, from which a nodule is called malignant.
    """
    figure, axes = new_figure(2, 1, (4.8, 4.0))
    called = predictions["p_malignant"] >= threshold
    right = called == (predictions["label"] == 1)
    size_mm = predictions["diameter_mm"]
    bins = np.arange(np.floor(size_mm.min()), size_mm.max() + 1, 1.0)  # none is left out
    for axis, (label, name) in zip(axes[:, 0], enumerate(("benign", "malignant")), strict=True):
        of = predictions["label"] == label
        axis.hist(
            [predictions["diameter_mm"][of & right], predictions["diameter_mm"][of & ~right]],
            bins, stacked=True, color=["0.75", RED], label=["correct call", "wrong call"],
        )  # fmt: skip
        axis.set(ylabel=f"{name} nodules")
    axes[0, 0].sharex(axes[1, 0])
    axes[0, 0].legend(frameon=False, fontsize="small")
    axes[1, 0].set(xlabel="mean diameter of the outlines (mm)")
    return figure


def show_slice(
    axis: Axes,
    image_hu: NDArray[np.number],
    mask: NDArray[np.bool_] | None = None,
    heat: NDArray[np.floating] | None = None,
) -> None:
    """One plane of a patch in the book's window, with contour and map where given.

    Args:
        image_hu: (rows, columns), HU.
        mask: (rows, columns), the readers' consensus; drawn as a contour.
        heat: (rows, columns), 0 to 1; drawn more opaque where it is higher.
    """
    axis.imshow(image_hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="none")
    if heat is not None:
        axis.imshow(
            heat,
            cmap="viridis",
            vmin=0,
            vmax=1,
            alpha=0.55 * np.clip(heat, 0, 1),
            interpolation="bilinear",
        )
    if mask is not None and mask.any():
        axis.contour(mask, levels=[0.5], colors=[ORANGE], linewidths=1.2)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def montage(
    volumes_hu: NDArray[np.number],
    masks: NDArray[np.bool_] | None,
    titles: Sequence[str],
    columns: int = 6,
) -> Figure:
    """The middle axial plane of several patches.

    Args:
        volumes_hu: (n, z, y, x), HU.
        masks: (n, z, y, x), or None.
        titles: n lines over the planes.
    """
    rows = -(-len(volumes_hu) // columns)
    figure, axes = new_figure(rows, columns, (1.1 * columns, 1.4 * rows))
    middle = volumes_hu.shape[1] // 2
    for axis in axes.flat[len(volumes_hu) :]:
        axis.set_visible(False)
    for index, axis in enumerate(axes.flat[: len(volumes_hu)]):
        show_slice(axis, volumes_hu[index, middle], None if masks is None else masks[index, middle])
        axis.set_title(titles[index], fontsize=8)
    return figure


def planes(volume: NDArray[Scalar], index: int | None = None) -> list[NDArray[Scalar]]:
    """The axial, coronal and sagittal planes through one voxel (the middle) of a cube zyx."""
    i = volume.shape[0] // 2 if index is None else index
    return [volume[i], volume[:, i][::-1], volume[:, :, i][::-1]]  # head up


PLANE_NAMES = ("axial", "coronal", "sagittal")


def overlays(
    volumes_hu: NDArray[np.number],
    masks: NDArray[np.bool_],
    maps: NDArray[np.floating],
    titles: Sequence[str],
) -> Figure:
    """Patch, and patch under its map, in three planes: one row per nodule.

    Args:
        volumes_hu: (n, z, y, x), HU.
        masks: (n, z, y, x), the readers' consensus.
        maps: (n, z, y, x), 0 to 1.
        titles: n short texts, at the left of each row.
    """
    figure, axes = new_figure(len(volumes_hu), 6, (6.8, 1.25 * len(volumes_hu)))
    for row, (volume, mask, heat) in enumerate(zip(volumes_hu, masks, maps, strict=True)):
        images = zip(planes(volume), planes(mask), planes(heat), strict=True)
        for column, (image, inside, warm) in enumerate(images):
            show_slice(axes[row, 2 * column], image, inside)
            show_slice(axes[row, 2 * column + 1], image, inside, warm)
            if row == 0:
                axes[0, 2 * column].set_title(PLANE_NAMES[column], fontsize=9)
                axes[0, 2 * column + 1].set_title("Grad-CAM++", fontsize=9)
        axes[row, 0].set_ylabel(titles[row], fontsize=8)
    scale = figure.colorbar(
        plt.cm.ScalarMappable(cmap="viridis"), ax=axes, orientation="horizontal", shrink=0.4,
        aspect=40, label="map, as a share of its maximum",
    )  # fmt: skip
    scale.ax.tick_params(labelsize="small")
    return figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Cross-entropy and accuracy on the training patches, an epoch each.

    Args:
        history: columns epoch, cross_entropy, accuracy, learning_rate.
    """
    figure, axes = new_figure(1, 2, (7.6, 3.0))
    for axis, name, text in (
        (axes[0, 0], "cross_entropy", "cross-entropy (nats)"),
        (axes[0, 1], "accuracy", "accuracy"),
    ):
        axis.plot(history["epoch"], history[name], marker="o", markersize=3, color=BLUE)
        axis.set(xlabel="epoch", ylabel=text)
        for epoch in history["epoch"][history["learning_rate"].diff() < 0]:
            axis.axvline(epoch - 0.5, color="0.6", linestyle=":", linewidth=1)
    return figure


def roc_figure(bands: Mapping[str, tuple[RocBand, str]]) -> Figure:
    """ROC curves with their pointwise bands.

    Args:
        bands: name -> (band, text for the legend).
    """
    figure, axes = new_figure(size=(4.4, 4.0))
    axis = axes[0, 0]
    colours = method_colours(text for _, text in bands.values())
    lines = cycle(("-", "--", "-.", ":"))
    for (band, text), colour, line in zip(bands.values(), colours, lines, strict=False):
        axis.fill_between(band.fpr, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
        axis.plot(band.fpr, band.tpr, color=colour, linestyle=line, label=text)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axis.set(
        xlabel="false-positive rate (1 − specificity)", ylabel="true-positive rate (sensitivity)"
    )
    axis.set_aspect("equal")
    figure.legend(frameon=False, fontsize="small", loc="outside lower center")
    return figure


def calibration_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of malignant nodules against predicted probability, with intervals.

    Args:
        curves: name -> columns p_mean, share, low, high (`statistics.calibration_curve`).
    """
    figure, axes = new_figure(size=(4.4, 4.0))
    axis = axes[0, 0]
    colours = method_colours(curves)
    markers = cycle("osD^vP")
    for (name, curve), colour, marker in zip(curves.items(), colours, markers, strict=False):
        errors = [curve["share"] - curve["low"], curve["high"] - curve["share"]]
        axis.errorbar(
            curve["p_mean"], curve["share"], yerr=errors, color=colour, marker=marker,
            markersize=4, linewidth=1.2, elinewidth=0.8, capsize=2, label=name,
        )  # fmt: skip
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axis.set(
        xlabel="mean probability of a group", ylabel="share of malignant nodules",
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
    )  # fmt: skip
    figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside lower center")
    return figure
