"""`nodulebook verify`: do the book's numbers follow from the committed files?

Three questions, each with findings of its own:

1. Are all committed runs valid, and are their hashes those of what they name?
2. Are the files the ones that the built book was made from, byte for byte?
3. Computed again from these files, are the texts, tables and printed values of the chapters those
   of the pages' notebooks; and rendered again from these, do the pages have the same text?

What that proves, and what not, is `MEANING`.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from bookkit.tracing.manifest import artefact_hashes, compare_with_manifest
from bookkit.tracing.project import hook, setting
from bookkit.tracing.recompute import Recomputed, forbid_heavy, recompute, unquoted
from bookkit.tracing.rerender import compare_pages, read_notebook, rerender
from bookkit.tracing.trace import GLUE_PREFIX
from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import sha256
from nodulebook.core.settings import Profile
from nodulebook.data.annotations import DATABASE_SHA256
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Fold, list_runs, read_run
from nodulebook.runs.map_scores import read_explanations

MEANING = """\
It proves that the pages show what the committed files give, by the code that is here: no number
was typed, none is left over from older files. It does not prove that the files came from the
training that they describe (`nodulebook again --run RUN --fold K` trains a fold anew and compares),
that the code computes the right thing (the tests do), or anything about pictures and about what
needs a deep-learning library or patches: those are counted as left out."""


def verify(book: Path, jobs: int | None = None) -> list[tuple[list[str], str]]:
    """All three questions: for each the findings, and what was looked at.

    Args:
        book: the folder of the built book.
        jobs: processes; one a core where None.
    """
    changed = compare_with_manifest(book)
    return [
        check_runs(),
        (changed, f"{len(artefact_hashes())} files as when the book was built"),
        check_pages(book, jobs=jobs),
    ]


# ------------------------------------------------------------------------------------- 1. runs


def check_runs() -> tuple[list[str], str]:
    """All committed runs, those in groups (trials, rules, repeats) too: findings, and a summary."""
    folds, findings, n_folds, n_runs = read_folds(), [], 0, 0
    nodules_csv = sha256(paths.NODULES_CSV)
    top = paths.runs_folder()
    groups = sorted(path for path in top.iterdir() if path.is_dir() and list_runs(path))
    for folder in (top, *groups):
        for name in list_runs(folder):
            n_runs += 1
            try:
                # Rules and trials deal and label nodules in other ways; their pages check that.
                run = read_run(name, folder, folds if folder == top else None)
            except InputError as error:
                findings.append(str(error))
                continue
            n_folds += len(run.folds)
            for k, fold in run.folds.items():
                place = folder / name / f"fold-{k}"
                findings += [f"{place}: {text}" for text in _hash_findings(fold, nodules_csv)]
                try:
                    read_explanations(place, fold)
                except InputError as error:
                    findings.append(str(error))
    if not findings:
        findings = [text for address in setting("recheck") for text in hook(address)()]
    return findings, f"{n_runs} runs with {n_folds} folds"


def _hash_findings(fold: Fold, nodules_csv: str) -> Iterable[str]:
    """Hashes of a fold's record that are not those of what they stand for."""
    about = fold.run
    if "profile_name" in about:
        try:
            wanted = Profile.model_validate(about["profile"]).hash()
        except ValueError as error:
            yield f"run.json: profile is none ({error})"
            return
        if about["profile_hash"] != wanted:
            yield "run.json: profile_hash is not that of the profile in the same record"
    recipe = about.get("data_recipe", {})
    for key, value in (("nodules_csv", nodules_csv), ("annotations_sha256", DATABASE_SHA256)):
        if recipe.get(key, value) != value:
            yield f"run.json: data_recipe: {key} is not that of the committed cohort"
    if about["source"] == "annotations" and about["data_hash"] != sha256(
        paths.NODULES_CSV, paths.FOLDS_CSV
    ):
        yield "run.json: data_hash is not that of data/nodules.csv and data/folds.csv"


# ------------------------------------------------------------------------------------- 3. pages


