"""Draws of patients per second: the library's AUC and calibration line against plainer forms.

    python benchmarks/bootstrap.py [--nodules 1009] [--patients 600] [--draws 2000] [--rounds 5]

AUC: a running sum over rising scores, against one table of cumulative weights (nodules, draws).
Calibration line: Newton's method for a few draws at a time, whose arrays fit into the processor's
cache, from the line of all nodules, against all draws at once from zero. Size-matched pairs of five
seeds: weighed in float32, all pairs once, against float64 and once per seed. The two forms take
turns; the values of both must be equal.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import astuple, is_dataclass
from functools import partial

import numpy as np
import pandas as pd

from nodulebook.stats import added_value, bootstrap, calibration


def auc_by_table(label, score, weight):
    """Every malignant nodule's weight times that of the benign ones below it, ties one half."""
    benign = np.flatnonzero(~label)[np.argsort(score[~label], kind="stable")]
    up_to = np.vstack([np.zeros(len(weight)), np.cumsum(weight.T[benign], axis=0)])
    sides = (np.searchsorted(score[benign], score[label], side) for side in ("left", "right"))
    below, not_above = (up_to[k] for k in sides)
    positive = weight.T[label]
    return (positive * (below + not_above) / 2).sum(axis=0) / (positive.sum(axis=0) * up_to[-1])


def lines_at_once(label, p, weight):
    x = np.column_stack([np.ones(len(p)), calibration.logit(p)])
    return calibration._newton(label, x, np.ascontiguousarray(weight), np.zeros(2))


def matched_by_seed(tables, diameter, draws):
    """`added_value.matched_auc`, its estimates and the draws of each seed by plain products."""
    label = tables[0]["label"].to_numpy() == 1
    size = np.log(diameter.to_numpy())
    alike = np.abs(size[label][:, None] - size[~label]) < np.log1p(added_value.WITHIN)

    def of(table):
        p = table["p_malignant"].to_numpy()
        won = alike * (np.sign(p[label][:, None] - p[~label]) + 1) / 2

        def share(weight):
            positive, negative = weight[:, label], weight[:, ~label]
            total = ((positive @ alike.astype(float)) * negative).sum(axis=1)
            return ((positive @ won) * negative).sum(axis=1) / total

        once = float(share(np.ones((1, len(label))))[0])
        return once, bootstrap.resampled(table["patient_id"], share, draws, 0)

    found = added_value._seed_draws(tables, lambda table, n, seed: of(table), draws, (0, 0))
    return bootstrap.interval_of(*found)


def seconds(forms: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each form; they take turns."""
    taken = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodules", type=int, default=1009)
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    generator = np.random.default_rng(0)
    label = generator.random(given.nodules) < 0.45
    z = generator.normal(0, 1.5, given.nodules) + 2 * label
    p = np.round(1 / (1 + np.exp(1 - z)), 3)  # with ties
    patient = pd.Series(generator.integers(0, given.patients, given.nodules))
    weight = bootstrap.resampled(patient, lambda w: w, given.draws, 0)
    weight = np.asfortranarray(weight)  # as `resampled` gives it: a nodule's draws are neighbours
    pairs = {
        "AUC": (bootstrap.weighted_auc, auc_by_table),
        "calibration line": (calibration._calibration_lines, lines_at_once),
    }
    forms_of = {
        name: {"ours": partial(ours, label, p, weight), "plain": partial(plain, label, p, weight)}
        for name, (ours, plain) in pairs.items()
    }
    table = pd.DataFrame({"label": label.astype(int), "patient_id": patient.astype(str)})
    table = table.assign(nodule_id=table.index.astype(str), fold=table.index % 10)
    tables = [table.assign(p_malignant=generator.permuted(p)) for _ in range(5)]
    diameter = pd.Series(generator.uniform(4, 30, given.nodules), index=table["nodule_id"])
    forms_of["size-matched pairs"] = {
        "ours": partial(added_value.matched_auc, tables, diameter, n_draws=given.draws),
        "plain": partial(matched_by_seed, tables, diameter, given.draws),
    }
    for name, forms in forms_of.items():
        ours, plain = (astuple(x) if is_dataclass(x) else x for x in (f() for f in forms.values()))
        if not np.allclose(ours, plain, rtol=1e-7):
            raise SystemExit(f"{name}: the two forms differ")
        taken = seconds(forms, given.rounds)
        print(
            f"{name}: {given.draws / taken['ours']:,.0f} draws a second, "
            f"{taken['plain'] / taken['ours']:.2f} times the plain form"
        )


if __name__ == "__main__":
    main()
