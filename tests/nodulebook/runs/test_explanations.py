"""explanations.csv and sanity.csv: what is written is read back, and what is wrong is named."""

import keras
import numpy as np
import pandas as pd
import pytest

from nodulebook.core.errors import InputError
from nodulebook.core.settings import NetworkSettings, Profile, TrainingSettings
from nodulebook.explain import measure
from nodulebook.explain.scores import (
    CENTRED_MEASURES,
    COLUMNS,
    METHODS,
    OF_THE_NETWORK,
    PLACEMENTS,
    SANITY_COLUMNS,
    Explanations,
)
from nodulebook.model.senet import senet
from nodulebook.model.targets import FoldData
from nodulebook.model.train import predict_malignant
from nodulebook.runs.contract import Fold, Run
from nodulebook.runs.map_scores import (
    EXPLANATIONS,
    SANITY,
    pooled_explanations,
    read_explanations,
    write_explanations,
)
from study.experiments import maps

NODULES = {"a": (0.9, 1), "b": (0.2, 1), "c": (0.4, 0)}  # p_malignant, label


def made_fold(names=tuple(NODULES)):
    rows = [(name, f"patient-{name}", NODULES[name][1], NODULES[name][0]) for name in names]
    table = pd.DataFrame(rows, columns=["nodule_id", "patient_id", "label", "p_malignant"])
    return Fold(table, pd.DataFrame(), {})


def made(names=tuple(NODULES)):
    rows = [
        {
            "nodule_id": name,
            "placement": placement,
            "method": method,
            "p_malignant": NODULES[name][0] if placement == "centred" else 0.7,
            "explained": int(NODULES[name][0] >= 0.5) if placement == "centred" else 1,
            "mask_mm3": 0 if name == "c" else 120,
            "empty": int(method == "grad_cam" and name == "b"),
        }
        for name in names
        for placement in PLACEMENTS
        for method in METHODS
    ]
    table = pd.DataFrame(rows)
    outlined, centred = table["mask_mm3"] > 0, table["placement"] == "centred"
    for column in ("pointing", "energy", "dice"):
        table[column] = np.where(outlined, 0.125, np.nan)
    table["error_mm"] = np.where(outlined & (table["empty"] == 0), 3.5, np.nan)
    for column in CENTRED_MEASURES:
        table[column] = np.where(centred, 0.75, np.nan)
    sanity = pd.DataFrame(
        [
            {"nodule_id": name, "check": "weights", "step": step}
            | dict.fromkeys(OF_THE_NETWORK, 0.25)
            for name in names
            for step in ("logits", "first")
        ]
    )
    sanity.loc[0, "grad_cam"] = np.nan
    return Explanations(table[list(COLUMNS)], sanity[list(SANITY_COLUMNS)])


def test_what_is_written_is_read_back(tmp_path):
    given = made()
    write_explanations(tmp_path, given, made_fold())
    back = read_explanations(tmp_path, made_fold())
    pd.testing.assert_frame_equal(back.measures, given.measures, check_dtype=False)
    pd.testing.assert_frame_equal(back.sanity, given.sanity, check_dtype=False)
    assert b"\r" not in (tmp_path / EXPLANATIONS).read_bytes()


def test_a_fold_without_them_is_valid_and_one_file_alone_is_not(tmp_path):
    assert read_explanations(tmp_path, made_fold()) is None
    write_explanations(tmp_path, made(), made_fold())
    (tmp_path / SANITY).unlink()
    with pytest.raises(InputError, match=rf"{SANITY}: there is no such file"):
        read_explanations(tmp_path, made_fold())


