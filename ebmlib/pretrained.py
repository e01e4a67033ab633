"""A feature map by its name: which there are, and where their weights come from."""

from __future__ import annotations

from pathlib import Path

from ebmlib.backbone import BACKBONES, ResNetFeatures
from ebmlib.efficientnet import LITES, EfficientNetFeatures, packaged_weights
from ebmlib.features import CosineFeatures, FeatureMap
from ebmlib.weights import RANDOM, is_label, weights_label

COSINE = "cosine"
FEATURES = (*LITES, *BACKBONES, COSINE)


def check_features(name: str, weights: str | Path | None = None) -> None:
    """Refuse features that are not known, or whose weights are not here.

    Args:
        name: one of `FEATURES`.
        weights: as in `make_features`.

    Raises:
        ValueError: an unknown name, or weights that do not belong to it.
        ModuleNotFoundError: the package that ships the weights is not installed.
        FileNotFoundError: there is no such file.
    """
    if name not in FEATURES:
        raise ValueError(f"features must be one of {FEATURES}, got {name!r}")
    if name == COSINE and weights is not None:
        raise ValueError(
            f"cosine features have no weights, got weights={weights!r}; leave them out"
        )
    if name in BACKBONES and weights is None:
        raise ValueError(
            f"no package ships the weights of {name}: give weights=FILE, a state dict "
            f'of torchvision\'s {name}, or weights="random"'
        )
    if weights is None and name in LITES:
        packaged_weights(name)
    elif weights not in (None, RANDOM) and not is_label(weights):
        weights_label(weights)


def make_features(
    name: str, weights: str | Path | None, channels: int, seed: int
) -> FeatureMap:
    """The feature map of a name.

    Args:
        name: one of `FEATURES`.
        weights: a file, `.pth` or `.safetensors`; "random"; or None, those of the
            installed package. Also what records call the package's weights.
        channels: of the images, 1 or 3.
        seed: of random weights, and of a random choice of channels.

    Raises:
        ValueError, ModuleNotFoundError, FileNotFoundError: as `check_features`.
    """
    check_features(name, weights)
    if name == COSINE:
        return CosineFeatures(channels)
    if name in BACKBONES:
        if weights is None or weights == RANDOM:
            return ResNetFeatures(name, channels, seed=seed)
        return ResNetFeatures.from_file(weights, name, channels=channels, seed=seed)
    if weights == RANDOM:
        return EfficientNetFeatures(name, channels, seed=seed)
    packaged = f"sha256 {LITES[name].sha256[:12]}"
    if weights is None or str(weights).endswith(packaged):
        return EfficientNetFeatures.pretrained(name, channels)
    return EfficientNetFeatures.from_file(weights, name, channels)
