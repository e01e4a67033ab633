"""What every baseline asks of its input, said once."""

from typing import Any

import torch
from torch import Tensor


def check_images(images: Tensor, at_least: int = 0) -> None:
    """Images are a float tensor (N, C, H, W) in [0, 1] with N >= `at_least`.

    Raises:
        TypeError: no tensor, or one of integers.
        ValueError: another shape, too few images, values out of range or NaN.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a float tensor (N, C, H, W) in [0, 1], got {kind}; "
            "divide uint8 images by 255."
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}.")
    if len(images) < at_least:
        raise ValueError(f"need at least {at_least} images, got {len(images)}.")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # NaN fails too
        raise ValueError(
            "images must be in [0, 1] without NaN, got values from "
            f"{images.min():.3g} to {images.max():.3g}; divide 8-bit images by 255."
        )


def check_fitted(model: Any, images: Tensor) -> None:
    """`model.shape` (C, H, W) was set by fit, and the images have it.

    Raises:
        TypeError, ValueError: as `check_images`.
        ValueError: not fitted yet, or fitted on images of another shape.
    """
    if model.shape is None:
        name = type(model).__name__
        raise ValueError(f"{name} is not fitted yet: call fit(normal_images) first.")
    check_images(images)
    if images.shape[1:] != model.shape:
        raise ValueError(
            f"fitted on images (C, H, W) = {tuple(model.shape)}, got "
            f"{tuple(images.shape[1:])}; use one size and channel count."
        )


def check_smoothing(smoothing: float | None) -> None:
    """The width of a Gaussian filter in pixels is None (default) or >= 0."""
    if smoothing is not None and not smoothing >= 0:
        raise ValueError(f"smoothing must be >= 0 pixels, got {smoothing}.")


def smoothing_width(smoothing: float | None, shape: torch.Size) -> float:
    """The width in pixels; by default 1/32 of the shorter side of (..., H, W)."""
    return min(shape[-2:]) / 32 if smoothing is None else smoothing
