"""Grad-CAM++ gives the maps of its equations, whatever the number of axes."""

import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from nodulebook.core.errors import InputError
from nodulebook.core.settings import NetworkSettings
from nodulebook.explain.gradcam import (
    _plain,
    _plus_plus,
    deconvolution,
    feature_layer,
    grad_cam,
    grad_cam_plus_plus,
    guided_backpropagation,
    guided_grad_cam_plus_plus,
    resize_linear,
)
from nodulebook.model.senet import senet, with_characteristics

SHAPES = {"2D": (6, 4), "3D": (6, 4, 8)}


def _conv_model(spatial, channels=3, classes=2, seed=0, softmax=True, activation="relu"):
    """Convolution -> pooling by 2 -> "features" -> global average -> logits -> softmax."""
    keras.utils.set_random_seed(seed)
    three = len(spatial) == 3
    conv = layers.Conv3D if three else layers.Conv2D
    pool = layers.AveragePooling3D if three else layers.AveragePooling2D
    mean = layers.GlobalAveragePooling3D if three else layers.GlobalAveragePooling2D
    x = inputs = keras.Input((*spatial, 1))
    x = conv(channels, 3, padding="same", name="first", bias_initializer="random_normal")(x)
    x = layers.Activation(activation, name="act")(x)
    x = pool(2, name="pool")(x)
    x = conv(channels, 3, padding="same", activation=activation, name="features")(x)
    x = mean(name="mean")(x)
    x = layers.Dense(classes, name="logits")(x)
    if softmax:
        x = layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, x)


def _identity_model(spatial, weights, bias=0.0):
    """The features are the input itself, one channel a map: A is what the test puts in."""
    weights = np.asarray(weights, dtype=np.float32)
    channels = weights.shape[0]
    mean = layers.GlobalAveragePooling3D if len(spatial) == 3 else layers.GlobalAveragePooling2D
    x = inputs = keras.Input((*spatial, channels))
    x = layers.Activation("linear", name="features")(x)
    x = layers.Dense(weights.shape[1], name="logits")(mean()(x))
    model = keras.Model(inputs, layers.Softmax(name="probabilities")(x))
    model.get_layer("logits").set_weights([weights, np.full(weights.shape[1], bias)])
    return model


def _volumes(spatial, n=4, channels=1, seed=1):
    return np.random.default_rng(seed).random((n, *spatial, channels)).astype(np.float32)


@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
def test_hand_derived_case_of_global_average_and_linear_head(spatial):
    # S = sum_k w_k mean(A_k) + b, so g_k = w_k / N everywhere, alpha_k = 1 / (2 + g_k sum(A_k)),
    # and the weight of a channel is N alpha_k relu(g_k).
    head = np.array([[2.0, -1.0], [-3.0, 4.0], [0.5, 0.25]])
    a = _volumes(spatial, n=3, channels=3)
    size = np.prod(spatial)
    for label in (0, 1):
        g = head[:, label] / size
        total = a.reshape(3, -1, 3).sum(axis=1)
        alpha = 1 / (2 + g * total)
        weight = size * alpha * np.maximum(g, 0)
        expected = (a * weight.reshape(3, *(1,) * len(spatial), 3)).sum(axis=-1)
        expected /= expected.reshape(3, -1).max(axis=1).reshape(3, *(1,) * len(spatial))
        maps = grad_cam_plus_plus(_identity_model(spatial, head), a, label, "features")
        assert maps.shape == (3, *spatial)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_one_case_in_numbers():
    # Two voxels, two channels: A_1 = (1, 3), A_2 = (2, 0), g_1 = 1, g_2 = 2 everywhere.
    a = np.array([[[1.0, 2.0], [3.0, 0.0]]])
    g = np.array([[[1.0, 2.0], [1.0, 2.0]]])
    # alpha_1 = 1 / (2 + 4) = 1/6, w_1 = 2/6; alpha_2 = 1 / (2 + 2 * 2) = 1/6, w_2 = 2 * 2/6.
    np.testing.assert_allclose(_plus_plus(a, g), [[1 / 3 * 1 + 2 / 3 * 2, 1 / 3 * 3]], rtol=1e-12)
    np.testing.assert_allclose(_plain(a, g), [[1 * 1 + 2 * 2, 3 * 1]], rtol=1e-12)


