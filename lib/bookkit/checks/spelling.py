"""Spelling of the prose: words that no dictionary and no list of ours has.

British spelling is the book's: American forms of a few families of words are findings too.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from bookkit.checks.prose import Line
from nodulebook.core.errors import InputError

WORD = re.compile(r"[^\W\d_²³]+(?:['’][^\W\d_²³]+)*")

AMERICAN = re.compile(
    r"""^(?:
        .{3,}(?:[^s]iz(?:e[ds]?|ing|ations?)|yz(?:e[ds]?|ing))     # normalize, analyze
      | (?:behavi|col|fav|flav|harb|hon|hum|lab|neighb|rum|tum|vap)or(?:s|ed|ing|able|ite)?
      | (?:cent|fib|calib|met|lit|theat)er(?:s|ed)?
      | gray(?:s|er|est|scale)?
      | (?:label|model|cancel|travel|signal|channel|level|tunnel)(?:ed|ing)
      | (?:anal|catal|dial)ogs? | (?:def|off)ense | artifacts? | skeptical | aluminum
    )$""",
    re.VERBOSE,
)
"""Spellings that the book does not use."""

LISTED_WORDS = "data/words.txt"


def read_words(path: Path) -> set[str]:
    """Our own words: one a line, `#` begins a comment.

    Raises:
        InputError: no such file, or a word is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise InputError(f"{path}: there is no such file") from None
    words = [word for line in lines if (word := line.partition("#")[0].strip())]
    twice = {word for word in words if words.count(word) > 1}
    if twice:
        raise InputError(f"{path}: {', '.join(sorted(twice))} is there twice")
    return set(words)


@lru_cache(maxsize=1)
def _dictionary() -> set[str]:
    try:
        from spellchecker import SpellChecker
    except ModuleNotFoundError:
        raise InputError(
            "the package pyspellchecker is missing: python -m pip install pyspellchecker"
        ) from None
    return set(SpellChecker(language="en", distance=1).word_frequency.words())


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


def misspelt(
    lines: Iterable[Line], own_words: set[str], listed_in: str = LISTED_WORDS
) -> list[str]:
    """Words that are unknown, American ones, and words of our list that nothing uses.

    Args:
        lines: the prose.
        own_words: from `read_words`; a capital first letter there means a name.
        listed_in: the file of `own_words`, for the findings.
    """
    known, used, findings = _dictionary(), set(), []
    seen: dict[str, list[str]] = {}
    for line in lines:
        for word in words_of(line.text):
            seen.setdefault(word, []).append(line.where)
    for word, places in seen.items():
        listed = {word, word.lower()} & own_words
        used |= listed
        low = word.lower()
        where = f"{places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}"
        if AMERICAN.match(low) and not listed:
            findings.append(f"{where}: {word!r} is American; the book's spelling is British")
        elif not listed and not _is_known(low, known):
            findings.append(
                f"{where}: {word!r} is in no dictionary; mend it, or add it to {listed_in}"
            )
    findings += [
        f"{listed_in}: {word!r} is not used (any more)" for word in sorted(own_words - used)
    ]
    return sorted(findings)


ENDINGS = (("s$", ""), ("es$", ""), ("ies$", "y"), ("ed$", ""), ("ed$", "e"), ("ing$", ""),
           ("ing$", "e"), ("ly$", ""), ("^(?:un|re|non|pre|over)", ""))  # fmt: skip
"""Regular forms, and how they lead back to a word."""

BRITISH = (("is(?=e|ing|ation)", "iz"), ("ys(?=e|ing)", "yz"), ("our", "or"), ("(?<=t)re", "er"),
           ("ll(?=ed|ing)", "l"))  # fmt: skip
"""The dictionary has words of film subtitles and lacks some in British spelling."""


def _is_known(word: str, known: set[str]) -> bool:
    """Whether a word is in the dictionary, as it is or as a regular form of one that is."""
    if word in known:
        return True
    spelt = {word} | {re.sub(pattern, by, word) for pattern, by in BRITISH}
    stems = {re.sub(pattern, by, one) for one in spelt for pattern, by in (("$", ""), *ENDINGS)}
    return any(len(stem) > 3 and stem in known for stem in stems - {word})
