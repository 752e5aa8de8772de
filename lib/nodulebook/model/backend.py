"""The Keras backend: made deterministic, and described for `run.json`."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import keras


def make_deterministic(seed: int) -> None:
    """Seed every generator, and have TensorFlow use only operations that repeat exactly.

    Precision and axis order are the library's own, whatever ~/.keras/keras.json says.
    """
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


@contextmanager
def brief_compilation() -> Iterator[None]:
    """Within it, JAX compiles for a processor without optimising: for what is computed only once.

    The first weights of each shape are an operation of their own. Compiled so, our network is built
    in half the time, and the weights differ by rounding.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, before or jax.default_backend() == "cpu")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update(name, before)  # type: ignore[no-untyped-call]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    backend = keras.backend.backend()
    packages = ("keras", backend, "numpy", "scipy", "pandas", "scikit-learn", "nodulebook")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def precision() -> str:
    """Of products: Keras's, or "tensorfloat32" where a GPU may round the factors to 10 bits."""
    backend = keras.backend.backend()
    own = str(keras.config.dtype_policy().compute_dtype)
    if own != "float32" or device().startswith("CPU"):
        return own
    if backend == "jax":
        import jax

        set_to = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        rounded = set_to not in ("float32", "highest")
    elif backend == "torch":
        import torch

        rounded = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    else:
        import tensorflow

        rounded = tensorflow.config.experimental.tensor_float_32_execution_enabled()
    return "tensorfloat32" if rounded else own


def device() -> str:
    """What the backend computes on: a graphics processor or the processor, by name."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        first = jax.devices()[0]
        if first.platform != "cpu":
            return f"GPU: {first.device_kind}"
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return f"GPU: {torch.cuda.get_device_name(0)}"
    if backend == "tensorflow":
        import tensorflow

        for found in tensorflow.config.list_physical_devices("GPU"):
            details = tensorflow.config.experimental.get_device_details(found)
            return f"GPU: {details.get('device_name', found.name)}"
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:  # not Linux
        pass
    threads = os.environ["TF_NUM_INTRAOP_THREADS"] if backend == "tensorflow" else os.cpu_count()
    return f"CPU: {name}, {threads} of {os.cpu_count()} cores"
