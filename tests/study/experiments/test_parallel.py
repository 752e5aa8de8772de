"""Calls in processes of their own: an error ends the queue, a killed process is said."""

import os
import signal
import time
from pathlib import Path

import pytest

from nodulebook.core import processor
from nodulebook.core.errors import InputError
from study.experiments import parallel


def wrong(folder: Path) -> None:
    (folder / "wrong").touch()
    raise InputError("the first error")


def mark(folder: Path, name: str) -> None:
    time.sleep(0.2)
    (folder / name).touch()


def killed(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_a_failure_queued_calls_are_not_started(tmp_path: Path) -> None:
    calls = [(mark, tmp_path, "first"), (wrong, tmp_path)]
    calls += [(mark, tmp_path, f"queued-{k}") for k in range(5)]
    with pytest.raises(InputError, match="the first error"):
        parallel.run_parallel(calls, jobs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "wrong"}


def test_a_killed_process_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs 1"):
        parallel.run_parallel([(killed, tmp_path), (mark, tmp_path, "x")], jobs=1)


def test_jobs_follow_what_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CGROUP", tmp_path)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 8)
    (tmp_path / "memory.max").write_text(f"{7 << 30}\n")
    assert processor.usable_memory() <= 7 << 30
    assert parallel.default_jobs() == 2
    (tmp_path / "memory.max").write_text("1000000\n")
    assert parallel.default_jobs() == 1
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert processor.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
