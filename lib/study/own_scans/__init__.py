"""Scores on a user's own scans: positions and scans in, probabilities, a page and measures out."""

from importlib import import_module
from typing import Any

_WHERE = {
    "find_scans": "scans",
    "networks_of_profile": "networks",
    "read_manifest": "released",
    "release_results": "card",
    "read_positions": "positions",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    """The functions that chapters use; Keras is imported only where it is needed."""
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"study.own_scans.{_WHERE[name]}"), name)
