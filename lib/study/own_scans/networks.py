"""The networks that score a user's positions: those of the release, of a run, or trained here.

A scan of LIDC-IDRI is scored by the fold in which its patient was held out, so that no network is
asked about a patient that it was trained on unless there is no other. Any other scan is scored by
the mean of a release's networks, or by a run's first fold. `adopt` names a patient as the table
does, else as the files do, else as the scan is called: each of these names is looked up before a
scan counts as one that the networks have not seen.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, Profile, check_fold_parameters, read_profile
from nodulebook.ct.dicom_files import TWO_PATIENTS
from nodulebook.ct.find import FoundFolder, FoundScan
from nodulebook.data.folds import read_folds
from nodulebook.data.patients import lidc_patient, spelling
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.train import predict_malignant
from nodulebook.patches.cube import central_slab
from nodulebook.runs.contract import list_runs
from nodulebook.runs.network_fold import open_fold, trained_model
from nodulebook.runs.weights import Weights, put_weights
from nodulebook.stats.calibration import logit
from study.experiments.maps import fold_with_model
from study.own_scans.scans import Folder

OWN = "own"
"""The source of a cohort of the user's own."""

ALL = -1
"""In place of a fold's number: the mean over all folds."""

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Network:
    """A fold's network, or the mean of several, and what it was trained on."""

    model: keras.Model
    profile: Profile
    run: str
    fold: int  # or ALL
    source: str
    patients: frozenset[str]  # of the training nodules
    members: Sequence[Weights] = ()  # predictions are averaged over these; none: the model's own
    line: tuple[float, float] = (1.0, 0.0)  # slope and intercept that calibrate the logit

    def predict(self, volumes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Malignant probabilities (n,) of prepared patches, averaged over views as in the run."""
        views = self.profile.training.test_views
        each = []
        for weights in self.members or (None,):
            if weights is not None:
                put_weights(self.model, weights)
            each.append(predict_malignant(self.model, volumes, views))
        return calibrated(np.mean(each, axis=0), self.line)

    def seen_hu(self, volumes_hu: NDArray[np.int16]) -> NDArray[np.int16]:
        """What of patches (n, 32, 32, 32) the network is shown: all, or the slab that it learnt."""
        slab = self.profile.training.central_slab_mm
        return central_slab(volumes_hu, slab) if slab else volumes_hu


def calibrated(p: NDArray[np.float64], line: tuple[float, float]) -> NDArray[np.float64]:
    """Probabilities rescaled on the logit; unchanged by slope 1 and intercept 0."""
    if line == (1.0, 0.0):
        return p
    slope, intercept = line
    rescaled: NDArray[np.float64] = 1 / (1 + np.exp(-(slope * logit(p) + intercept)))
    return rescaled


@dataclass(eq=False)
class Networks:
    """Where networks come from; each is loaded, or trained, when it is first asked for."""

    load: Callable[[int], Network]
    usable: Sequence[int]  # folds
    fold_of: Mapping[str, int]  # patients in whose fold they were held out
    default: int | None = None  # for other patients; None: the first usable fold
    max_spacing_mm: float = 2.5  # between the slices of the training scans
    max_shift_mm: float | None = None  # of training patches from the nodule's centre, if known
    nodules: Mapping[str, str] = field(default_factory=dict)  # of those patients, if known
    _loaded: dict[int, Network] = field(default_factory=dict)

    def fold_for(self, patient_id: str) -> int:
        """The fold to ask about a patient: the one that held them out, if it is available."""
        other = self.usable[0] if self.default is None else self.default
        held_out = self.fold_of.get(patient_id, other)
        return held_out if held_out in self.usable else other

    def get(self, fold: int) -> Network:
        """A fold's network."""
        if fold not in self._loaded:
            self._loaded[fold] = self.load(fold)
        return self._loaded[fold]


def in_training(patient_id: str, network: Network, networks: Networks) -> str:
    """Whether a network was trained on a patient: yes, no or unknown.

    Args:
        patient_id: as the networks call them, else of LIDC-IDRI; "" where neither is known.
        network: the one that is asked.
        networks: what it is of.
    """
    if patient_id in network.patients:
        return "yes"
    # A scan of LIDC-IDRI may be in a user's cohort under another name.
    sure = patient_id in networks.fold_of or network.source != OWN
    return "no" if patient_id and sure else "unknown"


def held_out_folds() -> dict[str, int]:
    """The fold in which each patient of LIDC-IDRI with a labelled nodule is held out."""
    folds = read_folds()
    return dict(zip(folds["patient_id"], folds["fold"].astype(int), strict=True))


def _patients_of_nodules() -> dict[str, str]:
    """The patient of each labelled nodule; `adopt` calls nodules by scan and id."""
    folds = read_folds()
    return dict(zip(folds["nodule_id"], folds["patient_id"], strict=True))


def networks_of_profile(
    profile_name: str = "quick",
    source: str = "phantom",
    fold: int | None = None,
    data: Path | None = None,
    report: Report = print,
) -> Networks:
    """Networks that are trained on the spot, and kept under `papermill_runs/`, out of git's sight.

    They are those of the run `<profile>-<source>`: where it was run here, its weights are taken.

    Args:
        profile_name: a file of `profiles/`.
        source: the training patches.
        fold: the only fold to use; None: as the scans need them.
        data: the CT data of the source; NODULEBOOK_DATA where None.
        report: gets one line per epoch.

    Raises:
        InputError: there is no such profile, source or fold.
    """
    values = {"profile": profile_name, "source": source, "fold": fold or 0}
    parameters = check_fold_parameters(values)
    profile = read_profile(profile_name)

    def load(k: int) -> Network:
        own = parameters.model_copy(update={"fold": k, "data": str(data or "")})
        here, _ = open_fold(own, profile)
        report(f"network of {parameters.run_name}, fold {k}: {len(here.train)} training nodules")
        model = trained_model(profile, here, own, report)
        patients = frozenset(here.train["patient_id"])
        return Network(model, profile, own.run_name, k, source, patients)

    folds = range(N_FOLDS) if fold is None else (fold,)
    return Networks(load, folds, held_out_folds(), nodules=_patients_of_nodules())


def networks_of_run(
    run: str,
    fold: int | None = None,
    data: Path | None = None,
    train_again: bool = False,
    report: Report = print,
) -> Networks:
    """The networks of a run of `papermill_runs/`, of the folds whose weights are on this machine.

    Args:
        run: the run's name.
        fold: the only fold to use; None: as the scans need them.
        data: the CT data of the run's source; NODULEBOOK_DATA where None.
        train_again: train the folds again whose weights are not here.
        report: gets one line per epoch.

    Raises:
        InputError: there is no such run, or no weights of it are here.
    """
    if run not in list_runs():
        raise InputError(f"run {run!r} is not one of {', '.join(list_runs()) or '(none)'}")
    wanted = range(N_FOLDS) if fold is None else (fold,)
    done = [k for k in wanted if paths.fold_folder(run, k).is_dir()]
    here = [k for k in done if (paths.fold_folder(run, k) / CHECKPOINT).is_file()]
    usable = done if train_again else here
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

    return Networks(load, usable, held_out_folds(), nodules=_patients_of_nodules())


Scans = Sequence[tuple[FoundScan, NDArray[np.int64]]]
"""Scans and the rows of their positions."""


def told_patient(name: str, scan: str, here: pd.DataFrame) -> str:
    """The patient whom the positions of a scan name; "" where none does.

    Args:
        name: the table, for the message.
        scan: the scan's name.
        here: its rows of the table.

    Raises:
        InputError: they name two.
    """
    if "patient_id" not in here:
        return ""
    named = here[here["patient_id"] != ""].drop_duplicates("patient_id")
    if len(named) > 1:
        (line, other), (one, two) = named["line"].iloc[:2], named["patient_id"].iloc[:2]
        raise InputError(
            f"{name}: line {other}: patient_id is {two!r}, but {one!r} in line {line} of the same "
            f"scan ({scan}); a scan is of one patient"
        )
    return str(named["patient_id"].iloc[0]) if len(named) else ""


def with_patients(
    name: str, table: pd.DataFrame, scans: Scans, folder: FoundFolder, networks: Networks
) -> list[tuple[FoundScan, NDArray[np.int64]]]:
    """The scans with their patient: as the networks call them, else of LIDC-IDRI, else "".

    Args:
        name: the table, for messages.
        table: the positions.
        scans: scans and the rows of their positions.
        folder: what they are of.
        networks: whose `fold_of` and `nodules` say which patients they know.

    Raises:
        InputError: the table names two patients of one scan.
    """
    told = {scan.name: told_patient(name, scan.name, table.loc[rows]) for scan, rows in scans}
    given = folder.given_patients if isinstance(folder, Folder) else {}
    lidc = {scan.name: scan.patient_id or _lidc_told(table.loc[rows]) for scan, rows in scans}
    filed = {one: lidc[one] or given.get(one, "") for one in told}
    filed = {one: "" if whose == TWO_PATIENTS else whose for one, whose in filed.items()}
    # `adopt` gives a scan without a patient to the one whose other scan's files say the same.
    shared: dict[str, set[str]] = {}
    for one, patient in told.items():
        if patient and filed[one]:
            shared.setdefault(filed[one], set()).add(patient)
    lookup = _Lookup.of(networks)
    known = []
    for scan, rows in scans:
        one, whose = scan.name, shared.get(filed[scan.name], set())
        patient = told[one] or (next(iter(whose)) if len(whose) == 1 else "")
        # What files of several patients of the table have in common names none of them.
        of_files = "" if len(whose) > 1 else given.get(one, "")
        ids = table.loc[rows, "id"].tolist()
        found = (
            lookup.called(name)
            for name in lookup.names(one, ids, lidc[one], patient, of_files)
            # Files that are of a patient of LIDC-IDRI are not of another one of them.
            if lidc[one] in ("", lidc_patient("", name)) or not lidc_patient("", name)
        )
        known.append((replace(scan, patient_id=next(filter(None, found), lidc[one])), rows))
    return known


def _lidc_told(here: pd.DataFrame) -> str:
    """The patient of LIDC-IDRI that a scan's rows of the table name."""
    named = ("id", "patient_id", "scan as given", "id as given")
    told = here[[column for column in named if column in here]]
    return lidc_patient("", *np.unique(told.to_numpy(str)))


@dataclass(frozen=True)
class _Lookup:
    """The patients that networks know, by what may name them."""

    patients: Mapping[str, int]
    spelt: Mapping[str, str]  # spelling -> patient; "" where two are spelt alike
    nodules: Mapping[str, str]  # "<scan> <id>" -> patient
    scans: Mapping[str, str]  # scan of a nodule -> patient; "" where that is not sure

    @staticmethod
    def of(networks: Networks) -> "_Lookup":
        spelt: dict[str, str] = {}
        for patient in networks.fold_of:
            spelt[spelling(patient)] = "" if spelling(patient) in spelt else patient
        scans: dict[str, str] = {}
        for nodule, patient in networks.nodules.items():
            # Names of scans may have blanks: each part before one may be the scan.
            for blank in re.finditer(" ", nodule):
                scan = nodule[: blank.start()]
                scans[scan] = patient if scans.get(scan, patient) == patient else ""
        return _Lookup(networks.fold_of, spelt, networks.nodules, scans)

    def names(
        self, scan: str, ids: Sequence[str], lidc: str, told: str, of_files: str
    ) -> Iterator[str]:
        """What a scan's patient may be called, the surest first."""
        if lidc in self.patients:
            yield lidc
        if told in self.patients:
            yield told
        yield from (self.nodules.get(f"{scan} {one}", "") for one in ids)
        yield from (self.scans.get(scan, ""), told, of_files)
        # Exactly: scan 1 of any folder is not patient 001.
        yield scan if scan in self.patients else ""

    def called(self, name: str) -> str:
        """The patient of a name, in whichever spelling; "" where there is none."""
        if not name or name in self.patients:
            return name
        return self.spelt.get(spelling(name), "")
