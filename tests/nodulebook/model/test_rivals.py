"""The rivals of Table 4: their parts by hand, and that every one of them trains."""

import keras
import numpy as np
import pandas as pd
import pytest

from nodulebook.core import paths
from nodulebook.core.files import read_csv, read_json
from nodulebook.core.settings import (
    NetworkSettings,
    RivalSettings,
    TrainingSettings,
    profile_names,
    read_profile,
)
from nodulebook.model.layers import MaxPool3D
from nodulebook.model.losses import DynamicCrossEntropy
from nodulebook.model.rivals import BUILDERS, build_network, dense_tree, dualpath, slices_resnet
from nodulebook.model.rivals.crops import CentralSlices, CentreCrop3D
from nodulebook.model.rivals.dense_tree import tree_transition
from nodulebook.model.rivals.dualpath import DualPathJoin
from nodulebook.model.rivals.multi_crop import multi_crop_pool
from nodulebook.model.rivals.slices_resnet import JoinSlices
from nodulebook.model.senet import (
    CHARACTERISTICS,
    MALIGNANCY,
    senet,
    squeeze_excite,
    with_characteristics,
)
from nodulebook.model.train import build_model
from nodulebook.runs.contract import list_runs
from study.experiments.trials import read_trials
from study.features.deep import METHODS, count_parameters

ON_SLICES = {"resnet2d", "mobilenet2d"}


def _numpy(value):
    return keras.ops.convert_to_numpy(value)


def _cube(n, channels=1):
    """A cube whose voxel (z, y, x) has the value 100 z + 10 y + x in channel 0, and c more in c."""
    z, y, x = np.meshgrid(*[np.arange(n)] * 3, indexing="ij")
    first = (100 * z + 10 * y + x)[None, ..., None]
    return (first + 1000.0 * np.arange(channels)).astype(np.float32)


def _run(block, inputs):
    """A function of Keras tensors, on numbers."""
    symbols = [keras.Input(array.shape[1:]) for array in inputs]
    out = block(symbols if len(symbols) > 1 else symbols[0])
    return _numpy(keras.Model(symbols, out)(inputs))


def test_max_pool_is_that_of_keras():
    u = np.random.default_rng(0).normal(size=(2, 4, 6, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(_numpy(MaxPool3D()(u)), _numpy(keras.layers.MaxPooling3D(2)(u)))


def test_the_centre_crop_keeps_the_middle():
    out = _numpy(CentreCrop3D()(_cube(4)))
    assert out.shape == (1, 2, 2, 2, 1)
    assert out.ravel().tolist() == [111, 112, 121, 122, 211, 212, 221, 222]


def test_central_slices_are_across_z_y_and_x():
    both = np.concatenate([_cube(4), -_cube(4)])
    out = _numpy(CentralSlices()(both))
    assert out.shape == (6, 4, 4, 1)
    # Rows and columns of each: (y, x), (z, x), (z, y); element (1, 3).
    assert out[:, 1, 3, 0].tolist() == [213, 123, 132, -213, -123, -132]
    joined = _numpy(JoinSlices()(out[:, 1, 3]))
    assert joined.tolist() == [[213, 123, 132], [-213, -123, -132]]


def test_a_dual_path_adds_the_first_and_appends_the_rest():
    x = np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 1, 3)
    u = np.array([10, 20, 30, 40], np.float32).reshape(1, 1, 1, 1, 4)
    out = _numpy(DualPathJoin(2)([x, u]))
    assert out.ravel().tolist() == [11, 22, 3, 30, 40]


def test_multi_crop_pools_the_outer_regions_more_often():
    out = _run(multi_crop_pool, [_cube(8)])
    assert out.shape == (1, 2, 2, 2, 3)
    # The largest of the first eighth, of the first eighth of voxels 2 to 5, and voxel 3 itself.
    assert out[0, 0, 0, 0].tolist() == [333, 333, 333]
    assert out[0, 1, 1, 1].tolist() == [777, 555, 444]


def test_the_tree_branches_into_the_whole_and_the_middle():
    out = _run(lambda x: tree_transition(x, "t"), [_cube(4, 2)])
    assert out.shape == (1, 2, 2, 2, 4)
    # The mean of voxels 0 and 1 along each axis is 55.5; the crop begins at voxel 1.
    assert out[0, 0, 0, 0].tolist() == [55.5, 1055.5, 111, 1111]


@pytest.fixture(scope="module")
def small():
    """Every rival, narrow and shallow, with the loss and weights before and after one step."""
    generator = np.random.default_rng(0)
    patches = generator.random((4, 32, 32, 32, 1), dtype=np.float32)
    label = np.array([0, 1, 0, 1])
    out = {}
    for name in BUILDERS:
        keras.utils.set_random_seed(0)
        settings = RivalSettings(
            rival=name,
            width=16 if name == "secnn" else 4,  # or all hidden units of an SE block may be dead
            input_pooling=1 if name in ON_SLICES else 2,
            slices="axial_mean" if name == "mobilenet2d" else "three_axes",
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dualpath, "MODULES", (1, 2, 1, 1))
            patch.setattr(slices_resnet, "BLOCKS", (1, 1, 1, 1))
            patch.setattr(dense_tree, "BLOCKS", (2, 1, 1))
            model = build_network(settings, 1e-4)
        before = [_numpy(w) for w in model.trainable_weights]
        # Eager: one step is sooner done than compiled.
        model.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True
        )
        loss = model.train_on_batch(patches, label)
        out[name] = model, before, float(loss), _numpy(model(patches, training=False))
    return out


