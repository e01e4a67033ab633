"""Feature maps: what an energy in closed form sees of an image (chapters 12 and 13).

A feature map is a differentiable module (B, C, H, W) -> (B, F, h, w). Cell (i, j) of
its grid is centered at pixel ((i + 1/2) stride - 1/2, (j + 1/2) stride - 1/2), the
middle of its square of `stride` x `stride` pixels; the first pixel is centered at 0.
The grid has h = H // stride rows and w = W // stride columns, as that of
`ebmlib.networks.PatchEnergy`: pixels to the right of and below the last whole square
have no cell of their own, and no cell is displaced by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ebmlib.energy import check_positive, register_energy
from ebmlib.networks import opponent

COLORS = 4  # coefficients per axis of a color difference: coarse color, as in JPEG


class FeatureMap(Protocol):
    """What `ebmlib.fields.GaussianField` asks of its features, a `torch.nn.Module`.

    Attributes:
        channels: image channels, C.
        stride: distance of neighboring cells in px.
        count: features per cell, F.
    """

    channels: int
    stride: int
    count: int

    def __call__(self, x: Tensor) -> Tensor:
        """The features of every cell: (B, C, H, W) -> (B, F, h, w)."""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the grid on images of `size` = (H, W)."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, such that JSON can hold them."""


