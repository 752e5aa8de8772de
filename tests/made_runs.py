"""Probabilities as a run leaves them, made: the better, the stronger."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def made_probabilities(name: str, strength: float, patient: NDArray[np.int_]) -> pd.DataFrame:
    """A row a nodule, every other one malignant.

    Args:
        name: seeds the noise: the same name gives the same rows.
        strength: distance of the classes' mean scores, in standard deviations of the noise.
        patient: each nodule's patient.

    Returns:
        nodule_id, patient_id, label, p_malignant.
    """
    generator = np.random.default_rng(sum(map(ord, name)))
    label = np.arange(len(patient)) % 2
    score = strength * (label - 0.5) + generator.normal(size=len(patient))
    return pd.DataFrame(
        {
            "nodule_id": [f"n{k}" for k in range(len(patient))],
            "patient_id": [f"p{k}" for k in patient],
            "label": label,
            "p_malignant": 1 / (1 + np.exp(-score)),
        }
    )
