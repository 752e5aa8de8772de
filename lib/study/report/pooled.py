"""Artefacts to what the chapters print: formatted strings and tables. Nothing is typed in."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.paper import CLAIMED_AUC as CLAIMED_AUC
from nodulebook.core.settings import N_FOLDS
from nodulebook.data.annotations import read_scans
from nodulebook.data.cohort import cluster_readings
from nodulebook.data.contours import consensus_mask
from nodulebook.data.folds import read_folds
from nodulebook.patches.sources import REAL_CT, SOURCES
from nodulebook.patches.store import PatchStore
from nodulebook.runs.contract import Fold, Run, list_runs, on_common_nodules, read_run
from nodulebook.stats import metrics
from nodulebook.stats.bootstrap import (
    paired_bootstrap_difference,
    patient_bootstrap,
)
from nodulebook.stats.text import interval, number, percent

SOURCE_TEXT = SOURCES | {"annotations": "readers' annotations, no image"}
"""How a source is called beneath figures and in tables."""

METRIC_TEXT = {
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "brier": "Brier",
}


def fold_caption(fold: Fold) -> str:
    """Source, n and settings of one fold, for a caption."""
    run = fold.run
    return (
        f"Run {run['run']}, fold {run['fold']}; source: {SOURCE_TEXT[run['source']]}; "
        f"{run['n_train']} training nodules. Dotted lines: the learning rate falls to a tenth."
    )


READING_ORDER = (*REAL_CT, "annotations", "phantom")
"""Sources in the order in which tables have them: what is no evidence about CT comes last."""

COMPARED = ("features-", "rival-")
"""How the names of runs begin that stand in the comparison chapter only: too many for a figure."""


def complete_runs(compared: bool = False) -> dict[str, Run]:
    """The runs that have all ten folds, valid; real CT first, then the readers, then phantom.

    Args:
        compared: with those of `COMPARED`.

    Raises:
        InputError: there is none, or one is damaged.
    """
    folds = read_folds()
    names = [name for name in list_runs() if compared or not name.startswith(COMPARED)]
    runs = {name: read_run(name, folds=folds) for name in names}
    complete = {name: run for name, run in runs.items() if not run.missing_folds}
    if not complete:
        raise InputError(
            f"{paths.runs_folder()} has no run with all {N_FOLDS} folds: "
            "`make folds PROFILE=quick SOURCE=phantom` makes one in some minutes"
        )
    return in_reading_order(complete)


def in_reading_order(runs: dict[str, Run]) -> dict[str, Run]:
    """The runs by `READING_ORDER` of their sources, then by name."""
    return dict(
        sorted(runs.items(), key=lambda item: (READING_ORDER.index(source(item[1])), item[0]))
    )


def source(run: Run) -> str:
    """The data source of a run."""
    return str(next(iter(run.folds.values())).run["source"])


def per_fold_metrics(runs: dict[str, Run]) -> pd.DataFrame:
    """Eqs 11 to 15, AUC and Brier score of every fold of every run; columns run, fold, ..."""
    rows = [
        {"run": name, "fold": k}
        | metrics.summarise(fold.probabilities["label"], fold.probabilities["p_malignant"])
        for name, run in runs.items()
        for k, fold in run.folds.items()
    ]
    return pd.DataFrame(rows)


def pooled_table(runs: dict[str, Run], names: Sequence[str] = tuple(METRIC_TEXT)) -> pd.DataFrame:
    """Metrics of the pooled predictions with 95 % patient-bootstrap intervals, a row a run."""
    rows = []
    for name, run in runs.items():
        table = run.probabilities
        row = {
            "run": name,
            "source": SOURCE_TEXT[source(run)],
            "n": str(len(table)),
            "malignant": str(int(table["label"].sum())),
        }
        for metric in names:
            row[METRIC_TEXT[metric]] = interval(patient_bootstrap(table, metric))
        rows.append(row)
    return pd.DataFrame(rows)


def fold_mean_table(
    per_fold: pd.DataFrame, names: Sequence[str] = tuple(METRIC_TEXT)
) -> pd.DataFrame:
    """Mean and standard deviation over the folds, a row a run."""
    rows = []
    for run, part in per_fold.groupby("run", sort=False):
        row = {"run": str(run), "folds": str(len(part))}
        for metric in names:
            # Undefined in one fold, undefined over all: a mean of the others would hide it.
            mean, deviation = part[metric].mean(skipna=False), part[metric].std(skipna=False)
            row[METRIC_TEXT[metric]] = f"{number(mean)} ± {number(deviation)}"
        rows.append(row)
    return pd.DataFrame(rows)


DIAMETER_EDGES_MM = (3, 5, 10, 15, 20, 25, 30)


def diameter_table(labelled: pd.DataFrame) -> pd.DataFrame:
    """Nodules by diameter and label: the paper's Table 1, from our cohort.

    Args:
        labelled: columns diameter_mm and label.

    Returns:
        Columns "diameter (mm)", "nodules", "benign", "malignant", as text, with a row of totals.
    """
    rows = []
    for low, high in pairwise((0, *DIAMETER_EDGES_MM, np.inf)):
        part = labelled[(labelled["diameter_mm"] >= low) & (labelled["diameter_mm"] < high)]
        if len(part) or low:
            name = f"{low} and above" if np.isinf(high) else f"{low} to {high}"
            rows.append(_diameter_row(name if low else f"below {high}", part))
    rows.append(_diameter_row("all", labelled))
    return pd.DataFrame(rows)


def _diameter_row(name: str, part: pd.DataFrame) -> dict[str, str]:
    malignant = int(part["label"].sum())
    return {
        "diameter (mm)": name,
        "nodules": str(len(part)),
        "benign": str(len(part) - malignant),
        "malignant": str(malignant),
    }


def layer_table(model: Any) -> pd.DataFrame:
    """The paper's Table 2 from a Keras model: part, output shape and size, parameters, work."""
    rows: dict[str, dict[str, Any]] = {}
    for layer in model.layers:
        part = _part(layer.name)
        shape = layer.output.shape[1:]
        row = rows.setdefault(part, {"part": part, "parameters": 0, "multiply-adds": 0})
        row["output shape"] = " × ".join(str(n) for n in shape)
        row["output size"] = f"{int(np.prod(shape)):,}"
        row["parameters"] += layer.count_params()
        row["multiply-adds"] += multiply_adds(layer)
    table = pd.DataFrame(rows.values())
    total: dict[str, Any] = {"part": "all", "output shape": "", "output size": ""}
    counts = ("parameters", "multiply-adds")
    total |= {name: int(table[name].sum()) for name in counts}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    for name in counts:
        table[name] = [f"{n:,}" for n in table[name]]
    return table[["part", "output shape", "output size", *counts]]