def test_weights_where_the_gradient_differs_from_voxel_to_voxel():
    # One channel, A = (1, 3), g = (1, -2): alpha_1 = 1 / (2 + 4) and voxel 2 has relu(g) = 0, so
    # w = 1/6; Grad-CAM's weight is the mean, -1/2.
    a, g = np.array([[[1.0], [3.0]]]), np.array([[[1.0], [-2.0]]])
    np.testing.assert_allclose(_plus_plus(a, g), [[1 / 6, 3 / 6]], rtol=1e-12)
    np.testing.assert_array_equal(_plain(a, g), [[0, 0]])
    np.testing.assert_allclose(_plain(a, -g), [[0.5, 1.5]], rtol=1e-12)


def test_grad_cam_weights_are_mean_gradients():
    head = np.array([[2.0], [-1.0]])
    a = _volumes((4, 4), n=2, channels=2)
    expected = np.maximum(2 * a[..., 0] - a[..., 1], 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    maps = grad_cam(_identity_model((4, 4), head), a, 0, "features")
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def _alpha_by_differentiation(score, a):
    """Eq 19 with exact second and third derivatives of exp(S) to every single element of A."""
    flat = a.reshape(-1)
    step = tf.Variable(tf.zeros(len(flat), tf.float64))
    with tf.GradientTape() as third, tf.GradientTape() as second, tf.GradientTape() as first:
        # Row i is A with step[i] added to its element i: derivatives to step[i] stay apart.
        moved = tf.reshape(flat[None] + tf.linalg.diag(step), (-1, *a.shape))
        y = tf.reduce_sum(tf.exp(score(moved)))
        d1 = first.gradient(y, step)
        d2 = second.gradient(d1, step)
    d3 = third.gradient(d2, step)
    d1, d2, d3 = (d.numpy().reshape(a.shape) for d in (d1, d2, d3))
    total = a.reshape(-1, a.shape[-1]).sum(axis=0)
    return d1, d2 / (2 * d2 + total * d3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 2, 3)], ids=SHAPES)
def test_closed_form_is_that_of_automatic_differentiation(shape, seed):
    """For a head that is linear in A and differs from voxel to voxel."""
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    head = rng.normal(size=shape)
    d1, alpha = _alpha_by_differentiation(
        lambda moved: tf.reduce_sum(moved * head, axis=range(1, len(shape) + 1)), a
    )
    channels = shape[-1]
    weight = (alpha * np.maximum(d1, 0)).reshape(-1, channels).sum(axis=0)
    expected = np.maximum((a * weight).sum(axis=-1), 0)
    got = _plus_plus(a.reshape(1, -1, channels), head.reshape(1, -1, channels))[0].reshape(
        shape[:-1]
    )
    # exp(S) is a factor of d1, and so of the map; scaling takes it out.
    np.testing.assert_allclose(got / got.max(), expected / expected.max(), atol=1e-5)
    np.testing.assert_allclose(got * np.exp((a * head).sum()), expected, rtol=1e-5, atol=1e-12)


