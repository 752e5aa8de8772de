"""A residual network on slices, as in Nibali et al. 2017 (the paper's [30])."""

import keras
from keras import layers, ops

from nodulebook.core.settings import RivalSettings
from nodulebook.model.parts import Parts
from nodulebook.model.rivals.crops import AxialPlanes, CentralSlices

BLOCKS = (2, 2, 2, 2)

AXIAL = {"axial_mean": (1, 4), "axial_three": (3, 2)}
"""Channels, and planes in each."""


@keras.saving.register_keras_serializable("nodulebook")
class JoinSlices(layers.Layer):
    """The features of a patch's three slices, one after the other."""

    def compute_output_shape(self, input_shape: tuple[int | None, int]) -> tuple[int | None, int]:
        """(3 * batch, C) to (batch, 3 C); JAX cannot tell from the call, the batch being open."""
        batch, channels = input_shape
        return (batch and batch // 3, 3 * channels)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(3 * batch, C) -> (batch, 3 C)."""
        return ops.reshape(inputs, (-1, 3 * inputs.shape[-1]))


def resnet2d(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """A ResNet-18 on the three slices through the patch's middle, their features joined.

    Kept: basic blocks, two in each of four stages, stages that halve the image and double the
    channels; views along the three axes. Differs: no transfer learning and no curriculum, which
    are what [30] is about, since every row here starts from random weights; the three views share
    their weights; the first convolution is 3^2 in steps of 2, for slices of 32^2.

    Our own variants (`RivalSettings.slices`, `stem_stride`, `stages`) take one image of axial
    planes, without joining, with a first convolution of full resolution, or have fewer stages.

    There is no layer "last_convolution": the maps are of slices, not of the patch.
    """
    make = Parts(settings, weight_decay)

    def block(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
        u = make.normalise(make.convolve2d(x, channels, 3, f"{name}a", stride), f"{name}a")
        u = layers.ReLU(name=f"{name}a_relu")(u)
        u = make.normalise(make.convolve2d(u, channels, 3, f"{name}b"), f"{name}b")
        if stride > 1 or x.shape[-1] != channels:
            name_of_it = f"{name}_shortcut"
            x = make.convolve2d(x, channels, 1, name_of_it, stride)
            x = make.normalise(x, name_of_it)
        return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, u]))

    inputs, x = make.patch()
    if settings.slices == "three_axes":
        x = CentralSlices(name="slices")(x)
    else:
        x = AxialPlanes(*AXIAL[settings.slices], name="slices")(x)
    stem = make.convolve2d(x, settings.width, 3, "first", settings.stem_stride)
    x = make.normalise(stem, "first")
    x = layers.ReLU(name="first_relu")(x)
    for stage, depth in enumerate(BLOCKS[: settings.stages]):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            name = f"stage{stage + 1}_block{index + 1}"
            x = block(x, settings.width * 2**stage, stride, name)
    x = layers.GlobalAveragePooling2D(name="slice_pool")(x)
    if settings.slices == "three_axes":
        x = JoinSlices(name="join")(x)
    return make.classify(inputs, x)
