"""No text says that something was not run or measured of which the repository has a run."""

import re

import pytest

from bookkit.ledger import claims
from nodulebook.core import paths

DENIAL = re.compile(
    r"\bnot (?:yet )?(?:been )?(?:run|trained|measured|made)\b|\bno ten folds\b|\bis prepared\b"
)


def run_names() -> set[str]:
    """Profiles, methods, trials and rules that have folds, without their source."""
    folders = {path.parent.parent.name for path in paths.runs_folder().rglob("run.json")}
    return folders | {re.sub(r"-(lidc_\w+|phantom|luna16|idc)(-seed\d+)?$", "", f) for f in folders}


def denied(text: str, names: set[str]) -> list[str]:
    """The runs that exist and whose name is in a sentence that denies them."""
    found = []
    for sentence in re.split(r"(?<=[.;:!?])\s+|\n\s*\n", text):
        if DENIAL.search(sentence):
            words = set(re.findall(r"[a-z0-9][a-z0-9_-]*[a-z0-9]", sentence))
            found += sorted(words & names - {"paper", "diameter", "grey", "ratings", "wide"})
    return found


@pytest.fixture(scope="module")
def names() -> set[str]:
    return run_names()


def test_the_ledger_denies_no_run(names):
    assert not {
        claim.id: runs
        for claim in claims.read_claims()
        if (runs := denied(claim.decision, names)) or "not measured" in claim.decision
    }


def test_no_page_denies_a_run(names):
    pages = [paths.ROOT / "index.md", *sorted(paths.CHAPTERS.glob("*.md"))]
    assert not {p.name: runs for p in pages if (runs := denied(p.read_text(), names))}


@pytest.mark.parametrize(
    "text",
    [
        "That of the loss is prepared (rival-dynamic-loss) and not run whole yet.",
        "The profile `paper-no-se` has not been run.",
    ],
)
def test_a_stale_sentence_is_found(names, text):
    assert denied(text, names)


def test_only_the_sentence_itself_counts(names):
    assert not denied("The gates are those of paper-no-se. The loss was not measured.", names)
