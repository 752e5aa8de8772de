"""The SE block and the SE network (paper 3.1.3 and 3.1.6), in Keras 3 for any backend."""

from typing import Literal

import keras
from keras import layers

from nodulebook.core.settings import NetworkSettings
from nodulebook.model.layers import (
    AveragePool3D,
    PlaneMean,
    ScaleChannels,
    ScalePlanes,
    VoxelMean,
)
from nodulebook.model.parts import Parts, last_convolution

MALIGNANT = 1

MALIGNANCY, CHARACTERISTICS = "probabilities", "characteristics"
"""Names of the outputs of a network with a second task."""


def squeeze_excite(
    u: keras.KerasTensor,
    reduction: int,
    name: str = "se",
    penalty: keras.regularizers.Regularizer | None = None,
    activation: str = "mish",
    over: Literal["channels", "planes"] = "channels",
) -> keras.KerasTensor:
    """Weigh each channel by a number between 0 and 1 that the block's whole content decides.

    Hu et al. 2018, Eqs 2-4, in 3D: squeeze z_c = mean of u_c over all voxels; excitation
    s = sigmoid(W2 mish(W1 z)) with W1: C -> C / r, both with bias; scale u_c * s_c. The paper has
    Mish where the original has ReLU (its section 3.1.3).

    Args:
        u: (batch, z, y, x, C).
        reduction: r; C / r is rounded down, to at least 1.
        name: prefix of the layers' names.
        penalty: regularises both kernels.
        activation: between the two; the original has relu.
        over: "planes" squeezes and weighs the planes along z in place of the channels.

    Returns:
        (batch, z, y, x, C).
    """
    squeeze, scale = (VoxelMean, ScaleChannels) if over == "channels" else (PlaneMean, ScalePlanes)
    z = squeeze(name=f"{name}_squeeze")(u)
    width = z.shape[-1]
    s = layers.Dense(
        max(1, width // reduction),
        activation=activation,
        kernel_regularizer=penalty,
        name=f"{name}_reduce",
    )(z)
    s = layers.Dense(
        width, activation="sigmoid", kernel_regularizer=penalty, name=f"{name}_excite"
    )(s)
    return scale(name=f"{name}_scale")([u, s])


def senet(settings: NetworkSettings, weight_decay: float = 0.0) -> keras.Model:
    """The paper's network: 3^3 convolution, four stages of SE modules, pooling, FC, softmax.

    A module is a bottleneck block (He et al. 2016) whose SE block comes last, in a residual module
    before the addition: 1^3 convolution to C / 4 channels, 3^3, 1^3 to C, each with batch
    normalisation. What the paper leaves open is an option of `NetworkSettings`.

    Args:
        settings: widths, depths and options.
        weight_decay: factor lambda of the L2 penalty `lambda / 2 |w|^2` on every convolution and
            fully connected kernel, those of the SE blocks too: with SGD, weight decay lambda.

    Returns:
        A model (batch, 32, 32, 32, 1) -> (batch, 2); layer "logits" gives the scores before
        softmax, layer "last_convolution" the maps that Grad-CAM++ looks at.
    """
    make = Parts(settings, weight_decay)

    def convolve(
        x: keras.KerasTensor, channels: int, size: int, name: str, groups: int = 1, pooled: int = 1
    ) -> keras.KerasTensor:
        return make.normalise(make.convolve3d(x, channels, size, name, groups, pooled), name)

    def activate(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.Activation(settings.activation, name=f"{name}_{settings.activation}")(x)

    def module(x: keras.KerasTensor, channels: int, name: str) -> keras.KerasTensor:
        if settings.block == "basic":
            groups = min(settings.groups, channels)
            u = activate(convolve(x, channels, 3, f"{name}a", groups), f"{name}a")
            u = convolve(u, channels, 3, f"{name}b", groups)
        else:
            inner = channels // settings.bottleneck
            u = activate(convolve(x, inner, 1, f"{name}a"), f"{name}a")
            u = activate(convolve(u, inner, 3, f"{name}b", min(settings.groups, inner)), f"{name}b")
            u = convolve(u, channels, 1, f"{name}c")
        if settings.squeeze_excitation:
            se = (make.penalty, settings.squeeze_activation)
            u = squeeze_excite(u, settings.reduction, f"{name}_se", *se)
            if settings.squeeze == "channel_depth":
                u = squeeze_excite(u, settings.reduction, f"{name}_se_depth", *se, "planes")
        if settings.block != "plain":
            if x.shape[-1] != channels:
                x = convolve(x, channels, 1, f"{name}_shortcut")
            u = layers.Add(name=f"{name}_add")([x, u])
        return activate(u, name)

    def pool_after(x: keras.KerasTensor, place: str) -> keras.KerasTensor:
        if place not in settings.pool_after:
            return x
        return AveragePool3D(2, name=f"{place}_pool")(x)

    inputs, x = make.patch()
    if settings.pool_before_norm:
        x = activate(convolve(x, settings.filters[0], 3, "first", pooled=2), "first")
    else:
        x = activate(convolve(x, settings.filters[0], 3, "first"), "first")
        x = pool_after(x, "first_convolution")
    for stage, (channels, depth) in enumerate(
        zip(settings.filters, settings.modules, strict=True), start=1
    ):
        for index in range(depth):
            x = module(x, channels, f"stage{stage}_module{index + 1}")
        x = pool_after(x, f"stage{stage}")
    return make.classify(inputs, VoxelMean(name="global_pool")(last_convolution(x)))


def with_characteristics(model: keras.Model, n: int) -> keras.Model:
    """A network with a second task: n numbers from what its class scores are computed of.

    Returns:
        A model from (batch, 32, 32, 32, 1) to a dict: "probabilities" (batch, 2) as before, and
        "characteristics" (batch, n).
    """
    rated = layers.Dense(n, name=CHARACTERISTICS)(model.get_layer("logits").input)
    return keras.Model(
        model.input, {MALIGNANCY: model.output, CHARACTERISTICS: rated}, name=model.name
    )
