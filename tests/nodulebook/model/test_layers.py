"""The layers of `nodulebook.model.layers` against Keras's own, and by hand."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import nodulebook.model.layers as ours
from nodulebook.model.layers import (
    AveragePool3D,
    BatchNorm,
    RowConv3D,
    ScaleChannels,
    VoxelMean,
    band,
)

SHAPE = (6, 4, 8, 4)


def _numpy(value):
    return keras.ops.convert_to_numpy(value)


def _volumes(shape=SHAPE, n=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def _same_weights(one, other, shape=SHAPE):
    """Both layers built, with the same made-up weights (positive: some are variances)."""
    generator = np.random.default_rng(1)
    for layer in (one, other):
        layer(_volumes(shape))
    values = [generator.random(w.shape) + 0.1 for w in one.get_weights()]
    one.set_weights(values)
    other.set_weights(values)


def test_band_by_hand():
    """Row of 4, kernel of 3, padded by one: output o takes inputs o - 1, o, o + 1."""
    joins = band(4, 3)
    np.testing.assert_array_equal(joins[1], np.eye(4))
    np.testing.assert_array_equal(joins[0], np.eye(4, k=1))
    np.testing.assert_array_equal(joins[2], np.eye(4, k=-1))


@pytest.mark.parametrize("form", ["rows", "plain"])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 2), (2, 2, 2, 3), (5, 7, 3, 1)])
def test_convolution_is_conv3d(size, shape, form, monkeypatch):
    monkeypatch.setattr(ours, "ROWS_BELOW", 10**9 if form == "rows" else 0)
    plain = layers.Conv3D(5, size, padding="same")
    rows = RowConv3D(5, size)
    assert rows.form(shape[2], shape[3]) == ("product" if size == 1 else form)
    _same_weights(plain, rows, shape)
    volumes = _volumes(shape)
    np.testing.assert_allclose(_numpy(rows(volumes)), _numpy(plain(volumes)), atol=2e-5)


def test_convolution_then_pooling_as_one():
    shape = (8, 8, 8, 2)
    plain = layers.Conv3D(3, 3, padding="same", use_bias=False)
    rows = RowConv3D(3, 3, pooled=2, use_bias=False)
    _same_weights(plain, rows, shape)
    volumes = _volumes(shape)
    wanted = layers.AveragePooling3D(2)(plain(volumes))
    assert rows.compute_output_shape((None, *shape)) == (None, 4, 4, 4, 3)
    np.testing.assert_allclose(_numpy(rows(volumes)), _numpy(wanted), atol=1e-5)


def test_groups_do_not_see_each_other():
    rows = RowConv3D(6, 3, groups=2)
    rows(_volumes())
    assert rows.kernel.shape == (3, 3, 3, 2, 6)
    parts = [layers.Conv3D(3, 3, padding="same", use_bias=False) for _ in range(2)]
    volumes = _volumes()
    for group, part in enumerate(parts):
        part(volumes[..., :2])
        part.set_weights([_numpy(rows.kernel)[..., 3 * group : 3 * group + 3]])
    wanted = np.concatenate(
        [_numpy(part(volumes[..., 2 * g : 2 * g + 2])) for g, part in enumerate(parts)], -1
    )
    np.testing.assert_allclose(_numpy(rows(volumes)), wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPE, (2, 2, 3, 8), (1, 1, 1, 3), (5,), (9,)])
@pytest.mark.parametrize("training", [False, True])
def test_normalisation_is_batch_normalization(shape, training):
    plain, fast = layers.BatchNormalization(momentum=0.7), BatchNorm(momentum=0.7)
    _same_weights(plain, fast, shape)
    volumes = 3 + 2 * _volumes(shape, n=8)
    for _ in range(2):
        wanted, got = plain(volumes, training=training), fast(volumes, training=training)
        np.testing.assert_allclose(_numpy(got), _numpy(wanted), atol=1e-4)
    for one, other in zip(plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4)


@pytest.mark.parametrize(("mean", "deviation"), [(1000, 0.1), (3, 0.01), (-50, 0.02)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("channels", [2, 8])
def test_nothing_cancels_where_the_mean_is_large(mean, deviation, compiled, channels):
    """Float32 has 7 digits: mean^2 and the mean square of such values agree in all of them."""
    noise = np.random.default_rng(0).normal(size=(24, 8, 8, 8, channels))
    values = (mean + deviation * noise).astype(np.float32)
    exact = values.astype(np.float64)
    centred = exact - exact.mean(axis=(0, 1, 2, 3))
    wanted = centred / np.sqrt((centred**2).mean(axis=(0, 1, 2, 3)) + 1e-9)
    layer = BatchNorm(epsilon=1e-9, momentum=0.0)
    if compiled:  # TensorFlow has another kernel for the same operation in a graph
        model = keras.Sequential([keras.Input(values.shape[1:]), layer])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.train_on_batch(values, values)
    else:
        out = _numpy(layer(values, training=True))
        assert np.abs(out - wanted).max() < 0.05
    got = _numpy(layer.moving_variance)
    np.testing.assert_allclose(got, (centred**2).mean(axis=(0, 1, 2, 3)), rtol=0.01)


@settings(max_examples=25, deadline=None)
@given(mean=st.floats(-30, 30), deviation=st.floats(0, 3), seed=st.integers(0, 99))
def test_normalised_values_are_finite_and_standard(mean, deviation, seed):
    generator = np.random.default_rng(seed)
    values = (mean + deviation * generator.normal(size=(4, 4, 4, 4, 2))).astype(np.float32)
    out = _numpy(BatchNorm(epsilon=1e-5)(values, training=True))
    assert np.isfinite(out).all()
    if deviation > 0.3:
        np.testing.assert_allclose(out.mean(axis=(0, 1, 2, 3)), 0, atol=5e-2)
        np.testing.assert_allclose(out.std(axis=(0, 1, 2, 3)), 1, atol=5e-2)


def test_means_and_pools_are_kerass():
    volumes = _volumes()
    for fast, plain in (
        (VoxelMean(), layers.GlobalAveragePooling3D()),
        (AveragePool3D(2), layers.AveragePooling3D(2)),
    ):
        np.testing.assert_allclose(_numpy(fast(volumes)), _numpy(plain(volumes)), atol=1e-6)


def test_scale_is_a_number_a_channel():
    scale = np.arange(12, dtype=np.float32).reshape(3, 4)
    out = _numpy(ScaleChannels()([_volumes(), scale]))
    np.testing.assert_array_equal(out, _volumes() * scale[:, None, None, None, :])


def test_gradients_are_those_of_the_plain_layers():
    """One SGD step of each from the same weights gives the same weights."""

    def step(convolve, normalise, pool, mean):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 4, 2))
        x = layers.ReLU()(normalise(convolve(inputs)))
        model = keras.Model(inputs, layers.Dense(2, activation="softmax")(mean(pool(x))))
        model.set_weights(
            [np.random.default_rng(5).random(w.shape) + 0.1 for w in model.get_weights()]
        )
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        model.train_on_batch(_volumes((4, 4, 4, 2), n=4), np.array([0, 1, 0, 1]))
        return model.get_weights()

    plain = step(
        layers.Conv3D(3, 3, padding="same"),
        layers.BatchNormalization(),
        layers.AveragePooling3D(2),
        layers.GlobalAveragePooling3D(),
    )
    fast = step(RowConv3D(3, 3), BatchNorm(), AveragePool3D(2), VoxelMean())
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_a_model_of_them_is_saved_and_read_again(tmp_path):
    inputs = keras.Input((8, 8, 8, 2))
    x = RowConv3D(4, 3, pooled=2, groups=2)(inputs)
    x = AveragePool3D(2)(BatchNorm()(x))
    out = ScaleChannels()([x, VoxelMean()(x)])
    model = keras.Model(inputs, out)
    model.save(tmp_path / "m.keras")
    volumes = _volumes((8, 8, 8, 2))
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(_numpy(again(volumes)), _numpy(model(volumes)))


@pytest.mark.parametrize(
    "options",
    [
        {"pooled": 3},
        {"kernel_size": 2},
        {"strides": 2},
        {"dilation_rate": 2},
        {"padding": "valid"},
        {"data_format": "channels_first"},
    ],
)
def test_what_the_convolution_does_not_compute_is_refused(options):
    with pytest.raises(ValueError, match="RowConv3D takes"):
        RowConv3D(**({"filters": 2, "kernel_size": 3} | options))


@pytest.mark.parametrize("options", [{"pool_size": 3}, {"strides": 1}, {"padding": "same"}])
def test_what_the_pooling_does_not_compute_is_refused(options):
    with pytest.raises(ValueError, match="AveragePool3D pools"):
        AveragePool3D(**options)
