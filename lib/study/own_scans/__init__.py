"""Scores on a user's own scans: positions and scans in, probabilities, a page and measures out."""

from importlib import import_module
from typing import Any

_WHERE = {
    "find_scans": "own_scans.scans",
    "networks_of_profile": "own_scans.networks",
    "read_manifest": "own_scans.released",
    "release_results": "report.method.card",
    "read_positions": "own_scans.positions",
    "score": "own_scans.scoring",
}


def __getattr__(name: str) -> Any:
    """The functions that chapters use; Keras is imported only where it is needed."""
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"study.{_WHERE[name]}"), name)
