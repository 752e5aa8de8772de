"""The first page: the paper's claim beside what came out, as one table and one figure."""

from collections.abc import Mapping

import pandas as pd

from nodulebook.runs.contract import Run
from nodulebook.stats.bootstrap import Interval, patient_bootstrap
from nodulebook.stats.readers import Mixture, limits, one_against_others, ratings_of
from nodulebook.stats.text import interval
from study.report.comparison import DIAMETER, best_of_each_kind
from study.report.names import title
from study.report.pooled import FAITHFUL

SOURCE = "lidc_slices"
OURS, HONEST = f"{FAITHFUL}-{SOURCE}", f"honest-{SOURCE}"
"""The runs that the verdict rests on: the network as the paper describes it, and the recipe that
was chosen on validation patients."""
HONEST_SLICES = f"honest-slices-{SOURCE}"
"""The same recipe, with another work's network in place of ours."""


def _numbers(run: Run) -> str:
    auc, accuracy = (patient_bootstrap(run.probabilities, of) for of in ("roc_auc", "accuracy"))
    return f"AUC {interval(auc)}, accuracy {interval(accuracy)}"


def glance_table(runs: Mapping[str, Run], claim: str) -> pd.DataFrame:
    """Claim, what was run, on what, what came out, how sure: a row each.

    Args:
        runs: complete runs by name; rows of runs that are not there are left out.
        claim: what the paper claims.

    Returns:
        Columns "" and "answer", as text.
    """
    rows = [("The paper claims", claim)]
    ours, honest, diameter = (runs.get(name) for name in (OURS, HONEST, DIAMETER))
    if ours is not None:
        table = ours.probabilities
        rows += [
            (
                "We ran",
                "the network as the paper describes it, where it can be read: "
                f"{len(ours.folds[0].history)} epochs in each of {len(ours.folds)} folds",
            ),
            (
                "On",
                f"{len(table):,} nodules of {table['patient_id'].nunique():,} patients: real CT of "
                "LIDC-IDRI, 8-bit slices; labels by the mean of three or four readers' ratings",
            ),
            ("Came out", _numbers(ours)),
        ]
    if honest is not None:
        rows.append(("Our best recipe", _numbers(honest)))
    if HONEST_SLICES in runs:
        text = "Our recipe, a network of others on three slices"
        rows.append((text, _numbers(runs[HONEST_SLICES])))
    if diameter is not None:
        rows.append(("Diameter alone, no image", _numbers(diameter)))
    rows.append(
        (
            "How sure",
            "in brackets 95 % intervals over draws of patients; one seed; folds by patient. Slices "
            "are not whole scans: they end where the readers' marks end",
        )
    )
    return pd.DataFrame(rows, columns=["", "answer"])


def auc_rows(
    runs: dict[str, Run], reference: pd.DataFrame, labelled: pd.DataFrame
) -> list[tuple[str, str, Interval]]:
    """Name, kind and AUC of what a reader of the book should have seen first.

    Args:
        runs: complete runs by name, those of the comparison chapter among them.
        reference: the reference nodules (at least three readers).
        labelled: those with a label.

    Returns:
        The network as described, the best recipe with it and with another work's network, the
        best of each other kind, one reader, and the limits of any classifier on such labels (its
        interval is of the likelihood).
    """
    shown = {OURS: runs.get(OURS), HONEST: runs.get(HONEST), HONEST_SLICES: runs.get(HONEST_SLICES)}
    shown |= {run.name: run for run in best_of_each_kind(runs, SOURCE).values()}
    ruler = shown.pop(DIAMETER, None)
    rows = [
        (title(name), "image", patient_bootstrap(run.probabilities, "roc_auc"))
        for name, run in shown.items()
        if run is not None
    ]
    if ruler is not None:
        auc = patient_bootstrap(ruler.probabilities, "roc_auc")
        rows.append((title(DIAMETER), "no image", auc))
    readers = one_against_others(ratings_of(labelled))
    rows.append(("One reader", "no image", patient_bootstrap(readers, "roc_auc")))
    middle, low, high = limits(Mixture(ratings_of(reference)["ratings"].tolist()), "auc")
    limit = Interval(middle.auc, low.auc, high.auc, 0)
    rows.append(("Estimated ceiling", "model of the readers", limit))
    return rows
