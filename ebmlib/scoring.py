"""From an energy to scores and maps: how abnormal an image is, and where.

Chapter 8 uses `energy_score`, chapter 9 `gradient_map`, chapter 10 the
processing that turns a map into image scores. Every score here is *higher for more
anomalous* images.
"""

from __future__ import annotations

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import interpolate

from ebmlib.energy import Energy, energies, energy_maps, input_gradient, on_device_of
from ebmlib.networks import PatchEnergy

NORMS = ("l1", "l2", "max")
IMAGE_SCORES = ("max", "top", "l2", "mean")
MODES = ("position", "global")


def energy_score(energy: Energy, images: Tensor, batch_size: int = 64) -> Tensor:
    """Energy of every image, the normalcy score of the method (Genc et al. 2021).

    s(x) = E(x) = -log p(x) - log Z. The unknown log Z is the same for all images, so
    it changes neither their order nor any AUROC.

    Args:
        energy: any callable `(B, C, H, W) -> (B,)`.
        images: float tensor `(N, C, H, W)` in [0, 1].
        batch_size: images per evaluation; it bounds memory, not the result.

    Returns:
        Scores `(N,)` on the CPU, higher for more anomalous.
    """
    return energies(energy, images, batch_size).cpu()


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Convolve each map with a Gaussian of standard deviation `sigma` pixels.

    Args:
        maps: `(N, H, W)` or `(N, C, H, W)`; only the last two axes are smoothed.
        sigma: in pixels, at least 0; 0 returns the maps unchanged.

    Raises:
        ValueError: `sigma` is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0 pixels, got {sigma}")
    if sigma == 0:
        return maps
    widths = (0.0,) * (maps.ndim - 2) + (sigma, sigma)
    filtered = gaussian_filter(maps.cpu().numpy(), widths, mode="reflect", truncate=3.0)
    return torch.from_numpy(filtered)


