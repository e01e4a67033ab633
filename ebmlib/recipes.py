"""Ways to learn an image energy, each a short recipe over the library's parts.

A recipe says which energy, which objective and which settings of the training loop
belong together. Chapter 7 follows `contrastive_divergence` step by step; chapter 9
builds `contrast`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmlib.backbone import BackbonePatches
from ebmlib.data.augmentation import Augment
from ebmlib.data.corruption import corrupt, damage
from ebmlib.langevin import langevin
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    DenoisingScoreMatching,
    NoiseContrastive,
    PersistentContrastiveDivergence,
)
from ebmlib.products import ProductOfExperts
from ebmlib.replay import ReplayBuffer, corrupted_images

# A normal part that was laid down and lit a little differently is still normal.
POSE = Augment(rotate=6, translate=0.02, border="edge", keep=0.33)
ANY_POSE = Augment(rotate=180, keep=0.33)


@dataclass(frozen=True)
class Recipe:
    """What to train, how, and how its gradient map is read.

    Attributes:
        energy: the network.
        objective: what `training.train` calls, see `ebmlib.losses`; None: nothing is
            trained, `finish` fits the energy in closed form.
        standardize: mode of `scoring.MapStandardizer`.
        smoothing: Gaussian width of the gradient map, as a share of the image's side.
        map: "gradient", "weighted" or "compressed", see `scoring.weighted_map`.
        training: options of `training.train`.
        finish: what is made of the trained energy and the normal images, such as a
            product with a second expert: `finish(energy, normals)`; None leaves it.
    """

    energy: nn.Module
    objective: Callable | None
    standardize: str
    smoothing: float
    training: dict[str, Any] = field(default_factory=dict)
    map: str = "gradient"
    finish: Callable | None = None


def contrast(
    images: Tensor, aligned: bool, generator: torch.Generator, steps: int | None = None
) -> Recipe:
    """A patch energy that objects to corrupted patches; its gradient undoes them.

    Three quarters of the steps teach the energy *where* the damage is. The last quarter
    also teaches its gradient to undo it, which costs more than twice the time a step.
    Less than five minutes on two cores at 128 px. The restoring force is fixed, as in
    chapter 9. On parts whose energy has become steep by then it may be far too soft,
    and the guard stops the run: `experts` measures it instead.
    """
    steps = steps or 3000
    objective = NoiseContrastive(
        corrupt, restoration=0.5, clean=0.5, warmup=steps * 3 // 4
    )
    return _contrast(images, aligned, objective, steps)


def thorough_contrast(
    images: Tensor,
    aligned: bool,
    generator: torch.Generator,
    steps: int | None = None,
    width: int = 32,
) -> Recipe:
    """`contrast`, taught longer, on large, bent and worn parts too (chapter 12).

    The longer contrast makes the energy steep, so the restoring force is measured in
    its own slope, and taught in the last sixth. Less than half an hour on two cores.
    `width` is the network's number of features.
    """
    steps = steps or 8000
    objective = NoiseContrastive(
        damage, restoration=0.3, stiffness=None, clean=0.5, warmup=steps * 5 // 6
    )
    return _contrast(images, aligned, objective, steps, width)


def experts(
    images: Tensor, aligned: bool, generator: torch.Generator, steps: int | None = None
) -> Recipe:
    """`thorough_experts` in 3000 steps: less than five minutes on two cores at 128 px.

    The network knows what damage looks like, the Gaussian patches what each place of a
    normal part looks like; see `ebmlib.products`.
    """
    return thorough_experts(images, aligned, generator, steps or 3000)


def thorough_experts(
    images: Tensor,
    aligned: bool,
    generator: torch.Generator,
    steps: int | None = None,
    width: int = 32,
) -> Recipe:
    """`thorough_contrast`, then a Gaussian expert for every patch beside it."""
    recipe = thorough_contrast(images, aligned, generator, steps, width)
    return _beside_gaussians(recipe, aligned)


def _beside_gaussians(recipe: Recipe, aligned: bool) -> Recipe:
    def finish(energy: nn.Module, normals: Tensor) -> nn.Module:
        return ProductOfExperts.of(energy, normals, everywhere=not aligned)

    return replace(recipe, finish=finish, map="compressed")


def _contrast(
    images: Tensor,
    aligned: bool,
    objective: NoiseContrastive,
    steps: int,
    width: int = 32,
) -> Recipe:
    side = min(images.shape[-2:])
    energy = PatchEnergy(
        images.shape[1],
        width=width,
        coordinates=aligned,
        stride=8 if side >= 96 else 4,  # a grid of some 16 x 16 patches
    )
    return Recipe(
        energy,
        objective,
        standardize="global",  # its gradient is silent on normal images already
        smoothing=1 / 64,
        training={
            "steps": steps,
            "batch_size": 4,
            "learning_rate": 2e-3,
            "augment": POSE if aligned else ANY_POSE,
        },
        map="weighted",
    )


def score_matching(
    images: Tensor, aligned: bool, generator: torch.Generator, steps: int | None = None
) -> Recipe:
    """A whole-image energy by denoising score matching (Vincent 2011)."""
    return Recipe(
        ConvEnergy(images.shape[1]),
        DenoisingScoreMatching(sigmas=(0.05, 0.1, 0.2)),
        standardize="position" if aligned else "global",
        smoothing=1 / 32,
        training={"steps": steps or 800, "batch_size": 16, "learning_rate": 1e-3},
    )


def contrastive_divergence(
    images: Tensor, aligned: bool, generator: torch.Generator, steps: int | None = None
) -> Recipe:
    """The paper's route: persistent Langevin chains as negatives (Genc et al. 2021)."""
    energy, noise = ConvEnergy(images.shape[1], width=16), 0.01
    start = corrupted_images(images, corrupt)
    buffer = ReplayBuffer(256, start, fresh=0.1, generator=generator)
    # The step is set once, on the untrained energy: set anew in every round it would
    # hide from the chains how steep the energy has become.
    x = start(16, generator)
    probe = langevin(energy, x, steps=1, snr=0.04, noise=noise, generator=generator)
    objective = PersistentContrastiveDivergence(
        buffer,
        steps=20,
        step_size=probe.health.step_size,
        noise=noise,
        penalty=0.01,
        data_noise=noise,
    )
    return Recipe(
        energy,
        objective,
        standardize="position" if aligned else "global",
        smoothing=1 / 32,
        training={
            "steps": steps or 500,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "betas": (0.0, 0.999),
            "ema": 0.98,
        },
    )


