"""Convolution, batch normalisation and pooling in 3D, written as large matrix products.

The plain Keras layers compute the same (to rounding; `tests/test_layers.py`) but, on a CPU, with
few channels, spend most of a training step moving memory: `benchmarks/training_step.py`.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray


def band(n_in: int, n_out: int, size: int, stride: int, before: int) -> NDArray[np.float32]:
    """Which tap of a 1D kernel joins which input place to which output place.

    Args:
        n_in: length of the input row.
        n_out: length of the output row.
        size: the kernel's length k.
        stride: step of the output in input places.
        before: zeros that the row is padded with on its left.

    Returns:
        (k, n_in, n_out), 1 where tap a of output o falls on input i = o * stride + a - before.
    """
    joins = np.zeros((size, n_in, n_out), np.float32)
    for o in range(n_out):
        for a in range(size):
            i = o * stride + a - before
            if 0 <= i < n_in:
                joins[a, i, o] = 1
    return joins


@keras.saving.register_keras_serializable("nodulebook")
class RowConv3D(layers.Conv3D):
    """`keras.layers.Conv3D` (padding "same", stride 1), its rows along x taken as one vector.

    With X places of C channels a row is a vector of X * C numbers, and the convolution along x a
    banded matrix; what is left is a 2D convolution over z and y with X * C channels, the shape
    that processors are fast at. The kernel, its name and its shape are those of Conv3D.

    Args:
        pooled: 2 gives the convolution followed by an average over 2^3 voxels; the two are one
            convolution with a kernel one voxel longer, in steps of 2.
        groups: as in Conv3D; the kernel is laid out as a block-diagonal one.
        options: see `keras.layers.Conv3D`.
    """

    def __init__(self, filters: int, kernel_size: int, pooled: int = 1, **options: Any) -> None:
        """Take what Conv3D takes, and `pooled`."""
        super().__init__(filters, kernel_size, **({"padding": "same"} | options))
        if pooled not in (1, 2) or kernel_size % 2 == 0:
            raise ValueError("RowConv3D takes odd kernels, and pooled 1 or 2")
        if (self.padding, self.data_format) != ("same", "channels_last") or {
            *self.strides,
            *self.dilation_rate,
        } != {1}:
            raise ValueError("RowConv3D takes padding same, strides 1, dilation 1, channels last")
        self.pooled = pooled

    def get_config(self) -> dict[str, Any]:
        """What makes this layer again."""
        config: dict[str, Any] = super().get_config()
        return config | {"kernel_size": self.kernel_size[0], "pooled": self.pooled}

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, z, y, x, C) to (batch, z / pooled, y / pooled, x / pooled, filters)."""
        places = tuple(n and n // self.pooled for n in input_shape[1:4])
        return (input_shape[0], *places, self.filters)

    def _dense_kernel(self, channels: int) -> keras.KerasTensor:
        """(k, k, k, C, filters), zero between groups."""
        if self.groups == 1:
            return self.kernel
        same = np.kron(
            np.eye(self.groups, dtype=np.float32),
            np.ones((channels // self.groups, self.filters // self.groups), np.float32),
        )
        return ops.multiply(ops.tile(self.kernel, (1, 1, 1, self.groups, 1)), same)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / pooled, y / pooled, x / pooled, filters)."""
        _, z, y, x, channels = inputs.shape
        size, step = self.kernel_size[0], self.pooled
        kernel = self._dense_kernel(channels)
        if size == 1 and step == 1:
            flat = ops.matmul(
                ops.reshape(inputs, (-1, channels)), ops.reshape(kernel, (channels, self.filters))
            )
            return self._finished(ops.reshape(flat, (-1, z, y, x, self.filters)))
        if step == 2:
            kernel = sum(
                ops.pad(kernel, [(a, 1 - a), (b, 1 - b), (c, 1 - c), (0, 0), (0, 0)])
                for a in (0, 1)
                for b in (0, 1)
                for c in (0, 1)
            ) * (1 / 8)
        before = size // 2
        joins = band(x, x // step, size + step - 1, step, before)
        banded = ops.einsum("aio,zyacf->zyicof", joins, kernel)
        taps = size + step - 1
        banded = ops.reshape(banded, (taps, taps, x * channels, x // step * self.filters))
        rows = ops.reshape(inputs, (-1, z, y, x * channels))
        rows = ops.pad(rows, [(0, 0), (before, before), (before, before), (0, 0)])
        out = ops.conv(rows, banded, strides=step, padding="valid", data_format="channels_last")
        return self._finished(ops.reshape(out, (-1, z // step, y // step, x // step, self.filters)))

    def _finished(self, out: keras.KerasTensor) -> keras.KerasTensor:
        if self.use_bias:
            out = out + self.bias
        return out if self.activation is None else self.activation(out)


@keras.saving.register_keras_serializable("nodulebook")
class BatchNorm(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, its moments from matrix products.

    Mean and variance of the batch come from 1'X and X'X, whose gradients are matrix products too.
    """

    def call(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Any shape with channels last; normalised, scaled and shifted."""
        channels = inputs.shape[-1]
        # x places and channels side by side: products with long rows, for the same numbers.
        places = inputs.shape[-2] if len(inputs.shape) > 2 else 1
        rows = ops.reshape(inputs, (-1, places * channels))
        if training and self.trainable:
            n = ops.cast(ops.shape(rows)[0], rows.dtype) * places
            ones = ops.ones((1, ops.shape(rows)[0]), rows.dtype)
            mean = _sum_of_places(ops.matmul(ones, rows), channels) / n
            second = _sum_of_places(ops.matmul(ones, rows * rows), channels) / n
            variance = ops.maximum(second - mean * mean, 0)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                kept = moving * self.momentum
                moving.assign(kept + ops.stop_gradient(value) * (1 - self.momentum))
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        shift = self.beta - mean * scale
        out = rows * ops.tile(scale, places) + ops.tile(shift, places)
        return ops.reshape(out, (-1, *inputs.shape[1:]))


def _sum_of_places(values: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """(1, places * C) -> (C,)."""
    return ops.sum(ops.reshape(values, (-1, channels)), axis=0)


@keras.saving.register_keras_serializable("nodulebook")
class VoxelMean(layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` as a matrix product."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, C)."""
        _, z, y, x, channels = inputs.shape
        ones = np.full((1, z * y), 1 / (z * y * x), np.float32)
        rows = ops.matmul(ones, ops.reshape(inputs, (-1, z * y, x * channels)))
        return ops.sum(ops.reshape(rows, (-1, x, channels)), axis=1)


@keras.saving.register_keras_serializable("nodulebook")
class ScaleChannels(layers.Layer):
    """Maps times one number a channel: `keras.layers.Multiply` after a Reshape."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        """(batch, z, y, x, C), (batch, C) -> (batch, z, y, x, C)."""
        maps, scale = inputs
        _, z, y, x, channels = maps.shape
        rows = ops.reshape(maps, (-1, z * y, x * channels))
        wide = ops.reshape(ops.tile(scale, (1, x)), (-1, 1, x * channels))
        return ops.reshape(rows * wide, (-1, z, y, x, channels))


@keras.saving.register_keras_serializable("nodulebook")
class PlaneMean(layers.Layer):
    """The mean of each plane along z, over y, x and the channels."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z)."""
        _, z, y, x, channels = inputs.shape
        return ops.mean(ops.reshape(inputs, (-1, z, y * x * channels)), axis=-1)


@keras.saving.register_keras_serializable("nodulebook")
class ScalePlanes(layers.Layer):
    """Maps times one number a plane along z."""

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        """(batch, z, y, x, C), (batch, z) -> (batch, z, y, x, C)."""
        maps, scale = inputs
        _, z, y, x, channels = maps.shape
        planes = ops.reshape(maps, (-1, z, y * x * channels))
        return ops.reshape(planes * scale[..., None], (-1, z, y, x, channels))


@keras.saving.register_keras_serializable("nodulebook")
class AveragePool3D(layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D(2)`: z and y by a 2D pooling of rows, x by a product."""

    def __init__(self, pool_size: int = 2, **options: Any) -> None:
        """Take what AveragePooling3D takes; only cubes of 2 voxels are pooled here."""
        super().__init__(pool_size, **options)
        if (*self.pool_size, *self.strides) != (2,) * 6 or self.padding != "valid":
            raise ValueError("AveragePool3D pools cubes of 2 voxels, padding valid")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / 2, y / 2, x / 2, C)."""
        _, z, y, x, channels = inputs.shape
        rows = ops.average_pool(
            ops.reshape(inputs, (-1, z, y, x * channels)), 2, 2, data_format="channels_last"
        )
        pairs = ops.reshape(rows, (-1, z // 2, y // 2, x // 2, 2 * channels))
        halves = np.concatenate([np.eye(channels, dtype=np.float32) / 2] * 2)
        return ops.matmul(pairs, halves)


@keras.saving.register_keras_serializable("nodulebook")
class MaxPool3D(layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D(2)`: z and y by a 2D pooling of rows, x as the larger of two."""

    def __init__(self, pool_size: int = 2, **options: Any) -> None:
        """Take what MaxPooling3D takes; only cubes of 2 voxels are pooled here."""
        super().__init__(pool_size, **options)
        if (*self.pool_size, *self.strides) != (2,) * 6 or self.padding != "valid":
            raise ValueError("MaxPool3D pools cubes of 2 voxels, padding valid")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / 2, y / 2, x / 2, C)."""
        _, z, y, x, channels = inputs.shape
        rows = ops.max_pool(
            ops.reshape(inputs, (-1, z, y, x * channels)), 2, 2, data_format="channels_last"
        )
        pairs = ops.reshape(rows, (-1, z // 2, y // 2, x // 2, 2 * channels))
        return ops.maximum(pairs[..., :channels], pairs[..., channels:])


@keras.saving.register_keras_serializable("nodulebook")
class CentreCrop3D(layers.Layer):
    """The middle of maps: half their voxels along each axis."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C), z, y and x divisible by 4 -> (batch, z / 2, y / 2, x / 2, C)."""
        z, y, x = (slice(n // 4, n // 4 + n // 2) for n in inputs.shape[1:4])
        return inputs[:, z, y, x, :]


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
