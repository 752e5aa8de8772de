"""Figures of the book: the same data give the same file, so that two builds can be compared."""

import os

import matplotlib as mpl

# Without these, matplotlib writes the time, and ids drawn at random, into each SVG.
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
mpl.rcParams["svg.hashsalt"] = "nodulebook"
