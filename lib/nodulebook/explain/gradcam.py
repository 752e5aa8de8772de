"""Grad-CAM, Grad-CAM++, guided backpropagation and deconvolution for Keras models, N dimensions.

Chattopadhay et al. 2018, "Grad-CAM++", Eqs 10-19, with the score Y = exp(S) of its section 3.2;
Selvaraju et al. 2017, "Grad-CAM", Eqs 1-2; Springenberg et al. 2015, guided backpropagation;
Zeiler and Fergus 2014, deconvolution. The paper of this book prints Grad-CAM only (its Eqs 1-9),
in 2D; here (i, j) becomes every voxel of the layer's output.

All functions take a functional model with one input (n, spatial axes, channels) whose class
scores S, before the softmax, are the output of a layer named "logits" or of a last layer without
activation, and give (n, spatial axes) at input size, >= 0. Each map's maximum is 1, or it is zero
everywhere where nothing supports the class.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from nodulebook.explain.graph import (
    checked,
    feature_output,
    finite,
    score_output,
    spatial_outputs,
)
from nodulebook.explain.graph import feature_layer as feature_layer

Array = NDArray[np.float64]

Rule = Literal["guided", "deconvolution"]


def grad_cam_plus_plus(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None = None,
    batch_size: int = 24,
    divide_alphas: bool = False,
) -> NDArray[np.float32]:
    """Where each volume supports a class, by Grad-CAM++.

    The derivatives of exp(S) are exact where the model is piecewise linear after the layer
    (global average pooling and a dense layer); for a layer before an SE block or Mish they are
    the usual convention, and can be far from the exact ones (chapter grad_cam). Alphas are used
    as the formula gives them: where a channel's sum is negative they can be large or negative.

    Args:
        model: as the module says; any number of spatial axes.
        volumes: (n, z, y, x, channels), as the model takes them.
        class_index: the class explained, one number or (n,) numbers.
        layer_name: any layer whose output has spatial axes; None: the last such layer, which is
            what global pooling reads.
        batch_size: volumes handled at once.
        divide_alphas: divide each channel's alphas by their sum, as tf-keras-vis does and the
            equations do not.

    Returns:
        (n, z, y, x), linearly interpolated to input size.

    Raises:
        InputError: no such layer, volumes that do not fit the model, a class that it lacks, a
            model without a score before the softmax, or values that are not finite.
    """
    combine = partial(_plus_plus, divided=divide_alphas)
    return _cam(model, volumes, class_index, layer_name, batch_size, combine)


def grad_cam(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None = None,
    batch_size: int = 24,
) -> NDArray[np.float32]:
    """The same by Grad-CAM (paper Eq 9); arguments, result and errors as `grad_cam_plus_plus`."""
    return _cam(model, volumes, class_index, layer_name, batch_size, _plain)


def guided_backpropagation(
    model: Any, volumes: ArrayLike, class_index: ArrayLike, batch_size: int = 24
) -> NDArray[np.float32]:
    """Positive part of dS/dinput, with gradients gated at each rectifier.

    A gate lets through what is positive on the way back where the rectifier's input was positive.
    For ReLU that is the published rule. Mish has no such switch: in a model whose maps go through
    Mish, the gate is the same and the slope Mish's own. Activations without spatial axes (the
    SE block's Mish and sigmoid) keep their true derivative: they say how much of a map counts,
    not where.

    Arguments, result and errors as `grad_cam_plus_plus`; channels of the input are added.
    """
    return _saliency(model, volumes, class_index, "guided", batch_size)


def deconvolution(
    model: Any, volumes: ArrayLike, class_index: ArrayLike, batch_size: int = 24
) -> NDArray[np.float32]:
    """As `guided_backpropagation`; rectifiers pass back all that is positive on the way back."""
    return _saliency(model, volumes, class_index, "deconvolution", batch_size)


def guided_grad_cam_plus_plus(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
) -> NDArray[np.float32]:
    """Grad-CAM++ times guided backpropagation; arguments, result, errors as the former's."""
    where = grad_cam_plus_plus(model, volumes, class_index)
    return _to_one(where * guided_backpropagation(model, volumes, class_index))


def _plus_plus(activation: Array, gradient: Array, divided: bool = False) -> Array:
    """(n, cells, K) A and g = dS/dA to (n, cells) maps, Eqs 10, 12 and 19.

    With Y = exp(S) the three derivatives of Y are exp(S) times g, g^2 and g^3, so
    alpha = g^2 / (2 g^2 + sum(A) g^3). The factor exp(S) cancels in alpha, and in w it scales
    a whole map, which the final scaling undoes: it is left out. With `divided`, alphas add up to
    1 in each channel.
    """
    # g^2 is cancelled too, so that a small g does not underflow. Where g <= 0, relu(g) is 0.
    denominator = 2 + gradient * activation.sum(axis=1, keepdims=True)
    alpha: Array = np.zeros_like(gradient)
    np.divide(1.0, denominator, out=alpha, where=denominator != 0)
    if divided:
        alpha[gradient == 0] = 0
        total = alpha.sum(axis=1, keepdims=True)
        alpha = np.divide(alpha, total, out=np.zeros_like(alpha), where=total != 0)
    weight = (alpha * _relu(gradient)).sum(axis=1, keepdims=True)
    return _relu((weight * activation).sum(axis=2))


def _plain(activation: Array, gradient: Array) -> Array:
    """(n, cells, K) A and g to (n, cells) maps: the weight of a channel is its mean gradient."""
    weight = gradient.mean(axis=1, keepdims=True)
    return _relu((weight * activation).sum(axis=2))


