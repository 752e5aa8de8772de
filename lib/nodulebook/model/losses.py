"""The loss of the paper's reference 15 (DeepSEED, Li and Fan 2020)."""

from typing import Any

import keras
from keras import ops

EPSILON = 1e-7


@keras.saving.register_keras_serializable("nodulebook")
class DynamicCrossEntropy(keras.losses.Loss):
    """Dynamically scaled cross-entropy: -(1 - p)^gamma log p, p the true class's probability.

    What is already right counts little (Lin et al. 2017, Eq. 4, gamma = 2 as there). Weights of
    the classes are left out: ours are nearly balanced.
    """

    def __init__(self, gamma: float = 2.0, **options: Any) -> None:
        """Take the exponent of the scaling factor; 0 gives the cross-entropy."""
        super().__init__(**options)
        self.gamma = gamma

    def get_config(self) -> dict[str, Any]:
        """What makes this loss again."""
        config: dict[str, Any] = super().get_config()
        return config | {"gamma": self.gamma}

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Labels (batch,) or (batch, 1) and probabilities (batch, classes) -> (batch,)."""
        own = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), (-1,)), y_pred.shape[-1])
        p = ops.clip(ops.sum(own * y_pred, axis=-1), EPSILON, 1 - EPSILON)
        return -((1 - p) ** self.gamma) * ops.log(p)