def multiply_adds(layer: Any) -> int:
    """Multiply-adds of a convolution or fully connected layer for one patch; 0 for any other.

    Counted for the layer as described, C_in / groups * k^3 for each output number, padding
    included: not for how it is computed.
    """
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    places = int(np.prod(layer.output.shape[1:])) * getattr(layer, "pooled", 1) ** 3
    return places * int(np.prod(kernel.shape[:-1]))


def _part(layer: str) -> str:
    """The row of Table 2 that a layer of `network.senet` belongs to."""
    if match := re.match(r"stage(\d)_module", layer):
        return f"stage {match[1]}: SE modules"
    if match := re.match(r"stage(\d)_pool", layer):
        return f"average pooling after stage {match[1]}"
    return {
        "patch": "patch",
        "input_pool": "average pooling of the patch",
        "first_convolution_pool": "average pooling after the first convolution",
        "last_convolution": "stage 4: SE modules",
        "global_pool": "global average pooling",
        "logits": "fully connected",
        "probabilities": "softmax",
    }.get(layer, "first convolution 3³")


def network_table(networks: dict[str, Any]) -> pd.DataFrame:
    """Depth, last maps, parameters and multiply-adds of several models, a row each."""
    rows = []
    for name, model in networks.items():
        last = model.get_layer("last_convolution").output.shape[1:]
        modules = [
            len(
                {
                    m[1]
                    for layer in model.layers
                    if (m := re.match(rf"stage{k}_module(\d+)", layer.name))
                }
            )
            for k in range(1, 5)
        ]
        rows.append(
            {
                "profile": name,
                "modules": "-".join(str(n) for n in modules),
                "last maps": " × ".join(str(n) for n in last),
                "parameters": f"{model.count_params():,}",
                "multiply-adds": f"{sum(multiply_adds(x) for x in model.layers) / 1e6:.1f} M",
            }
        )
    return pd.DataFrame(rows)


