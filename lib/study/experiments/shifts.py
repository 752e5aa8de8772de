"""Held-out nodules scored off their middle: what a position that is wrong by millimetres costs.

All patches are centred on the readers' own outlines. Here each fold's network, from its weights,
scores its held-out nodules again, moved in the axial plane; patches come from a store with a
margin. One view per position, so that a position is what a single click gives.
"""

from pathlib import Path

import pandas as pd

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import write_csv
from nodulebook.core.settings import MARGIN, N_FOLDS
from nodulebook.data.folds import read_folds
from nodulebook.patches.cube import PATCH_SIZE, central_slab, scale_to_unit
from nodulebook.patches.sources import open_source
from nodulebook.runs.contract import read_run
from study.experiments.folds import recorded_parameters

SHIFTS = "shifts.csv"
"""In a run's folder: nodule_id, fold, and the probability at each position, `p_<y>_<x>` in mm."""

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
POSITIONS = ((0, 0), *((k * y, k * x) for k in range(1, MARGIN + 1) for y, x in DIRECTIONS))
"""Shifts along y and x in voxels of 1 mm."""


def write_shifts(run: str, data: str = "") -> Path:
    """Score all folds of a run at every position, and write `shifts.csv` into its folder.

    Args:
        run: a whole run of a network, whose weights are here.
        data: the CT data, instead of NODULEBOOK_DATA.

    Raises:
        InputError: the run is not whole, or a fold's weights are not here.
    """
    from nodulebook.model.checkpoint import CHECKPOINT, checkpoint_key, load_checkpoint
    from nodulebook.model.train import build_model, predict_malignant
    from nodulebook.runs.network_fold import open_fold

    folds = read_folds()
    whole = read_run(run, folds=folds)
    if whole.missing_folds:
        raise InputError(f"run {run!r} lacks folds {whole.missing_folds}; train them first")
    record = whole.folds[0].run
    where = Path(data) if data else None
    store = open_source(record["source"], where, "all", margin=MARGIN)
    rows = []
    for k in range(N_FOLDS):
        parameters = recorded_parameters(record, run, k, data)
        profile = parameters.settings
        fold_data, _ = open_fold(parameters, profile)
        model = build_model(profile)
        weights = paths.fold_folder(run, k) / CHECKPOINT
        key = checkpoint_key(profile, fold_data, k)
        if not weights.is_file() or load_checkpoint(weights, model, key, finished=True) is None:
            raise InputError(f"{weights}: the weights of this fold are not here; train it again")
        table = whole.folds[k].probabilities[["nodule_id", "fold"]].reset_index(drop=True)
        wide = store.volumes_hu[store.rows(table["nodule_id"])]
        for y, x in POSITIONS:
            rows_of, columns = (slice(MARGIN + d, MARGIN + d + PATCH_SIZE) for d in (y, x))
            volumes_hu, slab = wide[:, :, rows_of, columns], profile.training.central_slab_mm
            volumes = scale_to_unit(central_slab(volumes_hu, slab) if slab else volumes_hu)
            table[f"p_{y}_{x}"] = predict_malignant(model, volumes).round(4)
        rows.append(table)
    path = paths.runs_folder() / run / SHIFTS
    write_csv(pd.concat(rows, ignore_index=True), path)
    return path
