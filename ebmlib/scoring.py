"""From an energy to maps and scores: how abnormal an image is, and where.

`evaluate` takes the energy, the patch energies and the gradient of a batch from one
forward and one backward pass. The functions after it turn these into maps (chapter 9)
and maps into image scores (chapters 8 and 10). Every score is *higher for more
anomalous* images.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ebmlib.energy import (
    Energy,
    HasEnergyMap,
    check_input,
    energies,
    energy_maps,
    frozen,
    full_precision,
    input_gradient,
    to_device_of,
    value_and_gradient,
)
from ebmlib.random import randn
from ebmlib.smoothing import gaussian_smooth

NORMS = ("l1", "l2", "max")
IMAGE_SCORES = ("max", "top", "l2", "mean")
MODES = ("position", "global")
MAPS = ("gradient", "patches", "weighted", "compressed")
LEAST_SPREAD = 1e-3  # of map values, as a share of their mean
LEAST_STD = 1e-12  # of map values where that is 0; their squares then stay finite
GRADIENT_WEIGHT = 0.25  # of the gradient in "weighted" and "compressed" maps

Standardizer = TypeVar("Standardizer", bound="MapStandardizer")


class Evaluation(NamedTuple):
    """What one pass of an energy says of a batch, on the device of the energy."""

    energy: Tensor  # (B,)
    gradient: Tensor | None  # (B, C, H, W), None if it was not asked for
    patches: Tensor | None  # (B, h, w), None for an energy without patch energies
    stride: int | None  # distance of neighboring patches in px
    seen: Tensor  # (B, C, H, W), what was evaluated


def evaluate(energy: Energy, x: Tensor, *, gradient: bool = True) -> Evaluation:
    """Energy, input gradient and patch energies of a batch, from one pass.

    An energy with `energy_map` is the sum of its map, so the map is computed once, and
    the gradient of its sum is the gradient of the energy.

    Args:
        energy: any callable `(B, C, H, W) -> (B,)`.
        x: float tensor `(B, C, H, W)` in [0, 1]; it is moved to the energy's device.
        gradient: False leaves out the backward pass of an energy with `energy_map`.

    Raises:
        TypeError, ValueError: as `ebmlib.energy.value_and_gradient`.
    """
    x = to_device_of(energy, x)
    if not gradient and hasattr(energy, "energy_map"):
        check_input(x)
        with frozen(energy), torch.no_grad(), full_precision(x.device):
            cells = energy.energy_map(x)
        return Evaluation(cells.sum((1, 2)), None, cells, _stride(energy, x, cells), x)
    with frozen(energy):
        if not hasattr(energy, "energy_map"):
            return Evaluation(*value_and_gradient(energy, x), None, None, x)
        kept: list[Tensor] = []

        def total(z: Tensor) -> Tensor:
            kept.append(energy.energy_map(z))  # (B, h, w)
            return kept[-1].sum((1, 2))

        value, slope = value_and_gradient(total, x)
    patches = kept[-1].detach()
    return Evaluation(value, slope, patches, _stride(energy, x, patches), x)


def map_of(
    evaluation: Evaluation,
    kind: str,
    *,
    smoothing: float = 2.0,
    weight: float = GRADIENT_WEIGHT,
) -> Tensor:
    """The anomaly map of an evaluated batch: `(B, H, W)`, at least 0, on its device.

        gradient:   g = G_sigma * ||dE/dx||_2           over the color channels
        patches:    p = G_sigma * upsample(e_p)
        weighted:   g^w p^(1 - w)
        compressed: g^w q^(1 - w),   q = G_sigma * upsample(log(1 + e_p))

    The gradient is sharp but may be small inside a large defect, where no small change
    lowers the energy; the patch energies are high there but coarse.

    Args:
        evaluation: from `evaluate`.
        kind: one of `MAPS`.
        smoothing: standard deviation of G_sigma in pixels, at least 0.
        weight: w in [0, 1], the exponent of the gradient.

    Raises:
        TypeError: the energy has no patch energies, and `kind` needs them.
        ValueError: an unknown kind, a number out of range, or no gradient in the
            evaluation where `kind` needs one.
    """
    if kind not in MAPS:
        raise ValueError(f"kind must be one of {MAPS}, got {kind!r}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}")
    slope = None
    if kind != "patches":
        if evaluation.gradient is None:
            raise ValueError(
                f"a map of kind {kind!r} needs the gradient; use evaluate(energy, x)"
            )
        slope = smooth(_channel_norm(evaluation.gradient, "l2"), smoothing)
    if kind == "gradient" and slope is not None:
        return slope
    cells, stride = evaluation.patches, evaluation.stride
    if cells is None or stride is None:
        raise TypeError(
            f"a map of kind {kind!r} needs patch energies, and this energy has no "
            'energy_map; use kind="gradient"'
        )
    cells = cells.log1p() if kind == "compressed" else cells
    size = (evaluation.seen.shape[-2], evaluation.seen.shape[-1])
    patches = smooth(upsample_cells(cells, size, stride), smoothing)
    return patches if slope is None else slope**weight * patches ** (1 - weight)


def upsample_cells(cells: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Values of grid cells `(B, h, w)` at the pixels of the image: `(B, H, W)`.

    Cell (i, j) is centered at pixel ((i + 1/2) stride - 1/2, (j + 1/2) stride - 1/2).
    Between centers the values are interpolated bilinearly. Beyond the outermost
    centers, and on the last rows and columns of an image whose sides are not multiples
    of the stride, they are repeated.
    """
    covered = [side * stride for side in cells.shape[1:]]
    maps = interpolate(cells[:, None], covered, mode="bilinear")  # (B, 1, h s, w s)
    maps = maps[:, :, : size[0], : size[1]]
    below, right = size[0] - maps.shape[2], size[1] - maps.shape[3]
    if below or right:
        maps = pad(maps, (0, right, 0, below), mode="replicate")
    return maps[:, 0]


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

    The Gaussian ends at 3 sigma; beyond the border the map is mirrored.

    Args:
        maps: `(..., H, W)`; only the last two axes are smoothed.
        sigma: in pixels, at least 0; 0 returns the maps unchanged.

    Raises:
        ValueError: `sigma` is negative.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0 pixels, got {sigma}")
    return maps if sigma == 0 else gaussian_smooth(maps, sigma, truncate=3.0)


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
        generator: source of the noise, on any device.
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
        batch = to_device_of(energy, batch)
        total = torch.zeros_like(batch)
        for _ in range(copies):
            shift = noise * randn(batch.shape, generator, batch) if noise else 0.0
            total += input_gradient(energy, batch + shift)
        gradient = smooth(total / copies, signed_smoothing)  # (B, C, H, W)
        maps.append(smooth(_channel_norm(gradient, norm), smoothing).cpu())
    return torch.cat(maps)


