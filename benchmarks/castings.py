r"""Two drawn castings that nobody tuned on: an impeller and a lever.

    python benchmarks/castings.py --methods experts patch_knn pca --seeds 0 1 2

Cast metal, gray, from above, under a lamp that stands a little elsewhere each time and
lights one side more than the other. An *impeller* is round, always lies in the middle,
and is turned by any angle. A *lever* lies anywhere, in any direction. They are drawn
here, as a relief that a lamp shades, by code that neither training nor the synthetic
categories share; so are the defects: blowholes, chips, scratches and stains. Settings
are those of every category. Writes one file for each casting, method and seed below
results/, in the format of `python -m ebmlib.benchmark`; what is there is skipped.
"""

from collections.abc import Callable

import numpy as np
import torch
from own_categories import main
from scipy.ndimage import gaussian_filter

from ebmlib.data import Category

NAMES = ("impeller", "lever")
SIDE, FINE = 128, 256  # px of an image, and of the drawing that is averaged to it
TRAIN, GOOD, BROKEN = 120, 40, 15  # images; the last of each kind of defect

Painted = tuple[np.ndarray, np.ndarray]  # gray values (FINE, FINE), mask


def soft(distance: np.ndarray, width: float = 0.006) -> np.ndarray:
    """From 0 to 1 where a distance, as a share of the image's side, changes sign."""
    return 1 / (1 + np.exp(-(distance / width).clip(-50, 50)))


