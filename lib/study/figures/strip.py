"""The way from a scan to a map in five small pictures, for the landing page. No CT is shown."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle

from nodulebook.patches.cube import PATCH_SIZE
from nodulebook.patches.sources import phantom
from study.figures.plots import BLUE, ORANGE, new_figure, show_slice

RADIUS_MM = 5.0
RATINGS = {
    "texture": 5.0, "margin": 4.0, "calcification": 6.0, "internal_structure": 1.0,
    "spiculation": 1.0,
}  # fmt: skip
CORNER = np.array([[1.0, 0.4], [0.3, 0.1]])
"""A map of 2 x 2 cells in the plane, as coarse as that of the paper's last layer; made up."""


def strip_figure() -> Figure:
    """Scan, slice, cube, network and map: a phantom's nodule, everything else drawn."""
    distance = RADIUS_MM - np.sqrt(
        sum((axis - (PATCH_SIZE - 1) / 2) ** 2 for axis in np.indices((PATCH_SIZE,) * 3))
    )
    cube = phantom.render("strip", distance, RATINGS, 1.25).with_noise_hu
    middle = PATCH_SIZE // 2
    figure, axes = new_figure(1, 5, (5.4, 1.3))
    scan, plane, faces, network, heat = axes[0]
    for axis, title in zip(axes[0], ("scan", "slice", "cube", "network", "map"), strict=True):
        axis.set_title(title, fontsize=12)
        axis.set(xticks=[], yticks=[], aspect="equal")
    for axis in (scan, faces, network):
        axis.set(xlim=(0, 32), ylim=(32, 0))
        axis.set_axis_off()
    scan.add_patch(Ellipse((16, 16), 31, 23, color="0.75"))
    for x in (9, 23):
        scan.add_patch(Ellipse((x, 15.5), 10, 17, color="0.3"))
    scan.add_patch(Ellipse((24, 13), 1.6, 1.6, color="0.9"))
    scan.add_patch(Rectangle((21, 10), 6, 6, fill=False, color=ORANGE, linewidth=1.5))
    show_slice(plane, cube[middle], distance[middle] > 0)
    for z in range(0, PATCH_SIZE, 6):  # planes one behind the other, the nearest last
        edge = z / 4
        faces.imshow(cube[z], cmap="gray", vmin=-1000, vmax=400, zorder=z,
                     extent=(edge, edge + 23, edge + 23, edge))  # fmt: skip
        faces.add_patch(Rectangle((edge, edge), 23, 23, fill=False, color="0.9", zorder=z))
    faces.set(xlim=(-0.5, 31.5), ylim=(31.5, -0.5))
    for k, (size, width) in enumerate(((26, 2), (18, 3), (11, 4), (6, 5))):
        network.add_patch(
            Rectangle((1 + 7.5 * k, 16 - size / 2), width, size, color=BLUE, alpha=0.55 + 0.15 * k)
        )
    show_slice(heat, cube[middle], distance[middle] > 0)
    heat.imshow(CORNER, extent=(-0.5, 31.5, 31.5, -0.5), alpha=0.45, cmap="viridis",
                interpolation="bilinear")  # fmt: skip
    return figure
