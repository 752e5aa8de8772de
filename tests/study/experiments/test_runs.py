"""Folds through papermill, as a user runs them: done, skipped, refused, killed and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest

from nodulebook.cli import main as cli
from nodulebook.core import paths
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import read_fold
from nodulebook.runs.map_scores import EXPLANATIONS, SANITY, read_explanations

pytestmark = pytest.mark.slow

NODULEBOOK = [sys.executable, "-m", "nodulebook"]


def command(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODULEBOOK, *words], env=env, capture_output=True, text=True, timeout=300, check=False
    )


def fold_command(fold: int, maps: str = "--no-explain") -> list[str]:
    return ["fold", "--fold", str(fold), "--profile", "tiny", "--source", "phantom", maps]


@pytest.fixture(scope="session")
def finished(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs after fold 3 of `tiny-phantom` was run once."""
    runs = tmp_path_factory.mktemp("finished")
    env = os.environ | {"NODULEBOOK_ROOT": str(small_world), "NODULEBOOK_RUNS": str(runs)}
    done = command(*fold_command(3, "--explain"), env=env)
    assert done.returncode == 0, done.stderr
    assert str(runs / "tiny-phantom" / "fold-3") in done.stdout  # it says where its results are
    assert "epoch 10/10" in done.stdout  # and showed progress
    return runs


def test_a_fold_is_valid_and_of_the_nodules_that_the_source_has(finished: Path) -> None:
    fold = read_fold(finished / "tiny-phantom" / "fold-3", read_folds())
    folds = read_folds()
    held_out = set(folds["nodule_id"][folds["fold"] == 3])
    assert set(fold.probabilities["nodule_id"]) == set(folds["nodule_id"].head(150)) & held_out
    assert len(fold.history) == 10
    assert fold.history["learning_rate"].tolist() == pytest.approx([0.05] * 2 + [0.005] * 8)
    assert fold.run["profile_name"] == "tiny"
    assert fold.run["n_train"] == 150 - len(fold.probabilities)


def test_a_fold_leaves_what_its_maps_are_worth(finished: Path) -> None:
    folder = finished / "tiny-phantom" / "fold-3"
    found = read_explanations(folder, read_fold(folder))
    assert found is not None
    assert set(found.sanity["check"]) == {"weights"}


