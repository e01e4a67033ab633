"""The mean gray level of an image: the baseline that exposes a shortcut (chapter 1)."""

import torch
from torch import Tensor

from ebmlib.baselines.checks import check_fitted, check_images


class MeanBrightness:
    """The mean gray level of an image, and nothing else: exposes a shortcut.

        score(x) = mean_{c,i} x_ci                          (two_sided=False)
        score(x) = |mean x - m| / s                         (two_sided=True)

    m and s are mean and standard deviation of the mean gray level over the training
    images. The raw form has no right sign: an AUROC near 0 betrays a shortcut as
    much as one near 1, so do not flip it by looking at the test set. The two-sided
    form is an honest detector of unusual exposure. The map is the gray level of each
    pixel (raw), or its distance from m in units of s (two-sided).

    Args:
        two_sided: score the distance from the training images instead.
    """

    label = "mean brightness"

    def __init__(self, two_sided: bool = False):
        self.two_sided = two_sided
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "MeanBrightness":
        """Remember how bright normal images (N, C, H, W) are; N >= 2."""
        check_images(images, at_least=2)
        levels = images.mean((1, 2, 3))  # (N,)
        self.mean, self.std = levels.mean(), levels.std().clamp_min(1e-6)
        self.shape = images.shape[1:]
        return self

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the mean gray level in [0, 1], or its distance in training stds."""
        check_fitted(self, images)
        return self._scored(images.mean((1, 2, 3)))

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): the same measure of every pixel, unsmoothed."""
        check_fitted(self, images)
        return self._scored(images.mean(1))

    def _scored(self, levels: Tensor) -> Tensor:
        return (levels - self.mean).abs() / self.std if self.two_sided else levels
