"""What the networks are put together from: convolution with normalisation, entrance, exit."""

from dataclasses import dataclass

import keras
from keras import layers

from nodulebook.core.settings import NetworkSettings, RivalSettings
from nodulebook.model.layers import AveragePool3D, BatchNorm, Conv2D, RowConv3D
from nodulebook.patches.cube import PATCH_SIZE

CLASSES = ("benign", "malignant")


@dataclass(frozen=True)
class Parts:
    """Makes layers with a network's weight decay and batch normalisation.

    Maps are (batch, z, y, x, C), images (batch, y, x, C). `name` is that of the layer, before
    `_conv`, `_bn` or `_relu`. Convolutions have no bias.
    """

    settings: NetworkSettings | RivalSettings
    weight_decay: float

    @property
    def penalty(self) -> keras.regularizers.Regularizer | None:
        """L2 penalty of every kernel, as in `nodulebook.model.senet.senet`."""
        return keras.regularizers.L2(self.weight_decay / 2) if self.weight_decay else None

    def patch(self) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """The input (batch, 32, 32, 32, 1), and the same, pooled where the settings say so."""
        inputs = keras.Input((PATCH_SIZE, PATCH_SIZE, PATCH_SIZE, 1), name="patch")
        if self.settings.input_pooling == 1:
            return inputs, inputs
        return inputs, AveragePool3D(self.settings.input_pooling, name="input_pool")(inputs)

    def normalise(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Batch normalisation over the channels."""
        momentum = self.settings.batch_norm_momentum
        return BatchNorm(momentum=momentum, epsilon=1e-5, name=f"{name}_bn")(x)

    def convolve3d(
        self,
        x: keras.KerasTensor,
        channels: int,
        size: int,
        name: str,
        groups: int = 1,
        pooled: int = 1,
    ) -> keras.KerasTensor:
        """A convolution over size^3 voxels.

        Args:
            x: maps.
            channels: of the outcome.
            size: of the kernel, along each axis.
            name: of the layer.
            groups: of channels that do not see each other; divides both numbers of channels.
            pooled: the mean over so many voxels along each axis follows, as in `RowConv3D`.
        """
        return RowConv3D(
            channels,
            size,
            pooled=pooled,
            groups=groups,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=self.penalty,
            name=f"{name}_conv",
        )(x)

    def convolve2d(
        self, x: keras.KerasTensor, channels: int, size: int, name: str, stride: int = 1
    ) -> keras.KerasTensor:
        """A convolution over size^2 pixels."""
        return Conv2D(
            channels,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=self.penalty,
            name=f"{name}_conv",
        )(x)

    def unit3d(
        self,
        x: keras.KerasTensor,
        channels: int,
        size: int,
        name: str,
        groups: int = 1,
        pooled: int = 1,
    ) -> keras.KerasTensor:
        """As `convolve3d`, then batch normalisation and ReLU."""
        x = self.convolve3d(x, channels, size, name, groups, pooled)
        return layers.ReLU(name=f"{name}_relu")(self.normalise(x, name))

    def connect(self, x: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
        """A fully connected layer with ReLU."""
        return layers.Dense(
            units,
            activation="relu",
            kernel_initializer="he_normal",
            kernel_regularizer=self.penalty,
            name=name,
        )(x)

    def classify(self, inputs: keras.KerasTensor, x: keras.KerasTensor) -> keras.Model:
        """The model from the input to softmax of two scores of x; named `senet` or as the rival."""
        logits = layers.Dense(len(CLASSES), kernel_regularizer=self.penalty, name="logits")(x)
        probabilities = layers.Softmax(name="probabilities")(logits)
        name = self.settings.rival if isinstance(self.settings, RivalSettings) else "senet"
        return keras.Model(inputs, probabilities, name=name)


def last_convolution(x: keras.KerasTensor) -> keras.KerasTensor:
    """Mark the maps that Grad-CAM++ looks at."""
    return layers.Activation("linear", name="last_convolution")(x)
