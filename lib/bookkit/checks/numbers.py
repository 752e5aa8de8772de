"""Numbers that are typed into prose: each is listed, with whose it is and why, or refused.

Results come from artefacts (`bookkit.tracing.trace`). What may be typed is what no run and no
computation gives: the paper's own numbers, other works', definitions, choices. They stand in
`data/typed_numbers.yml`, by page.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bookkit.checks.prose import Line
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_yaml


class Typed(BaseModel):
    """Numbers that some pages may have in their prose."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pages: Annotated[list[str], Field(min_length=1)]
    """As `index.md`, `chapters/results.md`."""
    numbers: Annotated[list[str], Field(min_length=1)]
    """As they are printed: "97.08 %", "1,230"."""
    whose: Literal["paper", "work", "definition", "choice", "table"]
    """The paper's; another work's or a data set's own; true by definition (HU of air); chosen by
    us, and set in the code or the profiles too; the number of rows of `rows_of`."""
    why: Annotated[str, Field(min_length=5)]
    """The paper's section, the work, or the reason."""
    rows_of: str | None = None
    """A committed table that has so many rows."""


NUMBER = re.compile(
    r"""(?<![\w.,/-])            # not within a name (LUNA16, LIDC-IDRI-0003) or a longer number
    (?:\d{1,3}(?:,\d{3})+        # 1,230
      |\d*\.\d+                  # 0.9664, .91
      |\d+(?=\s?%)               # 95 %
      |\d{3,})                   # 888
    (?:\s?%)?
    (?![\w/]|\.\d|-\w)""",
    re.VERBOSE,
)
"""Decimals, percentages and numbers from 100 on; small whole numbers ("ten folds", "3 mm") are
part of the language."""

PLACES = re.compile(
    r"(?:[Ss]ections?|[Tt]ables?|Figs?\.?|[Ff]igures?|Eqs?\.?|§)\s+"
    r"\d[\d.]*(?:(?:,\s+|\s+and\s+|\s+to\s+)\d[\d.]*)*"
)
"""Names of places: "sections 3.1.1 and 5.1"."""

YEAR = re.compile(r"(?:19|20)\d\d")


def numbers_of(text: str) -> list[str]:
    """The numbers of a line of prose that must have a source, as they are printed.

    Names of sections, tables and figures and four-digit years are left out.
    """
    text = PLACES.sub(" ", text.replace("\u00a0", " "))
    found = [re.sub(r"\s?%", " %", match[0]) for match in NUMBER.finditer(text)]
    return [number for number in found if not YEAR.fullmatch(number)]


def read_typed(path: Path) -> list[Typed]:
    """The list of numbers that may be typed.

    Raises:
        InputError: no such file, or an entry with a wrong, missing or unknown field.
    """
    try:
        return TypeAdapter(list[Typed]).validate_python(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: is no list of typed numbers ({error})") from None


def wrong_row_counts(allowed: Sequence[Typed], root: Path) -> list[str]:
    """Numbers said to be those of a table's rows that are not."""
    findings = []
    for entry in allowed:
        if (entry.whose == "table") != (entry.rows_of is not None):
            findings.append(f"{entry.numbers}: `whose: table` and `rows_of` go together")
        elif entry.rows_of is not None:
            rows = f"{len(pd.read_csv(root / entry.rows_of)):,}"
            findings += [
                f"{', '.join(entry.pages)}: {number!r} is typed; {entry.rows_of} has {rows} rows"
                for number in entry.numbers
                if number != rows
            ]
    return findings


def typed_numbers(lines: Iterable[Line], allowed: Sequence[Typed], listed_in: str) -> list[str]:
    """Numbers in prose that no entry allows, and entries that no page has."""
    may = {(page, number) for entry in allowed for page in entry.pages for number in entry.numbers}
    seen: set[tuple[str, str]] = set()
    findings = []
    for line in lines:
        for number in numbers_of(line.text):
            seen.add((line.page, number))
            if (line.page, number) not in may:
                findings.append(
                    f"{line.where}: {number!r} is typed. A result is glued from its artefact "
                    f"(bookkit.tracing.trace); a number of the paper or a choice is listed in "
                    f"{listed_in}: {line.text.strip()[:80]}"
                )
    findings += [
        f"{listed_in}: {number!r} is not in the prose of {page} (any more)"
        for page, number in sorted(may - seen)
    ]
    return findings
