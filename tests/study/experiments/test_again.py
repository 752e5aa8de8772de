"""A re-run says what is known to differ, and does not name a cause that it does not know."""

import shutil

import keras
import pytest

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.runs.contract import read_fold
from study.experiments.again import Again, run_again

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
