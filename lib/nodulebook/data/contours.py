"""Readers' outlines to areas, volumes, centroids, consensus masks and masks on a patch grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates
from skimage.draw import polygon

from nodulebook.data.annotations import Contour, Reading, Scan


def _areas_centroids(
    polygons_xy: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas (n,) and centroids (n, 2: x, y) of closed polygons by the shoelace formula, in pixels.

    A polygon without area (one point, a line) has the mean of its points as centroid.
    """
    sizes = np.array([len(points_xy) for points_xy in polygons_xy])
    starts = np.cumsum(sizes) - sizes
    points_xy = np.concatenate(polygons_xy)
    first_xy = points_xy[starts]
    # Seen from its polygon's first point, the edge back to it adds nothing: nor does the step to
    # the next polygon, whose first point is the origin too. So all are summed in one go.
    here_xy = points_xy - np.repeat(first_xy, sizes, axis=0)
    there_xy = np.roll(here_xy, -1, axis=0)
    cross = here_xy[:, 0] * there_xy[:, 1] - there_xy[:, 0] * here_xy[:, 1]
    twice_area = np.add.reduceat(cross, starts)[:, None]
    moment_xy = np.add.reduceat(cross[:, None] * (here_xy + there_xy), starts)
    flat = np.abs(twice_area) < 1e-9
    centre_xy = first_xy + np.where(
        flat,
        np.add.reduceat(here_xy, starts) / sizes[:, None],
        moment_xy / np.where(flat, 1, 3 * twice_area),
    )
    return np.abs(twice_area[:, 0]) / 2, centre_xy


def _slab_mm(scan: Scan, reading: Reading) -> dict[float, float]:
    """Thickness that each marked slice stands for: half-way to its marked neighbours."""
    z = sorted({c.z_mm for c in reading.contours})
    if len(z) == 1:
        return {z[0]: scan.slice_thickness_mm}
    below, above = [2 * z[0] - z[1], *z[:-1]], [*z[1:], 2 * z[-1] - z[-2]]
    return {here: (a - b) / 2 for here, a, b in zip(z, above, below, strict=True)}


def reading_volume_centroid(scan: Scan, reading: Reading) -> tuple[float, NDArray[np.float64]]:
    """Volume inside one reader's outlines and its centre of mass, holes subtracted.

    Returns:
        The volume in mm^3, as pylidc's `Annotation.volume`; and the centre (x, y, z), x and y in
        pixels, z in mm. Without volume (points and lines only), the mean of the outlines' centres.
    """
    slab = _slab_mm(scan, reading)
    area, centre_xy = _areas_centroids([c.points_xy for c in reading.contours])
    height = np.array([(1 if c.inclusion else -1) * slab[c.z_mm] for c in reading.contours])
    centre_xyz = np.column_stack([centre_xy, [c.z_mm for c in reading.contours]])
    weight = area * height
    total = float(weight.sum())
    centroid_xyz = weight @ centre_xyz / total if total > 0 else centre_xyz.mean(axis=0)
    return total * scan.pixel_spacing_mm**2, centroid_xyz


