"""The released networks: weights of a run's folds and seeds, committed under `data/weights/`.

A manifest says what they are: checksum of each file, settings, licence, training data and patients,
input, and the line that calibrates their scores. It is checked before any weight is read.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import folder_written_aside, read_json, sha256, write_json
from nodulebook.core.settings import N_FOLDS, Profile, check_fold_parameters
from nodulebook.data.cohort import read_nodules
from nodulebook.data.folds import read_folds
from nodulebook.model.backend import versions
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.train import build_model, predict_malignant
from nodulebook.patches.cube import PATCH_SIZE, WINDOW_HU
from nodulebook.patches.sources import SOURCES
from nodulebook.runs.contract import Fold, list_runs, read_fold
from nodulebook.runs.network_fold import open_fold
from nodulebook.runs.weights import Weights, put_weights, read_weights, save_weights
from nodulebook.stats.calibration import logit, plain_logistic
from study.own_scans.networks import ALL, Network, Networks, Report
from study.own_scans.page import check_target

MANIFEST = "manifest.json"
MOST_BYTES = 12 * 1024**2
LICENCE = (
    "CC BY 3.0, as LIDC-IDRI, from which the weights were trained: Armato et al. 2011, "
    "doi 10.1118/1.3528204, The Cancer Imaging Archive. No clinical use."
)
TOLERANCE = 0.02
"""By so much may half precision and another processor change a probability."""

MOST_SLOPE = 10.0
"""Of a line that calibrates: twice that of the committed release, whose mean ratings keep scores
near one half. A steeper line comes of scores that are almost the same for all nodules, and shows
their noise: at 10, `TOLERANCE` alone moves one half to 0.69. One below 0 turns scores round."""


def licence_of(source: str) -> str:
    """The licence of networks that were trained on a source."""
    own = "Not stated: trained on a cohort of a user's own, whose owner decides. No clinical use."
    return own if source == "own" else LICENCE


class WeightsFile(BaseModel):
    """One network of the release."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str = Field(pattern=r"^fold-\d-seed-\d+\.npz$")
    fold: int = Field(ge=0, lt=N_FOLDS)
    seed: int = Field(ge=0)
    bytes: int = Field(gt=0, le=MOST_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    run: str
    largest_difference: float | None
    """From the run's own test probabilities, over the fold; None: not checked."""


class Manifest(BaseModel):
    """What the release is. `calibration` and `held_out` are by fold; "all" is for other scans."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    licence: str
    source: str
    trained_on: str
    profile: dict[str, Any]
    profile_hash: str
    patch_voxels: int
    patch_spacing_mm: float
    window_hu: tuple[float, float]
    max_spacing_mm: float
    max_shift_mm: float | None
    """None: training had no shifts. Older manifests say 0."""
    patients: list[str]
    held_out: dict[str, list[str]]
    calibration: dict[str, tuple[float, float]]
    versions: dict[str, str]
    files: list[WeightsFile] = Field(min_length=1)

    @property
    def settings(self) -> Profile:
        """The profile that the networks were trained with."""
        return Profile.model_validate(self.profile)


def weights_folder() -> Path:
    """Where the release is: `data/weights/`."""
    return paths.DATA / "weights"


def read_manifest(folder: Path | None = None) -> Manifest:
    """The release's manifest, checked against its files' sizes and checksums.

    Raises:
        InputError: there is no release, the manifest is wrong, or a file is missing or changed.
    """
    folder = (folder or weights_folder()).expanduser()
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: holds no released networks; away from a checkout set NODULEBOOK_ROOT to "
            "one, name a run with --run, or train on the spot with --profile and --source"
        )
    try:
        manifest = Manifest.model_validate(read_json(path))
        if manifest.settings.hash() != manifest.profile_hash:
            raise InputError(f"{path}: profile and profile_hash disagree; restore the file")
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path}: {where}: {problem['msg']}; restore the file") from None
    for entry in manifest.files:
        file = folder / entry.file
        size = file.stat().st_size if file.is_file() else -1
        if size != entry.bytes or sha256(file) != entry.sha256:
            what = "is missing" if size < 0 else "is not the file that the manifest names"
            raise InputError(f"{file}: {what}; restore it (git checkout -- {folder})")
    return manifest


def networks_of_release(
    fold: int | None = None, report: Report = print, folder: Path | None = None
) -> Networks:
    """The released networks: at once, without data or training.

    Args:
        fold: the only fold to use; None: as the scans need them.
        report: gets a line when networks are loaded.
        folder: of the release; `data/weights/` where None.

    Raises:
        InputError: as `read_manifest`; or there is no such fold.
    """
    folder = (folder or weights_folder()).expanduser()
    manifest = read_manifest(folder)
    folds = sorted({entry.fold for entry in manifest.files})
    if fold is not None and fold not in folds:
        raise InputError(f"fold {fold} is not released; the folds are {folds}")
    profile = manifest.settings

    @cache
    def model() -> keras.Model:
        return build_model(profile)

    @cache
    def weights(file: str) -> Weights:
        return read_weights(Path(folder, file), model())

    def load(k: int) -> Network:
        entries = [entry for entry in manifest.files if k in (ALL, entry.fold)]
        what = "all folds" if k == ALL else f"fold {k}"
        report(f"released networks of {manifest.run}, {what}: the mean of {len(entries)}")
        unseen = manifest.held_out.get(str(k), [])
        return Network(
            model(), profile, manifest.run, k, manifest.source,
            frozenset(manifest.patients) - frozenset(unseen),
            [weights(entry.file) for entry in entries],
            manifest.calibration["all" if k == ALL else str(k)],
        )  # fmt: skip

    return Networks(
        load,
        folds if fold is None else (fold,),
        {p: int(k) for k, patients in manifest.held_out.items() for p in patients},
        ALL if fold is None else fold,
        manifest.max_spacing_mm,
        # After training without shifts there is no limit to warn about, as with a run's networks.
        manifest.max_shift_mm or None,
    )


# ------------------------------------------------------------------------------ making a release


def release(
    run: str,
    data: Path | None = None,
    seeds: int | None = None,
    folder: Path | None = None,
    report: Report = print,
) -> Manifest:
    """Pack the weights of a run and of its further seeds (`<run>-seed<k>`) as the release.

    Args:
        run: a run of `papermill_runs/` whose folds have their weights on this machine.
        data: the CT data, on which each packed network is compared with its fold's predictions.
        seeds: how many seeds to pack at most; None: as many as fit into `MOST_BYTES`.
        folder: the folder to write; `data/weights/` where None.
        report: gets one line per network.

    Raises:
        InputError: a fold or its weights are missing, the runs were made with different settings,
            the data are not those of the runs, a packed network gives other predictions than its
            fold, the files are too large, or the folder holds anything else than a release.
    """
    # Resolved, so that what a link points to is replaced, and not the link.
    folder = (folder or weights_folder()).expanduser().resolve()
    _check_replaceable(folder)
    runs = [run, *(name for name in list_runs() if name.startswith(f"{run}-seed"))][:seeds]
    folds = {name: _folds_of(name) for name in runs}
    about = folds[run][0].run
    profile = Profile.model_validate(about["profile"])
    same = profile.model_copy(update={"seed": 0}).hash()
    for name in runs:
        other = Profile.model_validate(folds[name][0].run["profile"])
        if other.model_copy(update={"seed": 0}).hash() != same:
            raise InputError(f"run {name!r}: made with other settings than {run!r}")
    settings, held_out = profile.training, read_folds()
    trained = read_nodules() if settings.lesions == "all" else held_out
    model = build_model(profile)
    entries: list[WeightsFile] = []
    with folder_written_aside(folder) as aside:
        for name in runs:
            seed = int(folds[name][0].run["seed"])
            for k, fold in folds[name].items():
                here = {"fold": k, "source": about["source"], "data": str(data or "")}
                test, store = open_fold(check_fold_parameters(here), profile)
                if store.digest != fold.run["data_hash"]:
                    raise _other_data(name, fold, "made with other patches than those there now")
                file = aside / f"fold-{k}-seed-{seed}.npz"
                _put_checkpoint(model, name, k, fold.run["profile_hash"])
                save_weights(file, model)
                put_weights(model, read_weights(file, model))
                p = predict_malignant(model, test.test_volumes, settings.test_views)
                record = fold.probabilities.set_index("nodule_id")["p_malignant"]
                away = float(np.abs(p - record.loc[test.test["nodule_id"]].to_numpy()).max())
                report(f"{name} fold {k}: predictions differ by at most {away:.4f}")
                if away > TOLERANCE:
                    raise InputError(
                        f"run {name!r}, fold {k}: its weights give other predictions than its "
                        f"probabilities.csv (by {away:.3f}); train the fold again"
                    )
                entries.append(
                    WeightsFile(
                        file=file.name, fold=k, seed=seed, bytes=file.stat().st_size,
                        sha256=sha256(file), run=name, largest_difference=round(away, 5),
                    )
                )  # fmt: skip
            if sum(entry.bytes for entry in entries) > MOST_BYTES:
                raise InputError(f"{run!r}: above 12 MB with run {name!r}; pack fewer with --seeds")
        manifest = Manifest(
            run=run, licence=licence_of(about["source"]),
            source=about["source"], trained_on=SOURCES[about["source"]],
            profile=about["profile"], profile_hash=profile.hash(), patch_voxels=PATCH_SIZE,
            patch_spacing_mm=1.0, window_hu=WINDOW_HU, max_spacing_mm=2.5,
            max_shift_mm=float(settings.shift_mm) or None,
            patients=sorted(set(trained["patient_id"])),
            held_out={
                str(k): sorted(set(rows["patient_id"])) for k, rows in held_out.groupby("fold")
            },
            calibration=_calibration(folds, report), versions=versions(), files=entries,
        )  # fmt: skip
        write_json(json.loads(manifest.model_dump_json()), aside / MANIFEST)
    if about["source"] == "own":
        report(
            f"{folder / MANIFEST}: names your cohort's {len(manifest.patients)} patients, so that "
            "they are recognised: check this, and fill in the licence, before you pass it on"
        )
    return manifest


def _folds_of(run: str) -> dict[int, Fold]:
    """All ten folds of a run, with the nodules of the fold table."""
    absent = [k for k in range(N_FOLDS) if not paths.fold_folder(run, k).is_dir()]
    if absent:
        raise InputError(f"run {run!r}: fold {absent[0]} is missing; a release has all ten")
    found = {k: read_fold(paths.fold_folder(run, k)) for k in range(N_FOLDS)}
    expected = read_folds()
    for k, fold in found.items():
        try:
            read_fold(paths.fold_folder(run, k), expected)
        except InputError as error:
            raise _other_data(run, fold, str(error)) from None
    return found


def _other_data(run: str, fold: Fold, problem: str) -> InputError:
    """What is said where a run's fold was not made from the data that are here."""
    where, cohort = f"run {run!r}, fold {fold.run['fold']}", paths.OWN_COHORT
    if fold.run["source"] == "own":
        return InputError(
            f"{where}: {problem}; NODULEBOOK_COHORT ({cohort or 'not set'}) is not the cohort that "
            "the run was trained on, or has changed since: set it to that cohort, or train the run "
            "again"
        )
    unset = f"unset NODULEBOOK_COHORT ({cohort}), " * (cohort is not None)
    return InputError(
        f"{where}: {problem}; the data have changed since the run was trained: {unset}restore "
        "them, or train the run again"
    )


def _check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything else than a release."""
    path, ours = folder / MANIFEST, set[str]()
    if path.is_file():
        try:
            manifest = Manifest.model_validate(read_json(path))
        except (InputError, ValidationError):  # another program's, or too damaged to know
            raise InputError(
                f"{path}: is not the manifest of a release, so {folder} is not replaced: name a "
                "new folder with --to"
            ) from None
        ours = {MANIFEST, *(entry.file for entry in manifest.files)}
    check_target(folder, ours)


def _put_checkpoint(model: keras.Model, run: str, fold: int, profile_hash: str) -> None:
    """The weights of a fold's checkpoint, whichever backend trained it."""
    own = paths.fold_folder(run, fold) / CHECKPOINT
    kept = paths.runs_folder() / ".models" / f"{run}-fold-{fold}.npz"
    path = own if own.is_file() else kept
    if not path.is_file():
        raise InputError(
            f"{own}: the weights of fold {fold} are not on this machine, nor is {kept}"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            key = json.loads(str(stored["about"]))["key"]
            if key["profile_hash"] != profile_hash or key["fold"] != fold:
                raise InputError(f"{path}: is of another fold or other settings than the run")
            for i, variable in enumerate(model.variables):
                variable.assign(stored[f"v{i:04d}"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a checkpoint of this network ({error})") from None


def _calibration(
    runs: Mapping[str, Mapping[int, Fold]], report: Report
) -> dict[str, tuple[float, float]]:
    """For each fold, the line through the logits of the other folds' test nodules; all: of all.

    A fold without a usable line keeps its networks' scores, slope 1 and intercept 0, and that is
    reported.
    """
    tables = [fold.probabilities for folds in runs.values() for fold in folds.values()]
    pooled = pd.concat(tables).groupby("nodule_id")[["label", "fold", "p_malignant"]].mean()
    chosen = {str(k): pooled[pooled["fold"] != k] for k in range(N_FOLDS)} | {"all": pooled}
    lines: dict[str, tuple[float, float]] = {}
    for name, rows in chosen.items():
        line = _line(rows["label"].to_numpy(int), rows["p_malignant"].to_numpy(float))
        if isinstance(line, str):
            which = "the mean of all folds" if name == "all" else f"fold {name}"
            report(f"calibration of {which}: {line}; its scores stay as the networks give them")
            line = (1.0, 0.0)
        lines[name] = line
    return lines


def _line(label: NDArray[np.int_], p: NDArray[np.float64]) -> tuple[float, float] | str:
    """Slope and intercept of the label's log odds over the score's (Platt 1999), or why not."""
    score = logit(p)
    benign, malignant = score[label == 0], score[label == 1]
    if not len(benign) or not len(malignant):
        return "the nodules to fit on are of one label only"
    # Without overlap (or with one score for all) the likelihood has no maximum, and the slope is
    # where the search happened to stop.
    if malignant.min() >= benign.max() or malignant.max() <= benign.min():
        return "the scores of benign and malignant nodules do not overlap, so no line can be fitted"
    fitted = plain_logistic().fit(score[:, None], label)
    slope, intercept = round(float(fitted.coef_[0, 0]), 5), round(float(fitted.intercept_[0]), 5)
    if not 0 < slope <= MOST_SLOPE:
        return f"the fitted slope is {slope:g}, but must be above 0 and at most {MOST_SLOPE:g}"
    return slope, intercept
