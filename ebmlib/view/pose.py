"""Lay parts straight, so that their position in the image says something (chapter 12).

An energy that knows where it looks is much sharper than one that must accept every part
of the product everywhere. `choose_layout` reads from the *training* images alone which
of three cases a product is:

- it always lies in the same place (a bottle seen from above): nothing to do here, and
  `ebmlib.view.registration` takes out the last few pixels;
- it lies in any direction on an even ground (a screw): turn each image by the direction
  of the part itself and cut out a `PartFrame`, in which the part always lies alike;
- it has no place (a cloth, a part without a direction): position cannot be used.

The measure is the share of the pixels' variance that their position explains,

    R^2 = 1 - mean_p Var_n(x_np) / Var(x),

with pixel p of the n-th training image; each image is averaged down to 32 px, so that
small movements do not count, then freed of light that rises or falls slowly (or a
shared lamp would pass for a shared place), and scaled to variance 1. It is 1 if all
images are equal and 0 if positions say nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ebmlib.view.frame import Frame

COARSE = 32  # px of the shorter side at which R^2 is taken
EXPLAINED = 0.5  # R^2 above which position counts as informative
ELONGATED = 1.5  # ratio of a part's length to its width that defines a direction
PLAIN = 0.9  # share of the border that must look like ground
FINE = 128  # px of the shorter side at which a part is found; more does not help


@dataclass(frozen=True)
class Layout:
    """How a product lies: what `choose_layout` found in its training images.

    Attributes:
        aligned: position carries information, in the frame if there is one.
        frame: how to lay a part straight, or None to leave the images as they are.
        explained: R^2 of the images as they are.
        explained_in_frame: R^2 in the frame; None if no frame was tried.
    """

    aligned: bool
    frame: PartFrame | None
    explained: float
    explained_in_frame: float | None


def choose_layout(images: Tensor) -> Layout:
    """Decide from normal training images `(N, C, H, W)` how the product lies.

    Position counts as informative from R^2 = 0.5. A frame is used only where position
    alone falls short of that and the frame does not, and where every second part is
    at least 1.5 times as long as wide, on an even ground.
    """
    as_is = explained_by_position(images)
    if as_is >= EXPLAINED:
        return Layout(True, None, as_is, None)
    found = [_part(image) for image in images]
    plain = np.median([part.plain for part in found])
    elongation = np.median([part.elongation for part in found])
    if plain < PLAIN or elongation < ELONGATED:
        return Layout(False, None, as_is, None)
    frame = PartFrame._of(images, found)
    poses = frame._way_round(images, torch.stack([part.pose for part in found]))
    in_frame = explained_by_position(frame.straighten(images, poses))
    if in_frame < EXPLAINED:
        return Layout(False, None, as_is, in_frame)
    return Layout(True, frame, as_is, in_frame)


def explained_by_position(images: Tensor) -> float:
    """R^2 of `(N, C, H, W)`, see the module; at most 1, and 0 for unrelated images.

    Raises:
        ValueError: fewer than two images, or not of shape `(N, C, H, W)`.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(
            f"need at least two images (N, C, H, W), got {tuple(images.shape)}"
        )
    scale = max(1.0, min(images.shape[-2:]) / COARSE)
    size = [round(side / scale) for side in images.shape[-2:]]
    x = F.interpolate(images, size, mode="area")
    x = without_shading(x)
    x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    within = x.var(0).mean()  # unbiased: a mean of unrelated images explains nothing
    return float(1 - within / x.var().clamp_min(1e-12))


def without_shading(images: Tensor) -> Tensor:
    """Less the best quadratic surface of position, in each channel: `(N, C, H, W)`.

    What is left has the mean 0 and no slope. The surface is 1, x, y, x^2, x y, y^2 in
    the least squares sense: a lamp from the side, or corners that a lens darkens.
    """
    down, right = (torch.linspace(-1, 1, n).to(images) for n in images.shape[-2:])
    down, right = torch.meshgrid(down, right, indexing="ij")
    terms = torch.ones_like(down), right, down, right**2, right * down, down**2
    basis = torch.linalg.qr(torch.stack(terms, -1).flatten(0, 1))[0]  # (H W, 6)
    flat = images.flatten(2)
    return (flat - flat @ basis @ basis.T).view_as(images)


