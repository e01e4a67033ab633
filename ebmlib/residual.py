"""A learned energy on features: what a Gaussian leaves to be learned (chapter 13).

The features of a patch, whitened by a Gaussian field, are z; a Gaussian patch has
z ~ N(0, I). The learned energy of a patch is that of the Gaussian and a correction,

    E(z) = |z|^2 / 2 + r(z),

so training starts at the closed form, and Langevin chains at N(0, I), where they mix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ebmlib.energy import (
    check_positive,
    energy_spec,
    full_precision,
    register_energy,
)
from ebmlib.fields import GaussianField, look
from ebmlib.random import randn


@register_energy
class ResidualEnergy(nn.Module):
    """E(z) = |z|^2 / 2 + r(z), with a network r of two hidden layers: (B, F) -> (B,).

    The last layer of r starts at 0, so E starts as the energy of N(0, I).

    Args:
        count: F.
        width: of the hidden layers.
        seed: of the initial weights.

    Raises:
        ValueError: a number that is not a whole one >= 1.
    """

    def __init__(self, count: int, width: int = 128, seed: int = 0):
        super().__init__()
        check_positive(count=count, width=width)
        self.count, self.width, self.seed = count, width, seed
        generator = torch.Generator().manual_seed(seed)
        shapes = ((width, count), (width, width))
        self.weights = nn.ParameterList(
            [randn(shape, generator) / shape[1] ** 0.5 for shape in shapes]
        )
        self.biases = nn.ParameterList([torch.zeros(width) for _ in shapes])
        self.last = nn.Parameter(torch.zeros(1, width))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("count", "width", "seed")}

    def correction(self, z: Tensor) -> Tensor:
        """r(z): (B, F) -> (B,)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = silu(linear(z, weight, bias))
        return linear(z, self.last)[:, 0]

    def forward(self, z: Tensor) -> Tensor:
        """The energy of each point: (B, F) -> (B,)."""
        return z.square().sum(1) / 2 + self.correction(z)


@register_energy
class LearnedField(nn.Module):
    """An energy of images that sums learned energies of whitened features.

        e_p(x) = E(z_p) - least,   z_p = whitener_p (phi_p(x) - mean_p)
        E(x)   = sum_p e_p(x)

    Args:
        gaussian: the fitted field that whitens.
        residual: the learned energy of z.
        least: the lowest energy of a training patch, which makes e_p of normal patches
            at least 0; a constant changes no gradient and no order.
    """

    def __init__(
        self, gaussian: GaussianField, residual: ResidualEnergy, least: float = 0.0
    ):
        super().__init__()
        if residual.count != len(gaussian.mean):
            raise ValueError(
                f"the field has {len(gaussian.mean)} features and the learned energy "
                f"takes {residual.count}"
            )
        self.gaussian, self.residual, self.least = gaussian, residual, float(least)
        self.features, self.size = gaussian.features, gaussian.size
        self.channels, self.stride = gaussian.channels, gaussian.stride

    def config(self) -> dict[str, Any]:
        """What `ebmlib.energy.build_energy` needs for a field that is not fitted."""
        return {
            "gaussian": energy_spec(self.gaussian),
            "residual": energy_spec(self.residual),
            "least": self.least,
        }

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """The two terms of `energy_map` by name, which add up to it: (B, h, w) each."""
        with full_precision(x.device):
            z = self.gaussian.whiten(look(self, x))  # (B, F, h, w)
            cells = z.movedim(1, -1)
            learned = self.residual.correction(cells.flatten(0, 2))
            learned = learned.view(cells.shape[:-1]) - self.least
            return {"gaussian": z.square().sum(1) / 2, "learned": learned}

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p: (B, C, H, W) -> (B, h, w), at least 0."""
        terms = self.terms(x)
        return (terms["gaussian"] + terms["learned"]).clamp_min(0)

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))
