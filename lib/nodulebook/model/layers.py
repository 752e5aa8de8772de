"""Convolution, batch normalisation and pooling in 3D, each in the form that a CPU computes fastest.

The plain Keras layers give the same numbers to rounding, but spend most of a training step on
moving memory (`benchmarks/training_step.py`).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray


def band(n: int, size: int) -> NDArray[np.float32]:
    """Which tap of a 1D kernel joins which input place to which output place.

    Args:
        n: length of the row, before and after the convolution.
        size: the kernel's length k, odd; the row is padded with k // 2 zeros on each side.

    Returns:
        (k, n, n), 1 where tap a of output o falls on input i = o + a - k // 2.
    """
    return np.stack([np.eye(n, k=size // 2 - a, dtype=np.float32) for a in range(size)])


FUSED_FROM = 8
"""Channels from which on TensorFlow's own batch normalisation is the fastest on a CPU."""

ROWS_BELOW = 200
"""`RowConv3D` computes rows where x * C * filters is smaller, else a plain convolution.

A row multiplies x / k times as many numbers, but by long vectors; a plain convolution reaches the
processor's speed from about 4 channels on.
"""


STACKED_ROWS_BELOW = 20_000
"""The same where a stack of trainings is computed as matrix products on a CPU: a row has a third of
the taps, so that less memory is moved."""

_stack: list[tuple[Any, bool, int]] = []
"""What `traced_for_stack` says of the network that is being traced."""


@contextmanager
def traced_for_stack(kept: Any, products: bool, rows: bool = False) -> Iterator[None]:
    """Trace a network as a member of a stack of trainings (`nodulebook.model.stacked`).

    Args:
        kept: (batch,), 1 for the patches that count in the moments of batch normalisation, 0 for
            those that fill a batch up.
        products: compute every convolution as a matrix product: a convolution that each member
            has its own kernel of is a grouped one, which processors of either kind are slow at.
        rows: with few channels, of rows (`RowConv3D`).
    """
    _stack.append((kept, products, STACKED_ROWS_BELOW if products and rows else 0))
    try:
        yield
    finally:
        _stack.pop()


