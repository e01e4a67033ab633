"""Draws the "bolt": a screw lying at any angle on a light table (chapter 1).

Its place and angle are free, so no pixel of the image has a meaning of its own. Whether
an image is good can be read from its brightness alone
(`ebmlib.data.synthetic.EXPOSURE`).
"""

from __future__ import annotations

import math

import numpy as np

from ebmlib.data._drawing import (
    Array,
    Scene,
    cover,
    grid,
    line_noise,
    mix,
    smooth_noise,
    turn,
)

LEFT, NECK, THREAD, TAPER, RIGHT = -0.39, -0.27, -0.10, 0.29, 0.39  # along the axis
HEAD, SHANK, CORE = 0.115, 0.052, 0.050  # half widths
TOOTH, PITCH = 0.013, 0.044  # height and spacing of the thread
EDGE = 0.010


def draw(rng: np.random.Generator, size: int) -> Scene:
    """One normal screw, `size` pixels wide."""
    x, y = grid(size)
    center = 0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03)
    angle = rng.uniform(0, 2 * math.pi)
    u, v = turn(x, y, center, angle, scale=rng.uniform(0.98, 1.02))
    light = math.radians(-120 + rng.uniform(-15, 15))
    phase = rng.uniform(0, 2 * math.pi)

    half = _half_width(u, v, phase)
    ends = np.maximum(LEFT - u, u - RIGHT)
    body = np.maximum(np.abs(v) - half, ends)
    solid = cover(body, EDGE)
    table = _table(rng, x, y, size)
    offset = (center[0] - 0.02 * math.cos(light), center[1] - 0.02 * math.sin(light))
    su, sv = turn(x, y, offset, angle)
    away = np.maximum(
        np.abs(sv) - _half_width(su, sv, phase), np.maximum(LEFT - su, su - RIGHT)
    )
    under = table * (1 - 0.38 * cover(away, 0.07))[..., None]

    metal = _metal(rng, u, v, half, phase, light - angle)
    metal = metal * (1 + 0.05 * smooth_noise(rng, size, 6))
    tint = np.array([1.02, 1.0, 0.96]) + rng.normal(0, 0.006, 3)
    image = mix(under, metal[..., None] * tint.astype(np.float32), solid)

    def missing(draw_rng: np.random.Generator) -> Array:
        return _chip(draw_rng, u, v, size) * solid

    return Scene(image, under, solid, missing, light)


def _half_width(u: Array, v: Array, phase: float) -> Array:
    """Half the width at each place of the axis; teeth alternate by side."""
    tooth = np.abs(((u / PITCH + phase / 6.283 + 0.5 * (v > 0)) % 1.0) - 0.5) * 2
    dome = np.sqrt(np.clip(1 - ((NECK - u) / (NECK - LEFT)) ** 2, 0, 1))
    head = HEAD * dome**0.6
    taper = np.clip((RIGHT - u) / (RIGHT - TAPER), 0.0, 1.0)
    thread = (CORE + TOOTH * tooth) * np.minimum(taper + 0.12, 1.0)
    return np.where(u < NECK, head, np.where(u < THREAD, SHANK, thread))


def _metal(
    rng: np.random.Generator,
    u: Array,
    v: Array,
    half: Array,
    phase: float,
    light: float,
) -> Array:
    """Brightness of a round, turned body; `light` is an angle in its own frame."""
    across = np.clip(v / np.maximum(half, 1e-3), -1, 1)
    height = np.sqrt(1 - across * across)
    lean = math.sin(light)
    gleam = np.exp(-(((across - 0.45 * lean) / 0.22) ** 2))
    value = 0.20 + 0.20 * height + 0.10 * lean * across + 0.22 * gleam
    turned = line_noise(rng, (u + 0.45) / 0.9, 120)
    value = value * (1 + 0.03 * turned)
    helix = np.sin(2 * math.pi * (u / PITCH + 0.25 * across) + phase)
    threaded = cover(THREAD - u, 0.02) * cover(u - RIGHT + 0.02, 0.02)
    value = value * (1 + threaded * (0.34 * helix - 0.10))
    face = cover(u - NECK, 0.012)  # 1 on the head
    value = value * (1 + 0.22 * face * (u - NECK) / (NECK - LEFT) * -math.cos(light))
    collar = np.exp(-(((u - NECK) / 0.008) ** 2))
    return value * (1 - 0.45 * collar)


def _table(rng: np.random.Generator, x: Array, y: Array, size: int) -> Array:
    """Light table top with a slow gradient."""
    direction, amount = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.12)
    slope = (x - 0.5) * math.cos(direction) + (y - 0.5) * math.sin(direction)
    tone = 0.74 * (1 + amount * slope) + 0.006 * smooth_noise(rng, size, 36)
    return tone[..., None] * np.array([1.0, 1.0, 0.985], dtype=np.float32)


def _chip(rng: np.random.Generator, u: Array, v: Array, size: int) -> Array:
    """A piece broken off the thread, the tip or the rim of the head."""
    where, side = int(rng.integers(3)), float(rng.choice([-1.0, 1.0]))
    bite, along = rng.uniform(0.038, 0.065), rng.uniform(THREAD + 0.03, TAPER)
    places = [(along, side * 0.062), (RIGHT - 0.01, 0.0), (NECK - 0.03, side * HEAD)]
    cu, cv = places[where]
    rough = smooth_noise(rng, size, 14)
    return cover(np.hypot(u - cu, v - cv) - bite + 0.010 * rough, EDGE)
