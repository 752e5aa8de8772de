"""The page of `nodulebook score`: every position with its planes, map and probability.

One file that needs no server and no script. All text that comes from the user's files is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core.files import written_aside
from nodulebook.patches.cube import PATCH_SIZE, WINDOW_HU
from study.figures.pictures import ZOOM, Picture, data_uri, plane_picture, side_by_side
from study.figures.plots import ORANGE, planes
from study.own_scans.scans import WORLD

TEMPLATE = Path(__file__).with_name("scored.html")

COLUMNS = (
    "id",
    "scan",
    *WORLD,
    "p_malignant",
    "run",
    "fold",
    "trained_on",
    "patient_in_training",
    "warnings",
)
"""Columns of `probabilities.csv`, in the order of the positions; those of the positions' file that
are not among them follow. `patient_in_training`: yes, no, or unknown where the scan's
SeriesInstanceUID is not one of LIDC-IDRI's."""

TICK = 2 * ZOOM
"""Screen pixels that the marks of the position reach in from a plane's edges."""


@dataclass(frozen=True, eq=False)
class Item:
    """A position that is pictured."""

    row: int  # of the positions
    volume_hu: NDArray[np.int16]  # (32, 32, 32) zyx; what the network saw
    heat: NDArray[np.float32] | None  # (32, 32, 32) zyx, 0 to 1; None where no map was made
    explained: str  # the class that the map is for


def write_page(
    path: Path,
    table: pd.DataFrame,
    left_out: pd.DataFrame,
    items: Sequence[Item],
    networks: Sequence[dict[str, str]],
) -> None:
    """Write the page.

    Args:
        path: the file.
        table: as `COLUMNS`; its index is the row of the positions.
        left_out: columns line, id, scan, reason.
        items: the positions that are pictured, in order.
        networks: as `scoring.about` gives them.
    """
    parts = {
        "ABOUT": _about(networks),
        "TABLE": _table(table, {item.row for item in items}) + _left_out(left_out),
        "METHOD": _method(networks),
        "ITEMS": "\n".join(item_html(item, table.loc[item.row].to_dict()) for item in items),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text, 1)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _about(networks: Sequence[dict[str, str]]) -> str:
    lines = []
    for caveat in dict.fromkeys(n["caveat"] for n in networks if n["caveat"]):
        sources = {n["trained_on"] for n in networks if n["caveat"] == caveat}
        lines.append(
            f'<p class="warn"><strong>The network was {escape(caveat)}.</strong> '
            f"Source: {escape(', '.join(sorted(sources)))}.</p>"
        )
    for n in networks:
        lines.append(
            f"<p>Network: run {escape(n['run'])}, fold {escape(n['fold'])}; trained on nodules of "
            f"{escape(n['patients'])} patients of LIDC-IDRI; source: {escape(n['trained_on'])}.</p>"
        )
    lines.append(
        "<p>It has seen nodules only: it cannot tell whether there is one. A position without a "
        "nodule gets a probability, too.</p>"
    )
    return "\n".join(lines)


