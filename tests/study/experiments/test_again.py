"""A re-run says what is known to differ, and does not name a cause that it does not know."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import keras
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import read_fold
from study.experiments import again as module
from study.experiments.again import Again, run_again
from study.experiments.baseline import RUN, run_diameter

EPYC, XEON = "AMD EPYC", "Intel Xeon"


@pytest.mark.parametrize(
    ("processors", "same_code", "identical"),
    [
        ((EPYC, EPYC), True, True),
        ((EPYC, XEON), True, False),
        ((EPYC, EPYC), False, False),
        ((EPYC, EPYC), None, False),
        (("", ""), True, False),
    ],
)
def test_only_the_same_processor_and_code_promise_the_same_numbers(
    processors, same_code, identical
):
    reason = Again(0.1, 0.9, 0.8, *processors, same_code).reason
    assert ("identical" in reason) == identical
    assert identical or "code" in reason


def test_a_fold_of_another_backend_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    committed = paths.fold_folder("paper-usual-lidc_slices", 3)
    assert read_fold(committed).run["stacked"] == {"together": 5, "precision": "tensorfloat32"}
    shutil.copytree(committed, tmp_path / "paper-usual-lidc_slices" / "fold-3")
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(InputError, match="KERAS_BACKEND=jax"):
        run_again("paper-usual-lidc_slices", 3)
    assert not (tmp_path / ".again").exists()


def test_two_at_once_do_not_delete_each_others_fold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NODULEBOOK_RUNS", str(tmp_path))
    run_diameter(read_nodules(), read_folds(), [2])
    made, compared = Event(), Event()

    def slowly(*arguments: object) -> None:
        if made.is_set():  # the second: the first should have read its fold before
            compared.wait(5)
        run_diameter(*arguments)  # type: ignore[arg-type]
        made.set()
        time.sleep(0.3)

    monkeypatch.setattr(module, "run_diameter", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(module.run_again, RUN, 2)
        assert made.wait(60)
        second = pool.submit(module.run_again, RUN, 2)
        try:
            assert first.result(60).largest_difference == 0
        finally:
            compared.set()
        assert second.result(60).largest_difference == 0
