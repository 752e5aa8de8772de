"""Profiles and parameters: right ones are read, wrong ones are refused by name."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.settings import (
    NetworkSettings,
    Profile,
    TrainingSettings,
    check_fold_parameters,
    notebook_parameters,
    profile_names,
    read_profile,
)

VALUES = {
    "description": "small",
    "network": {
        "filters": [4, 4, 8, 8],
        "modules": [1, 1, 1, 1],
        "pool_after": ["first_convolution", "stage1"],
    },
    "training": {"epochs": 3, "learning_rate": 0.02},
}

OTHER = {
    "seed": 1,
    "network.filters": [4, 4, 8, 12],
    "network.modules": [1, 1, 1, 2],
    "network.squeeze_excitation": False,
    "network.squeeze": "channel_depth",
    "network.squeeze_activation": "relu",
    "network.reduction": 2,
    "network.pool_after": ["stage1"],
    "network.input_pooling": 2,
    "network.batch_norm_momentum": 0.99,
    "network.block": "plain",
    "network.bottleneck": 2,
    "network.groups": 2,
    "network.activation": "mish",
    "network.pool_before_norm": True,
    "training.epochs": 4,
    "training.batch_size": 8,
    "training.learning_rate": 0.01,
    "training.learning_rate_drops": [2],
    "training.momentum": 0.8,
    "training.weight_decay": 0.0,
    "training.flips": False,
    "training.quarter_turns": False,
    "training.central_slab_mm": 4,
    "training.shift_mm": 2,
    "training.shift_z_mm": 1,
    "training.hu_jitter": 10.0,
    "training.loss": "dynamic",
    "training.optimizer": "adamw",
    "training.schedule": "cosine",
    "training.lesions": "all",
    "training.soft_labels": True,
    "training.characteristics_weight": 1.0,
    "training.test_views": 16,
}
"""A valid value of every setting that is not the one in `VALUES`, nor the default."""


def _with(key, value):
    values = copy.deepcopy(VALUES)
    *parts, last = key.split(".")
    inner = values
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return values


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """An empty folder in place of `profiles/`; returns a function that writes and reads one."""
    monkeypatch.setattr(paths, "PROFILES", tmp_path)

    def read(values):
        text = values if isinstance(values, str) else yaml.safe_dump(values)
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return read_profile("mine")

    return read


def test_committed_profiles_are_valid():
    assert {"quick", "laptop", "paper"} <= set(profile_names())
    for name in profile_names():
        assert read_profile(name).description


def test_paper_profile_is_section_5_1():
    training = read_profile("paper").training
    assert (training.momentum, training.weight_decay, training.batch_size) == (0.9, 1e-4, 24)
    assert (training.epochs, training.learning_rate) == (150, 0.01)
    assert training.learning_rate_drops == [60, 120]
    assert read_profile("paper").network.modules == [3, 4, 6, 3]


@pytest.mark.parametrize(
    ("key", "beside", "elsewhere"),
    [
        ("sed", "seed", "epochs"),
        ("network.filtres", "filters", "epochs"),
        ("training.epoch", "epochs", "filters"),
    ],
)
def test_unknown_key_is_refused_with_the_known_ones(profiles, key, beside, elsewhere):
    with pytest.raises(InputError) as caught:
        profiles(_with(key, 1))
    text = str(caught.value)
    assert "mine.yaml" in text and f"{key}: unknown" in text
    known = text.split("known here: ")[1].split(", ")
    assert beside in known and elsewhere not in known


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", True),
        ("seed", "0"),
        ("seed", -1),
        ("seed", 2**31),
        ("training.epochs", "3"),
        ("training.epochs", True),
        ("training.epochs", 3.0),
        ("training.epochs", 0),
        ("training.batch_size", 0),
        ("training.learning_rate", True),
        ("training.learning_rate", 0),
        ("training.learning_rate", float("inf")),
        ("training.learning_rate", float("nan")),
        ("training.momentum", 1),
        ("training.weight_decay", -1e-4),
        ("training.weight_decay", float("inf")),
        ("training.flips", 1),
        ("training.flips", "true"),
        ("training.learning_rate_drops", [0]),
        ("network.filters", [4, 4, 8]),
        ("network.filters", [4, 4, 8, 3]),
        ("network.filters", [4, 4, 8, True]),
        ("network.filters", 4),
        ("network.modules", [1, 1, 1, 0]),
        ("network.pool_after", ["stage4"]),
        ("network.input_pooling", 3),
        ("network.reduction", 0),
        ("network.squeeze_excitation", "no"),
        ("network", None),
        ("description", 3),
    ],
)
def test_wrong_value_is_refused_by_key_and_file(profiles, key, value):
    with pytest.raises(InputError, match=r"mine\.yaml: " + key.replace(".", r"\.")):
        profiles(_with(key, value))


@pytest.mark.parametrize("drops", [[3, 2], [2, 2]])
def test_learning_rate_drops_must_rise(profiles, drops):
    with pytest.raises(InputError, match=r"mine\.yaml: training: .*learning_rate_drops must rise"):
        profiles(_with("training.learning_rate_drops", drops))


def test_missing_key_is_refused(profiles):
    with pytest.raises(InputError, match=r"mine\.yaml: training: Field required"):
        profiles({key: value for key, value in VALUES.items() if key != "training"})


@pytest.mark.parametrize("text", ["a: [1, 2", "a: 'b", "\tseed: 1", "\x00"])
def test_not_yaml_is_refused(profiles, text):
    with pytest.raises(InputError, match=r"mine\.yaml: not YAML"):
        profiles(text)


@pytest.mark.parametrize("text", ["", "- 1\n", "just words"])
def test_yaml_without_keys_is_refused(profiles, text):
    with pytest.raises(InputError, match=r"mine\.yaml: \(all\)"):
        profiles(text)


def test_not_utf8_is_refused(profiles):
    profiles(VALUES)
    (paths.PROFILES / "mine.yaml").write_bytes(b"description: \xff")
    with pytest.raises(InputError, match=r"mine\.yaml: not YAML"):
        read_profile("mine")


@pytest.mark.parametrize("name", ["none-such", "", "../profiles/quick", "quick.yaml"])
def test_missing_profile_names_those_there_are(name):
    with pytest.raises(InputError) as caught:
        read_profile(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in ("laptop", "paper", "quick"))


def test_hash_is_of_the_values_not_of_their_spelling(profiles):
    other = """
        # the same in other words
        training: {learning_rate: 2.0e-2, epochs: 3}
        network:
          modules:
            - 1
            - 1
            - 1
            - 1
          filters: [4, 4, 8, 0x8]
          pool_after: ["first_convolution", 'stage1']
        description: >-
          something else
    """
    assert profiles(other).hash() == profiles(VALUES).hash()


def test_other_values_cover_every_setting():
    fields = {
        "seed",
        *(f"network.{name}" for name in NetworkSettings.model_fields),
        *(f"training.{name}" for name in TrainingSettings.model_fields),
    }
    assert set(OTHER) == fields
    assert set(Profile.model_fields) == {"description", "seed", "network", "training"}


def test_hash_changes_with_every_setting(profiles):
    given = {key: _with(key, value) for key, value in OTHER.items()}
    given["training.shift_z_mm"]["training"]["central_slab_mm"] = 8  # which it goes with
    hashes = [profiles(values).hash() for values in given.values()]
    hashes.append(profiles(VALUES).hash())
    assert len(set(hashes)) == len(OTHER) + 1
    assert all(len(text) == 64 and int(text, 16) >= 0 for text in hashes)


def test_description_is_not_in_the_hash(profiles):
    assert profiles(_with("description", "other")).hash() == profiles(VALUES).hash()


def test_writing_defaults_out_keeps_the_hash(profiles):
    profile = profiles(VALUES)
    written = profile.model_dump(mode="json")
    assert "reduction" not in VALUES["network"] and "reduction" in written["network"]
    assert profiles(written).hash() == profile.hash()


def test_a_setting_added_later_keeps_the_hash(profiles):
    class Later(TrainingSettings):
        smoothing: float = 0.0

    class LaterProfile(Profile):
        training: Later

    assert LaterProfile.model_validate(VALUES).hash() == profiles(VALUES).hash()
    changed = _with("training.smoothing", 0.1)
    assert LaterProfile.model_validate(changed).hash() != profiles(VALUES).hash()


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        read_profile("quick").seed = 1


def test_fold_parameters_and_run_name():
    given = {"fold": 9, "profile": "quick", "source": "phantom", "run": "", "data": ""}
    assert check_fold_parameters(given).run_name == "quick-phantom"
    assert check_fold_parameters(given | {"run": "mine_2-b"}).run_name == "mine_2-b"
    own = read_profile("quick").seed
    assert check_fold_parameters(given | {"seed": own}).run_name == "quick-phantom"
    other = check_fold_parameters(given | {"seed": own + 7})
    assert other.run_name == f"quick-phantom-seed{own + 7}"
    assert other.settings.seed == own + 7
    assert other.settings.hash() != read_profile("quick").hash()
    assert check_fold_parameters({}).fold == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fold", -1),
        ("fold", 10),
        ("fold", "3"),
        ("fold", True),
        ("fold", 3.0),
        ("source", "ct"),
        ("source", None),
        ("run", "a/b"),
        ("run", ".."),
        ("run", "a b"),
        ("run", "a\n"),
        ("profile", "../quick"),
        ("profile", ""),
        ("data", Path("x")),
    ],
)
def test_wrong_parameter_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=rf"^parameters: {key}: .*got"):
        check_fold_parameters({key: value})


def test_unknown_source_names_those_there_are():
    with pytest.raises(InputError, match=r"'phantom', 'lidc_slices', .*'idc'"):
        check_fold_parameters({"source": "ct"})


def test_every_wrong_parameter_is_named_at_once():
    with pytest.raises(InputError, match=r"fold: .*; source: "):
        check_fold_parameters({"fold": 10, "source": "ct"})


def test_notebook_parameters_are_the_new_names():
    namespace = {"json": object(), "_before": {"json"}, "fold": 2, "_i1": "fold = 2", "__x": 1}
    assert notebook_parameters(namespace, {"json"}).fold == 2


def test_injected_unknown_parameter_is_refused():
    with pytest.raises(InputError, match=r"parameters: flod: unknown; known here: fold, profile"):
        notebook_parameters({"fold": 0, "flod": 3}, set())


def test_name_that_was_there_before_is_no_parameter():
    assert notebook_parameters({"fold": 99}, {"fold"}).fold == 0


def _write(folder, name, values):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def test_a_profile_extends_another(profiles, tmp_path):
    base = profiles(VALUES)
    _write(tmp_path, "arm", {"extends": "mine", "description": "x", "network": {"reduction": 2}})
    _write(tmp_path, "arm2", {"extends": "arm", "training": {"epochs": 9}})
    arm, arm2 = read_profile("arm"), read_profile("arm2")
    assert arm.network.reduction == 2 and arm.description == "x"
    assert arm.network.filters == base.network.filters and arm.training == base.training
    assert arm2.network == arm.network and arm2.training.epochs == 9
    assert profiles(_with("network.reduction", 2)).hash() == arm.hash()


def test_what_a_profile_cannot_extend(profiles, tmp_path):
    profiles(VALUES)
    _write(tmp_path, "a", {"extends": "b"})
    _write(tmp_path, "b", {"extends": "a"})
    _write(tmp_path, "c", {"extends": "nothing"})
    _write(tmp_path, "d", {"extends": ["mine"]})
    _write(tmp_path, "e", {"extends": "mine", "network": {"reductoin": 2}})
    for name, word in (("a", "extends"), ("c", "nothing"), ("d", "extends"), ("e", "reductoin")):
        with pytest.raises(InputError, match=word):
            read_profile(name)


def test_the_arms_differ_from_the_paper_profile_in_one_point():
    paper = read_profile("paper")
    for name, part, key, value in (
        ("paper-no-se", "network", "squeeze_excitation", False),
        ("paper-slab", "training", "central_slab_mm", 4),
    ):
        changed = getattr(paper, part).model_copy(update={key: value})
        assert read_profile(name).hash() == paper.model_copy(update={part: changed}).hash()


def test_installed_away_from_a_checkout_names_the_folder_and_the_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROFILES", tmp_path / "profiles")
    with pytest.raises(InputError) as refused:
        read_profile("quick")
    assert str(tmp_path / "profiles") in str(refused.value)
    assert "NODULEBOOK_ROOT" in str(refused.value)


@pytest.mark.parametrize("variable", ["NODULEBOOK_ROOT", "NODULEBOOK_COHORT", "NODULEBOOK_RUNS"])
def test_relative_folders_are_meant_from_where_they_were_typed(
    tmp_path: Path, variable: str
) -> None:
    """Although a notebook runs in `chapters/`."""
    (tmp_path / "work" / "mine").mkdir(parents=True)
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    env = os.environ | {variable: "mine", "PWD": str(tmp_path / "work")}
    code = "from nodulebook.core import paths as p; print(p.ROOT, p.OWN_COHORT, p.runs_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=chapters, env=env, capture_output=True, text=True
    )
    assert str(tmp_path / "work" / "mine") in done.stdout.split()
