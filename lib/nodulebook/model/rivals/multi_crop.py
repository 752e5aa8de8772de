"""The multi-crop network of Shen et al. 2017 (the paper's [33])."""

import keras
from keras import layers

from nodulebook.core.settings import RivalSettings
from nodulebook.model.layers import MaxPool3D
from nodulebook.model.parts import Parts, last_convolution
from nodulebook.model.rivals.crops import CentreCrop3D

UNITS = 32


def multi_crop_pool(u: keras.KerasTensor, name: str = "multi_crop") -> keras.KerasTensor:
    """Pool the same maps from three nested regions, the outer ones more often.

    R0 the maps pooled twice, R1 their middle half pooled once, R2 the middle half of that as it
    is: all three have a quarter of the voxels along an axis, and lie side by side in the result.
    (batch, n, n, n, C), n divisible by 8, to (batch, n / 4, n / 4, n / 4, 3 C).
    """
    half = CentreCrop3D(name=f"{name}_half")(u)
    r0 = MaxPool3D(name=f"{name}_r0")(MaxPool3D(name=f"{name}_r0_first")(u))
    r1 = MaxPool3D(name=f"{name}_r1")(half)
    r2 = CentreCrop3D(name=f"{name}_r2")(half)
    return layers.Concatenate(name=f"{name}_join")([r0, r1, r2])


def multicrop(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """Two convolutions, multi-crop pooling, one hidden fully connected layer.

    Kept: crops of the feature maps with different numbers of max-poolings, in place of nets for
    different crops of the image; the small exit of 32 units. Differs: depth and channels are ours;
    batch normalisation is added.
    """
    make = Parts(settings, weight_decay)
    inputs, x = make.patch()
    x = MaxPool3D(name="pool1")(make.unit3d(x, settings.width, 3, "conv1"))
    x = last_convolution(make.unit3d(x, settings.width * 2, 3, "conv2"))
    x = layers.Flatten(name="flatten")(multi_crop_pool(x))
    return make.classify(inputs, make.connect(x, UNITS, "hidden"))