@dataclass(frozen=True, eq=False)
class ConsensusMask:
    """The voxels that at least half of the readers include, on the scan's own grid."""

    mask: NDArray[np.bool_]  # (z, y, x)
    x0_px: int  # column of mask[..., 0]
    y0_px: int  # row of mask[:, 0]
    z_mm: NDArray[np.float64]  # position of each slice of the mask, increasing
    pixel_spacing_mm: float
    slice_spacing_mm: float

    @property
    def spacing_zyx_mm(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxels along each axis of the mask."""
        return np.array([self.slice_spacing_mm] + 2 * [self.pixel_spacing_mm])

    def zyx_mm(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """A point or step with x and y in pixels and z in mm, as z, y and x in mm."""
        x, y, z = np.asarray(xyz, dtype=float)
        return np.array([z, y * self.pixel_spacing_mm, x * self.pixel_spacing_mm])

    @property
    def volume_mm3(self) -> float:
        """Number of voxels times their volume."""
        return float(self.mask.sum() * self.pixel_spacing_mm**2 * self.slice_spacing_mm)

    def share_in(self, z_mm: NDArray[np.float64]) -> float:
        """The share of its voxels whose slice is among those at these positions."""
        voxels = self.mask.sum(axis=(1, 2))
        return float(voxels[np.isin(self.z_mm, z_mm)].sum() / max(1, voxels.sum()))


def _draw(plane: NDArray[np.bool_], contour: Contour, x0: int, y0: int) -> None:
    """Set the pixels strictly inside an outline, or clear a hole and its outline."""
    x, y = contour.points_xy[:, 0] - x0, contour.points_xy[:, 1] - y0
    inside = np.zeros_like(plane)
    inside[polygon(y, x, shape=plane.shape)] = True  # type: ignore[no-untyped-call]
    # LIDC outlines run on the first pixels *outside* the nodule, so also on those of a hole.
    inside[y, x] = not contour.inclusion
    if contour.inclusion:
        plane |= inside
    else:
        plane &= ~inside


def consensus_mask(
    scan: Scan, readings: Sequence[Reading], threshold: float = 0.5
) -> ConsensusMask:
    """The voxels that a share of one lesion's readers include, in the box around every outline.

    At a threshold of a half it is pylidc's `consensus(clevel=0.5)`.
    """
    every = [c for r in readings for c in r.contours]
    points = np.vstack([c.points_xy for c in every])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    slice_z = np.unique(scan.slice_z_mm)
    marked = [int(np.abs(slice_z - c.z_mm).argmin()) for c in every]
    first, last = min(marked), max(marked)
    votes = np.zeros((last - first + 1, y1 - y0 + 1, x1 - x0 + 1), dtype=np.int16)
    for reading in readings:
        mask = np.zeros(votes.shape, dtype=bool)
        # Holes last: a hole lies inside an outline, whatever order they were stored in.
        for c in sorted(reading.contours, key=lambda c: not c.inclusion):
            plane = mask[int(np.abs(slice_z - c.z_mm).argmin()) - first]
            _draw(plane, c, int(x0), int(y0))
        votes += mask
    return ConsensusMask(
        mask=votes >= threshold * len(readings),
        x0_px=int(x0),
        y0_px=int(y0),
        z_mm=slice_z[first : last + 1],
        pixel_spacing_mm=scan.pixel_spacing_mm,
        slice_spacing_mm=scan.slice_spacing_mm,
    )


def grid_offsets_mm(size: int, spacing_mm: float = 1.0) -> NDArray[np.float64]:
    """Positions of a patch's voxel centres along one axis, relative to its centre, mm."""
    return np.asarray((np.arange(size) - (size - 1) / 2) * spacing_mm, dtype=float)


def signed_distance_on_grid(
    consensus: ConsensusMask, centre_xyz: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Distance to the lesion's surface, mm, positive inside, on a cube of 1 mm voxels.

    The distance is taken on the scan's grid and interpolated linearly (shape-based
    interpolation, Raya & Udupa 1990), so that thick slices become a smooth solid.

    Args:
        consensus: the mask on the scan's grid.
        centre_xyz: centre of the cube: x and y in pixels, z in mm.
        size: edge of the cube in voxels.

    Returns:
        (size, size, size) zyx.
    """
    spacing_zyx = consensus.spacing_zyx_mm
    pad = np.ceil(np.maximum(2.0, 4.0 / spacing_zyx)).astype(int)
    mask = np.pad(consensus.mask, [(p, p) for p in pad])
    inside = distance_transform_edt(mask, sampling=spacing_zyx)
    outside = distance_transform_edt(~mask, sampling=spacing_zyx)
    first_zyx = consensus.zyx_mm((consensus.x0_px, consensus.y0_px, consensus.z_mm[0]))
    origin_zyx, centre_zyx = first_zyx - pad * spacing_zyx, consensus.zyx_mm(centre_xyz)
    offsets = grid_offsets_mm(size)
    index = [
        (offsets + centre_zyx[axis] - origin_zyx[axis]) / spacing_zyx[axis] for axis in range(3)
    ]
    grid = np.meshgrid(*index, indexing="ij")
    distance: NDArray[np.float64] = map_coordinates(
        inside - outside, grid, order=1, mode="constant", cval=-4.0
    )
    return distance


def lesion_distance_on_grid(
    consensus: ConsensusMask, centre_xyz: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """The signed distance, its surface moved so that it encloses the consensus mask's volume.

    Interpolation between thick slices rounds corners off, which would make small lesions smaller.
    The move (less than a voxel) is found with the whole lesion in view, also what the cube cuts
    off, on the cube's own grid. Arguments and result as `signed_distance_on_grid`.

    Raises:
        ValueError: the mask is empty.
    """
    if not consensus.mask.any():
        raise ValueError("an empty consensus mask has no surface")
    spacing_zyx = consensus.spacing_zyx_mm
    first_xyz = np.array([consensus.x0_px, consensus.y0_px, consensus.z_mm[0]])
    first_zyx = consensus.zyx_mm(first_xyz - centre_xyz)
    last_zyx = first_zyx + (np.array(consensus.mask.shape) - 1) * spacing_zyx
    reach = max(np.abs(first_zyx).max(), np.abs(last_zyx).max()) + spacing_zyx.max() + 1
    margin = max(0, int(np.ceil(reach - size / 2)))
    distance = signed_distance_on_grid(consensus, centre_xyz, size + 2 * margin)
    near = distance[distance > -3.5]
    volume = consensus.volume_mm3
    low, high = -3.0, float(distance.max()) + 0.5
    for _ in range(30):  # the filled volume falls as the surface moves inwards
        shift = (low + high) / 2
        if np.clip(near - shift + 0.5, 0, 1).sum() > volume:
            low = shift
        else:
            high = shift
    kept = slice(margin, margin + size)
    return distance[kept, kept, kept] - shift


def occupancy_on_grid(
    consensus: ConsensusMask, centre_xyz: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Share of each 1 mm voxel that the lesion fills, (size, size, size) zyx in [0, 1].

    Its sum is the consensus mask's volume in mm^3 where the cube holds the whole lesion.
    """
    return np.clip(lesion_distance_on_grid(consensus, centre_xyz, size) + 0.5, 0, 1)