@pytest.mark.parametrize("name", BUILDERS)
def test_a_rival_has_the_shape_and_layers_of_a_classifier(name, small):
    model, _, _, p = small[name]
    assert model.name == name
    assert model.input_shape == (None, 32, 32, 32, 1)
    assert p.shape == (4, 2) and np.allclose(p.sum(axis=1), 1, atol=1e-6)
    assert model.get_layer("logits").output.shape == (None, 2)
    if name not in ON_SLICES:
        maps = model.get_layer("last_convolution").output.shape
        assert len(maps) == 5 and maps[1] == maps[2] == maps[3] >= 2


@pytest.mark.parametrize("name", BUILDERS)
def test_a_rival_takes_a_second_task_beside_the_first(name, small):
    model = small[name][0]
    two = with_characteristics(model, 5)
    patches = np.random.default_rng(1).random((2, 32, 32, 32, 1), dtype=np.float32)
    out = two(patches, training=False)
    assert out[CHARACTERISTICS].shape == (2, 5)
    np.testing.assert_array_equal(_numpy(out[MALIGNANCY]), _numpy(model(patches, training=False)))
    # Both are of the same numbers: a fully connected layer of the pooled maps.
    first, second = two.get_layer("logits"), two.get_layer(CHARACTERISTICS)
    assert first.input is second.input


@pytest.mark.parametrize("name", BUILDERS)
def test_one_step_reaches_every_weight(name, small):
    model, before, loss, _ = small[name]
    assert np.isfinite(loss) and 0 < loss < 20
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.isfinite(_numpy(weight)).all()
        assert not np.array_equal(_numpy(weight), old), weight.path


@pytest.mark.parametrize("name", BUILDERS)
def test_every_kernel_is_penalised(name, small):
    layers = [layer for layer in small[name][0].layers if hasattr(layer, "kernel")]
    assert layers and all(layer.kernel_regularizer is not None for layer in layers)
    expected = 0.5e-4 * sum(float((_numpy(layer.kernel) ** 2).sum()) for layer in layers)
    assert float(sum(small[name][0].losses)) == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_rival_and_step(small):
    keras.utils.set_random_seed(0)
    model = build_network(RivalSettings(rival="alexnet3d", width=4, input_pooling=2), 1e-4)
    first = small["alexnet3d"][1]
    for one, other in zip(model.trainable_weights, first, strict=True):
        np.testing.assert_array_equal(_numpy(one), other)
    generator = np.random.default_rng(0)
    patches = generator.random((4, 32, 32, 32, 1), dtype=np.float32)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    # With dropout: its random numbers come from the seed too.
    assert float(model.train_on_batch(patches, np.array([0, 1, 0, 1]))) == small["alexnet3d"][2]


def test_committed_runs_have_the_hash_of_their_profile():
    """A profile, once run, keeps its hash whatever settings are added."""
    seen = 0
    trials = {name: trial.settings for name, trial in read_trials().items()}
    for run in [*list_runs(paths.ROOT / "papermill_runs"), *(f"trials/{name}" for name in trials)]:
        for folder in (paths.ROOT / "papermill_runs" / run).glob("fold-*/"):
            record = read_json(folder / "run.json")
            name = record.get("profile_name")
            if name is None or record["arm"] not in ("senet", *BUILDERS):
                continue
            settings = trials[name] if run.startswith("trials/") else read_profile(name)
            settings = settings.model_copy(update={"seed": record["seed"]})
            assert record["profile_hash"] == settings.hash(), folder
            seen += 1
    assert seen >= 20


def _table() -> pd.DataFrame:
    columns = ("profile", "row", "citation", "parameters", "what_it_is", "what_differs")
    return read_csv(paths.DATA / "rivals.csv", dict.fromkeys(columns, "str"))


def test_the_table_of_rivals_has_every_profile_once():
    table = _table()
    assert table["profile"].is_unique
    profiles = {name for name in profile_names() if name.startswith("rival-")}
    assert not profiles & set(METHODS)
    assert set(table["profile"]) == profiles | set(METHODS)


def test_the_table_counts_the_parameters_of_each_rival():
    for row in _table().itertuples():
        assert int(row.parameters) == count_parameters(row.profile), row.profile
        if row.recipe_profile:
            assert int(row.recipe_parameters) == count_parameters(row.recipe_profile), row.profile


