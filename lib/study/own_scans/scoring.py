"""From positions in the user's own scans to probabilities and maps: `nodulebook score`.

The networks are those of a run's folds. A scan of LIDC-IDRI is scored by the fold in which its
patient was held out, any other scan by the first fold: so a default run trains one network, and
no network is asked about a patient that it was trained on unless there is no other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, write_csv
from nodulebook.core.settings import (
    N_FOLDS,
    FoldParameters,
    Profile,
    check_fold_parameters,
    read_profile,
)
from nodulebook.ct.find import FoundFolder, FoundScan
from nodulebook.ct.spacing import check_spacing
from nodulebook.ct.volume import Volume
from nodulebook.data.cohort import read_nodules
from nodulebook.data.contours import grid_offsets_mm
from nodulebook.data.folds import read_folds
from nodulebook.explain import gradcam
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.senet import CLASSES
from nodulebook.model.targets import split_fold
from nodulebook.model.train import ARM, predict_malignant
from nodulebook.patches.cube import LUNG_HU, PATCH_SIZE, central_slab, extract_patch, scale_to_unit
from nodulebook.patches.sources import SOURCES, open_source
from nodulebook.runs.contract import list_runs
from nodulebook.runs.network_fold import trained_model
from study.experiments.maps import fold_with_model
from study.own_scans import scans as own_scans
from study.own_scans.page import COLUMNS, Item, write_page
from study.own_scans.scans import WORLD

PROBABILITIES, LEFT_OUT, PAGE = "probabilities.csv", "left_out.csv", "index.html"

_ENDS = "trained on slices that end at the readers' marks, with"
CAVEATS = {
    "phantom": "trained on a phantom: its probability says nothing about CT",
    "lidc_slices": f"{_ENDS} estimated HU: whole scans are new to it",
    "lidc_grey": f"{_ENDS} grey values for HU: whole scans are new to it",
}
"""What a source's networks cannot know of a whole scan."""

MAX_SPACING_MM = 2.5
"""The networks' training nodules lie in scans of at most this slice thickness."""


# -------------------------------------------------------------------------------- the networks


