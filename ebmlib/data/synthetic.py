"""Draws small data sets of normal and damaged products from a seed (chapter 1).

Three categories in the manner of MVTec AD, free of any license, exact pixel masks
included:

- "nut": a turned steel nut seen from above, roughly aligned;
- "weave": a woven cloth without any fixed position;
- "bolt": a part at any angle, with an *illumination shortcut* (see `EXPOSURE`).

Every image has its own random stream, `SeedSequence([seed, category, role, index])`, so
an image never depends on how many others are drawn. Colors are quantized to 8 bits at
the end: the same seed gives the same bytes.

Image AUROC / pixel AUROC / AU-PRO of `ebmlib.baselines` with their defaults on
`make(category, size=64, seed=0)`, and of the detector that comes with the book:

| baseline          | nut             | weave           | bolt            |
|-------------------|-----------------|-----------------|-----------------|
| MeanBrightness    | .52 / .71 / .33 | .53 / .37 / .17 | 1.0 / .06 / .01 |
| PerPixelGaussian  | .58 / .84 / .53 | .56 / .88 / .57 | .28 / .79 / .44 |
| PCAReconstruction | .70 / .98 / .93 | .55 / .90 / .64 | .66 / .95 / .83 |
| PatchKNN          | .92 / .99 / .95 | .95 / .99 / .94 | .67 / .98 / .94 |
| saved_detector    | .98 / .99 / .96 |                 |                 |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ebmlib.data import _bolt, _nut, _weave
from ebmlib.data._defects import DEFECTS
from ebmlib.data.category import Category

KINDS = tuple(DEFECTS)
_DRAW = {"weave": _weave.draw, "nut": _nut.draw, "bolt": _bolt.draw}
CATEGORIES = tuple(_DRAW)

# Mean and spread of the gray level (0 to 255) to which the camera exposes a picture. In
# "bolt" the good test images were taken under another lamp, as in MVTec's screw: there
# the mean brightness of an image says whether it is good, and a detector that uses it
# cheats.
EXPOSURE: dict[str, dict[str, tuple[float, float]]] = {
    "nut": {"train": (74, 4), "good": (74, 4), "defective": (74, 4)},
    "weave": {"train": (128, 7), "good": (128, 7), "defective": (128, 7)},
    "bolt": {"train": (185, 6), "good": (170, 1.5), "defective": (186.5, 4)},
}
OVERSAMPLING = 2  # pixels are averages over 2 x 2 finer ones
NOISE = 0.008  # standard deviation of the camera's noise
VISIBLE = 0.08  # a defect must change some color by this much somewhere
TRIES = 20


@dataclass(frozen=True)
class Drawing:
    """One picture: `image` and `clean` are uint8 `(S, S, 3)`, `mask` is bool `(S, S)`.

    `clean` is the same product before it was damaged; outside the mask both are equal.
    """

    image: np.ndarray
    mask: np.ndarray
    clean: np.ndarray


def make(
    category: str = "nut",
    size: int = 64,
    seed: int = 0,
    n_train: int = 128,
    n_test: int = 24,
    n_defective: int = 12,
) -> Category:
    """Draw one category in memory.

    Args:
        category: one of `CATEGORIES`.
        size: side of the square images in pixels, 32 to 512; the geometry is the same.
        seed: another seed draws other products and other defects.
        n_train: number of normal training images.
        n_test: number of normal test images.
        n_defective: number of test images of each kind of defect in `KINDS`.

    Returns:
        A `Category`; images are float32 `(N, 3, size, size)`, multiples of
        1/255 in [0, 1].

    Raises:
        ValueError: unknown category, a size out of range, a negative count.
    """
    _check(category, size, seed, n_train, n_test, n_defective)
    train = [draw(category, "train", i, size, seed).image for i in range(n_train)]
    kinds = ["good"] * n_test + [kind for kind in KINDS for _ in range(n_defective)]
    places = list(range(n_test)) + [i for _ in KINDS for i in range(n_defective)]
    test = [
        draw(category, kind, i, size, seed)
        for kind, i in zip(kinds, places, strict=True)
    ]
    return Category(
        name=f"synthetic/{category}",
        train=_to_tensor(train, size),
        test=_to_tensor([t.image for t in test], size),
        labels=torch.tensor([kind != "good" for kind in kinds], dtype=torch.bool),
        masks=torch.from_numpy(
            np.array([t.mask for t in test], dtype=bool).reshape(-1, size, size)
        ),
        kinds=kinds,
    )


def draw(
    category: str, kind: str, index: int, size: int = 64, seed: int = 0
) -> Drawing:
    """Draw one image; `kind` is "train", "good" or one of `KINDS`."""
    _check(category, size, seed, index)
    roles = ("train", "good", *KINDS)
    if kind not in roles:
        raise ValueError(f"kind must be one of {roles}, got {kind!r}.")
    number = CATEGORIES.index(category)
    stream = np.random.SeedSequence([seed, number, roles.index(kind), index])
    product, damage, camera = (np.random.default_rng(s) for s in stream.spawn(3))
    scene = _DRAW[category](product, size * OVERSAMPLING)
    expose = _camera(camera, category, kind, scene.image)
    clean = expose(scene.image)
    if kind not in DEFECTS:
        return Drawing(clean, np.zeros((size, size), dtype=bool), clean)
    for _ in range(TRIES):  # a defect may fall where it cannot be seen
        painted, alpha = DEFECTS[kind](damage, scene)
        mask = _shrink(alpha) > 0.2
        image = np.where(mask[..., None], expose(painted), clean)
        change = np.abs(image.astype(int) - clean).max(axis=2) > VISIBLE * 255
        if change.sum() >= max(3, 0.4 * mask.sum()):
            return Drawing(image, mask, clean)
    raise RuntimeError(f"no visible {kind} in {TRIES} tries; please report {index=}.")


def _camera(
    rng: np.random.Generator, category: str, kind: str, picture: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The camera of one picture: `expose(picture)` gives its uint8 `(S, S, 3)`."""
    role = kind if kind in ("train", "good") else "defective"
    target = rng.normal(*EXPOSURE[category][role]) / 255
    gain = np.float32(target / picture.mean())
    size = picture.shape[0] // OVERSAMPLING
    noise = NOISE * rng.standard_normal((size, size, 3), dtype=np.float32)

    def expose(picture: np.ndarray) -> np.ndarray:
        light = _shrink(picture) * gain + noise
        return np.rint(np.clip(light, 0.0, 1.0) * 255).astype(np.uint8)

    return expose


