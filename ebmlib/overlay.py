"""Pictures of an anomaly map: 16 bits to measure in, and an overlay to look at."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ebmlib.plotting import ANOMALOUS, HEAT

AT_THRESHOLD = 16384  # gray level of the pixel threshold in a 16-bit map
STRONGEST = 0.6  # weight of the heat where it is at least twice the threshold


def deep_map(values: Tensor, threshold: float) -> NDArray[np.uint16]:
    """A map `(H, W)` as 16-bit gray: v = threshold * gray / 16384, uint16 `(H, W)`.

    Values below 0 become 0, values from four times the threshold on 65535. With a
    threshold of 0 or less, which a map of few calibration images can have, gray is
    16384 v.
    """
    unit = threshold if threshold > 0 else 1.0
    gray = np.round(values.numpy() * (AT_THRESHOLD / unit))
    return np.clip(gray, 0, 65535).astype(np.uint16)


def overlay(
    photograph: Tensor, values: Tensor, mask: Tensor, threshold: float
) -> NDArray[np.uint8]:
    """The photograph under its map, with the mask outlined: uint8 `(H, W, 3)`.

    The heat is transparent at 0 and strongest at twice the threshold. The outline lies
    on the mask's own outermost pixels, two wide in photographs of 512 px or more.

    Args:
        photograph: `(C, H, W)` in [0, 1], C = 1 or 3.
        values: the map, `(H, W)`.
        mask: bool `(H, W)`.
        threshold: of the map.
    """
    base = photograph.expand(3, -1, -1).permute(1, 2, 0).numpy()
    unit = threshold if threshold > 0 else 1.0
    heat = np.clip(values.numpy() / (2 * unit), 0, 1)
    table = mpl.colormaps[HEAT](np.linspace(0, 1, 256))[:, :3].astype(np.float32)
    weight = STRONGEST * heat[..., None]
    mixed = (1 - weight) * base + weight * table[(255 * heat).astype(np.uint8)]
    inner = ndimage.binary_erosion(
        mask.numpy(), iterations=2 if min(mask.shape) >= 512 else 1
    )
    mixed[mask.numpy() & ~inner] = mpl.colors.to_rgb(ANOMALOUS)
    return np.round(255 * mixed).astype(np.uint8)


def save_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write a PNG that has its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        Image.fromarray(pixels).save(temporary, "PNG", compress_level=1)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
