"""All checks: a line each, with what was looked at or how to mend it."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bookkit.checks.prose import Line, read_prose
from bookkit.tracing.project import hook, setting
from nodulebook.core import paths
from nodulebook.core.errors import InputError

BUILD = paths.ROOT / "_build"
BOOK = BUILD / "html"
PICTURES = BUILD / "check"
TYPED = "data/typed_numbers.yml"
WORDS = "data/words.txt"

Result = tuple[list[str], str]
"""Findings, one a line, and a few words on what was looked at."""

Say = Callable[[str], None]

MOST_SHOWN = 25

SLOW = ("build", "verify", "looks")
"""Checks that take a minute or more: that they have begun is said."""

CHATTER = "absl::InitializeLog"
"""What TensorFlow says of itself in every kernel."""


@dataclass(frozen=True)
class Step:
    """A check by name."""

    name: str
    what: str
    run: Callable[[], Result]
    mend: str
    needs_book: bool = False


def prose_files(root: Path | None = None) -> list[Path]:
    """The files with prose: the book's pages, and the markdown beside them."""
    root = root or paths.ROOT
    others = ("README.md", "CONTRIBUTING.md", "data/README.md")
    pages = sorted((root / "chapters").glob("*.md"))
    return [root / "index.md", *pages, *(root / n for n in others if (root / n).is_file())]


def all_prose(root: Path | None = None) -> list[Line]:
    """The prose of `prose_files`."""
    root = root or paths.ROOT
    return [line for page in prose_files(root) for line in read_prose(page, root)]


def steps(ask: bool = False) -> list[Step]:
    """The checks in their order; the cheap ones first, so that a slip is seen soon.

    Args:
        ask: whether links out of the book are asked for an answer; needs a network.
    """
    return [
        Step("lint", "style and types of the code", _lint, "make format; then what mypy names"),
        Step("ledger", "data/claims.yml and its evidence", _ledger, "mend the claims named above"),
        Step("spelling", "words of the prose", _spelling, f"mend, or add a name to {WORDS}"),
        Step("numbers", "typed numbers of the prose", _numbers, f"glue it, or list it in {TYPED}"),
        Step("build", "the book, warnings as errors", _build, "mend what Sphinx names above"),
        Step("links", "links and places within the book", partial(_links, ask),
             "mend the link, or the label that it names", True),
        Step("verify", "runs, and the pages' numbers again", _verify,
             "build the book anew (make book); if it stays, a number does not follow", True),
        Step("looks", "accessibility, width and weight", _looks,
             "mend the page, its figure or _static/book.css; rules: dequeuniversity.com", True),
        Step("reader", "a reader's way, with pictures", _reader,
             f"look at the pictures in {PICTURES.relative_to(paths.ROOT)}", True),
    ]  # fmt: skip


def run_steps(chosen: Sequence[Step], say: Say) -> bool:
    """Run checks; say a line of each, and the findings of those that fail.

    A check that needs the book is left out, and counts as failed, where there is none.

    Returns:
        Whether all are well.
    """
    well, book_is_there = True, True
    for step in chosen:
        start = time.monotonic()
        if step.name in SLOW:
            say(f"        {step.name}: {step.what} ...")
        if step.needs_book and not (book_is_there and (BOOK / "index.html").is_file()):
            findings, looked_at = ["there is no built book to look at"], ""
        else:
            try:
                findings, looked_at = step.run()
            except (InputError, RuntimeError) as error:
                findings, looked_at = [str(error)], ""
        seconds = f"{time.monotonic() - start:.0f} s"
        if not findings:
            say(f"ok      {step.name}: {looked_at} ({seconds})")
            continue
        well = False
        book_is_there &= step.name != "build"
        say(f"FAILED  {step.name} ({step.what}), {len(findings)} findings ({seconds})")
        for text in findings[:MOST_SHOWN]:
            say(f"        {text}")
        if len(findings) > MOST_SHOWN:
            say(f"        ... and {len(findings) - MOST_SHOWN} more")
        say(f"        To mend: {step.mend}")
    return well


