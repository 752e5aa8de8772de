"""Sphinx extension: the ledger of claims names figures, tables and equations by their numbers.

The ledger is HTML that a cell makes before Sphinx has numbered anything. Its links to numbered
places have the class `numbered` and end in the label's words ("Results › table: primary"); here
the words give way to the number ("Results › Table 36").
"""

import html
import re
from collections.abc import Mapping
from typing import Any

LINK = re.compile(r'(<a class="numbered" href="[^"#]*#([^"]+)">)([^<]*)(</a>)')
BETWEEN = " › "


def with_numbers(body: str, numbers: Mapping[str, str]) -> str:
    """The page with the numbers of `numbers` (id of the place -> "Table 36") in the links."""

    def named(link: re.Match[str]) -> str:
        start, place, text, end = link.groups()
        if place not in numbers:
            return link[0]
        chapter = text.rpartition(BETWEEN)[0]
        return f"{start}{chapter}{BETWEEN}{html.escape(numbers[place])}{end}"

    return LINK.sub(named, body)


def numbers_of(
    toc_fignumbers: Mapping[str, Mapping[str, Mapping[str, tuple[int, ...]]]],
    formats: Mapping[str, str],
) -> dict[str, str]:
    """The text of every number of the book, by the id of its place.

    Args:
        toc_fignumbers: of Sphinx's environment: page -> kind -> id -> number.
        formats: kind -> text with one "%s".
    """
    return {
        place: formats[kind] % ".".join(map(str, number))
        for kinds in toc_fignumbers.values()
        for kind, places in kinds.items()
        if kind in formats
        for place, number in places.items()
    }


def add_to_page(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx's event `html-page-context`."""
    if LINK.search(context.get("body", "")):
        formats = {**app.config.numfig_format, "displaymath": "Eq. (%s)"}
        numbers = numbers_of(app.env.toc_fignumbers, formats)
        context["body"] = with_numbers(context["body"], numbers)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("html-page-context", add_to_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