def _shrink(fine: np.ndarray) -> np.ndarray:
    """Average over blocks of `OVERSAMPLING**2` fine pixels."""
    k, size = OVERSAMPLING, fine.shape[0] // OVERSAMPLING
    blocks = fine.reshape(size, k, size, k, *fine.shape[2:])
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _to_tensor(images: list[np.ndarray], size: int) -> torch.Tensor:
    """List of uint8 `(S, S, 3)` to float32 `(N, 3, S, S)` in [0, 1]."""
    stack = np.array(images, dtype=np.uint8).reshape(-1, size, size, 3)
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous().float() / 255


def _check(category: str, size: int, seed: int, *counts: int) -> None:
    if category not in CATEGORIES:
        raise ValueError(f"category must be one of {CATEGORIES}, got {category!r}.")
    if size != int(size) or not 32 <= size <= 512:
        raise ValueError(f"size must be 32 to 512 whole pixels, got {size}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    if any(count < 0 for count in counts):
        raise ValueError(f"numbers of images must not be negative, got {counts}.")


def write(root: str | Path, category: str, **options: Any) -> Path:
    """Write `make(category, **options)` under `root` in MVTec layout.

    Files are `train/good/NNN.png`, `test/<kind>/NNN.png` and
    `ground_truth/<kind>/NNN_mask.png` (8 bits, 0 or 255). Reading them back gives the
    arrays of `make` exactly. Returns the category's folder.
    """
    data = make(category, **options)
    folder = Path(root) / category
    for i, image in enumerate(data.train):
        _save(image, folder / "train" / "good" / f"{i:03d}.png")
    counts: dict[str, int] = {}
    for image, mask, kind in zip(data.test, data.masks, data.kinds, strict=True):
        i = counts[kind] = counts.get(kind, -1) + 1
        _save(image, folder / "test" / kind / f"{i:03d}.png")
        if kind != "good":
            _save(mask, folder / "ground_truth" / kind / f"{i:03d}_mask.png")
    return folder


def _save(pixels: torch.Tensor, path: Path) -> None:
    """Write `(3, S, S)` floats as RGB or an `(S, S)` mask as gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (pixels.float() * 255).round().byte().numpy()
    Image.fromarray(array if array.ndim == 2 else array.transpose(1, 2, 0)).save(path)
