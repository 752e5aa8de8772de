"""The engine of folds, with a stub in place of a network: one training, whoever asks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nodulebook.core import environment, paths
from nodulebook.core.errors import InputError
from nodulebook.runs.arithmetic import arithmetic, arithmetics
from nodulebook.runs.contract import read_fold, read_run
from nodulebook.runs.job import FoldJob, Outcome

SETTINGS = {"profile_hash": "aa", "source": "phantom", "data_hash": "bb"}
FOLDS = pd.DataFrame(
    {
        "nodule_id": ["a", "b", "c", "d"],
        "patient_id": ["p", "p", "q", "r"],
        "label": [0, 1, 0, 1],
        "fold": [3, 3, 3, 4],
    }
)


def about(**changed: object) -> dict[str, object]:
    return {
        "run": "stub",
        "arm": "stub",
        "seed": 0,
        "profile": {},
        "absent_nodules": [],
        "n_train": 1,
        "n_test": 3,
        "versions": {},
        "backend": "stub",
        "device": "CPU",
        **SETTINGS,
    } | changed


def job(fold: int = 3, **settings: object) -> FoldJob:
    return FoldJob("stub", fold, SETTINGS | settings, FOLDS)


def outcome(fold: int = 3, p: float = 0.5) -> Outcome:
    held_out = FOLDS[FOLDS["fold"] == fold].reset_index(drop=True)
    history = pd.DataFrame([{"epoch": 1, "loss": 0.5, "seconds": 2.0}])
    return Outcome(held_out.assign(p_malignant=p, arm="stub"), history)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    return tmp_path


def made(fold: int = 3, **settings: object) -> FoldJob:
    with job(fold) as one:
        assert one.begin()
        one.record(about(**settings, n_test=3 if fold == 3 else 1))
        one.finish(outcome(fold))
    return one


def test_a_fold_is_recorded_and_then_done(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    made()
    fold = read_fold(runs / "stub" / "fold-3", FOLDS)
    assert fold.run["wall_seconds"] == 2.0 and fold.run["fold"] == 3
    assert fold.run["environment"]["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert [path.name for path in (runs / "stub").iterdir()] == ["fold-3"]
    before = (runs / "stub" / "fold-3" / "run.json").read_bytes()
    assert not job().begin()
    assert (runs / "stub" / "fold-3" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"profile_hash": "other"}, "settings"),
        ({"source": "idc"}, "settings"),
        ({"data_hash": "other"}, "patches"),
        ({"rule": {"split": "nodule"}}, "settings"),  # a key that the record does not have
    ],
)
def test_a_fold_made_otherwise_is_refused(settings: dict[str, object], word: str) -> None:
    folder = made().folder
    with pytest.raises(InputError, match=word) as refused:
        job(**settings).begin()
    assert f"delete {folder}" in str(refused.value)


def test_folds_of_other_arithmetic_are_pooled_and_said(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(backend="tensorflow", device="CPU: a")
    assert "TensorFlow" not in capsys.readouterr().out
    made(4, backend="jax", device="GPU: b", precision="tensorfloat32")
    assert "JAX TF32, GPU" in (said := capsys.readouterr().out) and "TensorFlow float32" in said
    run = read_run("stub", folds=FOLDS)
    assert arithmetics(fold.run for fold in run.folds.values()) == (
        "TensorFlow float32, CPU (folds 3); JAX TF32, GPU (folds 4)"
    )
    how = [arithmetic(about(fold=0, backend="torch", device="GPU: b", **more)) for more in (
        {}, {"precision": "float32"}, {"stacked": {"precision": "bfloat16"}}
    )]  # fmt: skip
    assert how == [
        "PyTorch precision not recorded, GPU", "PyTorch float32, GPU", "PyTorch bfloat16, GPU"
    ]  # fmt: skip
    assert arithmetic(about(backend="scikit-learn")) == "scikit-learn, CPU"


def test_the_precision_of_products_is_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from nodulebook.model import backend

    assert backend.precision() == "float32"
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.setattr(backend, "device", lambda: "GPU: b")
    monkeypatch.setattr(backend.keras.backend, "backend", lambda: "tensorflow")
    try:
        for on, name in ((True, "tensorfloat32"), (False, "float32")):
            tensorflow.config.experimental.enable_tensor_float_32_execution(on)
            assert backend.precision() == name
    finally:
        tensorflow.config.experimental.enable_tensor_float_32_execution(True)


def test_a_damaged_fold_is_refused_and_left_alone() -> None:
    folder = made().folder
    (folder / "probabilities.csv").write_text("nodule_id\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="delete"):
        job().begin()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_one_run_is_of_one_experiment() -> None:
    """Before anything is trained."""
    made()
    with job(4) as other:
        assert other.begin()
        for key, value in (("data_hash", "other"), ("seed", 1), ("rule", {"min_readers": 4})):
            with pytest.raises(InputError, match=key):
                other.record(about(**{key: value}))


def test_what_a_killed_process_left_does_not_follow_into_the_fold() -> None:
    partial = job().partial
    partial.mkdir(parents=True)
    (partial / ".checkpoint.npz.host~99~ab.npz").write_bytes(b"half")
    (partial / "checkpoint.npz").write_bytes(b"whole")
    assert sorted(path.name for path in made().folder.iterdir()) == [
        "checkpoint.npz",
        "history.csv",
        "probabilities.csv",
        "run.json",
    ]


def test_a_fold_is_not_finished_without_the_lock() -> None:
    with job() as one, pytest.raises(RuntimeError):
        one.finish(outcome())


DRIVER = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import test_job as t

def train(run, wait, seconds, killed_after):
    pid = os.fork()
    if pid:
        return pid
    if killed_after:
        signal.setitimer(signal.ITIMER_REAL, wait + killed_after)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    try:
        time.sleep(wait)
        with t.FoldJob(run, 3, t.SETTINGS, t.FOLDS) as job:
            if job.begin():
                with open(run + ".log", "a") as log:
                    log.write(f"{os.getpid()}\\n")
                job.record(t.about(run=run))
                time.sleep(seconds)
                job.finish(t.outcome(p=os.getpid() % 97 / 97))
        assert float(job.read().probabilities["p_malignant"].iloc[0]) >= 0
        os._exit(0)
    except BaseException as error:
        print(error)
        os._exit(1)

os.chdir(sys.argv[2])
waits = [float(word) for word in sys.argv[4:]]
kill = float(sys.argv[3])
pids = []
for k, wait in enumerate(waits):
    pids.append((train(f"pair{k}", 0, 0.4, kill * (k + 1)), train(f"pair{k}", wait, 0.4, 0)))
states = [[os.waitpid(pid, 0)[1] for pid in pair] for pair in pids]
with open("states.json", "w") as file:
    json.dump(states, file)
"""


