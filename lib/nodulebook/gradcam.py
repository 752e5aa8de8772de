"""Grad-CAM++ and Grad-CAM for Keras models of any number of spatial axes.

Chattopadhay et al. 2018, "Grad-CAM++", Eqs 10-19, with the score Y = exp(S) of its section 3.2;
Selvaraju et al. 2017, "Grad-CAM", Eqs 1-2. The paper of this book prints Grad-CAM only (its
Eqs 1-9), in 2D; here (i, j) becomes every voxel of the layer's output.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom

from nodulebook.errors import InputError

LOGITS = "logits"
"""Name of the layer whose output is the class score S, before the softmax."""

Array = NDArray[np.float64]


def grad_cam_plus_plus(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None = None,
    batch_size: int = 24,
) -> NDArray[np.float32]:
    """Where each volume supports a class, by Grad-CAM++.

    The derivatives of exp(S) are exact where the model is piecewise linear after the layer
    (global average pooling and a dense layer); for a layer further down a model with Mish they
    are the usual approximation. Alphas are used as the formula gives them: where a channel's sum
    is negative they can be large or negative.

    Args:
        model: a functional Keras model with one input (n, z, y, x, channels) (or (n, y, x,
            channels), ...) and a layer named "logits", or one that ends without an activation.
        volumes: (n, z, y, x, channels), as the model takes them.
        class_index: the class explained, one number or (n,) numbers.
        layer_name: any layer whose output has spatial axes; None: the last such layer, which is
            what global pooling reads.
        batch_size: volumes handled at once.

    Returns:
        (n, z, y, x), >= 0, at input size; each map's maximum is 1, or it is zero everywhere
        where nothing supports the class.

    Raises:
        InputError: no such layer, volumes that do not fit the model, a class that it lacks, a
            model without a score before the softmax, or values that are not finite.
    """
    return _maps(model, volumes, class_index, layer_name, batch_size, _plus_plus)


def grad_cam(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None = None,
    batch_size: int = 24,
) -> NDArray[np.float32]:
    """The same by Grad-CAM (paper Eq 9); arguments, result and errors as `grad_cam_plus_plus`."""
    return _maps(model, volumes, class_index, layer_name, batch_size, _plain)


def _plus_plus(activation: Array, gradient: Array) -> Array:
    """(n, cells, K) A and g = dS/dA to (n, cells) maps, Eqs 10, 12 and 19.

    With Y = exp(S) the three derivatives of Y are exp(S) times g, g^2 and g^3, so
    alpha = g^2 / (2 g^2 + sum(A) g^3). The factor exp(S) cancels in alpha, and in w it scales
    a whole map, which the final scaling undoes: it is left out.
    """
    total = activation.sum(axis=1, keepdims=True)
    # g^2 is cancelled too, so that a small g does not underflow. Where g <= 0, relu(g) is 0.
    denominator = 2 + gradient * total
    alpha = np.divide(1.0, denominator, out=np.zeros_like(gradient), where=denominator != 0)
    weight = (alpha * _relu(gradient)).sum(axis=1, keepdims=True)
    return _relu((weight * activation).sum(axis=2))


def _plain(activation: Array, gradient: Array) -> Array:
    """(n, cells, K) A and g to (n, cells) maps: the weight of a channel is its mean gradient."""
    weight = gradient.mean(axis=1, keepdims=True)
    return _relu((weight * activation).sum(axis=2))


def _relu(values: Array) -> Array:
    return values.clip(min=0)


def _maps(
    model: Any,
    volumes: ArrayLike,
    class_index: ArrayLike,
    layer_name: str | None,
    batch_size: int,
    combine: Callable[[Array, Array], Array],
) -> NDArray[np.float32]:
    """Both methods; they differ in how activations and gradients are combined."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Grad-CAM needs KERAS_BACKEND=tensorflow, but it is {keras.backend.backend()}: save "
            "the weights and load them in a session with the tensorflow backend"
        )
    values = _checked_volumes(model, volumes)
    score = _score_output(model)
    classes = _checked_classes(class_index, len(values), score.shape[-1])
    split = keras.Model(model.inputs[0], [_feature_output(model, layer_name), score])
    maps = np.zeros(values.shape[:-1], dtype=np.float32)
    for start in range(0, len(values), batch_size):
        part = slice(start, start + batch_size)
        activation, gradient = _activation_and_gradient(split, values[part], classes[part])
        flat = (len(activation), -1, activation.shape[-1])
        coarse = combine(activation.reshape(flat), gradient.reshape(flat))
        for row, one in enumerate(coarse.reshape(activation.shape[:-1]), start):
            fine = _resize(one, values.shape[1:-1])
            if fine.max() > 0:
                maps[row] = fine / fine.max()
    return maps


