"""Features of an autoencoder of small patches: what it is trained on, and words of its codes."""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from skimage.segmentation import slic
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nodulebook.model.backend import make_deterministic

Volumes = NDArray[np.float32]

SEED = 0


@dataclass(frozen=True)
class Autoencoder:
    """The pipeline of Mao et al. 2018, on axial slices through the nodule.

    Kept: superpixels, a deep autoencoder of the patch around each, a vocabulary of codes, counts,
    softmax regression. Differs: the work sorts nodules of another database into types, by one
    image each; sizes are ours; the stages are not tuned together at the end.
    """

    slices_z: tuple[int, ...] = (12, 14, 16, 18, 20)
    superpixels: int = 40
    """Of a slice, about."""
    compactness: float = 0.1
    """Of the superpixels, for intensities from 0 to 1 (skimage.segmentation.slic)."""
    patch_px: int = 8
    units: tuple[int, ...] = (32, 16)
    """Of the encoder's layers; the decoder has them in reverse."""
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    words: int = 64


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a method gives for a fold."""

    p_malignant: NDArray[np.float64]
    history: list[dict[str, float]]
    """epoch, loss, ...: one row per epoch of the autoencoder, or one row per tree."""
    parameters: int
    """Numbers that were fitted."""


def local_patches(volume: Volumes, settings: Autoencoder) -> NDArray[np.float32]:
    """The patches around the superpixels of a nodule's slices.

    Args:
        volume: (z, y, x) in [0, 1].

    Returns:
        (m, patch_px^2), repeating the slice's border beyond it.
    """
    half = settings.patch_px // 2
    out = []
    for z in settings.slices_z:
        segments = slic(
            volume[z],
            n_segments=settings.superpixels,
            compactness=settings.compactness,
            channel_axis=None,
            start_label=1,
        )
        padded = np.pad(volume[z], half, mode="edge")
        for label in range(1, segments.max() + 1):
            rows, columns = np.nonzero(segments == label)
            # Voxel (y, x) is at (y + half, x + half) of the padded slice, which is the patch's
            # middle.
            y, x = round(rows.mean()), round(columns.mean())
            out.append(padded[y : y + 2 * half, x : x + 2 * half].ravel())
    return np.stack(out).astype(np.float32)


def build_autoencoder(settings: Autoencoder) -> tuple[keras.Model, keras.Model]:
    """The autoencoder (n, patch_px^2) -> the same, compiled, and its encoder -> (n, units[-1])."""
    inputs = keras.Input((settings.patch_px**2,), name="patch")
    x = inputs
    for units in settings.units[:-1]:
        x = layers.Dense(units, activation="relu")(x)
    code = x = layers.Dense(settings.units[-1], activation="sigmoid", name="code")(x)
    for units in settings.units[-2::-1]:
        x = layers.Dense(units, activation="relu")(x)
    x = layers.Dense(settings.patch_px**2, activation="sigmoid", name="again")(x)
    model = keras.Model(inputs, x, name="autoencoder")
    model.compile(
        keras.optimizers.Adam(settings.learning_rate),
        "mse",
        jit_compile=keras.backend.backend() == "jax",
    )
    return model, keras.Model(inputs, code)


def train_autoencoder(
    model: keras.Model, patches: NDArray[np.float32], settings: Autoencoder
) -> list[dict[str, float]]:
    """Train on patches (m, patch_px^2); one row per epoch: epoch, loss (mean squared error)."""
    history = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng([SEED, epoch]).permutation(len(patches))
        total = 0.0
        for first in range(0, len(order), settings.batch_size):
            batch = patches[order[first : first + settings.batch_size]]
            total += float(model.train_on_batch(batch, batch)) * len(batch)
        history.append({"epoch": epoch + 1, "loss": total / len(order)})
    return history


def word_shares(words: Iterable[NDArray[np.int64]], n_words: int) -> NDArray[np.float64]:
    """How often each word appears among a nodule's patches, as shares; (nodules, n_words)."""
    counts = np.stack([np.bincount(own, minlength=n_words) for own in words])
    shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def autoencoder_fold(
    settings: Autoencoder,
    train: list[NDArray[np.float32]],
    label: NDArray[np.int64],
    test: list[NDArray[np.float32]],
) -> Fitted:
    """One fold of the pipeline.

    Args:
        train: of each training nodule its patches, from `local_patches`.
        test: of each test nodule its patches.
    """
    make_deterministic(SEED)
    model, encoder = build_autoencoder(settings)
    history = train_autoencoder(model, np.concatenate(train), settings)

    def codes(patches: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        out = encoder.predict(np.concatenate(patches), batch_size=4096, verbose=0)
        return np.split(out, np.cumsum([len(own) for own in patches])[:-1])

    train_codes = codes(train)
    vocabulary = KMeans(settings.words, n_init=1, max_iter=50, random_state=SEED)
    vocabulary.fit(np.concatenate(train_codes))
    seen, unseen = (
        word_shares([vocabulary.predict(own) for own in part], settings.words)
        for part in (train_codes, codes(test))
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(seen, label)
    fitted = model.count_params() + vocabulary.cluster_centers_.size + settings.words + 1
    return Fitted(classifier.predict_proba(unseen)[:, 1], history, int(fitted))