def convolve(inputs: keras.KerasTensor, kernel: keras.KerasTensor, step: int) -> keras.KerasTensor:
    """(batch, places..., C), (k..., C, filters): a convolution with padding "same", as in Keras."""
    if not _stack or not _stack[-1][1]:
        return ops.conv(inputs, kernel, step, "same", data_format="channels_last")
    size, places = kernel.shape[0], inputs.shape[1:-1]
    ends = [-(-n // step) for n in places]
    gaps = [max((end - 1) * step + size - n, 0) for end, n in zip(ends, places, strict=True)]
    padded = ops.pad(inputs, [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)])
    taps = []
    for tap in itertools.product(range(size), repeat=len(places)):
        cut = [slice(a, a + (e - 1) * step + 1, step) for a, e in zip(tap, ends, strict=True)]
        taps.append(padded[(slice(None), *cut)])
    flat = ops.reshape(kernel, (-1, kernel.shape[-1]))
    return ops.matmul(ops.concatenate(taps, axis=-1), flat)


@keras.saving.register_keras_serializable("nodulebook")
class RowConv3D(layers.Conv3D):
    """`keras.layers.Conv3D` (padding "same", stride 1) in the fastest of three forms.

    A kernel of one voxel is a matrix product. With very few channels, rows along x are taken as
    vectors of X * C numbers: the convolution along x is then a banded matrix, which leaves a 2D
    convolution over z and y. Everything else is a plain convolution. The kernel, its name and its
    shape are those of Conv3D in every form; with `groups` it is laid out as a block-diagonal one.

    `pooled=2` gives the convolution followed by an average over 2^3 voxels; the two are one
    convolution with a kernel one voxel longer, in steps of 2.
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
        """(k, k, k, C, filters), zero between groups; one voxel longer where pooled."""
        kernel = self.kernel
        if self.groups > 1:
            same = np.kron(
                np.eye(self.groups, dtype=np.float32),
                np.ones((channels // self.groups, self.filters // self.groups), np.float32),
            )
            kernel = ops.multiply(ops.tile(kernel, (1, 1, 1, self.groups, 1)), same)
        if self.pooled == 2:
            kernel = sum(
                ops.pad(kernel, [(a, 1 - a), (b, 1 - b), (c, 1 - c), (0, 0), (0, 0)])
                for a in (0, 1)
                for b in (0, 1)
                for c in (0, 1)
            ) * (1 / 8)
        return kernel

    def form(self, x: int, channels: int) -> str:
        """How inputs with x voxels along x are computed: "product", "rows" or "plain"."""
        if self.kernel_size[0] == 1 and self.pooled == 1:
            return "product"
        limit = _stack[-1][2] if _stack else ROWS_BELOW
        few = self.pooled == 1 and x * channels * self.filters < limit
        return "rows" if few else "plain"

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / pooled, y / pooled, x / pooled, filters)."""
        _, z, y, x, channels = inputs.shape
        kernel = self._dense_kernel(channels)
        form = self.form(x, channels)
        if form == "product":
            flat = ops.matmul(
                ops.reshape(inputs, (-1, channels)), ops.reshape(kernel, (channels, self.filters))
            )
            out = ops.reshape(flat, (-1, z, y, x, self.filters))
        elif form == "rows":
            out = _convolve_rows(inputs, kernel)
        else:
            out = convolve(inputs, kernel, self.pooled)
        if self.use_bias:
            out = out + self.bias
        return out if self.activation is None else self.activation(out)


def _convolve_rows(inputs: keras.KerasTensor, kernel: keras.KerasTensor) -> keras.KerasTensor:
    """(batch, z, y, x, C), (k, k, k, C, filters) -> (batch, z, y, x, filters)."""
    _, z, y, x, channels = inputs.shape
    size, filters = kernel.shape[0], kernel.shape[-1]
    before = size // 2
    banded = ops.einsum("aio,zyacf->zyicof", band(x, size), kernel)
    banded = ops.reshape(banded, (size, size, x * channels, x * filters))
    rows = ops.reshape(inputs, (-1, z, y, x * channels))
    if _stack:
        out = convolve(rows, banded, 1)
    else:
        rows = ops.pad(rows, [(0, 0), (before, before), (before, before), (0, 0)])
        out = ops.conv(rows, banded, padding="valid", data_format="channels_last")
    return ops.reshape(out, (-1, z, y, x, filters))


@keras.saving.register_keras_serializable("nodulebook")
class BatchNorm(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, on TensorFlow in one operation.

    Keras computes moments and normalisation in separate passes over memory, which takes longer;
    with fewer channels than `FUSED_FROM`, that operation is slower than products of long rows.
    The variance is the mean square of what is left after the mean has been subtracted, so that
    nothing cancels where the mean is much larger than the deviation.
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
        if training and self.trainable:
            out, mean, variance = self._normalise_batch(inputs, places)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                kept = moving * self.momentum
                moving.assign(kept + ops.stop_gradient(value) * (1 - self.momentum))
        else:
            scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
            shift = self.beta - self.moving_mean * scale
            rows = ops.reshape(inputs, (-1, places * channels))
            out = rows * ops.tile(scale, places) + ops.tile(shift, places)
        return ops.reshape(out, (-1, *inputs.shape[1:]))

    def _normalise_batch(
        self, inputs: keras.KerasTensor, places: int
    ) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
        """The outcome, in any shape of as many numbers, and the mean and variance of the batch."""
        channels = inputs.shape[-1]
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if not on_tensorflow or channels < FUSED_FROM:
            rows = ops.reshape(inputs, (-1, places * channels))
            mean = _mean_of_rows(rows, channels)
            centred = rows - ops.tile(mean, places)
            variance = _mean_of_rows(ops.square(centred), channels)
            scale = self.gamma * ops.rsqrt(variance + self.epsilon)
            out = centred * ops.tile(scale, places) + ops.tile(self.beta, places)
            return out, mean, variance
        from tensorflow.raw_ops import FusedBatchNormV3

        lines = math.prod(inputs.shape[1:-2])
        maps = ops.reshape(inputs, (-1, lines, places, channels))
        done = FusedBatchNormV3(
            x=maps,
            scale=self.gamma,
            offset=self.beta,
            mean=(),
            variance=(),
            epsilon=self.epsilon,
            is_training=True,
        )
        # It estimates the variance of a population: the mean square times n / (n - 1).
        n = ops.cast(ops.shape(maps)[0] * lines * places, maps.dtype)
        variance = done.batch_variance * (ops.maximum(n - 1, 1) / n)
        return done.y, done.batch_mean, variance


def _mean_of_rows(rows: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """(n, places * C) -> (C,): the mean, in a stack over the patches that count."""
    if keras.backend.backend() == "tensorflow":  # long rows as a product: fast, and exact enough
        n = ops.cast(ops.shape(rows)[0], rows.dtype)
        sums = ops.matmul(ops.ones((1, ops.shape(rows)[0]), rows.dtype), rows) / n
        return ops.mean(ops.reshape(sums, (-1, channels)), axis=0)
    rows = ops.reshape(rows, (-1, channels))
    if not _stack:
        return ops.mean(rows, axis=0)
    kept = _stack[-1][0]
    each = ops.repeat(kept, rows.shape[0] // kept.shape[0])
    return ops.sum(each[:, None] * rows, axis=0) / ops.maximum(ops.sum(each), 1)


@keras.saving.register_keras_serializable("nodulebook")
class Conv2D(layers.Conv2D):
    """`keras.layers.Conv2D` (padding "same"), which can also be traced for a stack."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, y, x, C) -> (batch, y / step, x / step, filters)."""
        if not _stack:
            return super().call(inputs)
        out = convolve(inputs, self.kernel, self.strides[0])
        return out + self.bias if self.use_bias else out


@keras.saving.register_keras_serializable("nodulebook")
class VoxelMean(layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` as a matrix product."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, C)."""
        _, z, y, x, channels = inputs.shape
        if _stack:  # a product may be computed in a lower precision
            return ops.mean(inputs, axis=(1, 2, 3))
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


class _Pool2(layers.Layer):
    """A pooling of cubes of 2 voxels; z and y are pooled as 2D rows along x."""

    def __init__(self, pool_size: int = 2, **options: Any) -> None:
        """Take what Keras's pooling takes; only cubes of 2 voxels are pooled here."""
        super().__init__(pool_size, **options)
        if (*self.pool_size, *self.strides) != (2,) * 6 or self.padding != "valid":
            raise ValueError(f"{type(self).__name__} pools cubes of 2 voxels, padding valid")

    def _pairs(self, inputs: keras.KerasTensor, pool: Callable[..., Any]) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / 2, y / 2, x / 2, 2 C): x is still to be pooled."""
        _, z, y, x, channels = inputs.shape
        rows = ops.reshape(inputs, (-1, z, y, x * channels))
        rows = pool(rows, 2, 2, data_format="channels_last")
        return ops.reshape(rows, (-1, z // 2, y // 2, x // 2, 2 * channels))


@keras.saving.register_keras_serializable("nodulebook")
class AveragePool3D(_Pool2, layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D(2)`: z and y by a 2D pooling of rows, x by a product."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / 2, y / 2, x / 2, C)."""
        halves = np.concatenate([np.eye(inputs.shape[-1], dtype=np.float32) / 2] * 2)
        return ops.matmul(self._pairs(inputs, ops.average_pool), halves)


@keras.saving.register_keras_serializable("nodulebook")
class MaxPool3D(_Pool2, layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D(2)`: z and y by a 2D pooling of rows, x as the larger of two."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """(batch, z, y, x, C) -> (batch, z / 2, y / 2, x / 2, C)."""
        pairs, channels = self._pairs(inputs, ops.max_pool), inputs.shape[-1]
        return ops.maximum(pairs[..., :channels], pairs[..., channels:])