def test_closed_form_through_a_model_with_a_relu_head():
    """Piecewise linear after the layer: the whole function against nested tapes."""
    model = _conv_model((4, 4), channels=2, seed=3)
    volumes = _volumes((4, 4), n=1)
    features = keras.Model(model.inputs[0], model.get_layer("act").output)
    a = features(volumes).numpy()[0].astype(np.float64)
    kernel, bias = (w.astype(np.float64) for w in model.get_layer("features").get_weights())
    dense, _ = (w.astype(np.float64) for w in model.get_layer("logits").get_weights())

    def score(moved):
        pooled = tf.nn.avg_pool2d(moved, 2, 2, "VALID")
        x = tf.nn.relu(tf.nn.conv2d(pooled, kernel, 1, "SAME") + bias)
        return tf.reduce_mean(x, axis=(1, 2)) @ dense[:, :1]

    d1, alpha = _alpha_by_differentiation(score, a)
    alpha = np.where(d1 > 0, alpha, 0)
    weight = (alpha * np.maximum(d1, 0)).sum(axis=(0, 1))
    expected = np.maximum((a * weight).sum(axis=-1), 0)
    got = grad_cam_plus_plus(model, volumes, 0, "act")[0]
    assert expected.max() > 0
    np.testing.assert_allclose(got, expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_closed_form_on_random_networks_in_3d(seed):
    """Average pooling, 3^3 convolution, ReLU, fully connected: A, and maps from the public call."""
    model = _conv_model((4, 4, 4), channels=2, seed=seed)
    volumes = _volumes((4, 4, 4), n=1, seed=seed)
    features = keras.Model(model.inputs[0], model.get_layer("act").output)
    a = features(volumes).numpy()[0].astype(np.float64)
    kernel, bias = (w.astype(np.float64) for w in model.get_layer("features").get_weights())
    dense, _ = (w.astype(np.float64) for w in model.get_layer("logits").get_weights())

    def score(moved):
        corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        pooled = sum(moved[:, i::2, j::2, k::2] for i, j, k in corners) / 8
        x = tf.nn.relu(tf.nn.conv3d(pooled, kernel, [1] * 5, "SAME") + bias)
        return tf.reduce_mean(x, axis=(1, 2, 3)) @ dense

    maps = [grad_cam_plus_plus(model, volumes, label, "act")[0] for label in (0, 1)]
    assert max(one.max() for one in maps) == 1
    for label, got in enumerate(maps):
        d1, alpha = _alpha_by_differentiation(lambda moved, c=label: score(moved)[:, c], a)
        weight = (np.where(d1 > 0, alpha, 0) * np.maximum(d1, 0)).sum(axis=(0, 1, 2))
        expected = np.maximum((a * weight).sum(axis=-1), 0)
        np.testing.assert_allclose(got, expected / (expected.max() or 1), atol=1e-5)


@pytest.mark.parametrize("method", [grad_cam, grad_cam_plus_plus])
@pytest.mark.parametrize("head", [[0.0, 0.0], [-1.0, -2.0]], ids=["zero", "negative"])
def test_no_support_is_a_zero_map_and_never_nan(method, head):
    model = _identity_model((3, 4, 2), np.array(head)[:, None])
    maps = method(model, _volumes((3, 4, 2), channels=2), 0, "features")
    assert (maps == 0).all()


def test_zero_denominator_and_tiny_gradients_are_not_nan():
    a = np.array([[[-3.0], [1.0]]])
    assert (_plus_plus(a, np.ones((1, 2, 1))) == 0).all()  # 2 + 1 * (-2) = 0
    tiny = _plus_plus(np.ones((1, 2, 1)), np.full((1, 2, 1), 1e-200))
    np.testing.assert_allclose(tiny, 1e-200)


def test_supported_and_unsupported_volumes_in_one_batch():
    model = _identity_model((2, 2), [[1.0]])
    volumes = np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))])
    maps = grad_cam_plus_plus(model, volumes, 0, "features")
    assert maps.max(axis=(1, 2)).tolist() == [0, 1]


@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
def test_maps_are_scaled_to_one_and_follow_each_volume_alone(spatial):
    model = _conv_model(spatial)
    volumes = _volumes(spatial, n=5)
    together = grad_cam_plus_plus(model, volumes, 1)
    assert together.shape == (5, *spatial)
    assert (together >= 0).all()
    assert set(together.reshape(5, -1).max(axis=1)) <= {0.0, 1.0}
    assert together.max() == 1
    np.testing.assert_allclose(
        grad_cam_plus_plus(model, volumes, 1, batch_size=2), together, atol=1e-5
    )
    np.testing.assert_allclose(
        grad_cam_plus_plus(model, volumes[3:4], 1)[0], together[3], atol=1e-5
    )


