"""Structured corruptions, to learn an energy by contrast (chapters 5 and 7).

A detector trained on normal images only still needs to be told what "not normal" could
look like. These corruptions are local, varied and mostly faithful to the image's own
colors. `corrupt` draws among three: a patch cut elsewhere and blended in (after
CutPaste, Li et al. 2021, and NSA, Schlüter et al. 2022), thin scratches, and
noise-shaped spots (after DRAEM, Zavrtanik et al. 2021). `damage` adds two that make
no color but what lies between existing ones, and change the structure only: parts that
are bent, and parts that are worn smooth. They share no code with the test
defects of `ebmlib.data.synthetic`.

All functions take `images (B, C, H, W)` in [0, 1] and a `torch.Generator`, leave the
input as it is, and return `(corrupted (B, C, H, W), masks (B, H, W) bool)`. A mask
marks the pixels that changed by more than `VISIBLE` in some channel and is never empty.
Lengths are shares of the image's shorter side, so a corruption looks alike at 64 and at
256 pixels, and is not stretched in an oblong image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VISIBLE = 0.04  # smallest change of a channel that counts as changed
SMALLEST = 0.0008  # a corruption covers at least this share of the image (and 3 pixels)
SMALL = 0.05  # smallest diameter where only the largest is chosen
TRIES = 4  # redraws before the corruption is strengthened instead

Painted = tuple[Tensor, Tensor]  # corrupted images, opacity in [0, 1] (B, H, W)
# How often each kind is drawn: cut, scratched, spotted, bent, worn.
SURFACE = (0.5, 0.2, 0.3, 0.0, 0.0)
STRUCTURE = (0.3, 0.15, 0.2, 0.25, 0.1)


def corrupt(
    images: Tensor,
    generator: torch.Generator,
    again: float = 0.25,
    shares: tuple[float, ...] = SURFACE,
    largest: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupt each image by one of the kinds, some (share `again`) by two.

    `shares` says how often each kind is drawn, `largest` bounds the diameters of
    patches, spots, bent and worn regions (else each kind has its own bound).

    Raises:
        ValueError: `images` is not `(B, C, H, W)`, `again` not in [0, 1], `largest` not
            in (0.1, 1], or `shares` are not five numbers that add up to 1.
        TypeError: `images` is not a floating-point tensor.
    """
    _check(images)
    if not 0 <= again <= 1:
        raise ValueError(f"again is a share in [0, 1], got {again}.")
    if len(shares) != 5 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares are five numbers that add up to 1, got {shares}.")
    if largest is not None and not 0.1 < largest <= 1:
        raise ValueError(f"largest is a share of the side in (0.1, 1], got {largest}.")

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _any_kind(x, g, shares, largest)

    corrupted, masks = _visible(paint, images, generator)
    chosen = torch.nonzero(_uniform(len(images), generator, images) < again).flatten()
    if len(chosen):
        twice = paint(corrupted[chosen], generator)[0]
        twice_masks = _changed(twice, images[chosen])
        fine = _enough(twice_masks)  # the second may have hidden the first
        corrupted[chosen[fine]], masks[chosen[fine]] = twice[fine], twice_masks[fine]
    return corrupted, masks


