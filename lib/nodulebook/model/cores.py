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
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    cores = jax.devices()[:members]
    mesh = Mesh(np.array(cores), ("core",))
    by_core, whole = PartitionSpec("core"), PartitionSpec()  # type: ignore[no-untyped-call]
    split, on_all = NamedSharding(mesh, by_core), NamedSharding(mesh, whole)

    def share(states: Any, batches: Any, patches: Any, voxels: Any) -> Any:
        return jax.lax.map(lambda of: one(*of, patches, voxels), (states, batches))

    compiled = jax.jit(
        jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(by_core, by_core, whole, whole),
            out_specs=by_core,
            check_vma=False,
        )
    )

    shared: list[Any] = []  # patches and voxels, once they have been given to every core

    def all_of_them(states: Any, batches: Any, patches: Any, voxels: Any) -> Any:
        if not shared:
            shared.append(jax.device_put(jax.device_get((patches, voxels)), on_all))
        n = len(batches[0])
        # All cores take as many; where places are left over, the last member takes them too.
        rows = np.minimum(np.arange(-(-n // len(cores)) * len(cores)), n - 1)
        # Members are put in their places here and not by JAX, whose devices would wait for each
        # other, and end the process where a busy machine keeps one of them waiting.
        filled = jax.tree.map(lambda part: part[rows], jax.device_get((states, batches)))
        done = jax.device_get(compiled(*jax.device_put(filled, split), *shared[0]))
        return jax.tree.map(lambda part: part[:n], done)

    return all_of_them