def pages(root: Path | None = None) -> list[str]:
    """The pages of the book that have cells, as `index` and `chapters/results`."""
    root = root or paths.ROOT
    names = paths.page_names(root)
    return [n for n in names if "{code-cell}" in (root / f"{n}.md").read_text(encoding="utf-8")]


def check_pages(
    book: Path,
    names: Sequence[str] | None = None,
    jobs: int | None = None,
    root: Path | None = None,
) -> tuple[list[str], str]:
    """Compute the outputs of the pages' cells again, and render all pages again.

    Args:
        book: the folder of the built book.
        names: of `pages`; all of them where None.
        jobs: processes; one a core where None.
        root: the folder with `_config.yml`, `index.md` and `chapters/`.
    """
    root = root or paths.ROOT
    findings: list[str] = []
    compared = left_out = 0
    every = pages(root)
    chosen = every if names is None else names
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as plain,
        ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=forbid_heavy
        ) as pool,
        TemporaryDirectory() as into,
    ):
        rendering = plain.submit(rerender, book, root, every, Path(into))
        # The longest first, or the others would be done long before it.
        longest = sorted(chosen, key=lambda name: -(root / f"{name}.md").stat().st_size)
        results = {name: pool.submit(recompute, root / f"{name}.md") for name in longest}
        for name in chosen:
            try:
                again = results[name].result()
                found, n = compare_outputs(read_notebook(book, root, name), again)
            except InputError as error:
                findings.append(str(error))
                continue
            findings += [f"{name}.ipynb: {text}" for text in found]
            compared, left_out = compared + n, left_out + again.left_out
        try:
            html = rendering.result()
            shown = [n for n in paths.page_names(root) if names is None or n in names]
            for name in shown:
                if "{library}" not in (root / f"{name}.md").read_text(encoding="utf-8"):
                    found = compare_pages(book / f"{name}.html", html / f"{name}.html")
                    findings += [f"{name}.html: {text}" for text in found]
        except InputError as error:
            findings += [str(error)] if str(error) not in findings else []
    return findings, (
        f"{compared} glued texts, tables and printed values of {len(chosen)} pages; "
        f"{left_out} statements left out (pictures, patches, deep learning)"
    )


KINDS = ("text/html", "text/markdown", "text/plain")
"""What is compared of an output: the first of these that it has."""


def compare_outputs(notebook: nbformat.NotebookNode, again: Recomputed) -> tuple[list[str], int]:
    """A page's notebook and what its cells give now: findings, and how much was compared.

    Texts must be equal. Of a cell of which a statement was left out, each recomputed output must
    be among the notebook's.

    Args:
        notebook: with outputs, as the built book has it.
        again: from `recompute`.
    """
    findings: list[str] = []
    glued: dict[str, str] = {}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells):
        shown = []
        for output in cell.outputs:
            about = output.get("metadata", {}).get("scrapbook")
            if about is not None:
                text = output["data"].get(f"{GLUE_PREFIX}text/plain", "")
                glued[about["name"]] = unquoted(text)
            elif output.output_type == "stream":
                shown.append(output.text.strip())
            elif not any(kind.startswith("image/") for kind in output.get("data", {})):
                shown += [output["data"][kind] for kind in KINDS if kind in output.data][:1]
        wanted = [one.text.strip() for one in again.outputs if one.cell == number]
        shown = [text.strip() for text in shown]
        partly = number in again.partly
        missing = [text for text in wanted if text not in shown]
        more = [] if partly else [text for text in shown if text not in wanted]
        if missing or more or (not partly and len(shown) != len(wanted)):
            findings.append(
                f"cell {number + 1}: shows {(more or shown or [''])[0][:120]!r}, "
                f"but the files give {(missing or wanted or [''])[0][:120]!r}"
            )
    findings += [
        f"{key}: shows {glued.get(key)!r}, but the files give {text!r}"
        for key, text in again.glued.items()
        if glued.get(key) != text
    ]
    return findings, len(again.outputs) + len(again.glued)
