"""Ways to make an energy from normal images, each a small class with its own options.

A recipe says which energy, which objective, which settings of the training loop and
which map belong together. Chapter 7 follows `ContrastiveDivergence` step by step,
chapter 9 reads the maps of `Contrast`, chapter 12 builds `Experts`. A recipe of your
own is a class with the attributes of `Recipe`:

    EnergyDetector(Experts(steps=8000), image_size=256)
    EnergyDetector("experts", image_size=256)   # the recipe with its default options
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ebmlib.data.augmentation import Augment
from ebmlib.data.corruption import corrupt, damage
from ebmlib.feature_recipes import Fields, LearnedFeatures, OnFeatures
from ebmlib.langevin import langevin
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
)
from ebmlib.plan import Plan, Recipe, check_counts
from ebmlib.products import ProductOfExperts
from ebmlib.progress import Show
from ebmlib.random import seeded
from ebmlib.replay import ReplayBuffer, corrupted_images
from ebmlib.scoring import MAPS

logger = logging.getLogger(__name__)

# Variations of a normal image that leave it normal: for parts that lie still, and for
# textures and parts that lie in any direction.
SMALL_POSES = Augment(rotate=6, translate=0.02, border="edge", keep=0.33)
ANY_POSE = Augment(rotate=180, keep=0.33)
AUTO = "auto"  # the best that can be made of what is installed
CORRUPTIONS = {"corrupt": corrupt, "damage": damage}


@dataclass(frozen=True)
class Contrast:
    """A patch energy that tells damaged patches from normal ones (chapter 9).

    Most of the steps teach the energy *where* synthetic damage is, as a classifier of
    patches; the last ones also teach its gradient to undo the damage, which costs more
    than twice the time a step. This is discrimination against synthetic damage, not a
    model of the density. Less than five minutes on two cores at 128 px.

    Args:
        steps: training steps.
        width: half the network's channels.
        corruption: "corrupt" (pasted patches, strokes, spots) or "damage", which adds
            bends, wear and large defects.
        restoration: weight of the restoration loss, > 0.
        stiffness: force constant of the restoration loss; None measures it in the
            energy after the warm-up, which an energy trained for longer needs.
        warmup: share of the steps without the restoration loss, in [0, 1].
    """

    name: ClassVar[str] = "contrast"
    maps: ClassVar[tuple[str, ...]] = MAPS
    register: ClassVar[bool] = False
    max_pixels: ClassVar[int] = 2**15
    double_below: ClassVar[int] = 0
    score: ClassVar[str] = "max"

    steps: int = 3000
    width: int = 32
    corruption: str = "corrupt"
    restoration: float = 0.5
    stiffness: float | None = 10.0
    warmup: float = 3 / 4

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, width=self.width)
        if self.corruption not in CORRUPTIONS:
            raise ValueError(
                f"corruption must be one of {tuple(CORRUPTIONS)}, got "
                f"{self.corruption!r}"
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must lie in [0, 1], got {self.warmup}")
        self._objective()  # refuses its own options

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        side = min(images.shape[-2:])
        with seeded(seed):
            energy = PatchEnergy(
                images.shape[1],
                width=self.width,
                coordinates=aligned,
                stride=8 if side >= 96 else 4,  # a grid of some 16 x 16 patches
            )
        return Plan(
            energy,
            self._objective(),
            training={
                "steps": self.steps,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "augment": SMALL_POSES if aligned else ANY_POSE,
            },
            map="weighted",
            standardize="global",  # its gradient is near 0 on normal images
        )

    def _objective(self) -> ContrastAndRestoration:
        return ContrastAndRestoration(
            CORRUPTIONS[self.corruption],
            restoration=self.restoration,
            stiffness=self.stiffness,
            clean=0.5,
            warmup=int(self.steps * self.warmup),
        )


@dataclass(frozen=True)
class Experts:
    """A trained patch energy times a Gaussian for every patch (chapter 12).

    E(x) = sum_p [a e_p(x) + b g_p(x)]. The network is that of `Contrast` with "damage"
    and a measured force; the Gaussians describe what normal patches look like, at each
    place if the part is aligned, and are fitted in closed form. 3000 steps take less
    than five minutes on two cores at 128 px; 8000 are slightly better.

    Args:
        steps: training steps of the network.
        width: half the network's channels.
    """

    name: ClassVar[str] = "experts"
    maps: ClassVar[tuple[str, ...]] = MAPS
    register: ClassVar[bool] = True
    max_pixels: ClassVar[int] = 2**15
    double_below: ClassVar[int] = 0
    score: ClassVar[str] = "max"

    steps: int = 3000
    width: int = 32

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, width=self.width)

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        contrast = Contrast(
            self.steps,
            self.width,
            corruption="damage",
            restoration=0.3,
            stiffness=None,
            warmup=5 / 6,
        )

        def finish(energy: nn.Module, normals: Tensor, _: Show) -> nn.Module:
            assert isinstance(energy, PatchEnergy)  # the one of the plan
            return ProductOfExperts.from_images(energy, normals, shared=not aligned)

        plan = contrast.plan(images, aligned, seed)
        return dataclasses.replace(plan, finish=finish, map="compressed")


@dataclass(frozen=True)
class ScoreMatching:
    """A whole-image energy by denoising score matching (chapter 5; Vincent 2011).

    Args:
        steps: training steps.
        sigmas: noise levels, in units of pixel values.
    """

    name: ClassVar[str] = "score_matching"
    maps: ClassVar[tuple[str, ...]] = ("gradient",)
    register: ClassVar[bool] = False
    max_pixels: ClassVar[int] = 2**15
    double_below: ClassVar[int] = 0
    score: ClassVar[str] = "max"

    steps: int = 800
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2)

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        DenoisingScoreMatching(self.sigmas)  # refuses its own options

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        with seeded(seed):
            energy = ConvEnergy(images.shape[1])
        return Plan(
            energy,
            DenoisingScoreMatching(self.sigmas),
            training={
                "steps": self.steps,
                "batch_size": 16,
                "learning_rate": 1e-3,
            },
            standardize="position" if aligned else "global",
            smoothing=1 / 32,
        )


@dataclass(frozen=True)
class ContrastiveDivergence:
    """The paper's route: persistent Langevin chains as negatives (chapter 7).

    Genc et al. (2021) train an energy of images with Langevin sampling; their settings
    are not known here, these are the book's own.

    Args:
        steps: training steps.
        width: channels of the network's first layer.
        chain_steps: Langevin steps for each training step.
        noise: standard deviation of the noise of a Langevin step and of the data.
        snr: drift-to-noise ratio of the chains on the untrained energy; it sets the
            step size, which then stays.
        penalty: weight of the squared energies, at least 0.
    """

    name: ClassVar[str] = "contrastive_divergence"
    maps: ClassVar[tuple[str, ...]] = ("gradient",)
    register: ClassVar[bool] = False
    max_pixels: ClassVar[int] = 2**15
    double_below: ClassVar[int] = 0
    score: ClassVar[str] = "max"

    steps: int = 500
    width: int = 16
    chain_steps: int = 20
    noise: float = 0.01
    snr: float = 0.04
    penalty: float = 0.01

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, width=self.width, chain_steps=self.chain_steps)
        for name in ("noise", "snr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be positive and finite, got {getattr(self, name)}"
                )
        if not 0 <= self.penalty < float("inf"):
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        with seeded(seed) as generator:
            energy = ConvEnergy(images.shape[1], width=self.width)
            start = corrupted_images(images.cpu(), corrupt)
            buffer = ReplayBuffer(256, start, fresh=0.1, generator=generator)
            # The step is set once, on the untrained energy: set anew in every round it
            # would hide from the chains how steep the energy has become.
            probe = langevin(
                energy,
                start(16, generator),
                steps=1,
                snr=self.snr,
                noise=self.noise,
                generator=generator,
            )
        objective = PersistentContrastiveDivergence(
            buffer,
            steps=self.chain_steps,
            step_size=probe.health.step_size,
            noise=self.noise,
            penalty=self.penalty,
            data_noise=self.noise,
        )
        return Plan(
            energy,
            objective,
            training={
                "steps": self.steps,
                "batch_size": 16,
                "learning_rate": 1e-3,
                "betas": (0.0, 0.999),
                "ema": 0.98,
            },
            standardize="position" if aligned else "global",
            smoothing=1 / 32,
        )


RECIPES: dict[str, type] = {
    recipe.name: recipe
    for recipe in (
        Contrast,
        Experts,
        ScoreMatching,
        ContrastiveDivergence,
        Fields,
        LearnedFeatures,
    )
}


def make_recipe(recipe: Recipe | str) -> Recipe:
    """The recipe itself, or the one of that name with its default options.

    "auto" is `Fields()` where the weights of its features are installed. Where they are
    not it is `Experts()`, trained from scratch, and the log says at level WARNING what
    to install.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a recipe.
    """
    if recipe == AUTO:
        try:
            return Fields()
        except ModuleNotFoundError as error:
            logger.warning(
                'recipe="auto" trains "experts" from scratch, which finds less on most '
                "real parts: %s",
                error,
            )
            return Experts()
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            known = (AUTO, *RECIPES)
            raise ValueError(f"recipe must be one of {known}, got {recipe!r}")
        return RECIPES[recipe]()
    if isinstance(recipe, type) or not hasattr(recipe, "plan"):
        raise TypeError(
            f"recipe must be a name of {tuple(RECIPES)} or an object such as "
            f"Experts(steps=3000), got {recipe!r}"
        )
    return recipe


def options_of(recipe: Recipe, energy: nn.Module | None = None) -> dict[str, Any]:
    """The options of a recipe by name, as JSON can hold them.

    With the energy that the recipe made, a file among them is recorded by what was
    read, not by where it was.
    """
    if not dataclasses.is_dataclass(recipe) or isinstance(recipe, type):
        return {}
    values = dataclasses.asdict(recipe)
    if energy is not None and isinstance(recipe, OnFeatures):
        values["weights"] = getattr(energy.features, "weights", None)
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
