"""The graph of a Keras model as Grad-CAM needs it: its score, its feature maps, what it refuses."""

from collections import Counter
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulebook.core.errors import InputError

LOGITS = "logits"
"""Name of the layer whose output is the class score S, before the softmax."""


def feature_layer(model: Any, at_least: int = 1) -> str:
    """Name of the last layer whose maps have this many voxels along each axis, or InputError."""
    fine = [
        name
        for name, output in spatial_outputs(model).items()
        if all(size is None or size >= at_least for size in output.shape[1:-1])
    ]
    if not fine:
        raise InputError(f"no layer of the model has maps of {at_least} voxels or more")
    return fine[-1]


def finite(tensors: Any) -> list[NDArray[np.float64]]:
    """Tensors as arrays; InputError where a value is not finite."""
    arrays = [np.asarray(tensor, dtype=np.float64) for tensor in tensors]
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError("the model has values that are not finite: its weights have diverged")
    return arrays


def checked(
    model: Any, volumes: ArrayLike, class_index: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Volumes and a class for each of them, if they fit the model."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Grad-CAM needs KERAS_BACKEND=tensorflow, but it is {keras.backend.backend()}: save "
            "the weights and load them in a session with the tensorflow backend"
        )
    _check_model(model)
    # The weights are asked, since a ReLU of some processors turns NaN into 0.
    finite(model.weights)
    values = _checked_volumes(model, volumes)
    return values, _checked_classes(class_index, len(values), score_output(model).shape[-1])


REORDERING = {"Permute", "Reshape", "Transpose", "Swapaxes", "Moveaxis", "Flip", "Rot90", "Roll"}
"""Operations after which cell (i, j, k) of a feature map need not be where voxel (i, j, k) is."""


def _check_model(model: Any) -> None:
    """Refuse models whose maps would not line up with the input's voxels.

    Raises:
        InputError: not a built functional (or Sequential) model, several inputs, a model within
            the model, channels before the spatial axes, or axes that are reordered on the way.
    """
    rule = "Grad-CAM takes a functional model with one input (n, spatial axes, channels)"
    if not isinstance(model, keras.Model):
        raise InputError(f"{rule}, not a {type(model).__name__}")
    if isinstance(model, keras.Sequential) and not model.built:
        raise InputError(f"{rule}; this Sequential is not built: start it with keras.Input(shape)")
    if not hasattr(_graph(model), "operations"):
        raise InputError(
            f"{rule}; {type(model).__name__} is a subclassed model, whose layers are not connected "
            "in a graph: build it as keras.Model(inputs, outputs)"
        )
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise InputError(f"{rule}, but this model has {len(model.inputs)}: {names}")
    rank = len(model.inputs[0].shape)
    for layer in model.layers:
        inner = [layer, *layer._flatten_layers(include_self=False)]
        if any(isinstance(part, keras.Model) for part in inner):
            raise InputError(
                f"{rule}; its layer {layer.name!r} is a model itself: connect that model's output "
                "to the rest, keras.Model(inner.input, head(inner.output)), so that there is one "
                "graph"
            )
        for part in inner:
            axis = getattr(part, "axis", None) if _normalises(part) else None
            first = getattr(part, "data_format", None) == "channels_first"
            if first or axis in (1, [1], (1,)):
                raise InputError(f"{rule}; layer {part.name!r} has its channels before them")
    nodes = _nodes(model)
    uses = Counter(id(node.operation) for node in nodes)
    for node in nodes:
        operation, output = node.operation, node.outputs[0]
        kind = type(operation).__name__
        spatial = isinstance(output, keras.KerasTensor) and len(output.shape) == rank
        if kind in REORDERING and spatial and any(size != 1 for size in output.shape[1:-1]):
            raise InputError(
                f"{rule}; its operation {operation.name!r} ({kind}) reorders the axes, so a map "
                "would not line up with the input: give the model volumes in the order it needs"
            )
        if uses[id(operation)] > 1 and spatial:
            raise InputError(
                f"{rule}; its layer {operation.name!r} is used {uses[id(operation)]} times and "
                "has no single map: give each use a layer of its own"
            )


def _graph(model: Any) -> Any:
    return model._functional if isinstance(model, keras.Sequential) else model


def _nodes(model: Any) -> list[Any]:
    """The calls of layers that make up this model, and no other model that shares its layers."""
    return [node for level in _graph(model)._nodes_by_depth.values() for node in level]


def _outputs(model: Any) -> dict[str, Any]:
    """What each layer gives in this model, by its name, in the model's order."""
    outputs = {id(node.operation): node.outputs[0] for node in _nodes(model)}
    return {layer.name: outputs[id(layer)] for layer in model.layers if id(layer) in outputs}


def _normalises(layer: Any) -> bool:
    kinds = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)
    return isinstance(layer, kinds) and len(layer.output.shape) > 2


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


def score_output(model: Any) -> Any:
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
    return _outputs(model)[last.name]


def spatial_outputs(model: Any) -> dict[str, Any]:
    """The outputs with spatial axes by layer, in the model's order."""
    rank = len(model.inputs[0].shape)
    return {
        name: output
        for name, output in _outputs(model).items()
        if output is not model.inputs[0]
        and len(output.shape) == rank
        and any(size != 1 for size in output.shape[1:-1])  # not a pooled (n, 1, 1, 1, K)
    }


def feature_output(model: Any, layer_name: str) -> Any:
    """The output (n, spatial axes, channels) of a layer; InputError where it has no such axes."""
    outputs = spatial_outputs(model)
    if layer_name not in outputs:
        raise InputError(
            f"layer {layer_name!r} is not one of the model's layers with spatial axes: "
            f"{', '.join(outputs) or 'there are none'}"
        )
    return outputs[layer_name]
