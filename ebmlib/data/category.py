"""One data set of anomaly detection: normal images to learn from, labeled ones to test.

Chapter 1 explains the parts. Every source of data in `ebmlib.data`, drawn or
photographed, hands out this one class, so a chapter never asks where images come from.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Category:
    """Images of one kind of object, split as in MVTec AD.

    Attributes:
        name: Where the images come from, such as "synthetic/nut", "elpv/mono" or
            "mvtec/bottle".
        train: Normal images only, float32 (N, C, H, W) in [0, 1].
        test: Normal and defective images, float32 (M, C, H, W) in [0, 1].
        labels: bool (M,), True = defective.
        masks: bool (M, H, W), True = defective pixel; all False for a normal image,
            and for every image where nobody has drawn masks, see `has_masks`.
        kinds: M names: "good" for a normal image, else the kind of defect.
        notes: What was lost on the way or may not be meant, in words: defect regions
            too small for the chosen image size, images that lie where none is read or
            are left out, a folder of defects that is called "ok". Empty when there is
            nothing to say.

    Raises:
        ValueError: A shape, a type or a label contradicts the others.
    """

    name: str
    train: Tensor
    test: Tensor
    labels: Tensor
    masks: Tensor
    kinds: list[str]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, images in (("train", self.train), ("test", self.test)):
            if images.ndim != 4 or images.dtype != torch.float32:
                raise ValueError(
                    f"Category.{field} must be float32 (N, C, H, W); "
                    f"got {images.dtype} {tuple(images.shape)}"
                )
        if self.train.shape[1:] != self.test.shape[1:]:
            raise ValueError(
                f"training images are {tuple(self.train.shape[1:])} and test images "
                f"{tuple(self.test.shape[1:])}; read both at one size and channel count"
            )
        count, _, height, width = self.test.shape
        for field, value, shape in (
            ("labels", self.labels, (count,)),
            ("masks", self.masks, (count, height, width)),
        ):
            if value.dtype != torch.bool or tuple(value.shape) != shape:
                raise ValueError(
                    f"Category.{field} must be bool {shape}; "
                    f"got {value.dtype} {tuple(value.shape)}"
                )
        if len(self.kinds) != count:
            raise ValueError(f"{count} test images but {len(self.kinds)} kinds")
        self._check_labels()

    def _check_labels(self) -> None:
        marked = self.masks.flatten(1).any(1)
        for index, kind in enumerate(self.kinds):
            defective = bool(self.labels[index])
            if defective == (kind == "good"):
                raise ValueError(
                    f"test image {index} is of kind {kind!r} but labeled {defective}"
                )
            if marked[index] and not defective:
                raise ValueError(f"test image {index} is normal but has a defect mask")

    @property
    def has_masks(self) -> bool:
        """Whether any defect is marked: without, localization cannot be measured."""
        return bool(self.masks.any())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(self.kinds).items())
        shape = "x".join(map(str, self.image_shape))
        return (
            f"Category({self.name!r}, {shape}, {len(self.train)} train, "
            f"{len(self.test)} test: {counts})"
        )
