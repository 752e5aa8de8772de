"""All checks: a line each, with what was looked at or how to mend it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from bookkit.checks.prose import Line, read_prose
from bookkit.tracing.project import hook, setting
from bookkit.tracing.verify import what_is_wrong
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


@dataclass(frozen=True)
class Step:
    """A check by name."""

    name: str
    what: str
    run: Callable[[], Result]
    mend: str
    needs_book: bool = False


def prose_files() -> list[Path]:
    """The files with prose: the book's pages, and the markdown of the repository."""
    others = ("README.md", "CONTRIBUTING.md", "data/README.md")
    found = [paths.ROOT / "index.md", *sorted((paths.ROOT / "chapters").glob("*.md"))]
    return found + [paths.ROOT / name for name in others if (paths.ROOT / name).is_file()]


def all_prose() -> list[Line]:
    """The prose of `prose_files`."""
    return [line for page in prose_files() for line in read_prose(page, paths.ROOT)]


def steps(ask: bool = False, whole: bool = True) -> list[Step]:
    """The checks in their order; the cheap ones first, so that a slip is seen soon.

    Args:
        ask: whether links out of the book are asked for an answer; needs a network.
        whole: whether `build` builds all of a book that is there already.
    """
    return [
        Step("lint", "style and types of the code", _lint, "make format; then what mypy names"),
        Step("ledger", "data/claims.yml and its evidence", _ledger, "mend the claims named above"),
        Step("spelling", "words of the prose", _spelling, f"mend, or add a name to {WORDS}"),
        Step("numbers", "typed numbers of the prose", _numbers, f"glue it, or list it in {TYPED}"),
        Step("build", "the book, warnings as errors", partial(_build, whole),
             "mend what Sphinx names above"),
        Step("links", "links and places within the book", partial(_links, ask),
             "mend the link, or the label that it names", True),
        Step("looks", "accessibility, width and weight", _looks,
             "mend the page, its figure or _static/book.css; rules: dequeuniversity.com", True),
        Step("reader", "a reader's way, with pictures", _reader,
             f"look at the pictures in {PICTURES.relative_to(paths.ROOT)}", True),
        Step("verify", "runs, and the pages built once more", _verify,
             "build the book again (make book); if it stays, a number does not follow", True),
    ]  # fmt: skip


def run_steps(chosen: Sequence[Step], say: Say) -> bool:
    """Run checks one after the other; say a line of each, and the findings of those that fail.

    A check that needs the book counts as failed where there is none. True if all pass.
    """
    return all([_run_step(step, say) for step in chosen])


def _run_step(step: Step, say: Say) -> bool:
    start = time.monotonic()
    if step.name in SLOW:
        say(f"        {step.name}: {step.what} ...")
    if step.needs_book and not (BOOK / "index.html").is_file():
        findings, looked_at = ["there is no built book to look at"], ""
    else:
        try:
            findings, looked_at = step.run()
        except (InputError, RuntimeError) as error:
            findings, looked_at = [str(error)], ""
    seconds = f"{time.monotonic() - start:.0f} s"
    if not findings:
        say(f"ok      {step.name}: {looked_at} ({seconds})")
        return True
    lines = [f"FAILED  {step.name} ({step.what}), {len(findings)} findings ({seconds})"]
    lines += [f"        {text}" for text in findings[:MOST_SHOWN]]
    if len(findings) > MOST_SHOWN:
        lines.append(f"        ... and {len(findings) - MOST_SHOWN} more")
    say("\n".join([*lines, f"        To mend: {step.mend}"]))
    return False


def run_all(every: Sequence[Step], say: Say) -> bool:
    """Run all checks, two at a time: those without a book next to the build, then the others.

    `say` is called from two threads. True if all pass.
    """
    bookless = [step for step in every if not step.needs_book and step.name != "build"]
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(run_steps, bookless, say)
        built = run_steps([step for step in every if step.name == "build"], say)
        well = others.result() and built
        rest = [step for step in every if step.needs_book]
        if not built:
            say(f"        left out, for want of a book: {', '.join(step.name for step in rest)}")
            return False
        # `verify` builds the book in processes of its own, and begins first.
        return all([*pool.map(_run_step, reversed(rest), [say] * len(rest))]) and well


def _lint() -> Result:
    findings = []
    for command in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        done = _command(command.split())
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            findings += [f"{command.split()[0]}: {line}" for line in lines[-MOST_SHOWN:]]
    return findings, "ruff, mypy, directions of imports"


STRICT = ("-W", "-n", "--keep-going")
"""Options of Sphinx: a warning is an error, said after all pages were read."""


def _build(whole: bool) -> Result:
    """Build the whole book strictly, or bring one that is there up to date.

    Where only that was done, `verify` builds it whole and strictly.
    """
    hook(setting("prepare"))()
    whole = whole or not (BOOK / "index.html").is_file()
    if whole:
        # Sphinx reads a page again only if its text changed; warnings of the others would be lost.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    done = _command(["jupyter-book", "build", ".", "--quiet", *(STRICT if whole else ())])
    if done.returncode:
        if whole:
            shutil.rmtree(BOOK, ignore_errors=True)  # half a book is no book to look at
        return what_is_wrong(done.stdout + done.stderr), ""
    return [], f"{len(paths.page_names())} pages, {'every cell run' if whole else 'up to date'}"


def _verify() -> Result:
    from bookkit.tracing.verify import verify

    found = verify(BOOK, STRICT)
    return [text for findings, _ in found for text in findings], "; ".join(s for _, s in found)


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
    from bookkit.ledger.claims import read_claims

    name = paths.CLAIMS_YAML.relative_to(paths.ROOT).as_posix()
    lines = all_prose() + [
        Line(f"{name} {claim.id}", 1, text)
        for claim in read_claims()
        for text in (claim.paraphrase, claim.decision)
    ]
    return misspelt(lines, read_words(paths.ROOT / WORDS)), f"{len(lines)} lines of prose"


def _numbers() -> Result:
    from bookkit.checks.numbers import read_typed, typed_numbers, wrong_row_counts

    allowed = read_typed(paths.ROOT / TYPED)
    findings = typed_numbers(all_prose(), allowed, TYPED)
    listed = sum(len(entry.numbers) * len(entry.pages) for entry in allowed)
    findings += wrong_row_counts(allowed, paths.ROOT)
    return findings, f"{listed} typed numbers, each listed with its reason"


def _links(ask: bool) -> Result:
    from bookkit.checks.links import check_links

    findings, looked_at = check_links(BOOK)
    if ask:
        _command(["jupyter-book", "build", ".", "--quiet", "--builder", "linkcheck"])
        report = (BUILD / "linkcheck" / "output.txt").read_text(encoding="utf-8")
        findings += [line for line in report.splitlines() if "[broken]" in line]
    return findings, looked_at


def _looks() -> Result:
    from bookkit.checks.looks import look_at_all

    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    shows = {
        chapter["file"]
        for part in toc["parts"]
        if part["caption"] == setting("shown_part")
        for chapter in part["chapters"]
    }
    names = [*paths.page_names(), "search", "genindex"]
    return look_at_all(BOOK, names, jobs=1, long=setting("long_pages"), shows=shows)


def _reader() -> Result:
    from bookkit.checks.reader import walk

    return walk(BOOK, PICTURES)
