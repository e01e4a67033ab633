"""Does an object always lie in the same place? Asked of training images (chapter 12).

Position means something for a bottle under a fixed camera, and nothing for a cloth or
for a screw that may point in any direction. A detector that is told so may use the
position of a patch; one that is wrongly told so learns noise.
"""

import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # px: coarse enough that small movements do not count


def explained_by_position(images: Tensor) -> float:
    """Share of the variance within images that their mean image explains.

        R^2 = mean_i m_i^2 - (1 / (N (N - 1))) sum_n mean_i (x_ni - m_i)^2

    with every image first reduced to `SIDE` px and brought to mean 0 and variance 1,
    and m their mean image. The second term removes what a mean of N unrelated images
    would explain by chance. 1 for identical images, 0 on average for unrelated ones.

    Args:
        images: training images (N, C, H, W) in [0, 1], N >= 2.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(
            f"need at least two images (N, C, H, W), got {tuple(images.shape)}"
        )
    x = F.interpolate(images, (SIDE, SIDE), mode="area")
    x = x - x.mean((1, 2, 3), keepdim=True)
    x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    mean = x.mean(0)
    by_chance = (x - mean).square().mean() / (len(x) - 1)
    return float(mean.square().mean() - by_chance)


def is_aligned(images: Tensor) -> bool:
    """True if position explains more than half: `explained_by_position` > 0.5.

    Training images of the drawn nut: 0.82; weave: 0.00; bolt, at any angle: 0.28. Of
    MVTec AD, bottle: 0.99; screw: 0.32. The rule was written for the drawn categories.
    """
    return explained_by_position(images) > 0.5
