"""From positions in the user's own scans to probabilities and maps: `nodulebook score`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label, maximum_filter

from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, write_csv
from nodulebook.ct.find import AbsentScanError, FoundFolder, FoundScan
from nodulebook.ct.folder import listed
from nodulebook.ct.spacing import check_spacing
from nodulebook.ct.volume import Volume
from nodulebook.data.contours import grid_offsets_mm
from nodulebook.explain import gradcam
from nodulebook.model.parts import CLASSES
from nodulebook.model.train import ARM
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE, extract_patch, scale_to_unit
from nodulebook.patches.ruler import automatic_diameter_mm
from nodulebook.patches.sources import SOURCES
from nodulebook.runs.weights import put_weights
from study.own_scans.networks import ALL, OWN, Network, Networks, Report, in_training, with_patients
from study.own_scans.page import (
    COLUMNS,
    LEFT_OUT,
    PAGE,
    PROBABILITIES,
    RESULTS,
    Item,
    check_target,
    write_page,
)
from study.own_scans.positions import PIXELS, WORLD, stem
from study.own_scans.scans import check_inside, pixel_world

_ENDS = "trained on slices that end at the readers' marks, with"
CAVEATS = {
    "phantom": "trained on a phantom: its probability says nothing about CT",
    "lidc_slices": f"{_ENDS} estimated HU: whole scans are new to it",
    "lidc_exact": f"{_ENDS} HU that are exact for half of the slices: whole scans are new to it",
    "lidc_grey": f"{_ENDS} grey values for HU: whole scans are new to it",
}
"""What a source's networks cannot know of a whole scan."""

ABSENT = "its scan is not in the folder"

UNNAMED = "its line names no scan, though others do: fill in the column scan"
"""A spreadsheet's merged cells are empty below the first, so that the only scan may be another."""

_GRID = np.stack(np.meshgrid(*3 * [grid_offsets_mm(PATCH_SIZE)], indexing="ij"))  # zyx
_AWAY = np.sqrt((_GRID**2).sum(axis=0))

FINEST_MM = 0.2
"""Pixels of CT of the chest are wider."""

CHUNK = 500
"""Positions of a scan that are held in memory at a time."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What came of the positions."""

    table: pd.DataFrame  # `COLUMNS` and further ones
    left_out: pd.DataFrame  # line, id, scan, reason
    damaged: Sequence[str] = ()  # files of the folder that cannot be read, and why


@dataclass(frozen=True, eq=False)
class _Patch:
    row: int  # of the positions
    world: NDArray[np.float64]  # xyz in mm
    volume_hu: NDArray[np.int16]  # (32, 32, 32) zyx
    diameter_mm: float  # by the automatic ruler; NaN where it finds nothing
    warnings: list[str]