def test_a_class_for_each_volume():
    model = _conv_model((6, 4, 8), seed=1)
    volumes = _volumes((6, 4, 8), n=3)
    each = grad_cam_plus_plus(model, volumes, np.array([1, 0, 0]), batch_size=2)
    for row, label in enumerate((1, 0, 0)):
        alone = grad_cam_plus_plus(model, volumes[row : row + 1], label)[0]
        np.testing.assert_allclose(each[row], alone, atol=1e-5)
    assert grad_cam_plus_plus(model, volumes[:0], 0).shape == (0, 6, 4, 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipping_the_volume_and_the_kernels_flips_the_map(axis):
    model = _conv_model((6, 4, 8), seed=2)
    flipped = _conv_model((6, 4, 8), seed=2)
    for name in ("first", "features"):
        kernel, bias = model.get_layer(name).get_weights()
        flipped.get_layer(name).set_weights([np.flip(kernel, axis), bias])
    volumes = _volumes((6, 4, 8))
    maps = grad_cam_plus_plus(model, volumes, 0)
    mirrored = grad_cam_plus_plus(flipped, np.flip(volumes, axis + 1), 0)
    assert np.abs(maps - np.flip(maps, axis + 1)).max() > 0.05  # no symmetric map by chance
    np.testing.assert_allclose(mirrored, np.flip(maps, axis + 1), atol=1e-5)


@pytest.mark.parametrize("method", [grad_cam, grad_cam_plus_plus])
def test_the_order_of_channels_does_not_matter(method):
    model, shuffled = (_conv_model((6, 4, 8), channels=5, seed=4) for _ in range(2))
    order = np.random.default_rng(0).permutation(5)
    kernel, bias = model.get_layer("features").get_weights()
    shuffled.get_layer("features").set_weights([kernel[..., order], bias[order]])
    dense, bias = model.get_layer("logits").get_weights()
    shuffled.get_layer("logits").set_weights([dense[order], bias])
    volumes = _volumes((6, 4, 8))
    expected = method(model, volumes, 0)
    assert expected.max() == 1
    np.testing.assert_allclose(method(shuffled, volumes, 0), expected, atol=1e-5)


def test_the_order_of_the_input_s_channels_does_not_matter():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 4, 3))
    x = layers.Conv3D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling3D()(x))
    model = keras.Model(inputs, x)
    volumes, order = _volumes((4, 4, 4), channels=3), [2, 0, 1]
    methods = (grad_cam, grad_cam_plus_plus, guided_backpropagation, deconvolution)
    expected = [method(model, volumes, 0) for method in methods]
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel[:, :, :, order], bias])
    for method, wanted in zip(methods, expected, strict=True):
        np.testing.assert_allclose(method(model, volumes[..., order], 0), wanted, atol=1e-5)


def _voxelwise_model(activation, layer=None):
    """S_0 = mean over voxels of sum_k d_k f(w_k v + b_k): gradients are found by hand."""
    x = inputs = keras.Input((2, 2, 2, 1))
    x = layers.Conv3D(3, 1, name="conv")(x)
    x = (layer or layers.Activation(activation))(x)
    x = layers.Dense(1, use_bias=False, name="logits")(layers.GlobalAveragePooling3D()(x))
    model = keras.Model(inputs, x)
    w, b, d = np.array([1.0, -1.0, 2.0]), np.array([-0.5, 0.4, 0.1]), np.array([3.0, 1.0, -2.0])
    model.get_layer("conv").set_weights([w.reshape(1, 1, 1, 1, 3), b])
    model.get_layer("logits").set_weights([d[:, None]])
    return model, w, b, d


def _one(maps):
    return maps / maps.max(axis=(1, 2, 3), keepdims=True)


@pytest.mark.parametrize("kind", ["relu", "layer", "mish"])
def test_guided_backpropagation_and_deconvolution_by_hand(kind):
    layer = layers.ReLU() if kind == "layer" else None
    model, w, b, d = _voxelwise_model(kind, layer)
    volumes = _volumes((2, 2, 2), n=3)
    u = volumes * w + b
    sigmoid, soft = 1 / (1 + np.exp(-u)), np.tanh(np.log1p(np.exp(u)))
    slope = soft + u * sigmoid * (1 - soft**2) if kind == "mish" else np.ones_like(u)
    guided = (w * d.clip(min=0) * slope * (u > 0)).sum(axis=-1).clip(min=0)
    np.testing.assert_allclose(guided_backpropagation(model, volumes, 0), _one(guided), atol=1e-5)
    blind = np.full((3, 2, 2, 2), (w * d.clip(min=0)).sum().clip(min=0))
    np.testing.assert_allclose(deconvolution(model, volumes, 0), _one(blind), atol=1e-6)


def test_gates_are_taken_out_again():
    model, *_ = _voxelwise_model("relu")
    before = [getattr(layer, "activation", None) for layer in model.layers]
    guided_backpropagation(model, _volumes((2, 2, 2)), 0)
    assert [getattr(layer, "activation", None) for layer in model.layers] == before


def test_without_a_rectifier_all_three_are_the_gradient():
    model, w, _, d = _voxelwise_model("linear")
    assert (w * d).sum() < 0  # so the positive part of the gradient is nothing
    for method in (guided_backpropagation, deconvolution):
        assert (method(model, _volumes((2, 2, 2)), 0) == 0).all()


