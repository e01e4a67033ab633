"""Rotate parts to a canonical pose, so that their position counts (chapter 12).

An energy that depends on the position can be much more specific than one that must
accept every part of the product everywhere. `choose_layout` finds from the *training*
images alone which of three cases a product is:

- it always lies in the same place (a bottle seen from above): nothing to do here, and
  `ebmlib.view.registration` takes out the last few pixels;
- it lies in any direction on a uniform ground (a screw): rotate each image by the
  direction of the part itself and cut out a `PartFrame`, in which all parts lie alike;
- it has no place (a cloth, a part without a direction): position cannot be used.

The measure is the share of the pixels' variance that their position explains,

    R^2 = 1 - mean_p Var_n(x_np) / Var(x),

with pixel p of the n-th training image; each image is averaged down to 32 px, so that
small movements do not count, then freed of brightness that varies slowly (or shared
illumination would count as a shared position), and scaled to variance 1. It is 1 if all
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

from ebmlib.view.chunks import CHUNK, by_chunks, mean_by_chunks
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
        frame: how to rotate a part to its canonical pose, or None to leave the images
            as they are.
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
    at least 1.5 times as long as wide, on a uniform ground.

    Raises:
        ValueError: as `explained_by_position`.
    """
    as_is = explained_by_position(images)
    if as_is >= EXPLAINED:
        return Layout(True, None, as_is, None)
    found = _parts(images)
    plain = np.median([part.plain for part in found])
    elongation = np.median([part.elongation for part in found])
    if plain < PLAIN or elongation < ELONGATED:
        return Layout(False, None, as_is, None)
    frame = PartFrame._of(images, found)
    poses = by_chunks(frame._way_round, images, _poses(found, images))
    in_frame = _explained(by_chunks(lambda *a: _coarse(frame.align(*a)), images, poses))
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
    return _explained(by_chunks(_coarse, images))


def _coarse(images: Tensor) -> Tensor:
    """Images averaged down to 32 px, without shading."""
    scale = max(1.0, min(images.shape[-2:]) / COARSE)
    size = [round(side / scale) for side in images.shape[-2:]]
    return without_shading(F.interpolate(images, size, mode="area"))


def _explained(x: Tensor) -> float:
    x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    within = x.var(0).mean()  # unbiased: a mean of unrelated images explains nothing
    return float(1 - within / x.var().clamp_min(1e-12))


def without_shading(images: Tensor) -> Tensor:
    """Images minus the best quadratic surface of position, per channel: `(N, C, H, W)`.

    What is left has the mean 0 and no slope. The surface is 1, x, y, x^2, x y, y^2 in
    the least squares sense: light from one side, or corners that a lens darkens.
    """
    sides = (torch.linspace(-1, 1, n, dtype=images.dtype) for n in images.shape[-2:])
    down, right = torch.meshgrid(*sides, indexing="ij")
    terms = torch.ones_like(down), right, down, right**2, right * down, down**2
    basis = torch.linalg.qr(torch.stack(terms, -1).flatten(0, 1))[0]  # (H W, 6)
    flat, basis = images.flatten(2), basis.to(images.device)
    return (flat - flat @ basis @ basis.T).view_as(images)


