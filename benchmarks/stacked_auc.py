"""The pooled AUC of ten folds trained as a stack, and of the same ten trained one by one (JAX).

    KERAS_BACKEND=jax python benchmarks/stacked_auc.py --data ~/lidc [--profile quick] [--epochs 4]
        [--learning-rate 0.001]

Both trainings are the same but for rounding. At a small learning rate they stay together; at a
large one, every step enlarges what they differ by, so that single scores differ after a few epochs
(as they do when voxels are changed by 1e-7 of their values).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from sklearn.metrics import roc_auc_score

from nodulebook.core.settings import N_FOLDS, FoldParameters, read_profile
from nodulebook.model.cores import use_every_core
from nodulebook.model.stacked import Member, Stack
from nodulebook.model.train import fresh_model, predict_malignant, train
from nodulebook.runs.network_fold import open_fold


def quiet(line):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="instead of NODULEBOOK_DATA")
    parser.add_argument("--source", default="lidc_slices")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    given = parser.parse_args()
    use_every_core()
    profile = read_profile(given.profile)
    update = {"epochs": given.epochs, "learning_rate": given.learning_rate}
    profile = profile.model_copy(update={"training": profile.training.model_copy(update=update)})
    of = {"profile": given.profile, "source": given.source, "data": given.data}
    opened = [open_fold(FoldParameters(**of, fold=fold), profile)[0] for fold in range(N_FOLDS)]
    scores = {"stacked": [], "one by one": []}
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        members = [
            Member(profile, fold, data, Path(name) / f"{fold}.npz")
            for fold, data in enumerate(opened)
        ]
        start = time.monotonic()
        stack = Stack(members)
        stack.train(members, report=quiet)
        for member in members:
            stack.load(member)
            scores["stacked"].append(predict_malignant(stack.model, member.data.test_volumes))
        seconds["stacked"] = time.monotonic() - start
        start = time.monotonic()
        for member in members:
            model = fresh_model(profile)
            checkpoint = member.checkpoint.with_suffix(".alone.npz")
            train(model, profile, member.data, member.fold, checkpoint, quiet)
            scores["one by one"].append(predict_malignant(model, member.data.test_volumes))
        seconds["one by one"] = time.monotonic() - start
    label = np.concatenate([data.test["label"] for data in opened])
    pooled = {how: np.concatenate(each) for how, each in scores.items()}
    auc = {how: roc_auc_score(label, each) for how, each in pooled.items()}
    apart = np.abs(pooled["stacked"] - pooled["one by one"])
    print(f"{given.profile}, {given.epochs} epochs at {given.learning_rate}, n = {len(label):,}")
    for how in pooled:
        print(f"{how:12} pooled AUC {auc[how]:.4f}, {seconds[how]:.0f} s with compilation")
    print(
        f"difference in AUC {abs(auc['stacked'] - auc['one by one']):.4f}; "
        f"of a score {apart.mean():.4f} in the mean, at most {apart.max():.4f}"
    )


if __name__ == "__main__":
    main()