def _table(table: pd.DataFrame, pictured: set[int]) -> str:
    rows = []
    for row, cells in table.iterrows():
        name = escape(str(cells["id"]))
        if row in pictured:
            name = f'<a href="#{_anchor(int(str(row)))}">{name}</a>'
        rows.append(
            f"<tr><th scope=row>{name}</th><td>{escape(_short(str(cells['scan'])))}</td>"
            + "".join(f'<td class="number">{cells[axis]:.1f}</td>' for axis in WORLD)
            + f'<td class="number">{cells["p_malignant"]:.3f}</td>'
            f"<td>{escape(str(cells['patient_in_training']))}</td>"
            f"<td>{escape(str(cells['warnings']))}</td></tr>"
        )
    head = "".join(
        f"<th scope=col>{text}</th>"
        for text in (
            "id", "scan", "x mm", "y mm", "z mm", "p malignant", "patient in training",
            "warnings",
        )
    )  # fmt: skip
    more = len(table) - len(pictured)
    note = f"<p>{more} further positions are not pictured.</p>" if more > 0 else ""
    return (
        '<div class="table" tabindex="0" role="region" aria-labelledby="all"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _short(scan: str) -> str:
    """A name that fits into a cell; whole in the CSV and at the position."""
    return scan if len(scan) <= 16 else f"…{scan[-12:]}"


def _left_out(left_out: pd.DataFrame) -> str:
    if left_out.empty:
        return ""
    rows = "".join(
        f"<li>Line {cells['line']}, id {escape(str(cells['id']))}: "
        f"{escape(str(cells['reason']))}</li>"
        for _, cells in left_out.iterrows()
    )
    return f'<div class="warn" id="left-out"><p>Left out:</p><ul>{rows}</ul></div>'


def _method(networks: Sequence[dict[str, str]]) -> str:
    low, high = WINDOW_HU
    lines = [
        f"<p>Around each position a cube of {PATCH_SIZE} mm was cut out of the scan, at 1 mm, "
        "linearly interpolated. Shown are its planes through the position (marked by ticks at "
        f"the edges), {low:g} to {high:g} HU: axial as seen from the feet (the patient's left on "
        "the right), coronal from the front, sagittal from the left side, the front on the "
        "left.</p>"
    ]
    layers = {(n["layer"], n["cells"], n["cell_mm"]) for n in networks if n["layer"]}
    for layer, cells, cell_mm in sorted(layers):
        lines.append(
            f"<p>Below them is the Grad-CAM++ map of the layer {escape(layer)} ({cells} cells "
            f"along each axis, {cell_mm} mm each, interpolated linearly), for the class that the "
            "network predicts at a threshold of 0.5. Each map is divided by its own highest "
            "value, so maps do not compare: <span class=scale role=img "
            'aria-label="colours from dark violet to yellow"></span> 0 (transparent) to 1.</p>'
        )
    if not layers:
        lines.append("<p>Maps are made for the book's own network only, not for this one.</p>")
    lines.append(
        "<p>A map shows what raised the score, not where a tumour is. What such maps are worth is "
        "measured in the book, chapter “What the maps are worth”.</p>"
    )
    return "\n".join(lines)


def item_html(item: Item, cells: dict[Any, Any]) -> str:
    """A position on the page.

    Args:
        item: its pictures.
        cells: its row of the table.
    """
    name, p = escape(str(cells["id"])), float(cells["p_malignant"])
    patch = _image(item, None, f"Position {name}: axial, coronal and sagittal plane of the patch")
    if item.heat is None:
        below = "<p>No map.</p>"
    else:
        where = peak_text(item.heat)
        below = _image(item, item.heat, f"The same under the map for {item.explained}: {where}")
        below += f"<figcaption>Map for {item.explained}: {where}.</figcaption>"
    place = ", ".join(f"{cells[axis]:.1f}" for axis in WORLD)
    given = ", ".join(
        f"{escape(str(column))} {escape(str(value))}"
        for column, value in cells.items()
        if column not in COLUMNS
    )
    warnings = escape(str(cells["warnings"]))
    return (
        f'<article id="{_anchor(item.row)}"><h3>{name}: p malignant = {p:.3f}</h3>'
        f"<p>Scan {escape(str(cells['scan']))}; x, y, z = {place} mm; run "
        f"{escape(str(cells['run']))}, fold {cells['fold']}.</p>"
        + (f"<p>Given with it: {given}.</p>" if given else "")
        + (f"<p>Warnings: {warnings}.</p>" if warnings else "")
        + f"<figure>{patch}{below}</figure></article>"
    )


def _anchor(row: int) -> str:
    return f"position-{row + 1}"


def _image(item: Item, heat: NDArray[np.float32] | None, alt: str) -> str:
    heats: list[Any] = planes(heat) if heat is not None else [None] * 3
    pictures = [
        _ticked(plane_picture(image, None, one))
        for image, one in zip(planes(item.volume_hu), heats, strict=True)
    ]
    return f'<img alt="{alt}" src="{data_uri(side_by_side(pictures))}">'


def _ticked(picture: Picture) -> Picture:
    """Marks at the middle of each edge: they point at the position."""
    marked = picture.copy()
    colour = np.round(255 * np.array(ORANGE)).astype(np.uint8)
    middle = slice(len(picture) // 2 - 1, len(picture) // 2 + 1)
    for end in (slice(0, TICK), slice(-TICK, None)):
        marked[end, middle] = colour
        marked[middle, end] = colour
    return marked


def peak_text(heat: NDArray[np.float32]) -> str:
    """Where a map (z, y, x) is highest, from the position, in words."""
    if heat.max() <= 0:
        return "nothing in the patch supports it"
    at = np.argwhere(heat == heat.max()).mean(axis=0) - (np.array(heat.shape) - 1) / 2
    ways = (
        (at[2], "to the left", "to the right"),
        (at[1], "to the back", "to the front"),
        (at[0], "up", "down"),
    )
    steps = [
        f"{abs(mm):.0f} mm {more if mm > 0 else less}" for mm, more, less in ways if abs(mm) >= 0.5
    ]
    return f"highest {', '.join(steps)} of the position" if steps else "highest at the position"
