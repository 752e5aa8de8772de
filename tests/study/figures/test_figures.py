"""Figures: what is drawn is the data, and no figure is left open."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from nodulebook.core.settings import NetworkSettings
from nodulebook.stats.bootstrap import Interval, RocBand
from study.figures import forest, network, verdicts
from study.figures import plots as figures
from study.figures.try_it import LINES

N = 3
RANDOM = np.random.default_rng(0)
VOLUMES = RANDOM.integers(-1000, 500, (N, 8, 8, 8)).astype(np.int16)
MASKS = np.zeros((N, 8, 8, 8), dtype=bool)
MASKS[:, 3:6, 3:6, 3:6] = True
MAPS = RANDOM.random((N, 8, 8, 8))
TITLES = ["one", "two", "three"]
LABELLED = pd.DataFrame({"diameter_mm": [3.5, 8.0, 8.2, 21.0], "label": [0, 0, 1, 1]})
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3, 4, 5],
        "cross_entropy": [0.7, 0.6, 0.5, 0.4, 0.3],
        "accuracy": [0.5, 0.6, 0.7, 0.8, 0.9],
        "learning_rate": [0.1, 0.1, 0.01, 0.01, 0.001],
    }
)
GRID = np.linspace(0, 1, 5)
BAND = RocBand(GRID, GRID**0.5, GRID, np.ones(5), 10)
CURVE = pd.DataFrame(
    {"p_mean": [0.1, 0.8], "share": [0.2, 0.7], "low": [0.1, 0.4], "high": [0.4, 0.9]}
)
NETWORK = NetworkSettings(
    filters=[4, 8, 12, 16], modules=[3, 1, 6, 2], pool_after=["stage1", "stage3"], groups=1
)

DRAWN = {
    "calls_by_size": (lambda: figures.calls_by_size(LABELLED.assign(p_malignant=0.6)), 2),
    "montage": (lambda: figures.montage(VOLUMES, MASKS, TITLES, columns=2), 4),
    "overlays": (lambda: figures.overlays(VOLUMES, MASKS, MAPS, TITLES), 19),
    "history_figure": (lambda: figures.history_figure(HISTORY), 2),
    "roc_figure": (lambda: figures.roc_figure({"a": (BAND, "run a"), "b": (BAND, "run b")}), 1),
    "calibration_figure": (lambda: figures.calibration_figure({"a": CURVE, "b": CURVE}), 1),
    "network_figure": (lambda: network.network_figure(NETWORK), 2),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figure_has_its_axes_and_is_closed(name):
    draw, n_axes = DRAWN[name]
    before = plt.get_fignums()
    figure = draw()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == n_axes
    assert plt.get_fignums() == before
    figure.canvas.draw()  # a broken artist fails only here


def test_every_figure_is_tested():
    made = {
        name
        for name, thing in (vars(figures) | vars(network)).items()
        if callable(thing) and getattr(thing, "__annotations__", {}).get("return") is Figure
    }
    assert made == set(DRAWN)


def test_planes_of_a_marker():
    cube = np.arange(5**3).reshape(5, 5, 5)
    axial, coronal, sagittal = figures.planes(cube, 2)
    assert np.array_equal(axial, cube[2])
    marked = np.zeros((5, 5, 5))
    marked[4, 2, 1] = 1  # near the head, in the middle row, left of the middle column
    axial, coronal, sagittal = figures.planes(marked)
    assert axial.sum() == 0
    assert np.argwhere(coronal).tolist() == [[0, 1]]  # top row, second column
    assert sagittal.sum() == 0
    marked = np.zeros((5, 5, 5))
    marked[0, 3, 2] = 1  # near the feet, behind the middle
    _, coronal, sagittal = figures.planes(marked)
    assert coronal.sum() == 0
    assert np.argwhere(sagittal).tolist() == [[4, 3]]  # bottom row, fourth column


def test_planes_of_a_patch_go_through_its_middle():
    cube = np.zeros((32, 32, 32))
    cube[16, 16, 16] = 1
    assert [float(plane.sum()) for plane in figures.planes(cube)] == [1, 1, 1]


def test_montage_shows_the_middle_planes_in_the_window():
    figure = figures.montage(VOLUMES, None, TITLES, columns=2)
    for axis, volume, title in zip(figure.axes, VOLUMES, TITLES, strict=False):
        (image,) = axis.images
        assert np.array_equal(image.get_array(), volume[4])
        assert image.get_clim() == (-1200, 600)
        assert axis.get_title() == title
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]


def test_overlay_has_the_map_over_every_second_image_only():
    figure = figures.overlays(VOLUMES, MASKS, MAPS, TITLES)
    assert [len(axis.images) for axis in figure.axes[:18]] == [1, 2] * 9
    assert np.array_equal(figure.axes[1].images[1].get_array(), MAPS[0, 4])
    assert figure.axes[1].images[1].get_clim() == (0, 1)
    assert [figure.axes[6 * row].get_ylabel() for row in range(3)] == TITLES


def test_empty_mask_is_no_error():
    figures.montage(VOLUMES, np.zeros_like(MASKS), TITLES)


def test_history_marks_the_falls_of_the_learning_rate():
    figure = figures.history_figure(HISTORY)
    for axis, name in zip(figure.axes, ("cross_entropy", "accuracy"), strict=True):
        curve, *lines = axis.lines
        assert curve.get_ydata().tolist() == HISTORY[name].tolist()
        # from epoch 3 and 5 on; a line stands between two epochs
        assert [line.get_xdata()[0] for line in lines] == [2.5, 4.5]
    steady = figures.history_figure(HISTORY.assign(learning_rate=0.1))
    assert [len(axis.lines) for axis in steady.axes] == [1, 1]


def test_roc_figure_has_a_curve_and_a_text_a_run():
    figure = figures.roc_figure({"a": (BAND, "run a"), "b": (BAND, "run b")})
    axis = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["run a", "run b"]
    assert axis.lines[0].get_ydata().tolist() == BAND.tpr.tolist()
    assert axis.lines[0].get_linestyle() != axis.lines[1].get_linestyle()
    assert len(axis.collections) == 2


def _texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_drawn_network_is_that_of_the_settings():
    texts = _texts(network.network_figure(NETWORK))
    stages = [text.split("\n") for text in texts if "modules" in text]
    assert stages == [
        ["3 modules", "4 maps", "32³"],
        ["1 modules", "8 maps", "16³"],
        ["6 modules", "12 maps", "16³"],
        ["2 modules", "16 maps", "8³"],
    ]
    assert texts.count("average\npool 2") == 2 and "+" in texts and "×" in texts
    plain = NETWORK.model_copy(
        update={"block": "plain", "squeeze_excitation": False, "activation": "mish", "groups": 2}
    )
    texts = _texts(network.network_figure(plain))
    assert "+" not in texts and "×" not in texts and "Mish" in texts
    assert any("2 groups" in text for text in texts)


def test_calibration_shows_shares_with_their_limits():
    (axis,) = figures.calibration_figure({"a": CURVE}).axes
    line = axis.lines[0]
    assert np.allclose(np.transpose(line.get_data()), CURVE[["p_mean", "share"]])
    (bars,) = axis.containers
    segments = bars.lines[2][0].get_segments()
    assert np.allclose([segment[:, 1] for segment in segments], CURVE[["low", "high"]])


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_the_same_file_in_every_build(name: str, tmp_path: Path) -> None:
    def file(number: int) -> bytes:
        path = tmp_path / f"{number}.svg"
        DRAWN[name][0]().savefig(path)
        return path.read_bytes()

    assert file(1) == file(2)


def test_seeds_are_dots_only_in_rows_that_have_several():
    rows = {"AUC": [("a", "", Interval(0.8, 0.7, 0.9, 0)), ("b", "", Interval(0.7, 0.6, 0.8, 0))]}
    figure = forest.forest_figure(rows, seeds={"a": [0.78, 0.82, 0.8], "b": [0.7]})
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in dots] == [[0.78, 0.82, 0.8]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one seed"]


def test_a_verdict_has_one_colour_and_marker_whichever_others_are_shown():
    one = Interval(0.1, 0.0, 0.2, 0)

    def marks(*verdicts):
        rows = {"AUC": [(str(k), verdict, one) for k, verdict in enumerate(verdicts)]}
        figure = forest.forest_figure(rows)
        drawn = {line.get_label(): (line.get_color(), line.get_marker())
                 for line in figure.legends[0].legend_handles}  # fmt: skip
        dots = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
        assert [(dot.get_color(), dot.get_marker()) for dot in dots] == [drawn[v] for v in verdicts]
        return drawn

    every = marks("lower", "higher", "no difference shown")
    assert len(set(every.values())) == 3
    for some in (["lower"], ["no difference shown"], ["no difference shown", "lower"]):
        assert marks(*some) == {verdict: every[verdict] for verdict in some}


def test_wrong_calls_are_drawn_on_top_of_right_ones():
    sizes = [2.5, 8.0, 8.2, 21.0]
    given = LABELLED.assign(diameter_mm=sizes, p_malignant=[0.1, 0.9, 0.5, 0.2])
    figure = figures.calls_by_size(given)
    heights = [
        [sum(bar.get_height() for bar in bars) for bars in axis.containers] for axis in figure.axes
    ]
    assert heights == [[1, 1], [1, 1]]  # benign: 2.5 right, 8.0 wrong; malignant: 8.2, 21.0


def test_a_bar_of_verdicts_has_its_numbers_where_they_fit():
    counts = pd.DataFrame({"kept": [96, 1], "lost": [4, 1]}, index=["long", "short"])
    figure = verdicts.verdict_figure(counts, shares=True)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["96", "1", "1"]  # 4 % has no room
    assert [label.get_text() for label in axis.get_yticklabels()] == ["long (100)", "short (2)"]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.96, 0.5, 0.04, 0.5])


def test_verdicts_that_do_not_occur_are_not_in_the_legend_and_keep_their_colours():
    counts = pd.DataFrame({"kept": [0], "lost": [4], "borrowed": [0], "open": [2]}, index=["all"])
    figure = verdicts.verdict_figure(counts)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lost", "open"]
    every = verdicts.verdict_figure(counts + 1)
    colours = [bars[0].get_facecolor() for bars in every.axes[0].containers]
    assert [bars[0].get_facecolor() for bars in figure.axes[0].containers] == colours[1::2]
    # White on the dark blue, black on the other colours.
    assert [text.get_color() for text in every.axes[0].texts] == ["w", "k", "k", "k"]


def test_every_panel_of_a_forest_has_the_names_of_its_rows_and_room_below_the_last():
    rows = [(name, "", Interval(0.8, 0.7, 0.9, 0)) for name in ("one", "two")]
    figure = forest.forest_figure({"AUC": rows, "accuracy": rows})
    for axis in figure.axes:
        assert [text.get_text() for text in axis.texts] == ["one", "two"]
        assert axis.get_ylim()[0] > 1.5
    many = [(str(k), "", rows[0][2]) for k in range(30)]
    assert forest.forest_figure({"AUC": many}).get_figheight() < 10  # with its caption on a page


def test_a_method_has_one_colour_in_every_figure():
    names = ("Ruler (diameter)", "Best recipe, random shifts", "Other", "Paper's network")
    ruler, best, other, paper = figures.method_colours(names)
    assert [paper, best, ruler] == [colour for _, colour in figures.METHODS]
    assert len({str(one) for one in (ruler, best, other, paper)}) == 4
    assert [to_hex(colour) for colour, *_ in LINES] == [to_hex(one) for _, one in figures.METHODS]
    twice = figures.method_colours(["Paper's network", "Paper's network, narrow"])
    assert twice[0] != twice[1]
    rows = {"AUC": [(kind, kind, Interval(0.8, 0.7, 0.9, 0)) for kind in ("network", "ruler")]}
    marks = forest.forest_figure(rows).legends[0].legend_handles
    assert [mark.get_color() for mark in marks] == [figures.BLUE, figures.RULER]