def phantom_volume_table(nodules: pd.DataFrame, store: PatchStore) -> pd.DataFrame:
    """Rendered volume against the readers' consensus volume, by diameter.

    Args:
        nodules: columns nodule_id, series_uid, cluster, diameter_mm.
        store: the phantom's patches.

    Returns:
        Columns "diameter (mm)", "nodules", "within 10 %", "median ratio", as text.
    """
    known = nodules.set_index("nodule_id").loc[store.table["nodule_id"]]
    consensus = consensus_volumes_mm3(known)
    rendered = store.masks.sum(axis=(1, 2, 3))  # 1 mm voxels
    drawn = consensus > 0  # half of the readers agree on no voxel at all for a few small ones
    ratio = rendered[drawn] / consensus[drawn]
    diameter = known["diameter_mm"].to_numpy()[drawn]
    rows = []
    for low, high, name in (
        (0, 5, "up to 5"),
        (5, 10, "5 to 10"),
        (10, 20, "10 to 20"),
        (20, 1e9, "above 20"),
        (5, 1e9, "all above 5"),
    ):
        part = ratio[(diameter > low) & (diameter <= high)]
        rows.append(
            {
                "diameter (mm)": name,
                "nodules": str(len(part)),
                "within 10 %": percent(float(np.mean(np.abs(part - 1) <= 0.1))),
                "median ratio": number(float(np.median(part))),
            }
        )
    return pd.DataFrame(rows)


def consensus_volumes_mm3(nodules: pd.DataFrame) -> NDArray[np.float64]:
    """The volume that at least half of a nodule's readers include, on the scan's own grid.

    Args:
        nodules: columns series_uid and cluster.
    """
    scans = {scan.series_uid: scan for scan in read_scans(set(nodules["series_uid"]))}
    lesions = {uid: cluster_readings(scan) for uid, scan in scans.items()}
    return np.array(
        [
            consensus_mask(scans[uid], lesions[uid][cluster]).volume_mm3
            for uid, cluster in zip(nodules["series_uid"], nodules["cluster"], strict=True)
        ]
    )


def runs_caption(runs: dict[str, Run]) -> str:
    """Runs, sources and n beneath a figure."""
    parts = [
        f"{name}: {len(run.probabilities):,} nodules, {SOURCE_TEXT[source(run)]}"
        for name, run in runs.items()
    ]
    return "Runs, ten patient-grouped folds each: " + "; ".join(parts) + "."


def headline(runs: dict[str, Run]) -> dict[str, str]:
    """The sentences of the results on real CT, of diameter alone and of the gates, for glue.

    Of several networks on real CT the one with the paper's settings stands for them; where there
    is none, the one with the most training epochs.
    """
    run, diameter = _standing_for_real_ct(runs), runs.get("diameter")
    out = {
        "headline-real": "no run is here yet",
        "headline-diameter": "has not been run",
        "headline-difference": "",
        "headline-gates": "",
        "headline-verdict": "That is open: nothing has been run on real CT yet.",
    }
    if diameter is not None:
        auc = patient_bootstrap(diameter.probabilities, "roc_auc")
        right = patient_bootstrap(diameter.probabilities, "accuracy")
        out["headline-diameter"] = (
            f"reaches AUC {interval(auc)} and accuracy {interval(right)} on "
            f"{len(diameter.probabilities):,} nodules"
        )
    if run is not None:
        out["headline-verdict"] = _verdict(run)
        auc = patient_bootstrap(run.probabilities, "roc_auc")
        right = patient_bootstrap(run.probabilities, "accuracy")
        out["headline-real"] = (
            f"the network of the run {run.name} reaches AUC {interval(auc)} and accuracy "
            f"{interval(right)} on {len(run.probabilities):,} nodules "
            f"({SOURCE_TEXT[source(run)]}; 95 % patient-bootstrap intervals)"
        )
        if diameter is not None:
            out["headline-difference"] = _difference(run, diameter)
    gated, plain = _with_and_without_gates(runs)
    if gated is not None and plain is not None:
        out["headline-gates"] = _gates(gated, plain)
    return out