def test_guided_grad_cam_plus_plus_is_the_product():
    model = _conv_model((6, 4, 8), seed=9)
    volumes = _volumes((6, 4, 8))
    product = grad_cam_plus_plus(model, volumes, 1) * guided_backpropagation(model, volumes, 1)
    maps = guided_grad_cam_plus_plus(model, volumes, 1)
    assert maps.max() == 1
    np.testing.assert_allclose(
        maps, product / product.max(axis=(1, 2, 3), keepdims=True).clip(min=1e-9), atol=1e-6
    )


def test_every_method_reads_the_weights_of_now():
    """Compiled functions are kept, the weights in them are not."""
    model = _conv_model((6, 4, 8), seed=10)
    other = _conv_model((6, 4, 8), seed=11)
    volumes = _volumes((6, 4, 8))
    for method in (grad_cam, grad_cam_plus_plus, guided_backpropagation, deconvolution):
        model.set_weights(_conv_model((6, 4, 8), seed=10).get_weights())
        before = method(model, volumes, 1)
        model.set_weights(other.get_weights())
        after = method(model, volumes, 1)
        np.testing.assert_allclose(after, method(other, volumes, 1), atol=1e-6)
        assert np.abs(after - before).max() > 0.01


def test_the_book_s_network_is_explained_by_every_method_at_any_stage():
    settings = NetworkSettings(filters=[4, 4, 8, 8], modules=[1, 1, 1, 1], input_pooling=2)
    model = senet(settings)
    volumes = _volumes((32, 32, 32), n=2)
    for method in (guided_backpropagation, deconvolution):
        maps = method(model, volumes, [0, 1])
        assert maps.shape == (2, 32, 32, 32)
    assert feature_layer(model) == "last_convolution"
    assert feature_layer(model, 8) == "stage2_module1_relu"
    for layer in ("stage1_module1_relu", feature_layer(model, 8)):
        assert grad_cam_plus_plus(model, volumes, 1, layer).max() <= 1
    with pytest.raises(InputError, match="99 voxels"):
        feature_layer(model, 99)