def test_under_the_best_recipe_only_the_network_differs_and_is_large_enough():
    recipe = read_profile("honest").training
    table = _table()
    named = table[table["recipe_profile"] != ""]
    profiles = {name for name in profile_names() if name.startswith("recipe-")}
    assert set(named["recipe_profile"]) == profiles | {"honest-slices"}
    for row in named.itertuples():
        large, small = read_profile(row.recipe_profile), read_profile(row.profile)
        assert large.training == recipe, row.recipe_profile
        assert large.network.rival == small.network.rival
        assert large.network.input_pooling == 1
    for name in profiles:
        assert int(named.set_index("recipe_profile")["recipe_parameters"][name]) >= 200_000


def test_the_citations_of_the_table_are_in_the_bibliography():
    text = (paths.ROOT / "references.bib").read_text()
    for key in _table()["citation"]:
        assert f"{{{key}," in text, key


def test_a_rival_has_the_budget_of_laptop_but_for_its_one_change():
    laptop = read_profile("laptop")
    for name in set(_table()["profile"]) - set(METHODS):
        profile = read_profile(name)
        same = profile.network == laptop.network or profile.training == laptop.training
        assert same and profile.hash() != laptop.hash(), name
        assert profile.training.epochs == laptop.training.epochs
        assert profile.seed == laptop.seed


def test_depth_squeeze_and_excitation_by_hand():
    u = np.array([[1, 3], [5, 7]], np.float32).reshape(1, 2, 1, 2, 1)  # planes of mean 2 and 6
    inputs = keras.Input(u.shape[1:])
    model = keras.Model(inputs, squeeze_excite(inputs, 2, "d", None, "relu", "planes"))
    model.get_layer("d_reduce").set_weights([np.array([[1.0], [0.5]]), np.array([-4.0])])
    model.get_layer("d_excite").set_weights([np.array([[0.0, 1.0]]), np.array([0.0, -1.0])])
    # Hidden: relu(2 + 3 - 4) = 1; gates: sigmoid(0) = 1/2 of plane 0, sigmoid(1 - 1) = 1/2 ...
    np.testing.assert_allclose(_numpy(model(u)).ravel(), [0.5, 1.5, 2.5, 3.5], rtol=1e-6)
    model.get_layer("d_excite").set_weights([np.array([[0.0, np.log(3)]]), np.zeros(2)])
    # ... and of plane 1 sigmoid(ln 3) = 3/4.
    np.testing.assert_allclose(_numpy(model(u)).ravel(), [0.5, 1.5, 3.75, 5.25], rtol=1e-6)


def test_the_double_se_has_a_gate_for_channels_and_one_for_planes():
    settings = read_profile("quick").network
    double = settings.model_copy(update={"squeeze": "channel_depth"})
    names = {layer.name for layer in senet(double).layers}
    own = {layer.name for layer in senet(settings).layers}
    new = names - own
    assert own < names and len(new) == 4 * 4
    assert all("_se_depth_" in name for name in new)


def test_basic_modules_have_two_convolutions_of_all_channels():
    settings = NetworkSettings(
        filters=[4, 8, 8, 8], modules=[1, 1, 1, 1], block="basic", input_pooling=2, bottleneck=3
    )
    model = senet(settings)
    shapes = [model.get_layer(f"stage2_module1{part}_conv").kernel.shape for part in "ab"]
    assert shapes == [(3, 3, 3, 4, 8), (3, 3, 3, 8, 8)]
    assert "stage2_module1c_conv" not in {layer.name for layer in model.layers}
    before = model.get_layer("stage2_module1_add").input
    assert any(tensor is model.get_layer("stage2_module1_se_scale").output for tensor in before)


def test_dynamic_scaling_by_hand():
    p = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [1.0, 0.0]], np.float32)
    label = np.array([1, 1, 1, 0])
    expected = [0.25 * np.log(2), 0.01 * -np.log(0.9), 0.81 * np.log(10), 0]
    each = _numpy(DynamicCrossEntropy(reduction=None)(label, p))
    np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-6)
    assert float(DynamicCrossEntropy()(label, p)) == pytest.approx(np.mean(expected), rel=1e-5)
    plain = _numpy(keras.losses.sparse_categorical_crossentropy(label, p))
    unscaled = _numpy(DynamicCrossEntropy(gamma=0.0, reduction=None)(label, p))
    np.testing.assert_allclose(unscaled, plain, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_profile_is_the_one_trained_with():
    profile = read_profile("rival-dynamic-loss")
    quick = read_profile("quick")
    model = build_model(profile.model_copy(update={"network": quick.network}))
    assert isinstance(model.loss, DynamicCrossEntropy)
    assert not isinstance(build_model(quick).loss, DynamicCrossEntropy)
    with pytest.raises(ValueError, match="loss dynamic goes with labels"):
        TrainingSettings(epochs=1, learning_rate=0.1, loss="dynamic", soft_labels=True)
