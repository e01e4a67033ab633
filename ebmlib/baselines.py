"""Four detectors that any energy has to beat, without a neural network (chapter 1).

All share the interface of the detector: `fit(images)` on normal images, then
`anomaly_score(images)` and `anomaly_map(images)`, higher = more anomalous. Images are
float tensors (N, C, H, W) in [0, 1]. Print these rows beside every result: if mean
brightness alone separates the test set, a good number on it means nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.scoring import image_score, smooth

SUBSAMPLES = ("random", "coreset")


class MeanBrightness:
    """The mean gray level of an image, and nothing else: exposes a shortcut.

        score(x) = mean_{c,i} x_ci                          (two_sided=False)
        score(x) = |mean x - m| / s                         (two_sided=True)

    m and s are mean and standard deviation of the mean gray level over the training
    images. The raw form has no right sign: an AUROC near 0 betrays a shortcut as
    much as one near 1, so do not flip it by looking at the test set. The two-sided
    form is an honest detector of unusual exposure. The map is the gray level of each
    pixel (raw), or its distance from m in units of s (two-sided).

    Args:
        two_sided: score the distance from the training images instead.
    """

    def __init__(self, two_sided: bool = False):
        self.two_sided = two_sided
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "MeanBrightness":
        """Remember how bright normal images (N, C, H, W) are; N >= 2."""
        _check_images(images, at_least=2)
        levels = images.mean((1, 2, 3))  # (N,)
        self.mean, self.std = levels.mean(), levels.std().clamp_min(1e-6)
        self.shape = images.shape[1:]
        return self

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the mean gray level in [0, 1], or its distance in training stds."""
        _check_fitted(self, images)
        return self._scored(images.mean((1, 2, 3)))

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): the same measure of every pixel, unsmoothed."""
        _check_fitted(self, images)
        return self._scored(images.mean(1))

    def _scored(self, levels: Tensor) -> Tensor:
        return (levels - self.mean).abs() / self.std if self.two_sided else levels


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

    def __init__(self, smoothing: float | None = None, min_std: float = 0.02):
        if smoothing is not None and not smoothing >= 0:
            raise ValueError(f"smoothing must be >= 0 pixels, got {smoothing}.")
        if not min_std > 0:
            raise ValueError(f"min_std must be > 0 (gray levels), got {min_std}.")
        self.smoothing, self.min_std = smoothing, min_std
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PerPixelGaussian":
        """Estimate mean and std at every position from normal images; N >= 2."""
        _check_images(images, at_least=2)
        self.mean = images.mean(0)  # (C, H, W)
        self.std = images.std(0).clamp_min(self.min_std)
        self.shape = images.shape[1:]
        return self

    def z_scores(self, images: Tensor) -> Tensor:
        """(N, C, H, W): signed distance from the mean in standard deviations."""
        _check_fitted(self, images)
        return (images - self.mean) / self.std

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): smoothed root mean square z over channels, >= 0."""
        z = self.z_scores(images).square().mean(1).sqrt()
        return smooth(z, _width(self.smoothing, images))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map."""
        return image_score(self.anomaly_map(images), "max")


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

    def __init__(self, components: int = 20, smoothing: float | None = None):
        if components < 1:
            raise ValueError(f"components must be >= 1, got {components}.")
        if smoothing is not None and not smoothing >= 0:
            raise ValueError(f"smoothing must be >= 0 pixels, got {smoothing}.")
        self.components, self.smoothing = components, smoothing
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PCAReconstruction":
        """Find the principal directions; needs more than `components` images."""
        _check_images(images, at_least=2)
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
        _check_fitted(self, images)
        centered = images.flatten(1) - self.mean
        projected = centered @ self.directions.T @ self.directions
        return (projected + self.mean).view_as(images)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): smoothed root mean square residual over channels, >= 0."""
        residual = images - self.reconstruct(images)
        return smooth(residual.square().mean(1).sqrt(), _width(self.smoothing, images))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): root mean square residual over the whole image, in gray levels."""
        residual = images - self.reconstruct(images)
        return residual.square().mean((1, 2, 3)).sqrt()


class PatchKNN:
    """Distance of every patch to the nearest patch seen in training, anywhere.

        d_p(x) = min_{m in memory} ||phi(patch p) - m||,   score = max_i map_i

    phi keeps the `frequencies`^2 lowest coefficients of the patch's orthonormal
    discrete cosine transform, per channel, so distances are in gray levels, and no
    pretrained weights are involved. The map spreads d_p evenly over the patch, averages
    where patches overlap, and smooths. The nearest-neighbor scheme is PatchCore's
    (Roth et al., CVPR 2022, arXiv 2106.08265); the features are not.

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
        if frequencies < 1 or (frequencies == 1 and not brightness):
            raise ValueError(
                "frequencies must be >= 1, and >= 2 without brightness, got "
                f"{frequencies}."
            )
        if memory < 1:
            raise ValueError(f"memory must be >= 1 patch, got {memory}.")
        if subsample not in SUBSAMPLES:
            raise ValueError(
                f"subsample must be one of {SUBSAMPLES}, got {subsample!r}."
            )
        if smoothing is not None and not smoothing >= 0:
            raise ValueError(f"smoothing must be >= 0 pixels, got {smoothing}.")
        self.patch, self.stride, self.frequencies = patch, stride, frequencies
        self.memory, self.subsample, self.brightness = memory, subsample, brightness
        self.smoothing, self.seed = smoothing, seed
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "PatchKNN":
        """Fill the memory with the patches of normal images."""
        _check_images(images, at_least=1)
        side = min(images.shape[2:])
        default = max(side // 8, self.frequencies)
        patch = default if self.patch is None else self.patch
        stride = max(patch // 4, 1) if self.stride is None else self.stride
        if not (self.frequencies <= patch <= side and 1 <= stride <= patch):
            raise ValueError(
                f"need frequencies <= patch <= {side} (image side) and 1 <= stride <= "
                f"patch, got frequencies={self.frequencies}, {patch=}, {stride=}."
            )
        self.patch_, self.stride_ = patch, stride
        generator = torch.Generator().manual_seed(self.seed)
        pool = self.features(images).movedim(1, -1).flatten(0, 2)  # (P, F)
        keep = self.memory * (10 if self.subsample == "coreset" else 1)
        pool = pool[torch.randperm(len(pool), generator=generator)[:keep]]
        if self.subsample == "coreset":
            pool = pool[farthest_points(pool, self.memory)]
        self.bank = pool  # (M, F)
        self.shape = images.shape[1:]
        return self

    def features(self, images: Tensor) -> Tensor:
        """(N, F, h, w): low cosine coefficients of every patch and channel."""
        height, width = images.shape[2:]
        # Pad so that the last patch reaches the border; the map is cropped again.
        right = (self.patch_ - width) % self.stride_
        below = (self.patch_ - height) % self.stride_
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        filters = cosine_filters(self.patch_, self.frequencies).to(images)
        if not self.brightness:  # the first filter is constant
            filters = filters[1:]
        filters = filters.repeat(images.shape[1], 1, 1, 1)  # every channel by itself
        return F.conv2d(padded, filters, stride=self.stride_, groups=images.shape[1])

    def distances(self, images: Tensor) -> Tensor:
        """(N, h, w): distance of every patch to its nearest neighbor in memory."""
        _check_fitted(self, images)
        nearest = []
        for image in images:  # one by one: bounds the memory of the distance matrix
            patches = self.features(image[None])[0].movedim(0, -1)  # (h, w, F)
            flat = patches.flatten(0, 1)
            closest = torch.cdist(flat, self.bank).argmin(1)
            # cdist rounds near zero, so the winner's distance is taken again.
            distance = (flat - self.bank[closest]).square().sum(1).sqrt()
            nearest.append(distance.view(patches.shape[:2]))
        return torch.stack(nearest)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): distances spread over their patches and smoothed, >= 0."""
        distance = self.distances(images)[:, None]  # (N, 1, h, w)
        ones = torch.ones(1, 1, self.patch_, self.patch_).to(distance)
        total = F.conv_transpose2d(distance, ones, stride=self.stride_)
        count = F.conv_transpose2d(
            torch.ones_like(distance[:1]), ones, stride=self.stride_
        )
        height, width = images.shape[2:]
        spread = (total / count)[:, 0, :height, :width]
        return smooth(spread, _width(self.smoothing, images))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map, in gray levels (l2 over a patch)."""
        return image_score(self.anomaly_map(images), "max")


def cosine_filters(size: int, frequencies: int) -> Tensor:
    """Orthonormal 2-D cosine basis (frequencies^2, 1, size, size), constant first.

    c_k(i) = sqrt((2 - [k = 0]) / size) cos(pi k (2 i + 1) / (2 size)), products of two.
    Source: Ahmed, Natarajan, Rao, IEEE Trans. Computers C-23, 1974 (DCT-II).
    """
    k, i = torch.arange(frequencies)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(-1, 1, size, size)


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


def _width(smoothing: float | None, images: Tensor) -> float:
    return min(images.shape[2:]) / 32 if smoothing is None else smoothing


def _check_images(images: Tensor, at_least: int = 0) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a float tensor (N, C, H, W) in [0, 1], got {kind}; "
            "divide uint8 images by 255."
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}.")
    if len(images) < at_least:
        raise ValueError(f"need at least {at_least} images, got {len(images)}.")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # NaN fails too
        raise ValueError(
            "images must be in [0, 1] without NaN, got values from "
            f"{images.min():.3g} to {images.max():.3g}; divide 8-bit images by 255."
        )


def _check_fitted(
    model: MeanBrightness | PerPixelGaussian | PCAReconstruction | PatchKNN,
    images: Tensor,
) -> None:
    if model.shape is None:
        name = type(model).__name__
        raise ValueError(f"{name} is not fitted yet: call fit(normal_images) first.")
    _check_images(images)
    if images.shape[1:] != model.shape:
        raise ValueError(
            f"fitted on images (C, H, W) = {tuple(model.shape)}, got "
            f"{tuple(images.shape[1:])}; use one size and channel count."
        )
