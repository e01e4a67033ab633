"""The whole method in one object: learn normal images, then say whether and where.

Chapter 8 builds its image score and its threshold, chapter 9 its map, chapter 15 ships
it. The way of an image:

    file or array                       ebmlib.data.images     photograph, any size
      -> resize                         ebmlib.data.resizing   (C, H, W) in [0, 1]
      -> view: pose, shrink, exposure   ebmlib.view            (C, h, w)
      -> energy and its gradient        ebmlib.scoring         one pass
      -> map, standardized              ebmlib.scoring         (h, w)
      -> back to the image              ebmlib.view            (H, W)
      -> score, verdict, flagged pixels ebmlib.calibration     held-out normals
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ebmlib.calibration import (
    GUARANTEES,
    conformal_p_values,
    conformal_threshold,
    exact_rate,
    pixel_threshold,
)
from ebmlib.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from ebmlib.data.files import check_bits
from ebmlib.data.images import (
    ImageBatch,
    Images,
    ImageStream,
    check_contrast,
)
from ebmlib.data.resizing import Size, check_size
from ebmlib.devices import choose_device
from ebmlib.estimator import Estimator
from ebmlib.pipeline import AT_ONCE, SCORES, Look, Pipeline
from ebmlib.plan import Recipe
from ebmlib.prediction import Explanation, Prediction, largest_patches
from ebmlib.recipes import AUTO, RECIPES, make_recipe, options_of
from ebmlib.runlog import TrainingLog
from ebmlib.scoring import MAPS, MapStandardizer
from ebmlib.training import train
from ebmlib.view import View

if TYPE_CHECKING:
    from ebmlib.export import Exported

FORMAT = "ebmlib.detector"
_NOT_SETTINGS = ("recipe", "device")  # kept apart, and chosen where it runs
FORMAT_VERSION = 4  # 4: recipes with options, views, pixel thresholds


def _trains(method: Any) -> Any:
    """Gradients and normal tensors inside, whatever mode the caller is in."""

    @wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return method(*args, **kwargs)

    return wrapped


class EnergyDetector(Estimator):
    """Learns an energy from normal images; scores and localizes anomalies with it.

    `fit` makes the energy by a recipe, learns what its map looks like on normal images,
    and sets the thresholds on normal images that training never saw. The default
    recipe is `"fields"`, energies in closed form on the features of a pretrained
    network, `pip install "ebmlib[features]"`; without them it is `"experts"`, which
    learns from scratch to tell synthetic damage. The method of Genc et al. (2021), an
    energy trained with Langevin chains and localized by its gradient, is the recipe
    `"contrastive_divergence"` with the map `"gradient"`; on pretrained features,
    `"learned_features"`.

    Arguments are never changed; what `fit` finds has names that end in `_`. A `fit`
    that fails or is interrupted leaves the detector as it was.

    Args:
        recipe: one of `ebmlib.recipes`, such as `Experts(steps=8000)`, or its name.
            "auto": "fields" where pretrained weights are installed, else "experts".
        image_size: side in px, or (height, width), to which every image is resized.
        score: the image score; None: the recipe's. `"energy"` is E(x); `"max"`,
            `"top"` and `"l2"` summarize the standardized map, see
            `ebmlib.scoring.image_score`.
        aligned: True if objects always lie in the same place: position then carries
            information. False for textures and for parts that lie in any direction.
            "auto" reads it from the training images, and rotates a part that lies in
            any direction to a canonical pose, see `ebmlib.view`; what lies outside the
            part's frame is then not inspected.
        map: one of `ebmlib.scoring.MAPS`; None: the recipe's.
        standardize: mode of `ebmlib.scoring.MapStandardizer`; None: the recipe's.
        smoothing: Gaussian width of the map in px of the view; None: the recipe's.
        normalize_exposure: bring every view to the mean and contrast of the training
            images first, so that illumination is not taken for a defect.
        register: move parts that always lie in the same place there to the pixel
            first; None: if the recipe gains from it.
        max_pixels: what the energy looks at, at most; None: the recipe's number. A
            larger image is averaged down, and `fit` logs by how much; more pixels cost
            time in proportion.
        tile: side in px of overlapping tiles that are looked at one by one, at full
            resolution; for defects of a few pixels in large images. None: no tiles.
        false_alarm_rate: share of normal images that may be flagged, in (0, 1).
        pixel_guarantee: what the pixel threshold promises with `false_alarm_rate`:
            `"image"`, no flagged pixel in a normal image, or `"pixel"`, the share of
            flagged pixels; see `ebmlib.calibration.pixel_threshold`.
        holdout: least share of the normal images kept from training for the thresholds.
            More are kept if the false-alarm rate needs them, at most half.
        bits: of the camera, if files of 16 bits hold fewer, such as 12: white is then
            2^12 - 1.
        seed: makes `fit` repeatable.
        device: "auto" (CUDA, else the CPU), "cpu", "cuda" or "mps".

    Attributes:
        recipe_: the recipe that `fit` followed.
        score_: the image score.
        pipeline_: the `ebmlib.pipeline.Pipeline` from images to scores and maps; it
            holds the energy, the view and the map with its statistics.
        energy_: the pipeline's energy, an `nn.Module` in eval mode.
        threshold_: scores above it are anomalous.
        pixel_threshold_: map values above it are flagged.
        calibration_scores_: `(n,)`, scores of the normal images that set the threshold.
        held_out_: indices of these images among those given to `fit`.
        bits_: how 16-bit images are read, see `bits`; None if there were none.
        log_: the `ebmlib.runlog.TrainingLog`; None if nothing was trained.

    Example:
        detector = EnergyDetector().fit("parts/normal")
        detector.predict("parts/today").anomalous
    """

    recipe_: Recipe
    score_: str
    pipeline_: Pipeline
    energy_: nn.Module
    threshold_: float
    pixel_threshold_: float
    calibration_scores_: Tensor
    held_out_: Tensor | None
    log_: TrainingLog | None
    bits_: int | None

    def __init__(
        self,
        recipe: Recipe | str = AUTO,
        image_size: Size = 256,
        *,
        score: str | None = None,
        aligned: bool | str = "auto",
        map: str | None = None,
        standardize: str | None = None,
        smoothing: float | None = None,
        normalize_exposure: bool = True,
        register: bool | None = None,
        max_pixels: int | None = None,
        tile: int | None = None,
        false_alarm_rate: float = 0.05,
        pixel_guarantee: str = "image",
        holdout: float = 0.1,
        bits: int | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ):
        self.recipe, self.image_size, self.score = recipe, image_size, score
        self.aligned, self.map, self.standardize = aligned, map, standardize
        self.smoothing, self.normalize_exposure = smoothing, normalize_exposure
        self.register, self.max_pixels, self.tile = register, max_pixels, tile
        self.false_alarm_rate, self.pixel_guarantee = false_alarm_rate, pixel_guarantee
        self.holdout, self.bits, self.seed, self.device = holdout, bits, seed, device
        self._check_arguments()

    # ------------------------------------------------------------------ learning

    @_trains
    def fit(self, images: Images, **training: Any) -> EnergyDetector:
        """Learn from normal images only, then set map statistics and thresholds.

        Args:
            images: what `ebmlib.data.images.images_to_tensor` takes: a folder, paths,
                a tensor `(N, C, H, W)`, arrays, pictures, a data set; at least 4
                images. They are held in memory at `image_size`.
            **training: options of `ebmlib.training.train` that override the recipe's,
                such as `checkpoint="run.safetensors"` or `progress=True`. With a
                checkpoint an interrupted `fit` goes on when it is called again.

        Returns:
            The detector itself.

        Raises:
            ValueError: fewer than 4 images, images without contrast, or options that
                contradict each other.
            TrainingDiverged: the training could not be kept stable.
        """
        recipe = self._check_arguments()  # set_params may have changed them
        device = choose_device(self.device)
        _check_options(training)
        source = ImageStream(images, size=self.image_size, bits=self.bits)
        normals = source.read().images
        check_contrast(normals)
        fitted, held_out, kept = self._split(normals)
        del normals
        view = self._new_view(recipe).fit(fitted)
        seen = torch.cat([view(x.to(device)).images for x in fitted.split(AT_ONCE)])
        del fitted
        shown = training.get("progress", "auto")
        plan = recipe.plan(seen, bool(view.aligned_), self.seed)
        energy, run = plan.energy.to(device, torch.float32), None
        if plan.objective is not None:
            options = {**plan.training, "seed": self.seed, "device": device, **training}
            data = seen if plan.data is None else plan.data
            run = train(energy, data, plan.objective, **options)
        elif unused := sorted(training.keys() - {"progress"}):
            raise ValueError(
                f"the recipe {recipe.name!r} trains nothing, so fit has no effect for "
                f"{unused}; leave them out"
            )
        if plan.finish is not None:
            energy = plan.finish(energy, seen, shown)
        energy.to(device).eval().requires_grad_(False)
        smoothing = self.smoothing
        if smoothing is None:
            short = min(check_size(self.image_size))
            smoothing = plan.smoothing * short / math.sqrt(math.prod(view.scale_))
        mode = self.standardize or plan.standardize
        standardizer = MapStandardizer(mode, smoothing=smoothing)
        pipeline = Pipeline(view, energy, self.map or plan.map, smoothing, standardizer)
        if plan.memorizes:
            seen = torch.cat(
                [view(x.to(device)).images for x in held_out.split(AT_ONCE)]
            )
        pipeline.fit_map(seen)
        bits = 16 if self.bits is None and source.sixteen_bit else self.bits
        kind = self.score or recipe.score
        thresholds = self._thresholds(pipeline, held_out, kind)
        self._take(recipe, pipeline, thresholds, kept, run, bits)
        return self

    def calibrate(self, images: Images) -> EnergyDetector:
        """Set the thresholds anew on other normal images, without training.

        For a camera or illumination that has changed a little, or to spend more images
        on the promise: its strength grows with their number. None of them may have been
        trained on.

        Args:
            images: as in `fit`, normal ones, at least 1.
        """
        self.check_fitted()
        thresholds = self._thresholds(self.pipeline_, images, self.score_)
        run, bits = self.log_, self.bits_
        self._take(self.recipe_, self.pipeline_, thresholds, None, run, bits)
        return self

    # ------------------------------------------------------------------- looking

    def energy_score(self, images: Images) -> Tensor:
        """Energy of each image `(N,)`, the first score of the method, on the CPU."""
        return torch.cat([look.scores["energy"] for look in self._looks(images)])

    def anomaly_score(self, images: Images) -> Tensor:
        """Score of each image `(N,)`, higher for more anomalous, on the CPU."""
        return torch.cat([look.scores[self.score_] for look in self._looks(images)])

    def anomaly_map(self, images: Images) -> Tensor:
        """Standardized map of each image `(N, H, W)`, at image size, on the CPU."""
        return torch.cat([look.maps for look in self._looks(images)])

    def predict(self, images: Images, *, on_error: str = "raise") -> Prediction:
        """Verdict, score, map and flagged pixels of every image.

        Args:
            images: as in `fit`.
            on_error: `"raise"`, or `"skip"` files that cannot be read; they are listed
                in `Prediction.errors`.
        """
        return Prediction.join(list(self.stream(images, on_error=on_error)))

    def stream(
        self, images: Images, *, batch_size: int = 32, on_error: str = "raise"
    ) -> Iterator[Prediction]:
        """Yield one `Prediction` per batch; memory does not grow with N."""
        self.check_fitted()
        source = self._source(images, self.pipeline_, batch_size, on_error)
        last, told = None, 0
        for batch in source:
            if last is not None:
                yield last
            skipped = source.errors[told:]
            last, told = self._verdicts(batch, skipped), len(source.errors)
        if last is not None:  # files may have been skipped after the last batch
            yield replace(last, errors=last.errors + source.errors[told:])

    def score_all(self, images: Images) -> dict[str, Any]:
        """Everything that one pass gives, on the CPU, for measuring and comparing.

        Returns:
            `scores`: every image score of `ebmlib.pipeline.SCORES` by name, `(N,)`;
            `map`: the standardized map `(N, H, W)`; `gradient` and `patches`: these two
            maps before standardization, 0 outside a part's frame; `patches` is None for
            an energy without patch energies.
        """
        self.check_fitted()
        found: dict[str, list[Any]] = {"scores": [], "map": []}
        for batch in self._source(images, self.pipeline_):
            look = self.pipeline_(batch.images, gradient=True)
            found["scores"].append(look.scores)
            found["map"].append(look.maps)
            for kind in self.pipeline_.kinds():
                maps = self.pipeline_.raw_map(batch.images, kind, look)
                found.setdefault(kind, []).append(maps)
        scores = found.pop("scores")
        return {
            "scores": {k: torch.cat([part[k] for part in scores]) for k in SCORES},
            "patches": None,
            **{name: torch.cat(parts) for name, parts in found.items()},
        }

    def explain(self, image: Images, patches: int = 3) -> Explanation:
        """Why one image gets its verdict: its energy by term, patches and gradient.

        Args:
            image: one image, as in `fit`.
            patches: how many of the most anomalous patches are listed.

        Raises:
            ValueError: not one image.
        """
        looks = list(self._looks(image, gradient=True))
        if len(looks) != 1 or len(looks[0].maps) != 1:
            count = sum(len(look.maps) for look in looks)
            raise ValueError(f"explain takes one image, got {count}; pass images[:1]")
        (look,) = looks
        one, terms = look.evaluation, {}
        assert one.gradient is not None  # asked for above
        terms_of = getattr(self.energy_, "terms", None)  # of an energy that is a sum
        if terms_of is not None:
            with torch.no_grad():
                terms = terms_of(one.seen)  # name -> (1, h, w)
        slopes = one.gradient.square().sum(1).sqrt().flatten()
        score = look.scores[self.score_]
        return Explanation(
            bool(score > self.threshold_),
            float(score),
            self.threshold_,
            float(conformal_p_values(score, self.calibration_scores_)),
            float(look.scores["energy"]),
            {name: float(values.sum()) for name, values in terms.items()},
            largest_patches(one, terms, patches),
            divmod(int(look.maps[0].argmax()), look.maps.shape[-1]),
            float(slopes.max() / slopes.median().clamp_min(1e-12)),
        )

    # -------------------------------------------------------------------- keeping

    def settings(self) -> dict[str, Any]:
        """The recipe's options and the detector's arguments, with what `fit` found."""
        energy = getattr(self, "energy_", None)
        recipe = make_recipe(self.recipe) if energy is None else self.recipe_
        found = {"method": recipe.name, **options_of(recipe, energy)}
        found |= {k: v for k, v in self.get_params().items() if k not in _NOT_SETTINGS}
        if energy is not None:
            made = self.pipeline_
            found["aligned"], found["map"] = made.view.aligned_, made.map
            found["smoothing"], found["score"] = made.smoothing, self.score_
            found["standardize"] = made.standardizer.mode
        return found

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: weights, map statistics, settings as JSON."""
        self.check_fitted()
        recipe = self.recipe_
        if RECIPES.get(recipe.name) is not type(recipe):
            raise ValueError(
                f"only detectors with a recipe of ebmlib.recipes can be saved, got "
                f"{recipe!r}"
            )
        tensors, header = self.pipeline_.state()
        tensors["calibration.scores"] = self.calibration_scores_
        if self.held_out_ is not None:
            tensors["calibration.held_out"] = self.held_out_
        params = self.get_params()
        header |= {
            "format_version": FORMAT_VERSION,
            "recipe": {
                "name": recipe.name,
                "options": options_of(recipe, self.energy_),
            },
            "params": {k: v for k, v in params.items() if k not in _NOT_SETTINGS},
            "threshold": self.threshold_,
            "pixel_threshold": self.pixel_threshold_,
            "bits": self.bits_,
        }
        write_checkpoint(path, tensors, header, FORMAT)

    def export(
        self,
        path: str | Path,
        *,
        photo_size: Size | None = None,
        batch: int = 1,
    ) -> Exported:
        """Write the whole chain, from photograph to map, as one graph.

        See `ebmlib.export.export_detector`, which has the same arguments.

        Args:
            path: of the file, `.onnx` or `.pt2`.
            photo_size: of the photographs that the graph takes; None: `image_size`.
            batch: how many it takes at once.

        Raises:
            ExportError: the chain is no list of tensor operations.
            ModuleNotFoundError, ValueError: see `ebmlib.export.export_detector`.
        """
        from ebmlib.export import export_detector  # its imports take seconds

        return export_detector(self, path, photo_size=photo_size, batch=batch)

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "auto"
    ) -> EnergyDetector:
        """Read a file written by `save`; anything else is refused.

        Only tensors and JSON are read, so loading a file cannot run code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a detector, or of another format version.
        """
        tensors, header = read_checkpoint(path, FORMAT)
        version = header.get("format_version") if isinstance(header, dict) else None
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            way_out = "Update ebmlib" if newer else "Fit the detector anew"
            raise CheckpointError(
                f"{path} has detector format {version!r}; this version of ebmlib reads "
                f"format {FORMAT_VERSION}. {way_out}."
            )
        device = choose_device(device)
        try:
            return cls._from(tensors, header, device)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} holds no whole detector: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _from(cls, tensors: dict, header: dict, device: torch.device) -> EnergyDetector:
        made = header["recipe"]
        options = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in made["options"].items()
        }
        params = {**header["params"], "recipe": RECIPES[made["name"]](**options)}
        if isinstance(params["image_size"], list):
            params["image_size"] = tuple(params["image_size"])
        detector = cls(**params | {"device": str(device)})
        pipeline = Pipeline.restore(tensors, header, device)
        scores = tensors["calibration.scores"]
        limits = float(header["threshold"]), float(header["pixel_threshold"])
        held_out = tensors.get("calibration.held_out")
        bits = header["bits"]
        recipe = params["recipe"]
        detector._take(recipe, pipeline, (*limits, scores), held_out, None, bits)
        return detector

    # -------------------------------------------------------------------- details

    def _check_arguments(self) -> Recipe:
        """The recipe that the arguments name; they are refused if any is wrong."""
        recipe = make_recipe(self.recipe)
        check_size(self.image_size)
        choose_device(self.device)
        for name, known in (
            ("score", (None, *SCORES)),
            ("map", (None, *MAPS)),
            ("standardize", (None, "position", "global")),
            ("pixel_guarantee", GUARANTEES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {known}, got {getattr(self, name)!r}"
                )
        if self.map not in (None, *recipe.maps):
            raise ValueError(
                f"the recipe {recipe.name!r} has maps {recipe.maps}, not {self.map!r}: "
                "its energy has no patches"
            )
        check_bits(self.bits)
        exact_rate(self.false_alarm_rate)
        if not 0 < self.holdout < 1:
            raise ValueError(
                f"holdout must lie strictly between 0 and 1, got {self.holdout}"
            )
        if self.smoothing is not None and not 0 <= self.smoothing < math.inf:
            raise ValueError(f"smoothing must be at least 0 px, got {self.smoothing}")
        whole = isinstance(self.seed, Integral) and not isinstance(self.seed, bool)
        if not whole or not 0 <= self.seed < 2**63:
            raise ValueError(
                f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}"
            )
        self._new_view(recipe)  # refuses its own arguments
        return recipe

    def _new_view(self, recipe: Recipe) -> View:
        most = recipe.max_pixels if self.max_pixels is None else self.max_pixels
        return View(
            aligned=self.aligned,
            register=recipe.register if self.register is None else self.register,
            normalize_exposure=self.normalize_exposure,
            max_pixels=most,
            tile=self.tile,
            double_below=min(recipe.double_below, most // 4),
        )

    def _split(self, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images to fit, images for the thresholds, and the indices of these."""
        if len(normals) < 4:
            raise ValueError(
                f"fit needs at least 4 normal images, got {len(normals)}: some train "
                "the energy, the others set the threshold"
            )
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(normals), generator=generator)
        promise = math.ceil(1 / exact_rate(self.false_alarm_rate)) - 1
        kept = max(round(self.holdout * len(normals)), promise, 2)
        kept = min(kept, len(normals) // 2)
        return normals[order[kept:]], normals[order[:kept]], order[:kept]

    def _source(
        self,
        images: Images,
        pipeline: Pipeline,
        batch_size: int = AT_ONCE,
        on_error: str = "raise",
    ) -> ImageStream:
        return ImageStream(
            images,
            size=self.image_size,
            channels=pipeline.channels,
            bits=getattr(self, "bits_", self.bits),
            batch_size=batch_size,
            on_error=on_error,
        )

    def _looks(self, images: Images, gradient: bool = False) -> Iterator[Look]:
        self.check_fitted()
        for batch in self._source(images, self.pipeline_):
            yield self.pipeline_(batch.images, gradient=gradient)

    def _verdicts(
        self, batch: ImageBatch, skipped: list[tuple[str, str]]
    ) -> Prediction:
        look = self.pipeline_(batch.images)
        scores = look.scores[self.score_]
        return Prediction(
            scores > self.threshold_,
            scores,
            conformal_p_values(scores, self.calibration_scores_),
            look.maps,
            look.maps > self.pixel_threshold_,
            batch.names,
            batch.sizes,
            skipped,
        )

    def _thresholds(
        self, pipeline: Pipeline, normals: Images, kind: str
    ) -> tuple[float, float, Tensor]:
        """Image threshold, pixel threshold and scores of normal images."""
        looks = [pipeline(batch.images) for batch in self._source(normals, pipeline)]
        scores = torch.cat([look.scores[kind] for look in looks])
        maps = torch.cat([look.maps for look in looks])
        rate = self.false_alarm_rate
        with warnings.catch_warnings():  # one warning of too few images is enough
            threshold = conformal_threshold(scores, rate)
            warnings.simplefilter("ignore")
            return threshold, pixel_threshold(maps, rate, self.pixel_guarantee), scores

    def _take(
        self,
        recipe: Recipe,
        pipeline: Pipeline,
        thresholds: tuple[float, float, Tensor],
        held_out: Tensor | None,
        run: TrainingLog | None,
        bits: int | None,
    ) -> None:
        """Become what was fitted; nothing before this call changes the detector."""
        threshold, pixel_limit, scores = thresholds
        self._set_fitted(
            recipe_=recipe,
            score_=self.score or recipe.score,
            pipeline_=pipeline,
            energy_=pipeline.energy,
            threshold_=threshold,
            pixel_threshold_=pixel_limit,
            calibration_scores_=scores,
            held_out_=held_out,
            log_=run,
            bits_=bits,
        )


def _check_options(training: dict[str, Any]) -> None:
    """Refuse options of `fit` that `train` does not have."""
    if "steps" in training:
        raise ValueError(
            "steps belong to the recipe: EnergyDetector(Experts(steps="
            f"{training['steps']!r})), not fit(steps=...)"
        )
    known = set(inspect.signature(train).parameters) - {"energy", "images", "objective"}
    for name in training.keys() - known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"fit has no option {name!r}{hint}")