BREACHES = {
    "unknown method": (EXPLANATIONS, "gaussian", "magic", r"line 8: method is 'magic'.*grad_cam"),
    "no number": (EXPLANATIONS, "3.5", "3.5mm", "line 2: error_mm is '3.5mm'"),
    "another prediction": (EXPLANATIONS, ",0.9,", ",0.8,", "line 2: p_malignant is 0.8"),
    "the other class": (EXPLANATIONS, ",0.9,1,", ",0.9,0,", "line 2: explained is 0"),
    "no share": (EXPLANATIONS, ",0.125,0.125,", ",0.125,1.5,", "line 2: energy is 1.5"),
    "negative": (EXPLANATIONS, ",3.5,", ",-3.5,", "line 2: error_mm is -3.5"),
    "empty where due": (EXPLANATIONS, ",3.5,", ",,", "line 2: error_mm is nan, but a number"),
    "full where not due": (EXPLANATIONS, ",,,,\n", ",0.1,,,\n", "line 11: deletion is 0.1"),
    "no such step": (SANITY, "weights", "luck", "line 2: check is 'luck'"),
    "no correlation": (SANITY, "0.25", "1.25", "must be between -1 and 1"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_named_with_file_line_and_value(tmp_path, name):
    file, old, new, message = BREACHES[name]
    write_explanations(tmp_path, made(), made_fold())
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"{file}.*{message}"):
        read_explanations(tmp_path, made_fold())


def test_nodules_must_be_those_of_the_fold_each_complete(tmp_path):
    with pytest.raises(InputError, match="line 38: nodule_id is 'c', which is none"):
        write_explanations(tmp_path, made(), made_fold(("a", "b")))
    short = Explanations(made().measures.iloc[1:], made().sanity)
    with pytest.raises(InputError, match="nodule a has 17 rows, not 18"):
        write_explanations(tmp_path, short, made_fold())
    twice = Explanations(pd.concat([made().measures] * 2), made().sanity)
    with pytest.raises(InputError, match="placement and method twice"):
        write_explanations(tmp_path, twice, made_fold())
    missing = Explanations(made().measures.drop(columns="dice"), made().sanity)
    with pytest.raises(InputError, match="column dice is missing"):
        write_explanations(tmp_path, missing, made_fold())
    assert not list(tmp_path.iterdir())


def test_pooled_over_the_folds_that_have_them(tmp_path):
    folds = {0: made_fold(("a",)), 1: made_fold(("b",)), 2: made_fold(("c",))}
    pooled = pd.concat([fold.probabilities for fold in folds.values()], ignore_index=True)
    run = Run("r", folds, pooled, ())
    for k in folds:
        (tmp_path / "r" / f"fold-{k}").mkdir(parents=True)
    assert pooled_explanations(run, tmp_path) is None
    for k in (0, 2):
        names = tuple(folds[k].probabilities["nodule_id"])
        write_explanations(tmp_path / "r" / f"fold-{k}", made(names), folds[k])
    found, which = pooled_explanations(run, tmp_path)
    assert which == (0, 2)
    centred = found.measures[found.measures["placement"] == "centred"]
    assert centred.groupby("nodule_id")["right"].first().to_dict() == {"a": 1, "c": 1}
    assert set(found.measures["patient_id"]) == {"patient-a", "patient-c"}
    assert {"patient_id", "label"} <= set(found.sanity.columns)


@pytest.mark.parametrize("names", [["label"], ["malignancy", "weight", "margin"]])
def test_targets_are_permuted_as_one(names):
    train = pd.DataFrame({"nodule_id": [f"t{k}" for k in range(16)], "patient_id": "p", "fold": 1})
    for place, name in enumerate(names):
        train[name] = np.arange(16) + 100 * place
    volumes = np.zeros((18, 2, 2, 2), np.float32)
    data = FoldData(train, train[:2], volumes[:16], volumes[16:], [], "digest")
    made = maps.with_permuted_targets(data, 0)
    kept = ["nodule_id", "patient_id", "fold"]
    pd.testing.assert_frame_equal(made.train[kept], train[kept])
    first = made.train[names[0]].tolist()
    assert sorted(first) == list(range(16)) and first != list(range(16))
    for place, name in enumerate(names):
        assert made.train[name].tolist() == [value + 100 * place for value in first]
    assert data.train[names[0]].tolist() == list(range(16))
    assert made.digest != data.digest and made.train_volumes is data.train_volumes


def test_labels_are_permuted_for_the_training_and_nothing_else(tmp_path):
    settings = NetworkSettings(filters=[4, 4, 4, 4], modules=[1, 1, 1, 1], input_pooling=2)
    training = TrainingSettings(epochs=1, learning_rate=0.01, batch_size=8)
    profile = Profile(description="", network=settings, training=training)
    generator = np.random.default_rng(0)
    train = pd.DataFrame(
        {"nodule_id": [f"t{k}" for k in range(16)], "patient_id": "p", "label": [0, 1] * 8}
    )
    test = pd.DataFrame({"nodule_id": list("ab"), "patient_id": "q", "label": [0, 1]})
    volumes = generator.random((18, 32, 32, 32), dtype=np.float32)
    data = FoldData(train, test, volumes[:16], volumes[16:], [], "digest")
    model = senet(settings)
    own = [w.copy() for w in model.get_weights()]
    rows = maps.labels_check(model, profile, data, 0, tmp_path / "c.npz", lambda line: None)
    assert rows["nodule_id"].tolist() == ["a", "b"]
    assert set(rows["check"]) == {"labels"} and set(rows["step"]) == {"all"}
    assert train["label"].tolist() == [0, 1] * 8
    for now, old in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(now, old)
    values = rows[[name for name in SANITY_COLUMNS if name in METHODS]].to_numpy()
    assert np.nanmax(values) < 0.999  # another network, other maps


@pytest.mark.parametrize("views", [1, 16])
def test_a_network_is_explained_end_to_end(tmp_path, views):
    """Every method, every measure, of a small network with random weights on made patches."""
    keras.utils.set_random_seed(0)
    model = senet(NetworkSettings(filters=[4, 4, 4, 4], modules=[1, 1, 1, 1], input_pooling=2))
    last = model.get_layer("logits")
    last.set_weights([8 * w for w in last.get_weights()])
    own = [w.copy() for w in model.get_weights()]
    generator = np.random.default_rng(0)
    volumes = generator.random((3, 32, 32, 32), dtype=np.float32)
    volumes *= np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]  # views differ
    volumes *= np.linspace(0, 1, 32, dtype=np.float32)[:, None] ** 2
    masks = np.zeros(volumes.shape, bool)
    masks[:2, 14:18, 14:18, 14:18] = True  # the third has no outline
    given = measure.explain(
        model, list("abc"), volumes, masks, report=lambda line: None, views=views
    )
    for now, old in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(now, old)
    p = predict_malignant(model, volumes, views)  # what the fold's own file has
    table = pd.DataFrame(
        {"nodule_id": list("abc"), "patient_id": "p", "label": 1, "p_malignant": p}
    )
    write_explanations(tmp_path, given, Fold(table, pd.DataFrame(), {}))
    gaussian = given.measures[given.measures["method"] == "gaussian"].set_index(
        ["placement", "nodule_id"]
    )
    assert gaussian.loc[("centred", "a"), "pointing"] == 1
    assert gaussian.loc[("centred", "a"), "error_mm"] == 0
    assert gaussian.loc[("off-centre", "a"), "pointing"] == 0
    assert gaussian.loc[("off-centre", "a"), "error_mm"] == pytest.approx(8 * np.sqrt(3))
    # A map that knows no class keeps the same for both.
    blind = given.measures[given.measures["method"].isin(["gaussian", "image", "random"])]
    centred = blind[blind["placement"] == "centred"]
    assert (centred["kept_mm3"] == centred["kept_other_mm3"]).all()
    assert set(given.sanity["step"]) == {"logits", "stage4", "stage3", "stage2", "stage1", "first"}
