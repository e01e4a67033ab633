"""Drawing in unit coordinates: smooth edges, smooth noise, curves (chapter 1).

Every picture of `ebmlib.data.synthetic` is a stack of a few of these functions. The
unit square is the picture, x to the right and y downward, so the same numbers draw the
same geometry at every size. Arrays are float32, `(S, S)` for one quantity, `(S, S, 3)`
for RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Scene:
    """One normal product, with what is needed to damage it.

    image: the product, RGB `(S, S, 3)`, linear light, roughly in [0, 1].
    under: what would be seen where a part of the product is missing, `(S, S, 3)`.
    inside: share of each pixel covered by the product, `(S, S)` in [0, 1].
    missing: draws the region of a part that is gone, `rng -> (S, S)` in [0, 1].
    light: direction in the picture plane from which light comes, radians.
    """

    image: Array
    under: Array
    inside: Array
    missing: Callable[[np.random.Generator], Array]
    light: float


def grid(size: int) -> tuple[Array, Array]:
    """Pixel centers of the unit square: x and y in (0, 1), `(size, size)` each."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    return x, y


def turn(
    x: Array,
    y: Array,
    center: tuple[float, float],
    angle: float,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Coordinates seen from an object that was moved, turned and scaled."""
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = x - center[0], y - center[1]
    return (c * dx + s * dy) / scale, (c * dy - s * dx) / scale


def cover(distance: Array, softness: float) -> Array:
    """Coverage in [0, 1] of a region given by a signed distance (negative inside).

    The edge is a cubic ramp of full width `softness`, centered on distance zero.
    """
    t = np.clip(0.5 - distance / softness, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(below: Array, above: Array, alpha: Array) -> Array:
    """Lay `above` over `below`, `(S, S, 3)` or a color; `alpha` is `(S, S)`."""
    return below + alpha[..., None] * (above - below)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth random field `(size, size)`, mean 0, spread about 0.6.

    Value noise: normal numbers on a `(cells + 1)^2` lattice, interpolated by a cubic
    ramp. The draw depends on `cells` only, so a field keeps its shape at every size.
    """
    lattice = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * cells
    low = np.minimum(at.astype(np.int64), cells - 1)
    t = at - low
    t = t * t * (3.0 - 2.0 * t)
    rows = lattice[low] * (1 - t)[:, None] + lattice[low + 1] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, low + 1] * t  # (size, size)


def line_noise(rng: np.random.Generator, at: Array, knots: int) -> Array:
    """One-dimensional noise read at the places `at`, 0 to 1: rings of turned metal."""
    values = rng.standard_normal(knots).astype(np.float32)
    place = np.clip(at, 0.0, 1.0) * (knots - 1)
    low = np.minimum(place.astype(np.int64), knots - 2)
    t = place - low
    return values[low] * (1 - t) + values[low + 1] * t


def curve_distance(x: Array, y: Array, points: Array) -> Array:
    """Distance of every pixel to a polyline, `points (K, 2)` in unit coordinates."""
    best = np.full(x.shape, np.inf, dtype=np.float32)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = np.float32(bx - ax), np.float32(by - ay)
        length2 = max(float(dx * dx + dy * dy), 1e-12)
        px, py = x - np.float32(ax), y - np.float32(ay)
        t = np.clip((px * dx + py * dy) / np.float32(length2), 0.0, 1.0)
        qx, qy = px - t * dx, py - t * dy
        np.minimum(best, qx * qx + qy * qy, out=best)
    return np.sqrt(best)


def bend(start: Array, middle: Array, end: Array, pieces: int = 8) -> Array:
    """Points `(pieces + 1, 2)` of a quadratic Bezier curve."""
    t = np.linspace(0.0, 1.0, pieces + 1)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
