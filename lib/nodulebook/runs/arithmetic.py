"""The arithmetic of folds: backend, precision and kind of device, said wherever folds are pooled.

A run may be finished on another machine, so folds that were computed differently are not refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
_PRECISIONS = {"tensorfloat32": "TF32"}


def arithmetic(record: Mapping[str, Any]) -> str:
    """How a fold was computed, as "JAX TF32, GPU".

    Args:
        record: the fold's run.json. Folds that were trained on a CPU before the precision was
            noted are in float32, the profile's only precision.
    """
    backend, device = str(record["backend"]), str(record["device"]).partition(":")[0]
    if backend not in _BACKENDS:
        return f"{backend}, {device}"
    noted = record.get("precision") or record.get("stacked", {}).get("precision")
    precision = noted or ("float32" if device == "CPU" else "precision not recorded")
    return f"{_BACKENDS[backend]} {_PRECISIONS.get(precision, precision)}, {device}"


def arithmetics(records: Iterable[Mapping[str, Any]]) -> str:
    """The arithmetic of a run's folds; where it differs, with the folds that each was used for."""
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(arithmetic(record), []).append(str(record["fold"]))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{text} (folds {', '.join(folds)})" for text, folds in found.items())
