"""Numbered tables of the book: data frames to MyST `table` directives."""

import re

import pandas as pd
from IPython.display import Markdown

from nodulebook.core.settings import Profile
from nodulebook.runs.arithmetic import arithmetic
from nodulebook.runs.contract import Fold


def numbered(table: pd.DataFrame, caption: str, name: str, folded: str = "") -> Markdown:
    """A table with number, caption and label, for a cell's output.

    Args:
        table: shown as it is, without its index; every cell as text.
        caption: names the data source, n, unit and interval.
        name: the label for `{numref}`.
        folded: the title of a box that the reader opens to see the table; "": always open.
    """
    caption = caption.replace("\n", " ")
    lines = [f":::{{table}} {caption}", f":name: {name}", "", *_lines(table), ":::"]
    if folded:
        lines = [f"::::{{dropdown}} {folded}", *lines, "::::"]
    return Markdown("\n".join(lines))  # type: ignore[no-untyped-call]


def plain(table: pd.DataFrame, folded: str = "", name: str = "") -> Markdown:
    """A table without a number, for pages that are looked things up in.

    Args:
        folded: the title of a box that the reader opens to see the table; "": always open.
        name: the label of that box.
    """
    lines = _lines(table)
    if folded:
        lines = [f":::{{dropdown}} {folded}", f":name: {name}", "", *lines, ":::"]
    return Markdown("\n".join(lines))  # type: ignore[no-untyped-call]


def _lines(table: pd.DataFrame) -> list[str]:
    head = "| " + " | ".join(_cell(column) for column in table.columns) + " |"
    # As objects, or whole numbers beside others would get a decimal point.
    cells = [[_cell(value) for value in row] for row in table.astype(object).to_numpy()]
    columns = list(zip(*cells, strict=True)) or [()] * len(table.columns)
    # The first column names the row; of the others those with numbers are read from the right.
    right = [index > 0 and all(map(_is_number, cells)) for index, cells in enumerate(columns)]
    rule = "|" + "|".join("---:" if numbers else ":---" for numbers in right) + "|"
    return [head, rule, *("| " + " | ".join(row) + " |" for row in cells)]


def _cell(value: object) -> str:
    """A value as text of a table; an interval in brackets, or "9 of 10", stays on one line."""
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return re.sub(
        r"\([-−\d.,% ]+ to [-−\d.,% ]+\)|[\d,]+ of [\d,]+",
        lambda m: m[0].replace(" ", "\u00a0"),
        text,
    )


def _is_number(cell: str) -> bool:
    """Whether a cell is empty, a dash, or begins as a number does ("0.912 (0.890 to 0.931)")."""
    return re.match(r"[-−]?[\d.,]|[-–—]?$|undefined", cell) is not None


def pairs(values: dict[str, object]) -> pd.DataFrame:
    """A table of two columns, for `numbered` or `plain`."""
    return pd.DataFrame(list(values.items()), columns=["", "value"], dtype=object)


def profile_table(profile: Profile, profile_name: str, name: str, folded: str = "") -> Markdown:
    """Every setting of a profile; `folded` as for `numbered`."""
    rows = {
        f"{part}: {key.replace('_', ' ')}": _plain(value)
        for part, settings in (("network", profile.network), ("training", profile.training))
        for key, value in settings.model_dump().items()
    }
    caption = f"Settings of the profile `{profile_name}`."
    return numbered(pairs({"seed": profile.seed, **rows}), caption, name, folded)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def record_table(fold: Fold, name: str) -> Markdown:
    """What `run.json` says of a fold."""
    run = fold.run
    versions = ", ".join(f"{package} {number}" for package, number in run["versions"].items())
    values: dict[str, object] = {
        "run, fold, seed": f"{run['run']}, {run['fold']}, {run['seed']}",
        "source": run["source"],
        "nodules trained on / tested": f"{run['n_train']} / {run['n_test']}",
        "profile hash": run["profile_hash"][:12],
        "data hash": run["data_hash"][:12],
        "computed with": f"{arithmetic(run)} ({_machine(run['device'])})",
        "training time": f"{run['wall_seconds']:.0f} s",
        "started": run["started"],
        "versions": versions,
    }
    return numbered(
        pairs(values),
        f"The record of fold {run['fold']} of the run `{run['run']}`, from its `run.json`.",
        name,
    )


def _machine(device: str) -> str:
    """A device without its kind ("GPU: "), which the arithmetic names already."""
    return device.partition(": ")[2] or device
