"""Judges of the exercises of chapter 12, MVTec AD."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number
from ebmlib.data.resizing import resize_mask

EIGHT = np.ones((3, 3))  # neighbors, corners included


def _direction(direction) -> str:
    angles = np.radians([10, 35, 60, 80, 110, 150, 175])
    masks = [_ellipse(angle) for angle in angles]
    values = np.array([number(direction(mask)) for mask in masks])
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
        "atan2 takes the sine first: atan2(2 c_xy, c_xx - c_yy).": (
            math.pi / 4 - angles
        ),
        "y points down in an image, and so does a positive angle.": -angles,
        "the formula gives the double angle; take half of it.": 2 * angles,
        "the mixed moment counts twice: 2 c_xy.": (
            [_axis(cxx, cxy / 2, cyy) for cxx, cxy, cyy in map(_moments, masks)]
        ),
        "this is the slope of a regression line: it measures distances along y only, "
        "not across the axis.": (
            [math.atan2(cxy, cxx) for cxx, cxy, _ in map(_moments, masks)]
        ),
        "take the moments about the part's center, not about the corner.": (
            [_axis(*_moments(mask, about=(0, 0))) for mask in masks]
        ),
        "take the moments about the part's center, not about the image's middle.": (
            [_axis(*_moments(mask, about=_middle(mask))) for mask in masks]
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


def _middle(mask: np.ndarray) -> tuple[float, float]:
    return (mask.shape[0] - 1) / 2, (mask.shape[1] - 1) / 2


def _moments(
    mask: np.ndarray, about: tuple[float, float] | None = None
) -> tuple[float, float, float]:
    """c_xx, c_xy, c_yy about a point (y, x), by default the center of the part."""
    y, x = (i.astype(float) for i in np.nonzero(mask))
    cy, cx = (y.mean(), x.mean()) if about is None else about
    x, y = x - cx, y - cy
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
    cases = [(_spots(seed), 4) for seed in range(6)] + [(_spots(6), 8)]
    values = [int(vanished(mask, k)) for mask, k in cases]
    right = [len(resize_mask(mask, _blocks(mask, k))[1]) for mask, k in cases]
    if values == right:
        return "No ruler misses such a defect; whoever finds it raises a false alarm."
    if values[:-1] == right[:-1]:
        raise Hint("the side of a block is the argument k; here it was not 4.")
    for hint, answer in MISTAKES:
        if values == [answer(mask, k) for mask, k in cases]:
            raise Hint(hint)
    first = next(i for i in range(len(cases)) if values[i] != right[i])
    mask, k = cases[first]
    raise Hint(
        f"in a mask of {_count(mask)} regions {right[first]} vanish at k = {k}, "
        f"got {values[first]}."
    )


def _spots(seed: int) -> np.ndarray:
    """Small regions of many sizes and a large one; some touch at a corner."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((48, 64), dtype=bool)
    for _ in range(26):
        y, x = rng.integers(0, 44), rng.integers(0, 60)
        mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    mask[20:31, 8:38] = True  # one that no reduction swallows
    mask[1, 1] = mask[2, 2] = True
    mask[8:12, 32:34] = True  # exactly one half of its block
    return mask


def _blocks(mask: np.ndarray, k: int) -> tuple[int, int]:
    return mask.shape[0] // k, mask.shape[1] // k


def _share(mask: np.ndarray, k: int) -> np.ndarray:
    """Covered share of every block of k x k pixels."""
    rows, columns = _blocks(mask, k)
    return mask.reshape(rows, k, columns, k).mean((1, 3))


def _misread(mask: np.ndarray, k: int) -> np.ndarray:
    """`_share` with a reshape that does not keep blocks together."""
    return mask.reshape(*_blocks(mask, k), k, k).mean((2, 3))


def _enlarged(small: np.ndarray, k: int) -> np.ndarray:
    return np.kron(small, np.ones((k, k), dtype=bool))


def _count(mask: np.ndarray) -> int:
    return ndimage.label(mask, EIGHT)[1]


def _lost(
    mask: np.ndarray, covered: np.ndarray, neighbors: np.ndarray | None = EIGHT
) -> int:
    """Regions of `mask` without any covered pixel."""
    regions, count = ndimage.label(mask, neighbors)
    return count - len(np.unique(regions[covered & mask]))


