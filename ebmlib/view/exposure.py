"""Bring images to one exposure, so that light is not taken for a defect (chapter 11).

The brightness of a photograph depends on the illumination more than on the part. On
MVTec's screw the mean gray level alone separates the defective test images from the
normal ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmlib.view.chunks import by_chunks, mean_by_chunks
from ebmlib.view.robust import cauchy_weights, weighted_sums

LEAST_CONTRAST = 0.01  # below this standard deviation there is only sensor noise
ROUNDS = 6  # of weights and of a and b in turn
LATTICE = 64  # rows and columns, about, from which a and b are found


@dataclass(frozen=True)
class Exposure:
    """Callable `images -> images`: shift and scale each to one mean and one contrast.

        x' = mean + std (x - m(x)) / s(x), clipped to [0, 1]

    m and s are the mean and the standard deviation over all pixels and channels of an
    image together, so its hue stays. Then (a x + b)' = x' for every a > 0 and b, as
    long as nothing is clipped: whatever is computed from x' ignores the exposure.
    s is at least 0.01, so an image without contrast becomes uniform.

    Attributes:
        mean: mean gray level after the change, in [0, 1].
        std: standard deviation of the gray level after the change, positive.
    """

    mean: float
    std: float

    @classmethod
    def fit(cls, images: Tensor) -> Exposure:
        """The mean of m, and of s, over training images `(N, C, H, W)`."""
        found = by_chunks(_mean_and_std, images).mean(0)
        return cls(*found.tolist())

    def __call__(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` at this exposure."""
        return by_chunks(self._exposed, images)

    def _exposed(self, images: Tensor) -> Tensor:
        m, s = _mean_and_std(images)[:, :, None, None, None].unbind(1)
        scale = self.std / s.clamp_min(LEAST_CONTRAST)
        return torch.addcmul(self.mean - scale * m, scale, images).clamp_(0, 1)


class MatchedExposure:
    """Callable `images -> images`: shift and scale each until it fits the mean part.

        x' = a x + b, clipped to [0, 1],
        a  = std_w(T) / std_w(x),   b = mean_w(T) - a mean_w(x),
        w  = 1 / (1 + (e / 2 m)^2),   e = a x + b - T

    T is the mean part, m the median of |e|. The weights w and the pair a, b are
    computed in turn, starting from `Exposure`; of a larger image about 64 rows and 64
    columns are used. A large dark defect changes the mean and the contrast of the whole
    image, so that `Exposure` changes the normal rest of the part. Here pixels that
    differ from the mean part have little influence on a and b. For parts that always
    lie in the same place; the invariance of `Exposure` holds too.

    Args:
        template: `(C, h, w)`, T.

    Raises:
        ValueError: the template is not a float tensor of three axes.
    """

    def __init__(self, template: Tensor):
        if template.ndim != 3 or not template.is_floating_point():
            raise ValueError(
                "template must be a float tensor (C, h, w), got "
                f"{tuple(template.shape)}"
            )
        self.template = template

    def __repr__(self) -> str:
        """The kind and size of the template."""
        c, h, w = self.template.shape
        return f"MatchedExposure(template of {c} x {h} x {w})"

    @classmethod
    def fit(cls, images: Tensor) -> MatchedExposure:
        """The mean of training images `(N, C, h, w)`, all brought to one exposure."""
        return cls(mean_by_chunks(Exposure.fit(images), images))

    def __call__(self, images: Tensor) -> Tensor:
        """Images `(N, C, h, w)` at the exposure of the mean part.

        Raises:
            ValueError: the images are not of the template's shape.
        """
        if images.shape[1:] != self.template.shape:
            raise ValueError(
                f"the mean part is {tuple(self.template.shape)}, got images of "
                f"{tuple(images.shape[1:])}"
            )
        return by_chunks(self._matched, images)

    def _matched(self, images: Tensor) -> Tensor:
        scale, shift = (v[:, :, None, None] for v in self._factors(images))
        return torch.addcmul(shift, scale, images).clamp_(0, 1)

    def _factors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The factor a and the offset b of each image: `(N, 1)` each."""
        images = images.detach()
        every = max(1, round(math.sqrt(math.prod(images.shape[-2:])) / LATTICE))
        x = images[:, :, ::every, ::every].flatten(1)  # (N, P)
        target = self.template.to(images)[:, ::every, ::every].flatten()  # (P,)
        m, s = _mean_and_std(x)[:, :, None].unbind(1)
        center, spread = _mean_and_std(target[None])[0].clamp_min(1e-6)
        z = (x - m) / s.clamp_min(LEAST_CONTRAST)
        t = (target - center) / spread
        terms = torch.stack([torch.ones_like(t), t, t * t])
        scale, shift = torch.ones_like(m), torch.zeros_like(m)  # of z, to fit t
        for _ in range(ROUNDS):
            weight = cauchy_weights(torch.addcmul(shift - t, scale, z), 2.0)
            total, of_t, of_tt = weighted_sums(weight, terms)[:, :, None].unbind(1)
            weight *= z
            of_z = weight.sum(1, keepdim=True) / total
            weight *= z
            var_z = weight.sum(1, keepdim=True) / total - of_z**2
            var_t = of_tt / total - (of_t / total) ** 2
            scale = var_t.clamp_min(0).sqrt() / torch.maximum(
                var_z.clamp_min(0).sqrt(), LEAST_CONTRAST / s.clamp_min(LEAST_CONTRAST)
            )
            shift = of_t / total - scale * of_z
        scale = spread * scale / s.clamp_min(LEAST_CONTRAST)
        return scale, center + spread * shift - scale * m


def _mean_and_std(images: Tensor) -> Tensor:
    """Mean and standard deviation of each image over everything: `(N, 2)`."""
    flat = images.flatten(1)
    mean = flat.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(flat - mean, dim=1, keepdim=True)
    return torch.cat([mean, norm / math.sqrt(flat.shape[1])], dim=1)