class PartFrame(Frame):
    """A rectangle that moves and turns with the part: all parts lie alike in it.

    The part is the largest region that differs from the ground, whose color is the
    median of the image's border (threshold: Otsu 1979). Its direction is the axis of
    its second moments, its place the center of its box along that axis. Of the two ways
    round, the one is taken that correlates better with `template`, the mean gray image
    of the training parts.

    What lies outside the rectangle is not seen. Connected regions and moments are found
    on the CPU, at 128 px of the shorter side; all else runs where the images lie.

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
        return cls._of(images, _parts(images), margin)

    @classmethod
    def _of(cls, images: Tensor, parts: list[_Part], margin: float = 0.08) -> PartFrame:
        long = np.quantile([part.length for part in parts], 0.98)
        wide = np.quantile([part.width for part in parts], 0.98)
        sides = (wide + margin * long, long + margin * long)  # a margin of equal width
        height, width = (16 * max(1, math.ceil(side / 16)) for side in sides)
        frame = cls(images.new_zeros(height, width))
        poses = _poses(parts, images)
        for _ in range(3):  # agree on the way round, starting from the thick end
            frame = cls(mean_by_chunks(frame._gray, images, poses))
            poses = by_chunks(frame._way_round, images, poses)
        return frame

    def pose(self, images: Tensor) -> Tensor:
        """Where the parts lie: `(N, 3)`, center (x, y) in px and angle in radians.

        The center of an image without a part is its middle.
        """
        poses = _poses(_parts(images), images)
        return by_chunks(self._way_round, images, poses)

    def _way_round(self, images: Tensor, poses: Tensor) -> Tensor:
        turned = poses.clone()
        turned[:, 2] += math.pi
        gray = images.mean(1, keepdim=True)
        fits = [self._likeness(gray, p) for p in (poses, turned)]
        return torch.where((fits[0] >= fits[1])[:, None], poses, turned)

    def _likeness(self, gray: Tensor, poses: Tensor) -> Tensor:
        """Correlation of what the frame holds with the template, `(N,)`."""
        gray = self.align(gray, poses).flatten(1)  # (N, h w)
        gray = gray - gray.mean(1, keepdim=True)
        template = self.template.to(gray).flatten()
        template = template - template.mean()
        return (gray * template).sum(1) / gray.norm(dim=1).clamp_min(1e-6)

    def _gray(self, images: Tensor, poses: Tensor) -> Tensor:
        return self.align(images.mean(1, keepdim=True), poses)[:, 0]


@dataclass(frozen=True)
class _Part:
    pose: tuple[float, float, float]  # center x, y in px, angle
    length: float  # px, along the axis
    width: float
    elongation: float  # standard deviation along the axis over that across
    plain: float  # share of the border that looks like ground


def _poses(parts: list[_Part], like: Tensor) -> Tensor:
    """The poses of parts, `(N, 3)`, on the device of `like`."""
    return torch.tensor([part.pose for part in parts], dtype=torch.float32).to(like)


def _parts(images: Tensor) -> list[_Part]:
    """The largest thing on the ground of each of the images `(N, C, H, W)`."""
    height, width = images.shape[-2:]
    step = max(1, min(height, width) // FINE)
    edge = max(2, min(height // step, width // step) // 32)
    found = []
    for x in images.split(CHUNK):
        x = F.avg_pool2d(x, step) if step > 1 else x
        border = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
        border[edge:-edge, edge:-edge] = False
        ground = x[:, :, border].median(2).values  # (N, C)
        distance = (x - ground[:, :, None, None]).abs_().amax(1)  # (N, h, w)
        outer = border.cpu().numpy()
        for far in distance.cpu().numpy():
            limit = _otsu(far)
            plain = float((far[outer] <= limit).mean())
            found.append(_part(_largest(far > limit), plain, step, (height, width)))
    return found


def _part(mask: np.ndarray, plain: float, step: int, size: tuple[int, int]) -> _Part:
    """The part whose pixels, of `step` px each, are True in `mask`."""
    height, width = size
    y, x = (step * (i + 0.5) - 0.5 for i in np.nonzero(mask))  # in px of the image
    if len(x) < 8:  # nothing there: the frame looks at the middle
        center = ((width - 1) / 2, (height - 1) / 2, 0.0)
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
        (float(center[0]), float(center[1]), angle),
        length=float(np.ptp(along)) + step,
        width=float(np.ptp(across)) + step,
        elongation=math.sqrt(spread[1] / max(spread[0], 1e-9)),
        plain=plain,
    )


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected region of a mask `(H, W)`, its holes filled."""
    filled = ndimage.binary_fill_holes(mask)
    labels, count = ndimage.label(filled)
    if count == 0:
        return filled
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()


def _otsu(values: np.ndarray) -> float:
    """The threshold that separates two classes best (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    middle = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    gap = mass[-1] * below / below[-1] - mass
    between = gap**2 / np.maximum(below * above, 1)
    return float(edges[1 + between.argmax()])
