"""Networks in tables: layers, sizes, parameters and multiply-adds (the paper's Table 2)."""

import re
from typing import Any

import numpy as np
import pandas as pd


def layer_table(model: Any) -> pd.DataFrame:
    """The paper's Table 2 from a Keras model: part, output shape and size, parameters, work."""
    rows: dict[str, dict[str, Any]] = {}
    for layer in model.layers:
        part = _part(layer.name)
        shape = layer.output.shape[1:]
        row = rows.setdefault(part, {"part": part, "parameters": 0, "multiply-adds": 0})
        row["output shape"] = " × ".join(str(n) for n in shape)
        row["output size"] = f"{int(np.prod(shape)):,}"
        row["parameters"] += layer.count_params()
        row["multiply-adds"] += multiply_adds(layer)
    table = pd.DataFrame(rows.values())
    total: dict[str, Any] = {"part": "all", "output shape": "", "output size": ""}
    counts = ("parameters", "multiply-adds")
    total |= {name: int(table[name].sum()) for name in counts}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    for name in counts:
        table[name] = [f"{n:,}" for n in table[name]]
    return table[["part", "output shape", "output size", *counts]]


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
    """Depth, last maps, parameters and multiply-adds of several models, a row each."""
    rows = []
    for name, model in networks.items():
        last = model.get_layer("last_convolution").output.shape[1:]
        modules = [
            len(
                {
                    m[1]
                    for layer in model.layers
                    if (m := re.match(rf"stage{k}_module(\d+)", layer.name))
                }
            )
            for k in range(1, 5)
        ]
        rows.append(
            {
                "profile": name,
                "modules": "-".join(str(n) for n in modules),
                "last maps": " × ".join(str(n) for n in last),
                "parameters": f"{model.count_params():,}",
                "multiply-adds": f"{sum(multiply_adds(x) for x in model.layers) / 1e6:.1f} M",
            }
        )
    return pd.DataFrame(rows)
