"""Small random changes that leave a normal image normal (chapter 7).

An energy learns only from what it sees. Augmentation says which changes do not matter:
light that varies, a camera that is not quite straight, a cloth without an upper side. A
change that *is* a defect for a product (a flipped part) must not be among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmlib.data._torchvision import torchvision_functional


@dataclass(frozen=True)
class Augment:
    """Callable `(images, generator) -> images`, each image with its own random change.

    Geometry first: flips, then rotation and translation by one bilinear resampling of
    the image continued beyond its border; then contrast about the image's mean gray and
    a brightness factor. The operations are torchvision's `transforms.v2`, their
    parameters come from the generator, so a seed gives the same images again.

    Attributes:
        flip: mirror left-right and top-bottom, each with probability 1/2.
        rotate: largest angle in degrees, 0 to 180.
        translate: largest shift as a share of the side, 0 to 0.5.
        brightness: largest relative change of brightness, 0 to below 1.
        contrast: largest relative change of contrast, 0 to below 1.
        border: how an image continues beyond its border: "reflect" (textures) or "edge"
            (an object on an even ground).

    Raises:
        ValueError: an attribute out of its range, or images that are not `(B, C, H, W)`
            with 1 or 3 channels.
        ImportError: on use, when torchvision is not installed.
    """

    flip: bool = False
    rotate: float = 0.0
    translate: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.1
    border: str = "reflect"

    def __post_init__(self) -> None:
        tops = {"rotate": 180, "translate": 0.5, "brightness": 0.99, "contrast": 0.99}
        for name, top in tops.items():
            value = getattr(self, name)
            if not 0 <= value <= top:
                raise ValueError(f"{name} must be in [0, {top}], got {value}.")
        if self.border not in ("reflect", "edge"):
            raise ValueError(f"border is 'reflect' or 'edge', got {self.border!r}.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of `images (B, C, H, W)` in [0, 1], same shape and range."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "images must be (B, C, H, W) with 1 or 3 channels, "
                f"got {tuple(images.shape)}."
            )
        draws = torch.rand(len(images), 7, generator=generator, device=generator.device)
        changed = [self._one(x, d) for x, d in zip(images, draws.tolist(), strict=True)]
        return torch.stack(changed) if changed else images.clone()

    def _one(self, image: Tensor, draws: list[float]) -> Tensor:
        """One image `(C, H, W)` changed by seven numbers in [0, 1)."""
        functional = torchvision_functional()
        if self.flip and draws[0] < 0.5:
            image = functional.horizontal_flip(image)
        if self.flip and draws[1] < 0.5:
            image = functional.vertical_flip(image)
        angle, right, down, contrast, light = (2 * d - 1 for d in draws[2:])
        if self.rotate or self.translate:
            image = self._move(functional, image, angle, right, down)
        image = functional.adjust_contrast(image, 1 + self.contrast * contrast)
        return functional.adjust_brightness(image, 1 + self.brightness * light)

    def _move(self, functional, image: Tensor, angle, right, down) -> Tensor:
        """Rotate and translate; `angle`, `right`, `down` are in [-1, 1)."""
        height, width = image.shape[-2:]
        side, span = max(height, width), min(height, width)
        lean = math.sin(math.radians(min(self.rotate, 45.0)))
        # The border seen after turning by `rotate` and shifting by `translate`.
        margin = math.ceil(side * (0.5 * lean + self.translate)) + 2
        margin = min(margin, span - 1)  # a mirror image is no longer than the image
        padded = functional.pad(image, [margin] * 4, padding_mode=self.border)
        shift = [self.translate * right * width, self.translate * down * height]
        moved = functional.affine(
            padded,
            angle=self.rotate * angle,
            translate=shift,
            scale=1.0,
            shear=[0.0, 0.0],
            interpolation=functional.InterpolationMode.BILINEAR,
        )
        return functional.center_crop(moved, [height, width])
