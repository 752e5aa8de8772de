"""The frame of a chapter, and habits of language that the book leaves out."""

import re

import pytest
import yaml

from bookkit.checks.run import all_prose
from nodulebook.core import paths

WITHOUT_FRAME = {
    "api", "runs", "contributing", "glossary", "references", "explanations_appendix",
    "move", "playground", "model_card",
}  # fmt: skip
"""Pages that are looked things up in; they teach nothing."""

HABITS = re.compile(
    r"\ba row a\b|\b(?:come|comes|came|coming) out\b|\btold apart\b|\bat hand\b|\bbeside\b|\banew\b"
    r"|\bcan be had\b|\bthe way works\b|\bstands (?:beside|below|above)\b"
    r"|\blies (?:below|above|beside)\b|\bwhat is there\b",
    re.I,
)
POINT = r"\n(?:-|\d\.) "


def chapters() -> list[str]:
    """The pages of the table of contents that are read as chapters."""
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text())
    names = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [name for name in names if name.removeprefix("chapters/") not in WITHOUT_FRAME]


@pytest.mark.parametrize("name", chapters())
def test_a_chapter_has_its_frame(name: str) -> None:
    """Objectives, the answer before the first table, take-aways at the end."""
    text = (paths.ROOT / f"{name}.md").read_text()
    places = [
        text.find(f"{{admonition}} {words}") for words in ("What you will learn", "Key results")
    ]
    ends = [m.start() for m in re.finditer(r"^## Take-aways|\{admonition\} Take-aways", text, re.M)]
    assert -1 not in places and places == sorted(places) and ends, name
    tables = [m.start() for m in re.finditer(r"tables\.\w+\(|^\|", text, re.M)]
    assert not tables or places[1] < min(tables), name
    assert ends[-1] > places[1] and len(re.findall(POINT, text[ends[-1] :])) >= 3, name
    assert len(re.findall(POINT, text[places[0] : places[1]])) == 3, name


def test_banned_habits_are_absent() -> None:
    assert not [
        f"{line.page} {line.where}: {one[0]}"
        for line in all_prose()
        for one in HABITS.finditer(line.text)
    ]
