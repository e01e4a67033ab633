"""Cut large images into overlapping tiles, and join the tiles' maps smoothly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmlib.view.geometry import Size, resize_maps

OVERLAP = 1 / 4  # of a tile's side, at least


@dataclass(frozen=True)
class Tiling:
    """Where overlapping tiles lie on an image.

    Along each axis the tiles lie at equal distances, up to rounding to whole pixels,
    from border to border, and neighbors share at least a quarter of their side.

    Attributes:
        size: height and width of the image in px.
        tile: height and width of a tile in px.

    Raises:
        ValueError: a tile is larger than the image.
    """

    size: Size
    tile: Size

    def __post_init__(self) -> None:
        if any(a > b for a, b in zip(self.tile, self.size, strict=True)):
            raise ValueError(
                f"a tile of {self.tile[0]} x {self.tile[1]} px is larger than what it "
                f"is cut from, {self.size[0]} x {self.size[1]} px; give a smaller "
                "tile, or tile=None"
            )

    def __len__(self) -> int:
        """Tiles of one image."""
        return math.prod(len(along) for along in self.offsets)

    @property
    def offsets(self) -> tuple[list[int], list[int]]:
        """First row of each row of tiles, first column of each column of tiles."""
        rows, columns = map(_offsets, self.size, self.tile)
        return rows, columns

    def cut(self, images: Tensor) -> Tensor:
        """Tiles `(N * tiles, C, h, w)` of images `(N, C, H, W)`, image by image."""
        h, w = self.tile
        rows, columns = self.offsets
        tiles = [images[..., y : y + h, x : x + w] for y in rows for x in columns]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def join(self, maps: Tensor) -> Tensor:
        """Maps of tiles, `(N, tiles, a, b)`, as maps of the image: `(N, H, W)`.

        Where tiles overlap, their maps are averaged with weights that fall smoothly to
        zero at the edges of a tile. The weights of a pixel sum to one.
        """
        n = len(maps)
        maps = resize_maps(maps.flatten(0, 1), self.tile).unflatten(0, (n, -1))
        rows, columns = self.offsets
        down = _weights(self.size[0], self.tile[0], rows, maps)
        right = _weights(self.size[1], self.tile[1], columns, maps)
        joined = maps.new_zeros(n, *self.size)
        places = ((i, j) for i in range(len(rows)) for j in range(len(columns)))
        for k, (i, j) in enumerate(places):
            y, x = rows[i], columns[j]
            part = joined[:, y : y + self.tile[0], x : x + self.tile[1]]
            part += maps[:, k] * down[i][:, None] * right[j]
        return joined


def _offsets(size: int, tile: int) -> list[int]:
    if size == tile:
        return [0]
    gaps = math.ceil((size - tile) / (tile - math.ceil(OVERLAP * tile)))
    return [round(k * (size - tile) / gaps) for k in range(gaps + 1)]


def _weights(size: int, tile: int, offsets: list[int], like: Tensor) -> Tensor:
    """Weights along one axis, `(tiles, tile)`; those of one pixel sum to one."""
    at = torch.arange(tile, dtype=like.dtype, device=like.device) + 0.5
    edge = torch.minimum(at, tile - at) / (OVERLAP * tile)
    window = torch.sin(edge.clamp(max=1) * (math.pi / 2)) ** 2
    total = like.new_zeros(size)
    for start in offsets:
        total[start : start + tile] += window
    return torch.stack([window / total[s : s + tile] for s in offsets])
