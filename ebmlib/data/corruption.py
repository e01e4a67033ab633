"""Structured corruptions of normal images, the negatives of noise contrast.

A detector that is trained on normal images only needs examples of "not normal". These
corruptions are local, varied and mostly keep to the image's own colors. `corrupt` draws
among three kinds: a patch that is cut elsewhere and blended in (after CutPaste, Li et
al. 2021, and NSA, Schlüter et al. 2022), a thin scratch, and noise-shaped spots (after
DRAEM, Zavrtanik et al. 2021). `damage` adds two kinds that change the structure and
hardly the colors: bent parts and worn parts. None of them shares code with the test
defects of `ebmlib.data.synthetic`.

All functions take `images (B, C, H, W)` in [0, 1] and a `torch.Generator`, leave the
input unchanged, and return `(corrupted (B, C, H, W), masks (B, H, W) bool)` on the
device of the images. A mask holds the pixels of which some channel changed by more than
`MIN_CHANGE`; it is never empty. Lengths are fractions of the image's shorter side, so
corruptions look alike at 64 and at 256 pixels and are not stretched in oblong images.

All numbers are drawn where the generator lives, so a CPU generator gives the same
corruptions on every device, up to rounding. Only the pixels inside a bounding rectangle
of each corruption are computed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.random import rand, randn

MIN_CHANGE = 0.04  # a pixel is masked if some channel changed by more than this
MIN_AREA = 0.0008  # smallest mask, as a fraction of the image (and at least 3 pixels)
MIN_SIZE = 0.05  # smallest diameter when `max_size` sets the largest one
MAX_REDRAWS = 4  # redraws of an invisible corruption before it is strengthened instead

Range = tuple[float, float]
# How often `corrupt` and `damage` draw each kind.
SURFACE = {"paste": 0.5, "scratch": 0.2, "spot": 0.3}
STRUCTURE = {"paste": 0.3, "scratch": 0.15, "spot": 0.2, "bend": 0.25, "wear": 0.1}


def corrupt(
    images: Tensor,
    generator: torch.Generator,
    second: float = 0.25,
    probabilities: Mapping[str, float] = SURFACE,
    max_size: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Images with one random corruption each, some with two, and their masks.

    Args:
        images: (B, C, H, W) in [0, 1].
        generator: source of all random numbers.
        second: probability that an image gets a second corruption, in [0, 1].
        probabilities: how often each kind is drawn: "paste", "scratch", "spot", "bend"
            and "wear"; kinds left out are not drawn. The values add up to 1.
        max_size: largest diameter of patches, spots, bent and worn regions, in
            (0.1, 1]. The smallest one is then 0.05. By default each kind has the range
            of its own function.

    Raises:
        ValueError: images of another shape, or an argument out of its range.
        TypeError: images that are not a floating-point tensor.
    """
    images = _checked(images)
    if not 0 <= second <= 1:
        raise ValueError(f"second is a probability in [0, 1], got {second}.")
    _check_probabilities(probabilities)
    if max_size is not None and not 0.1 < max_size <= 1:
        raise ValueError(
            f"max_size is a fraction of the side in (0.1, 1], got {max_size}."
        )
    size = None if max_size is None else (MIN_SIZE, max_size)

    def paint(x: Tensor) -> _Painted:
        return _paint_random_kinds(x, generator, probabilities, size)

    corrupted, masks = _redraw_until_visible(paint, images)
    chosen = _Draws(images, generator).uniform((0, 1))[0] < second
    chosen = np.flatnonzero(chosen).tolist()
    if chosen:
        once, at = _rows(corrupted, chosen), _index(images, chosen)
        twice = paint(once)[0]
        twice_masks = _changed(twice, _rows(images, chosen))
        # The second corruption may have hidden the first: then it is not kept.
        fine = _large_enough(twice_masks)[:, None, None]
        masks[at] = torch.where(fine, twice_masks, masks[at])
        corrupted[at] = torch.where(fine[:, None], twice, once)
    return corrupted, masks


