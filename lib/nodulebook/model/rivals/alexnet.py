"""A 3D AlexNet, as in Joshua et al. 2021 (the paper's [29], by its own authors)."""

import keras
from keras import layers

from nodulebook.core.settings import RivalSettings
from nodulebook.model.layers import MaxPool3D
from nodulebook.model.parts import Parts, last_convolution

UNITS = 128
DROPOUT = 0.5


def alexnet3d(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """AlexNet (Krizhevsky et al. 2012) in 3D: five convolutions, three max-poolings, three FC.

    Kept: order of the layers, the channels' proportions 96 : 256 : 384 : 384 : 256, pooling after
    the first, second and fifth convolution, dropout of one half in the two hidden fully connected
    layers. Differs: the "lightweight" changes and the several views of [29] are not described in
    its abstract and are left out; the first convolution has 5^3 voxels and no stride, for a
    smaller input; batch normalisation stands in for local response normalisation; 128 units in
    place of 4096.
    """
    make = Parts(settings, weight_decay)
    w = settings.width
    inputs, x = make.patch()
    x = MaxPool3D(name="pool1")(make.unit3d(x, w, 5, "conv1"))
    x = MaxPool3D(name="pool2")(make.unit3d(x, w * 8 // 3, 3, "conv2"))
    x = make.unit3d(x, w * 4, 3, "conv3")
    x = make.unit3d(x, w * 4, 3, "conv4")
    x = last_convolution(make.unit3d(x, w * 8 // 3, 3, "conv5"))
    x = layers.Flatten(name="flatten")(MaxPool3D(name="pool5")(x))
    for name in ("fc6", "fc7"):
        x = layers.Dropout(DROPOUT, name=f"{name}_dropout")(make.connect(x, UNITS, name))
    return make.classify(inputs, x)
