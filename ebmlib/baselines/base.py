"""What all baselines share: the contract, the input and its checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ebmlib.data.images import Images, batches, check_contrast, images_to_tensor
from ebmlib.data.resizing import Size, check_size
from ebmlib.estimator import Estimator
from ebmlib.scoring import image_score

BATCH = 16  # images that are scored at once


class Baseline(Estimator, ABC):
    """A detector by a rule that is simple to state; see `ebmlib.estimator`.

    A subclass defines `_learn`, `_maps` and, where the score is not the maximum of the
    map, `_scores`. All of them see float32 images (N, C, H, W) in [0, 1] of one shape.

    Attributes:
        label: what the method is, in tables.
        least: how many images `fit` needs.
        image_size: side in px, or `(height, width)`, that all images are resized to;
            None keeps their sizes, which must then be equal.
        shape_: (C, H, W) of the images that `fit` saw.
    """

    label: ClassVar[str]
    least: ClassVar[int] = 2
    image_size: Size | None
    shape_: tuple[int, int, int]

    def fit(self, images: Images) -> Self:
        """The baseline itself, fitted on normal images; an earlier fit is replaced.

        Raises:
            ValueError: too few images, images without contrast, or images that cannot
                be read, see `ebmlib.data.images`. The baseline is then as it was.
        """
        x = images_to_tensor(images, size=self.image_size)
        if len(x) < self.least:
            raise ValueError(f"need at least {self.least} images, got {len(x)}")
        check_contrast(x)
        _, channels, height, width = x.shape
        found = self._learn(x)
        self._set_fitted(shape_=(channels, height, width), **found)
        return self

    def anomaly_map(self, images: Images) -> Tensor:
        """(N, H, W): one number per pixel, higher for more anomalous."""
        return torch.cat([self._maps(x) for x in self._batches(images)])

    def anomaly_score(self, images: Images) -> Tensor:
        """(N,): one number per image, higher for more anomalous."""
        return torch.cat([self._scores(x) for x in self._batches(images)])

    @abstractmethod
    def _learn(self, images: Tensor) -> dict[str, Any]:
        """The fitted attributes, by names that end in `_`; nothing is stored here."""

    @abstractmethod
    def _maps(self, x: Tensor) -> Tensor:
        """The anomaly maps of a batch, (B, H, W)."""

    def _scores(self, x: Tensor) -> Tensor:
        """The anomaly scores of a batch, (B,)."""
        return image_score(self._maps(x), "max")

    def _batches(self, images: Images) -> Iterator[Tensor]:
        """The images as `fit` saw its own, a batch at a time.

        Raises:
            NotFittedError: before `fit`.
            ValueError: images of another size, or as `ebmlib.data.images`.
        """
        self.check_fitted()
        shape, size = self.shape_, self.image_size
        channels = shape[0] if shape[0] in (1, 3) else None  # gray and RGB convert
        for x in batches(images, size=size, channels=channels, batch_size=BATCH):
            if tuple(x.shape[1:]) != shape:
                raise ValueError(
                    f"fitted on images (C, H, W) = {shape}, got {tuple(x.shape[1:])}; "
                    "use one size, or set image_size"
                )
            yield x


def check_options(
    image_size: Size | None = None,
    smoothing: float | None = None,
    **counts: object,
) -> None:
    """Refuse values that no baseline accepts.

    Args:
        image_size: as in `Baseline`.
        smoothing: width of a Gaussian filter in px; None for the default.
        **counts: whole numbers >= 1, by name.

    Raises:
        TypeError, ValueError: which says what is wrong.
    """
    if image_size is not None:
        check_size(image_size)
    if smoothing is not None and not smoothing >= 0:
        raise ValueError(f"smoothing must be >= 0 pixels, got {smoothing}.")
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be >= 1, a whole number, got {count!r}.")


def smoothing_width(smoothing: float | None, shape: tuple[int, ...]) -> float:
    """The width in pixels; by default 1/32 of the shorter side of (..., H, W)."""
    return min(shape[-2:]) / 32 if smoothing is None else smoothing
