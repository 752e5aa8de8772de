"""Numbers, shares and intervals as the book prints them."""

import numpy as np

from nodulebook.stats.bootstrap import Interval


def number(value: float, digits: int = 3) -> str:
    """A number with a minus sign (not a hyphen), none before a zero; "undefined" for nan."""
    return "undefined" if np.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """A share, 0 to 1, as a percentage; "undefined" for nan."""
    return "undefined" if np.isnan(value) else f"{number(100 * value, digits)} %"


def interval(value: Interval, digits: int = 3) -> str:
    """`0.912 (0.890 to 0.931)`; "undefined" for nan."""
    if np.isnan(value.estimate):
        return "undefined"
    estimate, low, high = (number(v, digits) for v in (value.estimate, value.low, value.high))
    return f"{estimate} ({low} to {high})"
