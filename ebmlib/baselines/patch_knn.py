"""Nearest neighbors among the patches of normal images (chapters 1 and 12)."""

import torch
from torch import Tensor

from ebmlib.baselines.checks import (
    check_fitted,
    check_images,
    check_smoothing,
    smoothing_width,
)
from ebmlib.baselines.features import CosinePatches, check_frequencies
from ebmlib.scoring import image_score, smooth

SUBSAMPLES = ("random", "coreset")


class PatchKNN:
    """Distance of every patch to the nearest patch seen in training, anywhere.

        d_p(x) = min_{m in memory} ||phi(patch p) - m||,   score = max_i map_i

    phi: cosine features, see `ebmlib.baselines.features`. The map spreads d_p evenly
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
    """

    label = "patch kNN (PatchCore-style, cosine features)"

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
    ):
        check_frequencies(frequencies, brightness)
        if memory < 1:
            raise ValueError(f"memory must be >= 1 patch, got {memory}.")
        if subsample not in SUBSAMPLES:
            raise ValueError(
                f"subsample must be one of {SUBSAMPLES}, got {subsample!r}."
            )
        check_smoothing(smoothing)
        self.patch, self.stride, self.frequencies = patch, stride, frequencies
        self.memory, self.subsample, self.brightness = memory, subsample, brightness
        self.smoothing, self.seed = smoothing, seed
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PatchKNN":
        """Fill the memory with the patches of normal images."""
        check_images(images, at_least=1)
        self.patches = CosinePatches.on(
            images, self.patch, self.stride, self.frequencies, self.brightness
        )
        generator = torch.Generator().manual_seed(self.seed)
        pool = self.patches.features(images).movedim(1, -1).flatten(0, 2)  # (P, F)
        keep = self.memory * (10 if self.subsample == "coreset" else 1)
        pool = pool[torch.randperm(len(pool), generator=generator)[:keep]]
        if self.subsample == "coreset":
            pool = pool[farthest_points(pool, self.memory)]
        self.bank = pool  # (M, F)
        self.shape = images.shape[1:]
        return self

    def distances(self, images: Tensor) -> Tensor:
        """(N, h, w): distance of every patch to its nearest neighbor in memory."""
        check_fitted(self, images)
        nearest = []
        for image in images:  # one by one: bounds the memory of the distance matrix
            patches = self.patches.features(image[None])[0].movedim(0, -1)  # (h, w, F)
            flat = patches.flatten(0, 1)
            closest = torch.cdist(flat, self.bank).argmin(1)
            # cdist rounds near zero, so the winner's distance is taken again.
            distance = (flat - self.bank[closest]).square().sum(1).sqrt()
            nearest.append(distance.view(patches.shape[:2]))
        return torch.stack(nearest)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): distances spread over their patches and smoothed, >= 0."""
        distances = self.distances(images)
        spread = self.patches.spread(distances, images.shape)
        return smooth(spread, smoothing_width(self.smoothing, images.shape))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map, in gray levels (l2 over a patch)."""
        return image_score(self.anomaly_map(images), "max")


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
