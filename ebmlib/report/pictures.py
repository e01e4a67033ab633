"""Photographs, maps and outlines as a page holds them: inside it, and small."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ebmlib.data.images import image_size, read_image
from ebmlib.data.mvtec_layout import Sample, read_full_mask
from ebmlib.data.resizing import resize_mask
from ebmlib.detector import EnergyDetector
from ebmlib.plotting import HEAT

SIDE = 560  # px of the longer side of a photograph on the page
QUALITY = 82  # of JPEG
GHOST = 0.4  # brightness of the photograph that shows where its map is dark


@dataclass(frozen=True)
class Scale:
    """The one color scale of all maps: from `low` to `high`, with the limit inside.

    A pixel with a value above `limit` is flagged; the limit lies in the middle.
    """

    low: float
    limit: float

    @property
    def high(self) -> float:
        """Values from here on have the last color."""
        return 2 * self.limit - self.low


@dataclass(frozen=True)
class Picture:
    """What the page shows of one photograph.

    Attributes:
        size: height and width in px, of the picture on the page.
        photo: data address of the photograph.
        heat: data address of its map.
        flagged: outline of the flagged pixels, an SVG path in px of the picture.
        marked: outline of the marked defect; "" without a mask.
        peak: largest value of the map, and where: shares of the height and the width.
        area: share of the pixels that are flagged.
    """

    size: tuple[int, int]
    photo: str
    heat: str
    flagged: str
    marked: str
    peak: tuple[float, float, float]
    area: float


def color_scale(detector: EnergyDetector, maps: Tensor) -> Scale:
    """From the usual value of some maps `(N, H, W)` to as far above the limit."""
    low, limit = float(maps.median()), detector.pixel_threshold_
    spread = float(maps.std()) or 1.0
    return Scale(min(low, limit - 1e-3 * spread), limit)


def picture(
    detector: EnergyDetector, sample: Sample, heat: Tensor, scale: Scale
) -> Picture:
    """The picture of one photograph.

    Args:
        detector: which made the map.
        sample: the file, and the mask of its defect.
        heat: its map `(H, W)`, of any size.
        scale: of the colors.
    """
    full = image_size(sample.image)
    shrink = min(1.0, SIDE / max(full))
    height, width = (max(1, round(shrink * side)) for side in full)
    small = read_image(sample.image, size=(height, width), bits=detector.bits_)
    map_ = interpolate(heat[None, None], (height, width), mode="bilinear")[0, 0]
    values = map_.numpy()
    share = ((values - scale.low) / (scale.high - scale.low)).clip(0, 1)[..., None]
    colors = mpl.colormaps[HEAT](share[..., 0])[..., :3]
    gray = small.mean(0).numpy()[..., None]
    colors = colors + GHOST * gray * (1 - share) ** 4
    at = divmod(int(heat.argmax()), heat.shape[1])
    marked = ""
    if sample.mask is not None:
        mask = read_full_mask(sample, full)
        marked = outline(resize_mask(mask.numpy(), (height, width))[0])
    return Picture(
        (height, width),
        jpeg(small.movedim(0, 2).numpy()),
        jpeg(colors),
        outline(values > scale.limit),
        marked,
        (
            float(heat.max()),
            (at[0] + 0.5) / heat.shape[0],
            (at[1] + 0.5) / heat.shape[1],
        ),
        float((heat > scale.limit).float().mean()),
    )


def jpeg(pixels: NDArray) -> str:
    """Floats (H, W, 3) in [0, 1] as the data address of a JPEG."""
    array = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def color_bar(steps: int = 16) -> list[str]:
    """The colors of the scale from low to high, as a page writes them."""
    colors = mpl.colormaps[HEAT](np.linspace(0, 1, steps))
    return [mpl.colors.to_hex(color) for color in colors]


def outline(mask: NDArray) -> str:
    """The borders of a bool mask (H, W) as an SVG path along the edges of pixels.

    A border runs on the grid lines between True and False; beyond the picture
    everything is False.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    parts = []
    for axis, letter in ((0, "h"), (1, "v")):
        across = np.diff(padded, axis=axis) != 0
        lines = across[:, 1:-1] if axis == 0 else across[1:-1].T
        edges = np.diff(np.pad(lines.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        starts, ends = np.argwhere(edges > 0), np.argwhere(edges < 0)
        for (line, start), (_, end) in zip(starts, ends, strict=True):
            x, y = (start, line) if axis == 0 else (line, start)
            parts.append(f"M{x} {y}{letter}{end - start}")
    return "".join(parts)