def test_resizing_keeps_voxel_centres():
    # Fine centres at -1/4, 1/4, 3/4, 5/4 of the coarse grid; the ends are held.
    np.testing.assert_allclose(resize_linear(np.array([0.0, 1.0]), (4,)), [0, 0.25, 0.75, 1])
    # Ratio 3: centres at -1/3, 0, 1/3, 2/3, 1, 4/3.
    np.testing.assert_allclose(resize_linear(np.array([0.0, 3.0]), (6,)), [0, 0, 1, 2, 3, 3])
    np.testing.assert_allclose(resize_linear(np.array([2.0]), (5,)), [2] * 5)
    z, y, x = np.random.default_rng(0).random((3, 3))
    product = z[:, None, None] * y[:, None] * x
    expected = (
        resize_linear(z, (9,))[:, None, None]
        * resize_linear(y, (6,))[:, None]
        * resize_linear(x, (7,))
    )
    np.testing.assert_allclose(resize_linear(product, (9, 6, 7)), expected, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_resizing_to_32_is_symmetric(size):
    values = np.random.default_rng(size).random((size,) * 3)
    fine = resize_linear(values, (32,) * 3)
    assert fine.shape == (32,) * 3
    np.testing.assert_allclose(resize_linear(values[::-1, :, ::-1], (32,) * 3), fine[::-1, :, ::-1])


def test_the_map_is_where_the_object_is():
    model = _conv_model((8, 8, 8), channels=1)
    for name in ("first", "features"):
        kernel = np.zeros((3, 3, 3, 1, 1))
        kernel[1, 1, 1] = 1
        model.get_layer(name).set_weights([kernel, np.zeros(1)])
    model.get_layer("logits").set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
    volume = np.zeros((1, 8, 8, 8, 1))
    volume[0, 4:6, 0:2, 6:8] = 1
    maps = grad_cam_plus_plus(model, volume, 1)[0]
    assert set(np.argwhere(maps > 0.99)[:, 0]) <= {4, 5}
    np.testing.assert_array_equal(
        np.argwhere(maps == maps.max()).mean(axis=0).round(), np.array([4.0, 0.0, 7.0]).round()
    )
    assert (grad_cam_plus_plus(model, volume, 0) == 0).all()


def _keras_vis_maps(model, volumes, label, layer):
    """Coarse, unscaled Grad-CAM++ maps of tf-keras-vis, from the logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports an old SciPy namespace
        vis = pytest.importorskip("tf_keras_vis.gradcam_plus_plus")
    linear = keras.Model(model.inputs[0], model.get_layer("logits").output)
    return np.asarray(
        vis.GradcamPlusPlus(linear)(
            lambda output: output[:, label],
            volumes,
            penultimate_layer=layer,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
        )
    )


def _correlations(maps, others):
    pairs = [
        (one.ravel(), other.ravel())
        for one, other in zip(maps, others, strict=True)
        if np.ptp(one) > 0 and np.ptp(other) > 0
    ]
    assert pairs
    return np.array([np.corrcoef(*pair)[0, 1] for pair in pairs])


@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
def test_one_channel_is_as_in_tf_keras_vis(spatial):
    """With one channel its weight is only a factor, so the different alphas do not matter."""
    model = _conv_model(spatial, channels=1, activation="sigmoid", seed=5)
    volumes = _volumes(spatial, n=6)
    # Weights that support class 0, so that there is something to compare.
    kernel, bias = model.get_layer("features").get_weights()
    model.get_layer("features").set_weights([np.abs(kernel), bias])
    model.get_layer("logits").set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    for layer in ("features", "act"):
        theirs = _keras_vis_maps(model, volumes, 0, layer)
        fine = np.array([resize_linear(one.astype(float), spatial) for one in theirs])
        ours = grad_cam_plus_plus(model, volumes, 0, layer)
        assert _correlations(ours, fine).min() > 0.999


@pytest.mark.parametrize("layer", ["features", "act"])
def test_with_its_division_ours_is_tf_keras_vis_on_20_volumes(layer):
    """All 20 maps are non-zero, so all are compared."""
    model = _conv_model((6, 4, 8), channels=4, seed=13)
    volumes = _volumes((6, 4, 8), n=20)
    theirs = _keras_vis_maps(model, volumes, 0, layer).astype(float)
    fine = np.array([resize_linear(one, (6, 4, 8)) for one in theirs])
    ours = grad_cam_plus_plus(model, volumes, 0, layer, divide_alphas=True)
    correlations = _correlations(ours, fine)
    assert len(correlations) == 20
    assert correlations.min() > 0.999


@pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES)
def test_tf_keras_vis_differs_by_its_division_of_the_alphas_only(spatial):
    """It divides a channel's alphas by their sum, which is not in the paper (Eqs 10-19).

    Under global average pooling and a dense layer that cancels the alphas, and its map is
    Grad-CAM with the negative weights cut off. So it is compared with our equations after the
    same division, on a layer whose gradients differ from voxel to voxel.
    """
    model = _conv_model(spatial, channels=4, seed=6)
    volumes = _volumes(spatial, n=6)
    split = keras.Model(model.inputs[0], [model.get_layer(n).output for n in ("act", "logits")])
    with tf.GradientTape() as tape:
        batch = tf.constant(volumes)
        tape.watch(batch)
        activation, logits = split(batch)
        score = tf.reduce_sum(logits[:, 0])
    gradient = tape.gradient(score, activation).numpy().reshape(6, -1, 4).astype(float)
    flat = activation.numpy().reshape(6, -1, 4).astype(float)
    alpha = np.where(gradient != 0, 1 / (2 + gradient * flat.sum(axis=1, keepdims=True)), 0)
    weight = (alpha * gradient.clip(min=0)).sum(axis=1)
    divided = weight / alpha.sum(axis=1)
    theirs = _keras_vis_maps(model, volumes, 0, "act").reshape(6, -1)
    assert _correlations(np.einsum("nck,nk->nc", flat, divided), theirs).min() > 0.99999
    ours = grad_cam_plus_plus(model, volumes, 0, "act").reshape(6, -1)
    assert _correlations(np.einsum("nck,nk->nc", flat, weight), ours).min() > 0.99999


def test_the_default_layer_is_what_global_pooling_reads():
    model = _conv_model((6, 4, 8))
    volumes = _volumes((6, 4, 8))
    np.testing.assert_array_equal(
        grad_cam_plus_plus(model, volumes, 0),
        grad_cam_plus_plus(model, volumes, 0, "features"),
    )


def test_a_squeeze_branch_is_not_taken_for_a_layer_with_places():
    x = inputs = keras.Input((4, 4, 4, 1))
    x = layers.Conv3D(2, 3, padding="same", name="conv")(x)
    squeezed = layers.GlobalAveragePooling3D(keepdims=True, name="squeeze")(x)
    squeezed = layers.Dense(2, activation="sigmoid", name="excite")(squeezed)
    x = layers.Multiply(name="scale")([x, squeezed])
    x = layers.GlobalAveragePooling3D(keepdims=True, name="mean")(x)
    x = layers.Dense(2, name="logits")(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    volumes = _volumes((4, 4, 4))
    np.testing.assert_array_equal(
        grad_cam_plus_plus(model, volumes, 0), grad_cam_plus_plus(model, volumes, 0, "scale")
    )
    with pytest.raises(InputError, match=r"'squeeze'.*conv, scale"):
        grad_cam_plus_plus(model, volumes, 0, "squeeze")


def test_frozen_layers_are_explained_too():
    model = _conv_model((6, 4), seed=7)
    expected = grad_cam_plus_plus(model, _volumes((6, 4)), 0)
    model.trainable = False
    np.testing.assert_array_equal(grad_cam_plus_plus(model, _volumes((6, 4)), 0), expected)


def test_unknown_layer_names_the_layers_there_are():
    with pytest.raises(InputError, match=r"'conv9'.*first, act, pool, features"):
        grad_cam_plus_plus(_conv_model((6, 4)), _volumes((6, 4)), 0, "conv9")
    with pytest.raises(InputError, match="'mean'"):  # no spatial axes
        grad_cam_plus_plus(_conv_model((6, 4)), _volumes((6, 4)), 0, "mean")


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 4, 1, 1), (2, 6, 5, 1), (2, 6, 4, 3)], ids=str)
def test_volumes_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match=r"the model takes \(None, 6, 4, 1\)"):
        grad_cam(_conv_model((6, 4)), np.zeros(shape), 0)


def test_a_voxel_that_is_not_finite_is_refused():
    volumes = _volumes((6, 4))
    volumes[2, 3, 1] = np.nan
    with pytest.raises(InputError, match="volume 2"):
        grad_cam_plus_plus(_conv_model((6, 4)), volumes, 0)


def test_diverged_weights_are_named():
    model = _conv_model((6, 4))
    model.get_layer("features").bias.assign([np.nan] * 3)
    with pytest.raises(InputError, match="diverged"):
        grad_cam_plus_plus(model, _volumes((6, 4)), 0)


@pytest.mark.parametrize("label", [2, -1, 0.5, [0, 1], np.array([0, 1, 2, 0])], ids=str)
def test_classes_that_do_not_exist_are_refused(label):
    with pytest.raises(InputError, match="class_index"):
        grad_cam_plus_plus(_conv_model((6, 4)), _volumes((6, 4), n=4), label)


def test_the_score_is_the_logit_not_the_probability():
    with_softmax = _conv_model((6, 4), seed=8)
    without = _conv_model((6, 4), seed=8, softmax=False)
    volumes = _volumes((6, 4))
    np.testing.assert_array_equal(
        grad_cam_plus_plus(with_softmax, volumes, 1), grad_cam_plus_plus(without, volumes, 1)
    )


@pytest.mark.parametrize("name", ["logits", "other"])
def test_a_model_that_hides_its_logits_is_refused(name):
    x = inputs = keras.Input((4, 4, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name=name)(x))
    with pytest.raises(InputError, match="before the softmax"):
        grad_cam_plus_plus(model, _volumes((4, 4)), 0)


def test_a_linear_last_layer_of_another_name_will_do():
    x = inputs = keras.Input((4, 4, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    model = keras.Model(inputs, layers.Dense(2, name="other")(x))
    assert grad_cam_plus_plus(model, _volumes((4, 4)), 0).shape == (4, 4, 4)


def test_a_second_task_does_not_change_the_maps():
    small = NetworkSettings(filters=[4, 4, 4, 8], modules=[1, 1, 1, 1], input_pooling=2)
    model = senet(small)
    volumes = np.random.default_rng(0).random((2, 32, 32, 32, 1), dtype=np.float32)
    both = with_characteristics(model, 3)
    for maps in (grad_cam_plus_plus, guided_backpropagation):
        np.testing.assert_array_equal(maps(both, volumes, 1), maps(model, volumes, 1))


def _head(x):
    x = layers.GlobalAveragePooling3D()(x)
    return layers.Softmax()(layers.Dense(2, name="logits")(x))


def _nested():
    inner = keras.Input((8, 8, 8, 1))
    backbone = keras.Model(inner, layers.Conv3D(4, 3, activation="relu")(inner))
    outer = keras.Input((8, 8, 8, 1))
    return keras.Model(outer, _head(backbone(outer)))


def _nested_in_a_wrapper():
    inner = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3)])
    outer = keras.Input((8, 8, 8, 1))
    return keras.Model(outer, _head(layers.TimeDistributed(inner)(outer)))


def _two_inputs():
    ct, age = keras.Input((8, 8, 8, 1)), keras.Input((1,))
    pooled = layers.GlobalAveragePooling3D()(layers.Conv3D(4, 3)(ct))
    scores = layers.Dense(2, name="logits")(layers.Concatenate()([pooled, age]))
    return keras.Model([ct, age], layers.Softmax()(scores))


def _channels_first():
    ct = keras.Input((1, 8, 8, 8))
    x = layers.Conv3D(4, 3, padding="same", data_format="channels_first")(ct)
    x = layers.GlobalAveragePooling3D(data_format="channels_first")(x)
    return keras.Model(ct, layers.Softmax()(layers.Dense(2, name="logits")(x)))


def _normalised_before_the_spatial_axes():
    ct = keras.Input((4, 8, 8, 8))
    x = layers.Activation("relu")(layers.BatchNormalization(axis=1)(ct))
    return keras.Model(ct, layers.Dense(2, name="logits")(layers.Flatten()(x)))


def _permuted():
    ct = keras.Input((8, 8, 8, 1))
    return keras.Model(ct, _head(layers.Conv3D(4, 3)(layers.Permute((3, 2, 1, 4))(ct))))


def _flipped_by_an_operation():
    ct = keras.Input((8, 8, 8, 1))
    return keras.Model(ct, _head(layers.Conv3D(4, 3)(keras.ops.flip(ct, axis=1))))


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.mean = layers.Conv3D(4, 3), layers.GlobalAveragePooling3D()
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.mean(self.conv(x)))


def _one_layer_used_twice():
    ct, conv = keras.Input((8, 8, 8, 1)), layers.Conv3D(1, 3, padding="same")
    return keras.Model(ct, _head(conv(conv(ct))))


def _subclassed():
    model = _Subclassed()
    model(_volumes((8, 8, 8)))
    return model


def _not_built():
    parts = [layers.Conv3D(4, 3), layers.GlobalAveragePooling3D(), layers.Dense(2, name="logits")]
    return keras.Sequential(parts)


@pytest.mark.parametrize(
    "make",
    [
        _nested,
        _nested_in_a_wrapper,
        _two_inputs,
        _channels_first,
        _normalised_before_the_spatial_axes,
        _permuted,
        _flipped_by_an_operation,
        _one_layer_used_twice,
        _subclassed,
        _not_built,
        lambda: lambda x: x,
    ],
)
@pytest.mark.parametrize("method", [grad_cam_plus_plus, guided_backpropagation])
def test_models_whose_maps_would_not_line_up_are_refused(make, method):
    # Volumes that the model itself would take: not their shape may be what is refused.
    shape = {_channels_first: (1, 8, 8, 8), _normalised_before_the_spatial_axes: (4, 8, 8, 8)}
    volumes = np.random.default_rng(1).random((4, *shape.get(make, (8, 8, 8, 1))))
    with pytest.raises(InputError):
        method(make(), volumes, 1)


def _added_one_by_one(model):
    sequential = keras.Sequential([keras.Input((6, 4, 8, 1))])
    for layer in model.layers[1:]:
        sequential.add(type(layer).from_config(layer.get_config()))
    sequential.set_weights(model.get_weights())
    return sequential


@pytest.mark.parametrize(
    "make",
    [
        _added_one_by_one,
        lambda model: keras.Sequential([keras.Input((6, 4, 8, 1)), *model.layers[1:]]),
        lambda model: keras.Model(model.inputs, model(model.inputs[0])),
    ],
    ids=["added one by one", "layers of another model", "called again"],
)
def test_the_same_layers_in_another_model_give_the_same_map(make):
    # Keras calls the layers again for each of these: `layer.output` is then another graph's.
    same = _conv_model((6, 4, 8))
    other, volumes = make(same), _volumes((6, 4, 8))
    wanted = grad_cam_plus_plus(same, volumes, 1)
    assert np.ptp(wanted) > 0
    try:
        np.testing.assert_array_equal(grad_cam_plus_plus(other, volumes, 1), wanted)
    except InputError:
        assert any(isinstance(layer, keras.Model) for layer in other.layers)
