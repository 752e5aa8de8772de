"""One rule of the evaluation changed: labels, dealing to folds, and the epoch that is judged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import read_profile
from nodulebook.data.folds import read_folds
from nodulebook.model.augment import symmetries
from nodulebook.patches.store import PatchStore
from nodulebook.stats.bootstrap import joint_bootstrap_difference, paired_bootstrap_difference
from study.experiments import rules
from study.experiments.rules import Rule, read_rules


def _rule(**changed: object) -> Rule:
    return Rule(name="r", question="?", settings=read_profile("quick"), **changed)  # type: ignore[arg-type]


RATED = pd.DataFrame(
    [
        ("a", "P1", "5;5;1;1", 3.0, 4),
        ("b", "P1", "4;4;1", 3.0, 3),
        ("c", "P2", "3;3;4", 10 / 3, 3),
        ("d", "P3", "1;2", 1.5, 2),
        ("e", "P4", "5", 5.0, 1),
        ("f", "P4", "2;2;3;2", 9 / 4, 4),
    ],
    columns=["nodule_id", "patient_id", "malignancy", "malignancy_mean", "readers"],
)


@pytest.mark.parametrize(
    ("changed", "labels"),
    [
        ({}, {"c": 1, "f": 0}),
        ({"at_3": "benign"}, {"a": 0, "b": 0, "c": 1, "f": 0}),
        ({"at_3": "malignant"}, {"a": 1, "b": 1, "c": 1, "f": 0}),
        ({"rating": "median"}, {"b": 1, "f": 0}),
        ({"rating": "median", "at_3": "benign"}, {"a": 0, "b": 1, "c": 0, "f": 0}),
        ({"min_readers": 1}, {"c": 1, "d": 0, "e": 1, "f": 0}),
        ({"min_readers": 2}, {"c": 1, "d": 0, "f": 0}),
        ({"min_readers": 4}, {"f": 0}),
    ],
)
def test_labels_by_hand(changed: dict[str, object], labels: dict[str, int]) -> None:
    out = rules.label_by(_rule(**changed), RATED)
    assert dict(zip(out["nodule_id"], out["label"], strict=True)) == labels


def test_our_own_rules_give_the_committed_folds() -> None:
    base = rules.rule_folds(read_rules()["as-decided"])
    pd.testing.assert_frame_equal(base, read_folds())


@pytest.mark.parametrize("name", read_rules())
def test_every_rule_deals_ten_folds_of_both_classes(name: str) -> None:
    rule = read_rules()[name]
    table = rules.rule_folds(rule)
    assert set(table["fold"]) == set(range(10))
    assert table.groupby("fold")["label"].nunique().eq(2).all()
    assert table["nodule_id"].is_unique
    patients = table.groupby("patient_id")["fold"].nunique()
    if rule.split == "patient":
        assert patients.max() == 1
        known = read_folds().drop_duplicates("patient_id").set_index("patient_id")["fold"]
        there = table[table["patient_id"].isin(known.index)]
        assert (there["fold"] == there["patient_id"].map(known)).all()
    else:
        assert patients.max() > 1


def test_copies_of_a_nodule_are_in_training_and_test() -> None:
    table = rules.rule_folds(read_rules()["split-by-copy"])
    nodule = table["nodule_id"].str.split("~").str[0]
    assert nodule.value_counts().eq(4).all()
    assert (table.groupby(nodule)["fold"].nunique() > 1).mean() > 0.9


def test_copies_are_flipped_and_turned_patches() -> None:
    volumes = np.random.default_rng(0).integers(-1000, 500, (2, 32, 32, 32)).astype(np.int16)
    table = pd.DataFrame({"nodule_id": ["a", "b"], "patient_id": ["P", "Q"], "series_uid": "1"})
    store = PatchStore("phantom", volumes, volumes > 0, table, "d", {})
    copied = rules.with_copies(store)
    assert copied.table["nodule_id"].tolist() == [
        *("a", "b", "a~1", "b~1", "a~2", "b~2", "a~3", "b~3")
    ]
    assert copied.digest != store.digest
    views = [view[1] for view in symmetries(volumes)]
    of_b = copied.volumes_hu[copied.rows(["b", "b~1", "b~2", "b~3"])]
    assert (of_b[0] == volumes[1]).all()
    which = [next(k for k, view in enumerate(views) if (view == one).all()) for one in of_b]
    assert len(set(which)) == 4
    assert (copied.masks == (copied.volumes_hu > 0)).all()


@pytest.fixture
def one_rule(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world's rules: two epochs of the tiny profile, each kept."""
    file = tmp_path / "rules.yaml"
    file.write_text(
        "- {name: tiny-rule, question: does it run, source: phantom, extends: tiny,"
        " each_epoch: true, settings: {training: {epochs: 2, learning_rate_drops: []}}}\n"
    )
    monkeypatch.setattr(paths, "RULES_YAML", file)
    monkeypatch.setattr(paths, "PROFILES", small_world / "profiles")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(small_world / "data" / "patches"))
    monkeypatch.setattr(rules, "N_FOLDS", 2)
    return tmp_path / "runs" / "rules" / "tiny-rule"


