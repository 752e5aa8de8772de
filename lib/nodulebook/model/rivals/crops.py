"""Layers that show a network a part of its patch: a centred crop, axial planes, central slices."""

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("nodulebook")
class CentreCrop3D(layers.Layer):
    """The middle of maps: half their voxels along each axis."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C), z, y and x divisible by 4 -> (batch, z / 2, y / 2, x / 2, C)."""
        z, y, x = (slice(n // 4, n // 4 + n // 2) for n in inputs.shape[1:4])
        return inputs[:, z, y, x, :]


@keras.saving.register_keras_serializable("nodulebook")
class AxialPlanes(layers.Layer):
    """The middle axial planes of a patch as the channels of one image.

    `channels` images, next to each other along z and symmetric about the middle, are each the mean
    of `planes` planes.
    """

    def __init__(self, channels: int, planes: int, **options: Any) -> None:
        """Take numbers whose product is even, as the middle lies between two planes."""
        super().__init__(**options)
        if channels * planes % 2:
            raise ValueError("AxialPlanes takes an even number of planes altogether")
        self.channels, self.planes = channels, planes

    def get_config(self) -> dict[str, Any]:
        """What makes this layer again."""
        config: dict[str, Any] = super().get_config()
        return config | {"channels": self.channels, "planes": self.planes}

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, z, y, x, 1) to (batch, y, x, channels)."""
        return (input_shape[0], *input_shape[2:4], self.channels)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, 1) -> (batch, y, x, channels)."""
        first = (inputs.shape[1] - self.channels * self.planes) // 2
        images = [
            ops.mean(inputs[:, k : k + self.planes, :, :, 0], axis=1)
            for k in range(first, first + self.channels * self.planes, self.planes)
        ]
        return ops.stack(images, axis=-1)


@keras.saving.register_keras_serializable("nodulebook")
class CentralSlices(layers.Layer):
    """The three slices through the middle of a patch: across z, across y, across x."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, n, n, n, C) to (3 * batch, n, n, C)."""
        batch = input_shape[0]
        return (batch and 3 * batch, *input_shape[2:])

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, n, n, n, C) -> (3 * batch, n, n, C); those of a patch lie side by side."""
        _, n, _, _, channels = inputs.shape
        middle = n // 2
        slices = [inputs[:, middle], inputs[:, :, middle], inputs[:, :, :, middle]]
        return ops.reshape(ops.stack(slices, axis=1), (-1, n, n, channels))
