"""Products of experts: energies that are added on one grid (chapters 12 and 13).

Where densities are multiplied, energies add (Hinton, Neural Computation 14, 2002):

    p(x) proportional to p_1(x)^a p_2(x)^b   <=>   E(x) = a E_1(x) + b E_2(x)

A patch that one of the two energies finds anomalous stays anomalous in the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ebmlib.energy import (
    device_of,
    energy_maps,
    energy_spec,
    full_precision,
    register_energy,
)
from ebmlib.features import CosineFeatures, FeatureMap
from ebmlib.fields import GaussianField, features_of, look
from ebmlib.networks import PatchEnergy
from ebmlib.parzen import ParzenField

# Spread of the weighted field's patch energies over that of the network's, where every
# position has a Gaussian of its own, and where all positions share one.
RATIO_PER_POSITION = 3.0
RATIO_SHARED = 0.3
# Least spread of the field's patch energies, in nats. On equal training images they are
# 0 but for rounding, some 1e-8, and a weight must not depend on that.
LEAST_SPREAD = 1e-3


@register_energy
class ProductOfExperts(nn.Module):
    """E(x) = sum_p [a e_p(x) + b g_p(x)]: a network and a Gaussian field on one grid.

    Args:
        network: the learned energy, with patch energies e_p.
        field: the energy in closed form, with patch energies g_p.
        weights: a and b, both > 0.

    Raises:
        ValueError: the two differ in stride, grid or channels, or a weight is not > 0.
    """

    def __init__(
        self,
        network: PatchEnergy,
        field: GaussianField,
        weights: tuple[float, float] = (1.0, 1.0),
    ):
        super().__init__()
        if (network.stride, network.channels) != (field.stride, field.channels):
            raise ValueError(
                "both energies need one stride and one number of channels, got stride "
                f"{network.stride} and {field.stride}, channels {network.channels} and "
                f"{field.channels}"
            )
        grid = tuple(side // network.stride for side in field.size)
        if field.features.grid(field.size) != grid:
            raise ValueError(
                f"both energies need one grid, got {grid} cells and "
                f"{field.features.grid(field.size)} on images of {field.size} px"
            )
        first, second = map(float, weights)
        if not (0 < first < math.inf and 0 < second < math.inf):
            raise ValueError(f"weights must be finite numbers > 0, got {weights}")
        self.network, self.field, self.weights = network, field, (first, second)
        self.channels, self.stride = network.channels, network.stride

    @classmethod
    def from_images(
        cls,
        network: PatchEnergy,
        images: Tensor,
        *,
        features: FeatureMap | None = None,
        shared: bool = False,
        noise: float = 0.02,
        ratio: float | None = None,
    ) -> ProductOfExperts:
        """The product of a trained network and a field fitted here, with its weights.

            b / a = ratio * std(e) / std(g),   median_p(a e_p + b g_p) = 1

        over the patches of the images, with std(g) at least LEAST_SPREAD. The weights
        thus do not depend on the units of either energy, and an energy of 1 is that of
        a usual patch. A ratio of 3 and the default features were chosen on training
        images of two categories with artificial damage, and on drawn categories.

        Args:
            network: trained.
            images: the normal images it was trained on, (N, C, H, W); N >= 2.
            features: of the field, on the grid of the network; by default
                `CosineFeatures(network.channels, network.stride)`.
            shared: as in `GaussianField`.
            noise: as in `GaussianField`.
            ratio: spread of the weighted field over that of the weighted network; by
                default RATIO_PER_POSITION, or RATIO_SHARED if `shared`.

        Returns:
            The product, where the network lies.

        Raises:
            ValueError: as the constructors and `GaussianField.fit`; or the network's
                energy is constant or not finite, so that no weights exist.
        """
        if ratio is None:
            ratio = RATIO_SHARED if shared else RATIO_PER_POSITION
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio must be a finite number > 0, got {ratio}")
        if features is None:
            features = CosineFeatures(network.channels, network.stride)
        size = (images.shape[-2], images.shape[-1])
        field = GaussianField(features, size, shared, noise)
        cls(network, field)  # refuses two grids before the fit
        field.to(device_of(network)).fit(images)
        first, second = (energy_maps(e, images) for e in (network, field))
        spread = second.std().clamp_min(LEAST_SPREAD)
        scale = ratio * (first.std() / spread).item()
        usual = (first + scale * second).median().item()
        if not (0 < scale < math.inf and 0 < usual < math.inf):
            raise ValueError(
                "no weights bring the two energies to one scale: the patch energies of "
                f"the network have standard deviation {first.std():.3g}, and the "
                f"weighted sum has median {usual:.3g}"
            )
        return cls(network, field, (1 / usual, scale / usual))

    def config(self) -> dict[str, Any]:
        """What `ebmlib.energy.build_energy` needs for a product that is not fitted."""
        return {
            "network": energy_spec(self.network),
            "field": energy_spec(self.field),
            "weights": self.weights,
        }

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """The two terms of `energy_map` by name, which add up to it: (B, h, w) each."""
        a, b = self.weights
        return {
            "network": a * self.network.energy_map(x),
            "field": b * self.field.energy_map(x),
        }

    def energy_map(self, x: Tensor) -> Tensor:
        """The weighted sum a e_p + b g_p: (B, C, H, W) -> (B, h, w)."""
        terms = self.terms(x)
        return terms["network"] + terms["field"]

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


@register_energy
class ProductOfFields(nn.Module):
    """A Gaussian field times a Parzen field on the same features: energies add.

        e_p(x) = g_p(x) + n_p(x),   E(x) = sum_p e_p(x)

    g_p: patch energy of the Gaussian field, F / 2 on average for patches like those it
    was fitted to; n_p: that of the Parzen field, F / 2 where the nearest stored patch
    is one spread away in every feature. The Gaussian knows which directions never vary,
    the stored patches know what is normal in several ways. Features are computed once
    for both.

    Args:
        gaussian: the first expert.
        parzen: the second, on the same kind of features; it uses those of the first.

    Raises:
        ValueError: the two were made for other images or features.
    """

    def __init__(self, gaussian: GaussianField, parzen: ParzenField):
        super().__init__()
        of_both = [(f.size, energy_spec(f.features)) for f in (gaussian, parzen)]
        if of_both[0] != of_both[1]:
            raise ValueError(
                "both fields need the same features and image size, got "
                f"{of_both[0]} and {of_both[1]}"
            )
        parzen.features = gaussian.features
        self.gaussian, self.parzen = gaussian, parzen
        self.features, self.size = gaussian.features, gaussian.size
        self.channels, self.stride = gaussian.channels, gaussian.stride

    def config(self) -> dict[str, Any]:
        """What `ebmlib.energy.build_energy` needs for a product that is not fitted."""
        return {
            "gaussian": energy_spec(self.gaussian),
            "parzen": energy_spec(self.parzen),
        }

    def fit(self, images: Tensor) -> ProductOfFields:
        """Fit both experts to normal images (N, C, H, W); N >= 2.

        Raises:
            ValueError: as the experts.
        """
        return self.fit_features(features_of(self, images))

    def fit_features(self, parts: Iterable[Tensor]) -> ProductOfFields:
        """As `fit`, from the features of the images, parts `(B, F, h, w)` of them."""
        parts = list(parts)
        self.gaussian.fit_features(parts)
        self.parzen.fit_features(parts)
        return self

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """The two terms of `energy_map` by name, which add up to it: (B, h, w) each."""
        with full_precision(x.device):
            phi = look(self, x)
            return {
                "gaussian": self.gaussian.cell_energies(phi),
                "parzen": self.parzen.cell_energies(phi),
            }

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p: (B, C, H, W) -> (B, h, w)."""
        terms = self.terms(x)
        return terms["gaussian"] + terms["parzen"]

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))
