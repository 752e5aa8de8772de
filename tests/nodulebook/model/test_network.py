"""The SE block and network: what the paper's Figure and section 3.1 say, on small inputs."""

import ast
import re
from math import exp
from pathlib import Path

import keras
import numpy as np
import pytest

import nodulebook
from nodulebook.core.settings import NetworkSettings, read_profile
from nodulebook.model.layers import ScaleChannels
from nodulebook.model.senet import senet, squeeze_excite
from nodulebook.patches.cube import PATCH_SIZE

SMALL = {
    "filters": [4, 8, 8, 8],
    "modules": [1, 1, 1, 1],
    "input_pooling": 2,
    "pool_after": ["first_convolution", "stage1", "stage2"],
}
MISH_1 = 0.8650983882673103  # 1 * tanh(ln(1 + e))


def _small(weight_decay=0.0, **changes):
    return senet(NetworkSettings(**(SMALL | changes)), weight_decay)


def _patches(n=2, seed=0):
    shape = (n, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE, 1)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _numpy(value):
    return keras.ops.convert_to_numpy(value)


def _kernels(model, *kinds):
    return [layer.kernel for layer in model.layers if isinstance(layer, kinds)]


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return _small(modules=[1, 2, 1, 1])


@pytest.fixture(scope="module")
def committed():
    """The networks of the committed profiles."""
    return {
        name: (read_profile(name).network, senet(read_profile(name).network))
        for name in ("quick", "laptop", "paper")
    }


def test_se_block_by_hand():
    inputs = keras.Input((1, 1, 2, 2))
    model = keras.Model(inputs, squeeze_excite(inputs, 2))
    model.get_layer("se_reduce").set_weights([np.array([[-2.5], [1.0]]), np.array([0.5])])
    model.get_layer("se_excite").set_weights([np.array([[1.0, -1.0]]), np.array([0.0, 2.0])])
    u = np.array([[0, 2], [2, 4]], dtype=np.float32).reshape(1, 1, 1, 2, 2)
    # squeeze: (1, 3); reduce: -2.5 * 1 + 1 * 3 + 0.5 = 1, Mish; excite: two sigmoids
    gates = np.array([1 / (1 + exp(-MISH_1)), 1 / (1 + exp(MISH_1 - 2))])
    np.testing.assert_allclose(_numpy(model(u)), u * gates, rtol=1e-5)


def test_se_block_keeps_the_shape_and_weighs_whole_channels_between_0_and_1():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4, 5, 8))
    output = squeeze_excite(inputs, 4, "block")
    model = keras.Model(inputs, output)
    assert output.shape == (None, 3, 4, 5, 8)
    u = np.random.default_rng(0).normal(1, 3, (2, 3, 4, 5, 8)).astype(np.float32)
    gates = _numpy(model(u)) / u
    assert gates.min() > 0 and gates.max() < 1
    per_channel = gates.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(gates, np.broadcast_to(per_channel, gates.shape), rtol=1e-3)
    assert np.ptp(per_channel, axis=4).min() > 1e-3  # unlike channels, unlike patches
    assert np.ptp(per_channel, axis=0).max() > 1e-3


@pytest.mark.parametrize(("channels", "reduction", "units"), [(8, 4, 2), (8, 3, 2), (4, 16, 1)])
def test_reduction_rounds_down_to_at_least_one(channels, reduction, units):
    inputs = keras.Input((2, 2, 2, channels))
    model = keras.Model(inputs, squeeze_excite(inputs, reduction))
    assert model.get_layer("se_reduce").units == units
    assert model.get_layer("se_excite").units == channels


def test_reduction_of_the_settings_reaches_every_block():
    model = _small(reduction=2)
    units = {layer.units for layer in model.layers if layer.name.endswith("_se_reduce")}
    assert units == {2, 4}