def gradient_map(
    energy: Energy,
    images: Tensor,
    *,
    smoothing: float = 2.0,
    signed_smoothing: float = 0.0,
    norm: str = "l2",
    noise: float = 0.0,
    copies: int = 1,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Where changing the pixels would change the energy most (Genc et al. 2021).

        m(x) = G_sigma * || dE(x)/dx ||_c

    The gradient dE/dx has the shape of the image. Its norm is taken over the color
    channels c, then the map is smoothed with a Gaussian G_sigma.

    Args:
        energy: any callable `(B, C, H, W) -> (B,)`.
        images: float tensor `(N, C, H, W)` in [0, 1].
        smoothing: standard deviation of G_sigma in pixels, after the norm.
        signed_smoothing: the same, applied to the signed gradient *before* the norm;
            neighboring gradients of opposite sign then cancel.
        norm: over channels, `"l1"`, `"l2"` or `"max"`.
        noise: standard deviation of Gaussian noise added to the image before the
            gradient is taken; needs `generator`.
        copies: how many noisy copies the gradient is averaged over.
        generator: source of the noise.
        batch_size: images per evaluation; it bounds memory, not the result.

    Returns:
        Maps `(N, H, W)`, at least 0, on the CPU.

    Raises:
        ValueError: an unknown norm, a negative width, noise without a generator.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    if copies < 1 or noise < 0:
        raise ValueError(
            f"copies must be at least 1 and noise at least 0, got {copies} and {noise}"
        )
    if noise > 0 and generator is None:
        raise ValueError(
            "noise > 0 needs a torch.Generator, so that the map is repeatable"
        )
    if noise == 0 and copies > 1:
        raise ValueError("copies > 1 without noise repeats one map; set noise > 0")
    maps = []
    for batch in images.split(batch_size):
        batch = on_device_of(energy, batch)
        gradient = _mean_gradient(
            energy, batch, noise, copies, generator
        )  # (B, C, H, W)
        gradient = smooth(gradient.cpu(), signed_smoothing)
        maps.append(smooth(_channel_norm(gradient, norm), smoothing))  # (B, H, W)
    return torch.cat(maps)


def patch_map(
    energy: PatchEnergy,
    images: Tensor,
    *,
    smoothing: float = 2.0,
    compress: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Which patches object: the patch energies e_p(x), brought to the image's size.

        m(x) = G_sigma * upsample(e(x)), at least 0

    Args:
        energy: one with `energy_map`, such as `ebmlib.networks.PatchEnergy`.
        images: float tensor `(N, C, H, W)` in [0, 1].
        smoothing: standard deviation of G_sigma in pixels.
        compress: take log(1 + e_p) first. A patch that objects very loudly would spill
            over its neighbors in the upsampling; the logarithm keeps it in its place.
        batch_size: images per evaluation; it bounds memory, not the result.

    Returns:
        Maps `(N, H, W)` on the CPU.

    Raises:
        TypeError: the energy has no patches.
    """
    if not hasattr(energy, "energy_map"):
        raise TypeError(
            f"{type(energy).__name__} has no energy_map; use a PatchEnergy, or "
            "gradient_map, which works for every energy"
        )
    cells = energy_maps(energy, images, batch_size)
    if compress:
        cells = cells.log1p()
    maps = interpolate(cells[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    return smooth(maps, smoothing)


def weighted_map(
    energy: PatchEnergy,
    images: Tensor,
    *,
    share: float = 0.25,
    smoothing: float = 2.0,
    compress: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """The gradient map and the patch energies, as a weighted geometric mean.

        m(x) = gradient_map(x)^share * patch_map(x)^(1 - share)

    The gradient is sharp but may be weak inside a large defect, where no small change
    helps; the patch energies are high there but coarse. Their mean asks for both.
    `share` in [0, 1] is the gradient's; the other arguments and errors are those of
    `patch_map`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    options = {"smoothing": smoothing, "batch_size": batch_size}
    patches = patch_map(energy, images, compress=compress, **options)
    return gradient_map(energy, images, **options) ** share * patches ** (1 - share)


def _mean_gradient(energy, batch, noise, copies, generator) -> Tensor:
    """Average the input gradient over noisy copies of a batch."""
    total = torch.zeros_like(batch)
    for _ in range(copies):
        x = batch
        if noise > 0:
            jitter = torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
            x = batch + noise * jitter.to(batch.device)
        total += input_gradient(energy, x)
    return total / copies


def _channel_norm(gradient: Tensor, norm: str) -> Tensor:
    if norm == "l1":
        return gradient.abs().sum(1)
    if norm == "l2":
        return gradient.square().sum(1).sqrt()
    return gradient.abs().amax(1)


class MapStandardizer:
    """Say how unusual a map value is, compared with normal training images.

        z = (m - mean) / max(std, floor * median(std))

    `mode="position"` estimates mean and std at each pixel, over the training images:
    an edge that is always there no longer lights up. It fits objects that are always
    in the same place. `mode="global"` uses one mean and one std for all positions,
    which is right for textures and for parts that rotate. The floor: a pixel that
    hardly varied in the training set would turn a harmless change into a huge score.

    Args:
        mode: `"position"` or `"global"`.
        smoothing: width in pixels of the Gaussian that smooths mean and std over
            positions; few training images give noisy estimates.
        floor: relative floor of std, at least 0.
    """

    def __init__(
        self, mode: str = "position", *, smoothing: float = 2.0, floor: float = 0.5
    ):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if not floor >= 0:
            raise ValueError(f"floor must be at least 0, got {floor}")
        self.mode, self.smoothing, self.floor = mode, smoothing, floor
        self.mean: Tensor | None = None  # (H, W), or (1, 1) for mode "global"
        self.std: Tensor | None = None

    def fit(self, maps: Tensor) -> MapStandardizer:
        """Estimate mean and spread from maps `(N, H, W)` of normal images."""
        if maps.ndim != 3 or len(maps) < 2:
            raise ValueError(
                "the standardizer needs at least two maps of shape (N, H, W), got "
                f"{tuple(maps.shape)}"
            )
        if not torch.isfinite(maps).all():
            raise ValueError("maps of training images hold NaN or infinite values")
        if self.mode == "global":
            mean, variance = maps.mean().view(1, 1), maps.var().view(1, 1)
        else:
            mean = smooth(maps.mean(0, keepdim=True), self.smoothing)[0]
            variance = smooth(maps.var(0, keepdim=True), self.smoothing)[0]
        std = variance.sqrt()
        tiny = torch.finfo(std.dtype).tiny
        self.mean, self.std = mean, std.clamp_min(self.floor * std.median() + tiny)
        return self

    def __call__(self, maps: Tensor) -> Tensor:
        """Standardize maps `(N, H, W)` in units of the training images' spread."""
        if self.mean is None:
            raise ValueError("the standardizer has no statistics yet; call fit() first")
        if self.mode == "position" and maps.shape[1:] != self.mean.shape:
            raise ValueError(
                f"maps are {tuple(maps.shape[1:])} pixels but the statistics were "
                f"fitted at {tuple(self.mean.shape)}; use images of one size"
            )
        return (maps - self.mean) / self.std


def image_score(maps: Tensor, kind: str = "max", share: float = 0.01) -> Tensor:
    """One score per image from its anomaly map.

    `"max"`: the largest value. `"top"`: mean of the largest `share` of values,
    less nervous than the maximum. `"l2"`: sqrt(mean m^2), the norm
    of the map per pixel. `"mean"`: the mean.

    Args:
        maps: `(N, H, W)`.
        kind: one of `"max"`, `"top"`, `"l2"`, `"mean"`.
        share: fraction of pixels for `"top"`, in (0, 1].

    Returns:
        Scores `(N,)`.

    Raises:
        ValueError: an unknown kind, a share outside (0, 1], maps of another shape.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (N, H, W), got {tuple(maps.shape)}")
    if kind not in IMAGE_SCORES:
        raise ValueError(f"kind must be one of {IMAGE_SCORES}, got {kind!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    flat = maps.flatten(1)
    if kind == "max":
        return flat.amax(1)
    if kind == "top":
        return flat.topk(max(1, round(share * flat.shape[1]))).values.mean(1)
    if kind == "l2":
        return flat.square().mean(1).sqrt()
    return flat.mean(1)
