"""Small random changes that leave a normal image normal (chapter 7).

Augmentation tells an energy which changes do not matter: illumination that varies, a
camera that is not quite straight, a cloth without an upper side. A change that *is* a
defect of the product (a flipped part) must not be among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.random import rand

PADDING = {"reflect": "reflection", "edge": "border"}


@dataclass(frozen=True)
class Augment:
    """Callable `(images, generator) -> images`, each image with its own random change.

    Geometry first: flips, then rotation and translation by one bilinear resampling of
    the image continued beyond its border; then contrast about the image's mean gray and
    a brightness factor. Contrast and brightness are torchvision's `adjust_contrast` and
    `adjust_brightness`. The result lies on the device of the images; a CPU generator
    gives the same changes on every device, up to rounding.

    Attributes:
        flip: mirror left-right and top-bottom, each with probability 1/2.
        rotate: largest angle in degrees, 0 to 180.
        translate: largest shift as a fraction of the side, 0 to 0.5.
        brightness: largest relative change of brightness, 0 to below 1.
        contrast: largest relative change of contrast, 0 to below 1.
        border: how an image continues beyond its border: "reflect" (textures) or "edge"
            (an object on a uniform background).
        keep: probability that an image stays exactly as it is. Resampling blurs, and an
            energy that saw only blurred images may find sharp ones anomalous.

    Raises:
        TypeError: images that are not a floating-point tensor.
        ValueError: an attribute out of its range, or images that are not `(B, C, H, W)`
            with 1 or 3 channels.
    """

    flip: bool = False
    rotate: float = 0.0
    translate: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.1
    border: str = "reflect"
    keep: float = 0.0

    def __post_init__(self) -> None:
        tops = {"rotate": 180, "translate": 0.5, "brightness": 0.99, "contrast": 0.99}
        for name, top in (tops | {"keep": 1}).items():
            value = getattr(self, name)
            if not 0 <= value <= top:
                raise ValueError(f"{name} must be in [0, {top}], got {value}.")
        if self.border not in PADDING:
            raise ValueError(f"border is 'reflect' or 'edge', got {self.border!r}.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of `images (B, C, H, W)` in [0, 1], same shape and range."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floats in [0, 1], got {images.dtype}.")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "images must be (B, C, H, W) with 1 or 3 channels, "
                f"got {tuple(images.shape)}."
            )
        draws = rand((8, len(images), 1, 1, 1), generator)
        if self.keep == 0:
            return self._change(images, draws)
        chosen = torch.nonzero(draws[0].flatten() >= self.keep).flatten()
        changed = images.clone()
        if len(chosen):
            at = chosen.to(images.device, non_blocking=images.is_cuda)
            changed[at] = self._change(images[at], draws[:, chosen])
        return changed

    def _change(self, x: Tensor, draws: Tensor) -> Tensor:
        """Every image changed by its numbers in [0, 1), (8, B, 1, 1, 1)."""
        draws = draws.to(x, non_blocking=x.is_cuda)
        mirrored, upended = draws[1] < 0.5, draws[2] < 0.5
        angle, right, down, contrast, light = 2 * draws[3:] - 1  # in [-1, 1)
        if self.flip:
            x = torch.where(mirrored, x.flip(3), x)
            x = torch.where(upended, x.flip(2), x)
        if self.rotate or self.translate:
            x = self._move(x, angle.flatten(), right.flatten(), down.flatten())
        gray = _luminance(x).mean((1, 2, 3), keepdim=True)
        x = torch.lerp(gray, x, 1 + self.contrast * contrast).clamp_(0, 1)
        return x.mul_(1 + self.brightness * light).clamp_(0, 1)

    def _move(
        self, images: Tensor, angle: Tensor, right: Tensor, down: Tensor
    ) -> Tensor:
        """Rotate about the center and translate; the numbers `(B,)` are in [-1, 1)."""
        height, width = images.shape[-2:]
        turn = math.radians(self.rotate) * angle
        c, s = torch.cos(turn), torch.sin(turn)
        # Where an output pixel comes from, in units of half the image's sides: shift
        # back, then turn back. (x, y) in px is (x width, y height) / 2 in these units.
        dx, dy = -2 * self.translate * right, -2 * self.translate * down
        aspect = height / width
        row_x = torch.stack([c, aspect * s, c * dx + aspect * s * dy], dim=1)
        row_y = torch.stack([-s / aspect, c, c * dy - s * dx / aspect], dim=1)
        matrices = torch.stack([row_x, row_y], dim=1)  # (B, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        padding = PADDING[self.border]
        return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _luminance(images: Tensor) -> Tensor:
    """Gray value of each pixel (ITU-R BT.601): (B, C, H, W) -> (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (0.299 * red).add_(0.587 * green).add_(0.114 * blue)
