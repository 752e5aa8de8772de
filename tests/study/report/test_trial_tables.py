"""Trials next to one of them, and to the ruler."""

import pandas as pd
import pytest

from nodulebook.core.settings import NetworkSettings, Profile, TrainingSettings
from study.experiments.trials import Trial
from study.report import trials

COLUMNS = ["trial", "nodule_id", "patient_id", "label", "p_malignant", "fold"]


def trial(name: str) -> Trial:
    network = NetworkSettings(filters=[4] * 4, modules=[1] * 4)
    training = TrainingSettings(epochs=2, learning_rate=0.1)
    settings = Profile(description="", network=network, training=training)
    return Trial(name=name, question=f"what {name} does", group="why", settings=settings)


def test_trials_are_compared_on_the_same_nodules_and_absent_ones_left_out():
    rows = [
        (name, f"n{i}", f"p{i}", i % 2, 0.9 * (i % 2) if name == "a" else 0.5, i // 10)
        for name in ("a", "b")
        for i in range(20)
    ]
    found = trials.outcomes(pd.DataFrame(rows, columns=COLUMNS), ["a", "b", "c"], "a")
    assert [auc.estimate for auc, _ in found.values()] == [1.0, 0.5]
    assert found["b"][1].estimate == -0.5
    out = trials.trials_table(found, {name: trial(name) for name in "abc"}, "a")
    assert list(out)[:3] == ["tried", "AUC", "difference"]  # what a narrow screen shows
    assert out["in full"].tolist() == ["what a does", "what b does"]
    assert out["difference"].tolist() == ["", "−0.500 (−0.500 to −0.500)"]
    deviation, range_of_two = trials.seed_spread(found)
    # Of two seeds: the quantile of t with one degree of freedom is tan(0.475 pi) = 12.706.
    assert deviation == pytest.approx(0.5 / 2**0.5)
    assert range_of_two == pytest.approx(0.5 * 12.7062, rel=1e-4)


def test_the_ruler_is_ranked_within_each_split():
    rows = [("a", f"n{i}", f"p{i}", i % 2, 0.5, i // 10) for i in range(20)]
    # Malignant ones are larger, but all of the second split are larger than those of the first.
    sizes = [row[3] + row[5] * 10.0 for row in rows]
    nodules = pd.DataFrame({"nodule_id": [row[1] for row in rows], "diameter_mm": sizes})
    assert trials.ruler_auc(pd.DataFrame(rows, columns=COLUMNS), nodules).estimate == 1.0
