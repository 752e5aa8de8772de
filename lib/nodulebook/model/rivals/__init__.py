"""The networks of the works in the paper's Table 4, small, each a function of its settings.

What each keeps of its work and what differs is in its docstring, and in `data/rivals.csv` as the
book shows it. A profile names one with `network: {rival: ..., width: ...}`.
"""

from collections.abc import Callable
from typing import get_args

import keras

from nodulebook.core.settings import NetworkSettings, Rival, RivalSettings
from nodulebook.model.rivals.alexnet import alexnet3d
from nodulebook.model.rivals.dense_tree import densebtnet
from nodulebook.model.rivals.dualpath import dualpath3d
from nodulebook.model.rivals.mobilenet import mobilenet2d
from nodulebook.model.rivals.multi_crop import multicrop
from nodulebook.model.rivals.se_cnn import secnn
from nodulebook.model.rivals.slices_resnet import resnet2d
from nodulebook.model.senet import senet

BUILDERS: dict[str, Callable[[RivalSettings, float], keras.Model]] = {
    "alexnet3d": alexnet3d,
    "resnet2d": resnet2d,
    "multicrop": multicrop,
    "secnn": secnn,
    "densebtnet": densebtnet,
    "dualpath3d": dualpath3d,
    "mobilenet2d": mobilenet2d,
}

assert set(BUILDERS) == set(get_args(Rival))


def build_network(
    settings: NetworkSettings | RivalSettings, weight_decay: float = 0.0
) -> keras.Model:
    """The network that a profile names: ours, or a rival.

    Args:
        settings: `Profile.network`.
        weight_decay: as in `nodulebook.model.senet.senet`.

    Returns:
        A model (batch, 32, 32, 32, 1) -> (batch, 2), with a layer "logits"; its name is `senet`
        or the rival's.
    """
    if isinstance(settings, RivalSettings):
        return BUILDERS[settings.rival](settings, weight_decay)
    return senet(settings, weight_decay)
