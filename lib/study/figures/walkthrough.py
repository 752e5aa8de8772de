"""The way of one nodule from scan to patch, for the chapter: on the user's scan, or the phantom."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.ct.volume import Volume, volume_of_image
from nodulebook.data.annotations import Scan, read_scans
from nodulebook.data.cohort import cluster_readings, read_nodules
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE, extract_patch
from nodulebook.patches.mask import mask_patch, reference_mask
from nodulebook.patches.sources import SCAN_SOURCES, SOURCES, phantom, placement, scans
from nodulebook.patches.store import PatchStore
from study.figures.plots import ORANGE, new_figure, show_slice

NODULE = "LIDC-IDRI-0001-s1-n00"
"""The first nodule of the collection; the only one of its scan."""

OTHERS = 4
"""How many places without a nodule are shown."""


@dataclass(frozen=True, eq=False)
class Example:
    """A nodule in its scan."""

    source: str  # what to call it beneath a figure
    volume: Volume
    centre_xyz_mm: NDArray[np.float64]
    patch_hu: NDArray[np.float32]  # (32, 32, 32) zyx
    mask: NDArray[np.bool_]  # (32, 32, 32) zyx; the readers' consensus
    non_nodules_hu: NDArray[np.float32]  # (n, 32, 32, 32): places where no reader marked anything

    @property
    def is_phantom(self) -> bool:
        """Whether no CT was at hand."""
        return self.source == SOURCES["phantom"]


def example(store: PatchStore) -> Example:
    """`NODULE` in its real scan where `NODULEBOOK_DATA` has it, else in a phantom."""
    if os.environ.get("NODULEBOOK_DATA"):
        for source in SCAN_SOURCES:
            try:
                return _real(source)
            except (InputError, KeyError):
                continue  # that source does not have it
    return _phantom(store)


def _real(source: str) -> Example:
    row = read_nodules().set_index("nodule_id").loc[NODULE].to_dict()
    uid = str(row["series_uid"])
    (scan,) = read_scans({uid})
    volume = scans.find(source, None, {uid})[uid].open()
    first = placement.first_slice(volume, scan)
    centre_xyz = np.array([row[f"centroid_{axis}"] for axis in ("x_px", "y_px", "z_mm")], float)
    world = placement.nodule_world(volume, scan, first, centre_xyz)
    consensus = reference_mask(scan, cluster_readings(scan)[int(row["cluster"])])
    return Example(
        source=SOURCES[source],
        volume=volume,
        centre_xyz_mm=world,
        patch_hu=extract_patch(volume, world),
        mask=mask_patch(consensus, centre_xyz, volume.geometry.direction),
        non_nodules_hu=_places_in_lung(volume, scan, first),
    )


def _places_in_lung(volume: Volume, scan: Scan, first: int) -> NDArray[np.float32]:
    """Cubes of mostly lung whose middle is 35 mm or more from everything that a reader marked."""
    marked = np.array(
        [
            placement.nodule_world(volume, scan, first, np.array([x, y, contour.z_mm]))
            for reading in scan.readings
            for contour in reading.contours
            for x, y in contour.points_xy
        ]
    )
    random = np.random.default_rng(0)
    size = np.array(volume.geometry.size_xyz)
    found: list[NDArray[np.float32]] = []
    for _ in range(2000):
        place = volume.geometry.to_world((0.15 + 0.7 * random.random(3)) * size)
        if np.linalg.norm(marked - place, axis=1).min() < 35:
            continue
        cube = extract_patch(volume, place, background_hu=0.0)  # not lung, so not chosen
        if np.median(cube) < -750 and (cube < -950).mean() < 0.1:
            found.append(cube)
        if len(found) == OTHERS:
            break
    return np.array(found).reshape(-1, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)


def _phantom(store: PatchStore) -> Example:
    """The phantom's cube on a scan's grid of 0.7 mm pixels and 2.5 mm slices, and back."""
    (row,) = store.rows([NODULE])
    cube = sitk.GetImageFromArray(store.volumes_hu[row].astype(np.float32))
    size, spacing = (44, 44, 12), (0.703125, 0.703125, 2.5)
    middle = (PATCH_SIZE - 1) / 2
    origin = [middle - (n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
    scan = sitk.Resample(
        cube, size, sitk.Transform(), sitk.sitkLinear, origin, spacing,
        np.eye(3).ravel().tolist(), LUNG_HU, sitk.sitkFloat32,
    )  # fmt: skip
    volume = volume_of_image(scan, "phantom")
    centre = np.full(3, middle)
    return Example(
        source=SOURCES["phantom"],
        volume=volume,
        centre_xyz_mm=centre,
        patch_hu=extract_patch(volume, centre),
        mask=np.array(store.masks[row]),
        non_nodules_hu=np.array([_phantom_lung(k) for k in range(OTHERS)], dtype=np.float32),
    )


def _phantom_lung(number: int) -> NDArray[np.int16]:
    """A phantom's cube (32, 32, 32) without a nodule."""
    ratings = {
        "texture": 5.0, "margin": 5.0, "calcification": 6.0, "internal_structure": 1.0,
        "spiculation": 1.0,
    }  # fmt: skip
    nothing = np.full((PATCH_SIZE,) * 3, -50.0)  # the lesion is 50 mm away
    return phantom.render(f"no nodule {number}", nothing, ratings, 1.25).with_noise_hu