def score(
    folder: FoundFolder,
    positions: pd.DataFrame,
    to: Path,
    networks: Networks,
    pictures: int = 100,
    report: Report = print,
    positions_csv: str = "positions",
) -> Scored:
    """Give each position a probability, and write the table and a page of maps.

    Args:
        folder: the scans (`scans.find_scans`) or cubes (`cubes.read_cubes`).
        positions: the positions, from `positions.read_positions` or `cubes.read_cubes`.
        to: the folder to write: probabilities.csv, index.html, and left_out.csv where a position
            could not be scored. An older folder of this kind is replaced.
        networks: of the release or of a run.
        pictures: how many positions the page shows, the first ones; the CSV file has all.
        report: gets a line of progress now and then.
        positions_csv: the table's name, for messages.

    Returns:
        What was written.

    Raises:
        InputError: the positions or `to` are wrong, or no position at all could be scored.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"the maps need KERAS_BACKEND=tensorflow, but it is {keras.backend.backend()}"
        )
    check_target(to, {PROBABILITIES, LEFT_OUT, PAGE})
    table = positions.reset_index(drop=True)
    reason = np.full(len(table), "", object)
    cells = {name: np.full(len(table), "", object) for name in ("scan", *WORLD, *RESULTS)}
    items: list[Item] = []
    used: dict[int, Network] = {}
    seen: list[str] = []  # of each scan, where the networks are of an own cohort
    for scan, rows in by_scan(table, folder, networks, reason, positions_csv):
        n_scored = 0
        for first in range(0, len(rows), CHUNK):
            part = table.loc[rows[first : first + CHUNK]]
            patches = list(patches_of(scan, part, networks, reason))
            if not patches:
                continue
            network = networks.get(networks.fold_for(scan.patient_id))
            used[network.fold] = network
            for row, result, item in _scored(scan, network, networks, patches, pictures):
                for name, value in result.items():
                    cells[name][row] = value
                if item is not None:
                    items.append(item)
            n_scored += len(patches)
        if n_scored:
            if network.source == OWN:
                seen.append(in_training(scan.patient_id, network, networks))
            report(f"scan {scan.name}: {n_scored} positions, {about(network)['which']}")
    if without := seen.count("unknown"):
        report(
            f"{without} of {len(seen)} scans are not recognised as patients of the cohort that the "
            "networks were trained on; if one of them is of such a patient, its score may be too "
            "good: name the patient in the column patient_id, as the cohort's folds.csv does"
        )
    lost = table.loc[reason != "", ["line", "id", "scan"]].assign(reason=reason[reason != ""])
    if (reason == ABSENT).any():
        name = table["scan"][reason == ABSENT].iloc[0]
        report(f"{folder.path} holds {listed(folder.scans.values())}, but no {name}")
    done = table[reason == ""]
    if done.empty:
        raise InputError(f"no position can be scored; {'; '.join(reasons(lost))}")
    found = pd.DataFrame({name: cells[name][done.index] for name in cells}, done.index)
    further = _further(done)
    scored = Scored(
        pd.concat([done[["id"]], found, further], axis=1)[[*COLUMNS, *further]].infer_objects(),
        lost.reset_index(drop=True),
        folder.damaged,
    )
    with folder_written_aside(to.expanduser().resolve()) as aside:
        write_csv(scored.table, aside / PROBABILITIES)
        if len(lost):
            write_csv(scored.left_out, aside / LEFT_OUT)
        whose = [about(network) for _, network in sorted(used.items())]
        write_page(aside / PAGE, scored.table, reasons(lost), len(lost), items, whose)
    return scored


def _further(positions: pd.DataFrame) -> pd.DataFrame:
    """The columns that are copied; one that is called like one of `COLUMNS`, under another name."""
    known = {"id", "scan", *WORLD, *PIXELS, "line"}
    further = positions.drop(columns=[name for name in positions if name in known])
    names: dict[str, str] = {}
    taken = {*map(str.lower, (*COLUMNS, *map(str, further))), *known}
    for name in map(str, further):
        if name.lower() in COLUMNS:
            free = (f"{name} as given{' again' * k}" for k in count())
            names[name] = next(one for one in free if one.lower() not in taken)
    return further.rename(columns=names)


def reasons(left_out: pd.DataFrame, most: int = 10) -> list[str]:
    """Why positions were left out: one line per reason, with the first line of the file it met."""
    lines = []
    for reason, rows in left_out.groupby("reason", sort=False):
        more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
        lines.append(f"line {rows['line'].iloc[0]}{more}: {reason}")
    further = len(lines) - most
    return lines[:most] + ([f"and {further:,} more reasons"] if further > 0 else [])


def by_scan(
    table: pd.DataFrame,
    folder: FoundFolder,
    networks: Networks,
    reason: NDArray[np.object_],
    positions_csv: str,
) -> Iterator[tuple[FoundScan, NDArray[np.int64]]]:
    """The scans of the folder and the rows of their positions, those of a network together.

    Raises:
        InputError: the positions name two patients of one scan.
    """
    rows_of: dict[str, dict[str, NDArray[np.int64]]] = {}
    for name, found in table.groupby("scan", sort=False).indices.items():
        name, rows = str(name), np.asarray(found)
        if not name and len(found) < len(table):
            reason[rows] = UNNAMED
            continue
        try:
            rows_of.setdefault(folder.one(name).name, {})[name] = rows
        except AbsentScanError:
            reason[rows] = ABSENT  # of a table of all scans, most: said once, not with each name
        except InputError as error:
            reason[rows] = str(error)
    for name, parts in rows_of.items():
        # a/CT1 and b/CT1 are two scans, of which the folder has one under that name.
        paths = [one for one in parts if one != name == stem(one)]
        for one in paths if len(paths) > 1 else ():
            reason[parts.pop(one)] = f"{listed(paths)} would all be scan {name}: name each scan"
    scans = [
        (folder.scans[name], np.sort(np.concatenate(list(parts.values()))))
        for name, parts in rows_of.items()
        if parts
    ]
    scans = with_patients(positions_csv, table, scans, folder, networks)
    yield from sorted(scans, key=lambda pair: networks.fold_for(pair[0].patient_id))


def patches_of(
    scan: FoundScan, positions: pd.DataFrame, networks: Networks, reason: NDArray[np.object_]
) -> Iterator[_Patch]:
    """The patches of a scan's positions; what goes wrong becomes the reason of a row."""
    try:
        volume = scan.open()
        about_scan = _scan_warnings(volume, networks)
        worlds = positions[list(WORLD)].to_numpy(float)
        if np.isnan(worlds).any():
            worlds = pixel_world(scan, volume, positions[list(PIXELS)].to_numpy(float))
    except Exception as error:  # one odd scan must not cost the others
        reason[positions.index] = _said(error)
        return
    for row, world in zip(positions.index, worlds, strict=True):
        if np.isnan(world).any():
            reason[row] = f"the scan has no slice {positions['slice'].loc[row]:g}"
            continue
        try:
            check_inside(volume.geometry, world)
            volume_hu = extract_patch(volume, world, background_hu=np.nan)
        except Exception as error:
            reason[row] = _said(error)
            continue
        beyond = np.isnan(volume_hu)
        inside = volume_hu[~beyond]
        if inside.min() == inside.max():
            reason[row] = "its voxels all have one value: an incomplete download?"
            continue
        volume_hu[beyond] = LUNG_HU
        warnings = about_scan + _patch_warnings(volume_hu, beyond)
        away = 0.0 if networks.max_shift_mm is None else _away_mm(volume_hu)
        if networks.max_shift_mm is not None and away > networks.max_shift_mm:
            warnings.append(
                f"{away:.0f} mm beside the centre of the tissue there; the network was trained on "
                f"shifts of at most {networks.max_shift_mm:g} mm"
            )
        diameter = automatic_diameter_mm(volume_hu)
        rounded = np.rint(volume_hu).astype(np.int16)
        yield _Patch(int(row), world, rounded, round(diameter, 2), warnings)


