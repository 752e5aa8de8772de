"""What the chapters print: every number is the artefacts' own, and every nodule is counted once."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_artefacts import _fold

from nodulebook.core.errors import InputError
from nodulebook.core.settings import (
    NetworkSettings,
    profile_names,
)
from nodulebook.data.cohort import label_nodules, read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.senet import senet
from nodulebook.runs.contract import Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import Interval, paired_bootstrap_difference, patient_bootstrap
from nodulebook.stats.text import interval, number, percent
from study.experiments.baseline import run_diameter
from study.report import pooled as report
from study.report.pooled import (
    complete_runs,
    diameter_table,
    fold_mean_table,
    layer_table,
    literature_table,
    per_fold_metrics,
    pooled_table,
)

NAN = float("nan")


def _run(name="trial", source="phantom", skill=1.0, epochs=3, **about):
    """Ten folds of eight nodules, in memory; the larger `skill`, the better the probabilities."""
    folds = {}
    for k in range(10):
        fold = _fold(k, 8, name)
        random = np.random.default_rng([k, epochs])
        score = skill * (fold.probabilities["label"] - 0.5) + random.normal(0, 0.5, 8)
        p = 1 / (1 + np.exp(-score))
        history = pd.DataFrame({"epoch": range(1, epochs + 1), "loss": 0.5})
        seconds = {"wall_seconds": 100.0 + k, "ended": f"2024-01-{k + 1:02d}T00:00:00+00:00"}
        folds[k] = replace(
            fold,
            probabilities=fold.probabilities.assign(p_malignant=p),
            history=history,
            run=fold.run | {"source": source} | seconds | about,
        )
    pooled = pd.concat([fold.probabilities for fold in folds.values()], ignore_index=True)
    return Run(name, folds, pooled, ())


def test_numbers_by_hand():
    assert number(0.12345) == "0.123" and number(2, 1) == "2.0" and number(NAN) == "undefined"
    assert percent(0.9567) == "95.7 %" and percent(1, 0) == "100 %" and percent(NAN) == "undefined"
    assert interval(Interval(0.9123, 0.8897, 0.9312, 10)) == "0.912 (0.890 to 0.931)"
    assert interval(Interval(0.5, 0.25, 0.75, 10), 2) == "0.50 (0.25 to 0.75)"
    assert interval(Interval(NAN, NAN, NAN, 0)) == "undefined"


def test_diameter_table_by_hand():
    labelled = pd.DataFrame(
        {
            "diameter_mm": [3.0, 4.99, 5.0, 12.0, 29.9, 30.0, 71.0],
            "label": [0, 1, 0, 1, 1, 1, 0],
        }
    )
    assert diameter_table(labelled).to_numpy().tolist() == [
        ["3 to 5", "2", "1", "1"],
        ["5 to 10", "1", "1", "0"],
        ["10 to 15", "1", "0", "1"],
        ["15 to 20", "0", "0", "0"],
        ["20 to 25", "0", "0", "0"],
        ["25 to 30", "1", "0", "1"],
        ["30 and above", "2", "1", "1"],
        ["all", "7", "3", "4"],
    ]
    small = pd.DataFrame({"diameter_mm": [2.9], "label": [1]})
    assert diameter_table(small).to_numpy()[0].tolist() == ["below 3", "1", "0", "1"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 500), st.integers(0, 1)), min_size=1))
def test_diameter_table_has_every_nodule_once(rows):
    table = diameter_table(pd.DataFrame(rows, columns=["diameter_mm", "label"]))
    counts = table[["nodules", "benign", "malignant"]].astype(int)
    assert counts.iloc[-1]["nodules"] == len(rows)
    assert counts.iloc[-1]["malignant"] == sum(label for _, label in rows)
    assert (counts.iloc[:-1].sum() == counts.iloc[-1]).all()
    assert (counts["benign"] + counts["malignant"] == counts["nodules"]).all()


def test_diameter_table_of_the_cohort():
    labelled = label_nodules(read_nodules())
    total = diameter_table(labelled).iloc[-1]
    assert total["nodules"] == str(len(labelled)) == str(len(read_folds()))


def test_per_fold_metrics_are_each_folds_own():
    runs = {"b": _run("b"), "a": _run("a", skill=3)}
    table = per_fold_metrics(runs)
    assert table["run"].tolist() == ["b"] * 10 + ["a"] * 10
    assert table["fold"].tolist() == [*range(10)] * 2
    part = runs["a"].folds[4].probabilities
    wanted = metrics.summarise(part["label"], part["p_malignant"])
    row = table[(table["run"] == "a") & (table["fold"] == 4)].iloc[0]
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)


def test_pooled_table_is_the_patient_bootstrap():
    runs = {"b": _run("b"), "a": _run("a", "lidc_slices", skill=3)}
    table = pooled_table(runs, ["roc_auc", "brier"])
    assert list(table.columns) == ["run", "source", "n", "malignant", "AUC", "Brier"]
    assert table["run"].tolist() == ["b", "a"]
    assert table["source"].str.contains("not CT").tolist() == [True, False]
    assert table["n"].tolist() == ["80", "80"] and table["malignant"].tolist() == ["40", "40"]
    for name, run in runs.items():
        row = table[table["run"] == name].iloc[0]
        assert row["AUC"] == interval(patient_bootstrap(run.probabilities, "roc_auc"))
        assert row["Brier"] == interval(patient_bootstrap(run.probabilities, "brier"))


def test_fold_means_by_hand():
    per_fold = pd.DataFrame(
        {"run": ["b", "b", "b", "a", "a"], "fold": [0, 1, 2, 0, 1], "roc_auc": [0.8, 0.9, 1, 0, 1]}
    )
    table = fold_mean_table(per_fold, ["roc_auc"])
    assert table.to_numpy().tolist() == [
        ["b", "3", "0.900 ± 0.100"],
        ["a", "2", "0.500 ± 0.707"],
    ]


def test_fold_mean_does_not_leave_out_an_undefined_fold():
    per_fold = pd.DataFrame({"run": "a", "fold": [0, 1, 2], "precision": [0.8, 0.9, NAN]})
    assert fold_mean_table(per_fold, ["precision"])["precision"].tolist() == [
        "undefined ± undefined"
    ]


@pytest.fixture(scope="module")
def diameter_run(tmp_path_factory):
    """The complete run `diameter`."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODULEBOOK_RUNS", str(folder))
        run_diameter(read_nodules(), read_folds())
    return folder / "diameter"