def write_phantom_scan(store: PatchStore, nodule_ids: Sequence[str], path: Path) -> pd.DataFrame:
    """Write phantom nodules side by side, and lung without one, as an `.mhd` scan.

    Args:
        store: the phantom's patches.
        nodule_ids: those to show, from right to left of the patient.
        path: the file; its name without the ending is the scan's.

    Returns:
        A table of positions (`own_scans.read_positions`): the middle of each.
    """
    cubes = [store.volumes_hu[row] for row in store.rows(nodule_ids)] + [_phantom_lung(0)]
    whole = sitk.GetImageFromArray(np.concatenate(cubes, axis=2).astype(np.float32))
    spacing = (0.703125, 0.703125, 1.25)
    size = [round(n / s) for n, s in zip(whole.GetSize(), spacing, strict=True)]
    origin = [(s - 1) / 2 for s in spacing]  # the first voxels' edges stay where they were
    scan = sitk.Resample(
        whole, size, sitk.Transform(), sitk.sitkLinear, origin, spacing,
        np.eye(3).ravel().tolist(), LUNG_HU, sitk.sitkInt16,
    )  # fmt: skip
    sitk.WriteImage(scan, str(path))
    middle = (PATCH_SIZE - 1) / 2
    return pd.DataFrame(
        {
            "id": [*nodule_ids, "no-nodule"],
            "scan": path.stem,
            "x_mm": middle + PATCH_SIZE * np.arange(len(cubes)),
            "y_mm": middle,
            "z_mm": middle,
        }
    )


def scan_to_patch_figure(shown: Example) -> Figure:
    """The scan's slice with the cube, its own voxels from the side, and the patch likewise."""
    geometry = shown.volume.geometry
    index = np.rint(geometry.to_index(shown.centre_xyz_mm)).astype(int)
    columns, rows, slices = geometry.size_xyz
    whole = shown.volume.region_hu((0, 0, int(index[2])), (columns, rows, 1))[0]
    pixel_x, pixel_y, slice_mm = geometry.spacing_xyz_mm
    width = round(PATCH_SIZE / pixel_y)
    top = max(0, int(index[1]) - width // 2)
    depth = int(np.ceil(PATCH_SIZE / slice_mm / 2))
    low, high = max(0, int(index[2]) - depth), min(slices, int(index[2]) + depth + 1)
    side = shown.volume.region_hu(
        (int(index[0]), top, low), (1, min(width, rows - top), high - low)
    )[:, :, 0]
    figure, axes = new_figure(1, 3, (7.2, 2.7))
    first, second, third = axes[0]
    show_slice(first, whole)
    edge_x, edge_y = PATCH_SIZE / pixel_x, PATCH_SIZE / pixel_y
    corner = (index[0] - edge_x / 2, index[1] - edge_y / 2)
    first.add_patch(Rectangle(corner, edge_x, edge_y, fill=False, color=ORANGE))
    around = columns > edge_x + 1
    first.set_title("slice of the scan, and the cube" if around else "slice", fontsize=8.5)
    show_slice(second, side[::-1])
    second.set_aspect(slice_mm / pixel_y)
    second.set_title(f"from the side: {pixel_y:.2f} x {slice_mm:g} mm", fontsize=8.5)
    middle = PATCH_SIZE // 2
    show_slice(third, shown.patch_hu[::-1, :, middle], shown.mask[::-1, :, middle])
    third.set_title("the patch: 1 x 1 mm, and the outline", fontsize=8.5)
    return figure
