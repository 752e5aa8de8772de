"""Long calls in processes of their own, several at a time."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any

from nodulebook.core.errors import InputError
from nodulebook.core.processor import usable_cores, usable_memory
from nodulebook.core.settings import N_FOLDS

OUT_OF_MEMORY = (
    "was ended from outside, most often because memory ran out; run the same command again with "
    "--jobs 1: finished folds are kept, and the others go on after their last finished epoch"
)


def default_jobs() -> int:
    """Folds to run at a time: one for each usable core, and 3 GB of usable memory for each."""
    return max(1, min(usable_cores(), N_FOLDS, usable_memory() // (3 << 30)))


def run_parallel(calls: Sequence[tuple[Any, ...]], jobs: int | None = None) -> None:
    """Run calls in processes of their own, several at a time.

    After an error no further call is started; those under way are finished, so that their work is
    kept, and the error is raised.

    Args:
        calls: a function of a module, and its arguments.
        jobs: how many at a time; `default_jobs()` where None.

    Raises:
        InputError: a process was killed.
    """
    if not calls:
        return
    jobs = min(jobs or default_jobs(), len(calls))
    # Before the processes load TensorFlow: a second thread of one only takes a core from another.
    # No number depends on it: each operation is computed by one thread as it is.
    if jobs > 1:
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    waiting = iter(calls)
    with ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        # Not all submitted at once: the pool takes calls beforehand, which cannot be cancelled.
        running: set[Future[Any]] = {pool.submit(*call) for call in islice(waiting, jobs)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                running |= {pool.submit(*call) for call in islice(waiting, len(done))}
        except BrokenProcessPool:
            raise InputError(f"a process {OUT_OF_MEMORY}") from None
        except InputError as error:
            if running:
                print(f"failed: {error}\nWaiting for those under way.", file=sys.stderr, flush=True)
            raise


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent: a fold must not train on behind a killed command."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
