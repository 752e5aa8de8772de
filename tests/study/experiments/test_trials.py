"""Recipes are tried on patients whose folds they will not be judged on."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import read_profile
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from study.experiments import trials
from study.experiments.trials import read_trials


def test_a_split_stays_in_its_half_and_never_shares_a_patient() -> None:
    folds = read_folds()
    outer = folds.set_index("nodule_id")["fold"]
    for split in range(4):
        table, hidden = trials.trial_folds(folds, split)
        half = trials.half_of_split(split)
        assert {trials.half_of(fold) for fold in outer[table["nodule_id"]]} == {half}
        validated = set(table.loc[table["fold"] == split, "patient_id"])
        trained = set(table.loc[table["fold"] != split, "patient_id"])
        assert not validated & trained
        # Everybody whom the recipe will be judged on is out of sight.
        judged = set(folds.loc[folds["fold"].map(trials.half_of) != half, "patient_id"])
        assert judged <= hidden
        assert not hidden & (validated | trained)


def test_no_nodule_is_validated_twice() -> None:
    folds = read_folds()
    validated = [
        name
        for split in range(4)
        for name in trials.trial_folds(folds, split)[0].query("fold == @split")["nodule_id"]
    ]
    assert len(validated) == len(set(validated)) > 700


@pytest.fixture
def one_trial(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world's trials: one, of the tiny profile."""
    file = tmp_path / "trials.yaml"
    file.write_text(
        "- {name: tiny-soft, question: does it run, group: recipe, source: phantom,"
        " extends: tiny, settings: {training: {epochs: 1, learning_rate_drops: [],"
        " soft_labels: true, characteristics_weight: 1.0, test_views: 16, optimizer: adamw,"
        " schedule: cosine, learning_rate: 0.01}}}\n"
    )
    monkeypatch.setattr(paths, "TRIALS_YAML", file)
    monkeypatch.setattr(paths, "PROFILES", small_world / "profiles")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(small_world / "data" / "patches"))
    return tmp_path / "runs"


