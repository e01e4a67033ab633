"""Nearest neighbors among the patches of normal images (chapters 1 and 12)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebmlib.baselines.base import Baseline, check_options, smoothing_width
from ebmlib.baselines.patches import check_frequencies, covering_patches, spread
from ebmlib.data.images import Images
from ebmlib.data.resizing import Size
from ebmlib.features import CosineFeatures
from ebmlib.random import randperm
from ebmlib.scoring import smooth

SUBSAMPLES = ("random", "coreset")


class PatchKNN(Baseline):
    """Distance of every patch to the nearest patch seen in training, anywhere.

        d_p(x) = min_{m in memory} ||phi(patch p) - m||,   score = max_i map_i

    phi: cosine features, see `ebmlib.features`. The map spreads d_p evenly
    over the patch, averages where patches overlap, and smooths. The nearest-neighbor
    scheme is PatchCore's (Roth et al., CVPR 2022, arXiv 2106.08265); the features are
    not: no pretrained weights are involved.

    Args:
        patch: side of a patch in pixels; default: 1/8 of the images' shorter side.
        stride: step between patches in pixels; default: patch // 4.
        frequencies: coefficients kept per axis, from 1 to `patch`.
        memory: largest number of remembered patches.
        subsample: how they are chosen: "coreset" (greedy farthest point among at most
            ten times as many random patches: slower, keeps rare ones) or "random".
        brightness: keep the constant coefficient; False ignores a patch's mean level.
        smoothing: as in `PerPixelGaussian`.
        seed: of the choice of patches.
        image_size: as in `Baseline`.

    Attributes:
        features_: the `CosineFeatures` of the patches.
        bank_: (M, F), the remembered patches.
    """

    label = "patch kNN (PatchCore-style, cosine features)"
    least = 1
    features_: CosineFeatures
    bank_: Tensor

    def __init__(
        self,
        patch: int | None = None,
        stride: int | None = None,
        frequencies: int = 5,
        memory: int = 2000,
        subsample: str = "coreset",
        brightness: bool = True,
        smoothing: float | None = None,
        seed: int = 0,
        image_size: Size | None = None,
    ):
        check_options(image_size, smoothing, memory=memory)
        check_frequencies(frequencies, brightness)
        if subsample not in SUBSAMPLES:
            raise ValueError(
                f"subsample must be one of {SUBSAMPLES}, got {subsample!r}."
            )
        self.patch, self.stride, self.frequencies = patch, stride, frequencies
        self.memory, self.subsample, self.brightness = memory, subsample, brightness
        self.smoothing, self.seed, self.image_size = smoothing, seed, image_size

    @torch.no_grad()
    def _learn(self, images: Tensor) -> dict[str, Any]:
        _, channels, height, width = images.shape
        features = covering_patches(
            (channels, height, width),
            self.patch,
            self.stride,
            self.frequencies,
            self.brightness,
        )
        generator = torch.Generator().manual_seed(self.seed)
        parts = [features(x).movedim(1, -1).flatten(0, 2) for x in images.split(32)]
        pool = torch.cat(parts)  # (P, F)
        keep = self.memory * (10 if self.subsample == "coreset" else 1)
        pool = pool[randperm(len(pool), generator)[:keep]]
        if self.subsample == "coreset":
            pool = pool[farthest_points(pool, self.memory)]
        return {"features_": features, "bank_": pool}

    def distances(self, images: Images) -> Tensor:
        """(N, h, w): distance of every patch to its nearest neighbor in memory."""
        return torch.cat([self._distances(x) for x in self._batches(images)])

    @torch.no_grad()
    def _distances(self, images: Tensor) -> Tensor:
        nearest = []
        for image in images:  # one by one: bounds the memory of the distance matrix
            patches = self.features_(image[None])[0].movedim(0, -1)  # (h, w, F)
            flat = patches.flatten(0, 1)
            closest = torch.cdist(flat, self.bank_).argmin(1)
            # cdist rounds near zero, so the winner's distance is taken again.
            distance = (flat - self.bank_[closest]).square().sum(1).sqrt()
            nearest.append(distance.view(patches.shape[:2]))
        return torch.stack(nearest)

    def _maps(self, x: Tensor) -> Tensor:
        maps = spread(self._distances(x), self.features_, self.shape_)
        return smooth(maps, smoothing_width(self.smoothing, self.shape_))


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of a greedy k-center coreset of points (P, F): a 2-approximation.

    Starts at the first point and adds, again and again, the point farthest from all
    chosen ones. Source: Gonzalez, Theoretical Computer Science 38, 1985.
    """
    chosen = [0]
    nearest = (points - points[0]).square().sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