@dataclass(frozen=True, eq=False)
class Network:
    """A fold's network and what it was trained on."""

    model: keras.Model
    profile: Profile
    run: str
    fold: int
    source: str
    patients: frozenset[str]  # of the training nodules

    def predict(self, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Malignant probabilities (n,) of prepared patches, averaged over views as in the run."""
        return predict_malignant(self.model, volumes, self.profile.training.test_views)

    def seen_hu(self, volumes_hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """What of patches (n, 32, 32, 32) the network is shown: all, or the slab that it learnt."""
        slab = self.profile.training.central_slab_mm
        return central_slab(volumes_hu, slab) if slab else volumes_hu


@dataclass(eq=False)
class Networks:
    """Where a run's networks come from; each is loaded, or trained, when it is first asked for."""

    load: Callable[[int], Network]
    usable: Sequence[int]  # folds
    fold_of: Mapping[str, int]  # patients in whose fold they were held out
    _loaded: dict[int, Network] = field(default_factory=dict)

    def fold_for(self, patient_id: str) -> int:
        """The fold to ask about a patient: where they were held out, if that can be had."""
        held_out = self.fold_of.get(patient_id, self.usable[0])
        return held_out if held_out in self.usable else self.usable[0]

    def get(self, fold: int) -> Network:
        """A fold's network."""
        if fold not in self._loaded:
            self._loaded[fold] = self.load(fold)
        return self._loaded[fold]


def _held_out() -> dict[str, int]:
    folds = read_folds()
    return dict(zip(folds["patient_id"], folds["fold"].astype(int), strict=True))


def networks_of_profile(
    profile_name: str = "quick",
    source: str = "phantom",
    fold: int | None = None,
    data: Path | None = None,
    report: Callable[[str], None] = print,
) -> Networks:
    """Networks that are trained on the spot, and kept under `papermill_runs/`, out of git's sight.

    They are those of the run `<profile>-<source>`: where it was run here, its weights are taken.

    Args:
        profile_name: a file of `profiles/`.
        source: the training patches.
        fold: the only fold to use; None: as the scans need them.
        data: the CT data of the source; NODULEBOOK_DATA where None.
        report: gets a line an epoch.

    Raises:
        InputError: there is no such profile, source or fold.
    """
    values = {"profile": profile_name, "source": source, "fold": fold or 0}
    parameters = check_fold_parameters(values)
    profile = read_profile(profile_name)

    def load(k: int) -> Network:
        store = open_source(source, data, profile.training.lesions)
        here = split_fold(read_folds(), store, k, profile.training, read_nodules())
        report(f"network of {parameters.run_name}, fold {k}: {len(here.train)} training nodules")
        own: FoldParameters = parameters.model_copy(update={"fold": k})
        model = trained_model(profile, here, own, report)
        patients = frozenset(here.train["patient_id"])
        return Network(model, profile, own.run_name, k, source, patients)

    usable = range(N_FOLDS) if fold is None else (fold,)
    return Networks(load, usable, _held_out())


def networks_of_run(
    run: str,
    fold: int | None = None,
    data: Path | None = None,
    train_again: bool = False,
    report: Callable[[str], None] = print,
) -> Networks:
    """The networks of a run of `papermill_runs/`, of the folds whose weights are on this machine.

    Args:
        run: the run's name.
        fold: the only fold to use; None: as the scans need them.
        data: the CT data of the run's source; NODULEBOOK_DATA where None.
        train_again: train the folds again whose weights are not here.
        report: gets a line an epoch.

    Raises:
        InputError: there is no such run, or no weights of it are here.
    """
    if run not in list_runs():
        raise InputError(f"run {run!r} is not one of {', '.join(list_runs()) or '(none)'}")
    wanted = range(N_FOLDS) if fold is None else (fold,)
    done = [k for k in wanted if paths.fold_folder(run, k).is_dir()]
    usable = done if train_again else [k for k in done if _has_weights(run, k)]
    if not usable:
        which = "it has" if fold is None else f"its fold {fold} has"
        raise InputError(
            f"run {run!r}: {which} no weights on this machine (they are not in the repository); "
            "add --train-again to train what is needed, as it was trained"
        )

    def load(k: int) -> Network:
        report(f"network of {run}, fold {k}")
        here = fold_with_model(run, k, data, train_again, report)
        patients = frozenset(here.data.train["patient_id"])
        return Network(here.model, here.profile, run, k, here.store.source, patients)

    return Networks(load, usable, _held_out())


def _has_weights(run: str, fold: int) -> bool:
    return (paths.fold_folder(run, fold) / CHECKPOINT).is_file()


# ------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, eq=False)
class Scored:
    """What came of the positions."""

    table: pd.DataFrame  # `COLUMNS` and further ones
    left_out: pd.DataFrame  # line, id, scan, reason
    damaged: Sequence[str] = ()  # files of the folder that cannot be read, and why


@dataclass(frozen=True, eq=False)
class _Patch:
    row: int  # of the positions
    volume_hu: NDArray[np.int16]  # (32, 32, 32) zyx
    warnings: list[str]


def score(
    scans: Path,
    positions: Path,
    to: Path,
    networks: Networks,
    pictures: int = 100,
    report: Callable[[str], None] = print,
) -> Scored:
    """Give each position a probability, and write the table and a page of maps.

    Args:
        scans: the folder of the scans (`own_scans.find_scans`).
        positions: the table of positions (`own_scans.read_positions`).
        to: the folder to write: probabilities.csv, index.html, and left_out.csv where a position
            could not be scored. An older folder of this kind is replaced.
        networks: of a run.
        pictures: how many positions the page shows, the first ones; the table has all.
        report: gets a line of progress now and then.

    Returns:
        What was written.

    Raises:
        InputError: the positions or `to` are wrong, or no position at all could be scored.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"the maps need KERAS_BACKEND=tensorflow, but it is {keras.backend.backend()}"
        )
    _check_target(to)
    table = own_scans.read_positions(positions)
    folder = own_scans.find_scans(scans)
    left_out: dict[int, str] = {}  # row -> reason
    shown = set(range(min(pictures, len(table))))
    results: dict[int, dict[str, object]] = {}
    items: dict[int, Item] = {}
    used: dict[int, Network] = {}
    for scan, rows in _by_scan(table, folder, networks, left_out):
        patches = list(_patches(scan, table.loc[rows], left_out))
        if not patches:
            continue
        network = networks.get(networks.fold_for(scan.patient_id))
        used[network.fold] = network
        for row, result, item in _scored(scan, network, patches, shown):
            results[row] = result
            if item is not None:
                items[row] = item
        report(f"scan {scan.name}: {len(patches)} positions, fold {network.fold}")
    lost = table.loc[sorted(left_out), ["line", "id", "scan"]].assign(
        reason=[left_out[row] for row in sorted(left_out)]
    )
    if not results:
        raise InputError(f"{positions}: no position can be scored; {'; '.join(reasons(lost))}")
    scored = Scored(_joined(table, results), lost.reset_index(drop=True), folder.damaged)
    with folder_written_aside(to.expanduser().resolve()) as aside:
        write_csv(scored.table, aside / PROBABILITIES)
        if len(lost):
            write_csv(scored.left_out, aside / LEFT_OUT)
        write_page(
            aside / PAGE,
            scored.table,
            scored.left_out,
            [items[row] for row in sorted(items)],
            [about(network) for _, network in sorted(used.items())],
        )
    return scored


def reasons(left_out: pd.DataFrame, most: int = 10) -> list[str]:
    """Why positions were left out, a line a reason, with the first line of the file that it met."""
    lines = []
    for reason, rows in left_out.groupby("reason", sort=False):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        lines.append(f"line {rows['line'].iloc[0]}{more}: {reason}")
    further = len(lines) - most
    return lines[:most] + ([f"and {further} more reasons"] if further > 0 else [])


def _check_target(to: Path) -> None:
    to = to.expanduser()
    if to.is_dir():
        other = sorted({p.name for p in to.iterdir()} - {PROBABILITIES, LEFT_OUT, PAGE})
        if other:
            raise InputError(f"{to}: holds other files ({other[0]}): name a new folder with --to")
    elif to.exists():
        raise InputError(f"{to}: is a file: name a new folder with --to")


def _by_scan(
    table: pd.DataFrame, folder: FoundFolder, networks: Networks, left_out: dict[int, str]
) -> Iterator[tuple[FoundScan, list[int]]]:
    """The scans that are there and the rows of their positions, those of a network together."""
    rows_of: dict[str, list[int]] = {}
    for row, name in zip(table.index, table["scan"], strict=True):
        try:
            rows_of.setdefault(folder.one(name).name, []).append(row)
        except InputError as error:
            left_out[row] = str(error)
    scans = [(folder.scans[name], rows) for name, rows in rows_of.items()]
    yield from sorted(scans, key=lambda pair: networks.fold_for(pair[0].patient_id))


def _patches(
    scan: FoundScan, positions: pd.DataFrame, left_out: dict[int, str]
) -> Iterator[_Patch]:
    """The patches of a scan's positions; what goes wrong becomes the reason of a row."""
    try:
        volume = scan.open()
        about_scan = _scan_warnings(volume)
    except Exception as error:  # one odd scan must not cost the others
        left_out.update(dict.fromkeys(positions.index, _said(error)))
        return
    for row, world in zip(positions.index, positions[list(WORLD)].to_numpy(float), strict=True):
        try:
            own_scans.check_inside(volume.geometry, world)
            volume_hu = extract_patch(volume, world, background_hu=np.nan)
        except Exception as error:
            left_out[row] = _said(error)
            continue
        beyond = np.isnan(volume_hu)
        here = volume_hu[~beyond]
        if here.min() == here.max():
            left_out[row] = "its voxels all have one value: an incomplete download?"
            continue
        volume_hu[beyond] = LUNG_HU
        warnings = about_scan + _patch_warnings(volume_hu, beyond)
        yield _Patch(int(row), np.rint(volume_hu).astype(np.int16), warnings)


def _said(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"cannot be read: unexpected {type(error).__name__}: {error}"


def _scan_warnings(volume: Volume) -> list[str]:
    spacing = check_spacing(volume.geometry.slices_mm)
    warnings = list(volume.notes)
    if spacing.spacing_mm > MAX_SPACING_MM + 0.01:
        warnings.append(f"slices {spacing.spacing_mm:g} mm apart; trained on at most 2.5 mm")
    return warnings


def _patch_warnings(volume_hu: NDArray[np.float32], beyond: NDArray[np.bool_]) -> list[str]:
    """What a reader of the table should know of a patch (z, y, x), HU; `beyond`: outside the scan.

    The bounds are coarse: they catch positions of another convention and numbers that are not HU.
    """
    warnings = []
    if beyond.any():
        share = beyond.mean()
        warnings.append(
            f"{max(share, 0.01):.0%} of the patch lies beyond the scan, filled with {LUNG_HU} HU"
        )
    there = volume_hu[~beyond]
    if (there < -500).mean() < 0.05:
        warnings.append("hardly any lung around it: is the position right, and are these HU?")
    offset = grid_offsets_mm(PATCH_SIZE)
    away = np.sqrt(sum(axis**2 for axis in np.meshgrid(offset, offset, offset)))
    if volume_hu[away <= 5].max() < -700:
        warnings.append("nothing denser than lung within 5 mm: is a nodule there?")
    return warnings


def _scored(
    scan: FoundScan, network: Network, patches: Sequence[_Patch], shown: set[int]
) -> Iterator[tuple[int, dict[str, object], Item | None]]:
    """Row, cells of the table, and what the page shows of it, if it does."""
    seen_hu = network.seen_hu(np.array([patch.volume_hu for patch in patches]))
    volumes = scale_to_unit(seen_hu)
    p = network.predict(volumes)
    explained = (p >= 0.5).astype(np.int64)
    pictured = [k for k, patch in enumerate(patches) if patch.row in shown]
    heat: dict[int, NDArray[np.float32]] = {}
    if pictured and network.model.name == ARM:
        maps = gradcam.grad_cam_plus_plus(
            network.model, volumes[pictured][..., None], explained[pictured]
        )
        heat = dict(zip(pictured, maps, strict=True))
    seen = "unknown"
    if scan.patient_id:
        seen = "yes" if scan.patient_id in network.patients else "no"
    always = [CAVEATS[network.source]] if network.source in CAVEATS else []
    if seen == "yes":
        always.append("the network was trained on this patient")
    for k, patch in enumerate(patches):
        warnings = always + patch.warnings
        result: dict[str, object] = {
            "scan": scan.name,
            "p_malignant": round(float(p[k]), 6),
            "run": network.run,
            "fold": network.fold,
            "trained_on": SOURCES[network.source],
            "patient_in_training": seen,
            "warnings": "; ".join(warnings),
        }
        item = None
        if k in pictured:
            item = Item(patch.row, seen_hu[k], heat.get(k), CLASSES[explained[k]])
        yield patch.row, result, item


def _joined(positions: pd.DataFrame, results: Mapping[int, dict[str, object]]) -> pd.DataFrame:
    """The rows that were scored, in the order of the positions."""
    rows = sorted(results)
    found = pd.DataFrame([results[row] for row in rows], index=rows)
    given = positions.loc[rows].drop(columns=[*found.columns.intersection(positions.columns)])
    table = given.join(found)
    further = [name for name in given.columns if name not in (*COLUMNS, "line")]
    return table[[*COLUMNS, *further]]


def about(network: Network) -> dict[str, str]:
    """What the page says of a network and its maps."""
    layer = gradcam.feature_layer(network.model) if network.model.name == ARM else ""
    cells = network.model.get_layer(layer).output.shape[1] if layer else 0
    return {
        "run": network.run,
        "fold": str(network.fold),
        "source": network.source,
        "trained_on": SOURCES[network.source],
        "patients": str(len(network.patients)),
        "caveat": CAVEATS.get(network.source, ""),
        "layer": layer,
        "cells": str(cells),
        "cell_mm": f"{PATCH_SIZE / cells:g}" if cells else "",
    }
