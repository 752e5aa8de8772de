"""The primary comparisons of `data/analysis_plan.yml`: one family, one verdict each.

Every page that prints a primary result takes it from here, so that the same result has the same
word everywhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_yaml
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.runs.contract import Run
from nodulebook.stats.added_value import Comparison, added_value, compare
from nodulebook.stats.bootstrap import Interval
from nodulebook.stats.paired_tests import holm
from nodulebook.stats.text import interval, number
from study.report.contrasts import p_text
from study.report.contrasts import verdict_word as verdict_word
from study.report.names import title as title

PLAN = "data/analysis_plan.yml"

MAIN = ("paper-usual", "paper-usual-no-se", "paper", "paper-no-se", "honest", "honest-slices",
        "robust-slices")  # fmt: skip
"""Networks that the pages of results compare, where they have been run."""

SOURCE = "lidc_slices"


@dataclass(frozen=True)
class Primary:
    """One primary comparison and what it gave."""

    id: str
    runs: tuple[str, ...]
    """The run, and the one that it is compared with where that is not the ruler."""
    seeds: tuple[int, ...]
    """How many seeds each of `runs` has."""
    stand_in: bool
    """Whether the planned runs have no ten folds yet and the plan's fallback is used."""
    result: Comparison
    p_holm: float
    """The fold-aware p value, corrected for the comparisons of the family."""
    verdict: str
    """One of "higher", "lower" and "no difference shown"."""


def seed_names(runs: Iterable[str], name: str) -> list[str]:
    """The names among `runs` of a run's seeds: `<name>` and `<name>-seed<k>`."""
    return sorted(one for one in runs if one == name or one.startswith(f"{name}-seed"))


def seeds_of(runs: Mapping[str, Run], name: str) -> list[pd.DataFrame]:
    """The pooled predictions of a run's complete seeds, in the order of `seed_names`."""
    return [runs[one].probabilities for one in seed_names(runs, name)]


def main_runs(runs: Mapping[str, Run]) -> dict[str, list[pd.DataFrame]]:
    """The main networks on real CT that are complete: the run's name, its seeds' predictions."""
    names = [f"{profile}-{SOURCE}" for profile in MAIN]
    return {name: tables for name in names if (tables := seeds_of(runs, name))}


def diameters() -> pd.Series:
    """The ruler: the mean of the readers' diameters (mm), by nodule_id."""
    return read_nodules().set_index("nodule_id")["diameter_mm"]


def read_plan() -> dict[str, Any]:
    """The committed plan."""
    plan: dict[str, Any] = read_yaml(paths.ROOT / PLAN)
    return plan


def primary_family(runs: Mapping[str, Run], n_draws: int = 20_000) -> dict[str, Primary]:
    """The plan's primary comparisons by id, corrected together.

    Raises:
        InputError: neither a planned run nor its fallback has all its folds.
    """
    mm, drawn = diameters(), []
    for entry in read_plan()["primary"]:
        names, stand_in = _chosen(entry, runs)
        tables = [seeds_of(runs, name) for name in names]
        if len(tables) == 1:
            result = added_value(tables[0], mm, n_draws)
        else:
            result = compare(tables[0], tables[1], n_draws)
        seeds = tuple(len(one) for one in tables)
        drawn.append((str(entry["id"]), names, seeds, stand_in, result))
    corrected = holm([result.by_fold.p_value for *_, result in drawn])
    return {
        one[0]: Primary(*one, float(p), verdict_word(one[-1].auc, float(p)))
        for one, p in zip(drawn, corrected, strict=True)
    }


def _chosen(entry: dict[str, Any], runs: Mapping[str, Run]) -> tuple[tuple[str, ...], bool]:
    """The planned runs, or where one is incomplete the fallback, and which of the two it is."""
    planned = (entry["run"], entry["against"]) if "against" in entry else (entry["run"],)
    fallback = entry["fallback"]
    fallback = tuple(fallback) if isinstance(fallback, list) else (fallback,)
    for names, stand_in in ((planned, False), (fallback, True)):
        if all(seeds_of(runs, name) for name in names):
            return names, stand_in
    raise InputError(
        f"{PLAN}: {entry['id']}: neither {', '.join(planned)} nor {', '.join(fallback)} has all "
        "ten folds; run one of them"
    )


def texts(family: Mapping[str, Primary]) -> dict[str, str]:
    """Short texts of each primary comparison for glue: `verdict-<id>`, `auc-`, `p-`, `run-`."""
    out: dict[str, str] = {}
    for key, one in family.items():
        seeds = dict.fromkeys("one seed" if n == 1 else f"{n} seeds" for n in one.seeds)
        out |= {
            f"verdict-{key}": one.verdict,
            f"auc-{key}": interval(one.result.auc),
            f"p-{key}": number(one.p_holm),
            f"run-{key}": title(one.runs[0]),
            f"seeds-{key}": " against ".join(seeds),
        }
    return out


def sources(family: Mapping[str, Primary]) -> dict[str, tuple[str, ...]]:
    """What each of `texts` is computed from, for `trace.glue_texts`."""
    return {name: (*family[key].runs, PLAN) for key in family for name in texts({key: family[key]})}


def of_all(predicted: int, n: int) -> str:
    """The count n, or "predicted of n" where nodules lack a prediction."""
    return f"{n:,}" if predicted == n else f"{predicted:,} of {n:,}"


def family_rows(family: Mapping[str, Primary]) -> list[tuple[str, str, Interval]]:
    """The primary comparisons as rows of a forest plot: what is compared, verdict, difference."""
    rows = []
    for one in family.values():
        name, *other = map(title, one.runs)
        text = f'"{name}" − "{other[0]}"' if other else f'Ruler with "{name}" − ruler'
        rows.append((text, one.verdict, one.result.auc))
    return rows


def family_table(family: Mapping[str, Primary]) -> pd.DataFrame:
    """The primary comparisons as the book prints them, one row each."""
    estimates = {entry["id"]: entry["estimate"] for entry in read_plan()["primary"]}
    rows = [
        {
            "comparison": f"{title(one.runs[0])}: {estimates[key]}",
            "difference in AUC": interval(one.result.auc),
            "verdict": one.verdict,
            "p, Holm": p_text(one.p_holm),
            "seeds": " + ".join(str(n) for n in one.seeds),
            "n": of_all(one.result.n, len(read_folds())),
            "run": f"`{one.runs[0]}`" + (", stand-in" if one.stand_in else ""),
        }
        for key, one in family.items()
    ]
    return pd.DataFrame(rows)
