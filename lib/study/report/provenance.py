"""Tables of every committed run, from its files, for the page of runs."""

import hashlib
from collections.abc import Iterable

import pandas as pd

from bookkit.tracing.manifest import artefact_files, run_files
from nodulebook.core import paths
from nodulebook.core.files import sha256
from nodulebook.core.settings import N_FOLDS, read_profile
from nodulebook.data.folds import read_folds
from nodulebook.runs.arithmetic import arithmetics
from nodulebook.runs.contract import Fold, Run, list_runs, read_run
from study.experiments.baseline import RUN as DIAMETER
from study.features.handcrafted import PREFIX as FEATURES
from study.report.names import keyed as keyed
from study.report.names import title
from study.report.pooled import SOURCE_TEXT, distinct, in_reading_order, source, training_seconds

MADE_BY = {
    "data/automatic_ruler.csv": "nodulebook ruler",
    "data/scans.csv": "nodulebook cohort",
    "data/nodules.csv": "nodulebook cohort",
    "data/folds.csv": "nodulebook cohort",
    "data/patch_speed.csv": "python benchmarks/patches.py",
    "data/slices_hu.csv": "python benchmarks/slices_hu.py",
}
"""The commands that write committed tables; `data/README.md` names the sources of the others."""


def all_runs() -> dict[str, Run]:
    """Every run of `papermill_runs/`, complete or not: real CT, the readers, phantom; by name.

    Raises:
        InputError: one is damaged.
    """
    folds = read_folds()
    runs = {name: read_run(name, folds=folds) for name in list_runs()}
    order = in_reading_order({name: source(run) for name, run in runs.items()})
    return {name: runs[name] for name in order}


def overview_table(runs: dict[str, Run]) -> pd.DataFrame:
    """One row per run: source, folds, n, training time, hash of its files; as text."""
    rows = [
        {
            "run": f"{title(name)} ({{ref}}`{name} <run-{name}>`)",
            "source": SOURCE_TEXT[source(run)],
            "folds": f"{len(run.folds)} of {N_FOLDS}",
            "computed with": arithmetics(fold.run for fold in run.folds.values()),
            "n": f"{len(run.probabilities):,}",
            "hours": f"{training_seconds(run) / 3600:.2f}",
            "hash": run_hash(name)[:12],
        }
        for name, run in runs.items()
    ]
    return pd.DataFrame(rows)


def run_hash(name: str) -> str:
    """SHA-256 over the names and the contents of a run's files."""
    digest = hashlib.sha256()
    for file, path in run_files(name).items():
        digest.update(f"{file} {sha256(path)}\n".encode())
    return digest.hexdigest()


def run_values(run: Run) -> dict[str, object]:
    """What the records of a run's folds say, and the command that repeats one of them."""
    records = [fold.run for fold in run.folds.values()]
    first = records[0]
    profile = first.get("profile_name")
    malignant = int(run.probabilities["label"].sum())
    return {
        "source": SOURCE_TEXT[first["source"]],
        "profile": f"`profiles/{profile}.yaml`" if profile else str(first["arm"]),
        "folds": _numbers(run.folds),
        "n": f"{len(run.probabilities):,} test nodules, {malignant:,} malignant",
        "absent from the source": _all(record["absent_nodules"] for record in records),
        "epochs": distinct(len(fold.history) for fold in run.folds.values()),
        "seed": distinct(record["seed"] for record in records),
        "computed with": arithmetics(records),
        "device": distinct(record["device"] for record in records),
        "versions": _versions(run.folds.values()),
        "training time": f"{training_seconds(run):,.0f} s, all folds",
        "made": f"{min(r['started'] for r in records)[:10]} to "
        f"{max(r['ended'] for r in records)[:10]}",
        "profile hash": distinct(record["profile_hash"][:16] or "none" for record in records),
        "data hash": distinct(record["data_hash"][:16] for record in records),
        "files' hash": run_hash(run.name)[:16],
        "a fold again": f"`{again_command(run)}`",
        "all folds": f"`{folds_command(run)}`",
    }


def again_command(run: Run) -> str:
    """The command that re-runs a fold and, where it can, compares the predictions."""
    if folds_command(run).startswith("nodulebook deepfeatures"):
        return f"{folds_command(run)} --fold {min(run.folds)}"
    return f"nodulebook again --run {run.name} --fold {min(run.folds)}"


def folds_command(run: Run) -> str:
    """The command that makes the run."""
    record = next(iter(run.folds.values())).run
    profile, source_name = record.get("profile_name"), record["source"]
    if run.name == DIAMETER:
        return "nodulebook baseline"
    if run.name.startswith(FEATURES):
        group = record["arm"].removeprefix(FEATURES)
        return f"nodulebook features --source {source_name} --group {group}"
    if not profile:
        method = run.name.removesuffix(f"-{source_name}")
        return f"nodulebook deepfeatures {method} --source {source_name}"
    own = read_profile(profile).seed
    seed = record.get("seed", own)
    seeded = "" if seed == own else f" --seed {seed}"
    named = "" if run.name == f"{profile}-{source_name}" else f" --run {run.name}"
    return f"nodulebook folds --profile {profile} --source {source_name}{seeded}{named}"


def tables_table() -> pd.DataFrame:
    """One row per committed table of `data/`: rows, hash, how it is made."""
    rows = []
    for name, path in artefact_files().items():
        if name.startswith("data/"):
            n = f"{len(pd.read_csv(path)):,}" if path.suffix == ".csv" else ""
            how = f"`{MADE_BY[name]}`" if name in MADE_BY else "see `data/README.md`"
            rows.append({"file": f"`{name}`", "rows": n, "hash": sha256(path)[:12], "made": how})
    return pd.DataFrame(rows)


def groups_table() -> pd.DataFrame:
    """Folds of trials, rules and repeats, which are committed in groups; one row per group."""
    rows = []
    for group in sorted(paths.runs_folder().iterdir()):
        folds = sorted(group.glob("*/fold-*/run.json"))
        if folds:
            members = len({path.parent.parent for path in folds})
            name = f"`papermill_runs/{group.name}`"
            rows.append({"group": name, "runs": str(members), "folds": f"{len(folds):,}"})
    return pd.DataFrame(rows)


def _versions(folds: Iterable[Fold]) -> str:
    found: dict[str, list[str]] = {}
    for fold in folds:
        for package, number in fold.run["versions"].items():
            if number not in found.setdefault(package, []):
                found[package].append(number)
    return ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in found.items())


def _all(values: Iterable[list[str]]) -> str:
    return ", ".join(sorted({name for names in values for name in names})) or "none"


def _numbers(folds: Iterable[int]) -> str:
    numbers = sorted(folds)
    if numbers == list(range(N_FOLDS)):
        return f"0 to {N_FOLDS - 1}"
    return ", ".join(map(str, numbers))
