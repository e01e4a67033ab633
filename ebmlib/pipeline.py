"""From a batch of images to scores and maps: view, one pass, map, and back.

A `Pipeline` holds what a fitted `ebmlib.detector.EnergyDetector` applies to an image,
and nothing of how it was fitted:

    images -> view -> energy, gradient, patch energies -> map -> standardized -> images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebmlib.energy import (
    build_energy,
    energy_spec,
    images_at_once,
    to_device_of,
)
from ebmlib.estimator import NotFittedError
from ebmlib.scoring import (
    IMAGE_SCORES,
    Evaluation,
    MapStandardizer,
    evaluate,
    image_score,
    map_of,
)
from ebmlib.view import View

SCORES = ("energy", *(kind for kind in IMAGE_SCORES if kind != "mean"))
AT_ONCE = 32  # images that one pass takes


class Look(NamedTuple):
    """What a pipeline says of N images, on the CPU.

    Attributes:
        scores: every image score of `SCORES` by name, `(N,)` each.
        maps: the standardized maps in image coordinates, `(N, H, W)`.
        evaluation: energy, gradient and patch energies of what the energy saw, on its
            device.
        poses: of the parts, for `View.inverse`; None where nothing was moved.
    """

    scores: dict[str, Tensor]
    maps: Tensor
    evaluation: Evaluation
    poses: Tensor | None


@dataclass
class Pipeline:
    """What is applied to every image, callable on a batch `(N, C, H, W)` in [0, 1].

    Args:
        view: fitted.
        energy: trained or fitted, in eval mode.
        map: one of `ebmlib.scoring.MAPS`.
        smoothing: Gaussian width of the map in px of the view.
        standardizer: of these maps; fitted by `fit_map`, or before.
    """

    view: View
    energy: nn.Module
    map: str
    smoothing: float
    standardizer: MapStandardizer

    def fit_map(self, seen: Tensor) -> Pipeline:
        """Learn what the map looks like from normal images as the energy sees them."""
        maps = [
            map_of(self._evaluate(x), self.map, smoothing=self.smoothing)
            for x in seen.split(AT_ONCE)
        ]
        self.standardizer.fit(torch.cat(maps))
        return self

    def __call__(self, images: Tensor, *, gradient: bool = False) -> Look:
        """Scores and maps of a batch, from one forward and one backward pass.

        The backward pass is left out where the map needs none, unless `gradient`.
        """
        seen = self.view(to_device_of(self.energy, images))
        evaluation = self._evaluate(seen.images, gradient)
        raw = map_of(evaluation, self.map, smoothing=self.smoothing)
        # Where the view does not look, the map has the value of "nothing there".
        outside = float(self.standardizer(torch.zeros_like(raw[:1])).min())
        maps = self._back(self.standardizer(raw), seen.poses, images, outside)
        scores = {kind: image_score(maps, kind) for kind in SCORES if kind != "energy"}
        # An image that is seen in tiles has the sum of their energies.
        energy = evaluation.energy.view(len(images), -1).sum(1).cpu()
        return Look({"energy": energy, **scores}, maps, evaluation, seen.poses)

    def raw_map(self, images: Tensor, kind: str, look: Look) -> Tensor:
        """The map of one kind before standardization, `(N, H, W)`, on the CPU.

        Outside a part's frame it is 0. `look` is this pipeline's of the same images,
        made with `gradient=True` if `kind` needs it.

        Raises:
            TypeError: the energy has no patches, and `kind` needs them.
            ValueError: an unknown kind.
        """
        raw = map_of(look.evaluation, kind, smoothing=self.smoothing)
        return self._back(raw, look.poses, images, 0.0)

    @property
    def channels(self) -> int:
        """Channels of the images that the energy takes: 1 for gray, 3 for RGB."""
        return int(getattr(self.energy, "channels", 3))

    def kinds(self) -> tuple[str, ...]:
        """The maps of one kind alone that the energy has."""
        patches = hasattr(self.energy, "energy_map")
        return ("gradient", "patches") if patches else ("gradient",)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that `restore` needs: tensors by name, and what JSON can hold."""
        statistics = self.standardizer
        if statistics.mean_ is None or statistics.std_ is None:
            raise NotFittedError("the map has no statistics yet; call fit_map() first")
        tensors = {f"energy.{k}": v for k, v in self.energy.state_dict().items()}
        tensors |= {f"view.{k}": v for k, v in self.view.state_dict().items()}
        tensors |= {"map.mean": statistics.mean_, "map.std": statistics.std_}
        return tensors, {
            "energy": energy_spec(self.energy),
            "view": self.view.config(),
            "map": self.map,
            "smoothing": self.smoothing,
            "standardize": statistics.mode,
        }

    @classmethod
    def restore(
        cls, tensors: dict[str, Tensor], header: dict[str, Any], device: torch.device
    ) -> Pipeline:
        """A pipeline from its `state`; KeyError or ValueError if that is not whole."""
        energy = build_energy(**header["energy"])
        energy.load_state_dict(_part(tensors, "energy."))
        smoothing = float(header["smoothing"])
        statistics = MapStandardizer(header["standardize"], smoothing=smoothing)
        statistics.mean_, statistics.std_ = tensors["map.mean"], tensors["map.std"]
        return cls(
            View.from_state(header["view"], _part(tensors, "view.")),
            energy.to(device).eval().requires_grad_(False),
            header["map"],
            smoothing,
            statistics,
        )

    def _evaluate(self, seen: Tensor, gradient: bool = False) -> Evaluation:
        """`evaluate`, so many images at once that memory stays bounded."""
        gradient = gradient or self.map != "patches"
        parts = [
            evaluate(self.energy, x, gradient=gradient)
            for x in seen.split(images_at_once(seen))
        ]
        if len(parts) == 1:
            return parts[0]
        energy, slopes, patches, _, images = zip(*parts, strict=True)
        return Evaluation(
            torch.cat(energy),
            None if slopes[0] is None else torch.cat(slopes),
            None if patches[0] is None else torch.cat(patches),
            parts[0].stride,
            torch.cat(images),
        )

    def _back(
        self, maps: Tensor, poses: Tensor | None, images: Tensor, outside: float
    ) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        return self.view.inverse(maps, poses, size, outside).cpu()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
