"""A network's weights in a small file that holds no code: for weights that are given to others.

An `.npz` archive of half-precision arrays, one per variable, under the variable's path. It is read
without pickle, so opening a file from elsewhere can do no more than fail.
"""

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.files import written_aside

Weights = Mapping[str, NDArray[np.float32]]


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """What a prediction depends on; seeds of random generators are left out."""
    return {v.path: v for v in model.variables if "seed_generator" not in v.path}


def save_weights(path: Path, model: keras.Model) -> None:
    """Write a model's weights, rounded to half precision (3 digits).

    Raises:
        InputError: a weight is beyond half precision's range of 65,504, or not finite.
    """
    arrays = {}
    for name, variable in _variables(model).items():
        with np.errstate(over="ignore"):
            arrays[name] = keras.ops.convert_to_numpy(variable.value).astype(np.float16)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: {name} has values that half precision cannot hold")
    with written_aside(path) as aside:
        np.savez_compressed(aside, **arrays)  # type: ignore[arg-type]


def read_weights(path: Path, model: keras.Model) -> Weights:
    """Read weights for a model, by the variables' paths.

    Raises:
        InputError: the file cannot be read, or holds another network's weights.
    """
    wanted = _variables(model)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if set(stored.files) != set(wanted):
                other = sorted(set(stored.files) ^ set(wanted))
                raise InputError(f"{path}: weights of another network ({other[0]} differs)")
            weights = {name: stored[name].astype(np.float32) for name in stored.files}
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as weights ({error})") from None
    for name, variable in wanted.items():
        if weights[name].shape != tuple(variable.shape) or not np.isfinite(weights[name]).all():
            raise InputError(f"{path}: {name} does not fit this network")
    return weights


def put_weights(model: keras.Model, weights: Weights) -> None:
    """Give a model weights from `read_weights`."""
    for name, variable in _variables(model).items():
        variable.assign(weights[name])
