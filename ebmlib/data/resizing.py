"""Change the size of images and masks by area, exactly (chapter 1).

A camera's pixel is the mean of the light over its area, so a smaller image is the mean
over larger areas. Sampling instead (nearest, bilinear) aliases fine texture and loses
thin scratches; this file computes the mean exactly for every ratio of sizes.
"""

import functools
from collections.abc import Iterable

import numpy as np
import scipy.ndimage
import scipy.sparse

Size = int | tuple[int, int]
VANISHED = "too small for this size vanished"  # what the notes of lost regions say


def is_whole(value: object) -> bool:
    """Whether a value is an integer of Python or NumPy; True and False are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_size(size: Size) -> tuple[int, int]:
    """(height, width) from a side or a pair; ValueError for anything else."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(is_whole(side) and side > 0 for side in pair):
        raise ValueError(
            "size must be a positive whole number of pixels, the side of a square, or "
            f"(height, width); got {size!r}"
        )
    return int(pair[0]), int(pair[1])


def parse_size(text: str) -> Size:
    """The size in words such as "256", or "256x640" for height x width.

    Raises:
        ValueError: anything else.
    """
    words = text.strip().lower().split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(
            "a size is a whole number of pixels, or two of them as HEIGHTxWIDTH, such "
            f"as 256x640; got {text!r}"
        )
    height, width = check_size((int(words[0]), int(words[-1])))
    return height if height == width else (height, width)


@functools.lru_cache(maxsize=64)
def _area_weights(old: int, new: int) -> scipy.sparse.csr_array:
    """(new, old): row i holds the share of each old pixel in the area of pixel i.

    New pixel i covers the interval [i, i + 1] * old / new of the old axis; its weights
    are the overlaps with the unit intervals of the old pixels, scaled to sum to one.
    """
    edges = np.arange(new + 1) * old / new
    first, last = edges[:-1, None], edges[1:, None]
    span = np.arange(-(-old // new) + 1)  # no interval touches more pixels
    pixel = np.floor(first).astype(int) + span  # (new, span)
    overlap = np.minimum(last, pixel + 1) - np.maximum(first, pixel)
    weights = np.clip(overlap, 0, None) * new / old
    weights[(weights < 1e-9) | (pixel >= old)] = 0  # rounding of the edges
    kept = weights > 0
    ends = np.concatenate([[0], kept.sum(axis=1).cumsum()])
    return scipy.sparse.csr_array(
        (weights[kept].astype(np.float32), pixel[kept], ends), shape=(new, old)
    )


def resize_planes(planes: Iterable[np.ndarray], size: Size) -> np.ndarray:
    """Planes (H, W) of one image as float32 (C, height, width), resized by area.

    The planes are taken one after another, so that a generator needs memory for one.
    """
    height, width = check_size(size)
    resized = []
    for plane in planes:
        if plane.shape != (height, width):
            rows = _area_weights(plane.shape[0], height)
            columns = _area_weights(plane.shape[1], width)
            plane = np.clip(rows @ plane @ columns.T, 0, 1)  # up to 1e-7 above
        resized.append(plane)
    return np.stack(resized)


def resize_area(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W, C) float pixels; each new pixel is the mean over its area.

    Exact for every ratio: shrinking never aliases and keeps the mean of the image;
    enlarging by a whole ratio repeats pixels; none invents detail.
    """
    if pixels.shape[:2] == check_size(size):
        return pixels
    return np.moveaxis(resize_planes(np.moveaxis(pixels, 2, 0), size), 0, 2)


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
        f"{len(vanished)} defect region{plural} {VANISHED}: "
        f"{regions} (row, column of the original)"
    )


def describes_vanished(note: str) -> bool:
    """Whether a note of a category is one of `describe_vanished`."""
    return VANISHED in note