@register_energy
class CosineFeatures(nn.Module):
    """The lowest cosine coefficients of overlapping patches; nothing is learned.

    Of every patch the `frequencies**2` lowest coefficients of the orthonormal discrete
    cosine transform are kept, so that distances between features are in gray levels
    (l2 over a patch). RGB is first rotated into luminance and two color differences;
    of these only the COLORS^2 lowest coefficients are kept.

    Args:
        channels: image channels, C; 3 means RGB.
        stride: distance of neighboring patches in px.
        side: of a patch in px, at least the stride; by default two and a half strides,
            so that neighbors overlap.
        frequencies: coefficients per axis of luminance, or of a gray channel; a patch
            of fewer px a side has no more of them than that.
        opponent_colors: rotate RGB as above; False keeps `frequencies**2` coefficients
            of each channel.
        brightness: keep the constant coefficient; False ignores the mean level of a
            patch in luminance, or in every channel.
        centered: patches are centered in the cells of the grid that the head of this
            file describes, and reach over the border, which is continued by its last
            pixels; this needs an even `side - stride`. False: the first patch lies in
            the upper left corner, further ones follow until the image is covered, and
            cell (i, j) is centered at (i stride + (side - 1) / 2, ...).

    Raises:
        ValueError: numbers out of range, or that do not fit each other.
    """

    fine: Tensor
    coarse: Tensor

    def __init__(
        self,
        channels: int = 3,
        stride: int = 8,
        side: int | None = None,
        frequencies: int = 7,
        *,
        opponent_colors: bool = True,
        brightness: bool = True,
        centered: bool = True,
    ):
        super().__init__()
        check_positive(channels=channels, stride=stride, frequencies=frequencies)
        if side is None:
            side = 5 * stride // 2
            side += (side - stride) % 2
        check_positive(side=side)
        if side < stride:
            raise ValueError(
                "patches must leave no gap: side must be at least the stride, "
                f"{stride} px; got {side}"
            )
        if centered and (side - stride) % 2:
            raise ValueError(
                f"a patch of side {side} cannot be centered in a cell of {stride} px: "
                "side - stride must be even. Add 1 to side, or set centered=False"
            )
        frequencies = min(frequencies, side)
        if frequencies == 1 and not brightness:
            raise ValueError(
                "frequencies=1 keeps the constant coefficient alone; it must be >= 2 "
                "with brightness=False"
            )
        self.channels, self.stride, self.side = channels, stride, side
        self.frequencies, self.brightness = frequencies, brightness
        self.opponent_colors, self.centered = opponent_colors, centered
        self._rotates = opponent_colors and channels == 3
        fine = cosine_filters(side, frequencies)[0 if brightness else 1 :]
        coarse = cosine_filters(side, min(COLORS, frequencies)).repeat(2, 1, 1, 1)
        self.register_buffer("fine", fine, persistent=False)
        self.register_buffer("coarse", coarse, persistent=False)
        self.count = len(fine) * channels
        if self._rotates:
            self.count = len(fine) + len(coarse)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments: `CosineFeatures(**config)` is a twin."""
        numbers = ("channels", "stride", "side", "frequencies")
        switches = ("opponent_colors", "brightness", "centered")
        return {name: getattr(self, name) for name in (*numbers, *switches)}

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches on images of `size` = (H, W)."""
        if self.centered:
            return size[0] // self.stride, size[1] // self.stride
        rows, columns = (max(n - self.side, 0) for n in size)
        return -(-rows // self.stride) + 1, -(-columns // self.stride) + 1

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients of every patch: (B, C, H, W) -> (B, F, h, w)."""
        check_images(x, self)
        x = pad(x, self._padding(*x.shape[-2:]), mode="replicate")
        fine, coarse = self.fine.to(x.dtype), self.coarse.to(x.dtype)
        if not self._rotates:
            fine = fine.repeat(self.channels, 1, 1, 1)  # every channel by itself
            return conv2d(x, fine, stride=self.stride, groups=self.channels)
        x = opponent(x, gain=1)
        luminance = conv2d(x[:, :1], fine, stride=self.stride)
        colors = conv2d(x[:, 1:], coarse, stride=self.stride, groups=2)
        return torch.cat((luminance, colors), dim=1)

    def _padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels that are added on the left, right, top and bottom."""
        margin = self.side - self.stride
        if self.centered:
            return (margin // 2,) * 4
        rows, columns = self.grid((height, width))
        right = (columns - 1) * self.stride + self.side - width
        below = (rows - 1) * self.stride + self.side - height
        return 0, right, 0, below


def check_images(x: Tensor, features: FeatureMap) -> None:
    """Refuse what is no batch of images, or too small for a single cell.

    Raises:
        ValueError: x is not (B, C, H, W) with at least one cell.
    """
    if x.ndim != 4 or x.shape[1] != features.channels:
        raise ValueError(
            f"these features are those of images (B, {features.channels}, H, W); got "
            f"{tuple(x.shape)}"
        )
    if 0 in features.grid((x.shape[2], x.shape[3])):
        raise ValueError(
            f"images must be at least {features.stride} px a side, the stride of these "
            f"features; got {x.shape[2]} x {x.shape[3]}"
        )


def cosine_filters(size: int, frequencies: int) -> Tensor:
    """Orthonormal 2-D cosine basis (frequencies^2, 1, size, size), constant first.

    c_k(i) = sqrt((2 - [k = 0]) / size) cos(pi k (2 i + 1) / (2 size)), products of two.
    Source: Ahmed, Natarajan, Rao, IEEE Trans. Computers C-23, 1974 (DCT-II).
    """
    k = torch.arange(frequencies, dtype=torch.float32)[:, None]
    i = torch.arange(size, dtype=torch.float32)[None]
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(-1, 1, size, size)


def sample_cells(
    x: Tensor,
    grid: tuple[int, int],
    stride: int,
    spacing: int,
    first: Sequence[float | Tensor],
) -> Tensor:
    """Values at the centers of a grid's cells: (B, F, h', w') -> (B, F, h, w).

    Linear between the cells of x; before its first and after its last cell their value
    is repeated.

    Args:
        x: cells that lie `spacing` px apart, the first one at pixel `first`, which is
            its row and its column.
        grid: h and w.
        stride: px between the centers of the grid, see the head of this file.
        spacing: as above.
        first: as above; it may lie outside the image.
    """
    weights = []
    for count, known, start in zip(grid, x.shape[2:], first, strict=True):
        center = (torch.arange(count, device=x.device) + 0.5) * stride - 0.5
        at = ((center - start) / spacing).clamp(0, known - 1)
        apart = at[:, None] - torch.arange(known, device=x.device)
        weights.append((1 - apart.abs()).clamp_min(0).to(x.dtype))  # (h, h')
    rows, columns = weights
    return rows @ x @ columns.mT
