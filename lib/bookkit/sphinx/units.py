"""Sphinx extension: a number and what belongs to it stay on one line, in prose, captions, tables.

That is its unit, the bounds of an interval in brackets, "n =", "Fig.". Sentences are written with
plain spaces; while a page is read, those within such a quantity become spaces that do not break.
Code and formulas stay as they are.
"""

import re
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

UNITS = r"(?:%|(?:mm|cm|µm)[²³]?|HU|GB|MB|kB|ms|s|min|h)(?!\w)"
"""Units as the book writes them; words ("minutes", "voxels") may begin a line."""

_S, _N = r"[ \n\u00a0]", r"[-−]?\d[\d.,]*"
_NAMES = ("Fig.", "Figs", "Table", "Tables", "Eq.", "Eqs", "fold", "Fold", "seed", "Seed")
_AFTER_NAME = "|".join(rf"(?<=\b{re.escape(name)})" for name in _NAMES)

SPACE = re.compile(
    rf"(?<=\d)[ \n]+(?={UNITS})"
    # "(0.875 to 0.918)", "(95 % interval 0.875 to 0.918)"; "−1200 to 600 HU"
    rf"|(?<=[\d%])[ \n](?=to{_S}{_N}(?:{_S}?%)?\)|to{_S}{_N}{_S}{UNITS})"
    rf"|(?<=[\d%]{_S}to)[ \n](?={_N}(?:{_S}?%)?\)|{_N}{_S}{UNITS})"
    # "32 × 32", "3 ± 1", "n = 1,010", "p < 0.001"
    rf"|(?<=\d)[ \n](?=[×±]{_S}\d)|(?<=[×±])[ \n](?=\d)"
    rf"|(?<=\b[np])[ \n](?=[=<>≤≥]{_S}\d)|(?<=\b[np]{_S}[=<>≤≥])[ \n](?=\d)"
    # "Fig. 12", "fold 0"
    rf"|(?:{_AFTER_NAME})[ \n](?=\d)"
)
"""What a line does not end at."""

TAGS = re.compile(r"(<(script|style|pre|code|textarea)\b.*?</\2\s*>|<[^>]*>)", re.S)
"""What is no words of HTML: scripts, code and tags."""

KEPT = (nodes.literal, nodes.math, nodes.FixedTextElement, nodes.Invisible)
NO_BREAK = "\u00a0"


def joined(text: str) -> str:
    """A text with no line end possible within a quantity."""
    return SPACE.sub(NO_BREAK, text)


def joined_html(markup: str) -> str:
    """The same in the words of HTML."""
    parts, end = [], 0
    for tag in TAGS.finditer(markup):
        parts += [joined(markup[end : tag.start()]), tag[0]]
        end = tag.end()
    return "".join([*parts, joined(markup[end:])])


class NumberAndUnit(SphinxTransform):
    """Join quantities in the words of a page, a number that is glued or a link included."""

    default_priority = 840  # after what makes text, before Sphinx takes titles for references

    def apply(self, **kwargs: Any) -> None:
        """Replace the texts in which a space is joined."""
        every = list(self.document.findall(nodes.Text))
        for _, texts in groupby(every, key=lambda text: id(_block_of(text))):
            _join(list(texts))


def _join(texts: list[nodes.Text]) -> None:
    """Join in a paragraph, whose text is cut at its lines, links and formulas."""
    if isinstance(texts[0].parent, nodes.raw):
        if "html" in texts[0].parent.get("format", "").split():
            _replace(texts[0], joined_html(str(texts[0])))
        return
    letters = list("".join(texts))
    for space in SPACE.finditer("".join(letters)):
        letters[space.start() : space.end()] = [NO_BREAK] + [""] * (len(space[0]) - 1)
    end = 0
    for text in texts:
        start, end = end, end + len(text)
        if not _is_kept(text):
            _replace(text, "".join(letters[start:end]))


def _replace(text: nodes.Text, words: str) -> None:
    if words != text:
        # Not by `replace`, which takes the first text that is equal: line ends are.
        siblings = text.parent.children
        place = next(k for k, one in enumerate(siblings) if one is text)
        text.parent[place] = nodes.Text(words)


def _is_kept(text: nodes.Text) -> bool:
    at = text.parent
    while at is not None and not isinstance(at, KEPT):
        at = at.parent
    return at is not None


def _block_of(text: nodes.Text) -> nodes.Node | None:
    """The paragraph, title or caption that a text is part of."""
    at = text.parent
    while isinstance(at, nodes.Inline) and at.parent is not None:
        at = at.parent
    return at


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(NumberAndUnit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
