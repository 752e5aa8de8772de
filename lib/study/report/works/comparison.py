"""Counterparts of the paper's Tables 3 and 4 and Fig. 9, from complete runs."""

from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from nodulebook.core.files import read_csv
from nodulebook.core.paths import DATA
from nodulebook.runs.contract import Run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import Interval, patient_bootstrap
from nodulebook.stats.readers import half_for_the_middle, one_against_others, ratings_of
from nodulebook.stats.text import interval
from study.features.definitions import GROUPS
from study.features.handcrafted import ALL, PREFIX, run_name
from study.report.names import keyed, title

DIAMETER = "diameter"
RIVAL = "rival-"
RECIPE = "recipe-"
"""How the names of rivals under the recipe of `honest` begin."""
NONE = "–"
"""A cell of a table where there is nothing to print."""
BUDGET = "laptop"
"""The profile that gives every rival its budget."""

OURS = (
    BUDGET, "paper-usual", "paper-usual-no-se", "paper", "paper-no-se", "honest", "honest-slices",
)  # fmt: skip
"""Profiles that the rivals are shown with, some with more than their budget."""

FEATURES, RIVALS, OWN, READERS = (
    "hand-crafted features", "networks of other works", "networks of this book", "readers",
)  # fmt: skip


def kind_of(profile: str) -> str:
    """The kind of method of a profile, or "" where the comparison does not show it."""
    if profile.startswith(PREFIX):
        return FEATURES
    if profile.startswith((RIVAL, RECIPE)):
        return RIVALS
    return READERS if profile == DIAMETER else OWN if profile in OURS else ""


def _present(names: Iterable[str], runs: Mapping[str, Run]) -> dict[str, Run]:
    return {name: runs[name] for name in names if name in runs}


