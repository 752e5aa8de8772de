"""A small world for tests that train: real chapters and tables, a tiny profile, made patches."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nodulebook.core import paths
from nodulebook.core.files import sha256
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.patches.cube import PATCH_SIZE
from nodulebook.patches.sources import phantom
from nodulebook.patches.store import Patch, write_store

TINY = """
description: for tests
seed: 3
network:
  filters: [4, 4, 4, 4]
  modules: [1, 1, 1, 1]
  input_pooling: 2
  pool_after: [first_convolution, stage1]
training:
  epochs: 10
  batch_size: 64
  learning_rate: 0.05
  learning_rate_drops: [2]
"""


def _made_patches(n_nodules: int) -> dict[str, Patch]:
    """Balls whose size goes with the label, in noise: something to learn, quick to make."""
    generator = np.random.default_rng(0)
    offset = np.arange(PATCH_SIZE) - (PATCH_SIZE - 1) / 2
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(offset, offset, offset)))
    patches = {}
    for row in read_folds().head(n_nodules).itertuples():
        mask = radius < 4 + 5 * row.label + generator.random()
        noise = generator.normal(0, 60, mask.shape)
        patches[row.nodule_id] = Patch(
            row.nodule_id, (np.where(mask, 40, -860) + noise).astype(np.int16), mask
        )
    return patches


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project root: chapters and data as they are, a profile `tiny`, a phantom store of balls.

    Its patches hold the first 150 labelled nodules only, which also tests sources with absent
    nodules.
    """
    root = tmp_path_factory.mktemp("world")
    for name in ("chapters", "data"):
        shutil.copytree(
            paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("patches", "*.ipynb")
        )
    shutil.copytree(paths.PROFILES, root / "profiles")
    shutil.copy(paths.ROOT / "_toc.yml", root)
    (root / "profiles" / "tiny.yaml").write_text(TINY)
    patches = _made_patches(150)
    nodules = read_nodules()
    recipe = phantom.recipe(None) | {"nodules_csv": sha256(paths.NODULES_CSV)}
    write_store(
        root / "data" / "patches" / "phantom", "phantom", iter(patches.values()), nodules, recipe
    )
    return root


@pytest.fixture
def world_env(small_world: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a command in the small world, with runs of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NODULEBOOK_")}
    return kept | {
        "NODULEBOOK_ROOT": str(small_world),
        "NODULEBOOK_RUNS": str(tmp_path / "runs"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
