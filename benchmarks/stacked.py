"""Patches per second of the stacked path (JAX), one after another, and by Keras.

    KERAS_BACKEND=jax python benchmarks/stacked.py [--profile paper] [--members 10]
        [--precision tensorfloat32] [--batches 8]

They take turns in one process on made-up patches, each after it has been compiled. "All in one
operation" is how a graphics card trains a stack; a processor's cores share the members instead. The
last line compares the best with a large matrix product of the same precision on the same device.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pandas as pd
from jax import numpy as jnp

from nodulebook.core.settings import read_profile
from nodulebook.model.backend import device
from nodulebook.model.cores import use_every_core
from nodulebook.model.stacked import Member, Stack
from nodulebook.model.targets import FoldData
from nodulebook.model.train import build_model, train
from study.report.method.networks import multiply_adds


def members_of(profile, count, patches, folder):
    generator = np.random.default_rng(0)
    volumes = generator.random((patches, 32, 32, 32), dtype=np.float32)
    table = pd.DataFrame({"nodule_id": [f"n{i}" for i in range(patches)]})
    table["label"] = np.arange(patches) % 2
    data = FoldData(table, table, volumes, volumes, [], "made")
    made = [profile.model_copy(update={"seed": seed}) for seed in range(count)]
    return [Member(one, 0, data, folder / f"{one.seed}.npz") for one in made]


def of_product(precision):
    side = jnp.ones((8192, 8192) if jax.devices()[0].platform != "cpu" else (2048, 2048))
    with jax.default_matmul_precision(precision):
        product = jax.jit(lambda a: a @ a)
        product(side).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            product(side).block_until_ready()
            times.append(time.perf_counter() - start)
    return side.shape[0] ** 3 / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batches", type=int, default=8, help="training steps in an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="the first one compiles")
    given = parser.parse_args()
    use_every_core()
    profile = read_profile(given.profile)
    training = profile.training.model_copy(
        update={"epochs": given.epochs, "learning_rate": 1e-4, "learning_rate_drops": []}
    )
    profile = profile.model_copy(update={"training": training})
    if training.beyond_labels:
        raise SystemExit("a profile whose targets are labels, please")
    patches = given.batches * training.batch_size
    with tempfile.TemporaryDirectory() as name:
        members = members_of(profile, given.members, patches, Path(name))
        stack = Stack(members, given.precision)
        quiet = {"report": lambda line: None}
        stack.train(members, **quiet)
        seconds = {"all at once": sum(stack.load(m)[-1]["seconds"] for m in members)}
        if jax.default_backend() == "cpu":
            for member in members:
                member.checkpoint.unlink()
            one = partial(stack._epoch, products=True)
            stack._many = jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
            stack.train(members, **quiet)
            took = sum(stack.load(m)[-1]["seconds"] for m in members)
            seconds["all in one operation"] = took
        members[0].checkpoint.unlink()
        stack.train(members[:1], **quiet)
        seconds["one after another"] = given.members * stack.load(members[0])[-1]["seconds"]
        with jax.default_matmul_precision(given.precision):
            path = Path(name) / "keras.npz"
            model = build_model(profile)
            history = train(model, profile, members[0].data, 0, path, lambda line: None)
        seconds["Keras, one by one"] = given.members * min(row["seconds"] for row in history[1:])
    print(f"{given.profile}, {given.members} members, {given.precision}, {device()}")
    for how, took in seconds.items():
        print(f"{how:20} {given.members * patches / took:9.0f} patches a second")
    wanted = 3 * sum(multiply_adds(layer) for layer in model.layers)
    best = given.members * patches / min(seconds.values())
    print(
        f"{best * wanted / 1e9:.1f} thousand million multiply-adds a second in training, "
        f"{best * wanted / of_product(given.precision):.1%} of a large matrix product"
    )


if __name__ == "__main__":
    main()
