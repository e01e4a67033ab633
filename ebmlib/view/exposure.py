"""Bring images to one exposure, so that a lamp is not taken for a defect (chapter 11).

The brightness of a photograph says more about the lamp than about the part. On MVTec's
screw the mean gray level alone tells every defective test image from every normal one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_CONTRAST = 0.01  # below this standard deviation there is only sensor noise
ROUNDS = 10  # of weights and light in turn


@dataclass(frozen=True)
class Exposure:
    """Callable `images -> images`: shift and scale each to one mean and one contrast.

        x' = mean + std (x - m(x)) / s(x), clipped to [0, 1]

    m and s are the mean and the standard deviation over all pixels and channels of an
    image together, so its hue stays. Then (a x + b)' = x' for every a > 0 and b, as
    long as nothing is clipped: whatever is computed from x' ignores the exposure.

    Attributes:
        mean: mean gray level after the change, in [0, 1].
        std: standard deviation of the gray level after the change, positive.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, images: Tensor) -> Exposure:
        """The usual exposure of training images `(N, C, H, W)`: the mean of m and s."""
        deviations, means = torch.std_mean(images, (1, 2, 3), correction=0)
        return cls(float(means.mean()), float(deviations.mean()))

    def __call__(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` at this exposure."""
        s, m = torch.std_mean(images, (1, 2, 3), correction=0, keepdim=True)
        x = (images - m) / s.clamp_min(LEAST_CONTRAST)
        return (self.mean + self.std * x).clamp(0, 1)


class MatchedExposure:
    """Callable `images -> images`: shift and scale each until it fits the mean part.

        x' = a x + b, clipped to [0, 1],
        a  = std_w(T) / std_w(x),   b = mean_w(T) - a mean_w(x),
        w  = 1 / (1 + (e / 2 m)^2),   e = a x + b - T

    T is the mean part, m the median of |e|; a, b and the weights w are found in turn,
    from `Exposure` on. The mean and the contrast of a whole image change when a large
    dark defect lies in it, and then the rest of the part is lit wrongly. Here what does
    not fit the mean part has little say in the light. For parts that lie still; the
    invariance of `Exposure` holds too.

    Args:
        template: `(C, h, w)`, T.
    """

    def __init__(self, template: Tensor):
        if template.ndim != 3 or not template.is_floating_point():
            raise ValueError(
                "template must be a float tensor (C, h, w), got "
                f"{tuple(template.shape)}"
            )
        self.template = template

    @classmethod
    def of(cls, images: Tensor) -> MatchedExposure:
        """The mean part of training images `(N, C, h, w)` in their usual exposure."""
        return cls(Exposure.of(images)(images).mean(0))

    def __call__(self, images: Tensor) -> Tensor:
        """Images `(N, C, h, w)` in the light of the mean part."""
        x, wanted = images.double().flatten(1), self.template.double().flatten()
        s, m = torch.std_mean(x, 1, correction=0, keepdim=True)
        scale = wanted.std(correction=0) / s.clamp_min(LEAST_CONTRAST)
        shift = wanted.mean() - scale * m
        for _ in range(ROUNDS):
            error = (scale * x + shift - wanted).abs()
            usual = error.median(1, keepdim=True).values.clamp_min(1e-6)
            weight = 1 / (1 + (error / (2 * usual)) ** 2)
            weight = weight / weight.sum(1, keepdim=True)
            means = (weight * x).sum(1, keepdim=True), (weight * wanted).sum(1, True)
            spread = (weight * (x - means[0]) ** 2).sum(1, keepdim=True)
            other = (weight * (wanted - means[1]) ** 2).sum(1, keepdim=True)
            scale = other.sqrt() / spread.sqrt().clamp_min(LEAST_CONTRAST)
            shift = means[1] - scale * means[0]
        moved = scale * x + shift
        return moved.clamp(0, 1).to(images.dtype).view_as(images)
