"""Energies in closed form: a Gaussian for every patch (chapter 12)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ebmlib.baselines.features import cosine_filters, covariance_factor
from ebmlib.networks import opponent

COLORS = 4  # coarse color, as in JPEG: the eye and the lens see little more


class GaussianPatches(nn.Module):
    """The energy of a Gaussian for every patch, fitted in closed form.

        e_p(x)  = d_p^2 / 2
        d_p^2   = (phi_p - mean_p)^T Sigma_p^-1 (phi_p - mean_p)
        Sigma_p = S_p + noise^2 I

    phi_p(x): the F lowest cosine coefficients of the patch around grid position p, of
    luminance and, coarser, of two color differences; S_p their covariance over the
    training images. One Gaussian per position is PaDiM (Defard et al., ICPR workshops
    2021, arXiv 2011.08785); no pretrained features are involved. Unlike the scores of
    PaDiM, this is a differentiable energy of the image, with the gradient
    dE/dx = sum_p (d phi_p / dx)^T Sigma_p^-1 (phi_p - mean_p).

    The grid is that of `PatchEnergy`: cell (i, j) is centered in its square of pixels.

    Args:
        size: height and width of the images, `(H, W)`.
        channels: image channels; 3 means RGB.
        stride: distance of neighboring patches in px, 4 or 8.
        side: of a patch in px; by default two and a half strides, so that neighbors
            overlap.
        everywhere: one mean and covariance for all positions, for textures and for
            parts that lie in any direction.
        frequencies: coefficients of luminance per axis; a patch of fewer px a side has
            no more of them than that.
        noise: gray levels (standard deviation) that every pixel is granted; a
            background that never varied would have no inverse without it.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int = 3,
        stride: int = 8,
        everywhere: bool = False,
        frequencies: int = 7,
        noise: float = 0.02,
        side: int | None = None,
    ):
        super().__init__()
        side = 5 * stride // 2 if side is None else side
        if side < stride or frequencies < 1:
            raise ValueError(
                "patches must leave no gap and keep a coefficient: side must be at "
                f"least the stride, {stride} px, and frequencies at least 1; got "
                f"{side} and {frequencies}"
            )
        if not noise > 0:
            raise ValueError(f"noise must be > 0 gray levels, got {noise}")
        frequencies = min(frequencies, side)
        self.size, self.channels, self.stride = tuple(size), channels, stride
        self.everywhere, self.frequencies, self.noise = everywhere, frequencies, noise
        self.side = side
        colors = cosine_filters(side, min(COLORS, frequencies))
        self.register_buffer("fine", cosine_filters(side, frequencies), False)
        self.register_buffer("coarse", colors.repeat(2, 1, 1, 1), False)
        features = frequencies**2 * (1 if channels == 3 else channels)
        features += len(self.coarse) * (channels == 3)
        grid = (1, 1) if everywhere else (size[0] // stride, size[1] // stride)
        self.register_buffer("mean", torch.zeros(features, *grid))
        # Inverse Cholesky factors: d^2 = |whitener (phi - mean)|^2
        eye = torch.eye(features) / noise
        self.register_buffer("whitener", eye.expand(*grid, -1, -1).clone())

    def config(self) -> dict[str, Any]:
        """The constructor's arguments: `GaussianPatches(**config)` is not fitted."""
        names = ("size", "channels", "stride", "everywhere", "frequencies", "noise")
        return {name: getattr(self, name) for name in (*names, "side")}

    @torch.no_grad()
    def fit(self, images: Tensor) -> GaussianPatches:
        """Estimate mean and covariance of every patch from images (N, C, H, W); N >= 2.

        Raises:
            ValueError: fewer than two images, or images of another shape.
        """
        if len(images) < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {len(images)}")
        parts = [self.features(x.to(self.mean.device)) for x in images.split(32)]
        phi = torch.cat(parts).permute(2, 3, 0, 1)  # (h, w, N, F)
        if self.everywhere:
            phi = phi.reshape(1, 1, -1, phi.shape[-1])
        self.mean.copy_(phi.mean(2).permute(2, 0, 1))
        for i, row in enumerate(phi):  # row by row: the covariances are large
            factor = covariance_factor(row - row.mean(1, keepdim=True), self.noise)
            eye = torch.eye(factor.shape[-1]).to(factor).expand_as(factor)
            inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
            self.whitener[i] = inverse.to(self.whitener.dtype)
        return self

    def features(self, x: Tensor) -> Tensor:
        """phi: (B, C, H, W) -> (B, F, h, w), the cosine coefficients of every patch."""
        if x.ndim != 4 or x.shape[1:] != (self.channels, *self.size):
            raise ValueError(
                f"these experts were made for images (B, {self.channels}, "
                f"{self.size[0]}, {self.size[1]}); got {tuple(x.shape)}"
            )
        margin = self.side - self.stride
        before, after = margin // 2, margin - margin // 2
        x = pad(x, (before, after, before, after), mode="replicate")
        if self.channels != 3:
            fine = self.fine.to(x.dtype).repeat(self.channels, 1, 1, 1)
            return conv2d(x, fine, stride=self.stride, groups=self.channels)
        colors = opponent(x, gain=1)
        fine = conv2d(colors[:, :1], self.fine.to(x.dtype), stride=self.stride)
        coarse = self.coarse.to(x.dtype)
        coarse = conv2d(colors[:, 1:], coarse, stride=self.stride, groups=2)
        return torch.cat((fine, coarse), dim=1)

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p = d_p^2 / 2: (B, C, H, W) -> (B, h, w)."""
        centered = (self.features(x) - self.mean).permute(2, 3, 1, 0)  # (h, w, F, B)
        white = self.whitener.to(x.dtype) @ centered
        return white.square().sum(2).movedim(-1, 0) / 2

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))
