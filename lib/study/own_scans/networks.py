"""The networks that score a user's positions: those of the release, of a run, or trained here.

A scan of LIDC-IDRI is scored by the fold in which its patient was held out, so that no network is
asked about a patient that it was trained on unless there is no other. Any other scan is scored by
the mean of a release's networks, or by a run's first fold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import N_FOLDS, Profile, check_fold_parameters, read_profile
from nodulebook.data.folds import read_folds
from nodulebook.model.checkpoint import CHECKPOINT
from nodulebook.model.train import predict_malignant
from nodulebook.patches.cube import central_slab
from nodulebook.runs.contract import list_runs
from nodulebook.runs.network_fold import open_fold, trained_model
from nodulebook.runs.weights import Weights, put_weights
from nodulebook.stats.calibration import logit
from study.experiments.maps import fold_with_model

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
