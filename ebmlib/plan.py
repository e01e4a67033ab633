"""What a recipe is, and the plan that it makes of the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ebmlib.progress import Show
from ebmlib.training import Objective


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


def check_counts(**numbers: object) -> None:
    """Refuse what is not a whole number of at least 1; the keyword is its name."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {number!r}")
