"""Readable names of runs, for text, figures and tables. The one place that has them."""

import re

from nodulebook.patches.sources import SOURCES

TITLES = {
    "paper-usual": "Paper's network",
    "paper-usual-no-se": "Paper's network, no gates",
    "paper": "Paper's network, narrow",
    "paper-no-se": "Paper's network, narrow, no gates",
    "paper-slab": "Paper's network, narrow, one z extent",
    "laptop": "Paper's network, short training",
    "quick": "Paper's network, quick test",
    "honest": "Best recipe, cube",
    "honest-slices": "Best recipe, three slices",
    "robust-slices": "Best recipe, random shifts",
    "robust-slices-no-shift": "Best recipe, no shifts",
    "pretrained": "MobileNetV2 from ImageNet, fine-tuned",
    "memorise": "Memorising network",
    "diameter": "Ruler (readers' diameter)",
    "features-intensity": "Features: intensity",
    "features-shape": "Features: shape",
    "features-texture": "Features: texture",
    "features-morphology": "Features: margin",
    "features-size": "Features: size",
    "features-random": "Features: random filters",
    "features-wavelet": "Features: wavelet",
    "features-all": "Features: all together",
    "rival-alexnet3d": "3D AlexNet [29]",
    "rival-resnet2d": "2D ResNet, three slices [30]",
    "rival-dualpath3d": "Dual path network [31]",
    "rival-dualpath3d-gbm": "Dual path, boosted trees [31]",
    "rival-autoencoder": "Autoencoder [32]",
    "rival-multicrop": "Multi-crop network [33]",
    "rival-densebtnet": "Dense binary tree [34]",
    "rival-dynamic-loss": "Dynamic loss [15]",
    "rival-seresnet3d": "SE-ResNet 3D [16]",
    "rival-seresnext3d": "SE-ResNeXt 3D [17]",
    "rival-double-se": "Double SE [19]",
    "rival-secnn": "SE-CNN [20]",
    "recipe-dualpath3d": "Dual path network [31], best recipe",
    "recipe-densebtnet": "Dense binary tree [34], best recipe",
    "recipe-secnn": "SE-CNN [20], best recipe",
}
"""Title by profile, group of features or method; a number in brackets is the paper's reference."""

_KEY = re.compile(rf"(.+?)(?:-({'|'.join(SOURCES)}))?(?:-seed(\d+))?")


def title(run: str) -> str:
    """The title of a run; its own name where it has none.

    Args:
        run: `<profile>-<source>`, `<profile>-<source>-seed<k>`, or a profile.
    """
    found = _KEY.fullmatch(run)
    profile, source, seed = found.groups() if found else (run, None, None)
    text = TITLES.get(profile, profile)
    if source == "phantom":
        text += ", on the phantom"
    if source == "lidc_exact":
        text += ", exact HU"
    return f"{text}, seed {seed}" if seed else text


def keyed(run: str) -> str:
    """Title and name, for a cell of a table: "Best recipe, cube (`honest-lidc_slices`)"."""
    return f"{title(run)} (`{run}`)"
