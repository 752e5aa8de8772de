"""Several trainings of one network at once, with JAX: the folds and seeds of a run.

Patches are sent to the device once and augmented there, and an epoch of all members is one
compiled loop over its steps. Each member is trained as `nodulebook.model.train` would train it:
same first weights, same order, same symmetries, same rate at each step. What remains is rounding,
which a large learning rate enlarges from step to step (`benchmarks/stacked_auc.py`). Its checkpoint
is a file of its own, so that a stopped training goes on, on this machine or another.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from nodulebook.core.errors import InputError
from nodulebook.core.settings import Profile, RivalSettings
from nodulebook.model.augment import augment, symmetries
from nodulebook.model.checkpoint import (
    checkpoint_key,
    load_checkpoint,
    model_state,
    save_checkpoint,
    state_values,
)
from nodulebook.model.cores import over_cores
from nodulebook.model.layers import traced_for_stack
from nodulebook.model.losses import DynamicCrossEntropy
from nodulebook.model.senet import CHARACTERISTICS, MALIGNANCY
from nodulebook.model.targets import CHARACTERISTICS_TASK, FoldData
from nodulebook.model.train import build_model, learning_rate

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""What products are computed in, where the device has it; sums and weights stay float32."""

SAVE_SECONDS = 60.0
"""Checkpoints are written this often, at the end, and when the time is up."""


@dataclass(frozen=True, eq=False)
class Member:
    """One training of a stack."""

    profile: Profile  # with the member's own seed
    fold: int
    data: FoldData
    checkpoint: Path


def unsupported(profile: Profile) -> str:
    """Why a recipe is not trained stacked; empty if it is.

    Only what has been shown equal to one-by-one training is allowed: our own network with SGD. Two
    epochs of a 2D network with AdamW differed by 0.006 in probability for one of two seeds, and by
    1e-6 for the other. Rounding may be the cause: voxels changed by 1e-7 of their value moved the
    same one-by-one training by 0.0006, those of the other seed by 2e-6.
    """
    training = profile.training
    moved = [name for name in ("shift_mm", "shift_z_mm", "hu_jitter") if getattr(training, name)]
    if moved:
        return f"stacked training has no random shifts or jitter ({', '.join(moved)})"
    if training.optimizer != "sgd":
        return f"stacked training has not been shown equal for optimizer {training.optimizer}"
    if isinstance(profile.network, RivalSettings):
        return f"stacked training has not been shown equal for rival {profile.network.rival}"
    return ""


_CORNERS = np.arange(8, dtype=np.float32).reshape(2, 2, 2)


@cache
def _symmetries() -> dict[bytes, int]:
    """What each of the 16 symmetries makes of a cube of two voxels, and its number."""
    made = [view[0].tobytes() for view in symmetries(_CORNERS[None])]
    return {cube: number for number, cube in enumerate(made)}


@cache
def _symmetry(seed: int, epoch: int, row: int, flips: bool, quarter_turns: bool) -> int:
    """The number of the symmetry that `augmented_epoch` draws for a patch."""
    generator = np.random.default_rng([seed, epoch, row])
    return _symmetries()[augment(_CORNERS, generator, flips, quarter_turns).tobytes()]


def _voxels(size: int) -> NDArray[np.int32]:
    """(16, size^3): which voxel of a patch each voxel of its k-th symmetry shows."""
    places = np.arange(size**3, dtype=np.float32).reshape(1, size, size, size)
    return np.stack([view.ravel() for view in symmetries(places)]).astype(np.int32)


def _targets(member: Member) -> tuple[NDArray[np.float32], ...]:
    """Of each training patch: both classes' target (n, 2), weight (n,), characteristics (n, k)."""
    train, settings = member.data.train, member.profile.training
    n = len(train)
    malignant = train["malignancy" if settings.beyond_labels else "label"].to_numpy()
    weight = train["weight"].to_numpy() if settings.beyond_labels else np.ones(n)
    task = settings.characteristics_weight > 0
    rated = train[list(CHARACTERISTICS_TASK)].to_numpy() if task else np.zeros((n, 0))
    both = np.column_stack([1 - malignant, malignant])
    return both.astype(np.float32), weight.astype(np.float32), rated.astype(np.float32)


def _stacked(parts: Sequence[Any]) -> Any:
    """Trees of arrays as one tree of arrays, whose first axis is over the members."""
    import jax
    from jax import numpy as jnp

    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts)


def _unstack(stacked: tuple[list[int], Any], states: list[Any]) -> None:
    """Write the states of a group back to where each member's own is."""
    import jax

    group, state = stacked
    for k, i in enumerate(group):
        states[i] = jax.tree.map(lambda part, k=k: part[k], state)