def _said(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"cannot be read: unexpected {type(error).__name__}: {error}"


def _scan_warnings(volume: Volume, networks: Networks) -> list[str]:
    warnings = list(volume.notes)
    spacing = check_spacing(volume.geometry.slices_mm)
    if spacing.spacing_mm > networks.max_spacing_mm + 0.01:
        warnings.append(
            f"slices {spacing.spacing_mm:g} mm apart; trained on at most "
            f"{networks.max_spacing_mm:g} mm"
        )
    finest, widest = (
        volume.geometry.spacing_xyz_mm[:2].min(),
        volume.geometry.spacing_xyz_mm[:2].max(),
    )
    if finest < FINEST_MM or widest > networks.max_spacing_mm + 0.01:
        warnings.append(f"pixels of {finest:g} x {widest:g} mm: are the scan's lengths in mm?")
    return warnings


def _patch_warnings(volume_hu: NDArray[np.float32], beyond: NDArray[np.bool_]) -> list[str]:
    """What a reader of the table should know of a patch (z, y, x), HU; `beyond`: outside the scan.

    The bounds are coarse: they catch positions of another convention and numbers that are not HU.
    """
    warnings = []
    if beyond.any():
        share = max(beyond.mean(), 0.01)
        warnings.append(f"{share:.0%} of the patch lies beyond the scan, filled with {LUNG_HU} HU")
    if (padding := (volume_hu[~beyond] < -1500).mean()) > 0.01:
        warnings.append(f"{padding:.0%} of the patch is below -1500 HU: padding, not tissue?")
    if (volume_hu[~beyond] < -500).mean() < 0.05:
        warnings.append("hardly any lung around it: is the position right, and are these HU?")
    if volume_hu[_AWAY <= 5].max() < -700:
        warnings.append("nothing denser than lung within 5 mm: is a nodule there?")
    return warnings


def _away_mm(volume_hu: NDArray[np.float32]) -> float:
    """How far the position is, in the axial plane, from the middle of the tissue around it.

    The tissue is what is above -500 HU around its thickest place within 8 mm, no further out than
    1.7 times the depth there, so that a pleura or vessel that touches it is cut off.
    """
    inner = slice(4, -4)
    grid, away = _GRID[:, inner, inner, inner], _AWAY[inner, inner, inner]
    tissue = volume_hu[inner, inner, inner] > -500
    # At the edge tissue is taken to go on.
    depth = distance_transform_edt(np.pad(tissue, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
    peak = tissue & (maximum_filter(depth, 3) == depth) & (away <= 8)
    if not peak.any():
        return 0.0
    best = int(np.where(peak, depth - away / 2, -np.inf).argmax())
    middle = grid.reshape(3, -1)[:, best].reshape(3, 1, 1, 1)
    near = ((grid - middle) ** 2).sum(axis=0) <= max(1.7 * depth.flat[best], 2.0) ** 2
    parts, _ = label(tissue & near)
    return float(np.hypot(*grid[1:, parts == parts.flat[best]].mean(axis=1)))


def _scored(
    scan: FoundScan,
    network: Network,
    networks: Networks,
    patches: Sequence[_Patch],
    pictures: int,
) -> Iterator[tuple[int, dict[str, object], Item | None]]:
    """Row, cells of the table, and what the page shows of it, if it does."""
    seen_hu = network.seen_hu(np.array([patch.volume_hu for patch in patches]))
    volumes = scale_to_unit(seen_hu)
    p = network.predict(volumes)
    explained = (p >= 0.5).astype(np.int64)
    pictured = [k for k, patch in enumerate(patches) if patch.row < pictures]
    heat: dict[int, NDArray[np.float32]] = {}
    if pictured and network.model.name == ARM:
        if network.members:
            put_weights(network.model, network.members[0])
        maps = gradcam.grad_cam_plus_plus(
            network.model, volumes[pictured][..., None], explained[pictured]
        )
        heat = dict(zip(pictured, maps, strict=True))
    seen = in_training(scan.patient_id, network, networks)
    always = [CAVEATS[network.source]] if network.source in CAVEATS else []
    if seen == "yes":
        always.append("the network was trained on this patient")
    for k, patch in enumerate(patches):
        result: dict[str, object] = dict(zip(WORLD, patch.world.round(3).tolist(), strict=True)) | {
            "scan": scan.name,
            "p_malignant": round(float(p[k]), 6),
            "diameter_auto_mm": patch.diameter_mm,
            "run": network.run,
            "fold": "all" if network.fold == ALL else str(network.fold),
            "trained_on": SOURCES[network.source],
            "patient_in_training": seen,
            "warnings": "; ".join(always + patch.warnings),
        }
        item = None
        if k in pictured:
            item = Item(patch.row, seen_hu[k], heat.get(k), CLASSES[explained[k]])
        yield patch.row, result, item


def about(network: Network) -> dict[str, str]:
    """What the page says of a network and its maps."""
    layer = gradcam.feature_layer(network.model) if network.model.name == ARM else ""
    cells = network.model.get_layer(layer).output.shape[1] if layer else 0
    mean = f", the mean of {len(network.members)} networks" if len(network.members) > 1 else ""
    return {
        "which": ("all folds" if network.fold == ALL else f"fold {network.fold}") + mean,
        "run": network.run,
        "trained_on": SOURCES[network.source],
        "patients": str(len(network.patients)),
        "caveat": CAVEATS.get(network.source, ""),
        "layer": layer,
        "cells": str(cells),
        "cell_mm": f"{PATCH_SIZE / cells:g}" if cells else "",
    }
