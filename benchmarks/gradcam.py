"""Seconds for the Grad-CAM++ maps of a batch of 24: ours beside tf-keras-vis, in one run.

    python benchmarks/gradcam.py [--profile paper] [--rounds 5]

Same model (the profile's network, weights as initialised), same volumes, same class, same layer,
maps at input size. The two take turns; a first call of each, in which graphs are built, is shown
by itself. Before that the maps are compared: with its division of the alphas turned on, ours must
correlate with theirs by more than 0.999 on each volume where both are non-zero.
"""

import argparse
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np

from nodulebook.core.settings import read_profile
from nodulebook.explain.gradcam import grad_cam_plus_plus, resize_linear
from nodulebook.model.senet import MALIGNANT
from nodulebook.model.train import build_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports an old SciPy namespace
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

BATCH = 24


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    model = build_model(read_profile(given.profile))
    volumes = np.random.default_rng(0).random((BATCH, 32, 32, 32, 1), dtype=np.float32)
    to_logits = keras.Model(model.inputs, model.get_layer("logits").output)
    theirs = GradcamPlusPlus(to_logits, clone=False)

    def vis(expand=True):
        return theirs(
            lambda output: output[:, MALIGNANT],
            volumes,
            penultimate_layer="last_convolution",
            seek_penultimate_conv_layer=False,
            expand_cam=expand,
        )

    def ours(**options):
        return grad_cam_plus_plus(model, volumes, MALIGNANT, **options)

    fine = ours(divide_alphas=True)
    shape = fine.shape[1:]
    # Interpolated as ours.
    coarse = resize_linear(np.asarray(vis(expand=False), dtype=float), shape)
    same = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(fine, coarse, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    first = {"ours": timed(ours)[0], "tf-keras-vis": timed(vis)[0]}
    times = {"ours": [], "tf-keras-vis": []}
    for _ in range(given.rounds):
        for name, call in (("ours", ours), ("tf-keras-vis", vis)):
            times[name].append(timed(call)[0])
    best = {name: min(values) for name, values in times.items()}
    ratios = [b / a for a, b in zip(times["ours"], times["tf-keras-vis"], strict=True)]
    print(
        f"profile {given.profile}, batch {BATCH}, {os.environ['TF_NUM_INTRAOP_THREADS']} thread(s) "
        f"an operation, {given.rounds} rounds\n"
        f"smallest correlation of the maps: {min(same, default=np.nan):.6f} ({len(same)} volumes)\n"
        f"a call after the first two   ours {first['ours']:.3f} s, "
        f"tf-keras-vis {first['tf-keras-vis']:.3f} s\n"
        f"best                         ours {best['ours']:.3f} s, "
        f"tf-keras-vis {best['tf-keras-vis']:.3f} s: "
        f"{best['tf-keras-vis'] / best['ours']:.1f} times faster "
        f"(round by round {min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