def test_output_is_a_probability_of_each_class(small):
    out = _numpy(small(_patches(3)))
    assert out.shape == (3, 2)
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-6)
    assert (out > 0).all() and np.ptp(out[:, 0]) > 0
    logits = keras.Model(small.input, small.get_layer("logits").output)
    scores = np.exp(_numpy(logits(_patches(3))))
    np.testing.assert_allclose(out, scores / scores.sum(axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("name", "edge"), [("quick", 4), ("laptop", 4), ("paper", 2)])
def test_committed_networks_have_the_profiles_shape(committed, name, edge):
    settings, model = committed[name]
    assert model.input_shape == (None, 32, 32, 32, 1) and model.output_shape == (None, 2)
    last = model.get_layer("last_convolution").output.shape
    assert last == (None, edge, edge, edge, settings.filters[3])
    scales = [layer.name for layer in model.layers if isinstance(layer, ScaleChannels)]
    found = [sum(text.startswith(f"stage{stage}_") for text in scales) for stage in range(1, 5)]
    assert found == settings.modules
    for stage, channels in enumerate(settings.filters, start=1):
        assert model.get_layer(f"stage{stage}_module1_relu").output.shape[-1] == channels


def test_a_module_is_a_bottleneck(small):
    of_stage = {
        layer.name: (layer.filters, layer.kernel_size[0])
        for layer in small.layers
        if isinstance(layer, keras.layers.Conv3D) and layer.name.startswith("stage2_")
    }
    assert of_stage == {
        "stage2_module1a_conv": (2, 1),
        "stage2_module1b_conv": (2, 3),
        "stage2_module1c_conv": (8, 1),
        "stage2_module1_shortcut_conv": (8, 1),
        "stage2_module2a_conv": (2, 1),
        "stage2_module2b_conv": (2, 3),
        "stage2_module2c_conv": (8, 1),
    }


def test_se_block_comes_before_the_residual_addition():
    model = _small()
    name = "stage1_module1"
    excite = model.get_layer(f"{name}_se_excite")
    kernel, bias = excite.get_weights()
    excite.set_weights([0 * kernel, 0 * bias - 200])  # all gates closed
    both = keras.Model(
        model.input,
        [model.get_layer("first_convolution_pool").output, model.get_layer(f"{name}_relu").output],
    )
    before, after = (_numpy(value) for value in both(_patches()))
    assert before.max() > 0
    np.testing.assert_array_equal(before, after)


def test_without_squeeze_excitation_there_is_no_se_layer(small):
    plain = _small(modules=[1, 2, 1, 1], squeeze_excitation=False)
    assert any("_se_" in layer.name for layer in small.layers)
    assert not any("_se_" in layer.name for layer in plain.layers)
    per_module = [4 * 1 + 1 + 1 * 4 + 4] + 4 * [8 * 2 + 2 + 2 * 8 + 8]
    assert small.count_params() - plain.count_params() == sum(per_module)


@pytest.mark.parametrize(
    ("pooling", "pool_after", "edge"),
    [
        (1, [], 32),
        (1, ["stage2"], 16),
        (2, ["first_convolution", "stage1", "stage2", "stage3"], 1),
    ],
)
def test_each_pooling_halves_the_maps(pooling, pool_after, edge):
    model = _small(input_pooling=pooling, pool_after=pool_after)
    assert model.get_layer("last_convolution").output.shape[1:] == (edge, edge, edge, 8)
    pooled = [layer.name for layer in model.layers if layer.name.endswith("_pool")]
    wanted = [*(f"{place}_pool" for place in pool_after), "global_pool"]
    assert pooled == (["input_pool"] if pooling == 2 else []) + wanted
    if "stage3" in pool_after:  # pooled after the stage's last module, before the next one
        assert model.get_layer("stage3_module1_relu").output.shape[1] == 2 * edge


def test_input_pooling_is_the_mean_of_2_mm_cubes(small):
    patches = _patches()
    pooled = keras.Model(small.input, small.get_layer("input_pool").output)
    cubes = patches.reshape(2, 16, 2, 16, 2, 16, 2, 1)
    np.testing.assert_allclose(_numpy(pooled(patches)), cubes.mean(axis=(2, 4, 6)), rtol=1e-5)


def test_penalty_is_on_every_kernel():
    decay = 0.01
    model = _small(decay)
    kernels = [*_kernels(model, keras.layers.Conv3D), *_kernels(model, keras.layers.Dense)]
    assert len(kernels) == 1 + 4 * 3 + 1 + 4 * 2 + 1  # first, modules, shortcut, SE, logits
    wanted = decay / 2 * sum(float((_numpy(kernel) ** 2).sum()) for kernel in kernels)
    assert float(sum(_numpy(loss) for loss in model.losses)) == pytest.approx(wanted, rel=1e-5)


def test_penalty_on_sgd_is_weight_decay():
    """One SGD step from a zero data gradient shrinks a kernel by 1 - rate * decay."""
    model = _small(0.1)
    optimizer = keras.optimizers.SGD(0.5)
    model.compile(optimizer=optimizer, loss=lambda y, p: 0.0 * p[:, 0], run_eagerly=True)
    before = model.get_layer("first_conv").get_weights()[0]
    model.train_on_batch(_patches(), np.zeros(2))
    after = model.get_layer("first_conv").get_weights()[0]
    np.testing.assert_allclose(after, before * (1 - 0.5 * 0.1), rtol=1e-5)


def test_no_weight_decay_no_penalty(small):
    assert small.losses == []


def test_batch_norm_has_the_profiles_momentum():
    model = _small(batch_norm_momentum=0.7)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == len(_kernels(model, keras.layers.Conv3D))
    assert {norm.momentum for norm in norms} == {0.7}


def test_some_steps_lower_the_loss():
    keras.utils.set_random_seed(0)
    model = _small()
    label = np.array([0, 1, 0, 1])
    patches = 0.3 * _patches(4) + 0.5 * label[:, None, None, None, None].astype(np.float32)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", run_eagerly=True)
    losses = [float(model.train_on_batch(patches, label)) for _ in range(5)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_same_seed_gives_the_same_network_and_weights_can_be_moved():
    keras.utils.set_random_seed(1)
    one = _small()
    keras.utils.set_random_seed(1)
    same = _small()
    other = _small()
    patches = _patches()
    wanted = _numpy(one(patches))
    np.testing.assert_array_equal(_numpy(same(patches)), wanted)
    assert np.abs(_numpy(other(patches)) - wanted).max() > 1e-4
    other.set_weights(one.get_weights())
    np.testing.assert_array_equal(_numpy(other(patches)), wanted)


@pytest.mark.parametrize("module", ["senet.py", "augment.py"])
def test_no_backend_is_imported(module):
    tree = ast.parse(
        (Path(nodulebook.__file__).parent / "model" / module).read_text(encoding="utf-8")
    )
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    assert names
    assert not [name for name in names if re.match(r"(tensorflow|torch|jax)\b", name)]


def test_a_plain_module_adds_nothing():
    plain = _small(block="plain")
    assert not any(isinstance(layer, keras.layers.Add) for layer in plain.layers)
    assert not any("shortcut" in layer.name for layer in plain.layers)
    assert plain.output_shape == (None, 2)


def test_grouped_modules_have_a_share_of_the_weights():
    dense, grouped = (
        _small(filters=[8, 8, 8, 16], bottleneck=2, groups=groups, modules=[1, 1, 1, 1])
        for groups in (1, 4)
    )
    for stage, inner in ((1, 4), (4, 8)):
        name = f"stage{stage}_module1b_conv"
        assert dense.get_layer(name).kernel.shape == (3, 3, 3, inner, inner)
        assert grouped.get_layer(name).kernel.shape == (3, 3, 3, inner // 4, inner)


@pytest.mark.parametrize(
    "wrong", [{"bottleneck": 8}, {"groups": 3, "bottleneck": 2}, {"pool_before_norm": True}]
)
def test_options_that_do_not_fit_together_are_refused(wrong):
    values = {"filters": [4, 8, 8, 8], "modules": [1, 1, 1, 1], "pool_after": ["stage1"]}
    with pytest.raises(ValueError, match=r"pool_after|groups"):
        NetworkSettings(**(values | wrong))


def test_mish_everywhere_or_in_the_se_path_only():
    relu, mish = _small(), _small(activation="mish")

    def used(model):
        of = [x for x in model.layers if isinstance(x, keras.layers.Activation)]
        return {keras.activations.serialize(x.activation) for x in of} - {"linear"}

    assert used(relu) == {"relu"} and used(mish) == {"mish"}
    assert all(
        keras.activations.serialize(layer.activation) == "mish"
        for model in (relu, mish)
        for layer in model.layers
        if layer.name.endswith("_se_reduce")
    )


def test_pooling_before_normalisation_is_the_first_layers_order():
    model = _small(
        input_pooling=1, pool_after=["first_convolution", "stage1"], pool_before_norm=True
    )
    assert model.get_layer("first_conv").output.shape[1:] == (16, 16, 16, 4)
    assert not any(layer.name == "first_convolution_pool" for layer in model.layers)
