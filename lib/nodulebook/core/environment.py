"""Settings from outside that could change numbers: fixed, or noted in `run.json`."""

import os
import re

_NOTED = re.compile(r"(TF|XLA|JAX|NVIDIA|ONEDNN|DNNL|MKL|OMP|OPENBLAS|KERAS)_")
# Terraform's variables begin with TF_ too, and may hold secrets: they are never written down.
_HARMLESS = re.compile(
    r"TF_(VAR|CLI|TOKEN|HTTP)_.*|TF_(LOG.*|DATA_DIR|WORKSPACE|INPUT|IN_AUTOMATION|PLUGIN.*|REATTACH.*)|"
    r"KERAS_(BACKEND|HOME)|TF_(CPP_.*|NUM_INTEROP_THREADS|FORCE_GPU_ALLOW_GROWTH)|XLA_PYTHON_.*"
    r"|JAX_(COMPILATION|PERSISTENT)_.*|NVIDIA_(REQUIRE_.*|VISIBLE_.*|DRIVER_.*|PRODUCT_.*)"
)


def set_environment() -> None:
    """Set the variables that Keras and TensorFlow read when they are imported.

    The backend is that of KERAS_BACKEND, or TensorFlow: never that of ~/.keras/keras.json. One
    thread computes an operation: sums are then added in the same order whatever the number of
    cores, and ten folds in parallel use the cores better than one fold with all of them.
    """
    os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"


def noted_environment() -> dict[str, str]:
    """The variables of the libraries that compute, as they are set: for `run.json`."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if _NOTED.match(name) and not _HARMLESS.fullmatch(name)
    }
