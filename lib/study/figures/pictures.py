"""Small pictures inside a page: planes of a patch as PNG data, and a view to scroll through."""

import base64
import html
import io
import json
from collections.abc import Sequence

import matplotlib
import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image

from nodulebook.patches.cube import scale_to_unit
from study.figures.plots import ORANGE

ZOOM = 6
"""Screen pixels a voxel."""

Picture = NDArray[np.uint8]


def plane_picture(
    image_hu: NDArray[np.number],
    mask: NDArray[np.bool_] | None = None,
    heat: NDArray[np.floating] | None = None,
) -> Picture:
    """A plane in the book's window, its map over it (viridis), the consensus outlined in orange.

    Args:
        image_hu: (rows, columns), HU.
        mask: (rows, columns), or None.
        heat: (rows, columns), 0 to 1, or None; more opaque where it is higher.

    Returns:
        (rows * ZOOM, columns * ZOOM, 3) RGB.
    """
    grey = np.repeat(scale_to_unit(image_hu)[..., None], 3, axis=2)
    if heat is not None:
        shown = np.clip(heat, 0, 1)
        colour = matplotlib.colormaps["viridis"](shown)[..., :3]
        opaque = 0.6 * shown[..., None]
        grey = grey * (1 - opaque) + colour * opaque
    picture: Picture = (255 * _enlarged(grey)).round().astype(np.uint8)
    if mask is not None and mask.any():
        inside = np.pad(_enlarged(mask), 1)
        core = inside[1:-1, 1:-1].copy()
        for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
            core &= inside[rows : rows + core.shape[0], columns : columns + core.shape[1]]
        picture[inside[1:-1, 1:-1] & ~core] = np.round(255 * np.array(ORANGE))
    return picture


def _enlarged(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    return plane.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def data_uri(picture: Picture) -> str:
    """A picture as the `src` of an `<img>`."""
    stream = io.BytesIO()
    Image.fromarray(picture).quantize(64).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one height in a row, white between them."""
    white = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, white)][:-1]
    return np.concatenate(row, axis=1)


def scroll_view(
    volume_hu: NDArray[np.number],
    mask: NDArray[np.bool_],
    maps: dict[str, NDArray[np.floating]],
    name: str,
) -> HTML:
    """Every axial plane of a patch, plain and under each map, with a slider; needs no server.

    The wheel over the view moves through the planes; at the first and the last the page scrolls on.

    Args:
        volume_hu: (z, y, x), HU.
        mask: (z, y, x), the readers' consensus.
        maps: title -> (z, y, x), 0 to 1.
        name: distinguishes this view from others on the page; letters, digits, "-".
    """
    frames = [
        data_uri(
            side_by_side(
                [
                    plane_picture(volume_hu[z], mask[z]),
                    *(plane_picture(volume_hu[z], mask[z], heat[z]) for heat in maps.values()),
                ]
            )
        )
        for z in range(len(volume_hu))
    ]
    titles = ["patch", *maps]
    middle = len(frames) // 2
    # Every panel shows its part of the same picture, so that panels can wrap into two rows.
    panels = "".join(
        f"""<figure><img alt="{html.escape(title)}: axial plane" src="{frames[middle]}"
 style="aspect-ratio:1;object-fit:cover;object-position:{k / max(1, len(maps)):.2%} 0">
<figcaption>{html.escape(title)}</figcaption></figure>"""
        for k, title in enumerate(titles)
    )
    # Without scripts the middle plane is seen, and no slider that does nothing.
    return HTML(  # type: ignore[no-untyped-call]
        f"""<div id="{name}" class="scroll-view">
<style>
#{name} .panels {{ display: flex; flex-wrap: wrap; gap: 6px; }}
#{name} figure {{ flex: 1 1 140px; max-width: {ZOOM * volume_hu.shape[2]}px; margin: 0; }}
#{name} figure img {{ width: 100%; image-rendering: pixelated; }}
#{name} figcaption {{ font-size: 0.8em; margin: 0; }}
</style>
<div class="panels">{panels}</div>
<div hidden><label>axial plane <output>{middle + 1}</output> of {len(frames)}
<input type="range" min="1" max="{len(frames)}" value="{middle + 1}" style="width:60%"></label>
</div>
<script>(() => {{
const view = document.getElementById({json.dumps(name)}), frames = {json.dumps(frames)};
const slider = view.querySelector("input");
view.querySelector("[hidden]").hidden = false;
slider.addEventListener("input", () => {{
  for (const image of view.querySelectorAll("img")) image.src = frames[slider.value - 1];
  view.querySelector("output").textContent = slider.value;
}});
view.addEventListener("wheel", event => {{
  const before = slider.value;
  if (event.ctrlKey || !event.deltaY) return;
  slider.value = Number(before) + Math.sign(event.deltaY);
  if (slider.value === before) return;
  event.preventDefault();
  slider.dispatchEvent(new Event("input"));
}}, {{passive: false}});
}})();</script></div>"""
    )