def pairs(folder: Path, waits: list[float], kill: float = 0) -> list[list[int]]:
    """Exit states of two processes on one fold, the second started some seconds after the first."""
    words = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(folder), str(kill)]
    subprocess.run([*words, *map(str, waits)], timeout=120, check=True)
    states: list[list[int]] = json.loads((folder / "states.json").read_text())
    return states


def test_two_processes_at_ten_random_moments_train_once(runs: Path) -> None:
    waits = np.random.default_rng(0).uniform(0, 0.8, 10).tolist()
    assert pairs(runs, waits) == [[0, 0]] * 10
    for k in range(10):
        (trained,) = (runs / f"pair{k}.log").read_text().split()  # one training
        p = read_fold(runs / f"pair{k}" / "fold-3", FOLDS).probabilities["p_malignant"]
        assert p.iloc[0] == int(trained) % 97 / 97  # and its result


def test_the_second_takes_over_from_one_that_was_killed(runs: Path) -> None:
    """Killed 0.05, 0.1, ... 0.35 s after its start, while the second waits or not."""
    states = pairs(runs, [0.1] * 7, kill=0.05)
    assert all(second == 0 for _, second in states)
    assert sum(first == 9 for first, _ in states) >= 5
    for k in range(7):
        read_fold(runs / f"pair{k}" / "fold-3", FOLDS)


@pytest.mark.parametrize(
    "module",
    ["nodulebook.explain.gradcam", "nodulebook.runs.network_fold", "study.own_scans.networks"],
)
def test_another_projects_keras_json_decides_nothing(tmp_path: Path, module: str) -> None:
    """These modules import Keras first, before any other of the library's."""
    (tmp_path / ".keras").mkdir()
    settings = {"backend": "numpy", "floatx": "float64", "image_data_format": "channels_first"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    home = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")}
    code = (
        f"import {module}, keras; from nodulebook.model.backend import make_deterministic\n"
        "make_deterministic(0)\n"
        "c = keras.config; print(c.backend(), c.floatx(), c.image_data_format())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=home | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["tensorflow", "float32", "channels_last"], done.stderr


def test_settings_from_outside_are_set_or_noted() -> None:
    home = os.environ | {"TF_NUM_INTRAOP_THREADS": "7", "KERAS_BACKEND": ""}
    code = (
        "import os, json, nodulebook.model\n"
        "print(json.dumps({k: os.environ[k] for k in ('KERAS_BACKEND', 'TF_NUM_INTRAOP_THREADS')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True)
    assert json.loads(done.stdout) == {"KERAS_BACKEND": "tensorflow", "TF_NUM_INTRAOP_THREADS": "1"}


def test_harmless_variables_are_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = {
        "TF_CPP_MIN_LOG_LEVEL",
        "KERAS_HOME",
        "HOME",
        "TF_VAR_password",
        "TF_CLI_CONFIG_FILE",
    }
    for name in harmless:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("XLA_FLAGS", "--xla")
    noted = environment.noted_environment()
    assert noted["XLA_FLAGS"] == "--xla"
    assert not harmless & set(noted)


def test_locks_lie_in_the_folder_of_runs(runs: Path) -> None:
    assert paths.lock_file("trials/wide", 2).parent == runs / ".locks"
