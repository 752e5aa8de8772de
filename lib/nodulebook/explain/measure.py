"""All maps of a network's test nodules, and what they are worth.

About a minute for 100 nodules and the paper's network on one core, most of it for insertion and
deletion, which need a prediction for each of `faithfulness.FRACTIONS`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.explain import faithfulness, gradcam
from nodulebook.explain.scores import METHODS, OF_THE_NETWORK, SANITY_COLUMNS, Explanations
from nodulebook.model.train import predict_malignant

Classes = NDArray[np.int64]
Maps = NDArray[np.floating[Any]]

FINE = 8
"""The layer of `grad_cam_plus_plus_fine` is the last whose maps have this many voxels along an
axis; the last layer's maps may have as few as 2."""


def all_maps(
    model: keras.Model, volumes: NDArray[np.float32], classes: Classes, fine: bool = True
) -> dict[str, Maps]:
    """The maps (n, z, y, x) of every method that looks into the network, by method.

    Args:
        model: a network of `nodulebook.model.senet`.
        volumes: (n, z, y, x) in [0, 1].
        classes: (n,), the class explained.
        fine: with `grad_cam_plus_plus_fine`.
    """
    given = (model, volumes[..., None], classes)
    maps: dict[str, Maps] = {
        "grad_cam": gradcam.grad_cam(*given),
        "grad_cam_plus_plus": gradcam.grad_cam_plus_plus(*given),
        "guided_backpropagation": gradcam.guided_backpropagation(*given),
        "deconvolution": gradcam.deconvolution(*given),
    }
    maps["guided_grad_cam_plus_plus"] = maps["grad_cam_plus_plus"] * maps["guided_backpropagation"]
    if fine:
        layer = gradcam.feature_layer(model, FINE)
        maps["grad_cam_plus_plus_fine"] = gradcam.grad_cam_plus_plus(*given, layer_name=layer)
    return maps


def explain(
    model: keras.Model,
    nodule_ids: list[str],
    volumes: NDArray[np.float32],
    masks: NDArray[np.bool_],
    report: Callable[[str], None] = print,
    views: int = 1,
) -> Explanations:
    """Measure every method on a fold's test nodules, and make the weights random step by step.

    Args:
        model: the fold's trained network.
        nodule_ids: n names.
        volumes: (n, z, y, x) in [0, 1].
        masks: (n, z, y, x), the readers' consensus.
        report: gets a line a part of the work.
        views: of `predict_malignant`, as the fold was tested. They decide which class is
            explained; maps and curves are of the patch as it stands.
    """
    shifts = faithfulness.shifts_zyx(nodule_ids)
    moved = faithfulness.shifted(volumes, shifts, faithfulness.LUNG)
    moved_masks = faithfulness.shifted(masks, shifts, False)
    centred = _measured(model, nodule_ids, volumes, masks, "centred", views)
    report("explain: centred patches measured")
    off = _measured(model, nodule_ids, moved, moved_masks, "off-centre", views)
    report("explain: off-centre patches measured")
    sanity = _weights_check(model, nodule_ids, volumes, views)
    report("explain: weights made random, part by part")
    return Explanations(pd.concat([centred, off], ignore_index=True), sanity)


def _measured(
    model: keras.Model,
    nodule_ids: list[str],
    volumes: NDArray[np.float32],
    masks: NDArray[np.bool_],
    placement: str,
    views: int,
) -> pd.DataFrame:
    p = predict_malignant(model, volumes, views)
    explained = (p >= 0.5).astype(np.int64)
    n, *shape = volumes.shape
    rivals: dict[str, Maps] = {  # they know nothing of the network
        "gaussian": np.broadcast_to(faithfulness.centred_gaussian(shape), volumes.shape),
        "image": faithfulness.image_map(volumes),
        "random": faithfulness.random_maps(n, shape),
    }
    maps = all_maps(model, volumes, explained) | rivals
    others = all_maps(model, volumes, 1 - explained) | rivals if placement == "centred" else {}
    tables = []
    for method in METHODS:
        one = maps[method]
        measures: dict[str, Any] = {
            "nodule_id": nodule_ids,
            "placement": placement,
            "method": method,
            "p_malignant": p,
            "explained": explained,
            "mask_mm3": masks.sum(axis=(1, 2, 3)),
            "empty": (one.max(axis=(1, 2, 3)) <= 0).astype(int),
            "pointing": faithfulness.pointing_hits(one, masks),
            "energy": faithfulness.energy_inside(one, masks),
            "dice": faithfulness.best_dice(one, masks),
            "error_mm": faithfulness.localisation_errors_mm(one, masks),
        }
        if placement == "centred":
            curves = faithfulness.deletion_and_insertion(
                lambda seen: predict_malignant(model, seen), volumes, one, explained
            )
            measures |= {
                "deletion": faithfulness.area(curves[0]),
                "insertion": faithfulness.area(curves[1]),
                "kept_mm3": faithfulness.kept_tissue_mm3(volumes, one),
                "kept_other_mm3": faithfulness.kept_tissue_mm3(volumes, others[method]),
            }
        else:
            measures |= dict.fromkeys(
                ("deletion", "insertion", "kept_mm3", "kept_other_mm3"), np.nan
            )
        tables.append(pd.DataFrame(measures))
    return pd.concat(tables, ignore_index=True)


def _weights_check(
    model: keras.Model, nodule_ids: list[str], volumes: NDArray[np.float32], views: int
) -> pd.DataFrame:
    explained = (predict_malignant(model, volumes, views) >= 0.5).astype(np.int64)
    own = all_maps(model, volumes, explained, fine=False)
    return pd.concat(
        [
            map_correlations(
                own, all_maps(model, volumes, explained, fine=False), nodule_ids
            ).assign(check="weights", step=part)
            for part in faithfulness.randomised_step_by_step(model)
        ],
        ignore_index=True,
    )


def map_correlations(
    own: dict[str, Maps], others: dict[str, Maps], nodule_ids: list[str]
) -> pd.DataFrame:
    """Spearman correlation of two networks' maps, one row per nodule, one column per method."""
    correlations = {
        method: faithfulness.rank_correlations(own[method], others[method])
        for method in OF_THE_NETWORK
        if method in SANITY_COLUMNS
    }
    return pd.DataFrame({"nodule_id": nodule_ids} | correlations)
