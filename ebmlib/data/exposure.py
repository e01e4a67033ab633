"""Bring images to one exposure, so that a lamp is not taken for a defect (chapter 11).

The brightness of a photograph says more about the lamp than about the part. On MVTec's
screw the mean gray level alone tells every defective test image from every normal one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_CONTRAST = 0.01  # below this standard deviation there is only sensor noise


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