def test_maps_are_measured_again_from_the_weights_beside_the_fold(
    finished: Path, world_env: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    env = world_env | {"NODULEBOOK_RUNS": str(tmp_path / "copy")}
    folder = tmp_path / "copy" / "tiny-phantom" / "fold-3"
    before = {name: (folder / name).read_bytes() for name in (EXPLANATIONS, SANITY)}
    for name in before:
        (folder / name).unlink()
    done = command("explain", "--run", "tiny-phantom", "--fold", "3", env=env)
    assert done.returncode == 0, done.stderr
    assert {name: (folder / name).read_bytes() for name in before} == before
    page = tmp_path / "study.html"
    words = ["readerstudy", "--run", "tiny-phantom", "--fold", "3", "--pairs", "2"]
    done = command(*words, "--out", str(page), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 questions")
    assert "rendered" in page.read_text()  # it says that this is no CT
    (folder / "checkpoint.npz").unlink()
    refused = command("explain", "--run", "tiny-phantom", "--fold", "3", env=env)
    assert refused.returncode == 2
    assert "checkpoint.npz" in refused.stderr and "--train-again" in refused.stderr


def test_the_executed_notebook_is_kept_without_times(finished: Path) -> None:
    notebook = nbformat.read(finished / "tiny-phantom" / "fold-3.ipynb", as_version=4)
    assert notebook.metadata["papermill"] == {
        "parameters": {
            "fold": 3,
            "profile": "tiny",
            "source": "phantom",
            "run": "",
            "data": "",
            "explain": True,
            "seed": None,
        }
    }
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    assert not list((finished / "tiny-phantom").glob(".fold*"))


def test_a_done_fold_is_skipped(finished: Path, world_env: dict[str, str]) -> None:
    record = finished / "tiny-phantom" / "fold-3" / "run.json"
    before = record.stat().st_mtime_ns
    done = command(*fold_command(3), env=world_env | {"NODULEBOOK_RUNS": str(finished)})
    assert done.returncode == 0
    assert "is done" in done.stdout
    assert record.stat().st_mtime_ns == before


def test_a_fold_run_again_gives_the_same_probabilities(
    finished: Path, world_env: dict[str, str], tmp_path: Path
) -> None:
    env = world_env | {"NODULEBOOK_RUNS": str(tmp_path / "runs")}
    shutil.copytree(finished, tmp_path / "runs")
    words = ("again", "--run", "tiny-phantom", "--fold", "3")
    done = command(*words, env=env)
    assert done.returncode == 0, done.stderr
    assert "largest difference of a probability 0;" in done.stdout
    # The second run is there to compare, and is compared: with a changed committed file it shows.
    path = tmp_path / "runs" / "tiny-phantom" / "fold-3" / "probabilities.csv"
    table = pd.read_csv(path)
    table["p_malignant"] = 1 - table["p_malignant"]
    table.to_csv(path, index=False)
    path.with_name("lesions.csv").unlink()
    done = command(*words, env=env)
    assert done.returncode == 2 and "differs by more than 0.01" in done.stderr
    record = json.loads(path.with_name("run.json").read_text())
    if record["processor"]:
        assert "processor and code are the same, so they should be identical" in done.stderr
    path.with_name("run.json").write_text(json.dumps(record | {"processor": "another"}))
    done = command(*words, env=env)
    assert done.returncode == 2
    assert "made on another with the same code, run again on " in done.stderr
    done = command("again", "--run", "nothing", "--fold", "3", env=env)
    assert done.returncode == 2 and "nothing" in done.stderr and "Traceback" not in done.stderr


def test_without_a_notebook_a_fold_has_the_same_probabilities(
    finished: Path, world_env: dict[str, str], tmp_path: Path
) -> None:
    env = world_env | {"NODULEBOOK_RUNS": str(tmp_path)}
    code = (
        "from study.experiments.folds import run_fold_without_notebook as run\n"
        "from nodulebook.core.settings import FoldParameters\n"
        "for _ in range(2): run(FoldParameters(fold=3, profile='tiny', source='phantom'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "fold 3 of tiny-phantom is done" in done.stdout  # the second time
    name = Path("tiny-phantom") / "fold-3" / "probabilities.csv"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_fold_of_other_settings_is_not_overwritten(
    finished: Path, world_env: dict[str, str]
) -> None:
    env = world_env | {"NODULEBOOK_RUNS": str(finished)}
    words = ["fold", "--fold", "3", "--profile", "quick", "--run", "tiny-phantom"]
    refused = command(*words, env=env)
    assert refused.returncode == 2
    assert "other settings" in refused.stderr and "fold-3" in refused.stderr
    read_fold(finished / "tiny-phantom" / "fold-3")


def test_settings_of_the_site_do_not_matter(
    finished: Path, world_env: dict[str, str], tmp_path: Path
) -> None:
    """Another project's keras.json, and a kernel "python3" of a site that comes first."""
    kernel = tmp_path / "site" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = ["/nowhere/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Site", "language": "python"}))
    wrong = {"backend": "torch", "floatx": "float64", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(wrong))
    env = world_env | {"JUPYTER_PATH": str(tmp_path / "site"), "KERAS_HOME": str(tmp_path)}
    done = command(*fold_command(3), env=env)
    assert done.returncode == 0, done.stderr
    name = Path("tiny-phantom") / "fold-3" / "probabilities.csv"
    theirs = Path(env["NODULEBOOK_RUNS"]) / name
    assert theirs.read_bytes() == (finished / name).read_bytes()


def test_plain_papermill_does_the_same(
    finished: Path, world_env: dict[str, str], tmp_path: Path
) -> None:
    jupytext.write(jupytext.read(paths.CHAPTERS / "training.md"), tmp_path / "training.ipynb")
    words = ["papermill", "training.ipynb", "out.ipynb", "-p", "fold", "3", "-p", "profile", "tiny"]
    words += ["-p", "explain", "False"]
    subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=world_env, check=True, timeout=300,
        capture_output=True,
    )  # fmt: skip
    ours = read_fold(finished / "tiny-phantom" / "fold-3").probabilities
    theirs = read_fold(tmp_path / "runs" / "tiny-phantom" / "fold-3").probabilities
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_killed_and_started_again_a_fold_ends_with_the_same_numbers(
    finished: Path, world_env: dict[str, str]
) -> None:
    runs = Path(world_env["NODULEBOOK_RUNS"])
    partial = runs / "tiny-phantom" / ".fold-3.partial"
    process = subprocess.Popen(
        [*NODULEBOOK, *fold_command(3)], env=world_env, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 200
        while not (partial / "checkpoint.npz").is_file():
            assert process.poll() is None, "the fold ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)  # the notebook's kernel is left to notice
        process.wait()
    assert not (partial.parent / "fold-3").exists()  # nothing that looks like a result

    again = command(*fold_command(3), env=world_env)
    assert again.returncode == 0, again.stderr
    assert "going on after epoch" in again.stdout
    fold, whole = (
        read_fold(folder / "tiny-phantom" / "fold-3")
        for folder in (Path(world_env["NODULEBOOK_RUNS"]), finished)
    )
    pd.testing.assert_frame_equal(fold.probabilities, whole.probabilities, check_exact=True)
    columns = ["epoch", "loss", "cross_entropy", "accuracy"]
    pd.testing.assert_frame_equal(fold.history[columns], whole.history[columns], check_exact=True)


def test_folds_side_by_side_end_with_their_command(
    small_world: Path, world_env: dict[str, str]
) -> None:
    """Killed, `nodulebook folds` leaves no worker and no kernel that trains on behind it."""
    text = (small_world / "profiles" / "tiny.yaml").read_text()
    long = small_world / "profiles" / "long.yaml"
    long.write_text(text.replace("epochs: 10", "epochs: 500"))
    run = Path(world_env["NODULEBOOK_RUNS"]) / "long-phantom"
    process = subprocess.Popen(
        [*NODULEBOOK, "folds", "--profile", "long", "--jobs", "2"],
        env=world_env, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while len(list(run.glob(".fold-*.partial/checkpoint.npz"))) < 2:
            assert process.poll() is None, "the folds ended before they could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        long.unlink()
    time.sleep(8)  # workers and kernels look for their parent once a second
    checkpoints = list(run.glob(".fold-*.partial/checkpoint.npz"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    time.sleep(4)
    assert [path.stat().st_mtime_ns for path in checkpoints] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fold", "--fold", "10", "--profile", "tiny"], "fold"),
        (["fold", "--fold", "-1", "--profile", "tiny"], "fold"),
        (
            ["fold", "--fold", "3", "--profile", "papr"],
            "paper-usual, paper-usual-no-se, ",
        ),
        (
            ["fold", "--fold", "3", "--source", "luna"],
            "'lidc_exact', 'lidc_grey', ",
        ),
        (["folds", "--run", "a/b"], "run"),
        (["patches", "--source", "x"], "phantom, lidc_slices"),
        (["patches", "--source", "lidc_slices"], "NODULEBOOK_DATA"),
        (["patches", "--source", "lidc_slices", "--data", "/none"], "/none"),
    ],
)
def test_wrong_words_are_refused_with_what_to_do(
    words: list[str], message: str, small_world: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(paths, "PROFILES", small_world / "profiles")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    monkeypatch.delenv("NODULEBOOK_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["nodulebook", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "patches").exists()


def test_missing_data_ends_a_fold_without_traceback(world_env: dict[str, str]) -> None:
    """The error rises in the notebook's kernel; the user sees its message alone."""
    refused = command("fold", "--fold", "3", "--source", "lidc_slices", env=world_env)
    assert refused.returncode == 2
    assert "set NODULEBOOK_DATA" in refused.stderr
    # A traceback of it would end with its name. (A busy machine's kernel may print one of its own
    # sockets when it is told to go.)
    assert "InputError" not in refused.stderr
    assert not list(Path(world_env["NODULEBOOK_RUNS"]).glob("*/fold-*"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("folds", "3", "folds: unknown"),
        ("fold", "12", "fold: Input should be less than 10"),
    ],
)
def test_plain_papermill_refuses_wrong_parameters(
    name: str, value: str, message: str, world_env: dict[str, str], tmp_path: Path
) -> None:
    jupytext.write(jupytext.read(paths.CHAPTERS / "training.md"), tmp_path / "training.ipynb")
    refused = subprocess.run(
        [sys.executable, "-m", "papermill", "training.ipynb", "out.ipynb", "-p", name, value],
        cwd=tmp_path, env=world_env, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "InputError" in refused.stderr and message in refused.stderr
    assert not Path(world_env["NODULEBOOK_RUNS"]).exists()


def test_an_unknown_profile_key_is_named(small_world: Path, world_env: dict[str, str]) -> None:
    bad = small_world / "profiles" / f"bad{os.getpid()}.yaml"
    bad.write_text((small_world / "profiles" / "tiny.yaml").read_text() + "  epoch: 5\n")
    try:
        refused = command("fold", "--fold", "1", "--profile", bad.stem, env=world_env)
    finally:
        bad.unlink()
    assert refused.returncode == 2
    assert bad.name in refused.stderr and "training.epoch: unknown" in refused.stderr
    assert "epochs" in refused.stderr  # what it could have been
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("damage", ["row", "nan", "json"])
def test_a_damaged_fold_is_named_and_left_alone(
    damage: str, finished: Path, small_world: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "tiny-phantom" / "fold-3"
    folder.mkdir(parents=True)
    for path in (finished / "tiny-phantom" / "fold-3").glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    table = (folder / "probabilities.csv").read_text().splitlines()
    if damage == "row":
        del table[5]
    elif damage == "nan":
        cells = table[5].split(",")
        table[5] = ",".join([*cells[:3], "nan", *cells[4:]])
    else:
        (folder / "run.json").write_text(json.dumps({"fold": 3}))
    (folder / "probabilities.csv").write_text("\n".join(table) + "\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(paths, "PROFILES", small_world / "profiles")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["nodulebook", *fold_command(3)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert str(folder) in said and "delete" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