def test_a_rule_leaves_folds_and_what_each_epoch_said(
    one_rule: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rules, "rule_folds", lambda _: read_folds().query("fold < 2"))
    assert rules.whole_rules() == {}
    for fold in range(2):
        rules.run_rule("tiny-rule", fold)
    run = rules.whole_rules()["tiny-rule"]
    assert run.folds[0].run["rule"]["split"] == "patient"
    epochs = pd.read_csv(one_rule / "fold-1" / "each_epoch.csv")
    assert epochs.columns.tolist() == ["nodule_id", "epoch_1", "epoch_2"]
    last = run.folds[1].probabilities["p_malignant"]
    np.testing.assert_allclose(epochs["epoch_2"], last, atol=1e-6)
    rules.run_rule("tiny-rule", 0)
    assert "is done" in capsys.readouterr().out
    paths.RULES_YAML.write_text(
        paths.RULES_YAML.read_text().replace("source", "at_3: benign, source")
    )
    with pytest.raises(InputError, match=r"fold-0: made with other settings.*delete"):
        rules.rule_job(read_rules()["tiny-rule"], 0).is_done()

    # The best epoch on the test nodules, by hand: of three epochs the second is right throughout.
    monkeypatch.setattr(paths, "RULES_YAML", one_rule.parents[2] / "rules.yaml")
    right = run.folds[0].probabilities["label"] * 0.5 + 0.25
    for number, fold in run.folds.items():
        path = one_rule / f"fold-{number}" / "each_epoch.csv"
        table = pd.DataFrame({"nodule_id": fold.probabilities["nodule_id"]})
        label = fold.probabilities["label"]
        table.assign(epoch_1=1 - label, epoch_2=label * 0.5 + 0.25).to_csv(path, index=False)
    best = rules.best_on_test(run)
    assert best["p_malignant"].tolist()[: len(right)] == right.tolist()
    assert ((best["p_malignant"] > 0.5) == (best["label"] == 1)).all()


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(InputError, match="'x' is not one of as-decided"):
        rules.run_rules(["x"])


def test_a_joint_difference_draws_a_patient_for_both_tables() -> None:
    rng = np.random.default_rng(0)
    n = 120
    one = pd.DataFrame(
        {
            "nodule_id": [f"N{i}" for i in range(n)],
            "patient_id": [f"P{i // 3}" for i in range(n)],
            "label": rng.integers(0, 2, n),
        }
    ).assign(p_malignant=lambda table: 0.3 * table["label"] + 0.7 * rng.random(n))
    other = one.assign(p_malignant=rng.random(n))
    paired = paired_bootstrap_difference(one, other, "roc_auc", n_draws=200)
    assert joint_bootstrap_difference(one, other, "roc_auc", n_draws=200) == paired
    # Every nodule twice is the same table to the AUC: no difference, in any draw.
    twice = pd.concat([one, one.assign(nodule_id=one["nodule_id"] + "~1")])
    same = joint_bootstrap_difference(one, twice, "roc_auc", n_draws=200)
    assert (same.estimate, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)
    # Nodules of other patients: the two no longer move together.
    alone = other.assign(patient_id="Q" + other["patient_id"])
    wide = joint_bootstrap_difference(one, alone, "roc_auc", n_draws=200)
    assert wide.estimate == pytest.approx(paired.estimate)
