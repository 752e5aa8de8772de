"""The chapter's example: on real CT where it is, on the phantom elsewhere; named as what it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_volumes import lidc_dicom, real_dicom

from nodulebook.patches.sources import SOURCES
from nodulebook.patches.store import PatchStore
from study.figures import walkthrough


@pytest.fixture
def store() -> Iterator[PatchStore]:
    """A phantom store of one ball of soft tissue."""
    offset = np.arange(32) - 15.5
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(offset, offset, offset)))
    volume = np.where(radius < 8, 40, -860).astype(np.int16)
    table = pd.DataFrame({"nodule_id": [walkthrough.NODULE]})
    yield PatchStore("phantom", volume[None], radius[None] < 8, table, "", {})


def test_without_data_the_example_is_the_phantom(
    store: PatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODULEBOOK_DATA", raising=False)
    shown = walkthrough.example(store)
    assert shown.is_phantom and shown.source == SOURCES["phantom"]
    # To the scan's grid and back, the ball stays where it was.
    bright = np.argwhere(shown.patch_hu > -400)
    assert np.abs(bright.mean(axis=0) - 15.5).max() < 0.2
    assert len(bright) == pytest.approx(shown.mask.sum(), rel=0.1)
    assert shown.non_nodules_hu.shape == (4, 32, 32, 32)
    assert (np.median(shown.non_nodules_hu, axis=(1, 2, 3)) < -700).all()


@pytest.mark.parametrize("content", ["nothing", "no folder"])
def test_data_without_the_scan_gives_the_phantom(
    store: PatchStore, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    folder = tmp_path if content == "nothing" else tmp_path / "absent"
    monkeypatch.setenv("NODULEBOOK_DATA", str(folder))
    assert walkthrough.example(store).is_phantom


def test_the_figure_is_drawn(store: PatchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODULEBOOK_DATA", raising=False)
    shown = walkthrough.example(store)
    assert len(walkthrough.scan_to_patch_figure(shown).axes) == 3


@real_dicom
def test_with_the_scan_the_example_is_real(
    store: PatchStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_PATCHES", str(tmp_path / "patches"))
    monkeypatch.setenv("NODULEBOOK_DATA", str(lidc_dicom()))
    shown = walkthrough.example(store)
    assert shown.source == SOURCES["idc"] and not shown.is_phantom
    assert np.median(shown.patch_hu[shown.mask]) > -100
    assert len(shown.non_nodules_hu) == 4
    assert (np.median(shown.non_nodules_hu, axis=(1, 2, 3)) < -750).all()
