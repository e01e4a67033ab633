"""A Gaussian at every pixel: the baseline to beat on aligned objects (chapter 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebmlib.baselines.base import Baseline, check_options, smoothing_width
from ebmlib.data.images import Images
from ebmlib.data.resizing import Size
from ebmlib.scoring import smooth


class PerPixelGaussian(Baseline):
    """An independent Gaussian at every pixel and channel: right if objects align.

        z_ci(x) = (x_ci - mean_ci) / std_ci
        map_i   = G_sigma * sqrt(mean_c z_ci^2),   score = max_i map_i

    Up to a constant, mean_ci z^2 is the energy of a Gaussian with diagonal covariance.
    On normal images E[z^2] = 1.

    Args:
        smoothing: sigma of the Gaussian filter G in pixels, >= 0; default: 1/32 of
            the shorter side.
        min_std: floor of std; 0.02 is five of 255 gray levels. Without it a background
            pixel that never varied in training would score every speck of dust.
        image_size: as in `Baseline`.

    Attributes:
        mean_, std_: (C, H, W).
    """

    label = "per-pixel Gaussian"
    mean_: Tensor
    std_: Tensor

    def __init__(
        self,
        smoothing: float | None = None,
        min_std: float = 0.02,
        image_size: Size | None = None,
    ):
        check_options(image_size, smoothing)
        if not min_std > 0:
            raise ValueError(f"min_std must be > 0 (gray levels), got {min_std}.")
        self.smoothing, self.min_std, self.image_size = smoothing, min_std, image_size

    def _learn(self, images: Tensor) -> dict[str, Any]:
        return {
            "mean_": images.mean(0),
            "std_": images.std(0).clamp_min(self.min_std),
        }

    def z_scores(self, images: Images) -> Tensor:
        """(N, C, H, W): signed distance from the mean in standard deviations."""
        return torch.cat([self._z(x) for x in self._batches(images)])

    def _z(self, x: Tensor) -> Tensor:
        return (x - self.mean_) / self.std_

    def _maps(self, x: Tensor) -> Tensor:
        z = self._z(x).square().mean(1).sqrt()
        return smooth(z, smoothing_width(self.smoothing, self.shape_))
