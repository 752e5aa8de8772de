"""Every setting of a run, as pydantic models: unknown keys and wrong types are refused."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import read_yaml

N_FOLDS = 10
"""The paper's section 5: "10 subgroups"."""

MARGIN = 5
"""Voxels around a patch, in the axial plane, that a patch store keeps for random shifts."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class NetworkSettings(_Strict):
    """The SE network (paper 3.1.3, 3.1.6); what the paper leaves open is a field here."""

    filters: list[Annotated[int, Field(ge=4)]] = Field(min_length=4, max_length=4)
    """Channels C of the four stages."""
    modules: list[Annotated[int, Field(ge=1)]] = Field(min_length=4, max_length=4)
    """SE modules in each stage; the paper: 3, 4, 6, 3."""
    squeeze_excitation: bool = True
    squeeze: Literal["channel", "channel_depth"] = "channel"
    """channel_depth: a second SE block over the planes along z (the paper's reference 19)."""
    squeeze_activation: Literal["mish", "relu"] = "mish"
    """Inside the SE block: the paper's, or that of Hu et al. 2018."""
    reduction: int = Field(default=4, ge=1)
    """The squeeze C -> C / r; not given in the paper."""
    pool_after: list[Literal["first_convolution", "stage1", "stage2", "stage3"]] = [
        "stage1",
        "stage2",
        "stage3",
    ]
    """Where average pooling halves the maps; the paper's "four" may be these and the head's."""
    input_pooling: Literal[1, 2] = 1
    """2: the patch is pooled to 16 voxels of 2 mm first. Not in the paper; for small machines."""
    batch_norm_momentum: float = Field(default=0.9, gt=0, lt=1)
    block: Literal["residual", "plain", "basic"] = "residual"
    """basic: two 3^3 convolutions of C channels and the addition, without a bottleneck."""
    bottleneck: int = Field(default=4, ge=1)
    """A module's 3^3 convolution has C / bottleneck channels; basic blocks have none."""
    groups: int = Field(default=1, ge=1)
    """Groups (ResNeXt's cardinality) of the 3^3 convolution; at most its channels."""
    activation: Literal["relu", "mish"] = "relu"
    """Outside the SE path, which has Mish."""
    pool_before_norm: bool = False
    """After the first convolution pool, then normalise: together a convolution in steps of 2."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.pool_before_norm and "first_convolution" not in self.pool_after:
            raise ValueError("pool_before_norm needs first_convolution in pool_after")
        for channels in self.filters:
            inner = channels // (1 if self.block == "basic" else self.bottleneck)
            if inner < 1 or inner % min(self.groups, inner):
                raise ValueError(
                    f"{channels} filters / bottleneck {self.bottleneck} do not divide into "
                    f"{self.groups} groups"
                )
        return self

    @model_validator(mode="after")
    def _pools_in_order(self) -> Self:
        places = ["first_convolution", "stage1", "stage2", "stage3"]
        if [place for place in places if place in self.pool_after] != self.pool_after:
            raise ValueError(f"pool_after must name each place once, in the order {places}")
        return self


Rival = Literal[
    "alexnet3d", "resnet2d", "multicrop", "secnn", "densebtnet", "dualpath3d", "mobilenet2d"
]
"""The networks of `nodulebook.model.rivals`."""


class RivalSettings(_Strict):
    """Another work's network in place of ours: a function of `nodulebook.model.rivals`."""

    rival: Rival
    width: int = Field(ge=4)
    """Channels of the first convolution; the others are in the work's own proportion to it."""
    input_pooling: Literal[1, 2] = 1
    """As in `NetworkSettings`."""
    batch_norm_momentum: float = Field(default=0.9, gt=0, lt=1)
    slices: Literal["three_axes", "axial_mean", "axial_three"] = "three_axes"
    """resnet2d: the slices across z, y and x through the middle; or one image of axial planes,
    the mean of the middle four, or three channels, each the mean of two of the middle six."""
    stem_stride: Literal[1, 2] = 2
    """resnet2d: steps of the first convolution."""
    stages: int = Field(default=4, ge=1, le=4)
    """resnet2d: how many stages, each of twice the channels of the one before."""
    image_px: int = Field(default=65, ge=33, le=257)
    """mobilenet2d: the length to which the image is enlarged. One more than a multiple of 32 pads
    alike on both sides, as the network's pretrained weights expect it."""
    pretrained: Literal["no", "tuned", "frozen"] = "no"
    """mobilenet2d: start from ImageNet weights (`nodulebook.model.pretrained`), and train all of
    them (tuned) or only the classifier after them (frozen)."""

    @model_validator(mode="after")
    def _pretrained_exists(self) -> Self:
        if self.rival == "mobilenet2d" and self.slices == "three_axes":
            raise ValueError("mobilenet2d takes slices axial_mean or axial_three")
        if self.pretrained != "no" and (self.rival, self.width) != ("mobilenet2d", 32):
            raise ValueError("pretrained weights exist for rival mobilenet2d of width 32 alone")
        return self


def _kind_of_network(values: Any) -> str:
    rival = "rival" in values if isinstance(values, dict) else isinstance(values, RivalSettings)
    return "(rival)" if rival else "(own)"


_NETWORKS: dict[str, type[BaseModel]] = {"(own)": NetworkSettings, "(rival)": RivalSettings}
"""The settings of a network, by what pydantic calls them in its messages."""

Network = Annotated[
    Annotated[NetworkSettings, Tag("(own)")] | Annotated[RivalSettings, Tag("(rival)")],
    Discriminator(_kind_of_network),
]
"""The settings of a network: with a key `rival` another work's, else ours."""


class TrainingSettings(_Strict):
    """Optimisation and augmentation (paper 5.1)."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=24, ge=1)
    learning_rate: float = Field(gt=0)
    learning_rate_drops: list[Annotated[int, Field(ge=1)]] = []
    """After each of these epochs the learning rate falls to a tenth."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    flips: bool = True
    quarter_turns: bool = True
    """Random turns by multiples of 90 degrees in the axial plane."""
    shift_mm: int = Field(default=0, ge=0, le=MARGIN)
    """Move training patches in the axial plane, by whole voxels, as far as this."""
    shift_z_mm: int = Field(default=0, ge=0, le=8)
    """Move what the central slab shows along z, as far as this up or down."""
    hu_jitter: float = Field(default=0, ge=0)
    """Standard deviation, in HU, of a number that is added to all of a training patch."""
    central_slab_mm: int = Field(default=0, ge=0, le=32)
    """Show this much along z of every nodule, in training and test, and no more; 0: all there is.

    The slices source shows each nodule over the z range that its readers marked, which tells its
    size: this is the control."""
    loss: Literal["cross_entropy", "dynamic"] = "cross_entropy"
    """dynamic: each nodule's cross-entropy times (1 - p)^2, p the probability of its own class
    (the paper's reference 15, after Lin et al. 2017)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """adamw: Adam with weight_decay applied to the weights themselves; momentum is not used."""
    schedule: Literal["drops", "cosine"] = "drops"
    """cosine: up over the first epoch, then down to 0 along half a cosine, step by step."""
    lesions: Literal["labelled", "all"] = "labelled"
    """What is trained on: the labelled nodules, or every lesion that a reader marked, weighted by
    the number of readers. Tested are the labelled ones."""
    soft_labels: bool = False
    """Train on the mean rating, 1 to 5 as 0 to 1, instead of on its side of 3."""
    characteristics_weight: float = Field(default=0, ge=0)
    """Weight of a second task, the readers' characteristics and diameter; 0: no such task."""
    test_views: Literal[1, 16] = 1
    """Predictions to average for a test nodule: one, or one for each symmetry of the patch."""

    @property
    def margin(self) -> int:
        """Voxels that patches need beyond their 32 on each side, in the axial plane."""
        return MARGIN if self.shift_mm else 0

    @property
    def beyond_labels(self) -> bool:
        """Whether a lesion's target is more than its label 0 or 1."""
        return self.soft_labels or self.characteristics_weight > 0 or self.lesions == "all"

    @model_validator(mode="after")
    def _drops_rise(self) -> Self:
        if self.shift_z_mm and not 0 < self.central_slab_mm <= 32 - 2 * self.shift_z_mm:
            raise ValueError("shift_z_mm needs central_slab_mm, with room for the shift within 32")
        if self.learning_rate_drops and self.schedule != "drops":
            raise ValueError("learning_rate_drops go with schedule drops")
        if self.loss == "dynamic" and self.beyond_labels:
            raise ValueError(
                "loss dynamic goes with labels 0 and 1: not with soft_labels, lesions all or "
                "characteristics_weight"
            )
        if sorted(set(self.learning_rate_drops)) != self.learning_rate_drops:
            raise ValueError("learning_rate_drops must rise")
        return self


class Profile(_Strict):
    """One file of `profiles/`."""

    description: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    network: Network
    training: TrainingSettings

    def hash(self) -> str:
        """SHA-256 of the parsed values (not of the file's spelling), without the description.

        Values equal to their default are left out, so that a setting added later does not change
        the hash of older runs. A default, once released, therefore stays as it is.
        """
        values = self.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Entry(_Strict):
    """An experiment of a list: a profile (`extends`), and what it changes (`settings`)."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str = ""
    """What figures and tables call it; its name where empty."""
    question: str
    """What it is tried for, as the book's table says it."""
    settings: Profile


class FoldParameters(_Strict):
    """The papermill parameters of the training chapter."""

    fold: int = Field(default=0, ge=0, lt=N_FOLDS)
    profile: str = Field(default="quick", pattern=r"^[\w-]+$")
    source: Literal["phantom", "lidc_slices", "lidc_exact", "lidc_grey", "luna16", "idc", "own"] = (
        "phantom"
    )
    run: str = Field(default="", pattern=r"^[\w-]*$")
    data: str = ""
    explain: bool = True
    """Measure the maps of the test nodules once the fold is trained."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Instead of the profile's own."""

    @property
    def settings(self) -> Profile:
        """The profile, with the seed that was asked for; errors as `read_profile`."""
        profile = read_profile(self.profile)
        return profile if self.seed is None else profile.model_copy(update={"seed": self.seed})

    @property
    def run_name(self) -> str:
        """`run`; where it is empty `<profile>-<source>`, with `-seed<k>` for a seed of its own."""
        if self.run:
            return self.run
        name = f"{self.profile}-{self.source}"
        own = self.seed is None or self.seed == read_profile(self.profile).seed
        return name if own else f"{name}-seed{self.seed}"


_Model = TypeVar("_Model", bound=BaseModel)


def _validate(model: type[_Model], values: Any, where: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            named = [str(part) for part in problem["loc"] if part not in _NETWORKS]
            key = ".".join(named) or "(all)"
            if problem["type"] == "extra_forbidden":
                known = _fields_beside(model, problem["loc"])
                lines.append(f"{key}: unknown; known here: {', '.join(known)}")
            else:
                lines.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        raise InputError(f"{where}: " + "; ".join(lines)) from None


def _fields_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        if part in _NETWORKS:
            model = _NETWORKS[str(part)]
            continue
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def profile_names() -> list[str]:
    """The profiles there are, by name."""
    return sorted(path.stem for path in paths.PROFILES.glob("*.yaml"))


def read_profile(name: str) -> Profile:
    """Read and check `profiles/<name>.yaml`.

    `extends: other` takes the settings of another profile, which the file's own then replace.

    Raises:
        InputError: no such profile, not YAML, an unknown key, a wrong type or value.
    """
    return _validate(Profile, _profile_values(name, ()), str(paths.PROFILES / f"{name}.yaml"))


_Entry = TypeVar("_Entry", bound=Entry)


def read_entries(model: type[_Entry], path: Path) -> dict[str, _Entry]:
    """The entries of a file by name, in its order.

    Raises:
        InputError: the file is not a list of such entries, or has a wrong one or one twice.
    """
    kind = model.__name__.lower()
    values = read_yaml(path)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{path}: must be a list of {kind}s, each with name, question, ...")
    entries: dict[str, _Entry] = {}
    for number, value in enumerate(values, start=1):
        where = f"{path}: {kind} {number}"
        base = _profile_values(str(value.pop("extends", None)), ())
        value["settings"] = _merged(base, value.get("settings", {}))
        entry = _validate(model, value, where)
        if entry.name in entries:
            raise InputError(f"{where}: name {entry.name!r} is there twice")
        entries[entry.name] = entry
    return entries


def _profile_values(name: str, below: tuple[str, ...]) -> Any:
    """The values of a profile's file, over those of the profile that it extends."""
    path = paths.PROFILES / f"{name}.yaml"
    if name not in (known := profile_names()):
        if not known:
            raise InputError(
                f"{paths.PROFILES}: holds no profiles; run the command in a checkout of the "
                "project, or name the checkout with NODULEBOOK_ROOT"
            )
        raise InputError(f"profile {name!r} is not one of {', '.join(known)}")
    values = read_yaml(path)
    if not isinstance(values, dict) or "extends" not in values:
        return values
    base = values.pop("extends")
    if base not in profile_names() or base in (*below, name):
        raise InputError(
            f"{path}: extends: {base!r} is not another profile; known: {', '.join(profile_names())}"
        )
    return _merged(_profile_values(base, (*below, name)), values)


def _merged(base: Any, over: Any) -> Any:
    """`over` in place of `base`; of two mappings key by key, but a rival network replaces all."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    if "rival" in over and over["rival"] != base.get("rival"):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def check_fold_parameters(values: Mapping[str, Any]) -> FoldParameters:
    """Check the training chapter's parameters; InputError names those that are unknown or wrong."""
    return _validate(FoldParameters, dict(values), "parameters")


def notebook_parameters(namespace: Mapping[str, Any], before: set[str]) -> FoldParameters:
    """The parameters of a running notebook, those that papermill injected among them.

    papermill only warns of a parameter that the notebook does not know; here it is an error.
    `namespace` is the notebook's `globals()`, `before` its names before the cell `parameters`.

    Raises:
        InputError: as `check_fold_parameters`.
    """
    # A name with an underscore in front is IPython's own, or private to the chapter.
    new = {k: v for k, v in namespace.items() if k not in before and not k.startswith("_")}
    return check_fold_parameters(new)
