"""Schema of a fold's saliency scores: methods, placements, checks and columns."""

from dataclasses import dataclass

import pandas as pd

METHODS = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "grad_cam_plus_plus_fine": "Grad-CAM++, 8³ maps",
    "guided_grad_cam_plus_plus": "guided Grad-CAM++",
    "guided_backpropagation": "guided backpropagation",
    "deconvolution": "deconvolution",
    "gaussian": "centred Gaussian",
    "image": "the image itself",
    "random": "random map",
}
"""The methods' names in the files and in the book; the last three know nothing of the network."""

RIVALS = ("gaussian", "image", "random")
OF_THE_NETWORK = tuple(name for name in METHODS if name not in RIVALS)
PLACEMENTS = ("centred", "off-centre")
CHECKS = {
    "weights": "weights made random from the output on",
    "labels": "trained on permuted labels",
}

OUTLINE_MEASURES = ("pointing", "energy", "dice")
CENTRED_MEASURES = ("deletion", "insertion", "kept_mm3", "kept_other_mm3")

COLUMNS = {
    "nodule_id": "str",
    "placement": "str",  # one of PLACEMENTS
    "method": "str",  # one of METHODS
    "p_malignant": "float",  # predicted for this patch
    "explained": "int",  # the class that is predicted, and explained: 1 malignant, 0 benign
    "mask_mm3": "int",  # the outline's volume in this patch
    "empty": "int",  # 1 where the map is zero everywhere
    "pointing": "float",  # 1 a hit, 0 a miss
    "energy": "float",  # share of the map inside the outline
    "dice": "float",  # at the map's best threshold
    "error_mm": "float",  # from the peak to the outline's centre of mass
    "deletion": "float",  # area under the curve; low is good
    "insertion": "float",  # the same; high is good
    "kept_mm3": "float",  # tissue that the judge sees, map of the explained class
    "kept_other_mm3": "float",  # the same, map of the other class
}

SANITY_COLUMNS = {"nodule_id": "str", "check": "str", "step": "str"} | dict.fromkeys(
    [name for name in OF_THE_NETWORK if name != "grad_cam_plus_plus_fine"], "float"
)
"""The methods' columns: Spearman correlation of the map with that of the trained network."""


@dataclass(frozen=True, eq=False)
class Explanations:
    """The two tables of a fold; `nan` for an empty cell."""

    measures: pd.DataFrame  # COLUMNS
    sanity: pd.DataFrame  # SANITY_COLUMNS
