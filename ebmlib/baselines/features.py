"""Cosine features of overlapping patches: fixed filters, no pretrained weights.

`PatchKNN` and `PositionGaussian` look at images through them (chapters 1 and 12).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CosinePatches:
    """The low cosine coefficients of every patch on a grid, and the way back.

    phi keeps the `frequencies`^2 lowest coefficients of the patch's orthonormal
    discrete cosine transform, per channel, so that distances between features are in
    gray levels (l2 over a patch).

    Attributes:
        patch: side of a patch in pixels.
        stride: step between patches in pixels, from 1 to `patch`.
        frequencies: coefficients kept per axis, from 1 to `patch`.
        brightness: keep the constant coefficient; False ignores a patch's mean level.
    """

    patch: int
    stride: int
    frequencies: int = 5
    brightness: bool = True

    @classmethod
    def on(
        cls,
        images: Tensor,
        patch: int | None,
        stride: int | None,
        frequencies: int,
        brightness: bool = True,
    ) -> "CosinePatches":
        """The grid for images (N, C, H, W); by default patches of 1/8 of the side.

        Raises:
            ValueError: patch, stride and frequencies do not fit each other or the side.
        """
        side = min(images.shape[2:])
        patch = max(side // 8, frequencies) if patch is None else patch
        stride = max(patch // 4, 1) if stride is None else stride
        if not (frequencies <= patch <= side and 1 <= stride <= patch):
            raise ValueError(
                f"need frequencies <= patch <= {side} (image side) and 1 <= stride <= "
                f"patch, got {frequencies=}, {patch=}, {stride=}."
            )
        return cls(patch, stride, frequencies, brightness)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, F, h, w): the coefficients of every patch."""
        height, width = images.shape[2:]
        # Pad so that the last patch reaches the border; `spread` crops again.
        right = (self.patch - width) % self.stride
        below = (self.patch - height) % self.stride
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        filters = cosine_filters(self.patch, self.frequencies).to(images)
        if not self.brightness:  # the first filter is constant
            filters = filters[1:]
        filters = filters.repeat(images.shape[1], 1, 1, 1)  # every channel by itself
        return F.conv2d(padded, filters, stride=self.stride, groups=images.shape[1])

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """(N, h, w) -> (N, H, W): evenly over each patch, averaged where they overlap.

        `shape` ends with the height and width of the images.
        """
        ones = torch.ones(1, 1, self.patch, self.patch).to(values)
        total = F.conv_transpose2d(values[:, None], ones, stride=self.stride)
        count = F.conv_transpose2d(
            torch.ones_like(values[:1, None]), ones, stride=self.stride
        )
        return (total / count)[:, 0, : shape[-2], : shape[-1]]


def check_frequencies(frequencies: int, brightness: bool = True) -> None:
    """At least one coefficient remains."""
    if frequencies < 1 or (frequencies == 1 and not brightness):
        raise ValueError(
            f"frequencies must be >= 1, and >= 2 without brightness, got {frequencies}."
        )


def covariance_factor(centered: Tensor, noise: float) -> Tensor:
    """Cholesky factors (..., F, F), in double, of the covariance of (..., N, F).

    noise^2 is added to the diagonal: without it, what never varied has no inverse.
    """
    centered = centered.double()
    covariance = centered.mT @ centered / (centered.shape[-2] - 1)
    covariance.diagonal(dim1=-2, dim2=-1).add_(noise**2)
    return torch.linalg.cholesky(covariance)


def cosine_filters(size: int, frequencies: int) -> Tensor:
    """Orthonormal 2-D cosine basis (frequencies^2, 1, size, size), constant first.

    c_k(i) = sqrt((2 - [k = 0]) / size) cos(pi k (2 i + 1) / (2 size)), products of two.
    Source: Ahmed, Natarajan, Rao, IEEE Trans. Computers C-23, 1974 (DCT-II).
    """
    k, i = torch.arange(frequencies)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(-1, 1, size, size)
