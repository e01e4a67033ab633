"""The connected regions of flagged pixels: how large the largest is, and where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor


class Region(NamedTuple):
    """A connected region of pixels, in px of its image.

    Attributes:
        x: leftmost column of the box, counted from 0.
        y: top row of the box.
        width: columns of the box.
        height: rows of the box.
        area: pixels of the region itself, at most `width * height`.
    """

    x: int
    y: int
    width: int
    height: int
    area: int


def largest_region(mask: Tensor) -> Region | None:
    """The region with the most pixels in a bool mask `(H, W)`; None if it is empty.

    Pixels that touch at a corner are connected. Of regions of equal area the first one
    in reading order is taken.
    """
    labels, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    if not count:
        return None
    areas = np.bincount(labels.ravel())[1:]
    index = int(areas.argmax())
    rows, columns = ndimage.find_objects(labels, count)[index]
    return Region(
        int(columns.start),
        int(rows.start),
        int(columns.stop - columns.start),
        int(rows.stop - rows.start),
        int(areas[index]),
    )
