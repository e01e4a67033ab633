"""Draws the "nut": a turned hexagonal steel nut seen from above (chapter 1).

Flat face with the bow-tie gleam of turned metal, beveled rims, a threaded bore. The
position is roughly aligned; pose, light and turning marks change from nut to nut. Three
stamped marks may sit at any of the six corners, and lint lies on the mat. Both are
normal: a detector has to learn what a nut may look like, not one average nut.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ebmlib.data._drawing import (
    Array,
    Scene,
    bend,
    cover,
    curve_distance,
    grid,
    line_noise,
    mix,
    smooth_noise,
    turn,
)

FLAT = 0.335  # half the distance between two opposite flats of the hexagon
CORNER = 0.372  # radius of the circle that rounds the corners off
FACE = 0.308  # radius of the flat, turned face
BEVEL = 0.196  # outer radius of the countersink
BORE = 0.168  # radius of the threaded bore
EDGE = 0.010  # softness of an edge
STAMP = 0.252  # distance of the stamped marks from the center


def hexagon(u: Array, v: Array, half: float) -> Array:
    """Signed distance-like field of a regular hexagon, negative inside."""
    a = np.abs(v)
    b = np.abs(0.8660254 * u + 0.5 * v)
    c = np.abs(0.8660254 * u - 0.5 * v)
    return np.maximum(np.maximum(a, b), c) - half


def draw(rng: np.random.Generator, size: int) -> Scene:
    """One normal nut on a dark mat, `size` pixels wide."""
    x, y = grid(size)
    center = 0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03)
    angle = math.radians(rng.uniform(-12, 12))
    u, v = turn(x, y, center, angle, scale=rng.uniform(0.96, 1.04))
    light = math.radians(-125 + rng.uniform(-35, 35))
    r, theta = np.hypot(u, v), np.arctan2(v, u) + angle

    body = np.maximum(hexagon(u, v, FLAT), r - CORNER)
    mat = _mat(rng, x, y, size)
    shadow = _shadow(x, y, center, angle, light)
    under = mat * (1 - 0.55 * shadow)[..., None]

    metal = _metal(rng, r, theta, light, body)
    metal = metal * (1.0 + 0.03 * smooth_noise(rng, size, 5))
    metal = metal + _stamp(rng, u, v, angle, light)
    tint = np.array([1.0, 1.0, 1.03]) + rng.normal(0, 0.006, 3)
    tint = tint.astype(np.float32)
    steel = metal[..., None] * tint
    bore = _bore(r, theta, light, rng.uniform(0, 2 * math.pi))[..., None] * 0.9
    steel = mix(steel, bore * tint, cover(r - BORE, EDGE))
    solid = cover(body, EDGE)
    image = mix(under, steel, solid)
    falloff = _falloff(rng, x, y)
    image, under = image * falloff[..., None], under * falloff[..., None]
    inside = solid * cover(BORE + 0.015 - r, EDGE)

    def missing(draw_rng: np.random.Generator) -> Array:
        return _chip(draw_rng, u, v, size) * solid

    return Scene(image, under, inside, missing, light)


def _mat(rng: np.random.Generator, x: Array, y: Array, size: int) -> Array:
    """Dark, slightly uneven rubber mat with a few pieces of lint."""
    tone = (
        0.17 + 0.012 * smooth_noise(rng, size, 4) + 0.010 * smooth_noise(rng, size, 30)
    )
    color = np.array([0.92, 1.0, 1.10], dtype=np.float32)
    lint = np.zeros_like(x)
    for _ in range(rng.integers(2, 7)):
        middle, bow = rng.uniform(0, 1, 2), rng.normal(0, 0.02, 2)
        half = 0.5 * rng.uniform(0.01, 0.07)
        angle, shade = rng.uniform(0, math.pi), rng.uniform(0.12, 0.30)
        along = half * np.array([math.cos(angle), math.sin(angle)])
        distance = curve_distance(
            x, y, bend(middle - along, middle + bow, middle + along)
        )
        np.maximum(lint, shade * cover(distance - 0.005, 0.010), out=lint)
    return tone[..., None] * color + lint[..., None]


def _stamp(
    rng: np.random.Generator, u: Array, v: Array, angle: float, light: float
) -> Any:
    """Three short radial grooves near one corner, or none; each has a bright flank."""
    corner, stamped = int(rng.integers(6)) * math.pi / 3, rng.random() < 0.75
    relief = np.zeros_like(u)
    for step in (-1, 0, 1) if stamped else ():
        at = corner + 0.17 * step
        along = u * math.cos(at) + v * math.sin(at) - STAMP
        across = v * math.cos(at) - u * math.sin(at)
        inside = cover(np.abs(along) - 0.026, EDGE)
        lean = math.sin(light - angle - at)  # which flank faces the light
        groove = np.exp(-((across / 0.008) ** 2))
        relief += inside * groove * (-0.15 + 15.0 * lean * across)
    return relief


def _shadow(
    x: Array, y: Array, center: tuple[float, float], angle: float, light: float
) -> Array:
    """Soft shadow on the side away from the light."""
    away = center[0] - 0.03 * math.cos(light), center[1] - 0.03 * math.sin(light)
    u, v = turn(x, y, away, angle)
    return cover(np.maximum(hexagon(u, v, FLAT), np.hypot(u, v) - CORNER), 0.10)


def _falloff(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Light that fades slowly across the picture, in a random direction."""
    direction, amount = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.15)
    slope = (x - 0.5) * math.cos(direction) + (y - 0.5) * math.sin(direction)
    return 1.0 + amount * slope


