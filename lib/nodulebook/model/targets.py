"""What a fold trains on and is tested on: its patches, its tables, and the targets of a lesion."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.settings import TrainingSettings
from nodulebook.data.annotations import CHARACTERISTICS as CHARACTERISTICS_RATED
from nodulebook.data.folds import absent_nodules, check_fold
from nodulebook.patches.cube import central_slab, scale_to_unit
from nodulebook.patches.store import PatchStore


@dataclass(frozen=True, eq=False)
class FoldData:
    """A fold's patches, scaled to [0, 1], (n, 32, 32, 32) zyx, and its tables.

    Training patches that are to be shifted have a margin of `shift_mm` along y and x.
    """

    train: pd.DataFrame  # nodule_id, patient_id; label, or what `lesion_targets` gives
    test: pd.DataFrame  # nodule_id, patient_id, label, fold
    train_volumes: NDArray[np.float32]
    test_volumes: NDArray[np.float32]
    absent: list[str]  # nodules of the held-out fold that the source does not have
    digest: str
    lesions: pd.DataFrame | None = None
    """Every lesion of the held-out patients that the source has: nodule_id, patient_id, and label,
    NaN where the fold table gives none. None where a held-out patient is also trained on."""
    unlabelled_volumes: NDArray[np.float32] | None = None
    """The patches of those lesions that are not in `test`, in their order."""


def split_fold(
    folds: pd.DataFrame,
    store: PatchStore,
    fold: int,
    settings: TrainingSettings | None = None,
    nodules: pd.DataFrame | None = None,
    hidden: Collection[str] = (),
    every: PatchStore | None = None,
) -> FoldData:
    """Training and test patches of one fold.

    Args:
        folds: columns nodule_id, patient_id, label, fold.
        store: the source's patches; labelled nodules that it lacks are left out and listed.
        fold: the fold that is held out.
        settings: which lesions are trained on, with which targets, and the slab that is shown;
            None: the labelled nodules, whole.
        nodules: `data/nodules.csv`; needed where the settings want more than labels.
        hidden: patients who take no part, neither in training nor in the test.
        every: a store of the same source with more lesions; the store itself where None.

    Raises:
        InputError: the fold is out of range, or the store has no nodule to train or test on.
    """
    check_fold(fold)
    here = folds["nodule_id"].isin(set(store.table["nodule_id"]))
    present = folds[here & ~folds["patient_id"].isin(set(hidden))].reset_index(drop=True)
    test = present[present["fold"] == fold].reset_index(drop=True)
    train = present[present["fold"] != fold].reset_index(drop=True)
    if test.empty or train["label"].nunique() < 2:
        raise InputError(
            f"the {store.source} patches hold {len(test)} test and {len(train)} training nodules "
            f"of fold {fold}: too few to train and test on"
        )
    if settings and settings.lesions == "all":
        held_out = {*folds.loc[folds["fold"] == fold, "patient_id"], *hidden}
        kept = ~store.table["patient_id"].isin(held_out)
        train = store.table.loc[kept, ["nodule_id", "patient_id"]].reset_index(drop=True)
    if settings and settings.beyond_labels:
        if nodules is None:
            raise InputError("targets beyond the label need the table of nodules")
        targets = lesion_targets(nodules, train["nodule_id"], settings)
        train = train.drop(columns="label", errors="ignore").join(targets)

    every = every or store
    patients = set(folds.loc[folds["fold"] == fold, "patient_id"]) - set(hidden)
    lesions = every.table.loc[every.table["patient_id"].isin(patients), ["nodule_id", "patient_id"]]
    lesions = pd.concat([test[["nodule_id", "patient_id"]], lesions]).drop_duplicates("nodule_id")
    lesions["label"] = lesions["nodule_id"].map(test.set_index("nodule_id")["label"])
    lesions = lesions.sort_values("nodule_id", ignore_index=True)

    shift = settings.shift_mm if settings else 0
    if shift and store.margin < shift:
        raise InputError(
            f"the {store.source} patches have a margin of {store.margin} mm, and training with "
            f"shift_mm {shift} needs as much as that"
        )

    def volumes(
        table: pd.DataFrame, store: PatchStore = store, margin: int = 0, room: int = 0
    ) -> NDArray[np.float32]:
        """Scaled patches with a margin, in a slab with room for shifts along z."""
        cut = slice(store.margin - margin, store.volumes_hu.shape[-1] - store.margin + margin)
        volumes_hu = store.volumes_hu[store.rows(table["nodule_id"])][:, :, cut, cut]
        slab = settings.central_slab_mm if settings else 0
        return scale_to_unit(central_slab(volumes_hu, slab + 2 * room) if slab else volumes_hu)

    return FoldData(
        train=train,
        test=test,
        train_volumes=volumes(train, store, shift, settings.shift_z_mm if settings else 0),
        test_volumes=volumes(test),
        absent=absent_nodules(folds, fold, store.table["nodule_id"].tolist()),
        digest=store.digest,
        lesions=None if patients & set(train["patient_id"]) else lesions,
        unlabelled_volumes=volumes(lesions[lesions["label"].isna()], every),
    )


RATED = tuple(name for name in CHARACTERISTICS_RATED if name != "internal_structure")
"""The readers' characteristics of the second task; internal structure hardly varies."""


CHARACTERISTICS_TASK = (*RATED, "log_diameter")


FULL_READERS = 4
"""Readers of a scan; a lesion that all of them marked has weight 1."""


def lesion_targets(
    nodules: pd.DataFrame, nodule_ids: Iterable[str], settings: TrainingSettings
) -> pd.DataFrame:
    """What lesions are trained on, beyond a label; in the order of `nodule_ids`.

    Args:
        nodules: `data/nodules.csv`.
        nodule_ids: the lesions.
        settings: soft_labels, lesions.

    Returns:
        Columns malignancy (target in [0, 1]: the mean rating from 1 to 5, or its side of 3, with
        0.5 at 3), weight (share of the readers who marked it; 1 where only labelled nodules are
        trained on), and those of `CHARACTERISTICS_TASK`, each with mean 0 and standard deviation
        1 here.
    """
    rows = nodules.set_index("nodule_id").loc[list(nodule_ids)]
    mean = rows["malignancy_mean"].to_numpy()
    side = (1 + np.sign(mean - 3)) / 2
    out = pd.DataFrame({"malignancy": (mean - 1) / 4 if settings.soft_labels else side})
    share = rows["readers"].to_numpy().clip(max=FULL_READERS) / FULL_READERS
    out["weight"] = share if settings.lesions == "all" else 1.0
    for name in RATED:
        out[name] = [np.mean([int(n) for n in text.split(";")]) for text in rows[name]]
    # A single contour point has diameter 0.
    out["log_diameter"] = np.log(rows["diameter_mm"].to_numpy().clip(min=2))
    for name in CHARACTERISTICS_TASK:
        deviation = out[name].std(ddof=0)
        out[name] = (out[name] - out[name].mean()) / (deviation if deviation > 0 else 1.0)
    return out.astype(np.float32)