def headline_runs(runs: dict[str, Run]) -> dict[str, list[str]]:
    """Which runs each of `headline`'s sentences is computed from; all, where it says that none is.

    For `trace.glue_texts`.
    """
    real, diameter = _standing_for_real_ct(runs), runs.get("diameter")
    used: dict[str, list[Run | None]] = {
        "headline-verdict": [real],
        "headline-real": [real],
        "headline-diameter": [diameter],
        "headline-difference": [real, diameter],
        "headline-gates": list(_with_and_without_gates(runs)),
    }
    return {key: [run.name for run in of if run] or list(runs) for key, of in used.items()}


def _standing_for_real_ct(runs: dict[str, Run]) -> Run | None:
    real = [run for run in runs.values() if source(run) in REAL_CT]
    if not real:
        return None
    return max(real, key=lambda run: (_is_faithful(run), len(run.folds[0].history)))


def _with_and_without_gates(runs: dict[str, Run]) -> tuple[Run | None, Run | None]:
    arms = (FAITHFUL, f"{FAITHFUL}-no-se")
    for name in REAL_CT:
        gated, plain = (runs.get(f"{arm}-{name}") for arm in arms)
        if gated is not None and plain is not None:
            return gated, plain
    return None, None


FAITHFUL = "paper"
"""The profile that follows the paper's text as far as it can be read."""


def _is_faithful(run: Run) -> bool:
    return run.folds[0].run.get("profile_name") == FAITHFUL


def _verdict(run: Run) -> str:
    """Whether the claimed AUC is within what a run on real CT reached."""
    auc = patient_bootstrap(run.probabilities, "roc_auc")
    epochs = len(run.folds[0].history)
    if not _is_faithful(run):
        return (
            "That is open. What has been run whole on real CT so far is a small stand-in, "
            f"{epochs} epochs long; the paper's settings have not been run whole. So nothing here "
            "yet supports the claim, and nothing refutes the method."
        )
    start = (
        "The paper's settings, as far as they can be read, were run on real CT, "
        f"{epochs} epochs in each of {len(run.folds)} folds. The claimed AUC of {CLAIMED_AUC} "
    )
    if auc.high < CLAIMED_AUC:
        return f"Not on the data that we have. {start}lies above the whole interval that came out."
    return f"It may. {start}lies within the interval that came out, or below it."


def _difference(run: Run, other: Run) -> str:
    start, verdict = _compared(run, other, "network minus diameter")
    if verdict:
        return f"{start}the network's is {verdict} that of diameter alone."
    return f"{start}the network cannot be told apart from diameter alone."


def _gates(run: Run, without: Run) -> str:
    start, verdict = _compared(run, without, "the network minus the same without the gates")
    if verdict:
        return f"{start}with the gates it is {verdict} that without them."
    return f"{start}no gain and no loss by the gates can be seen."


def _compared(run: Run, other: Run, minuend: str) -> tuple[str, str]:
    """The start of a sentence, and whether the difference in AUC is above or below 0 or neither."""
    first, second = on_common_nodules(run, other)
    difference = paired_bootstrap_difference(first, second, "roc_auc")
    verdict = "above" if difference.low > 0 else "below" if difference.high < 0 else ""
    start = (
        f"On the {len(first):,} nodules that both have, the difference in AUC, {minuend}, is "
        f"{interval(difference)}: "
    )
    return start, verdict


def arm_sentence(runs: dict[str, Run], arm: str, others: Sequence[str]) -> str:
    """The AUC of an arm on real CT, and its paired differences to others, as the end of a sentence.

    Args:
        runs: complete runs by name.
        arm: a run `<arm>-<source>`.
        others: arms it is compared with, `diameter` or of the same source; those that are not
            there are left out.
    """
    for name in REAL_CT:
        run = runs.get(f"{arm}-{name}")
        if run is None:
            continue
        auc = patient_bootstrap(run.probabilities, "roc_auc")
        parts = [f"AUC {interval(auc)} on {len(run.probabilities):,} nodules"]
        for other in others:
            beside = runs.get(other if other == "diameter" else f"{other}-{name}")
            if beside is None:
                continue
            difference = paired_bootstrap_difference(*on_common_nodules(run, beside), "roc_auc")
            side = (
                "above it" if difference.low > 0 else
                "below it" if difference.high < 0 else "not to be told apart from it"
            )  # fmt: skip
            parts.append(f"minus “{other}” {interval(difference)}, {side}")
        return "; ".join(parts)
    return "not run whole yet"