class PartFrame(Frame):
    """A rectangle that moves with the part: the part always lies alike in it.

    The part is the largest region that differs from the ground, whose color is the
    median of the image's border (threshold: Otsu 1979). Its direction is the axis of
    its second moments, its place the center of its box along that axis. Of the two ways
    round, the one is taken that correlates better with `template`, the mean gray image
    of the training parts.

    What lies outside the rectangle is not seen.

    Args:
        template: `(h, w)` gray values of the mean part.
    """

    @classmethod
    def fit(cls, images: Tensor, margin: float = 0.08) -> PartFrame:
        """Size and template from normal images `(N, C, H, W)`.

        Length and width each hold 98 % of the parts, and `margin` of the length in
        all, half of it on each side, is left around them; its sides are multiples of
        16 px, as the networks need.
        """
        return cls._of(images, [_part(image) for image in images], margin)

    @classmethod
    def _of(cls, images: Tensor, parts: list[_Part], margin: float = 0.08) -> PartFrame:
        long = np.quantile([part.length for part in parts], 0.98)
        wide = np.quantile([part.width for part in parts], 0.98)
        sides = (wide + margin * long, long + margin * long)  # a margin of equal width
        height, width = (16 * math.ceil(side / 16) for side in sides)
        frame = cls(torch.zeros(height, width))
        poses = torch.stack([part.pose for part in parts])
        for _ in range(3):  # agree on the way round, starting from the thick end
            gray = frame.straighten(images, poses).mean(1)  # (N, h, w)
            frame = cls(gray.mean(0))
            poses = frame._way_round(images, poses)
        return frame

    def pose(self, images: Tensor) -> Tensor:
        """Where the parts lie: `(N, 3)`, center (x, y) in px and angle in radians."""
        poses = torch.stack([_part(image).pose for image in images.cpu()])
        return self._way_round(images.cpu(), poses)

    def _way_round(self, images: Tensor, poses: Tensor) -> Tensor:
        turned = poses + torch.tensor([0.0, 0.0, math.pi])
        fits = [self._likeness(images, p) for p in (poses, turned)]
        return torch.where((fits[0] >= fits[1])[:, None], poses, turned)

    def _likeness(self, images: Tensor, poses: Tensor) -> Tensor:
        """Correlation of each straightened image with the template, `(N,)`."""
        gray = self.straighten(images, poses).mean(1).flatten(1)  # (N, h w)
        gray = gray - gray.mean(1, keepdim=True)
        wanted = self.template.flatten() - self.template.mean()
        return gray @ wanted / gray.norm(dim=1).clamp_min(1e-6)


@dataclass(frozen=True)
class _Part:
    pose: Tensor  # (3,): center x, y in px, angle
    length: float  # px, along the axis
    width: float
    elongation: float  # standard deviation along the axis over that across
    plain: float  # share of the border that looks like ground


def _part(image: Tensor) -> _Part:
    """The largest thing on the ground of one image `(C, H, W)`."""
    height, width = image.shape[-2:]
    step = max(1, min(height, width) // FINE)
    mask, plain = _largest_part(F.avg_pool2d(image, step) if step > 1 else image)
    y, x = (step * (i + 0.5) - 0.5 for i in np.nonzero(mask))  # in px of the image
    if len(x) < 8:  # nothing there: the frame looks at the middle
        center = torch.tensor([(width - 1) / 2, (height - 1) / 2, 0.0])
        return _Part(center, 0.0, 0.0, 1.0, plain)
    points = np.stack([x, y], axis=1).astype(np.float64)
    middle = points.mean(0)
    spread, axes = np.linalg.eigh(np.cov((points - middle).T))
    axis = axes[:, 1]
    along = (points - middle) @ axis
    if (along**3).mean() < 0:  # a long thin end points forward
        axis, along = -axis, -along
    normal = np.array([-axis[1], axis[0]])
    across = (points - middle) @ normal
    center = middle + (along.max() + along.min()) / 2 * axis
    center = center + (across.max() + across.min()) / 2 * normal
    angle = math.atan2(axis[1], axis[0])
    return _Part(
        torch.tensor([*center, angle], dtype=torch.float32),
        length=float(np.ptp(along)) + step,
        width=float(np.ptp(across)) + step,
        elongation=math.sqrt(spread[1] / max(spread[0], 1e-9)),
        plain=plain,
    )


def _largest_part(image: Tensor) -> tuple[np.ndarray, float]:
    """Mask `(H, W)` of the part, and the share of the border that is ground."""
    edge = max(2, min(image.shape[-2:]) // 32)
    inner = torch.ones(image.shape[-2:], dtype=torch.bool)
    inner[edge:-edge, edge:-edge] = False
    ground = image[:, inner].median(1).values  # (C,)
    distance = (image - ground[:, None, None]).abs().amax(0).numpy()  # (H, W)
    limit = _otsu(distance)
    mask = ndimage.binary_fill_holes(distance > limit)
    labels, count = ndimage.label(mask)
    if count:
        mask = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return mask, float((distance[inner.numpy()] <= limit).mean())


def _otsu(values: np.ndarray) -> float:
    """The threshold that separates two classes best (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    middle = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    gap = mass[-1] * below / below[-1] - mass
    between = gap**2 / np.maximum(below * above, 1)
    return float(edges[1 + between.argmax()])
