"""The prose of a page: what a reader reads, without code, formulas and link targets."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from nodulebook.core.errors import InputError

PROSE_FENCES = ("{glossary}", "{note}", "{tip}", "{warning}", "{admonition}", "{dropdown}",
                "{glue:figure}", "{figure}", "{table}", "{solution}", "{exercise}")  # fmt: skip
"""Fenced blocks that hold text; every other holds code or a picture."""

TITLE_ROLES = ("ref", "term", "doc", "numref")
"""Roles that show the words before `<...>`; a bare `{term}` shows its words, too."""

MARKDOWN = create_md_parser(
    MdParserConfig(
        enable_extensions={"colon_fence", "dollarmath", "linkify", "substitution", "deflist"},
        linkify_fuzzy_links=False,
    ),
    RendererHTML,
)


@dataclass(frozen=True)
class Line:
    """A line of prose."""

    page: str
    """The page as it is named in findings, such as `chapters/results.md`."""
    number: int
    """From 1 on, in the page's file."""
    text: str

    @property
    def where(self) -> str:
        """Page and number, as findings name a line."""
        return f"{self.page}:{self.number}"


def read_prose(page: Path, root: Path) -> list[Line]:
    """The prose of a page of markdown: its text, and the sentences that its cells print.

    A sentence of a cell is a string constant with at least two spaces: a caption, or the text
    of a `glue`.

    Args:
        page: a file of MyST markdown.
        root: the folder that findings are named from.

    Raises:
        InputError: there is no such page.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page}: cannot be read ({error.strerror})") from None
    name = page.relative_to(root).as_posix()
    lines: dict[int, str] = {}
    for number, part in _parts(text, 1):
        lines[number] = lines.get(number, "") + part
    return [Line(name, n, lines[n].strip()) for n in sorted(lines) if lines[n].strip()]


def _parts(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Numbers of lines and pieces of their prose; `first` is the number of the first line."""
    line = first
    for token in MARKDOWN.parse(text):
        if token.map:
            line = first + token.map[0]
        if token.type == "inline":
            yield from _inline(token, line)
            yield line, " "
        elif token.type in ("fence", "colon_fence"):
            name, _, title = token.info.partition("}")
            inside = _without_options(token.content)
            if name == "{code-cell":
                yield from _sentences(inside, line + 1)
            elif f"{name}}}" in PROSE_FENCES:
                yield from [] if name.endswith("figure") else _parts(title.strip(), line)
                yield from _parts(inside, line + 1)


def _inline(block: Token, line: int) -> Iterator[tuple[int, str]]:
    """The text of a paragraph, heading or cell of a table."""
    address = False
    for token in block.children or []:
        if token.type in ("softbreak", "hardbreak"):
            line += 1
        elif token.type == "link_open":
            address = token.markup in ("linkify", "autolink")
        elif token.type == "link_close":
            address = False
        elif token.type == "text" and not address:
            yield line, re.sub(r"\bdoi \S+", " ", token.content)
        elif token.type == "myst_role" and token.meta["name"] in TITLE_ROLES:
            title, bracket, _ = token.content.partition("<")
            yield line, title.rstrip() if bracket or token.meta["name"] == "term" else " "
        else:
            yield line, " " * (not token.type.endswith(("_open", "_close")))


def _without_options(code: str) -> str:
    """A directive's inside with the options before it blanked, which keeps numbers of lines."""
    return re.sub(
        r"\A---\n(?:.*\n)*?---$|^:[\w-]+:.*$",
        lambda found: "\n" * found[0].count("\n"), code, flags=re.M,
    )  # fmt: skip


def _sentences(code: str, start: int) -> Iterator[tuple[int, str]]:
    """String constants of a cell that read as text; `start`: number of the cell's first line."""
    try:
        tree = ast.parse(re.sub("^[!%].*$", "", code, flags=re.M))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = "".join(part for _, part in _parts(node.value, 1)).strip()
            if text.count(" ") >= 2:
                yield start + node.lineno - 1, f"{text} "
