"""The labels of the book's chapters, read from their text."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nodulebook.core import paths
from nodulebook.core.errors import InputError


@dataclass(frozen=True)
class Label:
    """A place of a page that can be linked to."""

    name: str
    kind: Literal["section", "numbered", "equation"]
    title: str
    """Of a section: the heading after its label, or the last one before it; else the label in
    words.
    """

    @property
    def html_id(self) -> str:
        """The id that Sphinx gives the place."""
        return f"equation-{self.name}" if self.kind == "equation" else self.name

    @property
    def myst(self) -> str:
        """A link to the place, in MyST."""
        if self.kind == "section":
            return f"{{ref}}`{self.title} <{self.name}>`"
        return f"Eq. {{eq}}`{self.name}`" if self.kind == "equation" else f"{{numref}}`{self.name}`"


def page_labels(page: Path) -> dict[str, Label]:
    """The labels of a chapter, by name.

    These are `(label)=`, `:name: label` and `$$ (label)` of its text, and every string
    `"tab-..."` of its code cells.

    Raises:
        InputError: there is no such page.
    """
    if not page.is_file():
        raise InputError(f"{page}: there is no such page")
    text = page.read_text(encoding="utf-8")
    cells = "\n".join(re.findall(r"^```\{code-cell\}.*?^```$", text, flags=re.M | re.S))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    found = [
        Label(one[1], "section", (one[2] or _heading_before(text[: one.start()])) or _words(one[1]))
        for one in re.finditer(r"^\(([\w-]+)\)=\n+(?:#+ +(.+))?", text, flags=re.M)
    ]
    numbered = re.findall(r"^:name: ([\w-]+)$", text, flags=re.M)
    numbered += re.findall(r'"(tab-[\w-]+)"', cells)
    found += [Label(name, "numbered", _words(name)) for name in numbered]
    equations = re.findall(r"^\$\$ \(([\w-]+)\)$", text, flags=re.M)
    found += [Label(name, "equation", _words(name)) for name in equations]
    return {label.name: label for label in found}


def all_labels(root: Path | None = None) -> dict[str, dict[str, Label]]:
    """The labels of every chapter: `chapters/<page>.md` to label to `Label`."""
    pages = sorted(((root or paths.ROOT) / "chapters").glob("*.md"))
    return {f"chapters/{page.name}": page_labels(page) for page in pages}


def _heading_before(text: str) -> str:
    """The last heading of a text, or ""."""
    found = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    return found[-1].strip() if found else ""


def _words(name: str) -> str:
    """`tab-paper-sizes` to "table: paper sizes"."""
    kinds = {"tab": "table: ", "fig": "figure: ", "eq": "equation: "}
    first, _, rest = name.partition("-")
    return kinds[first] + rest.replace("-", " ") if first in kinds else name.replace("-", " ")
