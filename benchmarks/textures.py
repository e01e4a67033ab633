r"""Three photographs of real textures as categories: brick, grass and gravel.

    pip install scikit-image   # brings the photographs (512 px, gray, CC0)
    python benchmarks/textures.py --methods experts patch_knn pca --seeds 0 1 2

Squares of 128 px are cut at random: normal ones for training from the upper five
eighths of a photograph, the test from the rest, so that no pixel is in both. The
defects are drawn here, by code that neither training nor the synthetic categories
share: holes, bright spots, foreign bodies from another texture, smeared places, cuts.
Settings are those of every category. Writes one file for each texture, method and seed
below results/, in the format of `python -m ebmlib.benchmark`; what is there is skipped.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from own_categories import main
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from ebmlib.data import Category

NAMES = ("brick", "grass", "gravel")
SIDE = 128  # px of a square
BORDER = 320  # row of the photograph where training ends and the test begins
TRAIN, GOOD, BROKEN = 96, 30, 12  # squares; the last of each kind of defect

Painted = tuple[np.ndarray, np.ndarray]  # gray values (128, 128), mask


class Draw:
    """Squares and defects of one texture; every draw comes from one generator."""

    def __init__(self, name: str, photographs: dict[str, np.ndarray], seed: int = 5):
        self.rng = np.random.default_rng(seed)
        self.photograph = photographs[name]
        self.others = [p for other, p in photographs.items() if other != name]

    def square(self, first: int, last: int) -> np.ndarray:
        """A square from rows [first, last), perhaps mirrored, a little lighter."""
        y = self.rng.integers(first, last - SIDE + 1)
        x = self.rng.integers(0, self.photograph.shape[1] - SIDE + 1)
        square = self.photograph[y : y + SIDE, x : x + SIDE]
        square = square[:, ::-1] if self.rng.random() < 0.5 else square
        return square * self.rng.uniform(0.92, 1.08)

    def blob(self, low: float, high: float) -> np.ndarray:
        """An irregular region with a radius between `low` and `high` px, roughly."""
        grain = gaussian_filter(self.rng.normal(size=(SIDE, SIDE)), 6)
        y, x = self.rng.integers(20, SIDE - 20, 2)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        away = np.hypot(rows - y, columns - x) / self.rng.uniform(low, high)
        return away + 0.3 * grain / grain.std() < 1

    def hole(self, square: np.ndarray) -> Painted:
        """Something dark."""
        mask = self.blob(4, 9)
        return square * (1 - 0.8 * gaussian_filter(mask.astype(float), 0.7)), mask

    def bright(self, square: np.ndarray) -> Painted:
        """A stain that lets the texture through."""
        mask = self.blob(7, 15)
        soft = gaussian_filter(mask.astype(float), 1.4)
        return square + soft * self.rng.uniform(0.14, 0.24), mask

    def foreign(self, square: np.ndarray) -> Painted:
        """Another texture, of the same mean and contrast."""
        other = self.others[self.rng.integers(len(self.others))]
        y, x = self.rng.integers(0, len(other) - SIDE, 2)
        body = other[y : y + SIDE, x : x + SIDE]
        body = (body - body.mean()) / body.std() * square.std() + square.mean()
        mask = self.blob(8, 17)
        return _blend(square, body, mask), mask

    def smear(self, square: np.ndarray) -> Painted:
        """The texture, wiped."""
        mask = self.blob(9, 19)
        return _blend(square, gaussian_filter(square, 2.7), mask), mask

    def cut(self, square: np.ndarray) -> Painted:
        """A thin bent line, dark or bright."""
        along = np.linspace(0, 1, 400)[:, None]
        start, end = self.rng.uniform(12, SIDE - 12, (2, 2))
        bend = np.sin(np.pi * along) * self.rng.normal(0, 8, 2)
        path = (start + (end - start) * along + bend).clip(1, SIDE - 2).astype(int)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[tuple(path.T)] = True
        mask = binary_dilation(mask)
        return np.where(mask, square + self.rng.choice([-0.24, 0.24]), square), mask

    @property
    def kinds(self) -> dict[str, Callable[[np.ndarray], Painted]]:
        """Every kind of defect and how it is drawn."""
        names = ("bright", "cut", "foreign", "hole", "smear")
        return {name: getattr(self, name) for name in names}


def _blend(square: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    soft = gaussian_filter(mask.astype(float), 1)
    return square * (1 - soft) + other * soft


def photographs() -> dict[str, np.ndarray]:
    """The three photographs, in [0, 1]; they come with scikit-image."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("the photographs come with scikit-image: pip install scikit-image")
    folder = Path(found.origin).parent / "data"
    return {
        name: np.asarray(Image.open(folder / f"{name}.png").convert("L")) / 255
        for name in NAMES
    }


def texture(name: str, sources: dict[str, np.ndarray]) -> Category:
    """One texture as a category: training squares, good ones, and all defects."""
    draw = Draw(name, sources)
    train = [draw.square(0, BORDER) for _ in range(TRAIN)]
    last = len(draw.photograph)
    pairs = [(draw.square(BORDER, last), np.zeros((SIDE, SIDE))) for _ in range(GOOD)]
    kinds = ["good"] * GOOD
    for kind, paint in draw.kinds.items():
        pairs += [paint(draw.square(BORDER, last)) for _ in range(BROKEN)]
        kinds += [kind] * BROKEN
    test, masks = zip(*pairs, strict=True)
    return Category(
        f"texture/{name}",
        _images(train),
        _images(test),
        torch.tensor([kind != "good" for kind in kinds]),
        torch.tensor(np.stack(masks) > 0),
        kinds,
    )


def _images(squares: list[np.ndarray]) -> torch.Tensor:
    gray = np.round(np.stack(squares).clip(0, 1) * 255) / 255  # as a camera would
    return torch.tensor(gray, dtype=torch.float32)[:, None]


if __name__ == "__main__":
    sources = photographs()
    main(__doc__, "textures", NAMES, lambda name: texture(name, sources))
