"""The paper's figures and tables, and where the book has the like of each."""

from pathlib import Path

import pandas as pd

from bookkit.ledger.labels import all_labels
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_csv

ORIGINALS = (*(f"Fig. {n}" for n in range(1, 13)), *(f"Table {n}" for n in range(1, 5)))
"""The paper's figures and tables, in its order."""

COLUMNS = ["original", "shows", "missing", "page", "labels", "ours"]


def read_counterparts(path: Path | None = None) -> pd.DataFrame:
    """The counterparts, one row per figure or table of the paper.

    Returns:
        Columns as in `COLUMNS`, all text; `labels` has one label or more, apart by spaces, the
        first of them on `page`.

    Raises:
        InputError: a figure or table has no row or two, or a row's label is not in the book.
    """
    path = path or paths.DATA / "counterparts.csv"
    table = read_csv(path, {"original": "str", "page": "str", "labels": "str"})
    if list(table.columns) != COLUMNS:
        raise InputError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    if tuple(table["original"]) != ORIGINALS:
        raise InputError(f"{path}: must have a row for each of {', '.join(ORIGINALS)}, in order")
    pages = all_labels()
    everywhere = {label for labels in pages.values() for label in labels}
    for row in table.to_dict("records"):
        first, *others = row["labels"].split() or [""]
        if first not in pages.get(f"chapters/{row['page']}.md", {}):
            raise InputError(f"{path}: {row['original']}: {row['page']} has no label {first!r}")
        for label in set(others) - everywhere:
            raise InputError(f"{path}: {row['original']}: no page has the label {label!r}")
    return table


def counterpart_table(counterparts: pd.DataFrame) -> pd.DataFrame:
    """The same for a page: MyST text, with numbers and links to our figures and tables."""
    numbers = [
        ", ".join(f"{{numref}}`{label}`" for label in labels.split())
        for labels in counterparts["labels"]
    ]
    return pd.DataFrame(
        {
            "the paper": counterparts["original"],
            "what it shows": counterparts["shows"],
            "our figure or table": numbers,
            "chapter": [f"{{ref}}`{page.replace('_', '-')}`" for page in counterparts["page"]],
            "not available to us": counterparts["missing"],
            "how ours differs": counterparts["ours"],
        }
    )
