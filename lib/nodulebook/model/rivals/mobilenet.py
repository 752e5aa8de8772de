"""MobileNetV2 (Sandler et al. 2018) on axial slices, as one would transfer it from ImageNet."""

from typing import Any

import keras
from keras import layers, ops

from nodulebook.core.settings import RivalSettings
from nodulebook.model.parts import Parts
from nodulebook.model.rivals.crops import AxialPlanes
from nodulebook.model.rivals.slices_resnet import AXIAL

BACKBONE = "backbone"
"""The name of the layer that holds MobileNetV2 without its classifier."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue in [0, 1], which the pretrained weights expect."""


@keras.saving.register_keras_serializable("nodulebook")
class NaturalImage(layers.Layer):
    """One or three channels in [0, 1] as three channels scaled like ImageNet's, and enlarged."""

    def __init__(self, pixels: int, **options: Any) -> None:
        """`pixels`: height and width of the outcome."""
        super().__init__(**options)
        self.pixels = pixels

    def get_config(self) -> dict[str, Any]:
        """What makes this layer again."""
        config: dict[str, Any] = super().get_config()
        return config | {"pixels": self.pixels}

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, y, x, 1 or 3) to (batch, pixels, pixels, 3)."""
        return (input_shape[0], self.pixels, self.pixels, 3)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, y, x, 1 or 3) -> (batch, pixels, pixels, 3), bilinear."""
        scaled = (inputs - ops.array(MEAN, inputs.dtype)) / ops.array(DEVIATION, inputs.dtype)
        return ops.image.resize(scaled, (self.pixels, self.pixels), interpolation="bilinear")


def mobilenet2d(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """MobileNetV2 by keras.applications on one enlarged axial image, then a linear classifier.

    Without `RivalSettings.pretrained` it starts from random weights. With it, training begins by
    loading the ImageNet weights; "frozen" then trains the classifier alone, and the backbone's
    batch normalisation keeps the statistics of ImageNet.

    There is no layer "last_convolution": the maps are of slices, not of the patch.
    """
    make = Parts(settings, weight_decay)
    inputs, x = make.patch()
    x = AxialPlanes(*AXIAL[settings.slices], name="slices")(x)
    x = NaturalImage(settings.image_px, name="image")(x)
    backbone = keras.applications.MobileNetV2(
        input_shape=(settings.image_px, settings.image_px, 3),
        alpha=settings.width / 32,
        include_top=False,
        weights=None,
        name=BACKBONE,
    )
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.epsilon, layer.momentum = 1e-5, settings.batch_norm_momentum
    backbone.trainable = settings.pretrained != "frozen"
    x = layers.GlobalAveragePooling2D(name="slice_pool")(backbone(x))
    return make.classify(inputs, x)