def _metal(
    rng: np.random.Generator, r: Array, theta: Array, light: float, body: Array
) -> Array:
    """Brightness of face, outer bevel and countersink."""
    toward = np.cos(theta - light)  # 1 where the surface leans toward the light
    rings = line_noise(rng, r / 0.4, 90)
    streak = line_noise(rng, (theta + np.pi) / (2 * np.pi) % 1.0, 24)
    gleam = np.abs(toward) ** 5  # turned metal reflects in a bow tie along the light
    face = 0.44 + 0.30 * gleam + (0.024 + 0.024 * gleam) * rings + 0.012 * streak
    slope = 0.46 + 0.26 * toward + 0.10 * np.maximum(toward, 0) ** 8
    sink = 0.40 - 0.24 * toward
    value = face + cover(FACE - r, EDGE) * (slope + 0.012 * rings - face)
    value = value + cover(r - BEVEL, EDGE) * (sink + 0.012 * rings - value)
    rim = np.exp(-(((r - FACE) / 0.006) ** 2)) + np.exp(-(((r - BEVEL) / 0.005) ** 2))
    value = value + 0.14 * rim * (0.6 + 0.4 * toward)
    return value - 0.16 * np.exp(-((np.minimum(body, 0) / 0.010) ** 2))  # dark outline


def _bore(r: Array, theta: Array, light: float, phase: float) -> Array:
    """Thread seen from above: rings of a helix that sink into the dark."""
    toward = np.cos(theta - light)
    depth = np.clip((BORE - r) / 0.055, 0.0, 1.0)
    helix = np.sin(2 * np.pi * (r / 0.019) + theta + phase)
    wall = 0.34 - 0.16 * toward + 0.13 * helix
    return 0.055 + (wall - 0.055) * (1.0 - depth) ** 1.3


def _chip(rng: np.random.Generator, u: Array, v: Array, size: int) -> Array:
    """A piece broken off one of the six corners or edges."""
    corner = (
        int(rng.integers(12)) * math.pi / 6
    )  # even numbers: corners, odd: middles of flats
    bite = rng.uniform(0.045, 0.090)
    reach = CORNER - 0.012 if round(corner * 6 / math.pi) % 2 == 0 else FLAT
    cu, cv = reach * math.cos(corner), reach * math.sin(corner)
    rough = smooth_noise(rng, size, 14)
    return cover(np.hypot(u - cu, v - cv) - bite + 0.012 * rough, EDGE)