class Stack:
    """Members of one network and recipe, which differ in fold and seed."""

    def __init__(self, members: Sequence[Member], precision: Precision = "float32") -> None:
        """Build the network once, and send every member's patches to the device.

        Raises:
            InputError: Keras runs on another backend, or the recipes differ or are not supported.
        """
        if keras.backend.backend() != "jax":
            raise InputError("stacked training needs Keras on JAX: set KERAS_BACKEND=jax")
        import jax

        self.profile = members[0].profile
        if why := unsupported(self.profile):
            raise InputError(why)
        if len({member.profile.model_copy(update={"seed": 0}).hash() for member in members}) > 1:
            raise InputError("the members of a stack must share network and recipe")
        self.precision = precision
        self.model = build_model(self.profile)
        self._first = {self.profile.seed: state_values(self.model)}
        state = model_state(self.model)
        self._order = [
            [next(i for i, v in enumerate(state) if v is wanted) for wanted in group]
            for group in (
                self.model.trainable_variables,
                self.model.non_trainable_variables,
                self.model.optimizer.variables,
            )
        ]
        rate = self.model.optimizer.learning_rate
        self._rate = next(i for i, v in enumerate(self.model.optimizer.variables) if v is rate)
        shown: dict[str, NDArray[np.float32]] = {}
        for member in members:
            shown |= dict(
                zip(member.data.train["nodule_id"], member.data.train_volumes, strict=True)
            )
        self._row = {name: row for row, name in enumerate(shown)}
        patches = np.stack(list(shown.values()))
        self._voxel_table = jax.device_put(_voxels(patches.shape[-1]))
        self._patches = jax.device_put(patches.reshape(len(patches), -1))
        longest = max(len(member.data.train) for member in members)
        self._steps = -(-longest // self.profile.training.batch_size)
        self._one = jax.jit(partial(self._epoch, products=False))
        one = partial(self._epoch, products=True)
        self._many = (
            over_cores(one, len(members))
            if jax.default_backend() == "cpu"
            else jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
        )

    def train(
        self,
        members: Sequence[Member],
        until: float = float("inf"),
        report: Callable[[str], None] = print,
    ) -> bool:
        """Train members of the stack together, from their checkpoints, as far as time allows.

        Args:
            members: those to train.
            until: moment of `time.monotonic` after which no epoch begins; one that would end later
                than this, as long as the one before, does not begin either.
            report: gets one line per epoch.

        Returns:
            Whether all members have been trained to the profile's last epoch. Either way the
            checkpoints hold what was computed.

        Raises:
            InputError: a loss is not finite.
        """
        import jax

        epochs = self.profile.training.epochs
        histories: list[list[dict[str, float]]] = []
        states: list[Any] = []
        for member in members:
            histories.append(self.load(member))
            state = state_values(self.model)
            states.append(jax.device_put([[state[i] for i in group] for group in self._order]))
        stacked: tuple[list[int], Any] = ([], None)  # the group's states as one, where several
        saved = time.monotonic()
        took = 0.0
        prepared: dict[tuple[int, int], Any] = {}
        while (done := min(len(history) for history in histories)) < epochs:
            start = time.monotonic()
            if start + took > until:
                return False
            # A member that was saved one epoch further than the others waits for them.
            group = [i for i, history in enumerate(histories) if len(history) == done]
            batches = [
                prepared.pop((i, done), None) or self._batches(members[i], done) for i in group
            ]
            with self.products():
                given = (self._patches, self._voxel_table)
                if len(group) == 1:
                    state, sums = self._one(states[group[0]], batches[0], *given)
                    states[group[0]] = state
                else:
                    if stacked[0] != group:
                        _unstack(stacked, states)
                        stacked = (group, _stacked([states[i] for i in group]))
                    state, sums = self._many(stacked[1], _stacked(batches), *given)
                    stacked = (group, state)
            if done + 1 < epochs:  # while the device computes
                prepared = {(i, done + 1): self._batches(members[i], done + 1) for i in group}
            sums = np.reshape(jax.device_get(sums), (len(group), -1))
            took = time.monotonic() - start
            for i, own in zip(group, sums, strict=True):
                n = len(members[i].data.train)
                row = dict(zip(("loss", "cross_entropy", "accuracy"), own / n, strict=True))
                if not np.isfinite(row["loss"]):
                    raise InputError(
                        f"fold {members[i].fold}: the loss is {row['loss']} in epoch {done + 1}; "
                        "lower learning_rate in the profile"
                    )
                about = {
                    "learning_rate": learning_rate(members[i].profile, done),
                    "seconds": round(took / len(group), 3),
                }
                numbers = {name: float(value) for name, value in row.items()}
                histories[i].append({"epoch": done + 1} | numbers | about)
            mean = np.mean([histories[i][-1]["cross_entropy"] for i in group])
            report(
                f"fold {', '.join(str(members[i].fold) for i in group)} epoch {done + 1}/{epochs} "
                f"cross-entropy {mean:.4f} ({took * (epochs - done - 1):.0f} s left)"
            )
            now = time.monotonic()
            last = all(len(history) == epochs for history in histories)
            if last or now > saved + SAVE_SECONDS or now + took > until:
                _unstack(stacked, states)
                for member, state, history in zip(members, states, histories, strict=True):
                    self._save(member, jax.device_get(state), history)
                saved = now
        return True

    def products(self) -> AbstractContextManager[Any]:
        """A context in which products, also those of predictions, have the stack's precision."""
        import jax

        context: AbstractContextManager[Any] = jax.default_matmul_precision(self.precision)
        return context

    def load(self, member: Member) -> list[dict[str, float]]:
        """Put a member's checkpoint, or else its first weights, into `model`; its history."""
        stored = None
        if member.checkpoint.is_file():
            stored = load_checkpoint(member.checkpoint, self.model, self._key(member))
        if stored is not None:
            return stored
        seed = member.profile.seed
        if seed not in self._first:
            self._first[seed] = state_values(build_model(member.profile))
        for variable, value in zip(model_state(self.model), self._first[seed], strict=True):
            variable.assign(value)
        return []

    def _key(self, member: Member) -> dict[str, Any]:
        key = checkpoint_key(member.profile, member.data, member.fold)
        return key | {"stacked": self.precision}

    def _save(self, member: Member, state: Any, history: list[dict[str, float]]) -> None:
        variables = model_state(self.model)
        for group, values in zip(self._order, state, strict=True):
            for i, value in zip(group, values, strict=True):
                variables[i].assign(value)
        save_checkpoint(member.checkpoint, self.model, history, self._key(member))

    def _batches(self, member: Member, epoch: int) -> tuple[NDArray[Any], ...]:
        """What each step of a member's epoch takes: (steps, batch, ...), and the rate (steps,).

        Rows of the patches, symmetries, 1 for what is trained on and 0 for what fills the last
        batches up, the targets.
        """
        settings, seed = self.profile.training, member.profile.seed
        n, places = len(member.data.train), self._steps * settings.batch_size
        order = np.random.default_rng([seed, epoch]).permutation(n)
        filled = np.concatenate([order, np.zeros(places - n, order.dtype)])
        ids = member.data.train["nodule_id"].to_numpy()
        drawn = [
            _symmetry(seed, epoch, int(row), settings.flips, settings.quarter_turns)
            for row in filled
        ]
        numbers = (
            np.array([self._row[name] for name in ids[filled]], np.int32),
            np.array(drawn, np.int32),
            (np.arange(places) < n).astype(np.float32),
            *(target[filled] for target in _targets(member)),
        )
        first = np.minimum(np.arange(self._steps) * settings.batch_size, n)
        rates = [learning_rate(member.profile, epoch + at / n) for at in first]
        steps = (self._steps, settings.batch_size)
        return (
            *(part.reshape(*steps, *part.shape[1:]) for part in numbers),
            np.array(rates, np.float32),
        )

    def _epoch(
        self, state: Any, batches: Any, patches: Any, voxels: Any, products: bool
    ) -> tuple[Any, Any]:
        """State after an epoch, and loss, cross-entropy and accuracy summed over the patches."""
        import jax
        from jax import numpy as jnp

        size = round(patches.shape[1] ** (1 / 3))

        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            rows, drawn, kept, both, weight, rated, rate = batch
            volumes = jnp.take_along_axis(patches[rows], voxels[drawn], axis=1)
            volumes = volumes.reshape(-1, size, size, size, 1)
            trained, rest, optimiser = state
            n = jnp.maximum(kept.sum(), 1)

            def loss(trained: Any) -> tuple[Any, Any]:
                with traced_for_stack(kept, products, jax.default_backend() == "cpu"):
                    out, after, penalties = self.model.stateless_call(
                        trained, rest, volumes, training=True, return_losses=True
                    )
                total, measures = self._loss(out, kept * weight, both, rated, n)
                return total + sum(penalties), (after, measures)

            (total, (after, measures)), slope = jax.value_and_grad(loss, has_aux=True)(trained)
            optimiser = [*optimiser[: self._rate], rate, *optimiser[self._rate + 1 :]]
            moved, optimiser = self.model.optimizer.stateless_apply(optimiser, slope, trained)
            new = [list(moved), list(after), list(optimiser)]
            # A member with fewer patches than another has a last step without any.
            taken = kept.sum() > 0
            new = jax.tree.map(lambda now, was: jnp.where(taken, now, was), new, state)
            return new, jnp.where(taken, jnp.stack([total, *measures]) * kept.sum(), 0)

        state, sums = jax.lax.scan(step, state, batches)
        return state, sums.sum(axis=0)

    def _loss(self, out: Any, weight: Any, both: Any, rated: Any, n: Any) -> tuple[Any, Any]:
        """The loss of n patches without penalties; their weighted cross-entropy and accuracy."""
        settings = self.profile.training
        p = out[MALIGNANCY] if isinstance(out, dict) else out
        each = ops.categorical_crossentropy(both, p)
        dynamic = settings.loss == "dynamic"
        main = DynamicCrossEntropy().call(both[:, 1], p) if dynamic else each
        total = ops.sum(weight * main) / n
        if settings.characteristics_weight:
            error = ops.mean(ops.square(out[CHARACTERISTICS] - rated), axis=-1)
            total = total + settings.characteristics_weight * ops.sum(weight * error) / n
        right = ops.cast(ops.argmax(p, -1) == ops.argmax(both, -1), "float32")
        all_weight = ops.maximum(ops.sum(weight), 1e-7)
        return total, [ops.sum(weight * of) / all_weight for of in (each, right)]
