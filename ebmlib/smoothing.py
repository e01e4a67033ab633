"""Gaussian smoothing of images and maps on the device where they lie (chapter 9)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_smooth(x: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Images convolved with a Gaussian over their last two axes, same shape.

        y = G_H x G_W^T,   G_n[i, j] = sum of g(k) over all k with mirror(i + k) = j

    g(k) is proportional to exp(-k^2 / (2 sigma^2)) for |k| <= truncate * sigma, rounded
    to the nearest pixel, and sums to one. Beyond the border the image is mirrored, and
    the outermost pixel is repeated (d c b a | a b c d | d c b a): mode "reflect" of
    `scipy.ndimage.gaussian_filter`, which gives the same values. The mean over all
    pixels is kept. The cost is H W (H + W) multiplications per image, whatever
    the width of the Gaussian; gradients flow through it.

    Args:
        x: `(..., H, W)`, floating point, on any device.
        sigma: standard deviation of the Gaussian in pixels, at least 0; 0 returns x.
        truncate: radius of the window in units of sigma, positive.

    Raises:
        ValueError: fewer than two axes, no floating point, or an argument out of range.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            "x must be a floating point tensor (..., H, W), got "
            f"{tuple(x.shape)} of {x.dtype}"
        )
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0 pixels, got {sigma}")
    if not truncate > 0:
        raise ValueError(f"truncate must be positive, got {truncate}")
    if sigma == 0:
        return x
    height, width = x.shape[-2:]
    columns = _operator(width, sigma, truncate, x)
    rows = columns if height == width else _operator(height, sigma, truncate, x)
    return rows @ (x @ columns.T)


def _operator(n: int, sigma: float, truncate: float, like: Tensor) -> Tensor:
    """The matrix G_n, `(n, n)`, on the device of `like` and made there."""
    radius, i = int(truncate * sigma + 0.5), torch.arange(n, device=like.device)
    # g summed over all mirror images: 2 n numbers, as the mirrored image repeats.
    periods = range(-(radius // (2 * n)) - 1, radius // (2 * n) + 2)
    k = torch.arange(2 * n, dtype=like.dtype, device=like.device)
    far = torch.stack([k + 2 * n * period for period in periods])
    g = (torch.exp(-0.5 * (far / sigma) ** 2) * (far.abs() <= radius)).sum(0)
    g /= g.sum()
    return g[(i - i[:, None]) % (2 * n)] + g[(-1 - i - i[:, None]) % (2 * n)]
