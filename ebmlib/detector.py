"""The whole method in one object: learn normal images, then say whether and where.

Chapter 8 builds its image score and its threshold, chapter 9 its map, chapter 14 ships
it. Everything it does is a call into the floors below: a recipe, the training loop,
the gradient map, its standardization, a quantile.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ebmlib.calibration import conformal_threshold
from ebmlib.checkpoint import read_checkpoint, write_checkpoint
from ebmlib.data.images import Images, batches, images_to_tensor
from ebmlib.devices import choose_device
from ebmlib.products import build_energy
from ebmlib.recipes import RECIPES, REGISTERED
from ebmlib.runlog import TrainingLog
from ebmlib.scoring import (
    MapStandardizer,
    energy_score,
    gradient_map,
    image_score,
    patch_map,
    weighted_map,
)
from ebmlib.training import train
from ebmlib.view.exposure import Exposure, MatchedExposure
from ebmlib.view.frame import Frame
from ebmlib.view.pose import Layout, PartFrame, choose_layout
from ebmlib.view.registration import Registration

FORMAT = "ebmlib.detector"


FORMAT_VERSION = 3  # 1 had no part frame, 2 no registration


SCORES = ("energy", "max", "top", "l2")


MAPS = {
    "gradient": gradient_map,
    "patches": patch_map,
    "weighted": weighted_map,
    "compressed": partial(weighted_map, compress=True),
}


MOST_PIXELS = 2**15  # what the energy looks at; a larger view is averaged first


SETTINGS = (
    *("method", "image_size", "score", "aligned", "map", "standardize", "smoothing"),
    *("one_exposure", "register", "steps", "false_alarm_rate", "holdout", "seed"),
)


@dataclass(frozen=True)
class Prediction:
    """What the detector says of a batch: verdicts, scores and maps."""

    anomalous: Tensor  # (N,) bool, score above the threshold
    scores: Tensor  # (N,)
    maps: Tensor  # (N, H, W)


class EnergyDetector:
    """Learn an energy from normal images; score and localize anomalies with it.

    `fit` trains the energy on normal images only, takes the gradient map
    |dE/dx| of the same images to learn what it usually looks
    like, and sets the threshold on normal images that training never saw.

    Args:
        method: the recipe in `ebmlib.recipes`: `"experts"`, which fits its restoring
            force to the part; `"thorough_experts"`, the same for longer;
            `"contrast"`, which chapter 9 builds and whose force is fixed;
            `"thorough_contrast"`, `"score_matching"` or `"contrastive_divergence"`;
            or `"backbone"`, which trains nothing, see `ebmlib.backbone`.
        image_size: side in pixels to which every image is resized. The energy looks at
            2^15 pixels at most: a larger image is averaged over squares of `shrink`
            pixels, unless a part frame is small enough. At 256 px a bottle that fills
            the image is seen at 128 px, and a screw in its frame at full resolution.
        score: the image score. `"energy"` is E(x); `"max"`, `"top"` and
            `"l2"` summarize the standardized gradient map.
        aligned: True if objects always lie in the same place: position then carries
            information. False for textures and for parts that lie in any direction.
            "auto" reads it from the training images, and lays straight a part that
            lies in any direction, see `ebmlib.view.pose`; what lies outside the part's
            frame is then not inspected.
        map: "gradient", "patches" for the patch energies, "weighted" for both, or
            "compressed" for both with log(1 + e_p), see `ebmlib.scoring`; by default
            the recipe's.
        standardize: mode of `ebmlib.scoring.MapStandardizer`, by default the recipe's.
        smoothing: Gaussian width of the gradient map in px that the energy sees; by
            default the recipe's.
        one_exposure: bring every view to the mean and contrast of the training images
            first, so that a lamp is not taken for a defect, see `ebmlib.view.exposure`.
        register: bring parts that always lie in the same place there to the pixel
            first, see `ebmlib.view.registration`, and take their light from the pixels
            that fit; by default for the methods that have Gaussians at every place.
        steps: training steps; by default the recipe's. "backbone" takes none.
        false_alarm_rate: share of normal images that may be flagged, in (0, 1).
        holdout: least share of the normal images kept from training for the threshold.
            More are kept if the false-alarm rate needs them, at most half.
        seed: makes `fit` repeatable.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.
        weights: for `"backbone"` alone, the file of a torchvision ResNet's weights,
            `.pth` or `.safetensors`. Without it they are random, and `fit` warns. What
            `save` writes holds the weights; the file is not needed again.

    Attributes:
        threshold_: scores above it are called anomalous; set by `fit`.
        held_out_: indices of the normal images that set the threshold.
        layout_: how the product lies, if `aligned` was "auto".
        log_: the `ebmlib.runlog.TrainingLog` of the run; None if nothing is trained.
        weights_: "random", or the weights file's name and the start of its SHA-256.

    Example:
        detector = EnergyDetector(image_size=128).fit("parts/normal")
        detector.predict("parts/today").anomalous
    """

    def __init__(
        self,
        method: str = "experts",
        image_size: int = 128,
        *,
        score: str = "max",
        aligned: bool | str = "auto",
        map: str | None = None,
        standardize: str | None = None,
        smoothing: float | None = None,
        one_exposure: bool = True,
        register: bool | None = None,
        steps: int | None = None,
        false_alarm_rate: float = 0.05,
        holdout: float = 0.1,
        seed: int = 0,
        device: str = "auto",
        weights: str | Path | None = None,
    ):
        if method not in RECIPES:
            raise ValueError(f"method must be one of {tuple(RECIPES)}, got {method!r}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {score!r}")
        for name, value in (
            ("false_alarm_rate", false_alarm_rate),
            ("holdout", holdout),
        ):
            if not 0 < value < 1:
                raise ValueError(
                    f"{name} must lie strictly between 0 and 1, got {value}"
                )
        if weights is not None and method != "backbone":
            raise ValueError(
                f'weights are for method="backbone", got method={method!r}, which '
                "learns its own"
            )
        self.weights, self.weights_ = weights, None
        self.method, self.image_size, self.score = method, int(image_size), score
        if aligned not in (True, False, "auto"):
            raise ValueError(f'aligned must be True, False or "auto", got {aligned!r}')
        self.aligned, self.steps, self.seed = aligned, steps, int(seed)
        self.map, self.standardize, self.smoothing = map, standardize, smoothing
        self.false_alarm_rate, self.holdout = false_alarm_rate, holdout
        self.one_exposure = bool(one_exposure)
        self.register = method in REGISTERED if register is None else bool(register)
        self.device = choose_device(device)
        if map not in (None, *MAPS):
            raise ValueError(f"map must be one of {tuple(MAPS)}, got {map!r}")
        MapStandardizer(standardize or "global")  # an unknown mode is refused now
        self.standardizer: MapStandardizer | None = None
        self.layout_: Layout | None = None
        self.frame: Frame | None = None
        self.shrink = 1
        self.exposure: Exposure | MatchedExposure | None = None
        self.energy: nn.Module | None = None
        self.threshold_: float | None = None
        self.held_out_: Tensor | None = None
        self.log_: TrainingLog | None = None

    def fit(self, images: Images, **training: Any) -> EnergyDetector:
        """Train on normal images only, then set the map statistics and the threshold.

        Args:
            images: a float tensor `(N, C, H, W)` in [0, 1], a uint8 array
                `(N, H, W, C)`, or a folder of images; at least 4. The resized training
                images are held in memory, as training visits them many times.
            **training: options for `ebmlib.training.train` that override the
                recipe's, such as `checkpoint="run.safetensors"` or `progress=True`;
                without effect on "backbone".

        Returns:
            The detector itself.
        """
        normals = images_to_tensor(images, size=self.image_size)  # (N, C, H, W)
        fitted, held_out = self._split(normals)
        if self.aligned == "auto":
            self.layout_ = choose_layout(fitted)
            self.aligned, self.frame = self.layout_.aligned, self.layout_.frame
        if self.register and self.aligned and not isinstance(self.frame, PartFrame):
            self.frame = Registration.fit(fitted)
        view = fitted if self.frame is None else self.frame.template
        self.shrink = math.ceil(math.sqrt(math.prod(view.shape[-2:]) / MOST_PIXELS))
        self.exposure = None  # of an earlier fit
        fitted = self._view(fitted)[0]
        if self.one_exposure:
            registered = isinstance(self.frame, Registration)
            self.exposure = (MatchedExposure if registered else Exposure).fit(fitted)
            fitted = self.exposure(fitted)
        with torch.random.fork_rng(devices=[]):  # weights depend on the seed alone
            generator = torch.manual_seed(self.seed)
            steps = training.get("steps", self.steps)
            extra = {"weights": self.weights} if self.method == "backbone" else {}
            make = RECIPES[self.method]
            recipe = make(fitted, self.aligned, generator, steps, **extra)
        self.energy = recipe.energy
        if recipe.objective is None:
            self.energy.to(self.device)
            self.log_ = self.steps = None
        else:
            options = {**recipe.training, "seed": self.seed, "device": self.device}
            options |= training
            self.log_ = train(self.energy, fitted, recipe.objective, **options)
            self.steps = options["steps"]
        if extra:
            self._note_weights()
        if recipe.finish is not None:
            self.energy = recipe.finish(self.energy, fitted)
        self.energy.eval().requires_grad_(False)
        if self.smoothing is None:
            self.smoothing = recipe.smoothing * self.image_size / self.shrink
        self.map = self.map or recipe.map
        self.standardize = self.standardize or recipe.standardize
        self.standardizer = MapStandardizer(self.standardize, smoothing=self.smoothing)
        self.standardizer.fit(self._raw_map(fitted, self.map))
        self.threshold_ = conformal_threshold(
            self._score(held_out), self.false_alarm_rate
        )
        return self

    def energy_score(self, images: Images) -> Tensor:
        """Energy of each image `(N,)`: the method's first score."""
        return torch.cat([self._energy(x) for x in self._batches(images)])

    def anomaly_score(self, images: Images) -> Tensor:
        """Score of each image `(N,)`, higher for more anomalous."""
        return torch.cat([self._score(x) for x in self._batches(images)])

    def anomaly_map(self, images: Images) -> Tensor:
        """Standardized anomaly map of each image `(N, image_size, image_size)`."""
        return torch.cat([self._map(x) for x in self._batches(images)])

    def predict(self, images: Images) -> Prediction:
        """Verdict, score and map for every image."""
        parts = list(self.stream(images))
        return Prediction(
            torch.cat([part.anomalous for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.maps for part in parts]),
        )

    def stream(self, images: Images, batch_size: int = 32) -> Iterator[Prediction]:
        """Yield one `Prediction` per batch; memory does not grow with N."""
        for x in self._batches(images, batch_size):
            maps = self._map(x)
            scores = self._score(x, maps)
            yield Prediction(scores > self.threshold_, scores, maps)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, with what `fit` chose for those left out."""
        found = {name: getattr(self, name) for name in SETTINGS}
        if self.method == "backbone":  # what was read, not where it lay
            found["weights"] = self.weights_
        return found

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: weights, map statistics, settings as JSON."""
        self._check_fitted()
        tensors = {f"energy.{k}": v for k, v in self.energy.state_dict().items()}
        if self.frame is not None:
            tensors["frame.template"] = self.frame.template
        tensors["map.mean"] = self.standardizer.mean
        tensors["map.std"] = self.standardizer.std
        exposure = self.exposure
        if isinstance(exposure, MatchedExposure):
            tensors["exposure.template"], exposure = exposure.template, None
        header = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings(),
            "energy": type(self.energy).__name__,
            "energy_config": self.energy.config(),
            "threshold": self.threshold_,
            "shrink": self.shrink,
            "reach": getattr(self.frame, "max_shift", None),
            "exposure": exposure and [exposure.mean, exposure.std],
        }
        write_checkpoint(path, tensors, header, FORMAT)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> EnergyDetector:
        """Read a file written by `save`; anything else is refused.

        Only tensors and JSON are read, so loading a file cannot run code.

        Raises:
            ValueError: the file is not a detector, or of an unknown format version.
        """
        tensors, header = read_checkpoint(path, FORMAT)
        if header.get("format_version") not in range(1, FORMAT_VERSION + 1):
            raise ValueError(
                f"{path} has detector format {header.get('format_version')!r}; this "
                f"version of ebmlib reads formats 1 to {FORMAT_VERSION}"
            )
        settings = dict(header["settings"])
        weights = settings.pop("weights", None)
        settings.setdefault("register", False)  # of before format 3
        detector = cls(**settings, device=device)
        detector.weights_ = weights
        try:
            energy = build_energy(header["energy"], header["energy_config"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        state = {k[7:]: v for k, v in tensors.items() if k.startswith("energy.")}
        energy.load_state_dict(state)
        detector.energy = energy.to(detector.device).eval().requires_grad_(False)
        if "frame.template" in tensors:
            template, reach = tensors["frame.template"], header.get("reach")
            detector.frame = (
                PartFrame(template) if reach is None else Registration(template, reach)
            )
        detector.standardizer = MapStandardizer(
            detector.standardize, smoothing=detector.smoothing
        )
        detector.standardizer.mean = tensors["map.mean"]
        detector.standardizer.std = tensors["map.std"]
        detector.threshold_ = header["threshold"]
        detector.shrink = header.get("shrink", 1)
        if header.get("exposure"):
            detector.exposure = Exposure(*header["exposure"])
        elif "exposure.template" in tensors:
            detector.exposure = MatchedExposure(tensors["exposure.template"])
        detector.one_exposure = detector.exposure is not None
        return detector

    def _split(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a random share of the normal images for the threshold."""
        if len(normals) < 4:
            raise ValueError(
                f"fit needs at least 4 normal images, got {len(normals)}: some train "
                "the energy, the others set the threshold"
            )
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(normals), generator=generator)
        promise = math.ceil(1 / self.false_alarm_rate) - 1
        kept = max(round(self.holdout * len(normals)), promise, 2)
        kept = min(kept, len(normals) // 2)
        self.held_out_ = order[:kept]
        return normals[order[kept:]], normals[self.held_out_]

    def all_scores(self, images: Images) -> dict[str, Tensor]:
        """Every image score by name, from one pass over the images; see `SCORES`.

        "energy" is the energy, the others summarize the standardized gradient map.
        """
        parts = [
            {"energy": self._energy(x)}
            | {kind: image_score(maps, kind) for kind in SCORES[1:]}
            for x in self._batches(images)
            for maps in [self._map(x)]
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in SCORES}

    def raw_map(self, images: Images, kind: str) -> Tensor:
        """One of `MAPS` before standardization, in image coordinates: `(N, H, W)`.

        Outside a part frame the map is 0.
        """
        if kind not in MAPS:
            raise ValueError(f"kind must be one of {tuple(MAPS)}, got {kind!r}")
        parts = []
        for x in self._batches(images):
            view, poses = self._view(x)
            maps = self._raw_map(view, kind)
            parts.append(self._put_back(maps, poses, x, outside=0.0))
        return torch.cat(parts)

    def _note_weights(self) -> None:
        self.weights_ = self.energy.weights
        if self.weights is None:
            warnings.warn(
                "the backbone's weights are random: give weights=FILE, a torchvision "
                "ResNet's, for pretrained features",
                stacklevel=3,
            )

    def _batches(self, images: Images, batch_size: int = 32) -> Iterator[Tensor]:
        self._check_fitted()
        return batches(
            images,
            size=self.image_size,
            channels=self.energy.channels,
            batch_size=batch_size,
        )

    def _view(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the energy sees, and the poses of the parts that were laid straight."""
        poses = None if self.frame is None else self.frame.pose(x)
        view = x if self.frame is None else self.frame.align(x, poses)
        if self.shrink > 1:
            size = [side // self.shrink for side in view.shape[-2:]]
            view = interpolate(view, size, mode="area")
        return view if self.exposure is None else self.exposure(view), poses

    def _put_back(self, maps, poses, x: Tensor, outside: float) -> Tensor:
        if self.shrink > 1:
            view = x if self.frame is None else self.frame.template
            size = view.shape[-2:]
            maps = interpolate(maps[:, None], size, mode="bilinear")[:, 0]
        if poses is None:
            return maps
        return self.frame.inverse(maps, poses, x.shape[-2:], outside)

    def _energy(self, x: Tensor) -> Tensor:
        return energy_score(self.energy, self._view(x)[0])

    def _raw_map(self, view: Tensor, kind: str) -> Tensor:
        return MAPS[kind](self.energy, view, smoothing=self.smoothing)

    def _map(self, x: Tensor) -> Tensor:
        view, poses = self._view(x)
        raw = self._raw_map(view, self.map)
        silent = float(self.standardizer(torch.zeros_like(raw[:1])).min())
        return self._put_back(self.standardizer(raw), poses, x, outside=silent)

    def _score(self, x: Tensor, maps: Tensor | None = None) -> Tensor:
        if self.score == "energy":
            return self._energy(x)
        return image_score(self._map(x) if maps is None else maps, self.score)

    def _check_fitted(self) -> None:
        if self.energy is None:
            raise ValueError("the detector has not been trained; call fit() or load()")
