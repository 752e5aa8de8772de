"""The dense binary-tree network of Liu et al. 2018 (the paper's [34])."""

import keras
from keras import layers

from nodulebook.core.settings import RivalSettings
from nodulebook.model.layers import AveragePool3D, VoxelMean
from nodulebook.model.parts import Parts, last_convolution
from nodulebook.model.rivals.crops import CentreCrop3D

BLOCKS = (3, 3, 3)
"""Convolutions of each dense block."""


def tree_transition(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Where the tree branches: all of the maps in half the resolution, and their middle as it is.

    (batch, n, n, n, C), n divisible by 4, to (batch, n / 2, n / 2, n / 2, 2 C): first the average
    pooling, then the crop.
    """
    branches = [
        AveragePool3D(2, name=f"{name}_pool")(x),
        CentreCrop3D(name=f"{name}_crop")(x),
    ]
    return layers.Concatenate(name=f"{name}_branches")(branches)


def densebtnet(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """Three dense blocks; the transitions between them branch into a pooled and a cropped view.

    Kept: dense blocks (Huang et al. 2017: normalise, ReLU, convolve, concatenate) and a centre
    crop beside the pooling in each transition, so that each level sees the nodule on more scales.
    Differs: sizes are ours; each branch is half as wide as what comes in, and the branches of a
    level share their next dense block, where a tree proper would keep them apart.
    """
    make = Parts(settings, weight_decay)

    def before(x: keras.KerasTensor, channels: int, size: int, name: str) -> keras.KerasTensor:
        x = layers.ReLU(name=f"{name}_relu")(make.normalise(x, name))
        return make.convolve3d(x, channels, size, name)

    inputs, x = make.patch()
    x = make.convolve3d(x, settings.width, 3, "first", pooled=2)
    for stage, depth in enumerate(BLOCKS, start=1):
        for index in range(depth):
            name = f"block{stage}_{index + 1}"
            new = before(x, settings.width, 3, name)
            x = layers.Concatenate(name=f"{name}_join")([x, new])
        if stage < len(BLOCKS):
            x = before(x, x.shape[-1] // 4, 1, f"transition{stage}")
            x = tree_transition(x, f"transition{stage}")
    x = layers.ReLU(name="last_relu")(make.normalise(x, "last"))
    x = VoxelMean(name="global_pool")(last_convolution(x))
    return make.classify(inputs, x)