def _at_least(mask: np.ndarray, k: int, share: float) -> int:
    return _lost(mask, _enlarged(_share(mask, k) >= share, k))


def _with_background(mask: np.ndarray, k: int) -> int:
    """Regions, minus labels in defective blocks; the background is one of these."""
    regions, count = ndimage.label(mask, EIGHT)
    return count - len(np.unique(regions[_enlarged(_share(mask, k) >= 0.5, k)]))


def _alone(mask: np.ndarray, k: int) -> int:
    """Regions that would vanish if there were no others."""
    regions, count = ndimage.label(mask, EIGHT)
    gone = ((_share(regions == i, k) < 0.5).all() for i in range(1, count + 1))
    return sum(map(bool, gone))


def _small(mask: np.ndarray, k: int) -> int:
    """Regions of less than half a block, wherever they lie."""
    regions, _ = ndimage.label(mask, EIGHT)
    return int((np.bincount(regions.ravel())[1:] < k * k / 2).sum())


def _not_whole(mask: np.ndarray, k: int) -> int:
    """Regions of which some pixel is not covered."""
    regions, _ = ndimage.label(mask, EIGHT)
    covered = _enlarged(_share(mask, k) >= 0.5, k)
    return len(np.unique(regions[mask & ~covered]))


# What to say to whom: (hint, the number that the mistake gives for a mask and k).
MISTAKES = [
    (
        "a block that is covered by exactly one half counts as defective.",
        lambda m, k: _lost(m, _enlarged(_share(m, k) > 0.5, k)),
    ),
    (
        "a single pixel is no majority: half of the block must be covered.",
        lambda m, k: _lost(m, _enlarged(_share(m, k) > 0, k)),
    ),
    (
        "a block need not be full: half of its pixels are enough.",
        lambda m, k: _at_least(m, k, 1),
    ),
    (
        "pixels that touch at a corner belong to one region.",
        lambda m, k: _lost(m, _enlarged(_share(m, k) >= 0.5, k), neighbors=None),
    ),
    (
        "label 0 is the background, not a region.",
        _with_background,
    ),
    (
        "one pixel does not speak for its block: average all of them.",
        lambda m, k: _lost(m, _enlarged(m[::k, ::k], k)),
    ),
    (
        "one pixel does not speak for its block: average all of them.",
        lambda m, k: _lost(m, _enlarged(m[k // 2 :: k, k // 2 :: k], k)),
    ),
    (
        "this reshape tears the blocks apart: of a shape (h, k, w, k), average "
        "axes 1 and 3.",
        lambda m, k: _lost(m, _enlarged(_misread(m, k) >= 0.5, k)),
    ),
    (
        "np.tile repeats the whole small mask; repeat each of its pixels k x k times.",
        lambda m, k: _lost(m, np.tile(_share(m, k) >= 0.5, (k, k))),
    ),
    ("two regions may fill a block together: reduce all of them at once.", _alone),
    ("the area alone does not decide; it depends on where the blocks lie.", _small),
    (
        "a region is lost only if no defective block touches any pixel of it.",
        _not_whole,
    ),
    (
        "a region is lost only if no defective block touches any pixel of it.",
        lambda m, k: _count(m & ~_enlarged(_share(m, k) >= 0.5, k)),
    ),
    (
        "regions can also merge, so the difference of the two counts is not what "
        "vanished.",
        lambda m, k: _count(m) - _count(_share(m, k) >= 0.5),
    ),
    (
        "this counts the regions that are left; count those that are not.",
        lambda m, k: _count(m) - _at_least(m, k, 0.5),
    ),
    (
        "regions of the small mask are not asked for; count regions of the large "
        "one that no defective block touches.",
        lambda m, k: _count(_share(m, k) >= 0.5),
    ),
]

EXERCISES = {
    "ex-12-direction": Exercise(
        _direction, "Take the second moments of the pixels that are True."
    ),
    "ex-12-vanished": Exercise(
        _vanished, "Which blocks of k x k pixels are at least half defective?"
    ),
}
