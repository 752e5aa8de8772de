"""Figures of the book: SVG; the same data give the same file, so that builds can be compared."""

import os

import matplotlib as mpl
from IPython.core.getipython import get_ipython
from matplotlib_inline.config import InlineBackend

# Without these, matplotlib writes the time, and ids drawn at random, into each SVG.
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
mpl.rcParams["svg.hashsalt"] = "nodulebook"
if (_shell := get_ipython()) is not None:  # type: ignore[no-untyped-call]
    InlineBackend.instance(parent=_shell).figure_formats = {"svg"}
