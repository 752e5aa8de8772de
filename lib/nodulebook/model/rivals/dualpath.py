"""The 3D dual path network of DeepLung, Zhu et al. 2018 (the paper's [31])."""

import keras
from keras import layers

from nodulebook.core.settings import RivalSettings
from nodulebook.model.layers import VoxelMean
from nodulebook.model.parts import Parts, last_convolution

MODULES = (2, 2, 6, 2)
"""Of each stage; DeepLung has 30, most of them in the third."""

GROUPS = 2


@keras.saving.register_keras_serializable("nodulebook")
class DualPathJoin(layers.Layer):
    """Add the first channels of two maps, and keep what each has beyond them side by side."""

    def __init__(self, added: int, **options: object) -> None:
        """Take the number of channels of the residual path."""
        super().__init__(**options)
        self.added = added

    def get_config(self) -> dict[str, object]:
        """What makes this layer again."""
        config: dict[str, object] = super().get_config()
        return config | {"added": self.added}

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        """(batch, z, y, x, A + B), (batch, z, y, x, A + D) -> (batch, z, y, x, A + B + D)."""
        x, u = inputs
        n = self.added
        parts = [x[..., :n] + u[..., :n], x[..., n:], u[..., n:]]
        return keras.ops.concatenate(parts, axis=-1)


def dualpath3d(settings: RivalSettings, weight_decay: float) -> keras.Model:
    """A convolution, four stages of dual path modules, global average pooling, FC.

    A module (Chen et al. 2017): 1^3, grouped 3^3 and 1^3 convolution to A + D channels; the first
    A are added to the first A that come in, as in a residual network, the other D are appended, as
    in a dense one. The first module of a stage has a shortcut convolution to A + D channels, so a
    stage of k modules ends with A + (k + 1) D.

    Kept: the module, the stages' proportions, the features that DeepLung hands to its gradient
    boosting (the global average, layer "global_pool"). Differs: 12 modules in place of 30, fewer
    channels, and a stage is entered by a convolution that averages in place of one with a stride.
    """
    make = Parts(settings, weight_decay)

    def module(
        x: keras.KerasTensor, added: int, dense: int, first: bool, pooled: int, name: str
    ) -> keras.KerasTensor:
        inner = added // 2
        u = make.unit3d(x, inner, 1, f"{name}a")
        u = make.unit3d(u, inner, 3, f"{name}b", GROUPS, pooled)
        u = make.normalise(make.convolve3d(u, added + dense, 1, f"{name}c"), f"{name}c")
        if first:
            name_of_it = f"{name}_shortcut"
            x = make.convolve3d(x, added + dense, 1, name_of_it, pooled=pooled)
            x = make.normalise(x, name_of_it)
        x = DualPathJoin(added, name=f"{name}_join")([x, u])
        return layers.ReLU(name=f"{name}_relu")(x)

    inputs, x = make.patch()
    x = make.unit3d(x, settings.width, 3, "first", pooled=2)
    for stage, depth in enumerate(MODULES):
        added = settings.width * 2**stage
        for index in range(depth):
            pooled = 2 if stage in (1, 2) and not index else 1
            name = f"stage{stage + 1}_module{index + 1}"
            x = module(x, added, max(4, added // 8), not index, pooled, name)
    x = VoxelMean(name="global_pool")(last_convolution(x))
    return make.classify(inputs, x)
