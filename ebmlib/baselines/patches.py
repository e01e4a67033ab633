"""Patches that cover an image, and maps that are spread over them.

`PatchKNN` and `PositionGaussian` look at images through them (chapters 1 and 12).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d

from ebmlib.features import CosineFeatures


def covering_patches(
    shape: tuple[int, int, int],
    patch: int | None,
    stride: int | None,
    frequencies: int,
    brightness: bool = True,
) -> CosineFeatures:
    """Cosine features, channel by channel, of patches that cover images of a shape.

    Args:
        shape: (C, H, W) of the images.
        patch: side of a patch in px; by default 1/8 of the images' shorter side.
        stride: step between patches in px; by default patch // 4.
        frequencies: coefficients kept per axis.
        brightness: keep the constant coefficient.

    Raises:
        ValueError: patch, stride and frequencies do not fit each other or the side.
    """
    side = min(shape[1:])
    patch = max(side // 8, frequencies) if patch is None else patch
    stride = max(patch // 4, 1) if stride is None else stride
    if not (frequencies <= patch <= side and 1 <= stride <= patch):
        raise ValueError(
            f"need frequencies <= patch <= {side} (image side) and 1 <= stride <= "
            f"patch, got {frequencies=}, {patch=}, {stride=}."
        )
    return CosineFeatures(
        shape[0],
        stride,
        patch,
        frequencies,
        opponent_colors=False,
        brightness=brightness,
        centered=False,
    )


def spread(values: Tensor, features: CosineFeatures, shape: tuple[int, ...]) -> Tensor:
    """(N, h, w) -> (N, H, W): evenly over each patch, averaged where they overlap.

    `shape` ends with the height and width of the images.
    """
    ones = torch.ones(1, 1, features.side, features.side).to(values)
    total = conv_transpose2d(values[:, None], ones, stride=features.stride)
    count = conv_transpose2d(
        torch.ones_like(values[:1, None]), ones, stride=features.stride
    )
    return (total / count)[:, 0, : shape[-2], : shape[-1]]


def check_frequencies(frequencies: int, brightness: bool = True) -> None:
    """At least one coefficient remains."""
    if frequencies < 1 or (frequencies == 1 and not brightness):
        raise ValueError(
            f"frequencies must be >= 1, and >= 2 without brightness, got {frequencies}."
        )
