"""A Gaussian at every pixel: the baseline to beat on aligned objects (chapter 1)."""

import torch
from torch import Tensor

from ebmlib.baselines.checks import (
    check_fitted,
    check_images,
    check_smoothing,
    smoothing_width,
)
from ebmlib.scoring import image_score, smooth


class PerPixelGaussian:
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
    """

    label = "per-pixel Gaussian"

    def __init__(self, smoothing: float | None = None, min_std: float = 0.02):
        check_smoothing(smoothing)
        if not min_std > 0:
            raise ValueError(f"min_std must be > 0 (gray levels), got {min_std}.")
        self.smoothing, self.min_std = smoothing, min_std
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PerPixelGaussian":
        """Estimate mean and std at every position from normal images; N >= 2."""
        check_images(images, at_least=2)
        self.mean = images.mean(0)  # (C, H, W)
        self.std = images.std(0).clamp_min(self.min_std)
        self.shape = images.shape[1:]
        return self

    def z_scores(self, images: Tensor) -> Tensor:
        """(N, C, H, W): signed distance from the mean in standard deviations."""
        check_fitted(self, images)
        return (images - self.mean) / self.std

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): smoothed root mean square z over channels, >= 0."""
        z = self.z_scores(images).square().mean(1).sqrt()
        return smooth(z, smoothing_width(self.smoothing, images.shape))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map."""
        return image_score(self.anomaly_map(images), "max")
