"""The members of a stack on a processor: each core trains its share of them, with JAX."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from nodulebook.core.processor import usable_cores


def use_every_core() -> None:
    """Have JAX see each core of the processor as a device; too late where it has computed."""
    import jax

    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", usable_cores())  # type: ignore[no-untyped-call]


def over_cores(one: Callable[..., Any], members: int) -> Callable[..., Any]:
    """A function of several members, in trees of arrays whose first axis is over the members.

    A core computes its members one after another. What a single one needs fits into its cache:
    1.5 times as fast as all of them in one operation (`benchmarks/stacked.py`).

    Args:
        one: (state, batches, patches, voxels) of a member, to a tree of arrays.
        members: how many there are at most.

    Returns:
        A compiled function of (states, batches, patches, voxels); the last two are for all.
    """
    import jax
    from jax import numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    cores = jax.devices()[:members]
    mesh = Mesh(np.array(cores), ("core",))
    split, whole = PartitionSpec("core"), PartitionSpec()  # type: ignore[no-untyped-call]

    def share(states: Any, batches: Any, patches: Any, voxels: Any) -> Any:
        return jax.lax.map(lambda of: one(*of, patches, voxels), (states, batches))

    compiled = jax.jit(
        jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(split, split, whole, whole),
            out_specs=split,
            check_vma=False,
        )
    )

    def all_of_them(states: Any, batches: Any, patches: Any, voxels: Any) -> Any:
        n = len(batches[0])
        # All cores take as many; where places are left over, the last member takes them too.
        rows = np.minimum(np.arange(-(-n // len(cores)) * len(cores)), n - 1)
        filled = jax.tree.map(lambda part: jnp.asarray(part)[rows], (states, batches))
        # Put where they are needed: for other places it would be compiled again.
        filled = jax.device_put(filled, NamedSharding(mesh, split))
        shown = jax.device_put((patches, voxels), NamedSharding(mesh, whole))
        return jax.tree.map(lambda part: part[:n], compiled(*filled, *shown))

    return all_of_them
