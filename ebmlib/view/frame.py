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

    Args:
        template: `(h, w)`, the mean gray image of the parts in the frame.
    """

    def __init__(self, template: Tensor):
        if template.ndim != 2 or not template.is_floating_point():
            raise ValueError(
                f"template must be a float tensor (h, w), got {tuple(template.shape)}"
            )
        self.template = template

    def pose(self, images: Tensor) -> Tensor:
        """Where the frame lies on images `(N, C, H, W)`: `(N, 3)`, see the class."""
        raise NotImplementedError

    def straighten(self, images: Tensor, poses: Tensor) -> Tensor:
        """What the frame holds: `(N, C, H, W)` to `(N, C, h, w)`, bilinearly.

        Beyond the border of the image its outermost pixels are repeated.
        """
        h, w = self.template.shape
        column = torch.arange(w) - (w - 1) / 2
        row = torch.arange(h)[:, None] - (h - 1) / 2
        x, y, angle = poses[:, :, None, None].unbind(1)  # (N, 1, 1) each
        c, s = torch.cos(angle), torch.sin(angle)
        return sample(images, x + c * column - s * row, y + s * column + c * row)

    def put_back(
        self, maps: Tensor, poses: Tensor, size: tuple[int, int], outside: float
    ) -> Tensor:
        """Maps of what the frame holds, `(N, h, w)`, in the image: `(N, H, W)`.

        Args:
            maps: what was computed in the frame.
            poses: of the same images, from `pose`.
            size: height and width of the images in px.
            outside: value of pixels that the frame does not cover.
        """
        h, w = maps.shape[1:]
        column, row = self._in_frame(maps, poses, size)
        inside = (column > -0.5) & (column < w - 0.5) & (row > -0.5) & (row < h - 0.5)
        back = sample(maps[:, None], column, row)[:, 0]
        return torch.where(inside, back, torch.full_like(back, outside))

    def _in_frame(
        self, maps: Tensor, poses: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Column and row in the maps of every pixel of the image, `(N, H, W)` each."""
        h, w = maps.shape[1:]
        x, y, angle = poses[:, :, None, None].unbind(1)
        c, s = torch.cos(angle), torch.sin(angle)
        right = torch.arange(size[1]) - x  # (N, 1, W)
        down = torch.arange(size[0])[:, None] - y  # (N, H, 1)
        column = c * right + s * down + (w - 1) / 2
        row = c * down - s * right + (h - 1) / 2
        return column, row


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images `(N, C, H, W)` at pixel coordinates x, y `(N, h, w)`, bilinearly."""
    height, width = images.shape[-2:]
    x, y = torch.broadcast_tensors(x, y)
    at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    at = at.to(images)
    return F.grid_sample(images, at, padding_mode="border", align_corners=False)
