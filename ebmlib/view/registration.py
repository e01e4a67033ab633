"""Take small shifts out of parts that always lie in the same place (chapter 12).

A bottle that stands a pixel further left is no defect. But a Gaussian per position
finds every edge of it anomalous. Registration shifts all images to the place of the
mean part, so that only other differences between the parts remain.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ebmlib.smoothing import gaussian_smooth
from ebmlib.view.chunks import by_chunks, mean_by_chunks
from ebmlib.view.frame import Frame, count, sample
from ebmlib.view.geometry import block_mean
from ebmlib.view.robust import cauchy_weights, weighted_sums

COARSE = 128  # px of the shorter side at which shifts are found; more does not help
FURTHEST = 1 / 16  # of the shorter side: longest shift that is looked for
LEVELS = ((2.0, 4), (1.0, 2), (0.5, 1))  # blur in px, and the squares averaged first
SMALLEST = 32  # px of the shorter side that averaging leaves
ROUNDS = 4  # accelerated Gauss-Newton steps on each level
LEAST_CONTRAST = 1e-3  # a smaller standard deviation says nothing of the place


class Registration(Frame):
    """Shifts every image until it is most like the mean part.

        t(x) = argmin_t sum_p log(1 + e_p(t)^2 / (3 m)^2),   e_p(t) = x'(p + t) - T(p)

    x' is the gray image with mean 0 and standard deviation 1, T the mean of the shifted
    training images, m the median of |e_p|: a pixel with a large error, in a defect, has
    little influence. The minimum is found by Gauss-Newton steps on blurred images,
    coarse to fine (Lucas & Kanade, IJCAI 1981; Baker & Matthews, IJCV 56, 2004). Each
    step is extrapolated from the one before it (Anderson, J. ACM 12, 1965): 4 steps
    then come nearer to the minimum than 8 plain ones. The number of steps is fixed, so
    the shift of an image does not depend on the other images of its batch.

    No image is shifted further than the training images were: a part that lies further
    off than all normal ones stays visibly off. An image without contrast is not
    shifted.

    Args:
        template: `(H, W)`, T, of the size of the images.
        max_shift: longest shift in px along each axis, at least 0.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, template: Tensor, max_shift: float):
        super().__init__(template)
        if not max_shift >= 0:
            raise ValueError(f"max_shift must be >= 0 px, got {max_shift}")
        self.max_shift = float(max_shift)

    @classmethod
    def fit(cls, images: Tensor) -> Registration:
        """Mean part and longest shift from normal images `(N, C, H, W)`."""
        furthest = FURTHEST * min(images.shape[-2:])
        template = mean_by_chunks(lambda x: _standardize(x.mean(1))[0], images)
        for levels in range(1, len(LEVELS) + 1):  # the mean sharpens with the shifts
            frame = cls(template, furthest)
            shifts = by_chunks(partial(frame._shifts, levels=LEVELS[:levels]), images)
            shifts = shifts - shifts.mean(0)  # on average nothing moves
            template = mean_by_chunks(frame._moved, images, frame._poses(shifts))
        return cls(template, float(shifts.abs().max()))

    def pose(self, images: Tensor) -> Tensor:
        """Where the parts lie: `(N, 3)`, center (x, y) in px and the angle 0.

        Raises:
            ValueError: the images are not of the template's size.
        """
        if images.shape[-2:] != self.template.shape:
            raise ValueError(
                f"registered to images of {tuple(self.template.shape)} px, got "
                f"{tuple(images.shape[-2:])}"
            )
        return self._poses(by_chunks(self._shifts, images))

    def inverse(
        self,
        maps: Tensor,
        poses: Tensor,
        size: tuple[int, int],
        outside: float = 0.0,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """As `Frame.inverse`; the few rows not covered repeat what is next to them."""
        at = self._in_frame(poses.to(maps.device), size, grid or size)
        return sample(maps[:, None], at)[:, 0]

    def _poses(self, shifts: Tensor) -> Tensor:
        h, w = self.template.shape
        x, y = shifts.unbind(1)
        return torch.stack([x + (w - 1) / 2, y + (h - 1) / 2, torch.zeros_like(x)], 1)

    def _moved(self, images: Tensor, poses: Tensor) -> Tensor:
        """Gray images at their poses, standardized: `(N, H, W)`."""
        return _standardize(self.align(images.mean(1, keepdim=True), poses)[:, 0])[0]

    def _shifts(self, images: Tensor, levels: tuple = LEVELS) -> Tensor:
        """The shift t of each image, (x, y) in px: `(N, 2)`."""
        step = max(1, min(images.shape[-2:]) // COARSE)
        gray = block_mean(images.detach().mean(1), step, step)  # (N, h, w)
        mean = block_mean(self.template.to(images)[None], step, step)
        gray, contrast = _standardize(gray)
        shifts = images.new_zeros(len(images), 2)
        for blur, side in levels:
            side = max(1, min(side, min(gray.shape[-2:]) // SMALLEST))
            seen, target = (
                gaussian_smooth(block_mean(x, side, side), blur / side)
                for x in (gray, mean)
            )
            target, _ = _standardize(target)
            unit = step * side
            shifts = _descend(seen, target[0], shifts / unit, self.max_shift / unit)
            shifts = shifts * unit
        return torch.where(contrast > LEAST_CONTRAST, shifts, 0.0)


def _descend(seen: Tensor, target: Tensor, shifts: Tensor, limit: float) -> Tensor:
    """Shifts `(N, 2)` that bring images `(N, h, w)` closer to one `(h, w)`, in px."""
    h, w = target.shape
    down, right = (count(n, seen) * (2 / n) + (1 / n - 1) for n in (h, w))
    place = torch.stack(torch.broadcast_tensors(right, down[:, None]), dim=-1)
    place = place.flatten(1)  # (h, 2 w): x, y, x, y, ...
    dy, dx = (d.flatten() for d in torch.gradient(target))
    slope, products = torch.stack([dx, dy]), torch.stack([dx * dx, dx * dy, dy * dy])
    # Stripes fix one axis only; an image without any slope fixes none.
    ridge = 1e-3 * slope.square().sum() + 1e-8 * target.numel()
    reached = step = None
    for _ in range(ROUNDS):
        x, y = shifts.unbind(1)
        moves = torch.stack([2 / w * x, 2 / h * y], dim=1)  # sides are at -1 and 1
        at = place + moves.repeat(1, w)[:, None]  # (N, h, 2 w)
        moved = sample(seen[:, None], at.unflatten(2, (w, 2)))[:, 0]
        error = _standardize(moved)[0].sub_(target).flatten(1)  # (N, P)
        weight = cauchy_weights(error, 3.0)
        a, b, c = weighted_sums(weight, products).unbind(1)
        a, c = a + ridge, c + ridge
        fx, fy = weighted_sums(weight.mul_(error), slope).unbind(1)
        determinant = (a * c - b * b)[:, None]
        before, last = reached, step
        step = torch.stack([b * fy - c * fx, b * fx - a * fy], 1) / determinant
        reached = shifts + step
        shifts = reached
        if last is not None:
            change = step - last
            share = (step * change).sum(1) / change.square().sum(1).clamp_min(1e-10)
            shifts = reached - share.clamp(-4, 1)[:, None] * (reached - before)
        shifts = shifts.clamp(-limit, limit)
    return shifts


def _standardize(gray: Tensor) -> tuple[Tensor, Tensor]:
    """Gray images `(N, H, W)` with mean 0 and standard deviation 1; that, `(N, 1)`."""
    flat = gray.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    std = torch.linalg.vector_norm(flat, dim=1, keepdim=True) / flat.shape[1] ** 0.5
    return flat.div_(std.clamp_min(1e-6)).view_as(gray), std
