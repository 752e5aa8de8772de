"""Seconds per patch of the headline network: our Keras step beside plain PyTorch, in one run.

    make backends bench        (or: python benchmarks/training_step.py [--threads 1] [--rounds 5])

The two take turns, each in a process of its own with the same number of threads; the table gives
each one's best round, the ratio, and the multiply-adds per second beside those of a large matrix
product on the same machine. PyTorch is written as its users write it: nn.Conv3d, nn.BatchNorm3d,
nn.AvgPool3d, default memory layout.
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
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def patches():
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.random((BATCH, 32, 32, 32), dtype=np.float32), np.arange(BATCH) % 2


def measure_keras(profile_name):
    import numpy as np

    from nodulebook.core.settings import read_profile
    from nodulebook.model.augment import augmented_epoch
    from nodulebook.model.train import build_model, predict_malignant
    from study.report.pooled import multiply_adds

    volumes, label = patches()
    profile = read_profile(profile_name)
    model = build_model(profile)
    training = profile.training
    step = best_of(lambda: model.train_on_batch(volumes[..., None], label))
    side = np.ones((2048, 2048), np.float32)
    return {
        "train": step / BATCH,
        "predict": best_of(lambda: predict_malignant(model, volumes)) / BATCH,
        "input": best_of(
            lambda: augmented_epoch(volumes, 0, 0, training.flips, training.quarter_turns)
        )
        / BATCH,
        "multiply_adds": sum(multiply_adds(layer) for layer in model.layers),
        "matrix_product": 2048**3 / best_of(lambda: side @ side),
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
                better = max if key == "matrix_product" else min
                best[name][key] = better(value, best[name].get(key, value))
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
        f"a large matrix product: {ours['matrix_product'] / 1e9:.1f}"
    )


if __name__ == "__main__":
    main()
