"""Seconds per patch of the paper's network: our Keras step against plain PyTorch, in one run.

    make backends bench        (or: python benchmarks/training_step.py [--threads 1] [--rounds 5])

The two take turns, each in a process of its own with the same number of threads; the table gives
each one's best round, the ratio, the multiply-adds per second against those of a large matrix
product on the same machine, and a roofline: what the step would take if every multiplication ran as
fast as in a large product, and every number that must be moved as fast as in a large copy. PyTorch
is written as its users write it: nn.Conv3d, nn.BatchNorm3d, nn.AvgPool3d, default memory layout.
On a machine that others use too, `--clock cpu` counts a thread's own seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import time

BATCH = 24
STEPS = 6


def best_of(step, count=STEPS):
    """Seconds of the fastest of some calls: what the code needs when nobody disturbs it."""
    step()
    step()
    times = []
    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
    for _ in range(count):
        start = clock()
        step()
        times.append(clock() - start)
    return min(times)


PASSES = {
    # numbers moved in a training step, in units of (inputs, outputs): forward, then backward
    "RowConv3D": (1 + 2, 1 + 2),  # x is read, y written; dy is read twice, x again, dx written
    "BatchNorm": (2 + 3, 1 + 2),  # x is read for moments and again; dy and x twice, dx written
    "Activation": (1 + 1, 1 + 2),
    "ScaleChannels": (1 + 2, 1 + 2),
    "VoxelMean": (1 + 1, 0),
    "Add": (1, 1),
    "AveragePool3D": (1 + 1, 1 + 1),
}


def moved(layer):
    """Bytes that a layer must read and write in a training step, a patch, if nothing is cached."""
    import math

    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    sizes = sum(math.prod(one.shape[1:]) for one in inputs), math.prod(layer.output.shape[1:])
    return 4 * sum(n * size for n, size in zip(PASSES[type(layer).__name__], sizes, strict=True))


def patches():
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.random((BATCH, 32, 32, 32), dtype=np.float32), np.arange(BATCH) % 2


def measure_keras(profile_name):
    import numpy as np
    from keras import ops

    from nodulebook.core.settings import read_profile
    from nodulebook.model.augment import augmented_epoch
    from nodulebook.model.train import build_model, predict_malignant
    from study.report.method.networks import multiply_adds

    volumes, label = patches()
    profile = read_profile(profile_name)
    model = build_model(profile)
    training = profile.training
    step = best_of(lambda: model.train_on_batch(volumes[..., None], label))
    side = np.ones((2048, 2048), np.float32)
    tensor = ops.convert_to_tensor(side)
    long, copy = np.ones((2, 64 << 20), np.uint8)
    kinds = {}
    for layer in model.layers:
        name = type(layer).__name__
        if name in PASSES:
            done = kinds.setdefault(name, [0, 0])
            done[0] += 3 * multiply_adds(layer)
            done[1] += moved(layer)
    return {
        "train": step / BATCH,
        "predict": best_of(lambda: predict_malignant(model, volumes)) / BATCH,
        "input": best_of(
            lambda: augmented_epoch(volumes, 0, 0, training.flips, training.quarter_turns)
        )
        / BATCH,
        "multiply_adds": sum(multiply_adds(layer) for layer in model.layers),
        # On some processors, one of the two libraries has no routine for the widest vectors.
        "matrix_product": 2048**3
        / min(best_of(lambda: side @ side), best_of(lambda: ops.matmul(tensor, tensor))),
        "bandwidth": 2 * long.nbytes / best_of(lambda: np.copyto(copy, long)),
        "kinds": kinds,
        "parameters": int(sum(np.prod(w.shape) for w in model.trainable_variables)),
    }


def measure_torch(profile_name, threads):
    import torch
    from torch import nn
    from torch.nn import functional

    from nodulebook.core.settings import read_profile

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    profile = read_profile(profile_name)
    settings, training = profile.network, profile.training
    wanted = (settings.block, settings.groups, settings.activation, settings.input_pooling)
    if wanted != ("residual", 1, "relu", 1) or not settings.pool_before_norm:
        sys.exit(f"profile {profile_name}: this benchmark's PyTorch network is another one")

    def convolve(inside, outside, size):
        convolution = nn.Conv3d(inside, outside, size, padding=size // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm3d(outside))

    class Module(nn.Module):
        def __init__(self, inside, channels):
            super().__init__()
            inner = channels // settings.bottleneck
            self.a = convolve(inside, inner, 1)
            self.b = convolve(inner, inner, 3)
            self.c = convolve(inner, channels, 1)
            self.reduce = nn.Linear(channels, max(1, channels // settings.reduction))
            self.excite = nn.Linear(max(1, channels // settings.reduction), channels)
            same = inside == channels
            self.shortcut = nn.Identity() if same else convolve(inside, channels, 1)

        def forward(self, x):
            u = functional.relu(self.a(x))
            u = self.c(functional.relu(self.b(u)))
            if settings.squeeze_excitation:
                s = functional.mish(self.reduce(u.mean((2, 3, 4))))
                u = u * torch.sigmoid(self.excite(s))[:, :, None, None, None]
            return functional.relu(self.shortcut(x) + u)

    first = settings.filters[0]
    parts = [
        nn.Conv3d(1, first, 3, padding=1, bias=False),
        nn.AvgPool3d(2),
        nn.BatchNorm3d(first),
        nn.ReLU(),
    ]
    inside = first
    for stage, (channels, depth) in enumerate(
        zip(settings.filters, settings.modules, strict=True), start=1
    ):
        for _ in range(depth):
            parts.append(Module(inside, channels))
            inside = channels
        if f"stage{stage}" in settings.pool_after:
            parts.append(nn.AvgPool3d(2))
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(inside, 2))
    optimizer = torch.optim.SGD(
        model.parameters(),
        training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    volumes, label = (torch.from_numpy(array) for array in patches())

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(volumes[:, None]), label)
        loss.backward()
        optimizer.step()
        return loss.item()

    def predict():
        with torch.inference_mode():
            return torch.softmax(model(volumes[:, None]), 1)

    train = best_of(step) / BATCH
    model.eval()
    return {
        "train": train,
        "predict": best_of(predict) / BATCH,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--measure", choices=("keras", "torch"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measured = (
            measure_keras(given.profile)
            if given.measure == "keras"
            else measure_torch(given.profile, given.threads)
        )
        print(json.dumps(measured))
        return
    threads = str(given.threads)
    env = os.environ | dict.fromkeys(
        ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        threads,
    )
    env["BENCH_CLOCK"] = given.clock
    best = {"keras": {}, "torch": {}}
    for turn in range(given.rounds):
        for name in best:
            command = [sys.executable, __file__, "--profile", given.profile, "--threads", threads]
            done = subprocess.run(
                [*command, "--measure", name], env=env, stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                sys.exit(f"{name} could not be measured (for PyTorch: make backends)")
            found = json.loads(done.stdout.splitlines()[-1])
            for key, value in found.items():
                better = max if key in ("matrix_product", "bandwidth") else min
                best[name][key] = (
                    value if key == "kinds" else better(value, best[name].get(key, value))
                )
            print(f"round {turn + 1} {name}: {1e3 * found['train']:.2f} ms a patch", flush=True)
    ours, plain = best["keras"], best["torch"]
    if ours["parameters"] != plain["parameters"]:
        sys.exit(f"not the same network: {ours['parameters']} and {plain['parameters']} weights")
    reached = 3 * ours["multiply_adds"] / ours["train"]  # forward, and twice that backward
    print(
        f"\nprofile {given.profile}, {ours['parameters']:,} weights, batch {BATCH}, "
        f"{threads} thread(s); best of {given.rounds} rounds\n"
        f"training step   Keras {1e3 * ours['train']:.2f} ms a patch, "
        f"PyTorch {1e3 * plain['train']:.2f}: {plain['train'] / ours['train']:.2f} times faster\n"
        f"prediction      Keras {1e3 * ours['predict']:.2f} ms a patch, "
        f"PyTorch {1e3 * plain['predict']:.2f}: "
        f"{plain['predict'] / ours['predict']:.2f} times faster\n"
        f"augmentation    {1e3 * ours['input']:.3f} ms a patch, "
        f"{ours['input'] / ours['train']:.1%} of a step\n"
        f"multiply-adds   {ours['multiply_adds'] / 1e6:.1f} million a patch forward; "
        f"{reached / 1e9:.1f} thousand million a second in training; "
        f"a large matrix product: {ours['matrix_product'] / 1e9:.1f} "
        f"({reached / ours['matrix_product']:.0%} of it)\n"
        f"copying memory  {ours['bandwidth'] / 1e9:.1f} GB/s read and written\n\n"
        "roofline         million multiply-adds   MB moved   ms at full speed (products, memory)"
    )
    floor = 0.0
    for name, (products, size) in sorted(ours["kinds"].items(), key=lambda item: -item[1][1]):
        least = products / ours["matrix_product"], size / ours["bandwidth"]
        floor += max(least)
        print(
            f"{name:16} {products / 1e6:22.1f} {size / 1e6:10.2f} "
            f"{1e3 * least[0]:14.2f} {1e3 * least[1]:10.2f}"
        )
    print(
        f"together at least {1e3 * floor:.2f} ms a patch; measured {1e3 * ours['train']:.2f}, "
        f"so the step reaches {floor / ours['train']:.0%} of what this machine allows"
    )


if __name__ == "__main__":
    main()