def backbone(
    images: Tensor,
    aligned: bool,
    generator: torch.Generator,
    steps: int | None = None,
    weights: str | Path | None = None,
) -> Recipe:
    """Gaussians on the features of a ResNet, in closed form (Defard et al. 2021).

    `weights` is the file of a torchvision ResNet, see `ebmlib.backbone`; without one
    its weights are random. `steps` has no effect.
    """
    size, options = tuple(images.shape[-2:]), {"everywhere": not aligned}
    options |= {"channels": images.shape[1], "seed": generator.initial_seed()}
    if weights is None:
        energy = BackbonePatches(size, **options)
    else:
        energy = BackbonePatches.of(size, weights, **options)
    return Recipe(
        energy,
        objective=None,
        standardize="global",  # the distances are in units of each position's spread
        smoothing=1 / 64,
        map="patches",
        finish=BackbonePatches.fit,
    )


RECIPES: dict[str, Callable[..., Recipe]] = {
    "contrast": contrast,
    "experts": experts,
    "thorough_contrast": thorough_contrast,
    "thorough_experts": thorough_experts,
    "score_matching": score_matching,
    "contrastive_divergence": contrastive_divergence,
    "backbone": backbone,
}
# Gaussians at every place gain most from parts that lie there to the pixel.
REGISTERED = ("experts", "thorough_experts")