def run_all(every: Sequence[Step], say: Say, ask: bool = False) -> bool:
    """Run all checks, two at a time: what needs no book beside the build, the rest beside looks.

    Args:
        every: from `steps`.
        say: takes a line of text, from two threads.
        ask: as for `steps`.

    Returns:
        Whether all are well.
    """
    named = {step.name: step for step in every}
    bookless = [s.name for s in every if not s.needs_book and s.name != "build"]
    rest = [s.name for s in every if s.needs_book and s.name != "looks"]
    others = _Elsewhere(bookless, say, ask)
    built = run_steps([named["build"]], say)
    if not built:
        say(f"        left out, for there is no built book: looks, {', '.join(rest)}")
        others.end()
        return False
    well = others.end()
    others = _Elsewhere(rest, say, ask)
    well &= run_steps([named["looks"]], say)
    return others.end() and well


class _Elsewhere:
    """Checks in a process of their own, whose lines are passed on as they come."""

    def __init__(self, names: Sequence[str], say: Say, ask: bool) -> None:
        words = [word for name in names for word in ("--only", name)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nodulebook", "check", *words, *(["--ask"] if ask else [])],
            cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._pass_on, args=(say,))
        self._reader.start()

    def _pass_on(self, say: Say) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("nodulebook: not everything is well"):  # said once, at the end
                say(line.rstrip("\n"))

    def end(self) -> bool:
        """Wait for the end; whether all are well."""
        self._reader.join()
        return self._process.wait() == 0


LINT = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"])


def _lint() -> Result:
    findings = []
    for command in LINT:
        done = _command(command)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            findings += [f"{command[0]}: {line}" for line in lines[-MOST_SHOWN:]]
    return findings, "ruff, mypy, directions of imports"


def _build() -> Result:
    hook(setting("prepare"))()
    # Sphinx reads a page again only if its text changed; warnings of the others would be lost.
    shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    done = _command(["jupyter-book", "build", ".", "--quiet", "-W", "-n", "--keep-going"])
    wrong = ("WARNING:", "ERROR:", "Error", "error:")
    lines = [x for x in (done.stdout + done.stderr).splitlines() if CHATTER not in x]
    if done.returncode:
        return [line for line in lines if any(w in line for w in wrong)] or lines[-20:], ""
    return [], f"{len(paths.page_names())} pages, every cell run"


def _command(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program of the same environment as this one."""
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [str(program) if program.exists() else command[0], *command[1:]],
        cwd=paths.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def _ledger() -> Result:
    from bookkit.ledger.claims import check_evidence, read_claims

    ledger = read_claims()
    check_evidence(ledger)
    return [], f"{len(ledger)} claims, each with a verdict and evidence that exists"


def _spelling() -> Result:
    from bookkit.checks.spelling import misspelt, read_words

    lines = all_prose() + _ledger_lines()
    return misspelt(lines, read_words(paths.ROOT / WORDS)), f"{len(lines)} lines of prose"


def _ledger_lines() -> list[Line]:
    """What `data/claims.yml` says in words; claims are in the order of the file."""
    from bookkit.ledger.claims import read_claims

    name = paths.CLAIMS_YAML.relative_to(paths.ROOT).as_posix()
    return [
        Line(f"{name} {claim.id}", 1, text)
        for claim in read_claims()
        for text in (claim.paraphrase, claim.decision)
    ]


def _numbers() -> Result:
    from bookkit.checks.numbers import read_typed, typed_numbers, wrong_row_counts

    allowed = read_typed(paths.ROOT / TYPED)
    findings = typed_numbers(all_prose(), allowed, TYPED)
    listed = sum(len(entry.numbers) * len(entry.pages) for entry in allowed)
    findings += wrong_row_counts(allowed, paths.ROOT)
    return findings, f"{listed} typed numbers, each listed with its reason"


def _links(ask: bool) -> Result:
    from bookkit.checks.links import check_links

    return check_links(BOOK, ask)


def _verify() -> Result:
    from bookkit.tracing.verify import verify

    found = verify(BOOK)
    return [text for findings, _ in found for text in findings], "; ".join(s for _, s in found)


def _looks() -> Result:
    from bookkit.checks.looks import look_at_all

    return look_at_all(BOOK, [*paths.page_names(), "search", "genindex"])


def _reader() -> Result:
    from bookkit.checks.reader import walk

    return walk(BOOK, PICTURES)
