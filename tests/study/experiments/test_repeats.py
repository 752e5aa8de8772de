"""Whole runs made again: kept apart, compared with the committed ones, skipped when done."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Run, read_run
from nodulebook.stats.metrics import roc_auc
from nodulebook.stats.text import number
from study.experiments import repeats

RUN = "quick-phantom"


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed run of this repository, alone in a folder of runs."""
    shutil.copytree(paths.runs_folder() / RUN, tmp_path / RUN)
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    return tmp_path


def _repeated(folder: Path, fold: int, change: float) -> None:
    """As if a fold had been run again: its nodule of the lowest probability has another."""
    there = folder / repeats.AGAIN / RUN / f"fold-{fold}"
    shutil.copytree(folder / RUN / f"fold-{fold}", there)
    path = there / "probabilities.csv"
    table = pd.read_csv(path, dtype={"p_malignant": float})
    table.loc[table["p_malignant"].idxmin(), "p_malignant"] += change
    table.to_csv(path, index=False)


def test_only_what_is_repeated_whole_is_compared(runs_folder: Path) -> None:
    assert repeats.repeated_runs() == {}
    for fold in range(9):
        _repeated(runs_folder, fold, 0)
    assert repeats.repeated_runs() == {}
    _repeated(runs_folder, 9, 0)
    (pair,) = repeats.repeated_runs().values()
    row = repeats.repeats_table({RUN: pair}).iloc[0]
    assert row["again minus committed"] == "0.000 (0.000 to 0.000)"
    assert row["a fold's AUC differs by"] == "0.000 on average, 0.000 at most"


def test_the_differences_are_those_of_the_files(runs_folder: Path) -> None:
    for fold in range(10):
        _repeated(runs_folder, fold, 0.6 if fold == 3 else 0)
    committed, again = repeats.repeated_runs()[RUN]
    row = repeats.repeats_table({RUN: (committed, again)}).iloc[0]
    assert row["AUC"] == number(_auc(committed)) != row["AUC again"] == number(_auc(again))
    off = abs(_auc(again, 3) - _auc(committed, 3))
    assert off > 0.005
    wanted = f"{number(off / 10)} on average, {number(off)} at most"
    assert row["a fold's AUC differs by"] == wanted


def _auc(run: Run, fold: int | None = None) -> float:
    table = run.probabilities if fold is None else run.folds[fold].probabilities
    return roc_auc(table["label"], table["p_malignant"])


def test_what_is_done_is_not_done_again_and_a_changed_profile_is_refused(runs_folder: Path) -> None:
    for fold in range(10):
        _repeated(runs_folder, fold, 0)
    record = runs_folder / repeats.AGAIN / RUN / "fold-4" / "run.json"
    before = record.stat().st_mtime_ns
    repeats.repeat_run(RUN)
    assert record.stat().st_mtime_ns == before
    for path in (runs_folder / RUN).glob("fold-*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"profile_hash": "0"}))
    with pytest.raises(InputError, match="has changed since"):
        repeats.repeat_run(RUN)


def test_a_run_that_no_profile_made_is_refused(runs_folder: Path) -> None:
    shutil.copytree(paths.ROOT / "papermill_runs" / "diameter", runs_folder / "diameter")
    assert not read_run("diameter", folds=read_folds()).missing_folds
    with pytest.raises(InputError, match="'diameter' was made without"):
        repeats.repeat_run("diameter")
