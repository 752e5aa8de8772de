"""Tables of the book, computed from the committed runs."""

from study.report import (
    ceiling,
    comparison,
    contrasts,
    literature,
    names,
    pooled,
    rule_effects,
    trials,
)

__all__ = [
    "ceiling", "comparison", "contrasts", "literature", "names", "pooled", "rule_effects",
    "trials",
]  # fmt: skip
