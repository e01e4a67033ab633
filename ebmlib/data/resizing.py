"""Change the size of images and masks by area, exactly (chapter 1).

A camera's pixel is the mean of the light over its area, so a smaller image is the mean
over larger areas. Sampling instead (nearest, bilinear) aliases fine texture and loses
thin scratches; this file computes the mean exactly for every ratio of sizes.
"""

import functools

import numpy as np
import scipy.ndimage
import scipy.sparse

Size = int | tuple[int, int]


def check_size(size: Size) -> tuple[int, int]:
    """(height, width) from a side or a pair; ValueError for anything else."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(
        isinstance(side, (int, np.integer)) and side > 0 for side in pair
    ):
        raise ValueError(
            f"size must be a positive number of pixels or (height, width); got {size!r}"
        )
    return int(pair[0]), int(pair[1])


@functools.lru_cache(maxsize=64)
def _area_weights(old: int, new: int) -> scipy.sparse.csr_array:
    """(new, old): row i holds the share of each old pixel in the area of pixel i.

    New pixel i covers the interval [i, i + 1] * old / new of the old axis; its weights
    are the overlaps with the unit intervals of the old pixels, scaled to sum to one.
    """
    edges = np.arange(new + 1) * old / new
    first, last = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)[None]
    overlap = np.minimum(last, pixel + 1) - np.maximum(first, pixel)
    weights = np.clip(overlap, 0, None) * new / old
    weights[weights < 1e-9] = 0  # rounding of the edges, not an overlap
    return scipy.sparse.csr_array(weights.astype(np.float32))


def resize_area(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W, C) float pixels; each new pixel is the mean over its area.

    Exact for every ratio: shrinking never aliases and keeps the mean of the image;
    enlarging by a whole ratio repeats pixels; none invents detail.
    """
    height, width = check_size(size)
    if pixels.shape[:2] == (height, width):
        return pixels
    rows = _area_weights(pixels.shape[0], height)
    columns = _area_weights(pixels.shape[1], width)
    planes = [rows @ plane @ columns.T for plane in np.moveaxis(pixels, 2, 0)]
    return np.clip(np.stack(planes, axis=2), 0, 1)  # weights sum to 1 up to 1e-7


def resize_mask(
    mask: np.ndarray, size: Size
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Resize a bool (H, W) mask by majority and name the regions that vanish.

    A new pixel is True when at least half of its area is. A region (8-neighborhood)
    has vanished when no True pixel of the new mask touches it.

    Returns:
        The new mask, and (row, column, pixels) of each vanished region: its center and
        its area in the old mask.
    """
    height, width = check_size(size)
    share = resize_area(mask[..., None].astype(np.float32), size)[..., 0]
    small = share >= 0.5 - 1e-6  # exactly one half counts, whatever the rounding
    rows = _area_weights(mask.shape[0], height) > 0
    columns = _area_weights(mask.shape[1], width) > 0
    covered = rows.T.astype(np.float32) @ small @ columns.astype(np.float32) > 0
    labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
    lost = np.setdiff1d(np.arange(1, count + 1), labels[covered])
    centers = scipy.ndimage.center_of_mass(mask, labels, lost) if len(lost) else []
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return small, [
        (round(row), round(column), int(areas[region]))
        for (row, column), region in zip(centers, lost, strict=True)
    ]


def describe_vanished(vanished: list[tuple[int, int, int]]) -> str:
    """The vanished regions of one mask in words."""
    regions = ", ".join(f"{area} px at ({r}, {c})" for r, c, area in vanished)
    plural = "s" if len(vanished) > 1 else ""
    return (
        f"{len(vanished)} defect region{plural} too small for this size vanished: "
        f"{regions} (row, column of the original)"
    )
