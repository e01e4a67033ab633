"""Draws the "weave": a two-colored twill cloth, seen up close (chapter 1).

The pattern has no fixed position: phase, angle, a slow warp of the cloth, the tone of
every thread and the dye change from image to image. What stays is the local rule of the
weave.
"""

from __future__ import annotations

import math

import numpy as np

from ebmlib.data._drawing import Array, Scene, cover, grid, mix, smooth_noise, turn

THREADS = 13  # threads across the picture
HALF = 0.44  # half the thickness of a thread, in thread spacings
FLOAT = 2  # a thread passes over two others, then under two: 2/2 twill


def draw(rng: np.random.Generator, size: int) -> Scene:
    """One normal piece of cloth, `size` pixels wide."""
    x, y = grid(size)
    u, v = turn(
        x, y, (0.5, 0.5), math.radians(rng.uniform(-4, 4)), rng.uniform(0.96, 1.04)
    )
    u = THREADS * (u + 0.010 * smooth_noise(rng, size, 3)) + rng.uniform(20, 24)
    v = THREADS * (v + 0.010 * smooth_noise(rng, size, 3)) + rng.uniform(20, 24)
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    across_u, across_v = u - column - 0.5, v - row - 0.5  # -0.5 to 0.5 within a thread

    light = rng.uniform(0, 2 * math.pi)
    step = (column + row) % (2 * FLOAT)
    upright_on_top = step < FLOAT
    along_up = ((step + across_v + 0.5) / FLOAT).astype(np.float32)
    along_flat = ((step - FLOAT + across_u + 0.5) / FLOAT).astype(np.float32)
    upright = _thread(rng, column, across_u, along_up, v, math.cos(light))
    flat = _thread(rng, row, across_v, along_flat, u, math.sin(light))

    dye = rng.normal(0, 0.007, (2, 3)).astype(np.float32)
    warm = np.array([0.66, 0.60, 0.50], dtype=np.float32) + dye[0]
    cool = np.array([0.33, 0.40, 0.50], dtype=np.float32) + dye[1]
    gap = np.array([0.07, 0.065, 0.06], dtype=np.float32)
    solid_up = cover(np.abs(across_u) - HALF, 0.16)
    solid_flat = cover(np.abs(across_v) - HALF, 0.16)
    upright, flat = upright[..., None] * warm, flat[..., None] * cool
    over = mix(mix(gap, 0.55 * flat, solid_flat), upright, solid_up)
    below = mix(mix(gap, 0.55 * upright, solid_up), flat, solid_flat)
    image = np.where(upright_on_top[..., None], over, below)
    under = 0.62 * mix(gap, flat, solid_flat)  # a warm thread is gone

    shade = _light(rng, x, y, size, light)[..., None]
    everywhere = np.ones((size, size), dtype=np.float32)

    def missing(draw_rng: np.random.Generator) -> Array:
        return _gap(draw_rng, u, v)

    return Scene(image * shade, under * shade, everywhere, missing, light)


def _thread(
    rng: np.random.Generator,
    number: Array,
    across: Array,
    along: Array,
    run: Array,
    lean: float,
) -> Array:
    """Brightness of a round, bulging thread with its own tone and a fibrous twist."""
    tones = 1 + 0.05 * rng.standard_normal(64).astype(np.float32)
    offset = 6.28 * rng.random(64).astype(np.float32)
    roundness = 1 - 1.5 * across * across + 0.25 * lean * across
    bulge = 0.70 + 0.30 * np.sin(np.pi * np.clip(along, 0, 1))
    twist = 1 + 0.05 * np.sin(9 * run + 7 * across + offset[number % 64])
    return tones[number % 64] * roundness * bulge * twist


def _light(
    rng: np.random.Generator, x: Array, y: Array, size: int, light: float
) -> Array:
    """Uneven light: a slope away from the lamp and the soft folds of the cloth."""
    slope = (x - 0.5) * math.cos(light) + (y - 0.5) * math.sin(light)
    return 1 + rng.uniform(0.0, 0.35) * slope + 0.045 * smooth_noise(rng, size, 3)


def _gap(rng: np.random.Generator, u: Array, v: Array) -> Array:
    """A stretch of one warm thread that is broken out."""
    middle = u.shape[0] // 2
    low, high = THREADS * -0.32, THREADS * 0.32
    column = math.floor(float(u[middle, middle]) + rng.uniform(low, high)) + 0.5
    start = float(v[middle, middle]) + rng.uniform(low, high)
    half = rng.uniform(0.8, 2.6)
    return cover(np.abs(u - column) - 0.5, 0.12) * cover(np.abs(v - start) - half, 0.3)
