"""The prose of a page: what a reader reads, without code, formulas and link targets."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from nodulebook.core.errors import InputError

PROSE_FENCES = ("{glossary}", "{note}", "{tip}", "{warning}", "{admonition}", "{dropdown}",
                "{glue:figure}", "{figure}", "{solution}", "{exercise}")  # fmt: skip
"""Fenced blocks whose inside is text; the inside of every other is code or a picture."""

TITLE_ROLES = ("ref", "term", "doc", "numref")
"""Roles that show the words before `<...>`; a bare `{term}` shows its words, too."""


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
    text, cells = _without_code(_without_front_matter(text))
    sentences = [pair for start, code in cells for pair in _sentences(code, start)]
    numbered = [*enumerate(_without_markup(text).split("\n"), start=1), *sentences]
    return [Line(name, n, line) for n, line in sorted(numbered) if line.strip()]


def _blank(found: re.Match[str]) -> str:
    """As many lines, with nothing on them: line numbers stay as they are."""
    return re.sub(r"[^\n]", " ", found[0])


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", _blank, text, flags=re.S)


def _without_code(text: str) -> tuple[str, list[tuple[int, str]]]:
    """The text with its code blanked, and the code cells: first line's number, code."""
    cells: list[tuple[int, str]] = []
    kept: list[str] = []
    fence, code, is_cell = "", [""], False
    for number, line in enumerate(text.split("\n"), start=1):
        opening = re.match(r"\s*(`{3,}|:{3,}|~{3,})(\S*)", line)
        if fence:  # inside code
            if opening and not opening[2] and opening[1].startswith(fence):
                fence = ""
                if is_cell:
                    cells.append((number - len(code), "\n".join(code)))
            else:
                code.append(line)
            kept.append("")
        elif opening and opening[2] and not opening[2].startswith(PROSE_FENCES):
            fence, code, is_cell = opening[1], [], opening[2] == "{code-cell}"
            kept.append("")
        elif opening:  # the first line of a block of prose, or its end
            name, _, title = line.partition("}")
            kept.append("" if name.endswith("figure") else title)  # there it names a file
        else:
            kept.append(line)
    return "\n".join(kept), cells


def _sentences(code: str, start: int) -> list[tuple[int, str]]:
    """String constants of a cell that read as text; `start`: number of the cell's first line."""
    # Options of the cell come before the code: `:tags: [...]`, or a block between lines of `---`.
    code = re.sub(r"\A---\n.*?\n---$", _blank, code, flags=re.S | re.M)
    code = "\n".join("" if line.startswith(":") else line for line in code.split("\n"))
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = _without_markup(node.value).strip()
            if text.count(" ") >= 2:
                found.append((start + node.lineno - 1, text.replace("\n", " ")))
    return found


def _without_markup(text: str) -> str:
    text = re.sub(r"\$\$.*?\$\$( \([\w-]+\))?", _blank, text, flags=re.S)
    text = re.sub(r"\$[^$\n]+?\$", _blank, text)
    text = re.sub(r"\{([\w:-]+)\}`([^`]*)`", _role, text)
    text = re.sub(r"`+[^`]*?`+", _blank, text)
    text = re.sub(r"\]\([^)]*\)|<?https?://\S+", _blank, text)
    text = re.sub(r"<[^<>\n]*>|<\w+ [^<>\n]*$|\bdoi \S+", _blank, text, flags=re.M)
    return re.sub(r"^(\([\w-]+\)=|:\w+:.*)$", _blank, text, flags=re.M)


def _role(found: re.Match[str]) -> str:
    name, inside = found[1], found[2]
    title, bracket, _ = inside.partition("<")
    if name == "term" or (name in TITLE_ROLES and bracket):
        # As long as it was, so that what follows keeps its place.
        return title.rstrip() if bracket else inside
    return _blank(found)
