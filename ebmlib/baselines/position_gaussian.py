"""A Gaussian of patch features at every position, PaDiM-style (chapter 12)."""

import torch
from torch import Tensor

from ebmlib.baselines.checks import (
    check_fitted,
    check_images,
    check_smoothing,
    smoothing_width,
)
from ebmlib.baselines.features import (
    CosinePatches,
    check_frequencies,
    covariance_factor,
)
from ebmlib.scoring import image_score, smooth


class PositionGaussian:
    """Mahalanobis distance of every patch to what is usual at its place.

        d_p(x)  = sqrt((phi_p - mean_p)^T Sigma_p^-1 (phi_p - mean_p)) / sqrt(F)
        Sigma_p = S_p + noise^2 I,   score = max_i map_i

    phi: cosine features, see `ebmlib.baselines.features`; S_p is their covariance over
    the training images at grid position p, F their number. d_p^2 is up to constants the
    energy of a Gaussian, and near 1 on normal images. The map spreads d_p evenly over
    the patch, averages where patches overlap, and smooths. One Gaussian per position is
    PaDiM (Defard et al., ICPR workshops 2021, arXiv 2011.08785), which adds to the
    diagonal too; the features are not: no pretrained weights are involved. Shrinking
    towards tr(S_p)/F I instead (Ledoit and Wolf) was worse on all three drawn
    categories: it drowns the fine coefficients in the variance of the coarse ones.

    Args:
        patch: side of a patch in pixels; default: 1/8 of the images' shorter side.
        stride: step between patches in pixels; default: patch // 4.
        frequencies: coefficients kept per axis, from 1 to `patch`.
        noise: standard deviation in gray levels that every pixel is granted; noise^2 I
            is the covariance of white noise in the orthonormal features. Without it a
            background that never varied in training has no inverse.
        smoothing: as in `PerPixelGaussian`.
    """

    label = "per-position Gaussian (PaDiM-style, cosine features)"

    def __init__(
        self,
        patch: int | None = None,
        stride: int | None = None,
        frequencies: int = 5,
        noise: float = 0.02,
        smoothing: float | None = None,
    ):
        check_frequencies(frequencies)
        if not noise > 0:
            raise ValueError(f"noise must be > 0 (gray levels), got {noise}.")
        check_smoothing(smoothing)
        self.patch, self.stride, self.frequencies = patch, stride, frequencies
        self.noise, self.smoothing = noise, smoothing
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PositionGaussian":
        """Estimate mean and covariance at every grid position; N >= 2."""
        check_images(images, at_least=2)
        self.patches = CosinePatches.on(
            images, self.patch, self.stride, self.frequencies
        )
        features = self.patches.features(images)  # (N, F, h, w)
        self.mean = features.mean(0)  # (F, h, w)
        centered = (features - self.mean).permute(2, 3, 0, 1)  # (h, w, N, F)
        rows = [covariance_factor(row, self.noise).float() for row in centered]
        self.factors = torch.stack(rows)  # (h, w, F, F)
        self.shape = images.shape[1:]
        return self

    def distances(self, images: Tensor) -> Tensor:
        """(N, h, w): Mahalanobis distance of every patch, divided by sqrt(F)."""
        check_fitted(self, images)
        return torch.cat([self._distances(batch) for batch in images.split(16)])

    def _distances(self, images: Tensor) -> Tensor:
        centered = (self.patches.features(images) - self.mean).permute(2, 3, 1, 0)
        white = torch.linalg.solve_triangular(self.factors, centered, upper=False)
        return white.square().mean(2).sqrt().movedim(-1, 0)  # from (h, w, F, N)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): distances spread over their patches and smoothed, >= 0."""
        distances = self.distances(images)
        spread = self.patches.spread(distances, images.shape)
        return smooth(spread, smoothing_width(self.smoothing, images.shape))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map."""
        return image_score(self.anomaly_map(images), "max")
