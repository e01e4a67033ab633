"""Products of experts: a learned patch energy beside one in closed form.

Where densities are multiplied, energies add (Hinton, Neural Computation 14, 2002):

    p(x) proportional to p_1(x)^a p_2(x)^b   <=>   E(x) = a E_1(x) + b E_2(x)

An expert that is content cannot outvote one that objects. Chapter 12 tells what the
second expert adds on real images.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ebmlib.energy import energy_maps
from ebmlib.fields import GaussianPatches
from ebmlib.networks import ConvEnergy, PatchEnergy

LOUD, QUIET = 3.0, 0.3  # the Gaussians' share, where positions count and where not


class ProductOfExperts(nn.Module):
    """E(x) = sum_p [a e_p(x) + b g_p(x)]: a learned patch energy, and Gaussian patches.

    Args:
        network: the learned expert, e_p.
        gaussians: the fitted expert, g_p, on the same grid.
        weights: a and b, both > 0.
    """

    def __init__(
        self,
        network: PatchEnergy,
        gaussians: GaussianPatches,
        weights: tuple[float, float] = (1.0, 1.0),
    ):
        super().__init__()
        if (network.stride, network.channels) != (gaussians.stride, gaussians.channels):
            raise ValueError(
                "both experts need one stride and one number of channels, got stride "
                f"{network.stride} and {gaussians.stride}, channels "
                f"{network.channels} and {gaussians.channels}"
            )
        if not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"weights must be finite numbers > 0, got {weights}")
        self.network, self.gaussians = network, gaussians
        self.weights = tuple(map(float, weights))
        self.channels, self.stride = network.channels, network.stride

    @classmethod
    def of(
        cls,
        network: PatchEnergy,
        images: Tensor,
        *,
        everywhere: bool = False,
        share: float | None = None,
        **options: Any,
    ) -> ProductOfExperts:
        """Fit the second expert beside a trained one, and set the weights.

            b / a = share * std(e) / std(g),   median_p(a e_p + b g_p) = 1

        over the patches of normal images, so that neither expert is heard only because
        its units are large, and an energy of 1 is a usual patch. share = 3, the patch
        of two and a half cells and 7 frequencies were chosen on training images of two
        categories with artificial damage, and on drawn categories.

        Args:
            network: trained.
            images: the normal images it was trained on, (N, C, H, W).
            everywhere: as in `GaussianPatches`.
            share: how loud the second expert is, in units of the first one's spread; by
                default 3, or 0.3 with `everywhere`.
            **options: further arguments of `GaussianPatches`.
        """
        size = tuple(images.shape[-2:])
        grid = (size, network.channels, network.stride)
        gaussians = GaussianPatches(*grid, everywhere, **options)
        gaussians.to(next(network.parameters()).device).fit(images)
        first, second = (energy_maps(e, images) for e in (network, gaussians))
        if share is None:
            share = QUIET if everywhere else LOUD
        ratio = share * (first.std() / second.std()).item()
        usual = (first + ratio * second).median().item()
        return cls(network, gaussians, (1 / usual, ratio / usual))

    def config(self) -> dict[str, Any]:
        """What `build_energy` needs to make a product that is not yet fitted."""
        return {
            "network": self.network.config(),
            "gaussians": self.gaussians.config(),
            "weights": self.weights,
        }

    def energy_map(self, x: Tensor) -> Tensor:
        """The sum of both experts, a e_p + b g_p: (B, C, H, W) -> (B, h, w)."""
        a, b = self.weights
        return a * self.network.energy_map(x) + b * self.gaussians.energy_map(x)

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


def build_energy(name: str, config: dict[str, Any]) -> nn.Module:
    """An energy of one of the library's classes, from its name and `config()`.

    Raises:
        ValueError: an unknown name.
    """
    if name == "BackbonePatches":
        from ebmlib.backbone import BackbonePatches  # which imports this module

        return BackbonePatches(**config)
    if name == "ProductOfExperts":
        return ProductOfExperts(
            PatchEnergy(**config["network"]),
            GaussianPatches(**config["gaussians"]),
            config["weights"],
        )
    kinds = {"ConvEnergy": ConvEnergy, "PatchEnergy": PatchEnergy}
    if name not in kinds:
        raise ValueError(
            f"unknown energy {name!r}, expected ProductOfExperts, BackbonePatches, "
            f"{' or '.join(kinds)}"
        )
    return kinds[name](**config)