def damage(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`corrupt` with all five kinds, larger regions and more second corruptions."""
    return corrupt(images, generator, 0.5, STRUCTURE, max_size=0.5)


def cut_and_blend(
    images: Tensor,
    generator: torch.Generator,
    size: Range = (0.05, 0.32),
    opacity: Range = (0.4, 1.0),
) -> tuple[Tensor, Tensor]:
    """Images with a patch cut from another image or another place, and the masks.

    The patch is rotated, rescaled and sometimes shifted in color; its outline is soft
    and irregular. `size` is the range of its diameter, `opacity` that of the weight it
    is blended with.
    """
    return _one_kind(_paste, images, generator, size=size, opacity=opacity)


def scratches(
    images: Tensor,
    generator: torch.Generator,
    length: Range = (0.08, 0.5),
    width: Range = (0.008, 0.03),
) -> tuple[Tensor, Tensor]:
    """Images with one thin wavy stroke each, brighter, darker or colored; masks.

    `length` and `width` are ranges. A stroke is at least 1.2 pixels wide, so that it is
    visible in small images.
    """
    return _one_kind(_scratch, images, generator, length=length, width=width)


def noise_patches(
    images: Tensor, generator: torch.Generator, size: Range = (0.06, 0.35)
) -> tuple[Tensor, Tensor]:
    """Images with noise-shaped spots of another color and grain, and the masks.

    `size` is the range of the diameter of the region that the spots lie in.
    """
    return _one_kind(_spot, images, generator, size=size)


def bends(
    images: Tensor,
    generator: torch.Generator,
    size: Range = (0.08, 0.4),
    shift: Range = (0.015, 0.06),
) -> tuple[Tensor, Tensor]:
    """Images with a soft region that is displaced: bent, dented, torn; and masks.

    `size` is the range of the region's diameter, `shift` that of the displacement.
    """
    return _one_kind(_bend, images, generator, size=size, shift=shift)


def worn_patches(
    images: Tensor, generator: torch.Generator, size: Range = (0.06, 0.35)
) -> tuple[Tensor, Tensor]:
    """Images with a blurred region, as where an edge has worn off, and the masks.

    `size` is the range of the region's diameter.
    """
    return _one_kind(_wear, images, generator, size=size)


class _Draws:
    """Random numbers for each image of a batch, as arrays on the CPU.

    They are drawn on the device of the generator and in single precision, so that
    images of every dtype and device get the same corruptions. What follows from them
    for whole images is computed here too: a few numbers are faster in NumPy.
    """

    def __init__(self, images: Tensor, generator: torch.Generator):
        self.count, self.generator = images.shape[0], generator
        double = images.dtype == torch.float64
        self.dtype = np.float64 if double else np.float32

    def uniform(self, *ranges: Range) -> np.ndarray:
        """One number for each range and image: (len(ranges), n)."""
        values = rand((len(ranges), self.count), self.generator)
        low, span = _low_and_span(ranges, self.dtype)
        return low + span * values.cpu().numpy()

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal numbers, (n, *shape)."""
        values = randn((self.count, *shape), self.generator)
        return values.cpu().numpy().astype(self.dtype, copy=False)


@functools.lru_cache(maxsize=256)
def _low_and_span(ranges: tuple[Range, ...], dtype: type) -> np.ndarray:
    """Lower ends and lengths of ranges, two columns: (2, len(ranges), 1)."""
    rows = [[low for low, _ in ranges], [high - low for low, high in ranges]]
    return np.array(rows, dtype)[..., None]


class _Window(NamedTuple):
    """Rectangles of one shape, one in each image of a batch."""

    places: list[tuple[slice, slice]]  # rows and columns of each
    x: np.ndarray  # (n, w), offsets of the columns from a center, in shorter sides
    y: np.ndarray  # (n, h), those of the rows

    def cut(self, images: Tensor) -> Tensor:
        """What lies inside, maybe as a view: (n, ..., H, W) -> (n, ..., h, w)."""
        if len(self.places) == 1:
            rows, columns = self.places[0]
            return images[..., rows, columns]
        parts = zip(images.unbind(), self.places, strict=True)
        return torch.stack([x[..., rows, columns] for x, (rows, columns) in parts])

    def rotated(self, images: Tensor, c: np.ndarray, s: np.ndarray) -> Tensor:
        """The coordinates (c x + s y, c y - s x) of the pixels: (2, n, h, w)."""
        c, s, x, y = c[:, None], s[:, None], self.x, self.y
        across, down = np.array([c * x, -s * x]), np.array([s * y, c * y])
        return _like(images, across[:, :, None, :]) + _like(images, down[..., None])

    def at_center(self, field: Tensor) -> Tensor:
        """Value of a field (n, h, w) at the pixel nearest to the center: (n, 1, 1)."""
        nearest = abs(self.y).argmin(1) * self.x.shape[1] + abs(self.x).argmin(1)
        return field.flatten(1).gather(1, _index(field, nearest)[:, None])[..., None]


class _Patch(NamedTuple):
    """What one kind of corruption makes of a batch, inside its window."""

    window: _Window
    pixels: Tensor  # (n, C, h, w)
    opacity: Tensor  # (n, h, w) in [0, 1], 0 where nothing changes

    def write(self, images: Tensor, rows: Iterable[int]) -> list[_Place]:
        """Put patch k into image `rows[k]`; returns the places that were changed."""
        places = self.window.places
        parts = zip(rows, places, self.pixels.unbind(), strict=True)
        for row, (down, across), pixels in parts:
            images[row, :, down, across] = pixels
        opacities = zip(places, self.opacity.unbind(), strict=True)
        return [_Place(*place, opacity) for place, opacity in opacities]


class _Place(NamedTuple):
    """Where one image was changed, and how opaque the change is."""

    rows: slice
    columns: slice
    opacity: Tensor  # (h, w)


_Painted = tuple[Tensor, list[_Place]]  # corrupted images (B, C, H, W), B places


def _one_kind(
    kind: Callable[..., _Patch],
    images: Tensor,
    generator: torch.Generator,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    images = _checked(images)
    for name, (low, high) in options.items():
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"{name} is a range (low, high) with 0 < low <= high <= 1, got "
                f"{(low, high)}."
            )

    def paint(x: Tensor) -> _Painted:
        corrupted = x.clone()
        patch = kind(x, _Draws(x, generator), **options)
        return corrupted, patch.write(corrupted, range(len(x)))

    return _redraw_until_visible(paint, images)


def _paint_random_kinds(
    images: Tensor,
    generator: torch.Generator,
    probabilities: Mapping[str, float],
    size: Range | None,
) -> _Painted:
    """Each image with a corruption of a kind drawn by `probabilities`."""
    drawn = [name for name in KINDS if probabilities.get(name, 0) > 0]
    draw = _Draws(images, generator).uniform((0, 1))[0]
    ends = np.cumsum([probabilities[name] for name in drawn[:-1]]).astype(draw.dtype)
    picked = (draw[:, None] >= ends).sum(1)
    corrupted = images.clone()
    places: dict[int, _Place] = {}
    for k, name in enumerate(drawn):
        mine = np.flatnonzero(picked == k).tolist()
        if not mine:
            continue
        options: dict[str, Any] = {}
        if size is not None and name != "scratch":
            options["size"] = size
        if name == "paste":
            options |= {"donors": images, "own": mine}
        x = _rows(images, mine)
        patch = KINDS[name](x, _Draws(x, generator), **options)
        places |= dict(zip(mine, patch.write(corrupted, mine), strict=True))
    return corrupted, [places[row] for row in range(len(images))]


def _paste(
    images: Tensor,
    draws: _Draws,
    size: Range = (0.05, 0.32),
    opacity: Range = (0.4, 1.0),
    donors: Tensor | None = None,
    own: Sequence[int] | None = None,
) -> _Patch:
    """Blend in what lies at a rotated, rescaled place of a donor image.

    `own` is each image's place among the `donors`: the images themselves if None.
    """
    donors = images if donors is None else donors
    own = range(len(images)) if own is None else own
    right, below = _extent(images)
    other, cx, cy, distance, angle, turn, zoom, shifted = draws.uniform(
        *((0, 1), (0.04, 0.96), (0.04, 0.96), (0.03, 0.35), (0, 2 * math.pi)),
        *((-1, 1), (-0.4, 0.4), (0, 1)),
    )
    gain, shift = _color_change(images, draws, 0.25)
    region = _region(images, draws, right * cx, below * cy, size)
    (weight,) = draws.uniform(opacity)

    turn = turn * turn * turn * math.pi  # mostly small, sometimes any angle
    (zoom,), (c, far_x), (s, far_y) = _exp(zoom), _cos(turn, angle), _sin(turn, angle)
    from_x = _fold((right * cx + distance * far_x) / right)
    from_y = _fold((below * cy + distance * far_y) / below)
    x, y = region.window.rotated(images, c / zoom, -s / zoom)
    at_x, at_y, alpha, shifts = _send(images, from_x, from_y, weight, shifted)
    at = torch.stack([x.div_(right).add_(at_x), y.div_(below).add_(at_y)], dim=-1)
    steps = (other * len(donors)).astype(np.int64)  # 0: the image itself
    source = _rows(donors, ((own + steps) % len(donors)).tolist())
    patch = F.grid_sample(
        source, at.mul_(2).sub_(1), padding_mode="reflection", align_corners=False
    )
    shifts = (shifts < 0.5)[:, None]  # (n, 1, 1, 1)
    patch = patch.mul_(torch.where(shifts, gain, 1.0))
    patch = patch.add_(torch.where(shifts, shift, 0.0)).clamp_(0, 1)
    return region.blend(images, patch, alpha)


def _scratch(
    images: Tensor,
    draws: _Draws,
    length: Range = (0.08, 0.5),
    width: Range = (0.008, 0.03),
) -> _Patch:
    """Draw the graph of a wave in a rotated frame, cut off at both ends."""
    right, below = _extent(images)
    pixel = 1 / min(images.shape[-2:])
    cx, cy, angle, long, bow, swing, phase, *numbers = draws.uniform(
        *((0.1, 0.9), (0.1, 0.9), (0, math.pi), length, (-1.5, 1.5), (0, 0.012)),
        *((0, 2 * math.pi), (10, 40), width, (0.12, 0.5), (0, 1), (0, 1), (0.4, 1.0)),
        (0, 1),
    )
    rate, thick, shade, sign, covers, cover, pick = numbers
    cx, cy, half = right * cx, below * cy, long / 2
    thick = np.maximum(thick, draws.dtype(1.2 * pixel)) / 2
    # |u| <= end and |v| <= wide holds all that is drawn: the wave, and its thickness
    # measured along v, where it is larger by at most 1 + steepest.
    end = half + pixel
    steepest = 2 * abs(bow) * end + swing * rate
    wide = abs(bow) * end * end + 2 * swing + (thick + pixel) * (1 + steepest)
    (c,), (s, sine) = _cos(angle), _sin(angle, phase)
    window = _window(images, cx, cy, c, s, end, wide)
    shade = np.where(sign < 0.5, -shade, shade)
    cover = np.where(covers < 0.4, cover, draws.dtype(0))

    u, v = window.rotated(images, c, s)  # along the scratch, and across it
    half, bow, swing, phase, sine, rate, thick, shade, cover = _send(
        images, half, bow, swing, phase, sine, rate, thick, shade, cover
    )
    angles = (rate * u).add_(phase)
    wave = (bow * u).mul_(u).add_((torch.sin(angles).sub_(sine)).mul_(swing))
    slope = (2 * bow * u).add_(torch.cos(angles).mul_(swing * rate))
    across = v.sub_(wave).abs_().div_(slope.square_().add_(1).sqrt_())
    away = torch.maximum(across.sub_(thick), u.abs_().sub_(half))
    shape = (0.5 - away.div_(pixel)).clamp_(0, 1)
    # Either shade what is there, or cover it by a color found elsewhere in the image.
    cover, shade = cover[:, None], shade[:, None]  # (n, 1, 1, 1)
    ink = torch.where(cover > 0, cover * _picked_color(images, pick), shade)
    inside = window.cut(images)
    layer = (inside * (1 - cover)).add_(ink).clamp_(0, 1)
    return _Patch(window, torch.lerp(inside, layer, shape[:, None]), shape)


def _spot(images: Tensor, draws: _Draws, size: Range = (0.06, 0.35)) -> _Patch:
    """Change color and grain where a smooth field exceeds its value at the center."""
    right, below = _extent(images)
    cx, cy = draws.uniform((0.05, 0.95), (0.05, 0.95))
    region = _region(images, draws, right * cx, below * cy, size)
    field = _field(images, draws, 12)
    excess, inked, keep, pick = draws.uniform((0.05, 0.5), (0, 1), (0.0, 0.7), (0, 1))
    tint = draws.dtype(0.12) * draws.normal(images.shape[1], 1, 1)
    gain, shift = _color_change(images, draws, 0.4)
    grain = _field(images, draws, 40)
    (strength,) = draws.uniform((0, 0.2))
    excess, inked, keep, strength = _send(images, excess, inked, keep, strength)

    field = region.window.cut(field)
    spots = (field - (region.window.at_center(field) - excess)).div_(0.12).add_(0.5)
    spots = spots.clamp_(0, 1).mul_(region.shape)
    inked, keep = (inked < 0.4)[:, None], keep[:, None]  # (n, 1, 1, 1)
    ink = _picked_color(images, pick) + _like(images, tint)
    layer = region.window.cut(images) * torch.where(inked, keep, gain)
    layer += torch.where(inked, (1 - keep) * ink, shift)
    layer += (region.window.cut(grain) * strength)[:, None]
    return region._replace(shape=spots).blend(images, layer.clamp_(0, 1))


def _bend(
    images: Tensor,
    draws: _Draws,
    size: Range = (0.08, 0.4),
    shift: Range = (0.015, 0.06),
) -> _Patch:
    """Sample each pixel of a soft region from a place a little to one side."""
    right, below = _extent(images)
    cx, cy = draws.uniform((0.04, 0.96), (0.04, 0.96))
    cx, cy = right * cx, below * cy
    region = _region(images, draws, cx, cy, size)
    angle, far = draws.uniform((0, 2 * math.pi), shift)
    (c,), (s,) = _cos(angle), _sin(angle)
    dx, dy = _send(images, far * c, far * s)
    window, shape = region.window, region.shape
    x = _like(images, (window.x + cx[:, None])[:, None, :]) - dx * shape
    y = _like(images, (window.y + cy[:, None])[:, :, None]) - dy * shape
    at = torch.stack([x.div_(right), y.div_(below)], dim=-1).mul_(2).sub_(1)
    moved = F.grid_sample(images, at, padding_mode="border", align_corners=False)
    pixels = torch.where(shape[:, None] > 0, moved, window.cut(images))
    return _Patch(window, pixels, shape)


def _wear(images: Tensor, draws: _Draws, size: Range = (0.06, 0.35)) -> _Patch:
    """Show the image through cells of 1/40 to 1/12 of the side, inside a region."""
    height, width = images.shape[-2:]
    right, below = _extent(images)
    cells, cx, cy = draws.uniform((12, 40), (0.05, 0.95), (0.05, 0.95))
    side = float(cells[0])  # one for all images of the call
    grid = max(1, round(side * below)), max(1, round(side * right))
    coarse = F.adaptive_avg_pool2d(images, (min(grid[0], height), min(grid[1], width)))
    layer = F.interpolate(coarse, (height, width), mode="bilinear")
    region = _region(images, draws, right * cx, below * cy, size)
    (weight,) = _send(images, *draws.uniform((0.6, 1.0)))
    return region.blend(images, region.window.cut(layer), weight)


KINDS: dict[str, Callable[..., _Patch]] = {
    "paste": _paste,
    "scratch": _scratch,
    "spot": _spot,
    "bend": _bend,
    "wear": _wear,
}


class _Region(NamedTuple):
    """A soft irregular region inside a window."""

    window: _Window
    shape: Tensor  # (n, h, w) in [0, 1]

    def blend(
        self, images: Tensor, layer: Tensor, weight: Tensor | None = None
    ) -> _Patch:
        """The images with `layer (n, C, h, w)` over them where the region is."""
        alpha = self.shape if weight is None else self.shape * weight
        pixels = torch.lerp(self.window.cut(images), layer, alpha[:, None])
        return _Patch(self.window, pixels, self.shape)


def _region(
    images: Tensor, draws: _Draws, cx: np.ndarray, cy: np.ndarray, size: Range
) -> _Region:
    """A random region around `cx, cy (n,)`, between an ellipse and a rectangle.

    In coordinates in which the ellipse is the unit circle and the rectangle the unit
    square, the region ends where |p| = 1 + amount * bumps, with bumps in [-2, 2].
    """
    low, high = size
    pixel = 1 / min(images.shape[-2:])
    spread, angle, slant, roundness = draws.uniform(
        (0, 1), (0, math.pi), (-0.7, 0.7), (0, 1)
    )
    bumps = _field(images, draws, 8)
    amount, softness = draws.uniform((0, 0.5), (0.05, 0.5))
    # Small ones are as frequent as large ones.
    radius = torch.pow(high / low, torch.from_numpy(spread)).mul_(0.5 * low).numpy()
    (aspect,), (c,), (s,) = _exp(slant), _cos(angle), _sin(angle)
    a, b = radius * aspect, radius / aspect
    soft = np.maximum(softness * radius, draws.dtype(0.75 * pixel)) / radius
    reach = 1 + 2 * amount + 0.5 * soft
    window = _window(images, cx, cy, c, s, reach * a, reach * b)

    p = window.rotated(images, c, s)  # (2, n, h, w)
    a, b, roundness, flatness, amount, soft = _send(
        images, a, b, roundness, 1 - roundness, amount, soft
    )
    p = p.div_(torch.stack([a, b]))
    box = p.abs().amax(0)
    ellipse = p.square_().sum(0).sqrt_()
    away = ellipse.mul_(roundness).add_(box.mul_(flatness)).sub_(1)
    bumps = window.cut(bumps)
    away += (bumps - window.at_center(bumps)).clamp_(-2, 2).mul_(amount)
    return _Region(window, (0.5 - away.div_(soft)).clamp_(0, 1))


def _window(
    images: Tensor,
    cx: np.ndarray,
    cy: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
) -> _Window:
    """Windows that hold rotated rectangles of half sides `a, b`; arguments are (n,)."""
    cos, sin, side = abs(cos), abs(sin), min(images.shape[-2:])
    rows, y = _interval(cy, sin * a + cos * b, images.shape[-2], side)
    columns, x = _interval(cx, cos * a + sin * b, images.shape[-1], side)
    return _Window(list(zip(rows, columns, strict=True)), x, y)


def _interval(
    center: np.ndarray, half: np.ndarray, size: int, side: int
) -> tuple[list[slice], np.ndarray]:
    """Intervals of one length that hold center -+ half, and the offsets in them.

    `center` and `half` are in units of `side` pixels, `size` is the number of pixels.
    """
    # A pixel more at both ends, because the bounds are rounded too.
    first = np.maximum((center - half) * side - 1.5, 0).astype(np.int64)
    end = np.minimum((center + half) * side + 2.5, size).astype(np.int64)
    length = int((end - first).max())
    first = np.minimum(first, size - length)
    pixels = (first[:, None] + np.arange(length)).astype(center.dtype)
    offsets = (pixels + 0.5) / side - center[:, None]
    return [slice(i, i + length) for i in first.tolist()], offsets


def _redraw_until_visible(
    paint: Callable[[Tensor], _Painted], images: Tensor
) -> tuple[Tensor, Tensor]:
    """Corrupted images and masks; what redraws leave invisible is strengthened."""
    corrupted, places = paint(images)
    masks = _changed(corrupted, images)
    weak = _indices(~_large_enough(masks))
    for _ in range(MAX_REDRAWS):
        if not weak:
            return corrupted, masks
        at, x = _index(images, weak), _rows(images, weak)
        redrawn, new_places = paint(x)
        corrupted[at], masks[at] = redrawn, _changed(redrawn, x)
        for row, place in zip(weak, new_places, strict=True):
            places[row] = place
        weak = _indices(~_large_enough(masks))
    for row in weak:
        rows, columns, opacity = places[row]
        alpha = opacity / opacity.amax().clamp_min(1e-6)
        x = images[row, :, rows, columns]
        corrupted[row] = images[row]
        corrupted[row, :, rows, columns] = x + alpha * torch.where(x < 0.5, 0.4, -0.4)
        masks[row] = _changed(corrupted[row][None], images[row][None])[0]
    return corrupted, masks


def _changed(corrupted: Tensor, images: Tensor) -> Tensor:
    """Mask `(B, H, W)` of the pixels that changed by more than `MIN_CHANGE`."""
    return (corrupted - images).abs_().amax(dim=1) > MIN_CHANGE


def _large_enough(masks: Tensor) -> Tensor:
    """Whether each mask has enough pixels to count as a corruption, `(B,)` bool."""
    pixels = masks.sum(dim=(1, 2))
    return pixels >= max(3, MIN_AREA * masks[0].numel())


def _indices(chosen: Tensor) -> list[int]:
    """Where a bool tensor `(B,)` is True."""
    return [i for i, value in enumerate(chosen.tolist()) if value]


def _rows(images: Tensor, rows: Sequence[int]) -> Tensor:
    """Some images of a batch, a view if it is one."""
    if len(rows) == 1:
        return images[rows[0] : rows[0] + 1]
    return images[_index(images, rows)]


def _index(images: Tensor, rows: Sequence[int] | np.ndarray) -> Tensor:
    """Row numbers as an index on the device of the images."""
    return torch.as_tensor(rows).to(images.device, non_blocking=images.is_cuda)


def _like(images: Tensor, values: np.ndarray) -> Tensor:
    """An array as a tensor of the device and dtype of the images."""
    return torch.from_numpy(values).to(images, non_blocking=images.is_cuda)


def _send(images: Tensor, *numbers: np.ndarray) -> tuple[Tensor, ...]:
    """Numbers `(n,)` as `(n, 1, 1)` on the device of the images, by one transfer."""
    return _like(images, np.array(numbers)[..., None, None]).unbind()


def _extent(images: Tensor) -> tuple[float, float]:
    """Width and height in units of the shorter side: (1, 1) for a square."""
    height, width = images.shape[-2:]
    side = min(height, width)
    return width / side, height / side


def _fold(position: np.ndarray) -> np.ndarray:
    """Reflect positions back into [0, 1]."""
    return 1 - abs(position % 2 - 1)


# By torch, because NumPy rounds these functions differently.
def _cos(*angles: np.ndarray) -> np.ndarray:
    return torch.cos(torch.from_numpy(np.array(angles))).numpy()


def _sin(*angles: np.ndarray) -> np.ndarray:
    return torch.sin(torch.from_numpy(np.array(angles))).numpy()


def _exp(*powers: np.ndarray) -> np.ndarray:
    return torch.exp(torch.from_numpy(np.array(powers))).numpy()


def _field(images: Tensor, draws: _Draws, cells: int) -> Tensor:
    """Smooth random field `(n, H, W)`, mean 0, spread about 0.7, `cells` a side."""
    right, below = _extent(images)
    lattice = draws.normal(1, round(cells * below), round(cells * right))
    size = images.shape[-2:]
    return F.interpolate(_like(images, lattice), size, mode="bicubic")[:, 0]


def _color_change(
    images: Tensor, draws: _Draws, amount: float
) -> tuple[Tensor, Tensor]:
    """Gain per channel and shift, `(n, C, 1, 1)` and `(n, 1, 1, 1)`."""
    (draw,) = draws.uniform((0, 1))
    tint = 0.35 * amount * draws.normal(images.shape[1], 1, 1)
    gain = (1 + amount * (2 * draw - 1))[:, None, None, None] + tint
    shift = 0.4 * amount * draws.normal(1, 1, 1)
    return _like(images, gain), _like(images, shift)


def _picked_color(images: Tensor, pick: np.ndarray) -> Tensor:
    """The color of the pixel at `pick (n,)` in [0, 1) of all pixels: `(n, C, 1, 1)`."""
    place = _index(images, (pick * images[0, 0].numel()).astype(np.int64))
    at = place[:, None, None].expand(-1, images.shape[1], 1)  # (n, C, 1)
    return images.flatten(2).gather(2, at)[..., None]


def _checked(images: Any) -> Tensor:
    """The images without a graph, if they are what the functions take."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a float tensor in [0, 1], got {kind}.")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images must be (B, C, H, W), none of them 0, got {tuple(images.shape)}; "
            "add a batch dimension to a single image with image[None]."
        )
    return images.detach()


def _check_probabilities(probabilities: Mapping[str, float]) -> None:
    unknown = sorted(set(probabilities) - set(KINDS))
    if unknown:
        raise ValueError(
            f"probabilities has unknown kinds {unknown}; there are {[*KINDS]}."
        )
    values = list(probabilities.values())
    if not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(
            "probabilities must lie in [0, 1] and add up to 1, got "
            f"{dict(probabilities)}."
        )