@pytest.fixture
def folder(diameter_run, tmp_path, monkeypatch):
    """A folder of runs with the complete run `diameter`."""
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    shutil.copytree(diameter_run, tmp_path / "diameter")
    return tmp_path


def _copy(folder, name, source, numbers=range(10)):
    for k in numbers:
        target = folder / name / f"fold-{k}"
        shutil.copytree(folder / "diameter" / f"fold-{k}", target)
        about = json.loads((target / "run.json").read_text())
        (target / "run.json").write_text(json.dumps(about | {"run": name, "source": source}))


def test_complete_runs_come_in_the_order_of_their_sources(folder):
    _copy(folder, "a-phantom", "phantom")
    _copy(folder, "z-real", "lidc_slices")
    _copy(folder, "b-real", "lidc_slices")
    _copy(folder, "started", "lidc_slices", range(9))
    (folder / "quick" / ".fold-0.partial").mkdir(parents=True)
    assert list(complete_runs()) == ["b-real", "z-real", "diameter", "a-phantom"]


def test_no_complete_run_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    with pytest.raises(InputError, match=r"no run with all 10 folds: `make folds "):
        complete_runs()


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("probabilities.csv", r",[01],0\.\d+,", ",1,1.5,", "p_malignant is 1.5"),
        ("probabilities.csv", r"LIDC-IDRI-\d+-s1-n00", "someone", "none of fold 2's nodules"),
        ("run.json", r'"seed": 0,', "", "seed is missing"),
        ("history.csv", r"epoch", "epok", "epoch is missing"),
    ],
)
def test_damaged_run_is_refused(folder, file, old, new, why):
    path = folder / "diameter" / "fold-2" / file
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(InputError, match=rf"fold-2/{re.escape(file)}: .*{why}"):
        complete_runs()


def test_literature_table_cites_where_there_is_a_source():
    columns = ["table", "row", "citation", "what_it_is", "data", "metric", "value", "how_seen",
               "rule", "label_rule", "split_unit"]  # fmt: skip
    how = ("", "not seen", "patients")
    literature = pd.DataFrame(
        [
            ("3", "[1] A", "key2020", "w", "d", "accuracy_percent", "90", "abstract", *how),
            ("3", "[1] A", "key2020", "w", "d2", "accuracy_percent", "91", "abstract", *how),
            ("4", "[2] B", "", "v", "e", "auc", "0.9", "full", *how),
            ("4", "[3] C", "", "u", "f", "", "", "title", *how),
            ("later", "", "", "t", "g", "auc", "0.99", "read", *how),
        ],
        columns=columns,
    )
    table = literature_table(literature)
    assert table["row of the paper"].tolist() == [
        "paper's Table 3: [1] A {cite:p}`key2020`",
        "paper's Table 4: [2] B",
        "paper's Table 4: [3] C",
    ]
    assert table["acc., %"].tolist() == ["90", "", ""]
    assert table["AUC"].tolist() == ["", "0.9", ""]
    assert table["data"].tolist() == ["d", "e", "f"]


def test_runs_of_the_comparison_chapter_are_left_out_unless_wanted(folder):
    _copy(folder, "features-size-x", "lidc_slices")
    assert "features-size-x" not in complete_runs()
    assert "features-size-x" in complete_runs(compared=True)