def feature_runs(runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    """The complete runs of groups of features on a source, all together last, by run name."""
    return _present([run_name(group, source) for group in (*GROUPS, ALL)], runs)


def rival_runs(runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    """The complete runs of networks of other works on a source, by run name."""
    return _starting(RIVAL, runs, source)


def recipe_runs(runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    """The complete runs of networks of other works under the best recipe, first seeds."""
    return _starting(RECIPE, runs, source)


def _starting(prefix: str, runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    names = [name for name in sorted(runs) if name.startswith(prefix)]
    return _present([name for name in names if name.endswith(f"-{source}")], runs)


def own_runs(runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    """The complete runs of `OURS` on a source, by run name."""
    return _present([f"{profile}-{source}" for profile in OURS], runs)


def auc_of(run: Run) -> float:
    """The pooled AUC."""
    return metrics.roc_auc(run.probabilities["label"], run.probabilities["p_malignant"])


def rows_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Title and key, n, and pooled AUC and accuracy with intervals, as text; one row per run."""
    rows = [
        {
            "classified by": keyed(name),
            "AUC": interval(patient_bootstrap(run.probabilities, "roc_auc")),
            "accuracy": interval(patient_bootstrap(run.probabilities, "accuracy")),
            "n": f"{len(run.probabilities):,}",
        }
        for name, run in runs.items()
    ]
    return pd.DataFrame(rows)


def features_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """`rows_table` with the number of features and the classifiers chosen ("SVM (RBF) 9, ...").

    Both are "–" for a run that has no features.
    """
    table = rows_table(runs)
    counts = [str(run.folds[0].run.get("n_features", NONE)) for run in runs.values()]
    table.insert(3, "features", counts)
    table["chosen (folds)"] = [
        ", ".join(f"{name} {n}" for name, n in _chosen(run).most_common()) or NONE
        for run in runs.values()
    ]
    return table


def _chosen(run: Run) -> "Counter[str]":
    chosen = [fold.run["chosen"] for fold in run.folds.values() if "chosen" in fold.run]
    return Counter(str(one["classifier"]) for one in chosen)


def networks_table(runs: Mapping[str, Run], source: str, seeds: Mapping[str, int]) -> pd.DataFrame:
    """`rows_table` with epochs, a rival's parameters (`parameters`), and `seeds` by run.

    The ruler has no epochs, and the networks of this book and the ruler no parameters here: "–".
    """
    table = rows_table(runs)
    epochs = {name: str(len(run.folds[0].history)) for name, run in runs.items()}
    table.insert(3, "epochs", [NONE if name == DIAMETER else n for name, n in epochs.items()])
    counts = parameters()
    profiles = [name.removesuffix(f"-{source}") for name in runs]
    table.insert(4, "parameters", [counts.get(name, NONE) for name in profiles])
    table.insert(5, "seeds", [NONE if name == DIAMETER else str(seeds[name]) for name in runs])
    return table


def parameters() -> dict[str, str]:
    """Weights of each network of another work, as text, by profile (data/rivals.csv)."""
    table = read_rivals()
    small = dict(zip(table["profile"], table["parameters"], strict=True))
    large = dict(zip(table["recipe_profile"], table["recipe_parameters"], strict=True))
    return {name: f"{int(n):,}" for name, n in (small | large).items() if name}


def read_rivals() -> pd.DataFrame:
    """`data/rivals.csv`, all text: how each network of other works was rebuilt.

    The columns `recipe_profile` and `recipe_parameters` are empty where a work has no profile
    under the best recipe.

    Raises:
        InputError: it is missing, or a column is.
    """
    names = ("profile", "row", "citation", "parameters", "what_it_is", "what_differs")
    may_be_empty = dict.fromkeys(("recipe_profile", "recipe_parameters"), "")
    return read_csv(DATA / "rivals.csv", dict.fromkeys(names, "str") | may_be_empty)


def rivals_works(runs: Mapping[str, Run], source: str) -> pd.DataFrame:
    """Each network of other works: the work, our version of it, and whether it has ten folds."""
    table = read_rivals()
    complete = (table["profile"] + f"-{source}").isin(list(runs))
    name = table["profile"].map(title)
    return pd.DataFrame(
        {
            "network": name.where(complete, name + " (no ten folds)"),
            "the paper's row": table["row"] + " {cite:p}`" + table["citation"] + "`",
            "parameters": table["parameters"].astype(int).map("{:,}".format),
            "design": table["what_it_is"],
            "differs from the work in": table["what_differs"],
        }
    )


def one_reader(nodules: pd.DataFrame) -> pd.DataFrame:
    """One reader against the label of the others, in the columns of `patient_bootstrap`."""
    return one_against_others(ratings_of(nodules))


def accuracy_rows(
    runs: Mapping[str, Run], labelled: pd.DataFrame, source: str
) -> list[tuple[str, str, Interval]]:
    """Fig. 9 again: title, kind and accuracy of everything compared, the best first."""
    works = rival_runs(runs, source) | recipe_runs(runs, source)
    shown = feature_runs(runs, source) | works | own_runs(runs, source)
    rows = [
        (
            title(name),
            kind_of(name.removesuffix(f"-{source}")),
            patient_bootstrap(run.probabilities, "accuracy"),
        )
        for name, run in (shown | {DIAMETER: runs[DIAMETER]}).items()
    ]
    half = patient_bootstrap(one_reader(labelled), half_for_the_middle)
    rows.append(("One reader against the others", READERS, half))
    return sorted(rows, key=lambda row: -row[2].estimate)


def best_of_each_kind(runs: Mapping[str, Run], source: str) -> dict[str, Run]:
    """Our version of the paper's network, the ruler, and the row of the highest AUC of each other
    kind, by title.
    """
    best = [
        max(found(runs, source).values(), key=auc_of, default=None)
        for found in (feature_runs, rival_runs)
    ]
    shown = [runs.get(f"paper-usual-{source}"), *best, runs.get(DIAMETER)]
    return {title(run.name): run for run in shown if run is not None}