def damage(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`corrupt`, with bent and worn parts among the kinds, large ones, and more."""
    return corrupt(images, generator, again=0.5, shares=STRUCTURE, largest=0.5)


def cut_and_blend(
    images: Tensor,
    generator: torch.Generator,
    size: tuple[float, float] = (0.05, 0.32),
    opacity: tuple[float, float] = (0.4, 1.0),
) -> tuple[Tensor, Tensor]:
    """Blend in a patch that was cut from another image, or from another place.

    The patch is turned, rescaled and sometimes shifted in color; its outline is soft
    and irregular. `size` is the range of its diameter as a share of the image's side,
    `opacity` the range of the blending weight.
    """
    _check(images)

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _paste(x, g, size, opacity)

    return _visible(paint, images, generator)


def scratches(
    images: Tensor,
    generator: torch.Generator,
    length: tuple[float, float] = (0.08, 0.5),
    width: tuple[float, float] = (0.008, 0.03),
) -> tuple[Tensor, Tensor]:
    """Draw one thin wavy stroke per image, brighter, darker or of another color.

    `length` and `width` are ranges, as shares of the image's side; a stroke is never
    thinner than 1.2 pixels, or it would vanish in small images.
    """
    _check(images)

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _stroke(x, g, length, width)

    return _visible(paint, images, generator)


def noise_patches(
    images: Tensor, generator: torch.Generator, size: tuple[float, float] = (0.06, 0.35)
) -> tuple[Tensor, Tensor]:
    """Change color and grain inside spots that are shaped by smooth noise.

    `size` is the range of the diameter of the window that the spots lie in.
    """
    _check(images)

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _spot(x, g, size)

    return _visible(paint, images, generator)


def bends(
    images: Tensor,
    generator: torch.Generator,
    size: tuple[float, float] = (0.08, 0.4),
    shift: tuple[float, float] = (0.015, 0.06),
) -> tuple[Tensor, Tensor]:
    """Displace what lies in a soft region: bent, dented, swollen, torn out of line.

    `size` is the range of the region's diameter, `shift` that of the displacement.
    """
    _check(images)

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _bend(x, g, size, shift)

    return _visible(paint, images, generator)


def worn_patches(
    images: Tensor, generator: torch.Generator, size: tuple[float, float] = (0.06, 0.35)
) -> tuple[Tensor, Tensor]:
    """Blur what lies in a region: an edge, a thread or a grain that has worn off."""
    _check(images)

    def paint(x: Tensor, g: torch.Generator) -> Painted:
        return _wear(x, g, size)

    return _visible(paint, images, generator)


def _any_kind(
    images: Tensor,
    generator: torch.Generator,
    shares: tuple[float, ...],
    largest: float | None,
) -> Painted:
    """Each image by a kind drawn with the weights `shares`."""
    draw = _uniform(len(images), generator, images)
    corrupted, opacity = images.clone(), images.new_zeros(images[:, 0].shape)
    low = 0.0
    for kind, share in zip((_paste, _stroke, _spot, _bend, _wear), shares, strict=True):
        last = low + share >= 1 - 1e-6  # rounding must not leave an image out
        mine = torch.nonzero((draw >= low) & ((draw < low + share) | last)).flatten()
        low += share
        if not share or not len(mine):
            continue
        more = {"donors": images, "own": mine} if kind is _paste else {}
        if largest is not None and kind is not _stroke:
            more["size"] = (SMALL, largest)
        corrupted[mine], opacity[mine] = kind(images[mine], generator, **more)
    return corrupted, opacity


def _paste(
    images: Tensor,
    generator: torch.Generator,
    size: tuple[float, float] = (0.05, 0.32),
    opacity: tuple[float, float] = (0.4, 1.0),
    donors: Tensor | None = None,
    own: Tensor | None = None,
) -> Painted:
    """Cut at a turned, rescaled place of a donor image and blend into each image."""
    count = len(images)
    donors = images if donors is None else donors
    own = torch.arange(count, device=images.device) if own is None else own

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * _uniform(count, generator, images)

    step = (draw(0, 1) * len(donors)).long()  # 0: the image itself
    source = donors[(own + step) % len(donors)]
    right, below = _extent(images)
    cx, cy = right * draw(0.04, 0.96), below * draw(0.04, 0.96)
    distance, angle = draw(0.03, 0.35), draw(0, 2 * math.pi)
    turn = draw(-1, 1) ** 3 * math.pi  # mostly small, sometimes any angle
    zoom = torch.exp(draw(-0.4, 0.4))
    x, y = _centered(images, cx, cy)
    c, s = (
        (torch.cos(turn) / zoom)[:, None, None],
        (torch.sin(turn) / zoom)[:, None, None],
    )
    from_x = cx + distance * torch.cos(angle)
    from_y = cy + distance * torch.sin(angle)
    at = torch.stack(
        [
            (c * x - s * y) / right + _fold(from_x / right)[:, None, None],
            (s * x + c * y) / below + _fold(from_y / below)[:, None, None],
        ],
        dim=-1,
    )
    patch = F.grid_sample(
        source, 2 * at - 1, padding_mode="reflection", align_corners=False
    )
    shifted = (draw(0, 1) < 0.5)[:, None, None, None]
    gain, shift = _color_change(images, generator, 0.25)
    patch = patch.mul_(torch.where(shifted, gain, 1.0)).add_(
        torch.where(shifted, shift, 0.0)
    )
    shape = _outline(images, generator, x, y, size)
    alpha = shape * draw(*opacity)[:, None, None]
    return torch.lerp(images, patch.clamp_(0, 1), alpha[:, None]), shape


def _stroke(
    images: Tensor,
    generator: torch.Generator,
    length: tuple[float, float] = (0.08, 0.5),
    width: tuple[float, float] = (0.008, 0.03),
) -> Painted:
    """A stroke is the graph of a wave in a turned frame, cut off at both ends."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * _uniform(count, generator, images))[:, None, None]

    right, below = _extent(images)
    cx, cy = draw(0.1, 0.9).flatten(), draw(0.1, 0.9).flatten()
    x, y = _centered(images, right * cx, below * cy)
    angle, half = draw(0, math.pi), draw(*length) / 2
    u = torch.cos(angle) * x + torch.sin(angle) * y
    v = torch.cos(angle) * y - torch.sin(angle) * x
    bow, swing, phase = draw(-1.5, 1.5), draw(0, 0.012), draw(0, 2 * math.pi)
    rate = draw(10, 40)
    wave = bow * u * u + swing * (torch.sin(rate * u + phase) - torch.sin(phase))
    slope = 2 * bow * u + swing * rate * torch.cos(rate * u + phase)
    pixel = 1 / min(images.shape[-2:])
    thick = draw(*width).clamp_min(1.2 * pixel) / 2
    across = (v - wave).abs() / torch.sqrt(1 + slope * slope)
    away = torch.maximum(across - thick, u.abs() - half)
    shape = (0.5 - away / (1.0 * pixel)).clamp(0, 1)
    # Either shade what is there, or cover it by a color found elsewhere in the image.
    shade = draw(0.12, 0.5) * torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    cover = torch.where(draw(0, 1) < 0.4, draw(0.4, 1.0), 0.0)[:, None]  # (B, 1, 1, 1)
    ink = _picked_color(images, generator)
    layer = images * (1 - cover) + torch.where(cover > 0, cover * ink, shade[:, None])
    return torch.lerp(images, layer.clamp_(0, 1), shape[:, None]), shape


def _spot(
    images: Tensor,
    generator: torch.Generator,
    size: tuple[float, float] = (0.06, 0.35),
) -> Painted:
    """Spots where a smooth field exceeds its value at the window's center."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * _uniform(count, generator, images)

    right, below = _extent(images)
    x, y = _centered(images, right * draw(0.05, 0.95), below * draw(0.05, 0.95))
    window = _outline(images, generator, x, y, size)
    field = _field(images, generator, 12)
    level = _at_center(field, x, y) - draw(0.05, 0.5)[:, None, None]
    shape = window * ((field - level) / 0.12 + 0.5).clamp(0, 1)
    inked = (draw(0, 1) < 0.4)[:, None, None, None]
    keep = draw(0.0, 0.7)[:, None, None, None]
    ink = _picked_color(images, generator) + 0.12 * _normal(
        (count, images.shape[1], 1, 1), generator, images
    )
    gain, shift = _color_change(images, generator, 0.4)
    layer = images * torch.where(inked, keep, gain)
    layer += torch.where(inked, (1 - keep) * ink, shift)
    layer += (_field(images, generator, 40) * draw(0, 0.2)[:, None, None])[:, None]
    return torch.lerp(images, layer.clamp_(0, 1), shape[:, None]), shape


def _bend(
    images: Tensor,
    generator: torch.Generator,
    size: tuple[float, float] = (0.08, 0.4),
    shift: tuple[float, float] = (0.015, 0.06),
) -> Painted:
    """Sample each pixel of a soft region from a place a little to one side."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * _uniform(count, generator, images)

    right, below = _extent(images)
    cx, cy = right * draw(0.04, 0.96), below * draw(0.04, 0.96)
    x, y = _centered(images, cx, cy)
    shape = _outline(images, generator, x, y, size)
    angle, far = draw(0, 2 * math.pi), draw(*shift)
    dx = (far * torch.cos(angle))[:, None, None] * shape
    dy = (far * torch.sin(angle))[:, None, None] * shape
    at = torch.stack(
        [
            (x + cx[:, None, None] - dx) / right,
            (y + cy[:, None, None] - dy) / below,
        ],
        dim=-1,
    )
    moved = F.grid_sample(
        images, 2 * at - 1, padding_mode="border", align_corners=False
    )
    return torch.where(shape[:, None] > 0, moved, images), shape


def _wear(
    images: Tensor, generator: torch.Generator, size: tuple[float, float] = (0.06, 0.35)
) -> Painted:
    """Inside a region, the image seen through cells of 1/40 to 1/12 of the side."""
    count = len(images)
    height, width = images.shape[-2:]

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * _uniform(count, generator, images))[:, None, None]

    right, below = _extent(images)
    cells = float(draw(12, 40)[0])
    grid = max(1, round(cells * below)), max(1, round(cells * right))
    grid = min(grid[0], height), min(grid[1], width)
    coarse = F.adaptive_avg_pool2d(images, grid)
    layer = F.interpolate(coarse, (height, width), mode="bilinear")
    cx, cy = (right * draw(0.05, 0.95)).flatten(), (below * draw(0.05, 0.95)).flatten()
    x, y = _centered(images, cx, cy)
    shape = _outline(images, generator, x, y, size)
    alpha = shape * draw(0.6, 1.0)
    return torch.lerp(images, layer, alpha[:, None]), shape