def test_a_trial_leaves_the_files_of_a_fold_for_each_split(
    one_trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two of the four, one of each half: each takes the time to build a network.
    monkeypatch.setattr(trials, "SPLITS", trials.SPLITS[1:3])
    with pytest.raises(InputError, match="no trial is whole"):
        trials.trial_table()
    for split in range(2):
        trials.run_trial("tiny-soft", split)
    table = trials.trial_table()
    known = set(read_nodules().loc[read_nodules()["readers"] >= 3, "nodule_id"])
    assert set(table["nodule_id"]) <= known
    assert table["half"].tolist() == table["fold"].tolist()
    assert table["p_malignant"].between(0, 1).all()
    assert set(os.listdir(one_trial / "trials" / "tiny-soft")) == {"fold-0", "fold-1"}


def test_a_trial_is_not_run_twice_nor_taken_for_another(
    one_trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trials.run_trial("tiny-soft", 0)
    before = (folder / "probabilities.csv").read_bytes()
    trials.run_trial("tiny-soft", 0)
    assert "is done" in capsys.readouterr().out
    assert (folder / "probabilities.csv").read_bytes() == before
    text = paths.TRIALS_YAML.read_text().replace("epochs: 1", "epochs: 2")
    paths.TRIALS_YAML.write_text(text)
    with pytest.raises(InputError, match=r"fold-0: made with other settings.*delete"):
        trials.run_trial("tiny-soft", 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x: 1", "must be a list of trials"),
        ("- {name: a, question: q, group: why, extends: paper}\n" * 2, "'a' is there twice"),
        ("- {name: a, question: q, group: why, extends: papr}", "'papr' is not one of"),
        ("- {name: a, question: q, group: no, extends: paper}", "trial 1: group"),
        (
            "- {name: a, question: q, group: why, extends: paper, settings: {network: {x: 1}}}",
            "settings.network.x: unknown",
        ),
        ("- [", "not YAML"),
    ],
)
def test_a_wrong_file_of_trials_is_refused(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "TRIALS_YAML", tmp_path / "trials.yaml")
    (tmp_path / "trials.yaml").write_text(text)
    with pytest.raises(InputError, match=why):
        read_trials()


def test_an_unknown_trial_is_named(one_trial: Path) -> None:
    with pytest.raises(InputError, match="'x' is not one of tiny-soft"):
        trials.run_trials(["x"])


def test_targets_by_hand() -> None:
    from nodulebook.core.settings import TrainingSettings
    from nodulebook.model.targets import CHARACTERISTICS_TASK, lesion_targets

    nodules = pd.DataFrame(
        {
            "nodule_id": ["a", "b", "c"],
            "malignancy_mean": [1.0, 5.0, 3.5],
            "readers": [1, 4, 6],
            "diameter_mm": [0.0, 2.0, 2.0 * np.exp(3)],
        }
        | {name: ["1", "3;3", "2;4;5;5;5;3"] for name in CHARACTERISTICS_TASK[:-1]}
    )
    soft = TrainingSettings(epochs=1, learning_rate=0.1, soft_labels=True, lesions="all")
    out = lesion_targets(nodules, ["c", "a", "b"], soft)
    assert out["malignancy"].tolist() == [0.625, 0.0, 1.0]
    assert out["weight"].tolist() == [1.0, 0.25, 1.0]
    # means 4, 1, 3: mean 8/3, variance 14/9
    expected = (np.array([4, 1, 3]) - 8 / 3) / np.sqrt(14 / 9)
    np.testing.assert_allclose(out["margin"], expected, rtol=1e-6)
    # log 2 + 3, log 2 (below 2 mm counts as 2), log 2: mean log 2 + 1, deviation sqrt 2
    np.testing.assert_allclose(out["log_diameter"], np.array([2, -1, -1]) / np.sqrt(2), rtol=1e-5)
    hard = soft.model_copy(update={"soft_labels": False, "lesions": "labelled"})
    out = lesion_targets(nodules, ["a", "b", "c"], hard)
    assert out["malignancy"].tolist() == [0.0, 1.0, 1.0]
    assert out["weight"].tolist() == [1.0, 1.0, 1.0]


def test_auc_is_taken_within_each_split() -> None:
    # Within each split 3 of 4 and 4 of 4 pairs are in order; ranked together fewer would be.
    split = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    label = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
    p = np.array([0.1, 0.3, 0.2, 0.4, 0.8, 0.8, 0.9, 0.9])
    value = trials.split_auc(split)(label, p, np.ones((1, 8)))
    assert value.tolist() == [(3 / 4 + 1) / 2]


def test_the_recipe_of_a_half_is_chosen_in_the_other() -> None:
    right, wrong = [0.1, 0.9], [0.9, 0.1]
    rows = []
    for name, in_half in (("a", (right, wrong)), ("b", (wrong, right))):
        for half, p in enumerate(in_half):
            for label in (0, 1):
                rows.append((name, half, 2 * half, label, p[label]))
    table = pd.DataFrame(rows, columns=["trial", "half", "fold", "label", "p_malignant"])
    # a is right in half 0, so it is the recipe of half 1
    assert trials.chosen(table, ["a", "b"]) == {0: "b", 1: "a"}


def _chosen_of(*groups: str) -> set[str]:
    candidates = [name for name, trial in read_trials().items() if trial.group in groups]
    return set(trials.chosen(trials.trial_table(candidates), candidates).values())


def test_the_profile_honest_is_what_both_halves_chose() -> None:
    (choice,) = _chosen_of("recipe")
    assert read_profile("honest").hash() == read_trials()[choice].settings.hash()


def test_both_halves_chose_slices_and_the_profile_is_the_narrower_of_theirs() -> None:
    every = read_trials()
    chosen = [every[name] for name in _chosen_of("recipe", "slices")]
    assert all(trial.group == "slices" for trial in chosen)
    narrowest = min(chosen, key=lambda trial: trial.settings.network.width)  # type: ignore[union-attr]
    assert read_profile("honest-slices").hash() == narrowest.settings.hash()
