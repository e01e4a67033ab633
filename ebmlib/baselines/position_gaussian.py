"""A Gaussian of patch features at every position, PaDiM-style (chapter 12)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebmlib.baselines.base import Baseline, check_options, smoothing_width
from ebmlib.baselines.patches import check_frequencies, covering_patches, spread
from ebmlib.data.images import Images
from ebmlib.data.resizing import Size
from ebmlib.features import CosineFeatures
from ebmlib.fields import GaussianField
from ebmlib.scoring import smooth


class PositionGaussian(Baseline):
    """Mahalanobis distance of every patch to what is usual at its place.

        d_p(x)  = sqrt((phi_p - mean_p)^T Sigma_p^-1 (phi_p - mean_p)) / sqrt(F)
        Sigma_p = S_p + noise^2 I,   score = max_i map_i

    phi: cosine features, see `ebmlib.features`; S_p is their covariance over the
    training images at grid position p, F their number. (F / 2) d_p^2 is the energy of
    `ebmlib.fields.GaussianField`; d_p^2 is near 1 on normal images. The map spreads d_p
    evenly over the patch, averages where patches overlap, and smooths. One Gaussian per
    position is PaDiM (Defard et al., ICPR workshops 2021, arXiv 2011.08785), which adds
    to the diagonal too; the features are not: no pretrained weights are involved.
    Shrinking towards tr(S_p)/F I instead (Ledoit and Wolf) was worse on all three drawn
    categories: the fine coefficients then vanish beside the variance of the coarse
    ones.

    Args:
        patch: side of a patch in pixels; default: 1/8 of the images' shorter side.
        stride: step between patches in pixels; default: patch // 4.
        frequencies: coefficients kept per axis, from 1 to `patch`.
        noise: standard deviation in gray levels that every pixel is granted; noise^2 I
            is the covariance of white noise in the orthonormal features. Without it a
            background that never varied in training has no inverse.
        smoothing: as in `PerPixelGaussian`.
        image_size: as in `Baseline`.

    Attributes:
        features_, field_: phi, and the `GaussianField` on it.
    """

    label = "per-position Gaussian (PaDiM-style, cosine features)"
    features_: CosineFeatures
    field_: GaussianField

    def __init__(
        self,
        patch: int | None = None,
        stride: int | None = None,
        frequencies: int = 5,
        noise: float = 0.02,
        smoothing: float | None = None,
        image_size: Size | None = None,
    ):
        check_options(image_size, smoothing)
        check_frequencies(frequencies)
        if not noise > 0:
            raise ValueError(f"noise must be > 0 (gray levels), got {noise}.")
        self.patch, self.stride, self.frequencies = patch, stride, frequencies
        self.noise, self.smoothing, self.image_size = noise, smoothing, image_size

    def _learn(self, images: Tensor) -> dict[str, Any]:
        _, channels, height, width = images.shape
        features = covering_patches(
            (channels, height, width), self.patch, self.stride, self.frequencies
        )
        field = GaussianField(features, (height, width), noise=self.noise)
        return {"features_": features, "field_": field.fit(images)}

    def distances(self, images: Images) -> Tensor:
        """(N, h, w): Mahalanobis distance of every patch, divided by sqrt(F)."""
        return torch.cat([self._distances(x) for x in self._batches(images)])

    @torch.no_grad()
    def _distances(self, x: Tensor) -> Tensor:
        return (2 * self.field_.energy_map(x) / self.features_.count).sqrt()

    def _maps(self, x: Tensor) -> Tensor:
        maps = spread(self._distances(x), self.features_, self.shape_)
        return smooth(maps, smoothing_width(self.smoothing, self.shape_))
