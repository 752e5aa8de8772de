"""AUC off the centre: the loss at a distance and its interval."""

import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from study.report import robust

RUNS = ("made", "made-seed1")


@pytest.fixture
def shifted(tmp_path, monkeypatch):
    """Two seeds: both rank all pairs rightly at the centre; off it, each has its own errors."""
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path)
    label = [0, 0, 1, 1]
    folds = pd.DataFrame(
        {
            "nodule_id": [f"n{i}" for i in range(4)],
            "patient_id": [f"p{i}" for i in range(4)],
            "label": label,
        }
    )
    monkeypatch.setattr(robust, "read_folds", lambda: folds)
    right = [0.1, 0.2, 0.8, 0.9]
    wrong = [0.1, 0.8, 0.2, 0.9]  # three of the four pairs
    for run, errors in zip(RUNS, (1, 2), strict=True):
        table = folds[["nodule_id"]].assign(**dict.fromkeys(robust.DISTANCE, right))
        at_3 = [name for name, distance in robust.DISTANCE.items() if distance == 3]
        for name in at_3[:errors]:
            table[name] = wrong
        (tmp_path / run).mkdir()
        table.to_csv(tmp_path / run / "shifts.csv", index=False)
    return tmp_path


def test_the_loss_is_the_mean_over_directions_and_seeds(shifted):
    # Four directions; a quarter of the pairs is lost in one of them, and in two for the other seed.
    assert robust.shift_loss(RUNS[:1], 3, 50).estimate == pytest.approx(1 / 16)
    assert robust.shift_loss(RUNS, 3, 50).estimate == pytest.approx(3 / 32)
    still = robust.shift_loss(RUNS, 2, 50)
    assert (still.estimate, still.low, still.high) == (0, 0, 0)
    means = robust.mean_shift_aucs(RUNS)
    assert robust.shift_loss(RUNS, 3, 50).estimate == pytest.approx(means[0] - means[3])


def test_the_interval_is_over_patients_and_seeds(shifted):
    one, both = (robust.shift_loss(runs, 3, 500) for runs in (RUNS[:1], RUNS))
    assert one.low == 0 and one.low < one.estimate < one.high <= 1 / 4
    assert both.high > one.high  # the other seed loses twice as much


def test_a_file_without_a_position_is_named(shifted):
    path = shifted / "made" / "shifts.csv"
    pd.read_csv(path).drop(columns="p_3_0").to_csv(path, index=False)
    with pytest.raises(InputError, match="p_3_0"):
        robust.shift_loss(RUNS, 3, 10)
    with pytest.raises(InputError, match="shift_mm is 9"):
        robust.shift_loss(RUNS, 9, 10)
    path.unlink()
    with pytest.raises(InputError, match="nodulebook shifts"):
        robust.shift_aucs("made")
