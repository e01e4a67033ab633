"""A rectangle that moves with the part, and what is cut out of it (chapter 12).

`ebmlib.view.pose` finds the frame of a part that lies in any direction,
`ebmlib.view.registration` that of a part that always lies in the same place, but not
to the pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Frame:
    """A rectangle of `(h, w)` pixels that is laid on each image at a pose of its own.

    A pose is the frame's center (x, y) in px of the image, and its angle in radians.
    The center of the first pixel of an image is (0, 0).

    Args:
        template: `(h, w)`, the mean gray image of the parts in the frame.

    Raises:
        ValueError: the template is not a float tensor of two axes.
    """

    def __init__(self, template: Tensor):
        if template.ndim != 2 or not template.is_floating_point():
            raise ValueError(
                f"template must be a float tensor (h, w), got {tuple(template.shape)}"
            )
        self.template = template

    def __repr__(self) -> str:
        """The kind and size of the frame."""
        h, w = self.template.shape
        return f"{type(self).__name__}(template of {h} x {w} px)"

    def pose(self, images: Tensor) -> Tensor:
        """Where the frame lies on images `(N, C, H, W)`: `(N, 3)`, see the class."""
        raise NotImplementedError

    def align(self, images: Tensor, poses: Tensor) -> Tensor:
        """What the frame holds: `(N, C, H, W)` to `(N, C, h, w)`, bilinearly.

        Beyond the border of the image its outermost pixels are repeated.
        """
        height, width = images.shape[-2:]
        h, w = self.template.shape
        right, down = count(w, images) - (w - 1) / 2, count(h, images) - (h - 1) / 2
        x, y, c, s = _columns(poses)
        x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
        at_x = x + (2 / width) * c * right, (-2 / width) * s * down
        at_y = y + (2 / height) * s * right, (2 / height) * c * down
        return sample(images, _grid(at_x, at_y))

    def inverse(
        self,
        maps: Tensor,
        poses: Tensor,
        size: tuple[int, int],
        outside: float = 0.0,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Maps of what the frame holds, `(N, a, b)`, in the image: `(N, H, W)`.

        Args:
            maps: what was computed in the frame; the grid of a x b values covers the
                frame, whatever a and b are.
            poses: of the same images, from `pose`.
            size: height and width of the images in px.
            outside: value of pixels that the frame does not cover.
            grid: height and width of the maps in the image, if not `size`: they cover
                the same image with more or with fewer values.
        """
        at = self._in_frame(poses.to(maps.device), size, grid or size)
        inside = (at.abs() < 1).all(-1)
        return torch.where(inside, sample(maps[:, None], at)[:, 0], outside)

    def _in_frame(
        self, poses: Tensor, size: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """Where each value of `grid` lies in the frame, x and y: `(N, *grid, 2)`.

        The sides of the frame are at -1 and 1.
        """
        h, w = self.template.shape
        below, beside = (
            (count(values, poses) + 0.5) * (side / values) - 0.5
            for side, values in zip(size, grid, strict=True)
        )
        x, y, c, s = _columns(poses)
        right, down = (2 / w) * (beside - x), (2 / h) * (below - y)  # (N, W), (N, H)
        at_x = c * right, (h / w) * s * down
        at_y = (-w / h) * s * right, c * down
        return _grid(at_x, at_y)


def count(n: int, like: Tensor) -> Tensor:
    """The numbers 0, 1, ... n - 1, of the type and on the device of `like`."""
    return torch.arange(n, dtype=like.dtype, device=like.device)


def _columns(poses: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Center x and y, cosine and sine of the angle, `(N, 1)` each."""
    x, y, angle = poses.detach()[:, :, None].unbind(1)
    return x, y, torch.cos(angle), torch.sin(angle)


def _grid(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    """The points x, y, each a sum of terms `(N, w)` and `(N, h)`: `(N, h, w, 2)`."""
    (n, w), h = x[0].shape, x[1].shape[1]
    grid = x[0].new_empty(n, h, w, 2)
    for k, (along, down) in enumerate((x, y)):
        torch.add(along[:, None, :], down[:, :, None], out=grid[..., k])
    return grid


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """Images `(N, C, H, W)` at points `(N, h, w, 2)`, x and y, bilinearly.

    The borders of the image are at -1 and 1; beyond them its outermost pixels repeat.
    """
    return F.grid_sample(
        images, grid.to(images), padding_mode="border", align_corners=False
    )
