"""The size of the view, averaging down to it, and maps back at another size.

The energy sees a *view*: what is cut out of an image, or the image itself, averaged to
sides that are multiples of 16. All its strides then divide the sides, and the patches
of a patch energy cover the view exactly.

Positions follow one rule. A grid of h x w values covers its rectangle without a gap, so
value (i, j) of any grid lies at ((i + 1/2) / h, (j + 1/2) / w) of the rectangle's sides
(`align_corners=False`). Patch energies, maps of the view and maps of the image differ
in h and w only.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 16  # px: the strides of all energies divide it
Size = tuple[int, int]


def view_size(size: Size, max_pixels: int) -> Size:
    """Height and width of the view for what is `size` px, both multiples of 16.

    1. `size` itself, if it fits: sides that are multiples of 16, at most `max_pixels`.
    2. Otherwise half of it, if that fits and has at least half of `max_pixels`: the
       mean over 2 x 2 pixels blurs all places alike, other small ratios do not.
    3. Otherwise, of the sizes that fit, the one that is nearest to `size`, scaled down
       to `max_pixels` pixels where it has more. A side may then grow by up to 8 px.

    Sides below 16 px become 16 px.

    Args:
        size: height and width in px.
        max_pixels: at least 256.
    """
    height, width = size
    for ratio, least in ((1, 0), (2, max_pixels / 2)):
        h, w = height // ratio, width // ratio
        whole = not (height % (ratio * MULTIPLE) or width % (ratio * MULTIPLE))
        if whole and least <= h * w <= max_pixels:
            return h, w
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    wanted = scale * height, scale * width
    below = [max(MULTIPLE, int(side) // MULTIPLE * MULTIPLE) for side in wanted]
    options = [
        (h, w)
        for h in (below[0], below[0] + MULTIPLE)
        for w in (below[1], below[1] + MULTIPLE)
        if h * w <= max_pixels
    ]
    if options:
        return min(options, key=lambda pair: _distance(pair, wanted))
    # A strip so thin that 16 px across leave fewer along it than its shape asks for.
    longest = max_pixels // MULTIPLE // MULTIPLE * MULTIPLE
    return (MULTIPLE, longest) if height < width else (longest, MULTIPLE)


def _distance(size: Size, wanted: tuple[float, float]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(size, wanted, strict=True))


def area_resize(images: Tensor, size: Size) -> Tensor:
    """Images `(N, C, H, W)` at `size`: each new pixel is the mean over its area.

    Exact for every ratio: X' = A_h X A_w^T, where row i of A_h holds the overlaps of
    the interval [i, i + 1] H / h with the unit intervals of the old pixels, divided by
    H / h. The mean of the image is kept. Runs on the device of `images`.
    """
    old = images.shape[-2:]
    if tuple(old) == tuple(size):
        return images
    if not (old[0] % size[0] or old[1] % size[1]):  # the same, without the matrices
        return block_mean(images, old[0] // size[0], old[1] // size[1])
    rows, columns = (_area_matrix(a, b, images) for a, b in zip(old, size, strict=True))
    return rows @ (images @ columns.T)


def block_mean(x: Tensor, rows: int, columns: int) -> Tensor:
    """Means over blocks of `rows` x `columns` pixels: `(..., H // rows, W // columns)`.

    As `avg_pool2d`: rows and columns at the end that fill no block are left out. For
    small blocks it takes a fraction of that function's time on a CPU.
    """
    h, w = x.shape[-2] // rows, x.shape[-1] // columns
    x = x[..., : h * rows, : w * columns]
    x = functools.reduce(torch.add, (x[..., k::rows, :] for k in range(rows)))
    x = functools.reduce(torch.add, (x[..., k::columns] for k in range(columns)))
    return x * (1 / (rows * columns))


def _area_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """A of `area_resize`, `(new, old)`; in units of 1 / new old px all is whole."""
    i = torch.arange(new, device=like.device)[:, None] * old
    j = torch.arange(old, device=like.device) * new
    overlap = torch.minimum(i + old, j + new) - torch.maximum(i, j)
    return overlap.clamp_min(0).to(like.dtype) / old


def resize_maps(maps: Tensor, size: Size) -> Tensor:
    """Maps `(N, h, w)` on a grid of another `size`, `(N, *size)`, in place.

    Bilinear between the centers of the values; beyond the outermost centers the values
    are repeated. Nothing is averaged, so a much smaller size would leave values out.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]


def check_grid(maps: Tensor, size: Size) -> None:
    """Refuse maps that do not cover a view of `size` px exactly.

    Raises:
        ValueError: maps are not `(N, h, w)`, or h or w neither divides the side of the
            view nor is a multiple of it.
    """
    if maps.ndim != 3 or any(
        max(a, b) % min(a, b) for a, b in zip(maps.shape[1:], size, strict=True)
    ):
        raise ValueError(
            f"maps of a view of {size[0]} x {size[1]} px must be (N, h, w) with sides "
            f"that divide those of the view, or multiples of them; got "
            f"{tuple(maps.shape)}"
        )
