"""The automatic ruler on drawn discs, whose diameter is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nodulebook.core.paths import DATA
from nodulebook.data.cohort import read_nodules
from nodulebook.patches.ruler import automatic_diameter_mm, automatic_diameters

LUNG, TISSUE = -850, 30


def _ball(diameter_mm, wall_x=None, seed=0):
    z, y, x = np.indices((32, 32, 32)) - 15.5
    inside = np.hypot(np.hypot(y, x), z) <= diameter_mm / 2
    if wall_x is not None:
        inside |= x >= wall_x
    noise = np.random.default_rng(seed).normal(0, 30, inside.shape)
    return (np.where(inside, TISSUE, LUNG) + noise).astype(np.int16)


@pytest.mark.parametrize("diameter_mm", [6, 8, 12, 16, 22])
def test_a_balls_diameter(diameter_mm):
    assert automatic_diameter_mm(_ball(diameter_mm)) == pytest.approx(diameter_mm, abs=2)


@pytest.mark.parametrize("diameter_mm", [8, 12])
def test_a_wall_that_is_touched_is_not_measured(diameter_mm):
    found = automatic_diameter_mm(_ball(diameter_mm, wall_x=diameter_mm / 2 - 0.5))
    assert found == pytest.approx(diameter_mm, abs=4)


def test_the_extent_along_z_does_not_matter():
    ball = _ball(12)
    short = np.full_like(ball, -860)
    short[13:19] = ball[13:19]
    assert automatic_diameter_mm(short) == automatic_diameter_mm(ball)


def test_turning_the_plane_changes_nothing_much():
    ball = _ball(10, wall_x=7)
    turned = automatic_diameter_mm(np.rot90(ball, axes=(1, 2)))
    assert turned == pytest.approx(automatic_diameter_mm(ball), abs=0.01)


def test_a_hole_is_measured_and_no_image_is_left_out():
    _, y, x = np.indices((32, 32, 32)) - 15.5
    shell = np.where(np.abs(np.hypot(y, x) - 8) <= 1.5, TISSUE, LUNG).astype(np.int16)
    assert np.isfinite(automatic_diameter_mm(shell))
    empty = np.full((32, 32, 32), -860, np.int16)
    assert np.isnan(automatic_diameter_mm(empty))
    store = SimpleNamespace(
        volumes_hu=np.stack([_ball(8), empty]), table=pd.DataFrame({"nodule_id": ["a", "b"]})
    )
    assert automatic_diameters(store)["nodule_id"].tolist() == ["a"]


def test_the_committed_table_measures_the_cohort():
    table = pd.read_csv(DATA / "automatic_ruler.csv").set_index("nodule_id")["diameter_mm"]
    readers = read_nodules().set_index("nodule_id")["diameter_mm"].reindex(table.index)
    folds = pd.read_csv(DATA / "folds.csv")["nodule_id"]
    assert table.index.is_unique and (table > 0).all()
    assert folds.isin(table.index).sum() == 1009
    assert table.corr(readers, method="spearman") > 0.85
