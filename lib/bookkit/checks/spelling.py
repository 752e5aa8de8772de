"""Spelling of the prose: misspelt, unknown and American words (the book's spelling is British).

codespell has the misspellings and both spellings, pyspellchecker the words that there are, and
`data/words.txt` our own.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from bookkit.checks.prose import Line
from nodulebook.core.errors import InputError

WORD = re.compile(r"[^\W\d_²³]+(?:['’][^\W\d_²³]+)*")
LISTED_WORDS = "data/words.txt"
AMERICAN = re.compile(
    r".{3,}[^s][iy]z(?:e[ds]?|ing|ations?)|(?:tum|vap|rum|neighb)or(?:s|ed|ing)?|(?:fib|lit)ers?"
)
"""Families of American forms that codespell has only in part."""
BOTH = ("license", "licenses", "meter", "meters", "practice", "practices", "program", "programs")
"""British words, too, with another meaning than the pair that codespell has."""


def read_words(path: Path) -> set[str]:
    """Our own words: one a line, `#` begins a comment.

    Raises:
        InputError: no such file, or a word is listed twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise InputError(f"{path}: there is no such file") from None
    words = [word for line in lines if (word := line.partition("#")[0].strip())]
    twice = {word for word in words if words.count(word) > 1}
    if twice:
        raise InputError(f"{path}: {', '.join(sorted(twice))} is listed twice")
    return set(words)


@cache
def _known() -> tuple[set[str], dict[str, str], dict[str, str]]:
    """Known words; misspelt word to what is meant; American word to British word."""
    try:
        from spellchecker import SpellChecker

        data = files("codespell_lib") / "data"
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: python -m pip install -e .[dev]") from None
    pairs = [
        dict(line.split("->") for line in (data / name).read_text("utf-8").splitlines() if line)
        for name in ("dictionary.txt", "dictionary_en-GB_to_en-US.txt")
    ]
    words = set(SpellChecker(language="en", distance=1).word_frequency.words())
    american = {us: british for british, us in pairs[1].items() if us not in BOTH}
    return words | set(pairs[1]), pairs[0], american


def words_of(text: str) -> list[str]:
    """The words of a line that can be misspelt.

    Not among them: two letters and less, names with capitals inside or throughout (LUNA16, MyST),
    and what is joined to digits.
    """
    found = []
    text = re.sub(r"\w+(?:\.\w+)+", " ", text)  # names of modules and files
    for match in WORD.finditer(text):
        before, after = text[: match.start()][-1:], text[match.end() :][:1]
        word = re.sub(r"(?:n['’]t|['’](?:s|re|ve|ll|d)?)$", "", match[0])
        joined = (before + after).strip() and re.search(r"[\d_@\\/]", before + after)
        if len(word) > 2 and not joined and not re.search(r".[A-Z]", word):
            found.append(word)
    return found


def misspelt(lines: Iterable[Line], own_words: set[str]) -> list[str]:
    """Words that are misspelt, unknown or American, and words of our list that nothing uses.

    Args:
        own_words: from `read_words`; a capital first letter there means a name.
    """
    known, slips, american = _known()
    places: dict[str, list[str]] = {}
    for line in lines:
        for word in words_of(line.text):
            places.setdefault(word, []).append(line.where)
    unused, findings = set(own_words), []
    for word, where in places.items():
        low = word.lower()
        unused -= {word, low}
        if {word, low} & own_words:
            continue
        if low in american or AMERICAN.fullmatch(low):
            why = f"is American: {american.get(low, 'the British form is meant')}"
        elif low in slips:
            why = f"is misspelt: {slips[low]}"
        elif low in known:
            continue
        else:
            why = f"is in no dictionary; mend it, or add it to {LISTED_WORDS}"
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        findings.append(f"{where[0]}{more}: {word!r} {why}")
    findings += [f"{LISTED_WORDS}: {word!r} is not used (any more)" for word in sorted(unused)]
    return sorted(findings)
