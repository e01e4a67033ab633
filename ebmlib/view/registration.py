"""Bring a part that always lies in the same place there to the pixel (chapter 12).

A bottle that stands a pixel further left is no defect, but to a Gaussian of its own for
every place it looks like one wherever the image has an edge. Registration takes the
shift out, so that what is left is what the parts really differ in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ebmlib.view.frame import Frame, sample

COARSE = 128  # px of the shorter side at which shifts are found; more does not help
FURTHEST = 1 / 16  # of the shorter side: a part that lies further off lies elsewhere
BLURS = (2.0, 1.0, 0.5)  # px, coarse to fine
ROUNDS = 8  # Gauss-Newton steps for each


class Registration(Frame):
    """Shifts every image until it is most like the mean part.

        t(x) = argmin_t sum_p log(1 + e_p(t)^2 / (3 m)^2),   e_p(t) = x'(p + t) - T(p)

    x' is the gray image with mean 0 and standard deviation 1, T the mean of the shifted
    training images, m the median of |e_p|: a pixel that fits badly, in a defect, has
    little say. The minimum is found by Gauss-Newton steps on blurred images, coarse to
    fine (Lucas & Kanade, IJCAI 1981; Baker & Matthews, IJCV 56, 2004).

    No image is shifted further than the training images were. A part that lies further
    off than any normal one is still seen to be off.

    Args:
        template: `(H, W)`, T, of the size of the images.
        reach: longest shift in px along each axis.
    """

    def __init__(self, template: Tensor, reach: float):
        super().__init__(template)
        if not reach >= 0:
            raise ValueError(f"reach must be >= 0 px, got {reach}")
        self.reach = float(reach)

    @classmethod
    def fit(cls, images: Tensor) -> Registration:
        """Mean part and reach from normal images `(N, C, H, W)`."""
        furthest = FURTHEST * min(images.shape[-2:])
        frame = cls(_standardize(images.mean(1)).mean(0), furthest)
        for finest in range(1, len(BLURS) + 1):  # the mean sharpens with the shifts
            shifts = frame._shifts(images, BLURS[:finest])
            shifts = shifts - shifts.mean(0)  # the usual part stays where it is
            moved = frame.straighten(images, frame._poses(shifts)).mean(1)
            frame = cls(_standardize(moved).mean(0), furthest)
        return cls(frame.template, shifts.abs().max())

    def pose(self, images: Tensor) -> Tensor:
        """Where the parts lie: `(N, 3)`, center (x, y) in px and the angle 0."""
        return self._poses(self._shifts(images.cpu(), BLURS))

    def put_back(
        self, maps: Tensor, poses: Tensor, size: tuple[int, int], outside: float
    ) -> Tensor:
        """As `Frame.put_back`; the few rows not covered repeat what is next to them."""
        column, row = self._in_frame(maps, poses, size)
        return sample(maps[:, None], column, row)[:, 0]

    def _poses(self, shifts: Tensor) -> Tensor:
        h, w = self.template.shape
        middle = torch.tensor([(w - 1) / 2, (h - 1) / 2])
        return torch.cat([middle + shifts, torch.zeros(len(shifts), 1)], dim=1)

    def _shifts(self, images: Tensor, blurs: tuple[float, ...]) -> Tensor:
        """The shift t of each image, (x, y) in px: `(N, 2)`."""
        if images.shape[-2:] != self.template.shape:
            raise ValueError(
                f"registered to images of {tuple(self.template.shape)} px, got "
                f"{tuple(images.shape[-2:])}"
            )
        step = max(1, min(images.shape[-2:]) // COARSE)
        gray = F.avg_pool2d(images.mean(1, keepdim=True), step)  # (N, 1, H, W)
        mean = F.avg_pool2d(self.template[None, None], step)
        h, w = gray.shape[-2:]
        column, row = torch.arange(w), torch.arange(h)[:, None]
        shifts = torch.zeros(len(images), 2)
        for blur in blurs:
            seen, wanted = _blur(gray, blur), _standardize(_blur(mean, blur)[:, 0])
            down, right = torch.gradient(wanted[0])
            slope = torch.stack([right, down], dim=-1).flatten(0, 1)  # (P, 2)
            ridge = 1e-3 * slope.square().sum() * torch.eye(2)  # stripes fix one axis
            for _ in range(ROUNDS):
                x, y = (t[:, None, None] for t in shifts.unbind(1))
                moved = _standardize(sample(seen, x + column, y + row)[:, 0])
                error = (moved - wanted).flatten(1)  # (N, P)
                usual = error.abs().median(1, keepdim=True).values.clamp_min(1e-6)
                weight = 1 / (1 + (error / (3 * usual)) ** 2)  # of the log above
                curvature = torch.einsum("np,pi,pj->nij", weight, slope, slope)
                force = (weight * error) @ slope
                shifts = shifts - torch.linalg.solve(curvature + ridge, force)
                shifts = shifts.clamp(-self.reach / step, self.reach / step)
        return shifts * step


def _standardize(gray: Tensor) -> Tensor:
    """Gray images `(N, H, W)` with mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(gray, (1, 2), keepdim=True, correction=0)
    return (gray - mean) / std.clamp_min(1e-6)


def _blur(gray: Tensor, sigma: float) -> Tensor:
    blurred = ndimage.gaussian_filter(gray.numpy(), (0, 0, sigma, sigma))
    return torch.from_numpy(blurred)
