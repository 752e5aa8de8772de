"""Checkpoints: all numbers of a model and its optimiser, and what they belong to."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np
from numpy.typing import NDArray

from nodulebook.core.environment import noted_environment
from nodulebook.core.errors import InputError
from nodulebook.core.files import written_aside
from nodulebook.core.settings import Profile
from nodulebook.model.targets import FoldData

CHECKPOINT = "checkpoint.npz"


def model_state(model: keras.Model) -> list[Any]:
    """All variables of a model and its optimiser, in the order in which they are stored."""
    return [*model.variables, *model.optimizer.variables]


def state_values(model: keras.Model) -> list[NDArray[Any]]:
    """Copies of the numbers of `model_state`."""
    return [keras.ops.convert_to_numpy(variable.value).copy() for variable in model_state(model)]


@cache
def code_version() -> str:
    """SHA-256 of the code that computes a network's numbers, without comments and docstrings."""
    from nodulebook import model
    from nodulebook.patches import cube

    folder = Path(str(model.__file__)).parent
    digest = hashlib.sha256()
    for path in (*sorted(folder.rglob("*.py")), Path(str(cube.__file__))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(getattr(node, "body", None), list):
                node.body = [  # type: ignore[attr-defined]
                    one
                    for one in node.body  # type: ignore[attr-defined]
                    if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
                ]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def checkpoint_key(profile: Profile, data: FoldData, fold: int) -> dict[str, Any]:
    """What a checkpoint belongs to: settings, patches, split, targets, and what computes."""
    split = hashlib.sha256(data.train.to_csv(index=False).encode())
    split.update(data.test[["nodule_id"]].to_csv(index=False).encode())
    return {
        "profile_hash": profile.hash(),
        "data_hash": data.digest,
        "fold": fold,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "split": split.hexdigest(),
        "code": code_version(),
        "environment": noted_environment(),
    }


def save_checkpoint(
    path: Path, model: keras.Model, history: list[dict[str, float]], key: dict[str, Any]
) -> None:
    """All of a model's and its optimizer's numbers, and what they belong to."""
    about = json.dumps({"history": history, "key": key})
    arrays: Any = {f"v{i:04d}": value for i, value in enumerate(state_values(model))}
    with written_aside(path) as aside:
        np.savez(aside, about=np.array(about), **arrays)


def load_checkpoint(
    path: Path, model: keras.Model, key: dict[str, Any], finished: bool = False
) -> list[dict[str, float]] | None:
    """Put a checkpoint into the model; its history, or None where it is of another run (key).

    With `finished` the training has ended: code, environment and backend may have changed since,
    and files of versions that did not note the split are taken. Only the whole key lets a training
    go on.

    Raises:
        InputError: the file is damaged, or holds another network's numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            stored_key = about["key"]
            names = (
                (key.keys() & stored_key.keys()) - {"code", "environment", "backend"}
                if finished
                else key
            )
            if any(stored_key.get(name) != key[name] for name in names):
                return None
            for i, variable in enumerate(model_state(model)):
                variable.assign(stored[f"v{i:04d}"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{path}: not a checkpoint of this network ({error}); delete it") from None
    history: list[dict[str, float]] = about["history"]
    return history