def _visible(
    paint: Callable[[Tensor, torch.Generator], Painted],
    images: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Paint; redraw what does not show; strengthen what still does not show."""
    corrupted, opacity = paint(images, generator)
    masks = _changed(corrupted, images)
    for _ in range(TRIES):
        weak = torch.nonzero(~_enough(masks)).flatten()
        if not len(weak):
            return corrupted, masks
        corrupted[weak], opacity[weak] = paint(images[weak], generator)
        masks[weak] = _changed(corrupted[weak], images[weak])
    weak = torch.nonzero(~_enough(masks)).flatten()
    if len(weak):
        x = images[weak]
        peak = opacity[weak].amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        alpha = (opacity[weak] / peak)[:, None]
        corrupted[weak] = x + alpha * torch.where(x < 0.5, 0.4, -0.4)
        masks[weak] = _changed(corrupted[weak], x)
    return corrupted, masks


def _changed(corrupted: Tensor, images: Tensor) -> Tensor:
    """Mask `(B, H, W)` of the pixels that changed visibly."""
    return (corrupted - images).abs().amax(dim=1) > VISIBLE


def _enough(masks: Tensor) -> Tensor:
    """Whether each mask is large enough to count as a corruption, `(B,)` bool."""
    pixels = masks.sum(dim=(1, 2))
    return pixels >= max(3, SMALLEST * masks[0].numel())


def _outline(
    images: Tensor,
    generator: torch.Generator,
    x: Tensor,
    y: Tensor,
    size: tuple[float, float],
) -> Tensor:
    """Soft irregular region around the origin of `x, y`: `(B, H, W)` in [0, 1]."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * _uniform(count, generator, images))[:, None, None]

    low, high = size
    radius = 0.5 * low * (high / low) ** draw(0, 1)  # small ones as often as large ones
    angle, aspect = draw(0, math.pi), torch.exp(draw(-0.7, 0.7))
    u = (torch.cos(angle) * x + torch.sin(angle) * y) / (radius * aspect)
    v = (torch.cos(angle) * y - torch.sin(angle) * x) / (radius / aspect)
    ellipse = torch.sqrt(u * u + v * v)
    box = torch.maximum(u.abs(), v.abs())
    round_ = draw(0, 1)
    away = ellipse * round_ + box * (1 - round_) - 1
    bumps = _field(images, generator, 8)
    away = away + draw(0, 0.5) * (bumps - _at_center(bumps, x, y)).clamp(-2, 2)
    pixel = 1 / min(images.shape[-2:])
    soft = (draw(0.05, 0.5) * radius).clamp_min(0.75 * pixel) / radius
    return (0.5 - away / soft).clamp(0, 1)


def _extent(images: Tensor) -> tuple[float, float]:
    """Width and height in units of the shorter side: (1, 1) for a square."""
    height, width = images.shape[-2:]
    side = min(height, width)
    return width / side, height / side


def _centered(images: Tensor, cx: Tensor, cy: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets from each image's own center, in shorter sides: `(B, H, W)`."""
    height, width = images.shape[-2:]
    side = min(height, width)
    rows = torch.arange(height, device=images.device, dtype=images.dtype) + 0.5
    columns = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5
    x = columns[None, None, :] / side - cx[:, None, None]
    y = rows[None, :, None] / side - cy[:, None, None]
    return x.expand(-1, height, -1), y.expand(-1, -1, width)


def _fold(position: Tensor) -> Tensor:
    """Reflect positions back into [0, 1]."""
    return 1 - ((position % 2) - 1).abs()


def _at_center(field: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Value of each field at the pixel nearest to its center, `(B, 1, 1)`."""
    column = x[:, 0].abs().argmin(dim=1)
    row = y[:, :, 0].abs().argmin(dim=1)
    rows = torch.arange(len(field), device=field.device)
    return field[rows, row, column][:, None, None]


def _field(images: Tensor, generator: torch.Generator, cells: int) -> Tensor:
    """Smooth random field `(B, H, W)`, mean 0, spread about 0.7, `cells` a side."""
    right, below = _extent(images)
    shape = (len(images), 1, round(cells * below), round(cells * right))
    lattice = _normal(shape, generator, images)
    return F.interpolate(lattice, images.shape[-2:], mode="bicubic")[:, 0]


def _color_change(
    images: Tensor, generator: torch.Generator, amount: float
) -> tuple[Tensor, Tensor]:
    """Gain per channel and shift, `(B, C, 1, 1)` and `(B, 1, 1, 1)`."""
    count, channels = images.shape[:2]
    gain = (
        1 + amount * (2 * _uniform(count, generator, images) - 1)[:, None, None, None]
    )
    tint = 0.35 * amount * _normal((count, channels, 1, 1), generator, images)
    return gain + tint, 0.4 * amount * _normal((count, 1, 1, 1), generator, images)


def _picked_color(images: Tensor, generator: torch.Generator) -> Tensor:
    """The color of one random pixel of each image, `(B, C, 1, 1)`."""
    count = len(images)
    pick = (_uniform(count, generator, images) * images[0, 0].numel()).long()
    return images.flatten(2)[torch.arange(count, device=images.device), :, pick][
        :, :, None, None
    ]


def _uniform(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), drawn on the generator's device."""
    values = torch.rand(count, generator=generator, device=generator.device)
    return values.to(like)


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers, drawn on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device).to(like)


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a float tensor in [0, 1], got {kind}.")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images must be (B, C, H, W), none of them 0, got {tuple(images.shape)}; "
            "add a batch dimension to a single image with image[None]."
        )