def _relu(values: Array) -> Array:
    return values.clip(min=0)


def _cam(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None,
    batch_size: int,
    combine: Callable[[Array, Array], Array],
) -> NDArray[np.float32]:
    """Both methods; they differ in how activations and gradients are combined."""
    values, classes = checked(model, volumes, class_index)
    compute = _activation_and_gradient(model, layer_name or feature_layer(model))
    maps = np.zeros(values.shape[:-1], dtype=np.float32)
    for part in _batches(len(values), batch_size):
        activation, gradient = finite(compute(values[part], classes[part]))
        flat = (len(activation), -1, activation.shape[-1])
        coarse = combine(activation.reshape(flat), gradient.reshape(flat))
        maps[part] = _to_one(
            resize_linear(coarse.reshape(activation.shape[:-1]), values.shape[1:-1])
        )
    return maps


def _saliency(
    model: Any, volumes: ArrayLike, class_index: ArrayLike, rule: Rule, batch_size: int
) -> NDArray[np.float32]:
    """Positive part of the gated gradient at the input, its channels added."""
    values, classes = checked(model, volumes, class_index)
    compute = _input_gradient(model, rule)
    maps = np.zeros(values.shape[:-1], dtype=np.float32)
    for part in _batches(len(values), batch_size):
        (gradient,) = finite([compute(values[part], classes[part])])
        maps[part] = _to_one(_relu(gradient.sum(axis=-1)))
    return maps


@lru_cache(maxsize=16)
def _activation_and_gradient(model: Any, layer_name: str) -> Any:
    """A compiled function (volumes, classes) -> A and dS/dA, each (n, spatial..., K).

    It reads the model's weights when it is called: they may change in between.
    """
    split = keras.Model(model.inputs[0], [feature_output(model, layer_name), score_output(model)])

    def compute(batch: Any, classes: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            activation, scores = split(batch, training=False)
            chosen = _chosen_sum(scores, classes)
        gradient = tape.gradient(chosen, activation, unconnected_gradients="zero")
        return activation, gradient

    return tf.function(compute, input_signature=_signature(model))


@lru_cache(maxsize=16)
def _input_gradient(model: Any, rule: Rule) -> Any:
    """A compiled function (volumes, classes) -> gated dS/dinput."""
    to_score = keras.Model(model.inputs[0], score_output(model))

    def compute(batch: Any, classes: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            chosen = _chosen_sum(to_score(batch, training=False), classes)
        return tape.gradient(chosen, batch, unconnected_gradients="zero")

    with _gated(model, rule):  # the gates are there while the function is traced, and stay in it
        return tf.function(compute, input_signature=_signature(model)).get_concrete_function()


def _signature(model: Any) -> list[Any]:
    shape = (None, *model.inputs[0].shape[1:])
    return [tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None,), tf.int64)]


def _chosen_sum(scores: Any, classes: Any) -> Any:
    # In inference mode volumes do not mix, so the gradient of the sum is each one's own.
    return tf.reduce_sum(tf.gather(scores, classes, axis=1, batch_dims=1))


RECTIFIERS = (keras.activations.relu, keras.activations.mish)
"""The activations that a gate is put into."""


@contextmanager
def _gated(model: Any, rule: Rule) -> Iterator[None]:
    """Put gates into the model's rectifiers, and take them out again."""
    changed: list[tuple[Any, str, Any]] = []
    try:
        for name in spatial_outputs(model):
            layer = model.get_layer(name)
            slot = "call" if isinstance(layer, keras.layers.ReLU) else "activation"
            function = getattr(layer, slot, None)
            if slot == "call" or function in RECTIFIERS:
                changed.append((layer, slot, function))
                setattr(layer, slot, with_gate(function, rule))
        yield
    finally:
        for layer, slot, function in changed:
            setattr(layer, slot, function)


def with_gate(function: Any, rule: Rule) -> Any:
    """The same activation, gated on the way back (see `guided_backpropagation`)."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def gated(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        slope = tape.gradient(y, x)

        def backward(above: Any) -> Any:
            positive = tf.nn.relu(above)
            if rule == "deconvolution":
                return positive
            return positive * slope * tf.cast(x > 0, x.dtype)

        return y, backward

    return gated


def _batches(n: int, batch_size: int) -> list[slice]:
    return [slice(start, start + batch_size) for start in range(0, n, batch_size)]


def _to_one(maps: NDArray[Any]) -> NDArray[np.float32]:
    """(n, spatial...) divided by each map's maximum; a map without any support stays zero."""
    top = maps.max(axis=tuple(range(1, maps.ndim)), keepdims=True, initial=0)
    scaled = np.zeros(maps.shape, dtype=np.float32)
    np.divide(maps, top, out=scaled, where=top > 0, casting="same_kind")
    return scaled


def resize_linear(values: Array, shape: tuple[int, ...]) -> Array:
    """Linear interpolation of the last axes to `shape`; each coarse voxel's centre stays put.

    Coarse voxel i covers [i, i + 1) * ratio of the input's voxels. Beyond the outermost centres
    the outermost value is kept.
    """
    for axis, fine in enumerate(shape, values.ndim - len(shape)):
        coarse = values.shape[axis]
        at = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
        weight = np.clip(1 - np.abs(at[:, None] - np.arange(coarse)), 0, None)
        values = np.moveaxis(np.tensordot(values, weight, (axis, 1)), -1, axis)
    return values
