"""The kernel of a fold's notebook: this Python, whatever kernels the site has installed."""

import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class OwnKernel(AsyncKernelManager):
    """Starts the interpreter that this process runs in, not the first "python3" on JUPYTER_PATH."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel, by the path of the interpreter."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")
