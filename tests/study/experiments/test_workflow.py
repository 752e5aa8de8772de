"""The graph: real Snakemake, real papermill, two folds of a tiny profile."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nodulebook.core import paths
from nodulebook.runs.contract import read_fold

pytestmark = pytest.mark.slow

RUN = "graph"


@pytest.fixture(scope="module")
def graph_root(small_world: Path) -> Path:
    shutil.copytree(paths.ROOT / "workflow", small_world / "workflow", dirs_exist_ok=True)
    return small_world


def _command(runs: Path, *options: str) -> list[str]:
    settings = ["profile=tiny", f"run={RUN}", f"runs_folder={runs}", "folds=[0,1]", "explain=False"]
    program = Path(sys.executable).with_name("snakemake")
    return [str(program), *options, "--config", *settings, "--", "folds"]


def _marks(runs: Path) -> set[str]:
    return {path.name for path in (runs / ".marks" / RUN).glob("*/fold-*")}


def test_a_killed_fold_is_run_again_alone(
    graph_root: Path, tmp_path: Path, world_env: dict[str, str]
) -> None:
    runs = tmp_path / "runs"
    command = _command(runs, "--cores", "2", "--keep-going")
    started = subprocess.Popen(
        command, cwd=graph_root, env=world_env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    checkpoint = runs / RUN / ".fold-1.partial" / "checkpoint.npz"
    deadline = time.monotonic() + 400
    while not checkpoint.is_file():
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.02)
    for folder in Path("/proc").iterdir():  # the process that runs papermill for fold 1
        if not folder.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):  # another one that has ended
            words = (folder / "cmdline").read_bytes().split(b"\0")
            of_fold_1 = b"--fold" in words and words[words.index(b"--fold") + 1] == b"1"
            if of_fold_1 and str(runs).encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    output, _ = started.communicate(timeout=400)
    assert started.returncode != 0, output.decode()
    assert _marks(runs) == {"fold-0"}
    assert read_fold(runs / RUN / "fold-0") and not (runs / RUN / "fold-1").exists()

    kept = (runs / RUN / "fold-0" / "run.json").read_bytes()
    again = subprocess.run(
        _command(runs, "--cores", "2"),
        cwd=graph_root,
        env=world_env,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    said = again.stdout + again.stderr
    assert "k=1" in said and "k=0" not in said
    assert "going on after epoch" in said
    assert _marks(runs) == {"fold-0", "fold-1"} and read_fold(runs / RUN / "fold-1")
    assert (runs / RUN / "fold-0" / "run.json").read_bytes() == kept


def test_through_a_schedulers_submit_command(
    graph_root: Path, tmp_path: Path, world_env: dict[str, str]
) -> None:
    runs = tmp_path / "runs"
    options = (
        "--executor",
        "cluster-generic",
        "--jobs",
        "1",
        "--cluster-generic-submit-cmd",
        "bash",
    )
    command = [word.replace("folds=[0,1]", "folds=[1]") for word in _command(runs, *options)]
    done = subprocess.run(command, cwd=graph_root, env=world_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_fold(runs / RUN / "fold-1") and _marks(runs) == {"fold-1"}


def test_what_is_asked_is_done_although_a_book_is_built(
    graph_root: Path, tmp_path: Path, world_env: dict[str, str]
) -> None:
    """Another profile, source or seed is another question; the shell words are quoted."""
    (graph_root / "_build" / "html").mkdir(parents=True, exist_ok=True)
    (graph_root / "_build" / "html" / "index.html").touch()
    program = str(Path(sys.executable).with_name("snakemake"))
    base = [program, "-n", "-p", "--cores", "1", "--config", f"runs_folder={tmp_path / 'a b'}"]
    for asked in (["profile=tiny"], ["profile=tiny", "seed=5"], ["profile=laptop"]):
        done = subprocess.run(
            [*base, *asked], cwd=graph_root, env=world_env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" fold --fold ") == 10
        assert f"NODULEBOOK_RUNS='{tmp_path}/a b'" in done.stdout
        assert ("--run tiny-phantom-seed5 --seed 5" in done.stdout) == ("seed=5" in asked)


def test_a_mark_answers_one_question_and_the_book_is_built_again_where_it_reads_more(
    graph_root: Path, tmp_path: Path, world_env: dict[str, str]
) -> None:
    """On marks as a whole run leaves them, under one run name."""
    index = graph_root / "_build" / "html" / "index.html"
    index.parent.mkdir(parents=True, exist_ok=True)
    index.touch()
    for k in range(10):
        (tmp_path / RUN / f"fold-{k}").mkdir(parents=True)
        (tmp_path / RUN / f"fold-{k}" / "run.json").write_text("{}")

    def asked(*options: str, profile: str = "tiny", data: Path = tmp_path) -> str:
        program = str(Path(sys.executable).with_name("snakemake"))
        settings = [f"profile={profile}", f"run={RUN}", f"runs_folder={tmp_path}"]
        done = subprocess.run(
            [program, "-n", *options, "--cores", "1", "--config", *settings],
            cwd=graph_root, env=world_env | {"NODULEBOOK_DATA": str(data)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    rows = [line.split("\t") for line in asked("--summary").splitlines()]
    marks = [Path(row[0]) for row in rows if str(tmp_path) in row[0]]
    assert len(marks) == 14  # cohort, patches, ten folds, pooled.txt, book
    for mark in marks:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    now = time.time()
    for mark in marks:
        os.utime(mark, (now, now))
    assert "Nothing to be done" in asked()
    for other in (asked(profile="laptop"), asked(data=tmp_path / "elsewhere")):
        assert "rule book:" in other and other.count("rule fold:") == 10
    page = graph_root / "data" / "folds.csv"
    before = page.stat()
    try:
        os.utime(page, (now + 60, now + 60))
        again = asked()
    finally:
        os.utime(page, (before.st_atime, before.st_mtime))
    assert "rule book:" in again and "rule fold:" not in again and "rule pooled:" not in again


@pytest.mark.parametrize("wrong", ["[0,12]", "1-3", "[]", "all"])
def test_a_fold_that_there_is_not(
    wrong: str, graph_root: Path, tmp_path: Path, world_env: dict[str, str]
) -> None:
    command = [w.replace("folds=[0,1]", f"folds={wrong}") for w in _command(tmp_path, "-n")]
    done = subprocess.run(command, cwd=graph_root, env=world_env, capture_output=True, text=True)
    assert done.returncode != 0 and "name some of 0 to 9" in done.stdout + done.stderr
