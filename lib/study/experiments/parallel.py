"""Long calls in processes of their own, some at a time."""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from nodulebook.core.settings import N_FOLDS


def default_jobs() -> int:
    """How many folds to run side by side: one a core, and 3 GB of memory for each."""
    cores = os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        memory = 8 << 30
    return max(1, min(cores, N_FOLDS, memory // (3 << 30)))


def run_side_by_side(calls: Sequence[tuple[Any, ...]], jobs: int | None = None) -> None:
    """Run calls in processes of their own, some at a time; the first error is raised at the end.

    Args:
        calls: a function of a module, and its arguments.
        jobs: how many at a time; `default_jobs()` where None.
    """
    if not calls:
        return
    jobs = min(jobs or default_jobs(), len(calls))
    # Before the processes load TensorFlow: a second thread of one only takes a core from another.
    # No number depends on it: each operation is computed by one thread as it is.
    if jobs > 1:
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    with ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        for future in [pool.submit(*call) for call in calls]:
            future.result()


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent: a fold must not train on behind a killed command."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