PAIRS = (
    ("quick", "diameter"),
    ("paper", "diameter"),
    ("paper", "paper-no-se"),
    ("paper", "paper-slab"),
    ("honest", "diameter"),
    ("honest", "paper"),
    ("honest-slices", "diameter"),
    ("honest-slices", "honest"),
)
"""Which arms are compared on the same nodules."""


def difference_table(
    runs: dict[str, Run], pairs: Sequence[tuple[str, str]] = PAIRS
) -> pd.DataFrame:
    """Paired differences in AUC between arms on the same source, a row a pair.

    An arm is a run `<profile>-<source>`, or `diameter`. Pairs that are not there are left out.

    Returns:
        Columns "source", "first", "second", "n", "AUC, first minus second", as text.
    """
    rows = []
    for name in READING_ORDER:
        for pair in pairs:
            found = [runs.get(arm if arm == "diameter" else f"{arm}-{name}") for arm in pair]
            one, other = found
            if one is None or other is None:
                continue
            first, second = on_common_nodules(one, other)
            difference = paired_bootstrap_difference(first, second, "roc_auc")
            rows.append(
                {
                    "source": SOURCE_TEXT[name],
                    "first": one.name,
                    "second": other.name,
                    "n": str(len(first)),
                    "AUC, first minus second": interval(difference),
                }
            )
    return pd.DataFrame(rows, columns=["source", "first", "second", "n", "AUC, first minus second"])


def making_table(runs: dict[str, Run]) -> pd.DataFrame:
    """On what each run was made, and how long its ten folds took."""
    rows = []
    for name, run in runs.items():
        records = [fold.run for fold in run.folds.values()]
        hours = sum(record["wall_seconds"] for record in records) / 3600
        rows.append(
            {
                "run": name,
                "epochs": str(len(run.folds[0].history)),
                "seed": _one_of(record["seed"] for record in records),
                "backend": _one_of(
                    f"{record['backend']} {record['versions'].get(record['backend'], '')}".strip()
                    for record in records
                ),
                "device": _one_of(record["device"] for record in records),
                "hours": f"{hours:.2f}",
            }
        )
    return pd.DataFrame(rows)


def _one_of(values: Iterable[object]) -> str:
    """The value, or all of them where folds differ."""
    return "; ".join(dict.fromkeys(str(value) for value in values))


def literature_table(literature: pd.DataFrame) -> pd.DataFrame:
    """The works of the paper's tables, from `data/literature.csv`, as the book shows them.

    Args:
        literature: a row a reported number, all text (see data/README.md).

    Returns:
        A row a work; of several numbers of one metric the first, with what it was reached on.
    """
    rows = []
    paper = literature[literature["table"] != "later"]
    for (table, row), part in paper.groupby(["table", "row"], sort=False):
        first = part.iloc[0]
        values = part.drop_duplicates("metric").set_index("metric")["value"]
        rows.append(
            {
                "row of the paper": (f"paper's Table {table}: " if str(table).isdigit() else "")
                + (f"{row} {{cite:p}}`{first['citation']}`" if first["citation"] else str(row)),
                "what it is": first["what_it_is"],
                "data": first["data"],
                "acc., %": values.get("accuracy_percent", ""),
                "AUC": values.get("auc", ""),
                "how seen": first["how_seen"],
            }
        )
    return pd.DataFrame(rows)


def provenance_table(runs: dict[str, Run]) -> pd.DataFrame:
    """Where each run comes from and how to make it again."""
    rows = []
    for name, run in runs.items():
        first = next(iter(run.folds.values())).run
        seconds = sum(fold.run["wall_seconds"] for fold in run.folds.values())
        profile = first.get("profile_name")
        command = (
            f"`make folds PROFILE={profile} SOURCE={first['source']}`"
            if profile
            else "`nodulebook baseline`"
        )
        if profile and name != f"{profile}-{first['source']}":
            command = f"{command[:-1]} RUN={name}`"
        rows.append(
            {
                "run": name,
                "source": SOURCE_TEXT[first["source"]],
                "command": command,
                "seed": str(first["seed"]),
                "backend": first["backend"],
                "device": first["device"],
                "seconds": f"{seconds:,.0f}",
                "ended": max(fold.run["ended"] for fold in run.folds.values())[:10],
            }
        )
    return pd.DataFrame(rows)
