"""Tables of the book, computed from the committed runs."""

from study.report import contrasts, method, names, pooled, primary, rule_effects, trials
from study.report.works import ceiling, comparison, literature

__all__ = [
    "ceiling", "comparison", "contrasts", "literature", "method", "names", "pooled",
    "primary", "rule_effects", "trials",
]  # fmt: skip
