"""An automatic ruler: the diameter of a nodule as measured in its cube, without any reader.

The cohort's diameter is the mean of up to four readers' outlines, drawn by the people who made the
label. This one sees the voxels only; what remains of the readers is where the cube is centred.

The nodule's scale is that at which the Laplacian of a Gaussian answers most strongly in the middle
(Lindeberg 1998): a disc of radius r answers most at sigma = r / sqrt(2). Within 1.25 such radii a
threshold between the surrounding lung and the nodule separates it, and the largest distance across
what is connected to the middle is its diameter. The two numbers, 1.25 and 0.4, and the choice of
this method among six, rest on the agreement with the readers' diameters, not on any label.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_laplace
from skimage.measure import label, regionprops

from nodulebook.patches.store import PatchStore

SIGMAS_MM = np.geomspace(1, 10, 25)
CLIP_HU = (-1000, 200)
REACH = 1.25
"""Radius of the disc that is segmented, in radii of the blob."""
THRESHOLD = 0.4
"""Where between lung (0) and the nodule's middle (1) its edge is taken to be."""


def automatic_diameter_mm(volume_hu: NDArray[np.number]) -> float:
    """The largest distance across the nodule in the middle axial plane of its cube, mm.

    Only the middle plane is used: how far a cube of the slices source is filled along z is the
    readers' choice and would tell the nodule's size.

    Args:
        volume_hu: (z, y, x), HU, 1 mm voxels, edges of an even number; the nodule in the middle.

    Returns:
        The diameter; the blob's where its middle is not brighter than what surrounds it (a cavity,
        say); nan where the plane holds no image.
    """
    middle = volume_hu.shape[0] // 2
    plane = np.clip(volume_hu[middle - 1 : middle + 1].astype(float), *CLIP_HU).mean(axis=0)
    if plane.min() == plane.max():
        return float("nan")
    centre = (slice(middle - 1, middle + 1),) * 2
    answers = [-(s**2) * gaussian_laplace(plane, s)[centre].min() for s in SIGMAS_MM]
    radius = float(np.sqrt(2) * SIGMAS_MM[int(np.argmax(answers))])
    y, x = np.indices(plane.shape) - (middle - 0.5)
    distance = np.hypot(y, x)
    smooth = gaussian_filter(plane, 0.7)
    lung = np.percentile(smooth[distance <= REACH * radius + 3], 10)
    nodule = np.median(smooth[middle - 2 : middle + 2, middle - 2 : middle + 2])
    if not nodule > lung:
        return 2 * radius
    inside = smooth > lung + THRESHOLD * (nodule - lung)
    parts = regionprops(label(inside & (distance <= REACH * radius + 1), connectivity=1))
    nearest = min(parts, key=lambda part: np.hypot(*(part.coords - middle + 0.5).T).min())
    return float(nearest.feret_diameter_max)


def automatic_diameters(store: PatchStore) -> pd.DataFrame:
    """The automatic diameter of every nodule of a store that has one.

    Returns:
        nodule_id, diameter_mm (to 0.01 mm); a nodule that cannot be measured is left out.
    """
    diameters = [round(automatic_diameter_mm(volume), 2) for volume in store.volumes_hu]
    table = pd.DataFrame({"nodule_id": store.table["nodule_id"], "diameter_mm": diameters})
    return table.dropna().reset_index(drop=True)
