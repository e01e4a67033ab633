"""The mean gray level of an image: the baseline that exposes a shortcut (chapter 1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebmlib.baselines.base import Baseline, check_options
from ebmlib.data.resizing import Size


class MeanBrightness(Baseline):
    """The mean gray level of an image, and nothing else: exposes a shortcut.

        score(x) = mean_{c,i} x_ci                          (two_sided=False)
        score(x) = |mean x - m| / s                         (two_sided=True)

    m and s are mean and standard deviation of the mean gray level over the training
    images. The raw form has no right sign: an AUROC near 0 betrays a shortcut as
    much as one near 1, so do not flip it by looking at the test set. The two-sided
    form is an honest detector of unusual exposure. The map is the gray level of each
    pixel (raw), or its distance from m in units of s (two-sided), unsmoothed.

    Args:
        two_sided: score the distance from the training images instead.
        min_std: least value of s in gray levels; without it, training images of one
            exposure would make every rounding error of the mean a large score.
        image_size: as in `Baseline`.

    Attributes:
        mean_, std_: m and s.
    """

    label = "mean brightness"
    mean_: Tensor
    std_: Tensor

    def __init__(
        self,
        two_sided: bool = False,
        min_std: float = 1e-3,
        image_size: Size | None = None,
    ):
        check_options(image_size)
        if not min_std > 0:
            raise ValueError(f"min_std must be > 0 (gray levels), got {min_std}.")
        self.two_sided, self.min_std, self.image_size = two_sided, min_std, image_size

    def _learn(self, images: Tensor) -> dict[str, Any]:
        levels = images.mean((1, 2, 3))  # (N,)
        return {"mean_": levels.mean(), "std_": levels.std().clamp_min(self.min_std)}

    def _scores(self, x: Tensor) -> Tensor:
        return self._scored(x.mean((1, 2, 3)))

    def _maps(self, x: Tensor) -> Tensor:
        return self._scored(x.mean(1))

    def _scored(self, levels: Tensor) -> Tensor:
        return (levels - self.mean_).abs() / self.std_ if self.two_sided else levels