def patch_map(
    energy: HasEnergyMap,
    images: Tensor,
    *,
    smoothing: float = 2.0,
    compress: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """The patch energies e_p(x), brought to the image's size: `(N, H, W)`, on the CPU.

        m(x) = G_sigma * upsample(e(x)), at least 0

    Args:
        energy: one with `energy_map`, such as `ebmlib.networks.PatchEnergy`.
        images: float tensor `(N, C, H, W)` in [0, 1].
        smoothing: standard deviation of G_sigma in pixels.
        compress: take log(1 + e_p) first. Upsampling spreads a very large patch energy
            over its neighbors; the logarithm limits that.
        batch_size: images per evaluation; it bounds memory, not the result.

    Raises:
        TypeError: the energy has no patches.
    """
    if not hasattr(energy, "energy_map"):
        raise TypeError(
            f"{type(energy).__name__} has no energy_map; use a PatchEnergy, or "
            "gradient_map, which works for every energy"
        )
    cells = energy_maps(energy, images, batch_size)
    stride = _stride(energy, images, cells)
    size = (images.shape[-2], images.shape[-1])
    cells = cells.log1p() if compress else cells
    return smooth(upsample_cells(cells, size, stride), smoothing)


def weighted_map(
    energy: HasEnergyMap,
    images: Tensor,
    *,
    share: float = GRADIENT_WEIGHT,
    smoothing: float = 2.0,
    compress: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Weighted geometric mean of gradient map and patch map: `(N, H, W)`, on the CPU.

        m(x) = gradient_map(x)^share * patch_map(x)^(1 - share)

    Both come from one pass, see `evaluate` and `map_of`. `share` in [0, 1] is the
    exponent of the gradient; the other arguments and errors are those of `patch_map`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    kind = "compressed" if compress else "weighted"
    return torch.cat(
        [
            map_of(evaluate(energy, x), kind, smoothing=smoothing, weight=share).cpu()
            for x in images.split(batch_size)
        ]
    )


def _stride(energy: object, images: Tensor, cells: Tensor) -> int:
    """Distance of neighboring patches in px: what the energy says, or the largest."""
    stride = getattr(energy, "stride", None)
    return images.shape[-2] // cells.shape[-2] if stride is None else int(stride)


def _channel_norm(gradient: Tensor, norm: str) -> Tensor:
    if norm == "l1":
        return gradient.abs().sum(1)
    if norm == "l2":
        return gradient.square().sum(1).sqrt()
    return gradient.abs().amax(1)


class MapStandardizer:
    """How unusual a map value is, compared with maps of normal training images.

        z = (m - mean) / max(std, floor * median(std), 0.001 |mean of all maps|, 1e-12)

    `mode="position"` estimates mean and std at each pixel, over the training images:
    an edge that is always there no longer has a large value. It fits objects that are
    always in the same place. `mode="global"` uses one mean and one std for all
    positions, which is right for textures and for parts that rotate. The floor: a pixel
    that hardly varied in the training set would turn a harmless change into a huge
    score. The last bounds do the same where all training images are equal.

    Args:
        mode: `"position"` or `"global"`.
        smoothing: width in pixels of the Gaussian that smooths mean and std over
            positions; few training images give noisy estimates.
        floor: relative floor of std, at least 0.

    Attributes:
        mean_: `(H, W)`, or `(1, 1)` for the mode "global"; set by `fit`.
        std_: the same shape, positive; set by `fit`.
    """

    def __init__(
        self, mode: str = "position", *, smoothing: float = 2.0, floor: float = 0.5
    ):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if not floor >= 0:
            raise ValueError(f"floor must be at least 0, got {floor}")
        self.mode, self.smoothing, self.floor = mode, smoothing, floor
        self.mean_: Tensor | None = None
        self.std_: Tensor | None = None

    def fit(self: Standardizer, maps: Tensor) -> Standardizer:
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
            mean = smooth(maps.mean(0), self.smoothing)
            variance = smooth(maps.var(0), self.smoothing)
        std = variance.sqrt()
        least = (LEAST_SPREAD * maps.mean().abs()).clamp_min(LEAST_STD)
        least = torch.maximum(least, self.floor * std.median())
        self.mean_, self.std_ = mean, std.clamp_min(least)
        return self

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps `(N, H, W)` in units of the training images' spread, on their device."""
        if self.mean_ is None or self.std_ is None:
            raise ValueError("the standardizer has no statistics yet; call fit() first")
        if self.mode == "position" and maps.shape[1:] != self.mean_.shape:
            raise ValueError(
                f"maps are {tuple(maps.shape[1:])} pixels but the statistics were "
                f"fitted at {tuple(self.mean_.shape)}; use images of one size"
            )
        return (maps - self.mean_.to(maps)) / self.std_.to(maps)


def image_score(maps: Tensor, kind: str = "max", share: float = 0.01) -> Tensor:
    """One score per image from its anomaly map.

    `"max"`: the largest value. `"top"`: mean of the largest `share` of values, less
    sensitive to a single pixel. `"l2"`: sqrt(mean m^2), the norm of the map per pixel.
    `"mean"`: the mean.

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