def test_layer_table_has_every_parameter_once():
    model = senet(
        NetworkSettings(
            filters=[4, 4, 8, 8], modules=[1, 1, 2, 1], input_pooling=2, pool_after=["stage1"]
        )
    )
    table = layer_table(model)
    parameters = table["parameters"].str.replace(",", "").astype(int)
    assert parameters.iloc[:-1].sum() == parameters.iloc[-1] == model.count_params()
    rows = table.set_index("part")
    assert list(rows.index) == [
        "patch",
        "average pooling of the patch",
        "first convolution 3³",
        "stage 1: SE modules",
        "average pooling after stage 1",
        "stage 2: SE modules",
        "stage 3: SE modules",
        "stage 4: SE modules",
        "global average pooling",
        "fully connected",
        "softmax",
        "all",
    ]
    assert rows.loc["first convolution 3³", "parameters"] == str(27 * 4 + 4 * 4)
    assert rows.loc["stage 3: SE modules", "output shape"] == "8 × 8 × 8 × 8"
    assert rows.loc["stage 3: SE modules", "output size"] == "4,096"
    assert rows.loc["fully connected", "parameters"] == str(8 * 2 + 2)
    table = report.network_table({"tiny": model})
    assert table.to_numpy().tolist() == [
        ["tiny", "1-1-2-1", "8 × 8 × 8 × 8", f"{model.count_params():,}", "0.8 M"]
    ]


def test_multiply_adds_by_hand():
    """First convolution 16^3 x 4 x 27; a module's 1^3, 3^3 and 1^3; the gate; the head."""
    model = senet(
        NetworkSettings(
            filters=[4, 4, 8, 8], modules=[1, 1, 2, 1], input_pooling=2, pool_after=["stage1"]
        )
    )
    rows = layer_table(model).set_index("part")["multiply-adds"].str.replace(",", "").astype(int)
    assert rows["first convolution 3³"] == 16**3 * 4 * 27
    # C = 4, inner 1, reduced 1
    assert rows["stage 1: SE modules"] == 16**3 * (4 + 27 + 4) + 4 + 4
    # C = 8, inner 2, reduced 2; the first module has 4 channels in, and a shortcut
    first = 8**3 * (4 * 2 + 2 * 27 * 2 + 2 * 8 + 4 * 8) + 8 * 2 + 2 * 8
    second = 8**3 * (8 * 2 + 2 * 27 * 2 + 2 * 8) + 8 * 2 + 2 * 8
    assert rows["stage 3: SE modules"] == first + second
    assert rows["fully connected"] == 8 * 2
    assert rows["all"] == rows.iloc[:-1].sum()


def test_pooling_within_the_convolution_does_not_change_its_multiply_adds():
    """What is counted is the convolution at full resolution, not how it is computed."""
    common = {"filters": [4] * 4, "modules": [1] * 4, "pool_after": ["first_convolution", "stage1"]}
    counts = {
        layer_table(senet(NetworkSettings(**common, pool_before_norm=early)))
        .set_index("part")
        .loc["first convolution 3³", "multiply-adds"]
        for early in (False, True)
    }
    assert counts == {f"{32**3 * 4 * 27:,}"}


def test_arms_are_compared_where_both_are_there():
    one = _run("paper-phantom", "phantom")
    one = replace(one, probabilities=one.probabilities.iloc[:60])
    other = _run("diameter", "annotations", 0.0)
    table = report.difference_table({run.name: run for run in (one, other)})
    wanted = paired_bootstrap_difference(
        one.probabilities, other.probabilities.iloc[:60], "roc_auc"
    )
    assert table.to_dict("records") == [
        {
            "source": report.SOURCE_TEXT["phantom"],
            "first": "paper-phantom",
            "second": "diameter",
            "n": "60",
            "AUC, first minus second": interval(wanted),
        }
    ]
    assert report.difference_table({"diameter": other}).empty


def test_the_phantom_stands_below_real_ct():
    runs = [
        _run("paper-phantom", "phantom"),
        _run("paper-lidc_slices", "lidc_slices", 0.2),
        _run("diameter", "annotations", 0.4),
    ]
    table = report.difference_table({run.name: run for run in runs})
    assert list(table["first"]) == ["paper-lidc_slices", "paper-phantom"]


def test_every_arm_that_is_compared_is_a_profile():
    assert {arm for pair in report.PAIRS for arm in pair} <= {*profile_names(), "diameter"}


def test_making_adds_up_hours_and_names_all_devices():
    run = _run("q", epochs=7, backend="jax", versions={"jax": "0.1"}, device="CPU: a")
    run.folds[3].run["device"] = "CPU: b"
    row = report.making_table({"q": run}).iloc[0].to_dict()
    assert row == {
        "run": "q",
        "epochs": "7",
        "seed": "0",
        "backend": "jax 0.1",
        "device": "CPU: a; CPU: b",
        "hours": "0.29",  # 1,045 s
    }
