"""An energy in closed form: a Parzen window over stored patches (chapter 13).

Methods that measure the distance to the nearest stored patch, such as PatchCore (Roth
et al., CVPR 2022, arXiv 2106.08265), are the limit of a narrow window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebmlib.energy import (
    check_positive,
    energy_spec,
    full_precision,
    register_energy,
)
from ebmlib.features import FeatureMap
from ebmlib.fields import features_of, look
from ebmlib.random import randperm

BLOCK = 4  # cells a side that look up their neighbors together
POOL = 10  # random patches per stored one, of which a memory of any place is chosen
LEAST_SCALE = 1e-3  # of a feature's spread, as a share of the largest one


@register_energy
class ParzenField(nn.Module):
    """The energy of a Parzen window over the patches of normal images.

        e_p(x) = -s^2 log mean_m exp(-d_pm^2 / (2 s^2)),   d_pm = |(phi_p - m) / c|
        E(x)   = sum_p e_p(x)

    phi_p(x): the F features of the cell at grid position p. m: the stored patches that
    lie at most `radius` cells from p, or all of them. c: the spread of every feature
    over the training images. With s = 0, the limit, e_p is half the squared distance
    to the nearest stored patch. The gradient of e_p with respect to the features is
    their distance to a weighted mean of the stored patches, the nearest most of all:
    it points away from what was seen in training.

    The density is that of Parzen (Annals of Mathematical Statistics 33, 1962); the
    factor s^2 keeps the energy in one unit for every s.

    **What is stored.** Of the patches at one place at most `memory`, chosen greedily:
    the next one is always the one farthest from all that are stored (Gonzalez,
    Theoretical Computer Science 38, 1985). With `radius=None` they are chosen among
    POOL times as many random ones. `covered` is the largest distance that is left; by
    the triangle inequality no nearest distance is overestimated by more.

    Args:
        features: a module as `ebmlib.features.FeatureMap` describes it.
        size: height and width of the images, `(H, W)`.
        radius: in cells, how far from its place a patch may have been seen; None:
            anywhere, for textures and for parts that lie in any direction.
        memory: most patches stored for each place, or in all with `radius=None`.
        bandwidth: s, in units of the features' spread, at least 0.

    Attributes:
        bank: `(h, w, M, F)`, or `(1, 1, M, F)` with `radius=None`, the stored patches
            in units of the spread.
        scale: `(F,)`, the spread c.
        covered: `()`, the largest distance from a patch of the training images to the
            nearest stored one at its place, in units of the spread; with `radius=None`
            that of the random ones.

    Raises:
        ValueError: numbers out of range.
    """

    features: FeatureMap
    bank: Tensor
    scale: Tensor
    covered: Tensor

    def __init__(
        self,
        features: FeatureMap,
        size: tuple[int, int],
        radius: int | None = 2,
        memory: int = 64,
        bandwidth: float = 0.0,
    ):
        super().__init__()
        check_positive(memory=memory)
        if radius is not None and (isinstance(radius, bool) or radius < 0):
            raise ValueError(f"radius must be None or at least 0 cells, got {radius!r}")
        if not 0 <= bandwidth < math.inf:
            raise ValueError(f"bandwidth must be at least 0, got {bandwidth}")
        height, width = size
        self.features, self.size = features, (int(height), int(width))
        self.radius, self.memory, self.bandwidth = radius, memory, float(bandwidth)
        self.channels, self.stride = features.channels, features.stride
        grid = features.grid(self.size)
        if min(grid) < 1:
            raise ValueError(
                f"images must be at least {self.stride} px a side, the stride of the "
                f"features; got size {height} x {width}"
            )
        places = grid if radius is not None else (1, 1)
        single = torch.float32  # whatever the default is
        bank = torch.zeros(*places, 1, features.count, dtype=single)
        self.register_buffer("bank", bank)
        self.register_buffer("scale", torch.ones(features.count, dtype=single))
        self.register_buffer("covered", torch.tensor(math.inf, dtype=single))
        self._register_load_state_dict_pre_hook(self._resize_bank)

    def config(self) -> dict[str, Any]:
        """What `ebmlib.energy.build_energy` needs for a field that is not fitted."""
        names = ("size", "radius", "memory", "bandwidth")
        return {
            "features": energy_spec(self.features),
            **{name: getattr(self, name) for name in names},
        }

    @torch.no_grad()
    def fit(self, images: Tensor) -> ParzenField:
        """Store patches of normal images (N, C, H, W); N >= 1.

        The features of all images are held at once, on the CPU.

        Raises:
            ValueError: no images, images of another shape, or features that are not
                finite. The field is then as it was.
        """
        if not len(images):
            raise ValueError("a Parzen field needs at least 1 image, got none")
        return self.fit_features(features_of(self, images))

    @torch.no_grad()
    def fit_features(self, parts: Iterable[Tensor]) -> ParzenField:
        """As `fit`, from the features of the images, parts `(B, F, h, w)` of them."""
        parts = [part.cpu() for part in parts]
        if not all(torch.isfinite(part).all() for part in parts):
            raise ValueError("the features of the images hold NaN or infinite values")
        scale = _spread(parts)
        if self.radius is None:
            points = _pool(parts, POOL * self.memory)[None] / scale  # (1, P, F)
            chosen, covered = farthest_points(points, min(self.memory, points.shape[1]))
            bank, furthest = points[:, chosen[0]][None], float(covered.max())
        else:
            rows, furthest = [], 0.0
            for i in range(parts[0].shape[2]):  # row by row: no second copy of them all
                points = torch.cat([part[:, :, i] for part in parts])  # (N, F, w)
                points = points.permute(2, 0, 1) / scale  # (w, N, F)
                count = min(self.memory, points.shape[1])
                chosen, covered = farthest_points(points, count)
                index = chosen[:, :, None].expand(-1, -1, points.shape[2])
                rows.append(points.gather(1, index))
                furthest = max(furthest, float(covered.max()))
            bank = torch.stack(rows)
        self.bank = bank.to(self.bank)
        self.scale.copy_(scale)
        self.covered.fill_(furthest)
        return self

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p: (B, C, H, W) -> (B, h, w)."""
        with full_precision(x.device):
            return self.cell_energies(look(self, x))

    def cell_energies(self, phi: Tensor) -> Tensor:
        """e_p from the features of the cells: (B, F, h, w) -> (B, h, w)."""
        bank, scale = self.bank.to(phi.dtype), self.scale.to(phi.dtype)
        points = phi.permute(2, 3, 0, 1) / scale  # (h, w, B, F)
        rows = [
            torch.cat([self._energies(points, bank, *place) for place in row], dim=1)
            for row in self._blocks(points.shape[0], points.shape[1])
        ]
        return torch.cat(rows).movedim(-1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))

    def _blocks(self, height: int, width: int) -> Iterator[list[tuple[_Span, _Span]]]:
        """Rows of blocks: the cells of each, and the cells it looks at."""
        if self.radius is None:
            yield [(_Span(0, height, 0, 1), _Span(0, width, 0, 1))]
            return
        spans = [_spans(side, self.radius) for side in (height, width)]
        for rows in spans[0]:
            yield [(rows, columns) for columns in spans[1]]

    def _energies(
        self, phi: Tensor, bank: Tensor, rows: _Span, columns: _Span
    ) -> Tensor:
        """e_p of one block of cells, (a, b, B)."""
        own = phi[rows.first : rows.last, columns.first : columns.last]
        near = bank[rows.low : rows.high, columns.low : columns.high]
        memory = near.shape[2]
        points, near = own.flatten(0, 2), near.flatten(0, 2)
        far = None
        if self.radius is not None:
            down, right = rows.distance(phi), columns.distance(phi)
            beyond = torch.maximum(down[:, None, :, None], right[None, :, None, :])
            beyond = (beyond > self.radius).flatten(2).flatten(0, 1)  # (a b, seen)
            far = beyond.repeat_interleave(own.shape[2], 0)
            far = far.repeat_interleave(memory, 1)
        if self.bandwidth == 0:
            with torch.no_grad():
                squares = _squared_distances(points, near)
                if far is not None:
                    squares.masked_fill_(far, math.inf)
                nearest = near[squares.argmin(1)]
            energy = (points - nearest).square().sum(1) / 2
        else:
            variance = self.bandwidth**2
            exponent = _squared_distances(points, near) / (-2 * variance)
            seen = torch.full((len(points),), near.shape[0], device=near.device)
            if far is not None:
                exponent = exponent.masked_fill(far, -math.inf)
                seen = (~far).sum(1)
            mean = exponent.logsumexp(1) - seen.to(exponent.dtype).log()
            energy = -variance * mean
        return energy.unflatten(0, own.shape[:3])

    def _resize_bank(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Before a state is loaded: how many patches it holds is not in the config."""
        stored = state.get(f"{prefix}bank")
        if stored is not None and stored.shape[:2] == self.bank.shape[:2]:
            self.bank = self.bank.new_zeros(stored.shape)


class _Span(NamedTuple):
    """Cells of a block along one axis, [first, last), and those it looks at."""

    first: int
    last: int
    low: int
    high: int

    def distance(self, like: Tensor) -> Tensor:
        """How far each seen cell is from each own one, (last - first, high - low)."""
        own = torch.arange(self.first, self.last, device=like.device)
        seen = torch.arange(self.low, self.high, device=like.device)
        return (own[:, None] - seen).abs()


def _spans(side: int, radius: int) -> list[_Span]:
    return [
        _Span(
            first,
            min(first + BLOCK, side),
            max(first - radius, 0),
            min(first + BLOCK + radius, side),
        )
        for first in range(0, side, BLOCK)
    ]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2, (A, B), by one matrix product; rounding may leave it below 0."""
    products = torch.addmm(b.square().sum(1), a, b.mT, alpha=-2)
    return products + a.square().sum(1, keepdim=True)


def _spread(parts: list[Tensor]) -> Tensor:
    """The standard deviation of every feature over cells and images, floored: (F,)."""
    count = sum(part[:, 0].numel() for part in parts)
    totals = [part.sum((0, 2, 3), dtype=torch.float64) for part in parts]
    mean = torch.stack(totals).sum(0) / count
    center = mean.to(parts[0].dtype)[:, None, None]
    squares = [
        (part - center).square().sum((0, 2, 3), dtype=torch.float64) for part in parts
    ]
    scale = (torch.stack(squares).sum(0) / count).sqrt()
    least = max(LEAST_SCALE * float(scale.max()), 1e-12)
    return scale.clamp_min(least).to(parts[0].dtype)


def _pool(parts: list[Tensor], count: int) -> Tensor:
    """At most `count` random patches of parts (B, F, h, w): (P, F)."""
    images = sum(len(part) for part in parts)
    height, width = parts[0].shape[2:]
    cells = height * width
    order = randperm(images * cells, torch.Generator().manual_seed(0))[:count]
    found, before = [], 0
    for part in parts:
        mine = order[(order >= before) & (order < before + len(part) * cells)] - before
        flat = part.flatten(2)
        found.append(flat[mine // cells, :, mine % cells])
        before += len(part) * cells
    return torch.cat(found)


def farthest_points(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A greedy choice of `count` points that cover each set of points.

    Starts with the first point; the next one is always the one that is farthest from
    all chosen ones. The largest distance that is left is at most twice that of the best
    choice (Gonzalez, Theoretical Computer Science 38, 1985).

    Args:
        points: `(S, P, F)`, S sets of P points.
        count: from 1 to P.

    Returns:
        Indices `(S, count)`, and the largest distance `(S,)` from a point to the
        nearest chosen one of its set.
    """
    sets = torch.arange(len(points), device=points.device)
    chosen = torch.zeros(len(points), count, dtype=torch.long, device=points.device)
    squares = points.square().sum(2)  # (S, P)
    left = torch.full_like(squares, math.inf)
    for k in range(count):
        if k:
            chosen[:, k] = left.argmax(1)
        at = chosen[:, k]
        last = points[sets, at][:, :, None]  # (S, F, 1)
        with full_precision(points.device):
            apart = torch.baddbmm(squares[:, :, None], points, last, alpha=-2)[:, :, 0]
        apart += squares[sets, at][:, None]
        apart[sets, at] = 0  # rounding: a chosen point is not chosen again
        torch.minimum(left, apart, out=left)
    return chosen, left.amax(1).clamp_min(0).sqrt()
