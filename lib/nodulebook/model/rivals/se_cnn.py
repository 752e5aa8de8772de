"""A convolutional network with SE blocks, as in Chen et al. 2021 (the paper's [20])."""

import keras

from nodulebook.core.settings import RivalSettings
from nodulebook.model.layers import MaxPool3D, VoxelMean
from nodulebook.model.parts import Parts, last_convolution
from nodulebook.model.senet import squeeze_excite

REDUCTION = 2
"""C / r is small here, and ReLU may leave all of so few hidden units at 0 for good."""

STAGES = 4


def secnn(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """Four plain convolutions, each followed by an SE block and, but for the last, max-pooling.

    Kept: an SE block behind each convolution of an otherwise plain network, without shortcuts;
    ReLU in the SE block, as in Hu et al. 2018. Differs: [20]'s layers are not in its abstract;
    depth, channels and the three dimensions are ours.
    """
    make = Parts(settings, weight_decay)
    inputs, x = make.patch()
    for stage in range(STAGES):
        name = f"conv{stage + 1}"
        x = make.unit3d(x, settings.width * 2**stage, 3, name)
        x = squeeze_excite(x, REDUCTION, f"{name}_se", make.penalty, "relu")
        if stage < STAGES - 1:
            x = MaxPool3D(name=f"pool{stage + 1}")(x)
    x = VoxelMean(name="global_pool")(last_convolution(x))
    return make.classify(inputs, x)
