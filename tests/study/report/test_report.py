"""What the chapters print: every number is the artefacts' own, and every nodule is counted once."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_artefacts import _fold

from nodulebook.core.errors import InputError
from nodulebook.core.settings import (
    profile_names,
)
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import Interval, patient_bootstrap
from nodulebook.stats.text import interval, number, percent
from study.cli.runs import pooled as pooled_command
from study.experiments.baseline import run_diameter
from study.report import pooled as report
from study.report.pooled import complete_runs, fold_mean_table, per_fold_metrics, pooled_table

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
    assert number(-0.0004) == "0.000" and percent(-0.0004) == "0.0 %" and percent(-0.05) == "−5.0 %"
    assert interval(Interval(-0.0001, -0.01, 0.0, 10)) == "0.000 (−0.010 to 0.000)"
    assert interval(Interval(0.9123, 0.8897, 0.9312, 10)) == "0.912 (0.890 to 0.931)"
    assert interval(Interval(0.5, 0.25, 0.75, 10), 2) == "0.50 (0.25 to 0.75)"
    assert interval(Interval(NAN, NAN, NAN, 0)) == "undefined"


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


def test_the_command_pools_a_whole_run_and_names_the_folds_that_an_interrupted_one_lacks(folder):
    whole = CliRunner().invoke(pooled_command, ["--run", "diameter"])
    assert whole.exit_code == 0 and f"n: {len(read_folds()):,}" in whole.output.splitlines()
    _copy(folder, "started", "lidc_slices", [0, 1, 2, 3, 5, 6, 8, 9])
    refused = CliRunner().invoke(pooled_command, ["--run", "started"]).exception
    assert isinstance(refused, InputError) and "4, 7:" in str(refused)


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
        list(complete_runs().values())


def test_ten_folds_that_are_not_those_of_the_table_are_no_complete_run(folder):
    _copy(folder, "shifted", "lidc_slices")
    (folder / "shifted" / "fold-0").rename(folder / "shifted" / "fold-10")
    assert "shifted" not in complete_runs()


@pytest.mark.parametrize("source", ["null", '"elsewhere"'])
def test_a_record_without_a_known_source_is_named(folder, source):
    path = folder / "diameter" / "fold-0" / "run.json"
    path.write_text(re.sub(r'"source": "\w+"', f'"source": {source}', path.read_text(), count=1))
    with pytest.raises(InputError, match=r"fold-0/run.json: source is .*not one of"):
        complete_runs()


def test_runs_of_the_comparison_chapter_are_left_out_unless_wanted(folder):
    _copy(folder, "features-size-x", "lidc_slices")
    assert "features-size-x" not in complete_runs()
    assert "features-size-x" in complete_runs(compared=True)


def test_pairs_that_are_there_are_compared_real_ct_first():
    names = ["paper-phantom", "diameter", "paper-lidc_slices", "paper-no-se-lidc_slices", "another"]
    assert report.compared_pairs(names) == [
        ("paper-lidc_slices", "diameter"),
        ("paper-lidc_slices", "paper-no-se-lidc_slices"),
        ("paper-phantom", "diameter"),
    ]
    assert report.compared_pairs(["diameter", "paper-no-se-lidc_slices"]) == []


def test_every_arm_that_is_compared_is_a_profile():
    assert {arm for pair in report.PAIRS for arm in pair} <= {*profile_names(), "diameter"}


def test_making_adds_up_hours_and_names_all_devices():
    run = _run("q", epochs=7, backend="jax", versions={"jax": "0.1"}, device="CPU: a")
    run.folds[3].run["device"] = "CPU: b"
    for k in (4, 5):
        run.folds[k].run.update(device="GPU: c", stacked={"precision": "tensorfloat32"})
    row = report.making_table({"q": run}).iloc[0].to_dict()
    assert row == {
        "run": "q",
        "epochs": "7",
        "seed": "0",
        "backend": "jax 0.1",
        "computed with": "JAX float32, CPU (folds 0, 1, 2, 3, 6, 7, 8, 9); "
        "JAX TF32, GPU (folds 4, 5)",
        "device": "CPU: a; CPU: b; GPU: c",
        "hours": "0.29",  # 1,045 s
    }