class Draw:
    """Parts and defects of one casting; every draw comes from one generator."""

    def __init__(self, name: str, seed: int = 11):
        self.rng = np.random.default_rng(seed)
        self.relief = {"impeller": self.impeller, "lever": self.lever}[name]
        self.away = 0.012 if name == "impeller" else 0.06  # from the middle
        down, right = np.mgrid[:FINE, :FINE] / FINE - 0.5
        self.plane = right, down

    def impeller(self, x: np.ndarray, y: np.ndarray) -> Painted:
        """Height and outline: a disk with a rim, a hub, a bore and seven vanes."""
        r, angle = np.hypot(x, y), np.arctan2(y, x)
        radius = 0.40 * (1 + self.rng.normal(0, 0.006))
        vanes = soft(np.cos(7 * (angle + 3.2 * r)) - 0.75, 0.05)
        vanes *= soft(r - 0.12) * soft(radius - 0.05 - r)
        height = 0.5 * soft(radius - r) + 0.35 * vanes
        height += 0.3 * soft(0.02 - np.abs(r - radius + 0.03)) + 0.4 * soft(0.11 - r)
        return height - 0.9 * soft(0.045 - r), (r < radius) & (r > 0.045)

    def lever(self, x: np.ndarray, y: np.ndarray) -> Painted:
        """Height and outline: an arm with a rib between a large and a small eye."""
        length = 0.24 * (1 + self.rng.normal(0, 0.01))
        large, small = np.hypot(x + length, y), np.hypot(x - length, y)
        width = 0.075 - 0.1 * x
        arm = np.minimum(width - np.abs(y), length - np.abs(x))
        inside = np.maximum.reduce([arm, 0.125 - large, 0.085 - small])
        bores = np.maximum(0.055 - large, 0.035 - small)
        height = 0.5 * soft(inside) + 0.25 * soft(0.014 - np.abs(y)) * soft(arm)
        for eye, rim in ((large, 0.09), (small, 0.06)):
            height += 0.25 * soft(rim - eye)
        return height - 0.9 * soft(bores), (inside > 0) & (bores < 0)

    def part(self) -> tuple[np.ndarray, np.ndarray]:
        """A photograph of a sound part, and where the part is."""
        rng = self.rng
        turn, (dx, dy) = rng.uniform(0, 2 * np.pi), rng.normal(0, self.away, 2)
        c, s = np.cos(turn), np.sin(turn)
        x, y = self.plane[0] - dx, self.plane[1] - dy
        height, part = self.relief(c * x + s * y, c * y - s * x)
        coarse, fine = (
            gaussian_filter(rng.normal(size=(FINE, FINE)), w) * w for w in (6, 1.2)
        )
        skin = soft(part - 0.5, 0.1) * (fine + 0.5 * coarse)
        height = gaussian_filter(height, 1.3) + 0.004 * skin
        lamp = rng.normal(-0.8, 0.15)
        toward = np.cos(lamp), np.sin(lamp)
        slope = toward[0] * np.gradient(height, axis=1)
        slope += toward[1] * np.gradient(height, axis=0)
        gray = rng.normal(0.22, 0.01) + 0.38 * gaussian_filter(part * 1.0, 1)
        gray += 0.02 * skin - 1.4 * slope
        side = toward[0] * self.plane[0] + toward[1] * self.plane[1]
        gray *= 1 + rng.normal(0, 0.04) - rng.uniform(0, 0.25) * side
        return gray + rng.normal(0, 0.012, gray.shape), part

    def spot(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates from a random place on the part."""
        y, x = self.rng.choice(np.argwhere(part)) / FINE - 0.5
        return self.plane[0] - x, self.plane[1] - y

    def blowhole(self, gray: np.ndarray, part: np.ndarray) -> Painted:
        """One to four small dark holes, close together."""
        x, y = self.spot(part)
        mask = np.zeros_like(part)
        for dx, dy in self.rng.normal(0, 0.025, (self.rng.integers(1, 5), 2)):
            mask |= np.hypot(x - dx, y - dy) < self.rng.uniform(0.009, 0.02)
        mask &= part
        return gray * (1 - 0.65 * gaussian_filter(mask * 1.0, 0.7)), mask

    def chip(self, gray: np.ndarray, part: np.ndarray) -> Painted:
        """A piece of the edge is gone, and the table shows."""
        edge = part & (gaussian_filter(part * 1.0, 3) < 0.6)
        mask = part & (np.hypot(*self.spot(edge)) < self.rng.uniform(0.03, 0.06))
        table = np.median(gray[~part])
        return np.where(mask, table + self.rng.normal(0, 0.012, gray.shape), gray), mask

    def scratch(self, gray: np.ndarray, part: np.ndarray) -> Painted:
        """A thin bright line."""
        (x, y), turn = self.spot(part), self.rng.uniform(0, np.pi)
        along = x * np.cos(turn) + y * np.sin(turn)
        across = y * np.cos(turn) - x * np.sin(turn)
        long = np.abs(along) < self.rng.uniform(0.05, 0.12)
        mask = part & long & (np.abs(across) < 0.006)
        return gray + 0.22 * mask, mask

    def stain(self, gray: np.ndarray, part: np.ndarray) -> Painted:
        """A darker place with a soft edge."""
        near = np.hypot(*self.spot(part)) < self.rng.uniform(0.03, 0.07)
        dark = gaussian_filter((near & part) * 1.0, 3)
        return gray * (1 - 0.35 * dark), dark > 0.4

    @property
    def kinds(self) -> dict[str, Callable[[np.ndarray, np.ndarray], Painted]]:
        """Every kind of defect and how it is drawn."""
        names = ("blowhole", "chip", "scratch", "stain")
        return {name: getattr(self, name) for name in names}


def casting(name: str) -> Category:
    """One casting as a category: training parts, good ones, and all defects."""
    draw = Draw(name)
    train = [draw.part()[0] for _ in range(TRAIN)]
    pairs = [(draw.part()[0], np.zeros((FINE, FINE))) for _ in range(GOOD)]
    kinds = ["good"] * GOOD
    for kind, paint in draw.kinds.items():
        pairs += [visible(draw, paint) for _ in range(BROKEN)]
        kinds += [kind] * BROKEN
    test, masks = zip(*pairs, strict=True)
    return Category(
        f"casting/{name}",
        _images(train),
        _images(test),
        torch.tensor([kind != "good" for kind in kinds]),
        _averaged(masks)[:, 0] >= 0.5,
        kinds,
    )


def visible(draw: Draw, paint: Callable) -> Painted:
    """A damaged part whose mask does not vanish when the drawing is reduced."""
    while True:
        gray, mask = paint(*draw.part())
        if (_averaged([mask]) >= 0.5).any():
            return gray, mask


def _averaged(pictures: list[np.ndarray]) -> torch.Tensor:
    stack = torch.tensor(np.stack(pictures), dtype=torch.float32)[:, None]
    return torch.nn.functional.avg_pool2d(stack, FINE // SIDE)


def _images(pictures: list[np.ndarray]) -> torch.Tensor:
    return (_averaged(pictures).clamp(0, 1) * 255).round() / 255  # as a camera would


if __name__ == "__main__":
    main(__doc__, "castings", NAMES, casting)
