"""The model card's table: how good the released networks are on held-out patients."""

from itertools import pairwise

import numpy as np
import pandas as pd

from nodulebook.core import paths
from nodulebook.core.paths import DATA
from nodulebook.data.cohort import read_nodules, read_scan_table
from nodulebook.runs.contract import read_run
from nodulebook.stats.bootstrap import patient_bootstrap
from nodulebook.stats.text import interval
from study.experiments.shifts import POSITIONS, SHIFTS
from study.own_scans.networks import calibrated
from study.own_scans.released import Manifest

SIZES_MM = (0.0, 6.0, 8.0, 10.0, 15.0, np.inf)
SPACINGS_MM = (0.0, 1.25, 2.0, 2.5)


def release_results(release: Manifest) -> pd.DataFrame:
    """AUC of score and ruler on the release's held-out patients: all, by size, by slice spacing.

    One row is by patient, against the collection's diagnoses: the largest score of a patient's
    nodules, benign (1) against primary or metastatic (2, 3). The rows off the middle take each
    nodule at four positions of a distance, in one view and not calibrated; the row at 0 mm is what
    they compare with.

    Returns:
        Columns group, AUC of the score, AUC of the ruler, n, malignant; texts.

    Raises:
        InputError: a run of the release is missing.
    """
    runs = [read_run(name).probabilities for name in sorted({f.run for f in release.files})]
    table = runs[0].assign(p_malignant=pd.concat(runs).groupby(level=0)["p_malignant"].mean())
    for fold, rows in table.groupby("fold"):
        line = release.calibration[str(fold)]
        table.loc[rows.index, "p_malignant"] = calibrated(rows["p_malignant"].to_numpy(), line)
    nodules = read_nodules().set_index("nodule_id").loc[table["nodule_id"]]
    table["diameter_mm"] = nodules["diameter_mm"].to_numpy()
    spacing = read_scan_table().set_index("series_uid")["slice_spacing_mm"]
    table["spacing_mm"] = spacing.loc[nodules["series_uid"]].to_numpy()
    parts = {"all nodules": table}
    for name, unit, edges in (
        ("diameter_mm", "diameter", SIZES_MM), ("spacing_mm", "slice spacing", SPACINGS_MM),
    ):  # fmt: skip
        for low, high in pairwise(edges):
            label = f"{unit} above {low:g}" if np.isinf(high) else f"{unit} {low:g} to {high:g}"
            inside = (table[name] > low) & (table[name] <= high)
            parts[f"{label} mm"] = table[inside]
    diagnoses = pd.read_csv(DATA / "diagnoses.csv").set_index("patient_id")["patient_diagnosis"]
    patients = table.groupby("patient_id")[["p_malignant", "diameter_mm"]].max()
    known = patients.join(diagnoses, how="inner").query("patient_diagnosis > 0").reset_index()
    parts["patients with a diagnosis"] = known.assign(label=known["patient_diagnosis"] > 1)
    parts |= _shifted(release.run, table)
    texts = []
    for name, part in parts.items():
        part = part.astype({"label": int})
        ruler = part.assign(p_malignant=part["diameter_mm"])
        whole = part.drop_duplicates("nodule_id") if "nodule_id" in part else part
        texts.append(
            {
                "group": name,
                "AUC of the score": interval(patient_bootstrap(part, "roc_auc")),
                "AUC of the ruler": interval(patient_bootstrap(ruler, "roc_auc")),
                "n": f"{len(whole):,}",
                "malignant": str(whole["label"].sum()),
            }
        )
    return pd.DataFrame(texts)


def _shifted(run: str, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The nodules at positions off their middle, all directions of a distance as rows of a part."""
    path = paths.runs_folder() / run / SHIFTS
    if not path.is_file():
        return {}
    known = table[["nodule_id", "patient_id", "label", "diameter_mm"]]
    moved = pd.read_csv(path).drop(columns="fold").merge(known, on="nodule_id")
    ways: dict[int, list[pd.DataFrame]] = {}
    for y, x in POSITIONS:
        at = moved.assign(p_malignant=moved[f"p_{y}_{x}"])
        ways.setdefault(max(abs(y), abs(x)), []).append(at)
    return {f"all, one view, {mm} mm off the middle": pd.concat(at) for mm, at in ways.items()}
