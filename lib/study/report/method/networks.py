"""Networks in tables: layers, sizes, parameters and multiply-adds (the paper's Table 2)."""

import re
from typing import Any

import numpy as np
import pandas as pd


def layer_table(model: Any) -> pd.DataFrame:
    """The paper's Table 2 from a Keras model: part, output shape and size, parameters, work."""
    counts = ["parameters", "multiply-adds"]
    rows = [
        {
            "part": _part(layer.name),
            "output shape": " × ".join(map(str, layer.output.shape[1:])),
            "output size": f"{int(np.prod(layer.output.shape[1:])):,}",
            "parameters": layer.count_params(),
            "multiply-adds": multiply_adds(layer),
        }
        for layer in model.layers
    ]
    layers = pd.DataFrame(rows)
    how = {"output shape": "last", "output size": "last"} | dict.fromkeys(counts, "sum")
    table = layers.groupby("part", sort=False, as_index=False).agg(how)
    total = {"part": "all", "output shape": "", "output size": ""} | dict(layers[counts].sum())
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    return table.assign(**{name: table[name].map("{:,}".format) for name in counts})


def multiply_adds(layer: Any) -> int:
    """Multiply-adds of a convolution or fully connected layer for one patch; 0 for any other.

    Counted for the layer as described, C_in / groups * k^3 for each output number, padding
    included: not for how it is computed.
    """
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    places = int(np.prod(layer.output.shape[1:])) * getattr(layer, "pooled", 1) ** 3
    return places * int(np.prod(kernel.shape[:-1]))


def _part(layer: str) -> str:
    """The row of Table 2 that a layer of `network.senet` belongs to."""
    if match := re.match(r"stage(\d)_module", layer):
        return f"stage {match[1]}: SE modules"
    if match := re.match(r"stage(\d)_pool", layer):
        return f"average pooling after stage {match[1]}"
    return {
        "patch": "patch",
        "input_pool": "average pooling of the patch",
        "first_convolution_pool": "average pooling after the first convolution",
        "last_convolution": "stage 4: SE modules",
        "global_pool": "global average pooling",
        "logits": "fully connected",
        "probabilities": "softmax",
    }.get(layer, "first convolution 3³")


def network_table(networks: dict[str, Any]) -> pd.DataFrame:
    """Depth, last maps, parameters and multiply-adds of several models, one row each."""
    rows = []
    for name, model in networks.items():
        layers = " ".join(layer.name for layer in model.layers)
        modules = [len(set(re.findall(rf"stage{k}_module(\d+)", layers))) for k in range(1, 5)]
        last = model.get_layer("last_convolution").output.shape[1:]
        rows.append(
            {
                "profile": name,
                "modules": "-".join(map(str, modules)),
                "last maps": " × ".join(map(str, last)),
                "parameters": f"{model.count_params():,}",
                "multiply-adds": f"{sum(map(multiply_adds, model.layers)) / 1e6:.1f} M",
            }
        )
    return pd.DataFrame(rows)