def _activation_and_gradient(
    split: Any, volumes: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[Array, Array]:
    """A and dS/dA of a batch, each (n, spatial..., K)."""
    batch = tf.convert_to_tensor(volumes)
    with tf.GradientTape() as tape:
        tape.watch(batch)
        activation, scores = split(batch, training=False)
        # In inference mode volumes do not mix, so the gradient of the sum is each one's own.
        chosen = tf.reduce_sum(tf.gather(scores, classes, axis=1, batch_dims=1))
    gradient = tape.gradient(chosen, activation, unconnected_gradients="zero")
    both = [tf.cast(tensor, tf.float64).numpy() for tensor in (activation, gradient)]
    if not all(np.isfinite(array).all() for array in both):
        raise InputError("the model gives values that are not finite: its weights have diverged")
    return both[0], both[1]


def _resize(values: Array, shape: tuple[int, ...]) -> Array:
    """Linear interpolation, axis by axis; each coarse voxel's centre stays at its centre.

    Coarse voxel i covers [i, i + 1) * ratio of the input's voxels. Beyond the outermost centres
    the outermost value is kept.
    """
    ratio = [fine / coarse for fine, coarse in zip(shape, values.shape, strict=True)]
    resized: Array = zoom(values, ratio, order=1, mode="nearest", grid_mode=True)
    return resized


def _checked_volumes(model: Any, volumes: ArrayLike) -> NDArray[np.float32]:
    values = np.asarray(volumes, dtype=np.float32)
    wanted = model.inputs[0].shape
    fits = len(wanted) == values.ndim and all(
        size is None or size == given
        for size, given in zip(wanted[1:], values.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"volumes have shape {values.shape}, but the model takes {tuple(wanted)}: "
            "(n, spatial axes, channels), None is any size"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        raise InputError(f"volume {row} has a voxel that is not finite")
    return values


def _checked_classes(class_index: ArrayLike, n: int, n_classes: int) -> NDArray[np.int64]:
    given = np.asarray(class_index)
    if not np.issubdtype(given.dtype, np.integer) or given.shape not in ((), (n,)):
        raise InputError(f"class_index must be one integer or {n} of them, but is {class_index!r}")
    classes = np.broadcast_to(given.astype(np.int64), (n,))
    outside = (classes < 0) | (classes >= n_classes)
    if outside.any():
        bad = classes[outside][0]
        raise InputError(f"class_index {bad} is not one of 0 to {n_classes - 1}")
    return classes


def _score_output(model: Any) -> Any:
    """The tensor of class scores before the softmax, (n, classes)."""
    named = [layer for layer in model.layers if layer.name == LOGITS]
    last = named[0] if named else model.outputs[0]._keras_history.operation
    # A layer that is called "logits" need not have an activation; the last of a model must.
    activation = getattr(last, "activation", keras.activations.linear if named else None)
    if activation is not keras.activations.linear:
        raise InputError(
            f"layer {last.name!r} ({type(last).__name__}) is not a score before the softmax: "
            f'name the last dense layer "{LOGITS}", without activation, and put the softmax in a '
            "layer of its own"
        )
    return last.output


def _feature_output(model: Any, layer_name: str | None) -> Any:
    """The output of the layer, or of the last one that has spatial axes."""
    rank = len(model.inputs[0].shape)
    outputs = {
        layer.name: layer.output
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and isinstance(layer.output, keras.KerasTensor)
        and len(layer.output.shape) == rank
        and any(size != 1 for size in layer.output.shape[1:-1])  # not a pooled (n, 1, 1, 1, K)
    }
    name = layer_name if layer_name is not None else next(reversed(outputs), None)
    if name not in outputs:
        raise InputError(
            f"layer {name!r} is not one of the model's layers with spatial axes: "
            f"{', '.join(outputs) or 'there are none'}"
        )
    return outputs[name]
