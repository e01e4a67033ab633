"""Judges of the exercises of chapter 12, MVTec AD."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ebmlib.data.resizing import resize_mask
from ebmlib.exercises import Exercise, Hint

EIGHT = np.ones((3, 3))  # neighbors, corners included


def _direction(direction) -> str:
    angles = np.radians([10, 35, 60, 80, 110, 150, 175])
    masks = [_ellipse(angle) for angle in angles]
    values = np.array([float(direction(mask)) for mask in masks])
    if _same_axis(values, angles):
        return "Half of an angle: a direction and its opposite are one axis."
    if np.abs(values).max() > 4 * math.pi:
        raise Hint("answer in radians, not in degrees.")
    wrong = {
        "this is the axis across the part; the *largest* variance is along it.": (
            angles + math.pi / 2
        ),
        "np.nonzero returns rows first: the row is y, the column is x.": (
            math.pi / 2 - angles
        ),
        "y points down in an image, and so does a positive angle.": -angles,
        "the formula gives the double angle; take half of it.": 2 * angles,
        "take the moments about the part's center, not about the corner.": (
            [_axis(*_moments(mask, centered=False)) for mask in masks]
        ),
        "arctan of a quotient cannot tell an axis from the one across it: use atan2.": [
            _axis_by_quotient(*_moments(mask)) for mask in masks
        ],
    }
    for hint, answers in wrong.items():
        if _same_axis(values, np.asarray(answers)):
            raise Hint(hint)
    worst = int(np.argmax(_apart(values, angles)))
    raise Hint(
        f"a part at {angles[worst]:.2f} rad was found at {values[worst]:.2f} rad."
    )


def _ellipse(angle: float) -> np.ndarray:
    """A long ellipse, not in the middle of its image."""
    y, x = np.mgrid[:90, :120]
    right, down = x - 70, y - 40
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    return (along / 34) ** 2 + (across / 11) ** 2 < 1


def _moments(mask: np.ndarray, centered: bool = True) -> tuple[float, float, float]:
    y, x = (i.astype(float) for i in np.nonzero(mask))
    if centered:
        x, y = x - x.mean(), y - y.mean()
    return float((x * x).mean()), float((x * y).mean()), float((y * y).mean())


def _axis(cxx: float, cxy: float, cyy: float) -> float:
    return math.atan2(2 * cxy, cxx - cyy) / 2


def _axis_by_quotient(cxx: float, cxy: float, cyy: float) -> float:
    return math.atan(2 * cxy / (cxx - cyy)) / 2


def _apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sine of the angle between axes; an axis has no sign."""
    return np.abs(np.sin(first - second))


def _same_axis(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.isfinite(first).all() and (_apart(first, second) < 0.02).all())


def _vanished(vanished) -> str:
    masks = [_spots(seed) for seed in range(6)]
    values = [int(vanished(mask, 4)) for mask in masks]
    right = [len(resize_mask(m, (m.shape[0] // 4, m.shape[1] // 4))[1]) for m in masks]
    if values == right:
        return "Such a defect can no longer be found, and no ruler misses it."
    wrong = {
        "a block that is covered by exactly one half counts as defective.": (
            lambda m: _lost(m, _share(m) > 0.5)
        ),
        "a single pixel is no majority: half of the block must be covered.": (
            lambda m: _lost(m, _share(m) > 0)
        ),
        "pixels that touch at a corner belong to one region.": (
            lambda m: _lost(m, _share(m) >= 0.5, neighbors=None)
        ),
        "regions can also merge, so the difference of the two counts is not what "
        "vanished.": lambda m: _count(m) - _count(_share(m) >= 0.5),
        "this counts the regions that are left; count those that are not.": (
            lambda m: _count(m) - _lost(m, _share(m) >= 0.5)
        ),
        "regions of the small mask are not asked for; count regions of the large "
        "one that no defective block touches.": lambda m: _count(_share(m) >= 0.5),
    }
    for hint, answer in wrong.items():
        if values == [answer(mask) for mask in masks]:
            raise Hint(hint)
    first = next(i for i in range(len(masks)) if values[i] != right[i])
    raise Hint(
        f"in a mask of {_count(masks[first])} regions {right[first]} vanish, "
        f"got {values[first]}."
    )


def _spots(seed: int) -> np.ndarray:
    """Small regions of many sizes; some touch at a corner, some share a block."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((48, 64), dtype=bool)
    for _ in range(26):
        y, x = rng.integers(0, 44), rng.integers(0, 60)
        mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    mask[1, 1] = mask[2, 2] = True
    mask[8:12, 32:34] = True  # exactly one half of its block
    return mask


def _share(mask: np.ndarray, k: int = 4) -> np.ndarray:
    """Covered share of every block of k x k pixels."""
    height, width = mask.shape
    return mask.reshape(height // k, k, width // k, k).mean((1, 3))


def _count(mask: np.ndarray) -> int:
    return ndimage.label(mask, EIGHT)[1]


def _lost(
    mask: np.ndarray, small: np.ndarray, neighbors: np.ndarray | None = EIGHT
) -> int:
    """Regions of `mask` that no block of `small` touches."""
    regions, count = ndimage.label(mask, neighbors)
    found = np.unique(regions[np.kron(small, np.ones((4, 4), dtype=bool)) & mask])
    return count - len(found)


EXERCISES = {
    "ex-12-direction": Exercise(
        _direction, "Take the second moments of the pixels that are True."
    ),
    "ex-12-vanished": Exercise(
        _vanished, "Which blocks of k x k pixels are at least half defective?"
    ),
}
