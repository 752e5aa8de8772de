"""The page of `nodulebook score`: positions with their planes, map and probability.

One file that needs no server and no script. All text that comes from the user's files is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.files import written_aside
from nodulebook.patches.cube import PATCH_SIZE, WINDOW_HU
from study.figures.pictures import ZOOM, Picture, data_uri, plane_picture, side_by_side
from study.figures.plots import ORANGE, planes
from study.own_scans.positions import WORLD

PROBABILITIES, LEFT_OUT, PAGE = "probabilities.csv", "left_out.csv", "index.html"

RESULTS = (
    "p_malignant",
    "diameter_auto_mm",
    "run",
    "fold",
    "trained_on",
    "patient_in_training",
    "warnings",
)
COLUMNS = ("id", "scan", *WORLD, *RESULTS)
"""Columns of `probabilities.csv`, in the order of the positions; those of the positions' file that
are not among them follow. `fold`: `all` for the mean over folds. `patient_in_training`: yes, no, or
unknown where the scan is not known as one of LIDC-IDRI's or, with networks that were trained on a
cohort of the user's own, as one of that cohort's."""

TICK = 2 * ZOOM
"""Screen pixels that the marks of the position reach in from a plane's edges."""

LISTED = 1000
"""Positions that the page lists at most; the CSV file has all."""


@dataclass(frozen=True, eq=False)
class Item:
    """A position that is pictured."""

    row: int  # of the positions
    volume_hu: NDArray[np.int16]  # (32, 32, 32) zyx; what the network saw
    heat: NDArray[np.float32] | None  # (32, 32, 32) zyx, 0 to 1; None where no map was made
    explained: str  # the class that the map is for


def check_target(to: Path, ours: set[str], given: Mapping[str, Path | None] | None = None) -> None:
    """Refuse a folder that holds other files than `ours`, or what is given: it would be replaced.

    Args:
        to: the folder.
        ours: the names of what it may hold.
        given: what is read, by the option that names it.

    Raises:
        InputError: it does, or is a file.
    """
    to = to.expanduser()
    for option, path in (given or {}).items():
        if path is not None and path.expanduser().resolve().is_relative_to(to.resolve()):
            raise InputError(
                f"{option} {path}: is inside {to}, which is replaced: name a new folder with --to"
            )
    if to.is_dir():
        other = sorted({p.name for p in to.iterdir()} - ours)
        if other:
            raise InputError(f"{to}: holds other files ({other[0]}): name a new folder with --to")
    elif to.exists():
        raise InputError(f"{to}: is a file: name a new folder with --to")


def render(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page from a template beside this file; what is filled in is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(values)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_page(
    path: Path,
    table: pd.DataFrame,
    reasons: Sequence[str],
    left_out: int,
    items: Sequence[Item],
    networks: Sequence[Mapping[str, str]],
) -> None:
    """Write the page.

    Args:
        path: the file.
        table: as `COLUMNS`; its index is the row of the positions.
        reasons: why positions were left out, from `scoring.reasons`.
        left_out: how many were.
        items: the positions that are pictured.
        networks: as `scoring.about` gives them.
    """
    listed = table.head(LISTED)
    p = table["p_malignant"].astype(float)
    shares = {f"{q:.0%}": f"{p.quantile(q):.3f}" for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    render(
        path,
        "scored.html",
        {
            "networks": networks,
            "caveats": {n["caveat"]: n["trained_on"] for n in networks if n["caveat"]},
            "rows": [(row, cells, short(str(cells["scan"]))) for row, cells in listed.iterrows()],
            "pictured": {item.row for item in items},
            "n": len(table),
            "scans": table["scan"].nunique(),
            "warned": int((table["warnings"] != "").sum()),
            "shares": shares,
            "reasons": reasons,
            "left_out": left_out,
            "layers": sorted({(n["layer"], n["cells"], n["cell_mm"]) for n in networks}),
            "window": f"{WINDOW_HU[0]:g} to {WINDOW_HU[1]:g}",
            "patch": PATCH_SIZE,
            "items": [
                _shown(item, table.loc[item.row].to_dict())
                for item in sorted(items, key=lambda i: i.row)
            ],
        },
    )


def short(scan: str) -> str:
    """A name that fits into a cell; whole in the CSV and at the position."""
    return scan if len(scan) <= 16 else f"…{scan[-12:]}"


def _shown(item: Item, cells: Mapping[Any, Any]) -> dict[str, Any]:
    """A pictured position, for the template."""
    given = [f"{name} {value}" for name, value in cells.items() if name not in COLUMNS]
    shown: dict[str, Any] = {"row": item.row, "cells": cells, "given": ", ".join(given)}
    shown["place"] = ", ".join(f"{cells[axis]:.1f}" for axis in WORLD)
    shown["image"] = _image(item, None)
    shown["map"] = ""
    if item.heat is not None:
        shown["map"] = _image(item, item.heat)
        shown["explained"], shown["where"] = item.explained, peak_text(item.heat)
    return shown


def _image(item: Item, heat: NDArray[np.float32] | None) -> str:
    heats: list[Any] = planes(heat) if heat is not None else [None] * 3
    pictures = [
        _ticked(plane_picture(image, None, one))
        for image, one in zip(planes(item.volume_hu), heats, strict=True)
    ]
    return data_uri(side_by_side(pictures))


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
