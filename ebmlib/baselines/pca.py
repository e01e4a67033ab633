"""Reconstruction from principal components: linear, in closed form (chapter 1)."""

import torch
from torch import Tensor

from ebmlib.baselines.checks import (
    check_fitted,
    check_images,
    check_smoothing,
    smoothing_width,
)
from ebmlib.scoring import smooth


class PCAReconstruction:
    """How far an image lies from the linear subspace of the normal images.

        r(x) = (x - mean) - V V^T (x - mean),   V: leading principal directions
        map_i = G_sigma * sqrt(mean_c r_ci^2),   score = sqrt(mean_ci r_ci^2)

    The ancestor of every reconstruction method. N images span at most N - 1
    directions, so with many components the training images are reconstructed too
    well: compare scores only among images that were not fitted.

    Args:
        components: number of principal directions, from 1 to N - 1.
        smoothing: as in `PerPixelGaussian`; it acts on the map only.
    """

    label = "PCA reconstruction"

    def __init__(self, components: int = 20, smoothing: float | None = None):
        if components < 1:
            raise ValueError(f"components must be >= 1, got {components}.")
        check_smoothing(smoothing)
        self.components, self.smoothing = components, smoothing
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PCAReconstruction":
        """Find the principal directions; needs more than `components` images."""
        check_images(images, at_least=2)
        if self.components >= len(images):
            raise ValueError(
                f"{len(images)} images span at most {len(images) - 1} directions, "
                f"got components={self.components}; use fewer or more images."
            )
        flat = images.flatten(1)  # (N, D)
        self.mean = flat.mean(0)
        _, _, directions = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.directions = directions[: self.components]  # (K, D), orthonormal rows
        self.shape = images.shape[1:]
        return self

    def reconstruct(self, images: Tensor) -> Tensor:
        """(N, C, H, W): the projection of the images on the subspace."""
        check_fitted(self, images)
        centered = images.flatten(1) - self.mean
        projected = centered @ self.directions.T @ self.directions
        return (projected + self.mean).view_as(images)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): smoothed root mean square residual over channels, >= 0."""
        residual = images - self.reconstruct(images)
        return smooth(
            residual.square().mean(1).sqrt(),
            smoothing_width(self.smoothing, images.shape),
        )

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): root mean square residual over the whole image, in gray levels."""
        residual = images - self.reconstruct(images)
        return residual.square().mean((1, 2, 3)).sqrt()
