"""Reconstruction from principal components: linear, in closed form (chapter 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebmlib.baselines.base import Baseline, check_options, smoothing_width
from ebmlib.data.images import Images
from ebmlib.data.resizing import Size
from ebmlib.scoring import smooth


class PCAReconstruction(Baseline):
    """How far an image lies from the linear subspace of the normal images.

        r(x) = (x - mean) - V V^T (x - mean),   V: leading principal directions
        map_i = G_sigma * sqrt(mean_c r_ci^2),   score = sqrt(mean_ci r_ci^2)

    The ancestor of every reconstruction method. N images span at most N - 1
    directions, so with many components the training images are reconstructed too
    well: compare scores only among images that were not fitted. `fit` needs more than
    `components` images.

    Args:
        components: number of principal directions, from 1 to N - 1.
        smoothing: as in `PerPixelGaussian`; it acts on the map only.
        image_size: as in `Baseline`.

    Attributes:
        mean_: (D,), D = C H W.
        directions_: (components, D), orthonormal rows.
    """

    label = "PCA reconstruction"
    mean_: Tensor
    directions_: Tensor

    def __init__(
        self,
        components: int = 20,
        smoothing: float | None = None,
        image_size: Size | None = None,
    ):
        check_options(image_size, smoothing, components=components)
        self.components, self.smoothing = components, smoothing
        self.image_size = image_size

    def _learn(self, images: Tensor) -> dict[str, Any]:
        if self.components >= len(images):
            raise ValueError(
                f"{len(images)} images span at most {len(images) - 1} directions, "
                f"got components={self.components}; use fewer or more images."
            )
        flat = images.flatten(1)  # (N, D)
        mean = flat.mean(0)
        _, _, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        return {"mean_": mean, "directions_": directions[: self.components].clone()}

    def reconstruct(self, images: Images) -> Tensor:
        """(N, C, H, W): the projection of the images on the subspace."""
        return torch.cat([self._reconstruct(x) for x in self._batches(images)])

    def _reconstruct(self, x: Tensor) -> Tensor:
        centered = x.flatten(1) - self.mean_
        projected = centered @ self.directions_.T @ self.directions_
        return (projected + self.mean_).view_as(x)

    def _maps(self, x: Tensor) -> Tensor:
        residual = (x - self._reconstruct(x)).square().mean(1).sqrt()
        return smooth(residual, smoothing_width(self.smoothing, self.shape_))

    def _scores(self, x: Tensor) -> Tensor:
        """Root mean square residual over the whole image, in gray levels."""
        return (x - self._reconstruct(x)).square().mean((1, 2, 3)).sqrt()
