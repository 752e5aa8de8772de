"""Tables of the chapters on method: the cohort, and the networks."""

from nodulebook.stats.text import number, percent
from study.report.method.cohort import diameter_table, phantom_volume_table
from study.report.method.networks import layer_table, network_table

__all__ = [
    "diameter_table", "layer_table", "network_table", "number", "percent", "phantom_volume_table",
]  # fmt: skip
