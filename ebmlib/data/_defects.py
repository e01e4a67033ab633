"""Five ways to damage a product, each with its exact region (chapter 1).

A defect function takes a generator and a `Scene` and returns `(image, alpha)`: the
damaged picture and the share of each pixel that the defect touches, `(S, S)` in [0, 1].
Contrast and size are drawn from wide ranges, so that some defects are plain and some
are subtle.
"""

from __future__ import annotations

import math

import numpy as np

from ebmlib.data._drawing import (
    Array,
    Scene,
    bend,
    cover,
    curve_distance,
    grid,
    mix,
    smooth_noise,
)

EDGE = 0.008


def _place(rng: np.random.Generator, scene: Scene) -> tuple[float, float]:
    """A random point on the product, in unit coordinates, the same at every size."""
    cells = 32
    size = scene.inside.shape[0]
    at = ((np.arange(cells) + 0.5) * size / cells).astype(int)
    rows, columns = np.nonzero(scene.inside[np.ix_(at, at)] > 0.9)
    k = int(rng.random() * len(rows))
    dx, dy = rng.uniform(0.0, 1.0, 2)
    return float((columns[k] + dx) / cells), float((rows[k] + dy) / cells)


def _blob(
    rng: np.random.Generator, scene: Scene, low: float, high: float
) -> tuple[Array, Array, Array]:
    """Elliptic radius (1 at the rim) around a random place, offsets x, y from it."""
    size = scene.inside.shape[0]
    x, y = grid(size)
    cx, cy = _place(rng, scene)
    radius = rng.uniform(low, high)
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    c, s = math.cos(angle), math.sin(angle)
    du = (c * (x - cx) + s * (y - cy)) / radius
    dv = (c * (y - cy) - s * (x - cx)) / (radius * squeeze)
    return np.hypot(du, dv), (x - cx) / radius, (y - cy) / radius


def scratch(rng: np.random.Generator, scene: Scene) -> tuple[Array, Array]:
    """A thin curved groove: a bright and a dark flank, or only one of them."""
    size = scene.inside.shape[0]
    x, y = grid(size)
    middle = np.array(_place(rng, scene))
    angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.10, 0.34)
    along = 0.5 * length * np.array([math.cos(angle), math.sin(angle)])
    bow = rng.normal(0, 0.03, 2)
    points = bend(middle - along, middle + bow, middle + along)
    distance = curve_distance(x, y, points)
    width = rng.uniform(0.011, 0.018)
    alpha = cover(distance - width, EDGE) * scene.inside
    strength = rng.uniform(0.32, 0.66) * float(rng.choice([-1.0, 1.0]))
    core = np.exp(-((distance / (0.7 * width)) ** 2))
    return scene.image * (1 + strength * 1.6 * core * alpha)[..., None], alpha


def contamination(rng: np.random.Generator, scene: Scene) -> tuple[Array, Array]:
    """Foreign matter lying on the surface: dirt, grease, a fleck of paint."""
    radius, _, _ = _blob(rng, scene, 0.036, 0.080)
    size = scene.inside.shape[0]
    outline = radius - 1.0 + 0.32 * smooth_noise(rng, size, 16)
    colors = [
        (0.30, 0.22, 0.13),
        (0.16, 0.15, 0.14),
        (0.62, 0.58, 0.50),
        (0.34, 0.38, 0.22),
    ]
    color = np.array(colors[rng.integers(4)], dtype=np.float32) * rng.uniform(0.8, 1.2)
    opacity = rng.uniform(0.5, 1.0)
    alpha = cover(outline, 0.25)
    grain = 1 + 0.12 * smooth_noise(rng, size, 40)
    layer = grain[..., None] * color
    return mix(scene.image, layer, opacity * alpha), alpha


def hole(rng: np.random.Generator, scene: Scene) -> tuple[Array, Array]:
    """A dent or pit: dark toward the light, bright on the far wall."""
    radius, du, dv = _blob(rng, scene, 0.030, 0.055)
    alpha = cover(radius - 1.0, 0.25) * scene.inside
    depth = rng.uniform(0.7, 1.3)
    lean = du * math.cos(scene.light) + dv * math.sin(scene.light)
    shade = -0.65 * cover(radius - 0.6, 0.7) - 0.40 * lean
    return scene.image * (1 + depth * alpha * shade)[..., None], alpha


def color(rng: np.random.Generator, scene: Scene) -> tuple[Array, Array]:
    """A stain that changes the hue and hardly the brightness."""
    radius, _, _ = _blob(rng, scene, 0.050, 0.105)
    size = scene.inside.shape[0]
    alpha = (
        cover(radius - 1.0 + 0.25 * smooth_noise(rng, size, 12), 0.35) * scene.inside
    )
    hues = [
        (1.30, 0.92, 0.55),
        (0.72, 0.98, 1.42),
        (1.22, 0.84, 1.06),
        (0.82, 1.14, 0.84),
    ]
    stain = np.array(hues[rng.integers(4)], dtype=np.float32)
    strength = rng.uniform(0.45, 1.0)
    return mix(scene.image, scene.image * stain, strength * alpha), alpha


def missing(rng: np.random.Generator, scene: Scene) -> tuple[Array, Array]:
    """A part of the product is gone; what lies beneath shows."""
    alpha = scene.missing(rng)
    return mix(scene.image, scene.under, alpha), alpha


DEFECTS = {
    "scratch": scratch,
    "contamination": contamination,
    "hole": hole,
    "color": color,
    "missing": missing,
}
